// Oracle: the formulas of learn/scans.h and learn/normalise.h as plain loops in double precision, on rows that fill
// vectors and rows that do not. Under the sanitizers, what is read and written lies inside.
#include <cmath>
#include <cstdint>
#include <vector>

#include "check.h"
#include "core/rng.h"
#include "learn/normalise.h"
#include "learn/scans.h"

using namespace spf;

namespace {

template <class Real>
std::vector<Real> numbers(std::size_t count, Rng& rng) {
    std::vector<Real> out(count);
    for (Real& x : out) x = static_cast<Real>(2.0 * rng.uniform() - 1.0);
    return out;
}

template <class Real>
void sums_equal_the_loop(std::int64_t rows, std::int64_t length, int options, int threads) {
    Rng rng(static_cast<std::uint64_t>(rows * 1000 + length), static_cast<std::uint64_t>(options));
    const auto size = static_cast<std::size_t>(rows * length);
    const std::vector<Real> values = numbers<Real>(size, rng), baseline = numbers<Real>(size, rng),
                            bootstrap = numbers<Real>(static_cast<std::size_t>(rows), rng);
    std::vector<Real> discounts(size), sums(size, NAN), returns(size, NAN);
    std::vector<std::uint8_t> mask(size);
    std::vector<std::int64_t> segments(size);
    for (std::size_t i = 0; i < size; ++i) {
        discounts[i] = rng.below(3) == 0 ? Real(0.5) : Real(1);
        mask[i] = rng.below(4) != 0;
        segments[i] = (i == 0 ? 0 : segments[i - 1]) + (rng.below(6) == 0);
    }
    Scan<Real> scan{.rows = rows,
                    .length = length,
                    .discount = Real(0.9),
                    .lambda = Real(0.8),
                    .values = values.data(),
                    .sums = sums.data(),
                    .returns = returns.data()};
    if ((options & 1) != 0) scan.baseline = baseline.data();
    if ((options & 2) != 0) scan.mask = mask.data();
    if ((options & 4) != 0) scan.segments = segments.data();
    if ((options & 8) != 0) scan.discounts = discounts.data();
    if ((options & 16) != 0) scan.bootstrap = bootstrap.data();
    discounted_sums(scan, threads);
    for (std::int64_t row = 0; row < rows; ++row) {
        double after = scan.bootstrap ? static_cast<double>(bootstrap[static_cast<std::size_t>(row)]) : 0.0,
               total = 0.0;
        for (std::int64_t t = length; t-- > 0;) {
            const auto i = static_cast<std::size_t>(row * length + t);
            if (scan.segments && t + 1 < length && segments[i] != segments[i + 1]) after = total = 0.0;
            const double critic = scan.baseline ? static_cast<double>(baseline[i]) : 0.0;
            const double gamma = scan.discounts ? static_cast<double>(discounts[i]) : 0.9;
            if (!scan.mask || mask[i] != 0) {
                total = static_cast<double>(values[i]) + gamma * after - critic + gamma * 0.8 * total;
                after = critic;
            }
            CHECK(std::abs(static_cast<double>(sums[i]) - total) < 1e-5);
            CHECK(std::abs(static_cast<double>(returns[i]) - total - critic) < 1e-5);
        }
    }
}

// Groups of several and of one, keys far apart and below 0.
void groups_equal_the_loop() {
    Rng rng(4, 0);
    const std::vector<double> values = numbers<double>(200, rng);
    std::vector<std::int64_t> keys(200);
    for (std::int64_t& key : keys) key = static_cast<std::int64_t>(rng.below(60)) * -1'000'000'000'007;
    std::vector<double> out(200, NAN);
    segment_normalise<double>(values, keys.data(), nullptr, {.spread = Spread::kBiased, .eps = 1e-3}, out.data());
    for (std::size_t i = 0; i < 200; ++i) {
        double sum = 0, squares = 0, count = 0;
        for (std::size_t j = 0; j < 200; ++j) {
            if (keys[j] != keys[i]) continue;
            sum += values[j];
            squares += values[j] * values[j];
            ++count;
        }
        const double mean = sum / count, deviation = std::sqrt(std::max(0.0, squares / count - mean * mean));
        CHECK(std::abs(out[i] - (count == 1 ? 0.0 : (values[i] - mean) / (deviation + 1e-3))) < 1e-6);
    }
}

// b <- decay b + (1 - decay) r and r - b, by hand: decay 0.5, returns 1 and 3 of one slot.
void averages_by_hand() {
    const std::vector<double> returns{1, 3};
    const std::int64_t slots[] = {0, 0};
    const auto check = [&](BaselineOrder order, double first, double second, double last) {
        std::vector<double> baselines{0};
        double out[2];
        moving_advantages(returns, slots, 0.5, order, baselines, out);
        CHECK(out[0] == first && out[1] == second && baselines[0] == last);
    };
    check(BaselineOrder::kPost, 0.5, 1.25, 1.75);
    check(BaselineOrder::kPre, 1, 2.5, 1.75);
    check(BaselineOrder::kBatch, 1, 3, 1);
}

}  // namespace

int main() {
    for (int options = 0; options < 32; ++options) {
        for (const std::int64_t rows : {1, 3, 4, 9}) {
            for (const std::int64_t length : {0, 1, 3, 4, 17}) {
                sums_equal_the_loop<float>(rows, length, options, 1);
                sums_equal_the_loop<double>(rows, length, options, 1);
            }
        }
    }
    sums_equal_the_loop<float>(64, 1'000, 3, 4);
    groups_equal_the_loop();
    averages_by_hand();
}
