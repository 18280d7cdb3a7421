// Kuhn poker in words.
#pragma once

#include <string>
#include <string_view>

#include "games/kuhn_poker.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<KuhnPoker> {
    using State = KuhnPoker::State;
    using Hand = KuhnPoker::Hand;
    static constexpr bool kLegalList = true;

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: Kuhn poker. The deck is J, Q, K, from low to high. Both players put in one chip and "
        "get one card. You may check or bet one chip; after a bet you may fold or call. A fold gives the chips to the "
        "other player, otherwise the higher card takes them.";

    static void variant(const KuhnPoker& game, std::string& out) {
        if (game.cards > 3) {
            out += "Here the deck is ";
            for (int card = 0; card < game.cards; ++card) out += (card > 0 ? ", " : "") + card_name(game, card);
            out += ".\n";
        }
        if (game.rounds == 1 && game.rules == KuhnPoker::kCorrect) return;
        out += "The match has " + std::to_string(game.rounds) + (game.rounds == 1 ? " round" : " rounds");
        out += game.rules == KuhnPoker::kTextArena
                   ? ". Every round is worth one chip and the winner of the last round wins the match.\n"
                   : ". Whoever has more chips at the end wins the match.\n";
    }

    static void situation(const KuhnPoker& game, const State& s, Player player, const Format&, Said, std::string& out) {
        out += "You are player " + std::to_string(player) + ".";
        const bool match = game.rounds > 1;
        for (int r = 0; match && r < s.round; ++r) past_round(game, s, r, player, out);
        const int last = s.round < game.rounds ? s.round : game.rounds - 1;
        if (match) out += " Round " + std::to_string(last + 1) + ".";
        const Hand& hand = s.hands[last];
        if (hand.card[player] >= 0) out += " Your card: " + card_name(game, hand.card[player]) + ".";
        out += " Actions so far: ";
        moves(hand, ", ", out);
        out += '.';
    }

    // "player 0 card Q actions check bet"; before it, of past rounds, "round 1 card J other Q actions bet call chips
    // -2".
    static void brief(const KuhnPoker& game, const State& s, Player player, Said, std::string& out) {
        out += "player " + std::to_string(player);
        for (int r = 0; r <= s.round && r < game.rounds; ++r) {
            const Hand& hand = s.hands[r];
            const bool past = r < s.round;
            if (game.rounds > 1) out += " round " + std::to_string(r + 1);
            if (hand.card[player] >= 0) out += " card " + card_name(game, hand.card[player]);
            if (past && !KuhnPoker::is_fold(hand)) out += " other " + card_name(game, hand.card[1 - player]);
            out += " actions ";
            moves(hand, " ", out);
            if (!past) continue;
            const int chips = game.round_chips(s, r, player);
            out += (chips > 0 ? " chips +" : " chips ") + std::to_string(chips);
        }
    }

    static void action_words(const KuhnPoker& game, const State& s, Action action, std::string& out) {
        const bool facing = game.current_player(s) >= 0 && KuhnPoker::faces_bet(s.hands[s.round]);
        out += action == KuhnPoker::kPass ? (facing ? "fold" : "check") : (facing ? "call" : "bet");
    }

    static Action read_words(const KuhnPoker& game, const State& s, std::string_view words) {
        const bool facing = game.current_player(s) >= 0 && KuhnPoker::faces_bet(s.hands[s.round]);
        if (words == "check" || words == "bet") return facing ? kIllegalWords : words == "bet" ? 1 : 0;
        if (words == "fold" || words == "call") return facing ? (words == "call" ? 1 : 0) : kIllegalWords;
        return kUnknownWords;
    }

  private:
    // K is the highest card of every deck.
    static std::string card_name(const KuhnPoker& game, int card) {
        const char* names[KuhnPoker::kMaxCards] = {"9", "10", "J", "Q", "K"};
        return names[card + KuhnPoker::kMaxCards - game.cards];
    }

    static void moves(const Hand& hand, std::string_view separator, std::string& out) {
        if (hand.count == 0) out += "none";
        for (int i = 0; i < hand.count; ++i) {
            const bool facing = (hand.bets & ((1u << i) - 1u)) != 0;
            if (i > 0) out += separator;
            out += KuhnPoker::is_bet(hand, i) ? (facing ? "call" : "bet") : (facing ? "fold" : "check");
        }
    }

    // "Round 1: you K, other Q: bet, call: +2." The other card is told only where it was shown.
    static void past_round(const KuhnPoker& game, const State& s, int r, Player player, std::string& out) {
        const Hand& hand = s.hands[r];
        out += " Round " + std::to_string(r + 1) + ": you " + card_name(game, hand.card[player]);
        if (!KuhnPoker::is_fold(hand)) out += ", other " + card_name(game, hand.card[1 - player]);
        out += ": ";
        moves(hand, ", ", out);
        const int chips = game.round_chips(s, r, player);
        out += (chips > 0 ? ": +" : ": ") + std::to_string(chips) + ".";
    }
};

}  // namespace spf
