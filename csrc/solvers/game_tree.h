// A game with hidden information in sequence form: the whole tree, walked once, as a few flat arrays.
//
// A player's sequence is its last own (information state, action); with perfect recall it implies all earlier
// ones. Sequence p < P is player p's empty one; then come those of each information state, players in order,
// and a state always after the one that leads to it. Chance is folded into the leaves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/game.h"
#include "solvers/information_state.h"

namespace spf {

// Legend: P players, A actions, I information states, S sequences, L leaves.
struct GameTree {
    using Sequence = std::uint32_t;

    std::size_t players = 0, actions = 0;
    std::vector<InformationState> states;              // [I]
    std::vector<std::size_t> first_state;              // [P + 1] information states of player p: [p] to [p + 1]
    std::vector<Sequence> parent;                      // [I] the own sequence that leads there
    std::vector<Sequence> first;                       // [I + 1] sequences of information state i: [i] to [i + 1]
    std::vector<std::vector<Sequence>> leaf_sequence;  // [P][L]
    std::vector<std::vector<double>> leaf_value;       // [P][L] return times the probability of nature's moves

    std::size_t information_states() const { return states.size(); }
    std::size_t sequences() const { return first.back(); }
    std::size_t leaves() const { return leaf_value.front().size(); }
    std::size_t begin(std::size_t player) const { return first_state[player]; }
    std::size_t end(std::size_t player) const { return first_state[player + 1]; }
    // The player's sequences, the empty one aside.
    Sequence from(std::size_t player) const { return first[begin(player)]; }
    Sequence to(std::size_t player) const { return first[end(player)]; }

    // Strategies, vectors [S] (the entries of empty sequences mean nothing), from and to policy tables [I,
    // A].
    void read(PolicyTable policy, std::span<double> strategy) const {
        for (std::size_t i = 0; i < states.size(); ++i) {
            double* out = strategy.data() + first[i];
            for (const Action action : states[i].legal) *out++ = policy[i * actions + static_cast<std::size_t>(action)];
        }
    }
    std::vector<double> strategy(PolicyTable policy) const {
        std::vector<double> result(sequences(), 1.0);
        read(policy, result);
        return result;
    }
    std::vector<double> policy(std::span<const double> strategy) const {
        std::vector<double> result(states.size() * actions, 0.0);
        for (std::size_t i = 0; i < states.size(); ++i) {
            const double* in = strategy.data() + first[i];
            for (const Action action : states[i].legal) result[i * actions + static_cast<std::size_t>(action)] = *in++;
        }
        return result;
    }
    std::vector<double> uniform() const {
        std::vector<double> result(sequences(), 1.0);
        for (std::size_t i = 0; i < states.size(); ++i)
            for (Sequence s = first[i]; s < first[i + 1]; ++s) result[s] = 1.0 / (first[i + 1] - first[i]);
        return result;
    }
};

template <TurnGame G>
class GameTreeBuilder {
  public:
    // Throws std::invalid_argument beyond max_nodes histories and where a player forgets what it knew or did.
    GameTreeBuilder(const G& game, std::int64_t max_nodes) : game_(game), max_nodes_(max_nodes) {}

    GameTree build() {
        const auto players = static_cast<std::size_t>(num_players(game_));
        tree_.players = players;
        tree_.actions = static_cast<std::size_t>(game_.num_actions());
        tree_.leaf_sequence.resize(players);
        tree_.leaf_value.resize(players);
        next_ = static_cast<Sequence>(players);
        std::vector<Sequence> own(players);
        for (std::size_t player = 0; player < players; ++player) own[player] = static_cast<Sequence>(player);
        walk(game_.initial(), 1.0, own);
        number_by_player();
        return std::move(tree_);
    }

  private:
    using State = typename G::State;
    using Sequence = GameTree::Sequence;

    void walk(const State& state, double chance, std::vector<Sequence>& own) {
        check_size(G::kName, ++nodes_, max_nodes_);
        const Player player = game_.current_player(state);
        if (player == kTerminal) return add_leaf(state, chance, own);
        if (player == kChance) {
            for (const ChanceOutcome& outcome : game_.chance_outcomes(state))
                step(state, outcome.action, chance * outcome.probability, own);
            return;
        }
        const auto mover = static_cast<std::size_t>(player);
        const Sequence arrived = own[mover];
        Sequence sequence = first_[find(state, player, arrived)];
        for (const Action action : game_.legal_actions(state)) {
            own[mover] = sequence++;
            step(state, action, chance, own);
        }
        own[mover] = arrived;
    }

    void step(State state, Action action, double chance, std::vector<Sequence>& own) {
        game_.apply(state, action);
        history_.push_back(action);
        walk(state, chance, own);
        history_.pop_back();
    }

    void add_leaf(const State& state, double chance, const std::vector<Sequence>& own) {
        for (std::size_t player = 0; player < own.size(); ++player) {
            tree_.leaf_sequence[player].push_back(own[player]);
            tree_.leaf_value[player].push_back(chance * double{game_.returns(state, static_cast<Player>(player))});
        }
    }

    // The information state of the player to move; new ones are numbered as they come.
    std::size_t find(const State& state, Player player, Sequence arrived) {
        std::string key = game_.information_state(state, player);
        std::vector<Action> legal;
        for (const Action action : game_.legal_actions(state)) legal.push_back(action);
        const auto [entry, is_new] = index_[player].try_emplace(key, tree_.states.size());
        const std::size_t i = entry->second;
        if (is_new) {
            first_.push_back(next_);
            next_ += static_cast<Sequence>(legal.size());
            tree_.parent.push_back(arrived);
            tree_.states.push_back({player, std::move(key), std::move(legal), history_});
        } else if (tree_.states[i].legal != legal) {
            refuse_game(G::kName, "histories of information state '" + key + "' differ in their legal actions");
        } else if (tree_.parent[i] != arrived) {
            refuse_game(G::kName, "player " + std::to_string(player) + " at information state '" + key +
                                      "' has forgotten what it did before; exact solvers need perfect recall");
        }
        return i;
    }

    // From the order of discovery to players in order; inside a player the order of discovery stays.
    void number_by_player() {
        std::vector<Sequence> renamed(next_);
        GameTree& tree = tree_;
        const auto states = std::exchange(tree.states, {});
        const auto parent = std::exchange(tree.parent, {});
        Sequence next = 0;
        for (; next < tree.players; ++next) renamed[next] = next;
        for (std::size_t player = 0; player < tree.players; ++player) {
            tree.first_state.push_back(tree.states.size());
            for (std::size_t i = 0; i < states.size(); ++i) {
                if (states[i].player != static_cast<Player>(player)) continue;
                tree.states.push_back(states[i]);
                tree.parent.push_back(renamed[parent[i]]);
                tree.first.push_back(next);
                for (std::size_t a = 0; a < states[i].legal.size(); ++a) renamed[first_[i] + a] = next++;
            }
        }
        tree.first_state.push_back(tree.states.size());
        tree.first.push_back(next);
        for (auto& sequences : tree.leaf_sequence)
            for (Sequence& sequence : sequences) sequence = renamed[sequence];
    }

    const G& game_;
    std::int64_t max_nodes_;
    std::size_t nodes_ = 0;
    std::vector<Action> history_;
    std::unordered_map<std::string, std::size_t> index_[G::kPlayers];
    std::vector<Sequence> first_;  // [I] in order of discovery
    Sequence next_ = 0;
    GameTree tree_;
};

}  // namespace spf
