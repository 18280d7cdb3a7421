// A game of perfect information as its distinct positions, each visited once however many histories lead
// there.
//
// Positions are numbered from the leaves up: every successor comes before its predecessors, the start comes
// last.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/game.h"
#include "solvers/information_state.h"

namespace spf {

// Legend: P players, A actions, N positions, I of them with a player to move, E moves (nature's too).
class Positions {
  public:
    std::size_t players = 0, actions = 0;
    std::vector<InformationState> states;     // [I]
    std::vector<Player> player;               // [N] kChance, kTerminal or who moves
    std::vector<std::size_t> state;           // [N] index into states where a player moves
    std::vector<std::size_t> first;           // [N + 1] moves of position n: [n] to [n + 1]
    std::vector<std::size_t> successor;       // [E]
    std::vector<Action> action;               // [E]
    std::vector<double> chance;               // [E] probability of nature's moves
    std::vector<std::vector<double>> result;  // [P][N] returns of leaves, 0 elsewhere

    std::size_t count() const { return player.size(); }

    // Expected return of one player when all follow the policy; `best` makes that player choose its best move
    // instead and, where `response` is not empty, writes 1 for the first best move of each of its states.
    double value(std::size_t of, PolicyTable policy, bool best = false, std::span<double> response = {}) const {
        std::vector<double> values = result[of];
        for (std::size_t n = 0; n < count(); ++n) {
            if (player[n] == kTerminal) continue;
            if (best && player[n] == static_cast<Player>(of)) {
                const std::size_t move = best_move(n, values);
                values[n] = values[successor[move]];
                if (!response.empty()) response[entry(n, move)] = 1.0;
                continue;
            }
            for (std::size_t move = first[n]; move < first[n + 1]; ++move)
                values[n] += values[successor[move]] * (player[n] == kChance ? chance[move] : policy[entry(n, move)]);
        }
        return values.back();
    }

    double nash_conv(PolicyTable policy) const {
        double gain = 0.0;
        for (std::size_t p = 0; p < players; ++p) gain += value(p, policy, true) - value(p, policy);
        return gain;
    }

    // Probabilities [P, 3] that a player wins, draws and loses when all follow the policy.
    std::vector<double> outcomes(PolicyTable policy) const {
        std::vector<double> reach(count(), 0.0), shares(players * 3, 0.0);
        reach.back() = 1.0;
        for (std::size_t n = count(); n-- > 0;) {
            for (std::size_t move = first[n]; move < first[n + 1]; ++move)
                reach[successor[move]] += reach[n] * (player[n] == kChance ? chance[move] : policy[entry(n, move)]);
            for (std::size_t p = 0; player[n] == kTerminal && p < players; ++p)
                shares[p * 3 + (result[p][n] > 0.0 ? 0u : result[p][n] < 0.0 ? 2u : 1u)] += reach[n];
        }
        return shares;
    }

    // Perfect play of a zero-sum game of two: worth [I] to whoever moves there, optimal [I, A] flags.
    void minimax(std::span<double> worth, std::span<bool> optimal) const {
        constexpr double kTolerance = 1e-12;  // sums over nature's moves round
        std::vector<double> values = result[0];
        for (std::size_t n = 0; n < count(); ++n) {
            for (std::size_t move = first[n]; player[n] == kChance && move < first[n + 1]; ++move)
                values[n] += chance[move] * values[successor[move]];
            if (player[n] < 0) continue;
            const double sign = player[n] == 0 ? 1.0 : -1.0;
            double top = -std::numeric_limits<double>::infinity();
            for (std::size_t move = first[n]; move < first[n + 1]; ++move)
                top = std::max(top, sign * values[successor[move]]);
            for (std::size_t move = first[n]; move < first[n + 1]; ++move)
                optimal[entry(n, move)] = sign * values[successor[move]] >= top - kTolerance;
            values[n] = sign * top;
            worth[state[n]] = top;
        }
    }

  private:
    std::size_t entry(std::size_t n, std::size_t move) const {
        return state[n] * actions + static_cast<std::size_t>(action[move]);
    }
    std::size_t best_move(std::size_t n, const std::vector<double>& values) const {
        std::size_t best = first[n];
        for (std::size_t move = best + 1; move < first[n + 1]; ++move)
            if (values[successor[move]] > values[successor[best]]) best = move;
        return best;
    }
};

template <TurnGame G>
class PositionsBuilder {
  public:
    // Throws std::invalid_argument beyond max_nodes positions.
    PositionsBuilder(const G& game, std::int64_t max_nodes) : game_(game), max_nodes_(max_nodes) {}

    Positions build() {
        positions_.players = static_cast<std::size_t>(num_players(game_));
        positions_.actions = static_cast<std::size_t>(game_.num_actions());
        positions_.result.resize(positions_.players);
        positions_.first.assign(1, 0);
        visit(game_.initial());
        return std::move(positions_);
    }

  private:
    using State = typename G::State;
    struct Move {
        Action action;
        double chance;
        std::size_t successor;
    };

    std::size_t visit(const State& state) {
        const Player player = game_.current_player(state);
        std::string key = std::to_string(player) + ' ' + game_.information_state(state, 0);
        if (const auto known = number_.find(key); known != number_.end()) return known->second;
        check_size(G::kName, positions_.count() + history_.size() + 1, max_nodes_);
        std::vector<Move> moves;
        if (player == kChance) {
            for (const ChanceOutcome& outcome : game_.chance_outcomes(state))
                moves.push_back({outcome.action, outcome.probability, step(state, outcome.action)});
        } else if (player != kTerminal) {
            for (const Action action : game_.legal_actions(state)) moves.push_back({action, 0.0, step(state, action)});
        }
        const std::size_t number = add(state, player, moves);
        number_.emplace(std::move(key), number);
        return number;
    }

    std::size_t step(State state, Action action) {
        game_.apply(state, action);
        history_.push_back(action);
        const std::size_t number = visit(state);
        history_.pop_back();
        return number;
    }

    std::size_t add(const State& state, Player player, const std::vector<Move>& moves) {
        Positions& all = positions_;
        const std::size_t number = all.count();
        all.player.push_back(player);
        all.state.push_back(player >= 0 ? all.states.size() : 0);
        for (const Move& move : moves) {
            all.successor.push_back(move.successor);
            all.action.push_back(move.action);
            all.chance.push_back(move.chance);
        }
        all.first.push_back(all.action.size());
        for (std::size_t p = 0; p < all.players; ++p)
            all.result[p].push_back(player == kTerminal ? double{game_.returns(state, static_cast<Player>(p))} : 0.0);
        if (player < 0) return number;
        InformationState information{player, game_.information_state(state, player), {}, history_};
        for (const Move& move : moves) information.legal.push_back(move.action);
        if (!keys_.insert(information.key).second)
            refuse_game(G::kName, "two positions share the information state '" + information.key + "'");
        all.states.push_back(std::move(information));
        return number;
    }

    const G& game_;
    std::int64_t max_nodes_;
    std::vector<Action> history_;
    std::unordered_map<std::string, std::size_t> number_;
    std::unordered_set<std::string> keys_;
    Positions positions_;
};

}  // namespace spf
