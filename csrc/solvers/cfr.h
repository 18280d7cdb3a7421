// Counterfactual regret minimisation with alternating updates, on a game tree in sequence form.
//
// CFR:  Zinkevich et al. 2007.  Strategies follow positive regrets; the average weighs every iteration alike.
// CFR+: Tammelin 2014.  Regrets never fall below zero; iteration t has weight t in the average.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "solvers/best_response.h"
#include "solvers/game_tree.h"

namespace spf {

enum class CfrVariant { kCfr, kCfrPlus };

// The tree must outlive it.
class Cfr {
  public:
    Cfr(const GameTree& tree, CfrVariant variant)
        : tree_(tree),
          values_of_(tree),
          plus_(variant == CfrVariant::kCfrPlus),
          strategy_(tree.uniform()),
          plan_(tree.sequences()),
          values_(tree.sequences()),
          regret_(tree.sequences(), 0.0),
          average_(tree.sequences(), 0.0) {
        for (std::size_t player = 0; player < tree_.players; ++player) values_of_.realize(player, strategy_, plan_);
    }

    const GameTree& tree() const { return tree_; }

    void run(std::int64_t iterations) {
        for (std::int64_t i = 0; i < iterations; ++i) {
            ++iteration_;
            for (std::size_t player = 0; player < tree_.players; ++player) update(player);
        }
    }

    // The average strategy: in two-player zero-sum games it approaches an equilibrium. Uniform where never
    // reached.
    std::vector<double> average() const {
        std::vector<double> result = tree_.uniform();
        for (std::size_t i = 0; i < tree_.information_states(); ++i) {
            double total = 0.0;
            for (std::size_t s = tree_.first[i]; s < tree_.first[i + 1]; ++s) total += average_[s];
            if (total <= 0.0) continue;
            for (std::size_t s = tree_.first[i]; s < tree_.first[i + 1]; ++s) result[s] = average_[s] / total;
        }
        return result;
    }

  private:
    void update(std::size_t player) {
        values_of_.collect(player, plan_, values_);
        add_regrets(player);
        follow_regrets(player);
    }

    // Backwards: the strategy's value of an information state counts towards the sequence that led there.
    void add_regrets(std::size_t player) {
        for (std::size_t i = tree_.end(player); i-- > tree_.begin(player);) {
            const std::size_t from = tree_.first[i], to = tree_.first[i + 1];
            double value = 0.0;
            for (std::size_t s = from; s < to; ++s) value += strategy_[s] * values_[s];
            values_[tree_.parent[i]] += value;
            for (std::size_t s = from; s < to; ++s) {
                const double regret = regret_[s] + values_[s] - value;
                regret_[s] = plus_ ? std::max(regret, 0.0) : regret;
            }
        }
    }

    // Forwards: add the plan just used to the average, then make the next strategy and its plan.
    void follow_regrets(std::size_t player) {
        const double weight = plus_ ? static_cast<double>(iteration_) : 1.0;
        for (std::size_t i = tree_.begin(player); i < tree_.end(player); ++i) {
            const std::size_t from = tree_.first[i], to = tree_.first[i + 1];
            double total = 0.0;
            for (std::size_t s = from; s < to; ++s) total += std::max(regret_[s], 0.0);
            const double reach = plan_[tree_.parent[i]];
            const double scale = total > 0.0 ? 1.0 / total : 0.0;
            const double rest = total > 0.0 ? 0.0 : 1.0 / static_cast<double>(to - from);
            for (std::size_t s = from; s < to; ++s) {
                average_[s] += weight * plan_[s];
                strategy_[s] = std::max(regret_[s], 0.0) * scale + rest;
                plan_[s] = reach * strategy_[s];
            }
        }
    }

    const GameTree& tree_;
    TreeValues values_of_;
    bool plus_;
    std::int64_t iteration_ = 0;
    std::vector<double> strategy_, plan_, values_, regret_, average_;
};

}  // namespace spf
