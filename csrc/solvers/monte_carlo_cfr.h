// Counterfactual regret minimisation on sampled histories (Lanctot et al. 2009), deterministic for a seed.
//
// In an iteration every player in turn is the learner. External sampling tries all actions of the learner and draws
// those of nature and of the others; outcome sampling draws one history, the learner's actions from its strategy mixed
// with uniform ones. Estimates of regrets are unbiased; the average is unbiased with two players.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/rng.h"
#include "solvers/cfr.h"
#include "solvers/game_tree.h"

namespace spf {

enum class CfrSampling { kExternal, kOutcome };

// The tree must outlive it. `exploration` is the share of uniform draws of the learner in outcome sampling.
class MonteCarloCfr {
  public:
    MonteCarloCfr(const GameTree& tree, CfrSampling sampling, double exploration, std::uint64_t seed)
        : tree_(tree),
          all_(tree.histories),
          sampling_(sampling),
          exploration_(exploration),
          seed_(seed),
          rng_(seed, 0),
          strategy_(tree.uniform()),
          regret_(tree.sequences(), 0.0),
          average_(tree.sequences(), 0.0) {}

    const GameTree& tree() const { return tree_; }

    void run(std::int64_t iterations) {
        const std::size_t start = all_.decision.size() - 1;
        for (std::int64_t i = 0; i < iterations; ++i) {
            rng_ = Rng(seed_, iteration_++);
            for (std::size_t learner = 0; learner < tree_.players; ++learner) {
                if (sampling_ == CfrSampling::kExternal) {
                    external(start, learner);
                } else {
                    outcome(start, learner, Reach{});
                }
            }
        }
    }

    // The average strategy: in two-player zero-sum games it approaches an equilibrium. Uniform where never reached.
    std::vector<double> average() const { return normalized(tree_, average_); }

  private:
    struct Reach {
        double own = 1.0;     // the learner's probability of its actions so far
        double drawn = 1.0;   // the probability with which they were drawn
        double others = 1.0;  // of all other moves so far, drawn as they are played
    };

    // What the learner wins from here on, as estimated.
    double external(std::size_t n, std::size_t learner) {
        const std::int32_t decision = all_.decision[n];
        if (decision == kTerminal) return all_.returns[n * tree_.players + learner];
        if (decision == kChance) return external(all_.next[draw_chance(n)], learner);
        const auto i = static_cast<std::size_t>(decision);
        const std::span<double> strategy = follow_regrets(i);
        const auto mover = static_cast<std::size_t>(tree_.states[i].player);
        if (mover != learner) {
            if (mover == (learner + 1) % tree_.players)  // once an iteration, and drawn by its own strategy
                for (std::size_t a = 0; a < strategy.size(); ++a) average_[tree_.first[i] + a] += strategy[a];
            return external(all_.next[all_.first[n] + draw(strategy, 0.0)], learner);
        }
        double value = 0.0;
        for (std::size_t a = 0; a < strategy.size(); ++a) {
            const double won = external(all_.next[all_.first[n] + a], learner);
            regret_[tree_.first[i] + a] += won;
            value += strategy[a] * won;
        }
        for (std::size_t a = 0; a < strategy.size(); ++a) regret_[tree_.first[i] + a] -= value;
        return value;
    }

    // What the learner wins from here on, as estimated: the drawn action's value over its probability, 0 for others.
    double outcome(std::size_t n, std::size_t learner, Reach reach) {
        const std::int32_t decision = all_.decision[n];
        if (decision == kTerminal) return all_.returns[n * tree_.players + learner];
        if (decision == kChance) {
            const std::size_t move = draw_chance(n);
            reach.others *= all_.chance[move];
            return outcome(all_.next[move], learner, reach);
        }
        const auto i = static_cast<std::size_t>(decision);
        const std::span<double> strategy = follow_regrets(i);
        if (static_cast<std::size_t>(tree_.states[i].player) != learner) {
            const std::size_t a = draw(strategy, 0.0);
            reach.others *= strategy[a];
            return outcome(all_.next[all_.first[n] + a], learner, reach);
        }
        const double visits = reach.drawn * reach.others;
        for (std::size_t b = 0; b < strategy.size(); ++b)
            average_[tree_.first[i] + b] += reach.own / visits * strategy[b];
        const std::size_t a = draw(strategy, exploration_);
        const double probability = mixed(strategy, a, exploration_), drawn = reach.drawn;
        reach.own *= strategy[a];
        reach.drawn *= probability;
        const double won = outcome(all_.next[all_.first[n] + a], learner, reach) / probability;
        const double value = strategy[a] * won;
        for (std::size_t b = 0; b < strategy.size(); ++b)
            regret_[tree_.first[i] + b] += ((b == a ? won : 0.0) - value) / drawn;
        return value;
    }

    // In proportion to positive regrets, uniform without any.
    std::span<double> follow_regrets(std::size_t i) {
        const std::size_t from = tree_.first[i], size = tree_.first[i + 1] - from;
        const std::span<double> strategy(strategy_.data() + from, size);
        double total = 0.0;
        for (std::size_t a = 0; a < size; ++a) total += strategy[a] = std::max(regret_[from + a], 0.0);
        for (double& p : strategy) p = total > 0.0 ? p / total : 1.0 / static_cast<double>(size);
        return strategy;
    }

    static double mixed(std::span<const double> strategy, std::size_t a, double uniform) {
        return (1.0 - uniform) * strategy[a] + uniform / static_cast<double>(strategy.size());
    }

    std::size_t draw(std::span<const double> strategy, double uniform) {
        double rest = rng_.uniform();
        std::size_t last = 0;  // what rounding leaves over goes to the last one possible
        for (std::size_t a = 0; a < strategy.size(); ++a) {
            const double p = mixed(strategy, a, uniform);
            if (p <= 0.0) continue;
            if (rest < p) return a;
            rest -= p;
            last = a;
        }
        return last;
    }

    // The number of one of nature's moves.
    std::size_t draw_chance(std::size_t n) {
        const std::size_t first = all_.first[n];
        return first + draw({all_.chance.data() + first, all_.first[n + 1] - first}, 0.0);
    }

    const GameTree& tree_;
    const Histories& all_;
    CfrSampling sampling_;
    double exploration_;
    std::uint64_t seed_, iteration_ = 0;
    Rng rng_;
    std::vector<double> strategy_, regret_, average_;
};

}  // namespace spf
