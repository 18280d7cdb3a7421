// Information-set Monte Carlo tree search (Cowling, Powley and Whitehouse 2012): every simulation draws the world anew
// as the searching player may believe it to be, and goes down trees whose nodes are what somebody knows. With a single
// observer there is one tree, of the searching player's knowledge; with multiple observers every player has its own and
// chooses by it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/game.h"
#include "core/resample.h"
#include "core/rng.h"
#include "search/formulas.h"
#include "search/playout.h"
#include "search/search_options.h"
#include "search/tree.h"

namespace spf {

// All that a player knows, as a number: a game may bring its own, else its key is hashed (FNV-1a).
template <TurnGame Game>
std::uint64_t information_number(const Game& game, const typename Game::State& state, Player player) {
    if constexpr (requires { game.information_number(state, player); }) {
        return game.information_number(state, player);
    } else {
        std::uint64_t hash = 0xCBF29CE484222325u;
        for (const char letter : game.information_state(state, player)) {
            hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001B3u;
        }
        return hash;
    }
}

// What one player knows, as a tree. Several nodes may follow one action: the world decides what it shows.
class KnowledgeTree {
  public:
    static constexpr std::size_t kMost = (std::size_t{1} << 24) - 1;  // nodes
    struct Edge {
        std::uint64_t action : 16 = 0;
        std::uint64_t child : 24 = 0;  // the first of the nodes that followed; 0: none yet
        std::uint64_t visits : 24 = 0;
        float total = 0.0f;
        std::uint32_t chances = 0;  // how often its action was legal when somebody chose here

        std::uint32_t count() const { return static_cast<std::uint32_t>(visits); }
        float mean() const { return visits == 0 ? 0.0f : total / static_cast<float>(count()); }
    };
    struct Node {
        std::uint64_t key = 0;   // what is known there
        std::uint32_t next = 0;  // another node after the same action
        std::uint32_t first = 0;
        std::uint16_t count = 0, room = 0;  // edges, and how many fit where they lie
    };

    void clear(std::size_t max_bytes) {
        nodes_.assign(2, {});  // 0 is nobody's, 1 a root whose only edge leads to what is known at the start
        edges_.assign(1, {});
        nodes_[1].count = nodes_[1].room = 1;
        max_bytes_ = max_bytes;
    }
    std::size_t bytes() const { return nodes_.size() * sizeof(Node) + edges_.size() * sizeof(Edge); }
    std::size_t nodes() const { return nodes_.size(); }
    std::size_t edges() const { return edges_.size(); }
    static constexpr std::uint32_t kStart = 1;

    const Node& node(std::uint32_t at) const { return nodes_[at]; }
    Edge& edge(std::uint32_t at) { return edges_[at]; }
    const Edge& edge(std::uint32_t at) const { return edges_[at]; }
    Action action(std::uint32_t edge) const { return static_cast<Action>(edges_[edge].action); }

    // The edge of an action, made where it is missing; `likely` says how many a node will have.
    std::uint32_t edge_of(std::uint32_t at, Action action, int likely) {
        Node& here = nodes_[at];
        for (std::uint32_t i = here.first; i < here.first + here.count; ++i) {
            if (this->action(i) == action) return i;
        }
        if (here.count == here.room) {
            make_room(here, std::max(likely, 2 * here.room));
        }
        const std::uint32_t edge = here.first + here.count++;
        edges_[edge].action = static_cast<std::uint16_t>(action);
        return edge;
    }
    // The node after an edge for somebody who then knows `key`.
    std::uint32_t follow(std::uint32_t edge, std::uint64_t key) {
        const auto first = static_cast<std::uint32_t>(edges_[edge].child);
        for (std::uint32_t at = first; at != 0; at = nodes_[at].next) {
            if (nodes_[at].key == key) return at;
        }
        if (nodes_.size() > kMost) refuse();
        nodes_.push_back({key, first, 0, 0, 0});
        const auto node = static_cast<std::uint32_t>(nodes_.size() - 1);
        edges_[edge].child = node & kMost;
        return node;
    }

  private:
    [[noreturn]] void refuse() const {
        throw std::length_error("max_bytes: a tree outgrew its share of " + std::to_string(max_bytes_) +
                                " bytes; raise max_bytes, or search fewer rows or simulations");
    }
    void make_room(Node& node, int room) {
        if (bytes() > max_bytes_) refuse();
        const std::size_t first = edges_.size();
        edges_.resize(first + static_cast<std::size_t>(room));
        std::copy_n(edges_.begin() + node.first, node.count, edges_.begin() + static_cast<std::ptrdiff_t>(first));
        node.first = static_cast<std::uint32_t>(first);
        node.room = static_cast<std::uint16_t>(room);
    }

    std::vector<Node> nodes_;
    std::vector<Edge> edges_;
    std::size_t max_bytes_ = 0;
};

template <TurnGame Game>
    requires Resamples<Game>
class Ismcts {
  public:
    using State = typename Game::State;

    Ismcts(const Game& game, const SearchOptions& options, bool multiple)
        : game_(game),
          options_(options),
          multiple_(multiple),
          trees_(multiple ? static_cast<std::size_t>(num_players(game)) : 1),
          places_(trees_.size()),
          dice_(0) {}

    // All simulations for whoever is to move; of `seen` nothing counts but what that player knows.
    void run(const State& seen, std::uint64_t seed, std::size_t max_bytes) {
        observer_ = game_.current_player(seen);
        key_ = information_number(game_, seen, observer_);
        dice_ = Dice(seed);
        for (KnowledgeTree& tree : trees_) tree.clear(max_bytes / trees_.size());
        if (observer_ < 0) return;
        for (int i = 0; i < options_.simulations; ++i) {
            Rng rng = dice_.event();
            simulate(game_.resample(seen, observer_, rng));
        }
    }

    void read(std::span<std::int64_t> visits, std::span<float> values) const {
        if (observer_ < 0) return;
        each_edge([&](Action action, const KnowledgeTree::Edge& edge) {
            visits[static_cast<std::size_t>(action)] = edge.count();
            values[static_cast<std::size_t>(action)] = edge.mean();
        });
    }
    // The action most often chosen, of those the one that paid more.
    Action best() const {
        Action best = kInvalidAction;
        std::tuple<std::uint32_t, float> high{0, 0.0f};
        if (observer_ < 0) return best;
        each_edge([&](Action action, const KnowledgeTree::Edge& edge) {
            const std::tuple<std::uint32_t, float> rank{edge.count(), edge.mean()};
            if (best != kInvalidAction && !(high < rank)) return;
            high = rank;
            best = action;
        });
        return best;
    }
    const std::vector<KnowledgeTree>& trees() const { return trees_; }

  private:
    std::size_t tree_of(Player player) const { return multiple_ ? static_cast<std::size_t>(player) : 0; }
    Player owner(std::size_t tree) const { return multiple_ ? static_cast<Player>(tree) : observer_; }

    void simulate(State world) {
        path_.clear();
        for (std::size_t t = 0; t < trees_.size(); ++t) {
            const std::uint64_t key = owner(t) == observer_ ? key_ : information_number(game_, world, owner(t));
            places_[t] = trees_[t].follow(0, key);
        }
        Player mover = observer_;
        for (bool fresh = false; mover >= 0 && !fresh;) {
            const auto legal = game_.legal_actions(world);
            const std::size_t own = tree_of(mover);
            const std::uint32_t pick = choose(trees_[own], places_[own], legal);
            const Action action = trees_[own].action(pick);
            fresh = trees_[own].edge(pick).visits == 0;
            path_.push_back({pick, mover});
            game_.apply(world, action);
            while ((mover = game_.current_player(world)) == kChance)
                game_.apply(world, draw_chance(game_, world, dice_.event()));
            if (mover < 0) break;
            for (std::size_t t = 0; t < trees_.size(); ++t) {
                const std::uint32_t edge = t == own ? pick : trees_[t].edge_of(places_[t], action, legal.size());
                places_[t] = trees_[t].follow(edge, information_number(game_, world, owner(t)));
            }
        }
        const Returns<Game> returns =
            mover < 0 ? returns_of(game_, world) : play_out(game_, world, options_.rollouts, dice_);
        for (const Step& step : path_) {
            KnowledgeTree::Edge& edge = trees_[tree_of(step.player)].edge(step.edge);
            ++edge.visits;
            edge.total += returns[static_cast<std::size_t>(step.player)];
        }
    }

    // Any legal action once, then mean + c sqrt(log(chances) / n), where an action's chances are the times it was
    // legal.
    template <int N>
    std::uint32_t choose(KnowledgeTree& tree, std::uint32_t at, const ActionSet<N>& legal) {
        const KnowledgeTree::Node node = tree.node(at);
        std::uint32_t found = 0, most = 0;
        bool fresh = false;
        for (std::uint32_t i = node.first; i < node.first + node.count; ++i) {
            if (!legal.contains(tree.action(i))) continue;
            ++found;
            most = std::max(most, ++tree.edge(i).chances);
            fresh |= tree.edge(i).visits == 0;
        }
        if (fresh || found < static_cast<std::uint32_t>(legal.size())) return untried(tree, at, legal);
        return node.first + with_counts(most, [&](const auto& counts) {
                   return highest(node.count, -INFINITY, [&](std::uint32_t i) {
                       const KnowledgeTree::Edge& edge = tree.edge(node.first + i);
                       if (found < node.count && !legal.contains(tree.action(node.first + i))) return -INFINITY;
                       const float r = counts.inverse_root(edge.count());
                       return edge.total * r * r + options_.c * root_of_log(edge.chances) * r;
                   });
               });
    }
    // One of the legal actions that were never chosen here.
    template <int N>
    std::uint32_t untried(KnowledgeTree& tree, std::uint32_t at, const ActionSet<N>& legal) {
        candidates_.clear();
        for (const Action action : legal) {
            const auto before = tree.node(at).count;
            const std::uint32_t edge = tree.edge_of(at, action, legal.size());
            if (tree.node(at).count > before) tree.edge(edge).chances = 1;
            if (tree.edge(edge).visits == 0) candidates_.push_back(action);
        }
        const auto pick = dice_.draws.below(static_cast<std::uint32_t>(candidates_.size()));
        return tree.edge_of(at, candidates_[pick], legal.size());
    }

    template <class Visit>
    void each_edge(const Visit& visit) const {
        const KnowledgeTree& tree = trees_[tree_of(observer_)];
        const KnowledgeTree::Node& node = tree.node(tree.edge(0).child);
        for (std::uint32_t i = node.first; i < node.first + node.count; ++i) visit(tree.action(i), tree.edge(i));
    }

    Game game_;
    SearchOptions options_;
    bool multiple_;
    std::vector<KnowledgeTree> trees_;
    std::vector<std::uint32_t> places_;  // where the simulation stands in every tree
    Dice dice_;
    Player observer_ = kTerminal;
    std::uint64_t key_ = 0;
    std::vector<Step> path_;
    std::vector<Action> candidates_;
};

}  // namespace spf
