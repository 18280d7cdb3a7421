// The information states of a game and policies over them: what both exact solvers share.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/game.h"

namespace spf {

// Where one player has to decide, as far as it can tell.
struct InformationState {
    Player player;
    std::string key;              // Game::information_state of the player
    std::vector<Action> legal;    // ascending
    std::vector<Action> history;  // one way to get there, nature's moves included
};

[[noreturn]] inline void refuse_game(std::string_view name, const std::string& why) {
    throw std::invalid_argument(std::string(name) + ": " + why);
}

struct GameTooLarge : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

inline void check_size(std::string_view name, std::size_t nodes, std::int64_t max_nodes) {
    if (nodes > static_cast<std::size_t>(max_nodes))
        throw GameTooLarge(std::string(name) + ": more than max_nodes = " + std::to_string(max_nodes) +
                           " nodes; too large to solve exactly (a larger max_nodes takes memory and time)");
}

// A policy as a table [I, A]: probabilities of the legal actions of each information state, 0 elsewhere.
using PolicyTable = std::span<const double>;

inline void check_policy(std::span<const InformationState> states, std::size_t actions, PolicyTable policy) {
    constexpr double kTolerance = 1e-6;
    for (std::size_t i = 0; i < states.size(); ++i) {
        const auto& legal = states[i].legal;
        const auto row = policy.subspan(i * actions, actions);
        const auto fail = [&](const std::string& what) {
            throw std::invalid_argument("policy: probabilities of information state '" + states[i].key + "' " + what);
        };
        double total = 0.0;
        auto next_legal = legal.begin();
        for (std::size_t a = 0; a < actions; ++a) {
            if (!(row[a] >= 0.0)) fail("must be numbers >= 0");
            if (next_legal != legal.end() && *next_legal == static_cast<Action>(a)) {
                ++next_legal;
            } else if (row[a] > 0.0) {
                fail("must be 0 for the illegal action " + std::to_string(a));
            }
            total += row[a];
        }
        if (std::abs(total - 1.0) > kTolerance) fail("must sum to 1, not " + std::to_string(total));
    }
}

}  // namespace spf
