// Liar's dice in words: "bid 2 5" is a bid of two fives.
#pragma once

#include <string>
#include <string_view>

#include "games/liars_dice.h"
#include "text/text.h"
#include "text/words.h"

namespace spf {

template <>
struct GameText<LiarsDice> {
    using State = LiarsDice::State;
    using Round = LiarsDice::Round;
    static constexpr bool kLegalList = false;  // up to sixty bids, and a rule that tells them

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: liar's dice. Both players roll their dice in secret, then bid in turn on the dice "
        "of both together: bid 2 5 says that at least two of them show a five. Every bid must be higher than the last: "
        "more dice of any face, or as many dice of a higher face, never more than there are. Instead of bidding you "
        "may "
        "call the last bid. If fewer dice show its face than it says, its bidder loses the call, otherwise the caller "
        "does.";
    static void variant(const LiarsDice& game, std::string& out) {
        const bool match = game.rules == LiarsDice::kTextArena;
        out += match ? "Both begin with " : "Both have ";
        out += std::to_string(game.num_dice()) + (game.num_dice() == 1 ? " die" : " dice");
        out += " with faces 1 to " + std::to_string(game.faces) + ".";
        if (game.is_wild()) out += " A " + std::to_string(game.faces) + " counts as every face.";
        out += match ? " Who loses a call loses a die, all dice are rolled again and the loser bids first. Who has no "
                       "dice left loses the game.\n"
                     : " The first call decides the game.\n";
    }

    static void situation(const LiarsDice& game, const State& s, Player player, const Format&, Said, std::string& out) {
        out += "You are player " + std::to_string(player) + ".";
        const bool match = game.rules == LiarsDice::kTextArena;
        for (int r = 0; r <= s.round; ++r) {
            const Round& round = s.rounds[r];
            if (match) out += "\nRound " + std::to_string(r + 1) + ".";
            out += round.count[player] == 1 ? " Your die:" : " Your dice:";
            dice(game, s, r, player, out);
            out += ". Dice of the other: " + std::to_string(round.count[1 - player]) + ". Bids:";
            Player bidder = round.starter;
            for (const Action bid : LiarsDice::bids(round)) {
                out += bid == LiarsDice::bids(round).nth(0) ? "" : ",";
                out += bidder == player ? " you " : " the other ";
                numbers(game, bid, out);
                bidder = 1 - bidder;
            }
            out += round.bids == 0 ? " none." : ".";
            if (round.loser < 0) continue;
            out += bidder == player ? " You called: " : " The other called: ";
            out += std::to_string(game.showing(round, highest_bit(round.bids))) + " there, ";
            out += round.loser == player ? "you lost." : "the other lost.";
        }
    }

    // "player 0 dice 3 other 1 bids 1 2", of earlier rounds also "call 2 lost 1": two dice showed it, player 1 lost.
    static void brief(const LiarsDice& game, const State& s, Player player, Said, std::string& out) {
        out += "player " + std::to_string(player);
        for (int r = 0; r <= s.round; ++r) {
            const Round& round = s.rounds[r];
            if (game.rules == LiarsDice::kTextArena) out += " round " + std::to_string(r + 1);
            out += " dice";
            dice(game, s, r, player, out);
            out += " other " + std::to_string(round.count[1 - player]) + " bids";
            for (const Action bid : LiarsDice::bids(round)) {
                out += ' ';
                numbers(game, bid, out);
            }
            if (round.bids == 0) out += " none";
            if (round.loser < 0) continue;
            out += " call " + std::to_string(game.showing(round, highest_bit(round.bids)));
            out += " lost " + std::to_string(round.loser);
        }
    }

    static void action_words(const LiarsDice& game, const State&, Action action, std::string& out) {
        out += action == game.call() ? "call" : "bid ";
        if (action != game.call()) numbers(game, action, out);
    }

    // "bid 2 5", "bid: 2, 5" or "bid 2x5"; "liar" calls too.
    static Action read_words(const LiarsDice& game, const State& s, std::string_view words) {
        const auto legal = game.legal_actions(s);
        if (words == "call" || words == "liar") return legal.contains(game.call()) ? game.call() : kIllegalWords;
        if (!skip_word(words, "bid")) return kUnknownWords;
        skip_any(words, " :");
        const int quantity = take_number(words);
        if (skip_any(words, " ,x*-") == 0) return kUnknownWords;
        const int face = take_number(words);
        if (quantity < 0 || face < 0 || !words.empty()) return kUnknownWords;
        if (quantity < 1 || face < 1 || face > game.faces) return kIllegalWords;
        const Action bid = Action{quantity - 1} * game.faces + face - 1;
        return bid < game.call() && legal.contains(bid) ? bid : kIllegalWords;
    }

  private:
    static void numbers(const LiarsDice& game, Action bid, std::string& out) {
        out += std::to_string(bid / game.faces + 1) + " " + std::to_string(bid % game.faces + 1);
    }
    static void dice(const LiarsDice& game, const State& s, int r, Player player, std::string& out) {
        for (const char face : game.sorted_dice(s, r, player)) (out += ' ') += static_cast<char>('1' + face);
    }
};

}  // namespace spf
