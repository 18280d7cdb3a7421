// Snake in words: the grid, and how the bodies lie.
#pragma once

#include <string>
#include <string_view>

#include "games/snake.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<Snake> {
    using State = Snake::State;
    static constexpr bool kLegalList = false;  // always the same four words

    static constexpr std::string_view kRules =
        "Two-player game: Snake. Each player steers a snake on a grid, and both move one cell at the same time. A "
        "snake "
        "whose head comes to an apple grows by one cell; otherwise its tail leaves a cell free as its head takes one. "
        "A "
        "snake dies if it leaves the grid, enters a cell in which part of a snake stays, or meets the other head, in "
        "one cell or by changing places with it. The survivor wins; if both die in the same move, it is a draw. If "
        "both "
        "live to the end, the longer snake wins. On the grid 0 and 1 are the heads, # is a body, A an apple, a dot a "
        "free cell. Your action is up, down, left or right.";
    static void variant(const Snake& game, std::string& out) {
        out += "The game lasts " + std::to_string(game.max_ticks()) + " moves; ";
        out += game.rules == Snake::kTextArena ? "equally long snakes both win.\n" : "equally long snakes draw.\n";
    }

    static void situation(const Snake& game, const State& s, Player player, const Format&, Said, std::string& out) {
        out += "You are snake " + std::to_string(player) + ". Move " + std::to_string(move_number(game, s)) + " of " +
               std::to_string(game.max_ticks()) + ". Grid:";
        grid(game, s, out);
        for (Player p = 0; p < Snake::kPlayers; ++p) {
            out += "\nSnake " + std::to_string(p);
            if (s.snakes[p].length == 1) {
                out += " has no body yet.";
                continue;
            }
            out += ", from its head:";
            body(s, s.snakes[p], ", ", out);
            out += '.';
        }
    }

    //     player 0 move 3 of 20
    //     (the grid)
    //     0 down left
    //     1 none
    static void brief(const Snake& game, const State& s, Player player, Said, std::string& out) {
        out += "player " + std::to_string(player) + " move " + std::to_string(move_number(game, s)) + " of " +
               std::to_string(game.max_ticks());
        grid(game, s, out);
        for (Player p = 0; p < Snake::kPlayers; ++p) {
            out += '\n' + std::to_string(p);
            if (s.snakes[p].length == 1) out += " none";
            body(s, s.snakes[p], " ", out);
        }
    }

    static void action_words(const Snake&, const State&, Player, Action action, std::string& out) {
        out += kWords[action];
    }
    // "up" or "w" and so on.
    static Action read_words(const Snake& game, const State& s, Player player, std::string_view words) {
        constexpr std::string_view kKeys[] = {"w", "s", "a", "d"};
        for (Action action = 0; action < 4; ++action) {
            if (words != kWords[action] && words != kKeys[action]) continue;
            return game.legal_actions(s, player).contains(action) ? action : kIllegalWords;
        }
        return kUnknownWords;
    }

  private:
    static constexpr std::string_view kWords[] = {"up", "down", "left", "right"};

    static int move_number(const Snake& game, const State& s) {
        return static_cast<int>(s.tick) < game.max_ticks() ? static_cast<int>(s.tick) + 1 : game.max_ticks();
    }
    static void grid(const Snake& game, const State& s, std::string& out) {
        for (int y = game.height - 1; y >= 0; --y) {
            for (int x = 0; x < game.width; ++x) {
                out += x == 0 ? '\n' : ' ';
                out += mark(s, y * game.width + x);
            }
        }
    }
    static char mark(const State& s, int cell) {
        for (Player p = 0; p < Snake::kPlayers; ++p) {
            if (s.snakes[p].alive && s.snakes[p].head == cell) return static_cast<char>('0' + p);
        }
        for (const Snake::Body& snake : s.snakes) {
            if (snake.alive && snake.cells.contains(cell)) return '#';
        }
        return s.apples.contains(cell) ? 'A' : '.';
    }
    // The way from the head to the tail, cell by cell.
    static void body(const State& s, const Snake::Body& snake, std::string_view separator, std::string& out) {
        for (int i = 0; i + 1 < snake.length; ++i) {
            out += i == 0 ? " " : separator;
            out += kWords[Snake::backwards(s, snake, i)];
        }
    }
};

}  // namespace spf
