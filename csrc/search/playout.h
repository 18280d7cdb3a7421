// A game played to its end at random, and what it paid.
#pragma once

#include <array>
#include <cstdint>

#include "core/game.h"
#include "core/rng.h"

namespace spf {

template <class Game>
using Returns = std::array<float, static_cast<std::size_t>(Game::kPlayers)>;

template <TurnGame Game>
Returns<Game> returns_of(const Game& game, const typename Game::State& state) {
    Returns<Game> returns{};
    for (Player p = 0; p < num_players(game); ++p) returns[static_cast<std::size_t>(p)] = game.returns(state, p);
    return returns;
}

// One root's random numbers: cheap ones for moves, a stream of their own for each of nature's.
struct Dice {
    SmallDraws draws;
    std::uint64_t key;
    std::uint64_t events = 0;

    explicit Dice(std::uint64_t seed) : draws(seed, 0x5EA2C), key(mix_seeds(seed, 0xD1CE)) {}
    Rng event() { return Rng(key, events++); }
};

// The mean of `count` playouts from here.
template <TurnGame Game>
Returns<Game> play_out(const Game& game, const typename Game::State& from, int count, Dice& dice) {
    Returns<Game> sum{};
    SmallDraws draws = dice.draws;  // in registers
    for (int i = 0; i < count; ++i) {
        typename Game::State state = from;
        for (Player player; (player = game.current_player(state)) != kTerminal;) {
            if constexpr (Game::kMaxChance > 0) {
                if (player == kChance) {
                    game.apply(state, draw_chance(game, state, dice.event()));
                    continue;
                }
            }
            game.apply(state, sample_action(game.legal_actions(state), draws));
        }
        const Returns<Game> returns = returns_of(game, state);
        for (std::size_t p = 0; p < sum.size(); ++p) sum[p] += returns[p];
    }
    dice.draws = draws;
    if (count > 1) {
        for (float& value : sum) value /= static_cast<float>(count);
    }
    return sum;
}

}  // namespace spf
