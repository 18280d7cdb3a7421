// Counterfactual regret minimisation with alternating updates, on a game tree in sequence form.
//
// All variants are one rule with three numbers (Brown and Sandholm 2019): after iteration t positive regrets are
// multiplied by t^alpha / (t^alpha + 1), negative ones by t^beta / (t^beta + 1), and the average weighs it by t^gamma.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "solvers/best_response.h"
#include "solvers/game_tree.h"

namespace spf {

struct Discounts {
    double alpha, beta, gamma;

    // An infinite exponent keeps all (alpha, beta > 0) or nothing, from the first iteration on.
    static double factor(double t, double exponent) {
        if (std::isinf(exponent)) return exponent > 0 ? 1.0 : 0.0;
        const double power = std::pow(t, exponent);
        return std::isinf(power) ? 1.0 : power / (power + 1.0);
    }
};
inline constexpr double kForever = std::numeric_limits<double>::infinity();
inline constexpr Discounts kCfr{kForever, kForever, 0.0};       // Zinkevich et al. 2007
inline constexpr Discounts kCfrPlus{kForever, -kForever, 1.0};  // Tammelin 2014
inline constexpr Discounts kLinearCfr{1.0, 1.0, 1.0};           // Brown and Sandholm 2019, as is the next
inline constexpr Discounts kDiscountedCfr{1.5, 0.0, 2.0};

// A strategy [S] from weights >= 0 on its sequences; uniform where they are all 0.
inline std::vector<double> normalized(const GameTree& tree, std::span<const double> weights) {
    std::vector<double> result = tree.uniform();
    for (std::size_t i = 0; i < tree.information_states(); ++i) {
        double total = 0.0;
        for (std::size_t s = tree.first[i]; s < tree.first[i + 1]; ++s) total += weights[s];
        if (total <= 0.0) continue;
        for (std::size_t s = tree.first[i]; s < tree.first[i + 1]; ++s) result[s] = weights[s] / total;
    }
    return result;
}

// The tree must outlive it.
class Cfr {
  public:
    Cfr(const GameTree& tree, Discounts discounts)
        : tree_(tree),
          values_of_(tree),
          discounts_(discounts),
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
            const auto t = static_cast<double>(++iteration_);
            keep_positive_ = Discounts::factor(t, discounts_.alpha);
            keep_negative_ = Discounts::factor(t, discounts_.beta);
            weight_ = std::pow(t, discounts_.gamma);
            for (std::size_t player = 0; player < tree_.players; ++player) update(player);
        }
    }

    // The average strategy: in two-player zero-sum games it approaches an equilibrium. Uniform where never reached.
    std::vector<double> average() const { return normalized(tree_, average_); }

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
                regret_[s] = regret * (regret > 0.0 ? keep_positive_ : keep_negative_);
            }
        }
    }

    // Forwards: add the plan just used to the average, then make the next strategy and its plan.
    void follow_regrets(std::size_t player) {
        for (std::size_t i = tree_.begin(player); i < tree_.end(player); ++i) {
            const std::size_t from = tree_.first[i], to = tree_.first[i + 1];
            double total = 0.0;
            for (std::size_t s = from; s < to; ++s) total += std::max(regret_[s], 0.0);
            const double reach = plan_[tree_.parent[i]];
            const double scale = total > 0.0 ? 1.0 / total : 0.0;
            const double rest = total > 0.0 ? 0.0 : 1.0 / static_cast<double>(to - from);
            for (std::size_t s = from; s < to; ++s) {
                average_[s] += weight_ * plan_[s];
                strategy_[s] = std::max(regret_[s], 0.0) * scale + rest;
                plan_[s] = reach * strategy_[s];
            }
        }
    }

    const GameTree& tree_;
    TreeValues values_of_;
    Discounts discounts_;
    double keep_positive_ = 1.0, keep_negative_ = 1.0, weight_ = 1.0;  // of this iteration
    std::int64_t iteration_ = 0;
    std::vector<double> strategy_, plan_, values_, regret_, average_;
};

}  // namespace spf
