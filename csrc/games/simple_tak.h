// Simple Tak on size x size cells. Player 0 draws O and begins; action c puts a stone on cell c, counted by rows. A
// path of own stones, side by side, from one edge to the opposite one wins; a full board without is a draw.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/game.h"

namespace spf {

struct SimpleTak {
    int size = 4;

    static constexpr std::string_view kName = "simple_tak";
    static constexpr int kPlayers = 2, kMaxActions = 36, kMaxChance = 0;
    static constexpr bool kZeroSum = true, kPerfectInformation = true;
    static constexpr auto options() {
        return std::array{Option<SimpleTak>{"size", &SimpleTak::size, 4, 6, "cells per side"}};
    }

    struct State {
        std::uint64_t mine = 0;   // stones of whoever is to move, and kLost once the other has a path
        std::uint64_t taken = 0;  // all stones
        bool operator==(const State&) const = default;
    };

    SPF_HD int num_actions() const { return size * size; }
    SPF_HD int max_plies() const { return size * size; }
    SPF_HD int max_turns() const { return size * size; }
    SPF_HD State initial() const { return {}; }

    SPF_HD Player current_player(const State& s) const {
        return (s.mine & kLost) != 0 || s.taken == all_cells() ? kTerminal : next(s);
    }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const {
        ActionSet<kMaxActions> legal;
        if ((s.mine & kLost) == 0) legal.words[0] = all_cells() & ~s.taken;
        return legal;
    }
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State&) const { return {}; }
    SPF_HD void apply(State& s, Action cell) const {
        const std::uint64_t stone = std::uint64_t{1} << cell, theirs = s.taken ^ s.mine;
        const bool path = makes_path(s.mine | stone, stone);
        s.taken |= stone;
        s.mine = theirs | (path ? kLost : 0);
    }
    SPF_HD float returns(const State& s, Player player) const {
        if ((s.mine & kLost) == 0) return 0.0f;
        return player == next(s) ? -1.0f : 1.0f;
    }

    // The board by rows, 'o' and 'x' for players 0 and 1, '.' for a free cell: all there is to know.
    std::string information_state(const State& s, Player) const {
        std::string board;
        for (int cell = 0; cell < size * size; ++cell) {
            if (cell > 0 && cell % size == 0) board += '\n';
            board += has_stone(s, 0, cell) ? 'o' : has_stone(s, 1, cell) ? 'x' : '.';
        }
        return board;
    }

    // Planes as OpenSpiel has them for tic-tac-toe: free cells, stones of player 1, stones of player 0.
    std::array<int, 3> tensor_shape() const { return {3, size, size}; }
    void observation_tensor(const State& s, Player, float* out) const {
        const int cells = size * size;
        for (int cell = 0; cell < cells; ++cell) {
            const bool first = has_stone(s, 0, cell), second = has_stone(s, 1, cell);
            out[cell] = first || second ? 0.0f : 1.0f;
            out[cells + cell] = second ? 1.0f : 0.0f;
            out[2 * cells + cell] = first ? 1.0f : 0.0f;
        }
    }

    SPF_HD static bool has_stone(const State& s, Player player, int cell) {
        const std::uint64_t stones = player == next(s) ? s.mine & s.taken : s.taken & ~s.mine;
        return ((stones >> cell) & 1u) != 0;
    }

  private:
    static constexpr std::uint64_t kLost = std::uint64_t{1} << 63;

    SPF_HD static Player next(const State& s) { return count_bits(s.taken) & 1; }
    SPF_HD std::uint64_t all_cells() const { return (std::uint64_t{1} << (size * size)) - 1; }
    SPF_HD std::uint64_t first_row() const { return (std::uint64_t{1} << size) - 1; }
    SPF_HD std::uint64_t first_column() const {
        return size == 4 ? 0x1111u : size == 5 ? 0x108421u : std::uint64_t{0x41041041u};
    }

    // Does the stone, just put among its player's stones, complete a path? It then belongs to it.
    SPF_HD bool makes_path(std::uint64_t stones, std::uint64_t stone) const {
        const std::uint64_t top = first_row(), bottom = top << (size * (size - 1));
        const std::uint64_t left = first_column(), right = left << (size - 1);
        const bool across = (stones & top) != 0 && (stones & bottom) != 0;
        const bool along = (stones & left) != 0 && (stones & right) != 0;
        if (!across && !along) return false;
        std::uint64_t group = stone, before = 0;
        while (group != before) {
            before = group;
            group |= (group << size) | (group >> size) | ((group & ~right) << 1) | ((group & ~left) >> 1);
            group &= stones;
        }
        return ((group & top) != 0 && (group & bottom) != 0) || ((group & left) != 0 && (group & right) != 0);
    }
};
static_assert(TurnGame<SimpleTak>);

}  // namespace spf
