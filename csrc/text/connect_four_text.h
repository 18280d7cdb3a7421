// Connect Four in words: the board under the numbers of its columns.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "games/connect_four.h"
#include "text/numbers.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<ConnectFour> {
    using State = ConnectFour::State;
    static constexpr bool kLegalList = false;  // a column is open while its top cell shows a dot

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: Connect Four. Player X begins, then both in turn drop a disc into one of the seven "
        "columns, where it falls onto the lowest free cell. The first four discs of one player side by side in a row, "
        "a column or a diagonal win; a full board without them is a draw. Your action is the number of a column that "
        "is not full.";
    static void variant(const ConnectFour&, std::string&) {}

    static void situation(const ConnectFour&, const State& s, Player player, const Format&, Said, std::string& out) {
        out += player == 0 ? "You are X. Board:" : "You are O. Board:";
        board(s, out);
    }
    static void brief(const ConnectFour&, const State& s, Player player, Said, std::string& out) {
        out += player == 0 ? "player X" : "player O";
        board(s, out);
    }

    static void action_words(const ConnectFour&, const State&, Action column, std::string& out) {
        out += std::to_string(column);
    }
    // "3", "col 3" or "column 3".
    static Action read_words(const ConnectFour& game, const State& s, std::string_view words) {
        for (const std::string_view lead : {"column ", "col "}) {
            if (words.starts_with(lead)) words.remove_prefix(lead.size());
        }
        const std::optional<int> column = read_number(words);
        if (!column) return kUnknownWords;
        return game.legal_actions(s).contains(*column) ? *column : kIllegalWords;
    }

  private:
    static void board(const State& s, std::string& out) {
        out += '\n';
        for (int column = 0; column < ConnectFour::kColumns; ++column) {
            if (column > 0) out += ' ';
            out += std::to_string(column);
        }
        for (int row = ConnectFour::kRows - 1; row >= 0; --row) {
            for (int column = 0; column < ConnectFour::kColumns; ++column) {
                out += column == 0 ? '\n' : ' ';
                out += ConnectFour::has_disc(s, 0, row, column)   ? 'X'
                       : ConnectFour::has_disc(s, 1, row, column) ? 'O'
                                                                  : '.';
            }
        }
    }
};

}  // namespace spf
