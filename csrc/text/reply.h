// Reads an action out of a model's reply. Replies are untrusted bytes; every reader is linear in their length and
// never throws on what they say.
//
// Lenient: of what follows the thinking, the last \boxed{...} if there is one, else the last [...] that names an
// action, else the last line, whole or after its last colon; case, inner blanks and common decoration do not matter.
// Strict: what SPIRAL's published parser accepts, quirks included.
//
// In style mars a lenient reader takes the last <answer>...</answer> for the reply, if there is one, and the strict one
// is MARS's: <think>...</think><answer>ACTION</answer> and nothing else, ACTION exactly as in the list.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/game.h"
#include "text/text.h"
#include "text/utf8.h"

namespace spf {

inline constexpr std::string_view kBoxed = "\\boxed";
inline constexpr std::size_t kLongestWords = 64;  // no single action is written longer

struct Box {
    bool found = false;   // the reply says \boxed
    bool closed = false;  // and its braces match
    std::string_view content;
};

// Where the last \boxed of a reply begins, or npos.
inline std::size_t last_boxed(std::string_view reply) {
    for (std::string_view rest = reply;;) {
        const std::size_t at = last_of(rest, kBoxed.front());
        if (at == std::string_view::npos || reply.substr(at).starts_with(kBoxed)) return at;
        rest = rest.substr(0, at);
    }
}

// The last \boxed of a reply. Blanks before the brace are allowed if lenient.
inline Box last_box(std::string_view reply, bool lenient) {
    Box box;
    const std::size_t start = last_boxed(reply);
    if (start == std::string_view::npos) return box;
    box.found = true;
    std::size_t open = start + kBoxed.size();
    while (lenient && open < reply.size() && is_space(reply[open])) ++open;
    if (open >= reply.size() || reply[open] != '{') return box;
    std::size_t depth = 0;
    for (std::size_t i = open; i < reply.size(); ++i) {
        if (reply[i] == '{') ++depth;
        if (reply[i] == '}' && --depth == 0) {
            box.closed = true;
            box.content = reply.substr(open + 1, i - open - 1);
            return box;
        }
    }
    return box;
}

// What follows the thinking: nothing where it is never closed, as in a reply that was cut.
inline std::string_view after_thinking(std::string_view reply) {
    constexpr std::string_view kBegin = "<think>", kEnd = "</think>";
    for (std::string_view rest = reply;;) {
        const std::size_t at = last_of(rest, '<');
        if (at == std::string_view::npos) return reply;
        const std::string_view tag = reply.substr(at);
        if (tag.starts_with(kEnd)) return tag.substr(kEnd.size());
        if (tag.starts_with(kBegin)) return {};
        rest = rest.substr(0, at);
    }
}

// What a reply says to others: of what follows the thinking, what is in the last box, or all without one; nothing if
// the box is not closed.
inline std::string_view message_of(std::string_view reply) {
    const std::string_view open = after_thinking(reply);
    const Box box = last_box(open, true);
    if (box.found) return box.closed ? box.content : std::string_view{};
    return open;
}

inline constexpr std::string_view kAnswer = "<answer>", kEndOfAnswer = "</answer>";

// What the last <answer>...</answer> holds, or the whole reply if there is none.
inline std::string_view answer_of(std::string_view reply) {
    const std::size_t close = reply.rfind(kEndOfAnswer);
    if (close == std::string_view::npos) return reply;
    const std::size_t open = reply.substr(0, close).rfind(kAnswer);
    if (open == std::string_view::npos) return reply;
    return reply.substr(open + kAnswer.size(), close - open - kAnswer.size());
}

// The answer of a reply that is <think>...</think>, blanks, <answer>...</answer> and at most a line break; of several
// answers parted by || the first.
inline std::optional<std::string_view> strict_answer(std::string_view reply) {
    constexpr std::string_view kThink = "<think>", kEndOfThought = "</think>";
    if (reply.ends_with('\n')) reply.remove_suffix(1);
    if (!reply.starts_with(kThink) || !reply.ends_with(kEndOfAnswer)) return std::nullopt;
    reply.remove_suffix(kEndOfAnswer.size());
    for (std::size_t at = kThink.size(); (at = reply.find(kEndOfThought, at)) != std::string_view::npos;) {
        at += kEndOfThought.size();
        std::size_t open = at;
        while (open < reply.size() && is_space(reply[open])) ++open;
        if (!reply.substr(open).starts_with(kAnswer)) continue;
        const std::string_view answer = reply.substr(open + kAnswer.size());
        return trim(answer.substr(0, answer.find("||")));
    }
    return std::nullopt;
}

inline std::string_view without_wrapper(std::string_view text) {  // \text{x} -> x
    constexpr std::string_view kText = "\\text{";
    if (text.starts_with(kText) && text.ends_with('}'))
        return text.substr(kText.size(), text.size() - kText.size() - 1);
    return text;
}

inline std::string collapse_blanks(std::string_view text) {
    std::string out;
    for (const char c : trim(text)) {
        if (!is_space(c)) {
            out += c;
        } else if (out.back() != ' ') {
            out += ' ';
        }
    }
    return out;
}

// Lower case, single blanks, without decoration around it; empty if too long to be one action.
inline std::string plain_words(std::string_view text) {
    constexpr std::string_view kDecoration = "\"'`*$.,;:!()[]{}<>_";
    text = without_wrapper(trim(text));
    const auto strip = [&](auto end, auto drop) {
        while (!text.empty() && (is_space(end()) || kDecoration.find(end()) != std::string_view::npos)) drop();
    };
    strip([&] { return text.front(); }, [&] { text.remove_prefix(1); });
    strip([&] { return text.back(); }, [&] { text.remove_suffix(1); });
    if (text.size() > kLongestWords) return {};
    std::string words = collapse_blanks(text);
    for (char& c : words) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return words;
}

inline std::string quoted(std::string_view text) {
    std::string out(1, '\'');
    out += sanitize(text, 40);
    out += '\'';
    return out;
}

template <Seated Game>
Reading refuse(const Game& game, const typename Game::State& state, const std::string& why) {
    std::string choices;
    int shown = 0;
    for (const Action action : game.legal_actions(state)) {
        if (shown++ == 9) {
            choices += ", ...";
            break;
        }
        if (shown > 1) choices += ", ";
        append_action(game, state, action, Style::kSpiral, choices);
    }
    return {kInvalidAction, why + "; legal: " + choices};
}

template <Seated Game>
Reading read_single(const Game& game, const typename Game::State& state, std::string_view text) {
    const Action action = GameText<Game>::read_words(game, state, plain_words(text));
    if (action >= 0) return {action, {}};
    return refuse(game, state, quoted(text) + (action == kIllegalWords ? " is not allowed now" : " is not an action"));
}

template <Seated Game>
Reading read_last_action(const Game& game, const typename Game::State& state, std::string_view reply) {
    using Text = GameText<Game>;
    const Box box = last_box(reply, true);
    if (box.closed) return read_single(game, state, box.content);
    if (box.found) return refuse(game, state, "the last \\boxed{ is not closed");
    for (std::string_view rest = reply;;) {  // innermost brackets, from the back
        const std::size_t close = last_of(rest, ']');
        if (close == std::string_view::npos) break;
        const std::size_t open = last_of(rest.substr(0, close), '[');
        if (open == std::string_view::npos) break;
        const std::string_view content = rest.substr(open + 1, rest.find(']', open) - open - 1);
        if (Text::read_words(game, state, plain_words(content)) != kUnknownWords)
            return read_single(game, state, content);
        rest = rest.substr(0, open);
    }
    std::string_view line = trim(reply);
    if (line.empty()) return refuse(game, state, "the reply is empty");
    const std::size_t newline = last_of(line, '\n');
    if (newline != std::string_view::npos) line.remove_prefix(newline + 1);
    if (Text::read_words(game, state, plain_words(line)) != kUnknownWords) return read_single(game, state, line);
    const std::size_t colon = last_of(line, ':');
    if (colon != std::string_view::npos) {
        const std::string_view rest = line.substr(colon + 1);
        if (Text::read_words(game, state, plain_words(rest)) != kUnknownWords) return read_single(game, state, rest);
    }
    return refuse(game, state, "no action found at the end of the reply");
}

template <Seated Game>
Reading read_lenient(const Game& game, const typename Game::State& state, std::string_view reply,
                     Style style = Style::kSpiral) {
    const std::string_view open = after_thinking(reply);
    if (open.empty() && !reply.empty()) return refuse(game, state, "nothing follows the thinking");
    reply = style == Style::kMars ? answer_of(open) : open;
    if constexpr (requires { GameText<Game>::read_lenient(game, state, reply); }) {
        return GameText<Game>::read_lenient(game, state, reply);
    } else {
        return read_last_action(game, state, reply);
    }
}

// What SPIRAL's parser makes of a reply before it compares with the action space.
inline std::string strict_candidate(std::string_view reply) {
    const Box box = last_box(reply, false);
    const std::string_view text = box.closed ? without_wrapper(box.content) : trim(reply);
    std::string out;
    for (std::size_t i = 0; i < text.size();) {  // \boxed{x} inside becomes [x]
        constexpr std::string_view kOpen = "\\boxed{";
        if (text.substr(i, kOpen.size()) == kOpen) {
            const std::size_t close = text.find('}', i);
            if (close != std::string_view::npos) {
                out += '[';
                out += text.substr(i + kOpen.size(), close - i - kOpen.size());
                out += ']';
                i = close + 1;
                continue;
            }
            out += text.substr(i);
            break;
        }
        out += text[i++];
    }
    const bool bracketed = out.find('[') != std::string::npos || out.find(']') != std::string::npos;
    if (!bracketed) {
        int words = 0;
        for (std::size_t i = 0; i < out.size(); ++i) words += !is_space(out[i]) && (i == 0 || is_space(out[i - 1]));
        if (words <= 5) {
            out.insert(out.begin(), '[');
            out += ']';
        }
    }
    return collapse_blanks(out);
}

// A legal action written exactly as legal lists show it in the style.
template <Seated Game>
Reading read_exactly(const Game& game, const typename Game::State& state, std::string_view candidate, Style style) {
    for (const Action action : game.legal_actions(state)) {
        std::string spelled;
        append_action(game, state, action, style, spelled);
        if (spelled == candidate) return {action, {}};
    }
    return refuse(game, state, quoted(candidate) + " is not exactly a legal action");
}

template <Seated Game>
Reading read_strict_answer(const Game& game, const typename Game::State& state, std::string_view reply) {
    const std::optional<std::string_view> answer = strict_answer(reply);
    if (!answer) {
        return refuse(game, state, "the reply is not <think>reasoning</think><answer>action</answer>");
    }
    if constexpr (requires { GameText<Game>::read_lenient(game, state, *answer); }) {
        return GameText<Game>::read_lenient(game, state, *answer);  // such replies have many spellings
    } else {
        return read_exactly(game, state, *answer, Style::kMars);
    }
}

template <Seated Game>
Reading read_strict(const Game& game, const typename Game::State& state, std::string_view reply,
                    Style style = Style::kSpiral) {
    if (reply.empty()) return refuse(game, state, "the reply is empty");
    if (style == Style::kMars) return read_strict_answer(game, state, reply);
    if constexpr (requires { GameText<Game>::read_strict(game, state, reply); }) {
        return GameText<Game>::read_strict(game, state, reply);
    } else {
        return read_exactly(game, state, strict_candidate(reply), Style::kSpiral);
    }
}

}  // namespace spf
