// Negotiation in words: the running account of goods, moves and talk, and the reading of messages.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "games/negotiation.h"
#include "text/goods.h"
#include "text/reply.h"
#include "text/text.h"

namespace spf {

template <>
struct GameText<Negotiation> {
    using State = Negotiation::State;
    using Move = Negotiation::Move;
    using Answer = Negotiation::Answer;
    static constexpr bool kLegalList = false;
    static constexpr bool kBracketsInBox = true;

    static constexpr std::string_view kRules =
        "Two-player zero-sum game: negotiation. Both players own goods and value them differently; the other's goods "
        "and "
        "values are hidden. After 10 turns the player whose goods gained more worth, each by its own values, wins; "
        "equal "
        "gains are a draw. In your turn you may answer an open offer with [accept] or [deny], make one such as "
        "[offer: 2 Wood -> 1 Gold], where you give what stands first, and add a few words to the other player.";
    static void variant(const Negotiation& game, std::string& out) {
        if (game.resources == 5) out += "There are five goods, and every turn needs an answer or an offer.\n";
        if (game.resources == 8) {
            out +=
                "There are eight goods, every turn needs an answer or an offer, and a good stands on one side of an ";
            out += "offer only.\n";
        }
    }

    static void situation(const Negotiation& game, const State& s, Player player, const Format&, Said said,
                          std::string& out) {
        out += "You are player " + std::to_string(player) + ". You own";
        for (int good = 0; good < game.resources; ++good) {
            out += (good == 0 ? " " : ", ") + std::to_string(s.held[player].amount[good]) + " ";
            out += good_name(game, good);
            out += " (worth " + std::to_string(s.value[player][good]) + " each)";
        }
        out += ".\n";
        for (int turn = 0; turn < s.turn; ++turn) {
            out += turn % 2 == player ? "You: " : "Player " + std::to_string(turn % 2) + ": ";
            turn_words(game, s, turn, said, out);
            out += '\n';
        }
        out += "Turn " + std::to_string(s.turn < Negotiation::kTurns ? s.turn + 1 : s.turn) + " of 10.";
        if (s.proposer == 1 - player) {
            out += " Open offer: you get ";
            append_goods(game, s.give, out);
            out += " and give ";
            append_goods(game, s.want, out);
            out += '.';
        } else {
            out += s.proposer == player ? " Your offer is open." : " No open offer.";
        }
    }

    // What is fixed, what was heard last, how things stand. Earlier moves are left out: they changed what stands.
    //     player 0 values 5 Wood 15 Gold
    //     heard "A fair trade?"
    //     own 10 Wood 10 Gold turn 3 of 10 offer get 1 Wood give 1 Gold
    static void brief(const Negotiation& game, const State& s, Player player, Said said, std::string& out) {
        out += "player " + std::to_string(player) + " values";
        for (int good = 0; good < game.resources; ++good) append_count(game, s.value[player][good], good, out);
        // At the end the last to speak hears nothing new: the last turn of the other is one further back.
        const int heard = s.turn - (s.turn % 2 == player ? 1 : 2);
        if (heard >= 0) append_speech(heard, said, "\nheard", out);
        out += "\nown";
        for (int good = 0; good < game.resources; ++good) append_count(game, s.held[player].amount[good], good, out);
        out += " turn " + std::to_string(s.turn < Negotiation::kTurns ? s.turn + 1 : s.turn) + " of 10 offer ";
        if (s.proposer == 1 - player) {
            out += "get ";
            append_goods(game, s.give, out);
            out += " give ";
            append_goods(game, s.want, out);
        } else {
            out += s.proposer == player ? "yours" : "none";
        }
    }

    static void action_words(const Negotiation& game, const State&, Action action, std::string& out) {
        move_words(game, game.unpack(action), out);
    }

    // Tokens are read in the box, or without one in the whole reply; the last of each kind counts. Words
    // without brackets do if they are the whole box or the last line.
    static Reading read_lenient(const Negotiation& game, const State& s, std::string_view reply) {
        const Box box = last_box(reply, true);
        if (box.found && !box.closed) return refuse(game, s, "the last \\boxed{ is not closed");
        const std::string_view message = box.closed ? box.content : reply;
        if (trim(message).empty()) return refuse(game, s, box.closed ? "the box is empty" : "the reply is empty");
        const Found found = find_tokens(game, message, true);
        if (found.any()) return judge(game, s, found);
        std::string_view line = trim(message);
        if (!box.closed && line.rfind('\n') != std::string_view::npos) line.remove_prefix(line.rfind('\n') + 1);
        const std::optional<Found> bare = bare_words(game, line);
        if (bare) return judge(game, s, *bare);
        if (box.closed && looks_like_an_offer(line)) return refuse(game, s, quoted(line) + " is not an offer");
        if (box.closed) return judge(game, s, {});
        return refuse(game, s, "no action found in the reply");
    }

    // Two goods: a box that is not empty is the message. More: the message must begin with a token.
    static Reading read_strict(const Negotiation& game, const State& s, std::string_view reply) {
        if (game.resources == 2) {
            const Box box = last_box(reply, false);
            if (!box.closed || box.content.empty())
                return refuse(game, s, "the reply needs a \\boxed{} that is not empty");
            return judge(game, s, find_tokens(game, box.content, false));
        }
        const std::string message = strict_candidate(reply);
        if (!token_at(message, 0)) return refuse(game, s, quoted(message) + " does not begin with an action");
        return judge(game, s, find_tokens(game, message, false));
    }

    // What the other player hears: the message without its tokens, on one line.
    static std::string spoken(std::string_view reply, std::size_t max_characters) {
        const std::string_view message = message_of(reply);
        std::string words;
        for (std::size_t i = 0; i < message.size();) {
            const std::size_t end = token_end(message, i);
            if (end == 0) words += message[i];
            i = end == 0 ? i + 1 : end;
        }
        if (bare_words(Negotiation{.resources = 8}, trim(words))) return {};
        return sanitize_speech(words, max_characters);
    }

  private:
    struct Found {
        bool accept = false, deny = false, offer = false;
        std::optional<Move> terms;  // none if the offer could not be read
        bool any() const { return accept || deny || offer; }
    };

    static void append_count(const Negotiation& game, int amount, int good, std::string& out) {
        out += " " + std::to_string(amount) + " ";
        out += good_name(game, good);
    }

    // The move of a past turn, and in quotes what was said with it.
    static void turn_words(const Negotiation& game, const State& s, int turn, Said said, std::string& out) {
        move_words(game, game.unpack(s.log[turn]), out);
        append_speech(turn, said, "", out);
    }

    static void append_speech(int turn, Said said, std::string_view before, std::string& out) {
        const auto at = static_cast<std::size_t>(turn);
        if (at >= said.size() || said[at].empty()) return;
        out += before;
        out += " \"" + said[at] + "\"";
    }

    static void move_words(const Negotiation& game, const Move& move, std::string& out) {
        if (move.answer == Answer::kNone && !move.offers()) out += "pass";
        if (move.answer != Answer::kNone) out += move.answer == Answer::kAccept ? "accept" : "deny";
        if (!move.offers()) return;
        if (move.answer != Answer::kNone) out += "; ";
        out += "offer: ";
        append_goods(game, move.give, out);
        out += " -> ";
        append_goods(game, move.want, out);
    }

    // The end of the token that starts at i ("[accept]", "[deny]", "[offer: ...]"), or 0.
    static std::size_t token_end(std::string_view text, std::size_t i) {
        if (i >= text.size() || text[i] != '[') return 0;
        std::string_view rest = text.substr(i + 1);
        std::size_t blanks = 0;
        while (blanks < rest.size() && is_space(rest[blanks])) ++blanks;
        rest.remove_prefix(blanks);
        bool token = starts_with_letters(rest, "offer");
        for (const std::string_view word : {"accept", "deny", "pass"}) token = token || starts_with_letters(rest, word);
        if (!token) return 0;
        const std::size_t close = text.find_first_of("[]", i + 1);
        return close != std::string_view::npos && text[close] == ']' ? close + 1 : 0;
    }
    static bool token_at(std::string_view text, std::size_t i) {
        const std::size_t end = token_end(text, i);
        if (end == 0) return false;
        const std::string_view inside = text.substr(i + 1, end - i - 2);
        return same_letters(inside, "accept") || same_letters(inside, "deny") ||
               (starts_with_letters(inside, "offer:") && inside.size() > 6);
    }

    // Strict: the first offer counts, and accept beats deny. Lenient: blanks are forgiven and the last of each counts.
    static Found find_tokens(const Negotiation& game, std::string_view text, bool lenient) {
        Found found;
        for (std::size_t i = text.find('['); i != std::string_view::npos; i = text.find('[', i + 1)) {
            const std::size_t end = token_end(text, i);
            if (end == 0) continue;
            const std::string_view raw = text.substr(i + 1, end - i - 2);
            const std::string_view inside = lenient ? trim(raw) : raw;
            if (same_letters(inside, "accept")) {
                found.accept = true;
                found.deny = found.deny && !lenient;
            } else if (same_letters(inside, "deny")) {
                found.deny = true;
                found.accept = found.accept && !lenient;
            } else if (starts_with_letters(inside, "offer:") && (lenient || (!found.offer && inside.size() > 6))) {
                found.offer = true;
                found.terms = read_offer(game, inside.substr(6), lenient || game.resources != 2);
            }
        }
        return found;
    }

    // "accept", "deny", "pass", "offer: ..." or "accept; offer: ..." without brackets.
    static std::optional<Found> bare_words(const Negotiation& game, std::string_view text) {
        constexpr std::size_t kLongestMove = 256;
        Found found;
        text = trim(without_wrapper(text));
        if (text.size() > kLongestMove) return std::nullopt;
        const std::size_t cut = text.find(';');
        const std::string first = plain_words(text.substr(0, cut));
        if (first == "pass" && cut == std::string_view::npos) return found;
        found.accept = first == "accept";
        found.deny = first == "deny";
        std::string_view rest = text;
        if (found.accept || found.deny) {
            if (cut == std::string_view::npos) return found;
            rest = trim(text.substr(cut + 1));
        }
        if (starts_with_letters(rest, "offer")) rest.remove_prefix(5);
        rest = trim(rest);
        if (rest.starts_with(':')) rest.remove_prefix(1);
        found.offer = true;
        found.terms = read_offer(game, rest, true);
        if (!found.terms) return std::nullopt;
        return found;
    }
    static bool looks_like_an_offer(std::string_view text) {
        return starts_with_letters(text, "offer") || text.find("->") != std::string_view::npos;
    }

    // The rules for what a message may say now; its canonical action.
    static Reading judge(const Negotiation& game, const State& s, const Found& found) {
        const Player player = game.current_player(s);
        const bool lax = game.resources == 2;  // answers to nothing are talk
        Move move;
        Negotiation::Goods held = s.held[player];
        if (found.accept || found.deny) {
            const bool open = s.proposer == 1 - player;
            if (!open && !lax) return refuse(game, s, "there is no offer to answer");
            if (found.accept && s.proposer == player) return refuse(game, s, "you cannot accept your own offer");
            if (open && found.accept) {
                if (!held.covers(s.want)) return refuse(game, s, "you do not own what the offer asks for");
                move.answer = Answer::kAccept;
                Negotiation::exchange(held, s.want, s.give);
            } else if (open) {
                move.answer = Answer::kDeny;
            }
        }
        if (found.offer) {
            if (!found.terms) return refuse(game, s, "the offer cannot be read, write [offer: 2 Wood -> 1 Gold]");
            if (!game.is_one_sided(*found.terms)) return refuse(game, s, "a good stands on one side of an offer only");
            if (!held.covers(found.terms->give)) return refuse(game, s, "you do not own what you offer");
            if (move.answer == Answer::kDeny) move.answer = Answer::kNone;  // a new offer denies the open one anyway
            move.give = found.terms->give;
            move.want = found.terms->want;
        }
        if (!lax && move.answer == Answer::kNone && !move.offers())
            return refuse(game, s, "an answer or an offer is needed");
        return {game.pack(move), {}};
    }
};

}  // namespace spf
