// Truth and deception in words: the statements, what was said, and the reading of messages and guesses.
#pragma once

#include <string>
#include <string_view>

#include "games/truth_and_deception.h"
#include "text/reply.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<TruthAndDeception> {
    using Game = TruthAndDeception;
    using State = Game::State;
    static constexpr bool kLegalList = false;
    static constexpr bool kBracketsInBox = true;

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: truth and deception. Both players see two statements, fact 1 and fact 2, of which "
        "exactly one is true. The deceiver knows which one and wins if the guesser names the false one; otherwise the "
        "guesser wins. They talk in turn, five messages in all, the deceiver first; then the guesser names a fact. As "
        "long as you talk, your action is a message to the other player; to name a fact, it is [fact 1] or [fact 2].";
    static void variant(const Game& game, std::string& out) {
        if (game.rules == Game::kTextArena) out += "Naming both facts counts as naming the true one.\n";
    }

    static void situation(const Game&, const State& s, Player player, const Format&, Said said, std::string& out) {
        const bool knows = player == Game::kDeceiver;
        out += knows ? "You are the deceiver." : "You are the guesser.";
        for (int number = 1; number <= 2; ++number) {
            out += "\nFact " + std::to_string(number);
            if (knows) out += Game::true_fact(s) == number ? " (true)" : " (false)";
            out += ": ";
            out += Game::fact(s, number);
        }
        for (int turn = 0; turn < s.turn && turn < Game::kMessages; ++turn) {
            out += turn % 2 == player ? "\nYou: " : turn % 2 == Game::kDeceiver ? "\nDeceiver: " : "\nGuesser: ";
            append_said(said, turn, out);
        }
        if (s.turn < Game::kMessages) {
            out += "\nMessage " + std::to_string(s.turn + 1) + " of 5.";
        } else {
            out += player == Game::kGuesser ? "\nName a fact." : "\nThe guesser names a fact.";
        }
    }

    //     player guesser
    //     1 Seven is a prime number.
    //     2 Nine is a prime number.
    //     0 "I think it is the first."
    //     turn 2 of 6
    static void brief(const Game& game, const State& s, Player player, Said said, std::string& out) {
        const bool knows = player == Game::kDeceiver;
        out += knows ? "player deceiver" : "player guesser";
        for (int number = 1; number <= 2; ++number) {
            out += '\n' + std::to_string(number) + ' ';
            if (knows) out += Game::true_fact(s) == number ? "true " : "false ";
            out += Game::fact(s, number);
        }
        for (int turn = 0; turn < s.turn && turn < Game::kMessages; ++turn) {
            out += '\n' + std::to_string(turn % 2) + ' ';
            append_said(said, turn, out);
        }
        out += "\nturn " + std::to_string(s.turn < game.max_turns() ? s.turn + 1 : s.turn) + " of 6";
    }

    static void action_words(const Game&, const State&, Action action, std::string& out) {
        constexpr std::string_view kWords[] = {"talk", "fact 1", "fact 2", "fact 1; fact 2"};
        out += kWords[action];
    }
    static Action read_words(const Game& game, const State& s, std::string_view words) {
        Action action = kUnknownWords;
        if (words == "fact 1" || words == "1") action = 1;
        if (words == "fact 2" || words == "2") action = 2;
        if (words == "fact 1; fact 2") action = Game::kBoth;
        return action < 0 || game.legal_actions(s).contains(action) ? action : kIllegalWords;
    }

    // While they talk, whatever is not empty is a message. A guess is the last bracket that names a fact, or words
    // without brackets; naming both under TextArena's rules is an action of its own.
    static Reading read_lenient(const Game& game, const State& s, std::string_view reply) {
        const Box box = last_box(reply, true);
        if (box.found && !box.closed) return refuse(game, s, "the last \\boxed{ is not closed");
        const std::string_view message = message_of(reply);
        if (trim(message).empty()) return refuse(game, s, box.closed ? "the box is empty" : "the reply is empty");
        if (!Game::is_guess(s)) return {Game::kTalk, {}};
        const Named named = names(message, true);
        if (named.first && named.second && game.rules == Game::kTextArena) return {Game::kBoth, {}};
        if (named.last != 0) return {named.last, {}};
        return read_last_action(game, s, box.found ? reply : message);
    }

    // A message needs a box that is not empty; a guess must name one fact in brackets, letter by letter.
    static Reading read_strict(const Game& game, const State& s, std::string_view reply) {
        const Box box = last_box(reply, false);
        if (!box.closed || box.content.empty()) return refuse(game, s, "the reply needs a \\boxed{} that is not empty");
        if (!Game::is_guess(s)) return {Game::kTalk, {}};
        const Named named = names(box.content, false);
        if (named.last == 0) return refuse(game, s, quoted(box.content) + " names no fact");
        if (!named.first || !named.second) return {named.last, {}};
        if (game.rules == Game::kTextArena) return {Game::kBoth, {}};
        return refuse(game, s, "both facts are named");
    }

    // What the other player hears: the message on one line; "[talk]" alone says nothing.
    static std::string spoken(std::string_view reply, std::size_t max_characters) {
        constexpr std::string_view kSilence = "[talk]";
        const std::string_view message = message_of(reply);
        if (plain_words(message) == "talk") return {};
        std::string words;
        for (std::size_t i = 0; i < message.size();) {
            const bool silence = message.substr(i, kSilence.size()) == kSilence;
            if (!silence) words += message[i];
            i += silence ? kSilence.size() : 1;
        }
        return sanitize_speech(words, max_characters);
    }

  private:
    struct Named {
        bool first = false, second = false;
        Action last = 0;
    };

    static Named names(std::string_view message, bool lenient) {
        Named named;
        for (std::size_t i = message.find('['); i != std::string_view::npos; i = message.find('[', i + 1)) {
            const std::size_t close = message.find_first_of("[]", i + 1);
            if (close == std::string_view::npos || message[close] == '[') continue;
            const std::string_view inside = message.substr(i + 1, close - i - 1);
            const std::string words = lenient ? plain_words(inside) : lower_case(inside);
            if (words != "fact 1" && words != "fact 2") continue;
            named.last = words.back() - '0';
            (named.last == 1 ? named.first : named.second) = true;
        }
        return named;
    }
    static std::string lower_case(std::string_view text) {
        std::string out(text);
        for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        return out;
    }
    static void append_said(Said said, int turn, std::string& out) {
        const auto at = static_cast<std::size_t>(turn);
        out += '"';
        if (at < said.size()) out += said[at];
        out += '"';
    }
};

}  // namespace spf
