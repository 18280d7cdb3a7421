// Simple Tak in words: free cells show their number.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "games/simple_tak.h"
#include "text/numbered_board.h"
#include "text/numbers.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<SimpleTak> {
    using State = SimpleTak::State;
    static constexpr bool kLegalList = false;  // the numbers on the board are the list

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: Simple Tak. Player O begins, then both put one stone on a free cell in turn. Free "
        "cells show their number. Whoever first has an unbroken path of own stones, each above, below or beside the "
        "next, from the top row to the bottom row or from the left column to the right column wins; a full board "
        "without a path is a draw. Your action is the number of a free cell.";
    static void variant(const SimpleTak&, std::string&) {}

    static void situation(const SimpleTak& game, const State& s, Player player, const Format&, Said, std::string& out) {
        out += player == 0 ? "You are O. Board:" : "You are X. Board:";
        board(game, s, out);
    }
    static void brief(const SimpleTak& game, const State& s, Player player, Said, std::string& out) {
        out += player == 0 ? "player O" : "player X";
        board(game, s, out);
    }

    static void action_words(const SimpleTak&, const State&, Action cell, std::string& out) {
        out += std::to_string(cell);
    }
    static Action read_words(const SimpleTak& game, const State& s, std::string_view words) {
        const std::optional<int> cell = read_number(words);
        if (!cell) return kUnknownWords;
        return game.legal_actions(s).contains(*cell) ? *cell : kIllegalWords;
    }

  private:
    static void board(const SimpleTak& game, const State& s, std::string& out) {
        append_numbered_board(game.size, out, [&](Player p, int cell) { return SimpleTak::has_stone(s, p, cell); });
    }
};

}  // namespace spf
