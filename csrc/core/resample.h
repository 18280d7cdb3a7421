// Worlds a player holds possible: a state with all that is hidden from the player drawn anew.
#pragma once

#include <concepts>
#include <span>

#include "core/game.h"
#include "core/rng.h"

namespace spf {

// resample: a state the observer cannot tell from the given one. Moves of players and what the observer knows stay; the
// rest is drawn by nature's probabilities, given that. Nobody's way of playing counts as evidence.
// retell: writes nature's moves of a history that led to `seen` so that it leads to `world`, one of its resamples.
template <class G>
concept Resamples = TurnGame<G> && requires(const G& game, const typename G::State& seen, Player observer, Rng& rng,
                                            std::span<Action> history) {
    { game.resample(seen, observer, rng) } -> std::same_as<typename G::State>;
    { game.retell(history, seen, observer) } -> std::same_as<void>;
};

// Replaces nature's moves of a history by outcome(state before, number of the ply).
template <class Game, class Outcome>
void replace_chance(const Game& game, std::span<Action> history, const Outcome& outcome) {
    auto state = game.initial();
    for (std::size_t ply = 0; ply < history.size(); ++ply) {
        if (game.current_player(state) == kChance) history[ply] = outcome(state, ply);
        game.apply(state, history[ply]);
    }
}

}  // namespace spf
