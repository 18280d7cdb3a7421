// Walks a game once and makes its GameTree.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/game.h"
#include "solvers/game_tree.h"
#include "solvers/information_state.h"

namespace spf {

template <TurnGame G>
class GameTreeBuilder {
  public:
    // Throws std::invalid_argument beyond max_nodes histories and where a player forgets what it knew or did.
    GameTreeBuilder(const G& game, std::int64_t max_nodes) : game_(game), max_nodes_(max_nodes) {}

    GameTree build() {
        const auto players = static_cast<std::size_t>(num_players(game_));
        tree_.players = players;
        tree_.actions = static_cast<std::size_t>(game_.num_actions());
        tree_.histories.first.assign(1, 0);
        next_ = static_cast<Sequence>(players);
        std::vector<Sequence> own(players);
        for (std::size_t player = 0; player < players; ++player) own[player] = static_cast<Sequence>(player);
        walk(game_.initial(), 1.0, own);
        number_by_player();
        add_payoffs();
        return std::move(tree_);
    }

  private:
    using State = typename G::State;
    using Sequence = GameTree::Sequence;

    struct Move {
        std::uint32_t next;
        double chance;
    };
    struct Leaf {
        double chance;
        std::uint32_t history;
    };

    // The number of the history, given once all that follows it has been walked.
    std::uint32_t walk(const State& state, double chance, std::vector<Sequence>& own) {
        check_size(G::kName, ++nodes_, max_nodes_);
        const Player player = game_.current_player(state);
        std::vector<Move> moves;
        std::int32_t decision = player;
        if (player == kTerminal) {
            leaves_.push_back({chance, static_cast<std::uint32_t>(tree_.histories.decision.size())});
            leaf_sequences_.insert(leaf_sequences_.end(), own.begin(), own.end());
        } else if (player == kChance) {
            for (const auto& [action, probability] : game_.chance_outcomes(state))
                moves.push_back({step(state, action, chance * probability, own), probability});
        } else {
            const auto mover = static_cast<std::size_t>(player);
            const Sequence arrived = own[mover];
            const std::size_t i = find(state, player, arrived);
            decision = static_cast<std::int32_t>(i);
            Sequence sequence = first_[i];
            for (const Action action : game_.legal_actions(state)) {
                own[mover] = sequence++;
                moves.push_back({step(state, action, chance, own), 0.0});
            }
            own[mover] = arrived;
        }
        return add_history(state, decision, moves);
    }

    std::uint32_t step(State state, Action action, double chance, std::vector<Sequence>& own) {
        game_.apply(state, action);
        history_.push_back(action);
        const std::uint32_t number = walk(state, chance, own);
        history_.pop_back();
        return number;
    }

    std::uint32_t add_history(const State& state, std::int32_t decision, const std::vector<Move>& moves) {
        Histories& all = tree_.histories;
        for (const Move& move : moves) {
            all.next.push_back(move.next);
            all.chance.push_back(move.chance);
        }
        all.first.push_back(static_cast<std::uint32_t>(all.next.size()));
        for (std::size_t player = 0; player < tree_.players; ++player)
            all.returns.push_back(decision == kTerminal ? double{game_.returns(state, static_cast<Player>(player))}
                                                        : 0);
        all.decision.push_back(decision);
        return static_cast<std::uint32_t>(all.decision.size() - 1);
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
        std::vector<std::int32_t> renumbered(tree_.states.size());
        GameTree& tree = tree_;
        auto states = std::exchange(tree.states, {});
        const auto parent = std::exchange(tree.parent, {});
        Sequence next = 0;
        for (; next < tree.players; ++next) renamed[next] = next;
        tree.entry.assign(tree.players, 0);
        for (std::size_t player = 0; player < tree.players; ++player) {
            tree.first_state.push_back(tree.states.size());
            for (std::size_t i = 0; i < states.size(); ++i) {
                if (states[i].player != static_cast<Player>(player)) continue;
                renumbered[i] = static_cast<std::int32_t>(tree.states.size());
                tree.parent.push_back(renamed[parent[i]]);
                tree.first.push_back(next);
                for (std::size_t a = 0; a < states[i].legal.size(); ++a) renamed[first_[i] + a] = next++;
                for (const Action action : states[i].legal)
                    tree.entry.push_back(tree.states.size() * tree.actions + static_cast<std::size_t>(action));
                tree.states.push_back(std::move(states[i]));
            }
        }
        tree.first_state.push_back(tree.states.size());
        tree.first.push_back(next);
        for (Sequence& sequence : leaf_sequences_) sequence = renamed[sequence];
        for (std::int32_t& decision : tree.histories.decision)
            if (decision >= 0) decision = renumbered[static_cast<std::size_t>(decision)];
    }

    // Leaves with the same sequences of all players are one payoff.
    void add_payoffs() {
        struct Entry {
            Sequence own;
            std::uint32_t others;
            double payoff;
        };
        const std::size_t players = tree_.players;
        std::vector<Entry> entries;
        for (std::size_t l = 0; l < leaves_.size(); ++l) {
            const Sequence* sequences = leaf_sequences_.data() + l * players;
            const double* returns = tree_.histories.returns.data() + leaves_[l].history * players;
            for (std::size_t player = 0; player < players; ++player)
                entries.push_back(
                    {sequences[player], others_of(player, sequences), leaves_[l].chance * returns[player]});
        }
        std::ranges::stable_sort(entries, {}, [](const Entry& e) { return std::tuple(e.own, e.others); });
        tree_.first_payoff.assign(tree_.sequences() + 1, 0);
        for (std::size_t e = 0; e < entries.size(); ++e) {
            const Entry& entry = entries[e];
            if (e > 0 && entries[e - 1].own == entry.own && entries[e - 1].others == entry.others) {
                tree_.payoff.back() += entry.payoff;
                continue;
            }
            tree_.others.push_back(entry.others);
            tree_.payoff.push_back(entry.payoff);
            ++tree_.first_payoff[entry.own + 1];
        }
        for (std::size_t s = 0; s < tree_.sequences(); ++s) tree_.first_payoff[s + 1] += tree_.first_payoff[s];
    }

    std::uint32_t others_of(std::size_t player, const Sequence* sequences) {
        if (tree_.players == 1) return 0;
        if (tree_.players == 2) return sequences[1 - player];
        std::vector<Sequence> others(sequences, sequences + tree_.players);
        others.erase(others.begin() + static_cast<std::ptrdiff_t>(player));
        const auto [entry, is_new] = joint_.try_emplace(others, static_cast<std::uint32_t>(joint_.size()));
        if (is_new) tree_.joint.insert(tree_.joint.end(), others.begin(), others.end());
        return entry->second;
    }

    const G& game_;
    std::int64_t max_nodes_;
    std::size_t nodes_ = 0;
    std::vector<Action> history_;
    std::unordered_map<std::string, std::size_t> index_[G::kPlayers];
    std::vector<Sequence> first_;  // [I] in order of discovery
    std::vector<Leaf> leaves_;
    std::vector<Sequence> leaf_sequences_;  // [leaves, P]
    std::map<std::vector<Sequence>, std::uint32_t> joint_;
    Sequence next_ = 0;
    GameTree tree_;
};

}  // namespace spf
