// A game walked into the form its solver needs; instantiated once per game by a generated translation unit.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <variant>

#include "core/options.h"
#include "solvers/game_tree_builder.h"
#include "solvers/positions.h"

namespace spf {

using SolverForm = std::variant<GameTree, Positions>;

template <class Game>
SolverForm solver_form(const OptionValues& options, std::int64_t max_nodes);

template <AnyGame Game>
SolverForm make_solver_form(const OptionValues& options, std::int64_t max_nodes) {
    const Game game = configure<Game>(options);
    if constexpr (JointGame<Game>) {
        throw std::invalid_argument(std::string(Game::kName) + ": players move at once, and no solver takes that");
    } else if constexpr (Game::kPerfectInformation) {
        return PositionsBuilder<Game>(game, max_nodes).build();
    } else {
        return GameTreeBuilder<Game>(game, max_nodes).build();
    }
}

}  // namespace spf
