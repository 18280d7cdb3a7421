// Connect Four on six rows and seven columns. Player 0 draws X and begins; action c drops a disc into column c, which
// comes to rest on the lowest free cell; four in a row, column or diagonal win, a full board without is a draw.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/game.h"

namespace spf {

struct ConnectFour {
    int rewards = 0;  // kStandard or kMars

    static constexpr std::string_view kName = "connect_four";
    static constexpr int kRows = 6, kColumns = 7;
    static constexpr int kPlayers = 2, kMaxActions = kColumns, kMaxChance = 0;
    static constexpr bool kZeroSum = true, kPerfectInformation = true;
    static constexpr int kStandard = 0, kMars = 1;
    static constexpr auto options() {
        return std::array{Option<ConnectFour>{.name = "rewards",
                                              .member = &ConnectFour::rewards,
                                              .low = 0,
                                              .high = 1,
                                              .help = "mars: a draw pays 0.1 to both",
                                              .words = "standard mars",
                                              .told = false}};
    }

    // A bit per cell, 8 * row + column from the bottom; the eighth column stays empty, so that no line runs around it.
    struct State {
        std::uint64_t mine = 0;   // discs of whoever is to move, and kLost once the other made four
        std::uint64_t taken = 0;  // all discs
        bool operator==(const State&) const = default;
    };

    bool zero_sum() const { return rewards == kStandard; }
    SPF_HD int num_actions() const { return kColumns; }
    SPF_HD int max_plies() const { return kRows * kColumns; }
    SPF_HD int max_turns() const { return kRows * kColumns; }
    SPF_HD State initial() const { return {}; }

    SPF_HD Player current_player(const State& s) const {
        if ((s.mine & kLost) != 0 || (s.taken & kTopRow) == kTopRow) return kTerminal;
        return next(s);
    }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const {
        ActionSet<kMaxActions> legal;
        if ((s.mine & kLost) == 0) legal.words[0] = (~s.taken & kTopRow) >> kTopShift;
        return legal;
    }
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State&) const { return {}; }
    SPF_HD void apply(State& s, Action column) const {
        const std::uint64_t free = ~s.taken & (kFirstColumn << column);
        const std::uint64_t disc = free & (0 - free);
        const std::uint64_t theirs = s.taken ^ s.mine;
        s.taken |= disc;
        s.mine = theirs | (has_four(s.mine | disc) ? kLost : 0);
    }
    SPF_HD float returns(const State& s, Player player) const {
        if ((s.mine & kLost) != 0) return player == next(s) ? -1.0f : 1.0f;
        return rewards == kMars && current_player(s) == kTerminal ? 0.1f : 0.0f;
    }

    // The board, top row first, 'x' and 'o' for players 0 and 1, '.' for a free cell: all there is to know.
    std::string information_state(const State& s, Player) const {
        std::string board;
        for (int row = kRows - 1; row >= 0; --row) {
            for (int column = 0; column < kColumns; ++column) {
                board += has_disc(s, 0, row, column) ? 'x' : has_disc(s, 1, row, column) ? 'o' : '.';
            }
            if (row > 0) board += '\n';
        }
        return board;
    }

    // OpenSpiel's planes, bottom row first: discs of player 0, discs of player 1, free cells.
    std::array<int, 3> tensor_shape() const { return {3, kRows, kColumns}; }
    void observation_tensor(const State& s, Player, float* out) const {
        constexpr int kCells = kRows * kColumns;
        for (int row = 0; row < kRows; ++row) {
            for (int column = 0; column < kColumns; ++column, ++out) {
                const bool first = has_disc(s, 0, row, column), second = has_disc(s, 1, row, column);
                out[0] = first ? 1.0f : 0.0f;
                out[kCells] = second ? 1.0f : 0.0f;
                out[2 * kCells] = first || second ? 0.0f : 1.0f;
            }
        }
    }

    SPF_HD static bool has_disc(const State& s, Player player, int row, int column) {
        return ((discs(s, player) >> (8 * row + column)) & 1u) != 0;
    }

  private:
    static constexpr std::uint64_t kFirstColumn = 0x0000010101010101u;
    static constexpr int kTopShift = 8 * (kRows - 1);
    static constexpr std::uint64_t kTopRow = std::uint64_t{0x7F} << kTopShift;
    static constexpr std::uint64_t kLost = std::uint64_t{1} << 63;

    SPF_HD static Player next(const State& s) { return count_bits(s.taken) & 1; }
    SPF_HD static std::uint64_t discs(const State& s, Player player) {
        return player == next(s) ? s.mine & s.taken : s.taken & ~s.mine;
    }
    SPF_HD static bool has_four(std::uint64_t discs) {
        std::uint64_t fours = 0;
        for (const int step : {1, 7, 8, 9}) {  // along a row, both diagonals, a column
            const std::uint64_t pairs = discs & (discs >> step);
            fours |= pairs & (pairs >> (2 * step));
        }
        return fours != 0;
    }
};
static_assert(TurnGame<ConnectFour>);

}  // namespace spf
