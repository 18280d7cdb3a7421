// Counter-based random numbers: splitmix64 (Steele et al. 2014), whose state is a counter. The n-th number of stream s
// under a seed is a pure function of (seed, s, n), so results depend on no order, no thread count and no device.
#pragma once

#include <cstdint>

#include "core/game.h"

namespace spf {

// Two numbers into one, well mixed (the finaliser of splitmix64 after an odd multiply-add).
SPF_HD inline std::uint64_t mix_seeds(std::uint64_t a, std::uint64_t b) {
    std::uint64_t z = a * 0x9E3779B97F4A7C15u + (b ^ 0xD1B54A32D192ED03u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    z = (z + b) * 0x9E3779B97F4A7C15u;
    return z ^ (z >> 32);
}

class Rng {
  public:
    SPF_HD Rng(std::uint64_t seed, std::uint64_t stream) : state_(seed + stream * kStreamGamma) {}

    SPF_HD std::uint64_t next() {
        std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    // Uniform in [0, 1), 53 bits.
    SPF_HD double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
    // Uniform in 0 .. bound-1, without bias (Lemire 2019); bound > 0.
    SPF_HD std::uint32_t below(std::uint32_t bound) {
        std::uint64_t product = (next() >> 32) * bound;
        if (static_cast<std::uint32_t>(product) < bound) {
            const std::uint32_t threshold = (0u - bound) % bound;
            while (static_cast<std::uint32_t>(product) < threshold) product = (next() >> 32) * bound;
        }
        return static_cast<std::uint32_t>(product >> 32);
    }

  private:
    // The 2^31 first numbers of the 2^31 first streams of a seed have states of their own: the shortest vector of the
    // lattice of (streams, numbers) that leave the state as it was is 2^31.7 long.
    static constexpr std::uint64_t kStreamGamma = 0xD1342543DE82EF95u;

    std::uint64_t state_;
};

// The upper half of a product.
SPF_HD inline std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
#if defined(__CUDA_ARCH__)
    return __umul64hi(a, b);
#else
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>((Wide{a} * b) >> 64);
#endif
}

// Many small draws in a row for random play: the digits of one uniform fraction in the bases asked for
// (Brackett-Rozinsky and Lemire 2024), a fresh one before it runs out. One multiplication a draw.
class SmallDraws {
  public:
    SPF_HD SmallDraws(std::uint64_t seed, std::uint64_t stream) : fractions_(seed, stream) { refill(); }

    // Uniform in 0 .. bound-1, every probability within 2^-32 of 1 / bound; bound > 0.
    SPF_HD std::uint32_t below(std::uint32_t bound) {
        drawn_ *= bound;
        if (drawn_ >> 32 != 0) {
            refill();
            drawn_ = bound;
        }
        const std::uint64_t digit = multiply_high(fraction_, bound);
        fraction_ *= bound;
        return static_cast<std::uint32_t>(digit);
    }

  private:
    SPF_HD void refill() {
        fraction_ = fractions_.next();
        drawn_ = 1;
    }

    Rng fractions_;
    std::uint64_t fraction_, drawn_;  // drawn_: product of the bounds this fraction has served
};

template <int N>
SPF_HD Action sample_chance(const ChanceOutcomes<N>& outcomes, Rng rng) {
    double left = rng.uniform();
    Action action = kInvalidAction;
    for (const ChanceOutcome& outcome : outcomes) {
        action = outcome.action;
        left -= outcome.probability;
        if (left < 0) break;
    }
    return action;  // the last one if the probabilities sum to slightly less than 1
}

// What nature does in a state; a game whose list of outcomes is long may draw from it in its own way.
template <TurnGame Game>
SPF_HD Action draw_chance(const Game& game, const typename Game::State& state, Rng rng) {
    if constexpr (requires { game.sample_chance(state, rng); }) {
        return game.sample_chance(state, rng);
    } else {
        return sample_chance(game.chance_outcomes(state), rng);
    }
}

// Uniform; legal is not empty.
template <int N>
SPF_HD Action sample_action(const ActionSet<N>& legal, SmallDraws& draws) {
    return legal.nth(static_cast<int>(draws.below(static_cast<std::uint32_t>(legal.size()))));
}

}  // namespace spf
