// Tic-tac-toe in words: free cells show their number.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "games/tic_tac_toe.h"
#include "text/numbered_board.h"
#include "text/numbers.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<TicTacToe> {
    using State = TicTacToe::State;
    static constexpr bool kLegalList = false;  // the numbers on the board are the list

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: tic-tac-toe. Player O begins, then both mark one free cell in turn. Free cells show "
        "their number. The first full row, column or diagonal of one mark wins; a full board without one is a draw. "
        "Your action is the number of a free cell.";
    static void variant(const TicTacToe&, std::string&) {}

    static void situation(const TicTacToe& game, const State& s, Player player, const Format&, Said, std::string& out) {
        out += player == 0 ? "You are O. Board:" : "You are X. Board:";
        board(game, s, out);
    }

    static void brief(const TicTacToe& game, const State& s, Player player, Said, std::string& out) {
        out += player == 0 ? "player O" : "player X";
        board(game, s, out);
    }

    static void action_words(const TicTacToe&, const State&, Action cell, std::string& out) {
        out += std::to_string(cell);
    }

    static Action read_words(const TicTacToe& game, const State& s, std::string_view words) {
        const std::optional<int> cell = read_number(words);
        if (!cell) return kUnknownWords;
        return game.legal_actions(s).contains(*cell) ? *cell : kIllegalWords;
    }

  private:
    static void board(const TicTacToe& game, const State& s, std::string& out) {
        append_numbered_board(game.size, out, [&](Player p, int cell) { return TicTacToe::is_marked(s, p, cell); });
    }
};

}  // namespace spf
