// Oracle: what java.util.SplittableRandom and Vigna's splitmix64.c give for seeds 0 and 1234567, and statistics.
#include "core/rng.h"

#include "check.h"

namespace {

void known_answers() {
    spf::Rng zero(0, 0), million(1'234'567, 0);
    for (const std::uint64_t answer : {0xe220a8397b1dcdafu, 0x6e789e6aa1b965f4u, 0x06c45d188009454fu}) {
        CHECK(zero.next() == answer);
    }
    for (const std::uint64_t answer : {6457827717110365317u, 3203168211198807973u, 9817491932198370423u}) {
        CHECK(million.next() == answer);
    }
}

// The draws of neighbouring streams (plies) and of neighbouring seeds: chi-square of every pair and triple of them.
void neighbouring_streams_are_independent() {
    constexpr int kDraws = 270'000;
    for (const bool seeds : {false, true}) {
        int counts[27] = {};
        for (std::uint64_t i = 0; i < kDraws; ++i) {
            int cell = 0;
            for (std::uint64_t next = i; next < i + 3; ++next) {
                spf::Rng rng = seeds ? spf::Rng(next, 5) : spf::Rng(5, next);
                cell = 3 * cell + static_cast<int>(rng.below(3));
            }
            ++counts[cell];
        }
        double chi_square = 0;
        for (const int count : counts) chi_square += (count - kDraws / 27.0) * (count - kDraws / 27.0) * 27.0 / kDraws;
        CHECK(chi_square > 7 && chi_square < 62);  // 26 degrees of freedom, neighbouring triples overlap
    }
}

void bounded_numbers_are_uniform() {
    int counts[7] = {};
    spf::Rng rng(1, 2);
    for (int i = 0; i < 70'000; ++i) ++counts[rng.below(7)];
    for (const int count : counts) CHECK(count > 9'500 && count < 10'500);
    double sum = 0;
    for (int i = 0; i < 10'000; ++i) {
        const double u = rng.uniform();
        CHECK(u >= 0 && u < 1);
        sum += u;
    }
    CHECK(sum > 4'800 && sum < 5'200);
}

// Pairs of consecutive small draws in changing bases, over many fractions: chi-square of every pair.
void small_draws_are_uniform_and_independent() {
    spf::SmallDraws draws(3, 0);
    int counts[5][9] = {};
    constexpr int kDraws = 450'000;
    for (int i = 0; i < kDraws; ++i) {
        const std::uint32_t first = draws.below(5), second = draws.below(9);
        CHECK(draws.below(1) == 0);
        CHECK(first < 5 && second < 9);
        ++counts[first][second];
    }
    double chi_square = 0;
    for (const auto& row : counts) {
        for (const int count : row) chi_square += (count - kDraws / 45.0) * (count - kDraws / 45.0) / (kDraws / 45.0);
    }
    CHECK(chi_square > 16 && chi_square < 86);  // 44 degrees of freedom: all but about 1e-4 on either side
    CHECK(draws.below(1u << 24) < 1u << 24);
}

void nth_bit_is_the_nth() {
    spf::Rng rng(8, 0);
    for (int i = 0; i < 20'000; ++i) {
        const std::uint64_t word = rng.next() >> (i % 64);
        int n = 0;
        for (int bit = 0; bit < 64; ++bit) {
            if (((word >> bit) & 1u) != 0) CHECK(spf::nth_bit(word, n++) == bit);
        }
        CHECK(spf::count_bits(word) == n);
    }
}

void streams_are_functions_of_their_keys() {
    spf::Rng a(5, 6), b(5, 6), c(5, 7), d(6, 6);
    const std::uint64_t first = a.next();
    CHECK(first == b.next());
    CHECK(first != c.next() && first != d.next() && first != a.next());
}

}  // namespace

int main() {
    known_answers();
    neighbouring_streams_are_independent();
    bounded_numbers_are_uniform();
    small_draws_are_uniform_and_independent();
    nth_bit_is_the_nth();
    streams_are_functions_of_their_keys();
}
