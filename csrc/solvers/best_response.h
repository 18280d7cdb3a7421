// Values of strategies on a game tree in sequence form: expected returns, best responses, NashConv.
//
// A strategy gives every sequence the probability of its last action; its plan gives the product of all own
// probabilities along the sequence. What a player can still win below a sequence is then a sum over the
// leaves of return times the other players' plans (von Stengel 1996), folded backwards over the player's
// information states.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "solvers/game_tree.h"

namespace spf {

// Scratch space is kept between calls. The tree must outlive it. Vectors over sequences have length S.
class TreeValues {
  public:
    explicit TreeValues(const GameTree& tree) : tree_(tree), plan_(tree.sequences()), values_(tree.sequences()) {}

    // plan[s] for all sequences of the player, from strategy[s].
    void realize(std::size_t player, std::span<const double> strategy, std::span<double> plan) const {
        plan[player] = 1.0;
        for (std::size_t i = tree_.begin(player); i < tree_.end(player); ++i) {
            const double reach = plan[tree_.parent[i]];
            for (std::size_t s = tree_.first[i]; s < tree_.first[i + 1]; ++s) plan[s] = reach * strategy[s];
        }
    }

    // values[s] = what leaves whose last own action is s are worth to the player, given the plans of the
    // others.
    void collect(std::size_t player, std::span<const double> plan, std::span<double> values) const {
        values[player] = 0.0;
        std::fill(values.begin() + tree_.from(player), values.begin() + tree_.to(player), 0.0);
        const std::size_t leaves = tree_.leaves();
        const auto* mine = tree_.leaf_sequence[player].data();
        const double* won = tree_.leaf_value[player].data();
        if (tree_.players == 2) {
            const auto* other = tree_.leaf_sequence[1 - player].data();
            for (std::size_t l = 0; l < leaves; ++l) values[mine[l]] += won[l] * plan[other[l]];
            return;
        }
        for (std::size_t l = 0; l < leaves; ++l) {
            double value = won[l];
            for (std::size_t other = 0; other < tree_.players; ++other)
                if (other != player) value *= plan[tree_.leaf_sequence[other][l]];
            values[mine[l]] += value;
        }
    }

    // Expected return of every player when all follow the strategy.
    std::vector<double> expected(std::span<const double> strategy) {
        realize_all(strategy);
        std::vector<double> result(tree_.players, 0.0);
        for (std::size_t player = 0; player < tree_.players; ++player) result[player] = expected_of(player);
        return result;
    }

    // The player's best return against the others' strategies. Where `response` is not empty it becomes, on
    // the player's sequences, 1 at the first best action and 0 elsewhere.
    double best_response(std::size_t player, std::span<const double> strategy, std::span<double> response = {}) {
        realize_all(strategy);
        return best_of(player, response);
    }

    // Sum over the players of what a best response gains.
    double nash_conv(std::span<const double> strategy) {
        realize_all(strategy);
        double gain = 0.0;
        for (std::size_t player = 0; player < tree_.players; ++player)
            gain += best_of(player, {}) - expected_of(player);
        return gain;
    }

  private:
    void realize_all(std::span<const double> strategy) {
        for (std::size_t player = 0; player < tree_.players; ++player) realize(player, strategy, plan_);
    }

    double expected_of(std::size_t player) const {
        double result = 0.0;
        for (std::size_t l = 0; l < tree_.leaves(); ++l) {
            double value = tree_.leaf_value[player][l];
            for (std::size_t any = 0; any < tree_.players; ++any) value *= plan_[tree_.leaf_sequence[any][l]];
            result += value;
        }
        return result;
    }

    double best_of(std::size_t player, std::span<double> response) {
        collect(player, plan_, values_);
        for (std::size_t i = tree_.end(player); i-- > tree_.begin(player);) {
            const auto from = values_.begin() + tree_.first[i];
            const auto to = values_.begin() + tree_.first[i + 1];
            const auto best = std::max_element(from, to);
            values_[tree_.parent[i]] += *best;
            if (response.empty()) continue;
            for (auto s = from; s != to; ++s)
                response[static_cast<std::size_t>(s - values_.begin())] = s == best ? 1.0 : 0.0;
        }
        return values_[player];
    }

    const GameTree& tree_;
    std::vector<double> plan_, values_;
};

}  // namespace spf
