// Values of strategies on a game tree in sequence form: expected returns, best responses, NashConv.
//
// A strategy gives every sequence the probability of its last action; its plan gives the product of all own
// probabilities along the sequence. What a player can still win below a sequence is then a sum of payoffs times the
// other players' plans (von Stengel 1996), folded backwards over the player's information states.
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

    // values[s] = what is won by the player where its last own action is s, given the plans of the others.
    void collect(std::size_t player, std::span<const double> plan, std::span<double> values) {
        if (tree_.players == 1) {
            joint_.assign(1, 1.0);
            plan = joint_;
        } else if (tree_.players > 2) {
            plan = realize_joint(plan);
        }
        values[player] = won(player, plan.data());
        for (std::size_t s = tree_.from(player); s < tree_.to(player); ++s) values[s] = won(s, plan.data());
    }

    // Expected return of every player when all follow the strategy.
    std::vector<double> expected(std::span<const double> strategy) {
        realize_all(strategy);
        std::vector<double> result(tree_.players, 0.0);
        for (std::size_t player = 0; player < tree_.players; ++player) {
            collect(player, plan_, values_);
            result[player] = expected_of(player);
        }
        return result;
    }

    // The player's best return against the others' strategies. Where `response` is not empty it becomes, on
    // the player's sequences, 1 at the first best action and 0 elsewhere.
    double best_response(std::size_t player, std::span<const double> strategy, std::span<double> response = {}) {
        realize_all(strategy);
        collect(player, plan_, values_);
        return best_of(player, response);
    }

    // Sum over the players of what a best response gains.
    double nash_conv(std::span<const double> strategy) {
        realize_all(strategy);
        double gain = 0.0;
        for (std::size_t player = 0; player < tree_.players; ++player) {
            collect(player, plan_, values_);
            gain -= expected_of(player);
            gain += best_of(player, {});
        }
        return gain;
    }

  private:
    void realize_all(std::span<const double> strategy) {
        for (std::size_t player = 0; player < tree_.players; ++player) realize(player, strategy, plan_);
    }

    double won(std::size_t sequence, const double* plan) const {
        double total = 0.0;
        for (std::size_t l = tree_.first_payoff[sequence]; l < tree_.first_payoff[sequence + 1]; ++l)
            total += tree_.payoff[l] * plan[tree_.others[l]];
        return total;
    }

    std::span<const double> realize_joint(std::span<const double> plan) {
        const std::size_t width = tree_.players - 1;
        joint_.assign(tree_.joint.size() / width, 1.0);
        for (std::size_t k = 0; k < tree_.joint.size(); ++k) joint_[k / width] *= plan[tree_.joint[k]];
        return joint_;
    }

    // From the values as collected.
    double expected_of(std::size_t player) const {
        double result = values_[player];
        for (std::size_t s = tree_.from(player); s < tree_.to(player); ++s) result += plan_[s] * values_[s];
        return result;
    }

    // Folds the values as collected.
    double best_of(std::size_t player, std::span<double> response) {
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
    std::vector<double> plan_, values_, joint_;
};

}  // namespace spf
