// The choices of Gumbel search (Danihelka et al. 2022): sequential halving among the actions at the root, and below it
// the action furthest behind its share of the improved policy.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/game.h"
#include "core/rng.h"
#include "search/formulas.h"
#include "search/tree.h"

namespace spf {

class Gumbel {
  public:
    // A new root: its priors by action, of which so many are legal.
    void begin(std::span<const float> priors, int legal, int considered, int simulations, Rng rng) {
        root_priors_.assign(priors.begin(), priors.end());
        gumbels_.resize(priors.size());
        for (float& x : gumbels_) x = static_cast<float>(-std::log(-std::log(rng.uniform() + 0x1.0p-54)));
        schedule_ = considered_visits(std::min(considered, legal), simulations);
    }

    // ---- the edge to follow, by its place in the node ----
    std::size_t choose_at_root(const Tree& tree, int simulation) {
        return considered(tree, schedule_[static_cast<std::size_t>(simulation)]);
    }
    std::size_t choose_below(const Tree& tree, const Node& node) {
        const std::span<float> shares = improved_policy(tree, node);
        const std::span<const Edge> edges = tree.edges_of(node);
        std::uint32_t all = 0;
        for (const Edge& edge : edges) all += edge.visits();
        const float one = 1.0f / static_cast<float>(1 + all);
        for (std::size_t i = 0; i < edges.size(); ++i) shares[i] -= static_cast<float>(edges[i].visits()) * one;
        return static_cast<std::size_t>(std::max_element(shares.begin(), shares.end()) - shares.begin());
    }
    std::size_t best_at_root(const Tree& tree) {
        std::uint32_t most = 0;
        for (const Edge& edge : tree.edges_of(tree.nodes[0])) most = std::max(most, edge.visits());
        return considered(tree, most);
    }

    // softmax(log prior + transformed completed value) by edge; valid until the next call.
    std::span<float> improved_policy(const Tree& tree, const Node& node) {
        score(tree, node);
        softmax(scores_);
        return scores_;
    }

  private:
    // scores_: log prior + transformed completed value, by edge.
    void score(const Tree& tree, const Node& node) {
        const std::span<const Edge> edges = tree.edges_of(node);
        const bool root = &node == tree.nodes.data();
        priors_.clear();
        visits_.clear();
        values_.clear();
        scores_.resize(edges.size());
        for (const Edge& edge : edges) {
            priors_.push_back(root ? root_priors_[static_cast<std::size_t>(tree.action_of(edge))]
                                   : static_cast<float>(edge.mark()) / static_cast<float>(Edge::kSure));
            visits_.push_back(edge.visits());
            values_.push_back(edge.mean());
        }
        completed_values(priors_, visits_, values_, node.worth[0], scores_);
        for (std::size_t i = 0; i < scores_.size(); ++i) scores_[i] += std::log(std::max(priors_[i], 1e-30f));
    }
    // The root's edge of so many visits with the highest Gumbel number + score.
    std::size_t considered(const Tree& tree, std::uint32_t visits) {
        score(tree, tree.nodes[0]);
        const std::span<const Edge> edges = tree.edges_of(tree.nodes[0]);
        std::size_t best = 0;
        float high = -INFINITY;
        for (std::size_t i = 0; i < edges.size(); ++i) {
            if (edges[i].visits() != visits) continue;
            const float here = gumbels_[static_cast<std::size_t>(tree.action_of(edges[i]))] + scores_[i];
            if (here > high) {
                high = here;
                best = i;
            }
        }
        return best;
    }

    std::vector<float> root_priors_, gumbels_;     // by action
    std::vector<std::uint32_t> schedule_;          // by simulation
    std::vector<float> priors_, values_, scores_;  // of a node's edges, kept to be allocated once
    std::vector<std::uint32_t> visits_;
};

}  // namespace spf
