// What an action is worth trying: upper confidence bounds (UCT: Kocsis and Szepesvari 2006; PUCT: Silver et al. 2017),
// and the completed values and the sequential halving of Gumbel search (Danihelka et al. 2022).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "core/rng.h"

namespace spf {

// Of small counts 1/n, 1/sqrt(n) and sqrt(log n), looked up; of others worked out.
struct SmallCounts {
    static constexpr std::uint32_t kSize = 1024;
    std::array<float, kSize> inverses, inverse_roots, roots_of_logs;

    SmallCounts() {
        for (std::uint32_t n = 0; n < kSize; ++n) {
            const float count = static_cast<float>(std::max(n, 1u));
            inverses[n] = 1.0f / count;
            inverse_roots[n] = 1.0f / std::sqrt(count);
            roots_of_logs[n] = std::sqrt(std::log(count));
        }
    }
    float inverse(std::uint32_t n) const { return inverses[n]; }
    float inverse_root(std::uint32_t n) const { return inverse_roots[n]; }
};
inline const SmallCounts kSmallCounts;
struct AnyCounts {
    float inverse(std::uint32_t n) const { return 1.0f / static_cast<float>(n); }
    float inverse_root(std::uint32_t n) const { return 1.0f / std::sqrt(static_cast<float>(n)); }
};
inline float root_of_log(std::uint32_t n) {
    return n < SmallCounts::kSize ? kSmallCounts.roots_of_logs[n] : std::sqrt(std::log(static_cast<float>(n)));
}

// use(counts) for numbers up to `most`: the branch is taken once and not for every number.
template <class Use>
auto with_counts(std::uint32_t most, const Use& use) {
    return most < SmallCounts::kSize ? use(kSmallCounts) : use(AnyCounts{});
}

// Where score(i) is highest among 0 .. count-1, the first such; count if none is higher than `floor`.
template <class Score>
std::uint32_t highest(std::uint32_t count, float floor, const Score& score) {
    std::uint32_t best = count;
    for (std::uint32_t i = 0; i < count; ++i) {
        const float here = score(i);
        if (here > floor) {
            floor = here;
            best = i;
        }
    }
    return best;
}

// completed[a] = q[a] where visited, else the mixed value (v + sum(n) * sum(p q) / sum(p)) / (1 + sum(n)) with sums
// over the visited; then rescaled to 0..1 and multiplied by (50 + max(n)) / 10.               Danihelka et al. 2022,
// eq. 8, 33
inline void completed_values(std::span<const float> priors, std::span<const std::uint32_t> visits,
                             std::span<const float> values, float own_value, std::span<float> completed) {
    constexpr float kValueScale = 0.1f, kVisitsBefore = 50.0f, kTiny = 1e-8f;
    float all = 0.0f, mass = 0.0f, weighted = 0.0f;
    std::uint32_t most = 0;
    for (std::size_t a = 0; a < priors.size(); ++a) {
        if (visits[a] == 0) continue;
        const float prior = std::max(priors[a], 1e-30f);
        all += static_cast<float>(visits[a]);
        most = std::max(most, visits[a]);
        mass += prior;
        weighted += prior * values[a];
    }
    const float mixed = (own_value + (mass > 0.0f ? all * weighted / mass : 0.0f)) / (1.0f + all);
    float low = INFINITY, high = -INFINITY;
    for (std::size_t a = 0; a < priors.size(); ++a) {
        completed[a] = visits[a] == 0 ? mixed : values[a];
        low = std::min(low, completed[a]);
        high = std::max(high, completed[a]);
    }
    const float scale = (kVisitsBefore + static_cast<float>(most)) * kValueScale / std::max(high - low, kTiny);
    for (float& value : completed) value = (value - low) * scale;
}

// Of the gamma distribution with this shape and scale 1 (Marsaglia and Tsang 2000).
inline float gamma_variate(float shape, Rng rng) {
    const double boost = shape < 1.0f ? std::pow(1.0 - rng.uniform(), 1.0 / static_cast<double>(shape)) : 1.0;
    const double d = static_cast<double>(shape < 1.0f ? shape + 1.0f : shape) - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
    while (true) {
        const double x = std::sqrt(-2.0 * std::log(1.0 - rng.uniform())) * std::cos(6.283185307179586 * rng.uniform());
        const double v = (1.0 + c * x) * (1.0 + c * x) * (1.0 + c * x);
        if (v > 0.0 && std::log(1.0 - rng.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) {
            return static_cast<float>(d * v * boost);
        }
    }
}

// In place: exp(x) / sum(exp(x)).
inline void softmax(std::span<float> logits) {
    float high = -INFINITY, sum = 0.0f;
    for (const float x : logits) high = std::max(high, x);
    for (float& x : logits) sum += x = std::exp(x - high);
    for (float& x : logits) x /= sum;
}

// For every simulation the number of visits an action must have to be considered: sequential halving, which spends an
// equal share of the simulations on `actions` of them, then on half as many, down to two.
inline std::vector<std::uint32_t> considered_visits(int actions, int simulations) {
    std::vector<std::uint32_t> sequence;
    if (actions <= 1) {
        for (int i = 0; i < simulations; ++i) sequence.push_back(static_cast<std::uint32_t>(i));
        return sequence;
    }
    int rounds = 0;
    while ((1 << rounds) < actions) ++rounds;
    std::vector<std::uint32_t> visits(static_cast<std::size_t>(actions), 0);
    for (int left = actions; static_cast<int>(sequence.size()) < simulations; left = std::max(2, left / 2)) {
        for (int extra = std::max(1, simulations / (rounds * left)); extra > 0; --extra) {
            for (int i = 0; i < left; ++i) sequence.push_back(visits[static_cast<std::size_t>(i)]++);
        }
    }
    sequence.resize(static_cast<std::size_t>(simulations));
    return sequence;
}

}  // namespace spf
