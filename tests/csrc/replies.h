// Replies made of well-formed pieces, and what must hold of whatever is read from a reply.
#pragma once

#include <string>
#include <vector>

#include "check.h"
#include "text/all_text.h"
#include "text/reply.h"

namespace replies {

// What well-formed replies are made of.
inline const std::vector<std::string>& pieces() {
    static const std::vector<std::string> all = {"\\boxed{",
                                                 "\\boxed",
                                                 "{",
                                                 "}",
                                                 "[",
                                                 "]",
                                                 "bet",
                                                 "check",
                                                 "fold",
                                                 "4",
                                                 "17",
                                                 " ",
                                                 "\n",
                                                 "accept",
                                                 "deny",
                                                 "offer",
                                                 "Offer:",
                                                 "->",
                                                 "2 ",
                                                 "Wood",
                                                 "Gold",
                                                 ", ",
                                                 " and ",
                                                 "+",
                                                 "\\text{",
                                                 ";",
                                                 ":",
                                                 "\"",
                                                 "<|",
                                                 "|>",
                                                 "\\to",
                                                 "I give ",
                                                 "fact 1",
                                                 "[Fact 2]",
                                                 "up",
                                                 "Left",
                                                 "col ",
                                                 "0",
                                                 "-1",
                                                 "</think>",
                                                 "\xff",
                                                 "\xed\xa0\x80",
                                                 "\xf0\x9f\x82\xa1",
                                                 std::string(1, '\0'),
                                                 "9999999999999999999999",
                                                 "Sheeps",
                                                 "pass",
                                                 "raise",
                                                 "call",
                                                 "bid ",
                                                 "roll",
                                                 "hold",
                                                 "play ",
                                                 "discard card ",
                                                 "reveal player ",
                                                 "+1",
                                                 " color ",
                                                 " rank ",
                                                 "1",
                                                 "R",
                                                 "yellow"};
    return all;
}

inline bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t length = spf::utf8_length(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

template <spf::Seated Game>
bool is_allowed(const Game& game, const typename Game::State& state, spf::Action action) {
    if constexpr (spf::TurnGame<Game>) return spf::is_legal(game, state, action);
    return game.legal_actions(state).contains(action);
}

// What others hear of a reply is one harmless line.
template <class Game>
void heard(const Game&, std::string_view reply) {
    if constexpr (spf::kHasSpeech<Game>) {
        const std::string text = spf::GameText<Game>::spoken(reply, 20);
        CHECK(is_utf8(text) && text.find('\n') == std::string::npos && text.find("<|") == std::string::npos);
    }
}

// A legal action that every style can say again, or a reason.
template <spf::Seated Game>
void judge(const Game& game, const typename Game::State& state, const spf::Reading& reading) {
    if (reading.action == spf::kInvalidAction) {
        CHECK(!reading.refusal.empty() && is_utf8(reading.refusal));
        return;
    }
    CHECK(reading.refusal.empty() && is_allowed(game, state, reading.action));
    for (const spf::Style style : {spf::Style::kPlain, spf::Style::kSpiral, spf::Style::kBrief, spf::Style::kMars}) {
        const std::string reply = spf::reply_text(game, state, reading.action, style);
        CHECK(spf::read_lenient(game, state, reply, style).action == reading.action);
        if (style != spf::Style::kMars) continue;
        CHECK(spf::read_strict(game, state, "<think>[0]</think>\n" + reply, style).action == reading.action);
        CHECK(spf::read_strict(game, state, reply, style).action == spf::kInvalidAction);
    }
}

}  // namespace replies
