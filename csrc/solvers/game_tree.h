// A game with hidden information in sequence form: the whole tree, walked once, as a few flat arrays.
//
// A player's sequence is its last own (information state, action); with perfect recall it implies all earlier
// ones. Sequence p < P is player p's empty one; then come those of each information state, players in order,
// and a state always after the one that leads to it. Chance is folded into the payoffs: a payoff of a sequence is what
// its player wins where the others' sequences are such and such, so that all it can win is one sum without scatter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "solvers/information_state.h"

namespace spf {

// Every history by itself, for solvers that sample them. Numbered from the leaves up; the start comes last.
// Legend: P players, N histories, E moves.
struct Histories {
    std::vector<std::int32_t> decision;  // [N] the information state to decide in, else kChance or kTerminal
    std::vector<std::uint32_t> first;    // [N + 1] moves of history n, by action: [n] to [n + 1]
    std::vector<std::uint32_t> next;     // [E] the history a move leads to
    std::vector<double> chance;          // [E] probability of nature's moves
    std::vector<double> returns;         // [N, P] of what is over, 0 elsewhere
};

// Legend: P players, A actions, I information states, S sequences, L payoffs, C joint sequences.
struct GameTree {
    using Sequence = std::uint32_t;

    std::size_t players = 0, actions = 0;
    std::vector<InformationState> states;     // [I]
    std::vector<std::size_t> first_state;     // [P + 1] information states of player p: [p] to [p + 1]
    std::vector<Sequence> parent;             // [I] the own sequence that leads there
    std::vector<Sequence> first;              // [I + 1] sequences of information state i: [i] to [i + 1]
    std::vector<std::size_t> entry;           // [S] where a sequence's action stands in a policy table [I, A]
    std::vector<std::uint32_t> first_payoff;  // [S + 1] payoffs of sequence s: [s] to [s + 1]
    std::vector<std::uint32_t> others;        // [L] the other player's sequence; with P > 2 a joint one
    std::vector<double> payoff;               // [L] return times the probability of nature's moves
    std::vector<Sequence> joint;              // [C, P - 1] the others' sequences; empty with P <= 2
    Histories histories;

    std::size_t information_states() const { return states.size(); }
    std::size_t sequences() const { return first.back(); }
    std::size_t begin(std::size_t player) const { return first_state[player]; }
    std::size_t end(std::size_t player) const { return first_state[player + 1]; }
    // The player's sequences, the empty one aside.
    Sequence from(std::size_t player) const { return first[begin(player)]; }
    Sequence to(std::size_t player) const { return first[end(player)]; }

    // Strategies, vectors [S] (the entries of empty sequences mean nothing), from and to policy tables [I, A].
    void read(PolicyTable policy, std::span<double> strategy) const {
        for (std::size_t s = players; s < sequences(); ++s) strategy[s] = policy[entry[s]];
    }
    std::vector<double> strategy(PolicyTable policy) const {
        std::vector<double> result(sequences(), 1.0);
        read(policy, result);
        return result;
    }
    std::vector<double> policy(std::span<const double> strategy) const {
        std::vector<double> result(states.size() * actions, 0.0);
        for (std::size_t s = players; s < sequences(); ++s) result[entry[s]] = strategy[s];
        return result;
    }
    std::vector<double> uniform() const {
        std::vector<double> result(sequences(), 1.0);
        for (std::size_t i = 0; i < states.size(); ++i)
            for (Sequence s = first[i]; s < first[i + 1]; ++s) result[s] = 1.0 / (first[i + 1] - first[i]);
        return result;
    }
};

}  // namespace spf
