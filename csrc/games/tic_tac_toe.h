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
    int rewards = 0;  // kStandard or kMars

    static constexpr std::string_view kName = "tic_tac_toe";
    static constexpr int kPlayers = 2, kMaxActions = 25, kMaxChance = 0;
    static constexpr bool kZeroSum = true, kPerfectInformation = true;
    static constexpr int kStandard = 0, kMars = 1;
    static constexpr auto options() {
        return std::array{Option<TicTacToe>{"size", &TicTacToe::size, 3, 5, "cells per side", {}, 2},
                          Option<TicTacToe>{.name = "rewards",
                                            .member = &TicTacToe::rewards,
                                            .low = 0,
                                            .high = 1,
                                            .help = "mars: a draw pays 0.1 to both",
                                            .words = "standard mars",
                                            .told = false}};
    }

    struct State {
        std::uint32_t mine = 0;   // cells of whoever is to move, one bit each, and kLost once the other has a line
        std::uint32_t taken = 0;  // all marked cells
        bool operator==(const State&) const = default;
    };

    bool zero_sum() const { return rewards == kStandard; }
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
        const std::uint32_t mark = 1u << cell, theirs = s.taken ^ s.mine;
        const bool line = size == 3 ? has_line<3>(s.mine | mark) : has_line<5>(s.mine | mark);
        s.taken |= mark;
        s.mine = theirs | (line ? kLost : 0);
    }
    SPF_HD float returns(const State& s, Player player) const {
        if ((s.mine & kLost) != 0) return player == next(s) ? -1.0f : 1.0f;
        return rewards == kMars && current_player(s) == kTerminal ? 0.1f : 0.0f;
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
        return ((marks(s, player) >> cell) & 1u) != 0;
    }

  private:
    static constexpr std::uint32_t kLost = 1u << 31;

    SPF_HD std::uint32_t all_cells() const { return (1u << (size * size)) - 1u; }
    SPF_HD static Player next(const State& s) { return count_bits(s.taken) & 1; }
    SPF_HD static std::uint32_t marks(const State& s, Player player) {
        return player == next(s) ? s.mine & s.taken : s.taken & ~s.mine;
    }

    template <int N>
    SPF_HD static bool has_line(std::uint32_t marks) {
        std::uint32_t row_starts = 0, down = 0, up = 0, rows = marks, columns = marks;
        for (int i = 0; i < N; ++i) {
            row_starts |= 1u << (i * N);
            down |= 1u << (i * N + i);
            up |= 1u << (i * N + N - 1 - i);
            rows &= marks >> i;
            columns &= marks >> (i * N);
        }
        return (((rows & row_starts) | (columns & ((1u << N) - 1u))) != 0) | ((marks & down) == down) |
               ((marks & up) == up);
    }
};
static_assert(TurnGame<TicTacToe>);

}  // namespace spf
