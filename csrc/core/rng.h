// Counter-based random numbers: Philox 4x32-10 (Salmon et al. 2011). The n-th number of stream s under a seed is a
// pure function of (seed, s, n), so results depend on no order, no thread count and no device.
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

struct PhiloxBlock {
    std::uint32_t x[4];
};

SPF_HD inline PhiloxBlock philox4x32(PhiloxBlock counter, std::uint32_t key0, std::uint32_t key1) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * counter.x[0];
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * counter.x[2];
        counter = {{static_cast<std::uint32_t>(p1 >> 32) ^ counter.x[1] ^ key0, static_cast<std::uint32_t>(p1),
                    static_cast<std::uint32_t>(p0 >> 32) ^ counter.x[3] ^ key1, static_cast<std::uint32_t>(p0)}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

class Rng {
  public:
    SPF_HD Rng(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}

    SPF_HD std::uint64_t next() {
        const PhiloxBlock block =
            philox4x32({{static_cast<std::uint32_t>(index_), static_cast<std::uint32_t>(index_ >> 32),
                         static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)}},
                       static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32));
        ++index_;
        return (std::uint64_t{block.x[0]} << 32) | block.x[1];
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
    std::uint64_t seed_, stream_, index_ = 0;
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
// (Brackett-Rozinsky and Lemire 2024), a fresh one from splitmix64 (Steele et al. 2014) before it runs out. One
// multiplication a draw.
class SmallDraws {
  public:
    SPF_HD explicit SmallDraws(std::uint64_t seed) : state_(seed) { refill(); }

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
        std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        fraction_ = z ^ (z >> 31);
        drawn_ = 1;
    }

    std::uint64_t state_, fraction_, drawn_;  // drawn_: product of the bounds this fraction has served
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
