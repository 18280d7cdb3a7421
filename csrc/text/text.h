// The words of a game. Each game specialises GameText; everything around it is the same for all games.
//
// An observation begins with what never changes (task, rules, reply format) and ends with what does (who you are, what
// you see), so that prompts share long prefixes. Style brief keeps the name of the game and what matters now, for
// small models that learn the rules by playing. Style mars numbers the turns of a game for chats that only grow, lists
// the legal actions and takes one of them between <answer> and </answer>.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "core/game.h"
#include "core/joint_game.h"
#include "core/options.h"
#include "text/utf8.h"

namespace spf {

enum class Style { kPlain, kSpiral, kBrief, kMars };

struct Format {
    Style style = Style::kSpiral;
    bool legal_list = true;               // end with the legal actions
    std::size_t speech_characters = 200;  // how much of one utterance the other player sees
};

// One text per player turn so far, in order; empty where nobody speaks.
using Said = std::span<const std::string>;

// What a game must say:
//     static constexpr bool kLegalList;                                          // is the list shown by default?
//     static constexpr std::string_view kRules;                                  // the same under all options
//     static void variant(const Game&, std::string& out);                        // a line on the options, or nothing
//     static void situation(const Game&, const State&, Player, const Format&, Said, std::string& out);
//     static void brief(const Game&, const State&, Player, Said, std::string& out);    // the same in the fewest words
//     static void action_words(const Game&, const State&, Action, std::string& out);   // "bet"
//     static Action read_words(const Game&, const State&, std::string_view words);     // lower case, single blanks
// read_words gives a legal action, kIllegalWords for an action that is not allowed now, kUnknownWords for no action.
// Of a joint game, whose players choose at the same time, action_words and read_words get the player before the action
// or the words.
template <class Game>
struct GameText;

// The words of one seat of a joint game.
template <JointGame Game>
struct GameText<Seat<Game>> {
    using Text = GameText<Game>;
    using State = typename Game::State;
    static constexpr bool kLegalList = Text::kLegalList;

    static void situation(const Seat<Game>& seat, const State& s, Player player, const Format& format, Said said,
                          std::string& out) {
        Text::situation(seat.game, s, player, format, said, out);
    }
    static void brief(const Seat<Game>& seat, const State& s, Player player, Said said, std::string& out) {
        Text::brief(seat.game, s, player, said, out);
    }
    static void action_words(const Seat<Game>& seat, const State& s, Action action, std::string& out) {
        Text::action_words(seat.game, s, seat.player, action, out);
    }
    static Action read_words(const Seat<Game>& seat, const State& s, std::string_view words) {
        return Text::read_words(seat.game, s, seat.player, words);
    }
};

// A game whose replies are more than one word brings its own readers instead, of a whole reply, and may keep the
// brackets inside the box (kBracketsInBox):
//     static Reading read_lenient(const Game&, const State&, std::string_view reply);
//     static Reading read_strict(const Game&, const State&, std::string_view reply);
// A game with speech also says which part of a reply is heard:
//     static std::string spoken(std::string_view reply, std::size_t max_characters);

inline constexpr Action kIllegalWords = -2;
inline constexpr Action kUnknownWords = -3;

// What a reply came to: a legal action, or kInvalidAction and why.
struct Reading {
    Action action = kInvalidAction;
    std::string refusal;
};

inline Style style_named(std::string_view name) {
    if (name == "plain") return Style::kPlain;
    if (name == "spiral") return Style::kSpiral;
    if (name == "brief") return Style::kBrief;
    if (name == "mars") return Style::kMars;
    throw std::invalid_argument("style must be brief, mars, plain or spiral, got '" + std::string(name) + "'");
}

template <class Game>
Format default_format(Style style) {
    return {style, style == Style::kMars || GameText<Game>::kLegalList};
}

// As it stands in legal lists: "bet" in styles plain and mars, "[bet]" in the others; there "accept; offer: ..." is
// "[accept] [offer: ...]".
template <Seated Game>
void append_action(const Game& game, const typename Game::State& state, Action action, Style style, std::string& out) {
    const std::size_t start = out.size();
    GameText<Game>::action_words(game, state, action, out);
    if (style == Style::kPlain || style == Style::kMars) return;
    for (std::size_t cut = start; (cut = out.find("; ", cut)) != std::string::npos;) out.replace(cut, 2, "] [");
    out.insert(start, 1, '[');
    out += ']';
}

// The whole reply that plays the action.
template <Seated Game>
std::string reply_text(const Game& game, const typename Game::State& state, Action action, Style style) {
    constexpr bool kBracketed = requires { requires GameText<Game>::kBracketsInBox; };
    std::string out = style == Style::kPlain ? "" : style == Style::kMars ? "<answer>" : "\\boxed{";
    append_action(game, state, action, kBracketed ? style : Style::kPlain, out);
    if (style != Style::kPlain) out += style == Style::kMars ? "</answer>" : "}";
    return out;
}

template <Seated Game>
std::string legal_list(const Game& game, const typename Game::State& state, Style style) {
    std::string out;
    for (const Action action : game.legal_actions(state)) {
        if (!out.empty()) out += style == Style::kBrief ? " " : ", ";
        append_action(game, state, action, style, out);
    }
    return out;
}

// "kuhn_poker rounds 5 ": the name and the options that players are told and that are not at their defaults.
template <AnyGame Game>
std::string brief_preamble(const Game& game) {
    std::string out(Game::kName);
    const Game usual{};
    for (const Option<Game>& option : Game::options()) {
        const int value = game.*option.member;
        if (!option.told || value == usual.*option.member) continue;
        ((out += ' ') += option.name) += ' ';
        out +=
            option.words.empty() ? std::to_string(value) : split_words(option.words)[static_cast<std::size_t>(value)];
    }
    return out + " ";
}

// The constant beginning of every observation.
template <AnyGame Game>
std::string preamble(const Game& game, Style style) {
    if (style == Style::kBrief) return brief_preamble(game);
    std::string out(GameText<Game>::kRules);
    out += '\n';
    if (style == Style::kSpiral) out += "Think step by step, then write your final action inside \\boxed{}.\n";
    if (style == Style::kMars) {
        out += "Reply with your reasoning and then one legal action: <think>reasoning</think><answer>action</answer>\n";
    }
    GameText<Game>::variant(game, out);
    return out;
}

// What whoever is to move may do, where the format asks for it.
template <Seated Game>
void append_legal_list(const Game& game, const typename Game::State& state, const Format& format, std::string& out) {
    if (!format.legal_list) return;
    out += GameText<Game>::kLegalList ? ' ' : '\n';  // texts without a list by default may end in a board
    out += format.style == Style::kBrief ? "legal " : "Legal: ";
    out += legal_list(game, state, format.style);
}

// What a player may read in a state; player is normally the one to move.
template <Seated Game>
void append_situation(const Game& game, const typename Game::State& state, Player player, const Format& format,
                      Said said, std::string& out) {
    const bool brief = format.style == Style::kBrief;
    if (brief) {
        GameText<Game>::brief(game, state, player, said, out);
    } else {
        GameText<Game>::situation(game, state, player, format, said, out);
    }
    if (game.current_player(state) == player) append_legal_list(game, state, format, out);
}

}  // namespace spf
