// Advantages relative to a group, a role or a batch, and to a moving average.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace spf {

// Numbers 0, 1, ... for keys in the order in which they are met.
class KeyNumbers {
  public:
    explicit KeyNumbers(std::size_t most)
        : slots_(std::bit_ceil(2 * most + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

    std::size_t operator[](std::int64_t key) {
        for (auto at = (static_cast<std::uint64_t>(key) * 0x9E3779B97F4A7C15u) >> shift_;;
             at = (at + 1) % slots_.size()) {
            Slot& slot = slots_[at];
            if (slot.number == 0) slot = {key, ++count_};
            if (slot.key == key) return slot.number - 1;
        }
    }
    std::size_t count() const { return count_; }

  private:
    struct Slot {
        std::int64_t key = 0;
        std::size_t number = 0;  // from 1; 0 is free
    };
    std::vector<Slot> slots_;
    int shift_;
    std::size_t count_ = 0;
};

enum class Spread { kNone, kBiased, kUnbiased };

struct Normalisation {
    Spread spread = Spread::kUnbiased;
    double eps = 1e-6;
    bool eps_inside = false;       // sqrt(variance + eps) instead of standard deviation + eps
    bool leave_one_out = false;    // a sample's own value is left out of its mean
    bool keep_singletons = false;  // a sample alone has mean 0 and deviation 1 instead of advantage 0
};

// out[i] = (values[i] - mean of its segment) / spread of its segment; sums over samples times their weights.
template <class Real>
void segment_normalise(std::span<const Real> values, const std::int64_t* segments, const Real* weights,
                       const Normalisation& how, Real* out) {
    struct Sums {
        double first = 0;  // deviations are taken from it, so that equal values deviate by nothing at all
        double weight = 0, total = 0, squares = 0;
        std::size_t samples = 0;
    };
    const std::size_t size = values.size();
    std::vector<std::size_t> segment_of(segments ? size : 0);
    KeyNumbers numbers(segments ? size : 0);
    std::vector<Sums> all(segments ? 0 : 1);
    const auto sums_of = [&](std::size_t i) -> Sums& { return all[segments ? segment_of[i] : 0]; };
    const auto weight_of = [&](std::size_t i) { return weights ? static_cast<double>(weights[i]) : 1.0; };
    for (std::size_t i = 0; i < size; ++i) {
        if (segments) {
            segment_of[i] = numbers[segments[i]];
            if (all.size() < numbers.count()) all.emplace_back();
        }
        const double weight = weight_of(i);
        if (weight == 0) continue;
        Sums& sums = sums_of(i);
        if (sums.samples++ == 0) sums.first = static_cast<double>(values[i]);
        sums.weight += weight;
        sums.total += weight * (static_cast<double>(values[i]) - sums.first);
    }
    if (how.spread != Spread::kNone)
        for (std::size_t i = 0; i < size; ++i) {
            const double weight = weight_of(i);
            if (weight == 0) continue;
            Sums& sums = sums_of(i);
            const double apart = static_cast<double>(values[i]) - sums.first - sums.total / sums.weight;
            sums.squares += weight * apart * apart;
        }
    std::vector<double> scale(all.size(), 1.0);
    for (std::size_t s = 0; s < all.size(); ++s) {
        const Sums& sums = all[s];
        if (how.spread == Spread::kNone) continue;
        const double degrees = sums.weight - (how.spread == Spread::kUnbiased ? 1.0 : 0.0);
        const double variance = sums.samples > 1 && degrees > 0 ? sums.squares / degrees : 1.0;
        const double spread = how.eps_inside ? std::sqrt(variance + how.eps) : std::sqrt(variance) + how.eps;
        scale[s] = spread > 0 ? 1 / spread : 0.0;
    }
    for (std::size_t i = 0; i < size; ++i) {
        const double weight = weight_of(i), value = static_cast<double>(values[i]);
        const Sums& sums = sums_of(i);
        double apart = 0;
        if (weight != 0 && sums.samples == 1) apart = how.keep_singletons ? value : 0.0;
        if (weight != 0 && sums.samples > 1) {
            apart = value - sums.first - sums.total / sums.weight;
            if (how.leave_one_out) apart *= sums.weight / (sums.weight - weight);
        }
        out[i] = static_cast<Real>(apart * scale[segments ? segment_of[i] : 0]);
    }
}

enum class BaselineOrder { kPost, kPre, kBatch };

// Moving averages of returns, one per slot: SPIRAL's role-conditioned baselines (arXiv 2506.24119, Eq. 2). Samples are
// visited in order; kPost updates and then subtracts, kPre subtracts first, kBatch updates once with the batch's mean.
inline void moving_advantages(std::span<const double> returns, const std::int64_t* slots, double decay,
                              BaselineOrder order, std::span<double> baselines, double* out) {
    std::vector<double> total(order == BaselineOrder::kBatch ? baselines.size() : 0), count(total.size());
    for (std::size_t i = 0; i < returns.size(); ++i) {
        const auto slot = static_cast<std::size_t>(slots[i]);
        const double old = baselines[slot];
        if (order == BaselineOrder::kBatch) {
            total[slot] += returns[i];
            count[slot] += 1;
        } else {
            baselines[slot] = decay * old + (1 - decay) * returns[i];
        }
        out[i] = returns[i] - (order == BaselineOrder::kPost ? baselines[slot] : old);
    }
    for (std::size_t slot = 0; slot < total.size(); ++slot)
        if (count[slot] > 0) baselines[slot] = decay * baselines[slot] + (1 - decay) * total[slot] / count[slot];
}

}  // namespace spf
