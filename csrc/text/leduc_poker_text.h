// Leduc poker in words.
#pragma once

#include <string>
#include <string_view>

#include "games/leduc_poker.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<LeducPoker> {
    using State = LeducPoker::State;
    static constexpr bool kLegalList = true;

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: Leduc poker. The deck has six cards, J, Q and K of spades and of hearts; suits do "
        "not count. Both players put in one chip and get one card. After a round of betting one card is turned over "
        "for both, and a second round follows; player 0 begins each. You may call, which costs nothing if you are not "
        "behind, raise by 2 chips in the first round and by 4 in the second, at most two raises in a round, or fold "
        "if you are behind. A fold gives the chips to the other player. Otherwise a pair with the open card takes "
        "them, else the higher card; equal cards share.";
    static void variant(const LeducPoker&, std::string&) {}

    static void situation(const LeducPoker&, const State& s, Player player, const Format&, Said, std::string& out) {
        out += "You are player " + std::to_string(player) + ".";
        if (s.card[player] >= 0) out += " Your card: " + card_name(s.card[player]) + ".";
        if (s.board >= 0) out += " Open card: " + card_name(s.board) + ".";
        out += " Chips put in: you " + std::to_string(s.chips[player]) + ", the other " +
               std::to_string(s.chips[1 - player]) + ". Round 1: ";
        moves(s, 0, ", ", out);
        if (s.board >= 0) {
            out += ". Round 2: ";
            moves(s, 1, ", ", out);
        }
        out += '.';
    }

    // "player 0 card Qs round 1 raise call open Kh round 2 none"
    static void brief(const LeducPoker&, const State& s, Player player, Said, std::string& out) {
        out += "player " + std::to_string(player);
        if (s.card[player] >= 0) out += " card " + card_name(s.card[player]);
        out += " round 1 ";
        moves(s, 0, " ", out);
        if (s.board < 0) return;
        out += " open " + card_name(s.board) + " round 2 ";
        moves(s, 1, " ", out);
    }

    static void action_words(const LeducPoker&, const State&, Action action, std::string& out) {
        out += kWords[static_cast<std::size_t>(action)];
    }

    static Action read_words(const LeducPoker& game, const State& s, std::string_view words) {
        const auto legal = game.legal_actions(s);
        const bool behind = legal.contains(LeducPoker::kFold);
        for (const Action action : {LeducPoker::kFold, LeducPoker::kCall, LeducPoker::kRaise}) {
            if (words == kWords[static_cast<std::size_t>(action)])
                return legal.contains(action) ? action : kIllegalWords;
        }
        if (words == "check") return behind ? kIllegalWords : LeducPoker::kCall;
        if (words == "bet") return behind || s.raises > 0 ? kIllegalWords : LeducPoker::kRaise;
        return kUnknownWords;
    }

  private:
    static constexpr std::string_view kWords[] = {"fold", "call", "raise"};

    static std::string card_name(int card) { return {"JQK"[LeducPoker::rank(card)], "sh"[card % 2]}; }
    static void moves(const State& s, int round, std::string_view separator, std::string& out) {
        if (s.count[round] == 0) out += "none";
        for (int i = 0; i < s.count[round]; ++i) {
            if (i > 0) out += separator;
            out += kWords[static_cast<std::size_t>(LeducPoker::move(s, round, i))];
        }
    }
};

}  // namespace spf
