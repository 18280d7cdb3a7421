// Pig in words.
#pragma once

#include <string>
#include <string_view>

#include "games/pig.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<Pig> {
    using State = Pig::State;
    static constexpr bool kLegalList = true;

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: pig. In your turn you roll a die as often as you like. A 2 to 6 adds its number to "
        "the points of the turn; a 1 loses them and ends the turn. Instead of rolling you may hold: the points of the "
        "turn are added to your score and the turn ends. Whoever first holds with the target score or more wins.";
    static void variant(const Pig& game, std::string& out) {
        out += "The target is " + std::to_string(game.goal()) + ". After " + std::to_string(game.limit());
        out += game.rules == Pig::kTextArena
                   ? " turns of both together, or " + std::to_string(game.max_turns()) +
                         " rolls and holds, the higher score wins.\n"
                   : " rolls and holds of both together without a winner the game is a draw. Who would win by holding "
                     "must hold.\n";
    }

    static void situation(const Pig& game, const State& s, Player player, const Format&, Said, std::string& out) {
        out += "You are player " + std::to_string(player) + ". Your score: " + std::to_string(s.score[player]) +
               ". Score of the other: " + std::to_string(s.score[1 - player]) +
               ". Points of this turn: " + std::to_string(s.turn_total) + ". ";
        if (game.rules == Pig::kTextArena) {
            out += "Turn " + std::to_string(s.turns + 1) + " of " + std::to_string(game.limit()) + ". ";
        }
        out += "Rolls and holds so far: " + std::to_string(s.moves) + " of " + std::to_string(game.max_turns()) + ".";
    }

    // "player 0 score 12 other 30 points 7 move 14 of 1000", under textarena's rules also "turn 5 of 50".
    static void brief(const Pig& game, const State& s, Player player, Said, std::string& out) {
        out += "player " + std::to_string(player) + " score " + std::to_string(s.score[player]) + " other " +
               std::to_string(s.score[1 - player]) + " points " + std::to_string(s.turn_total);
        if (game.rules == Pig::kTextArena) {
            out += " turn " + std::to_string(s.turns + 1) + " of " + std::to_string(game.limit());
        }
        out += " move " + std::to_string(s.moves + 1) + " of " + std::to_string(game.max_turns());
    }

    static void action_words(const Pig&, const State&, Action action, std::string& out) {
        out += action == Pig::kRoll ? "roll" : "hold";
    }
    static Action read_words(const Pig& game, const State& s, std::string_view words) {
        const bool may_roll = game.legal_actions(s).contains(Pig::kRoll);
        if (words == "roll" || words == "r") return may_roll ? Pig::kRoll : kIllegalWords;
        if (words == "hold" || words == "h" || words == "stop") return Pig::kHold;
        return kUnknownWords;
    }
};

}  // namespace spf
