// Tic-tac-toe on size x size cells. Player 0 draws O and begins; action c marks cell c, counted by rows; a full
// row, column or diagonal wins.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/game.h"

namespace spf {

struct TicTacToe {
    int size = 3;

    static constexpr std::string_view kName = "tic_tac_toe";
    static constexpr int kPlayers = 2, kMaxActions = 25, kMaxChance = 0;
    static constexpr bool kZeroSum = true, kPerfectInformation = true;
    static constexpr auto options() {
        return std::array{Option<TicTacToe>{"size", &TicTacToe::size, 3, 5, "cells per side", {}, 2}};
    }

    struct State {
        std::uint32_t marks[2] = {0, 0};  // one bit per cell, by player
        bool operator==(const State&) const = default;
    };

    SPF_HD int num_actions() const { return size * size; }
    SPF_HD int max_plies() const { return size * size; }
    SPF_HD int max_turns() const { return size * size; }
    SPF_HD State initial() const { return {}; }

    SPF_HD Player current_player(const State& s) const {
        if (has_line(s.marks[0]) || has_line(s.marks[1]) || occupied(s) == all_cells()) return kTerminal;
        return count_bits(s.marks[0]) == count_bits(s.marks[1]) ? 0 : 1;
    }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const {
        ActionSet<kMaxActions> legal;
        if (current_player(s) != kTerminal) legal.words[0] = all_cells() & ~occupied(s);
        return legal;
    }
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State&) const { return {}; }
    SPF_HD void apply(State& s, Action cell) const { s.marks[current_player(s)] |= 1u << cell; }
    SPF_HD float returns(const State& s, Player player) const {
        if (has_line(s.marks[player])) return 1.0f;
        return has_line(s.marks[1 - player]) ? -1.0f : 0.0f;
    }

    // The board by rows, 'o' and 'x' for players 0 and 1, '.' for a free cell: all there is to know.
    std::string information_state(const State& s, Player) const {
        std::string board;
        for (int cell = 0; cell < size * size; ++cell) {
            if (cell > 0 && cell % size == 0) board += '\n';
            board += is_marked(s, 0, cell) ? 'o' : is_marked(s, 1, cell) ? 'x' : '.';
        }
        return board;
    }

    // OpenSpiel's planes: free cells, marks of player 1, marks of player 0.
    std::array<int, 3> tensor_shape() const { return {3, size, size}; }
    void observation_tensor(const State& s, Player, float* out) const {
        const int cells = size * size;
        for (int cell = 0; cell < cells; ++cell) {
            out[cell] = is_marked(s, 0, cell) || is_marked(s, 1, cell) ? 0.0f : 1.0f;
            out[cells + cell] = is_marked(s, 1, cell) ? 1.0f : 0.0f;
            out[2 * cells + cell] = is_marked(s, 0, cell) ? 1.0f : 0.0f;
        }
    }

    SPF_HD static bool is_marked(const State& s, Player player, int cell) {
        return ((s.marks[player] >> cell) & 1u) != 0;
    }

  private:
    SPF_HD std::uint32_t all_cells() const { return (1u << (size * size)) - 1u; }
    SPF_HD static std::uint32_t occupied(const State& s) { return s.marks[0] | s.marks[1]; }
    SPF_HD bool has_line(std::uint32_t marks) const {
        const std::uint32_t row = (1u << size) - 1u;
        std::uint32_t column = 0, down = 0, up = 0;
        for (int i = 0; i < size; ++i) {
            column |= 1u << (i * size);
            down |= 1u << (i * size + i);
            up |= 1u << (i * size + size - 1 - i);
        }
        if ((marks & down) == down || (marks & up) == up) return true;
        for (int i = 0; i < size; ++i) {
            if (((marks >> (i * size)) & row) == row || ((marks >> i) & column) == column) return true;
        }
        return false;
    }
};
static_assert(TurnGame<TicTacToe>);

}  // namespace spf
