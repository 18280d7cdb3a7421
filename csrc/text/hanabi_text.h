// Hanabi in words. A card is written R1; what its holder knows of it as the color and the rank it was told, or in
// braces all that they may still be: R{123}.
#pragma once

#include <string>
#include <string_view>

#include "games/hanabi.h"
#include "text/text.h"
#include "text/words.h"

namespace spf {

template <>
struct GameText<Hanabi> {
    using State = Hanabi::State;
    using Hand = Hanabi::Hand;
    using Move = Hanabi::Move;
    static constexpr bool kLegalList = true;

    static constexpr std::string_view kRules =
        "Cooperative game: Hanabi. All players get the same score: the number of cards played onto fireworks, one "
        "firework per color, each built from rank 1 upwards. Of every color the deck holds three cards of rank 1, one "
        "of the highest rank and two of each rank between. You see the hands of the others and not your own. In your "
        "turn you play a card, discard one, or reveal to another player which of its cards have one color or one rank. "
        "A reveal takes an information token; a discard, and the last card of a firework, give one back. A played card "
        "that does not come next on its firework is discarded and takes a life; with the last life the score is 0. "
        "Played and discarded cards are replaced from the deck, and once it is empty every player has one more turn. "
        "Cards in a hand are numbered from 0, the oldest first, and a new card comes last. R1 is a red 1; braces show "
        "all that its holder can tell from the reveals, as in {RY}{12}, or R{12} where the color was told.";
    static void variant(const Hanabi& game, std::string& out) {
        out += std::to_string(game.players) + " players with " + std::to_string(game.hand_size()) +
               (game.hand_size() == 1 ? " card" : " cards") + " each; colors " +
               std::string(kLetters.substr(0, static_cast<std::size_t>(game.colors))) + ", ranks up to " +
               std::to_string(game.ranks) + "; at most " + std::to_string(game.info_tokens) +
               " information tokens; lives: " + std::to_string(game.life_tokens) + ".\n";
    }

    static void situation(const Hanabi& game, const State& s, Player player, const Format&, Said, std::string& out) {
        out += "You are player " + std::to_string(player) + ". Fireworks:";
        fireworks(game, s, out);
        out += ". Information tokens: " + std::to_string(s.info) + ". Lives: " + std::to_string(s.life) +
               ". Cards in the deck: " + std::to_string(s.deck_size) + ". Discarded:";
        discards(game, s, out);
        out += ".\nYour cards:";
        hand(game, s, player, false, out);
        out += ".";
        for (int ahead = 1; ahead < game.players; ++ahead) {
            const Player other = game.seat(player + ahead);
            out += "\nPlayer " + std::to_string(other) + " holds";
            hand(game, s, other, true, out);
            out += '.';
            if (s.last[other].action == Move::kNone) continue;
            out += " Its last move: ";
            past_move(game, s, other, out);
            out += '.';
        }
    }

    // "player 0 fireworks R1 Y0 info 7 life 3 deck 38 discards none own {RY}{12} R{12} player 1 R1{RY}{12} did play 0
    // R1 scored"
    static void brief(const Hanabi& game, const State& s, Player player, Said, std::string& out) {
        out += "player " + std::to_string(player) + " fireworks";
        fireworks(game, s, out);
        out += " info " + std::to_string(s.info) + " life " + std::to_string(s.life) + " deck " +
               std::to_string(s.deck_size) + " discards";
        discards(game, s, out);
        out += " own";
        for (int ahead = 0; ahead < game.players; ++ahead) {
            const Player other = game.seat(player + ahead);
            if (ahead > 0) out += " player " + std::to_string(other);
            for (int slot = 0; slot < s.hands[other].count; ++slot) {
                out += ' ';
                if (ahead > 0) card(s.hands[other].card[slot], out);
                knowledge(game, s.hands[other].known[slot], out);
            }
            if (ahead == 0 || s.last[other].action == Move::kNone) continue;
            out += " did ";
            past_move(game, s, other, out);
        }
    }

    static void action_words(const Hanabi& game, const State& s, Action action, std::string& out) {
        words(game, s.to_move, action, out);
    }

    // "play 0", "discard 0", "reveal player 1 color r", "reveal player 1 rank 2"; "card" may stand before a number, and
    // "+1" is the player one seat on.
    static Action read_words(const Hanabi& game, const State& s, std::string_view words) {
        const auto judge = [&](int action) {
            return game.legal_actions(s).contains(action) ? Action{action} : kIllegalWords;
        };
        const bool plays = skip_word(words, "play ");
        if (plays || skip_word(words, "discard ")) {
            skip_word(words, "card ");
            const int slot = take_number(words);
            if (slot < 0 || !words.empty()) return kUnknownWords;
            return slot < game.hand_size() ? judge(slot + (plays ? game.hand_size() : 0)) : kIllegalWords;
        }
        if (!skip_word(words, "reveal ")) return kUnknownWords;
        skip_word(words, "to ");
        skip_word(words, "player ");
        const bool relative = skip_word(words, "+");
        const int number = take_number(words);
        const bool color = skip_word(words, " color ") || skip_word(words, " colour ");
        if (number < 0 || words.empty() || (!color && !skip_word(words, " rank "))) return kUnknownWords;
        if (number >= game.players) return kIllegalWords;
        const int ahead = relative ? number : game.seat(number + game.players - s.to_move);
        if (ahead == 0) return kIllegalWords;
        if (color) {
            const int value = color_named(words);
            if (value < 0) return kUnknownWords;
            return value < game.colors ? judge(game.first_color() + (ahead - 1) * game.colors + value) : kIllegalWords;
        }
        const int rank = take_number(words);
        if (rank < 0 || !words.empty()) return kUnknownWords;
        if (rank < 1 || rank > game.ranks) return kIllegalWords;
        return judge(game.first_rank() + (ahead - 1) * game.ranks + rank - 1);
    }

  private:
    static constexpr std::string_view kLetters = "RYGWB";

    static int color_named(std::string_view word) {
        constexpr std::string_view kNames[] = {"red", "yellow", "green", "white", "blue"};
        for (int color = 0; color < Hanabi::kMaxColors; ++color) {
            const std::string_view name = kNames[color];
            if (word == name || word == name.substr(0, 1)) return color;
        }
        return -1;
    }

    static void words(const Hanabi& game, Player mover, Action action, std::string& out) {
        if (action < game.first_color()) {
            out += action < game.hand_size() ? "discard " : "play ";
            out += std::to_string(action % game.hand_size());
            return;
        }
        const Hanabi::Hint told = game.hint(action);
        out += "reveal player " + std::to_string(game.seat(mover + told.ahead));
        out += told.is_color ? " color " : " rank ";
        out += told.is_color ? kLetters[static_cast<std::size_t>(told.value)] : static_cast<char>('1' + told.value);
    }
    // "reveal player 1 rank 2 of 0 3", "play 0 R1 scored", "play 2 G4 failed", "discard 1 Y1"
    static void past_move(const Hanabi& game, const State& s, Player mover, std::string& out) {
        const Move& move = s.last[mover];
        words(game, mover, move.action, out);
        if (move.action >= game.first_color()) {
            out += " of";
            for (int slot = 0; slot < game.hand_size(); ++slot) {
                if (((move.touched >> slot) & 1) != 0) out += " " + std::to_string(slot);
            }
            return;
        }
        out += ' ';
        card(move.card, out);
        if (move.action < game.hand_size()) return;
        out += move.scored ? " scored" : " failed";
        if (move.token) out += " token";
    }

    static void card(int card, std::string& out) {
        out += kLetters[static_cast<std::size_t>(Hanabi::color_of(card))];
        out += static_cast<char>('1' + Hanabi::rank_of(card));
    }
    static void knowledge(const Hanabi& game, unsigned known, std::string& out) {
        const auto part = [&](bool told, unsigned bits, int n, std::string_view names) {
            if (!told) out += '{';
            for (int i = 0; i < n; ++i) {
                if (((bits >> i) & 1u) != 0) out += names[static_cast<std::size_t>(i)];
            }
            if (!told) out += '}';
        };
        part((known & Hanabi::kColorTold) != 0, known, game.colors, kLetters);
        part((known & Hanabi::kRankTold) != 0, known >> Hanabi::kRankShift, game.ranks, "12345");
    }
    static void hand(const Hanabi& game, const State& s, Player holder, bool open, std::string& out) {
        const Hand& held = s.hands[holder];
        for (int slot = 0; slot < held.count; ++slot) {
            out += (slot > 0 ? ", " : " ") + std::to_string(slot) + ": ";
            if (open) card(held.card[slot], out);
            if (open) out += ' ';
            knowledge(game, held.known[slot], out);
        }
    }
    static void fireworks(const Hanabi& game, const State& s, std::string& out) {
        for (int color = 0; color < game.colors; ++color) {
            (out += ' ') += kLetters[static_cast<std::size_t>(color)];
            out += std::to_string(s.fireworks[color]);
        }
    }
    static void discards(const Hanabi& game, const State& s, std::string& out) {
        const std::size_t start = out.size();
        for (int number = 0; number < game.colors * game.ranks; ++number) {
            for (int n = game.discarded(s, game.card_of(number)); n > 0; --n) {
                out += ' ';
                card(game.card_of(number), out);
            }
        }
        if (out.size() == start) out += " none";
    }
};

}  // namespace spf
