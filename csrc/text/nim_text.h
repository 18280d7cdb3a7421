// Nim in words.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "games/nim.h"
#include "text/numbers.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<Nim> {
    using State = Nim::State;
    static constexpr bool kLegalList = false;  // the piles say it

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: Nim. Objects lie in piles, numbered from 0. Both players in turn take one or more "
        "objects, as many as they like, from a single pile. Your action is two numbers, the pile and how many objects "
        "you take from it; for example 1 2 takes two objects from pile 1.";
    static void variant(const Nim& game, std::string& out) {
        out += game.misere == 1 ? "Whoever has to take the last object of all loses.\n"
                                : "Whoever takes the last object of all wins.\n";
    }

    static void situation(const Nim& game, const State& s, Player player, const Format&, Said, std::string& out) {
        out += "You are player " + std::to_string(player) + ".";
        for (int pile = 0; pile < game.num_piles(); ++pile) {
            out += (pile == 0 ? " Pile " : ", pile ") + std::to_string(pile) + " has ";
            out += std::to_string(game.objects(s, pile));
        }
        out += '.';
    }
    static void brief(const Nim& game, const State& s, Player player, Said, std::string& out) {
        out += "player " + std::to_string(player) + " piles";
        for (int pile = 0; pile < game.num_piles(); ++pile) out += " " + std::to_string(game.objects(s, pile));
    }

    static void action_words(const Nim& game, const State&, Action action, std::string& out) {
        out += std::to_string(game.pile_of(action)) + " " + std::to_string(game.taken(action));
    }
    // "1 2", with a comma or without.
    static Action read_words(const Nim& game, const State& s, std::string_view words) {
        const std::size_t blank = words.find(' ');
        if (blank == std::string_view::npos) return kUnknownWords;
        std::string_view first = words.substr(0, blank);
        if (first.ends_with(',')) first.remove_suffix(1);
        const std::optional<int> pile = read_number(first), take = read_number(words.substr(blank + 1));
        if (!pile || !take) return kUnknownWords;
        if (*pile >= game.num_piles() || *take < 1 || *take > game.largest()) return kIllegalWords;
        const Action action = (*take - 1) * game.num_piles() + *pile;
        return game.legal_actions(s).contains(action) ? action : kIllegalWords;
    }
};

}  // namespace spf
