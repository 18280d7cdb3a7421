// Oracle: the contract of the readers. Whatever a reply holds, they return a legal action or a reason in valid UTF-8,
// and so does what is heard of it. Inputs are random bytes and shuffled pieces of well-formed replies.
#include <string>
#include <vector>

#include "check.h"
#include "core/rng.h"
#include "games/all_games.h"
#include "text/all_text.h"
#include "text/reply.h"

namespace {

constexpr int kRounds = 20'000;

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t length = spf::utf8_length(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

std::string random_reply(spf::Rng& rng) {
    static const std::vector<std::string> kPieces = {"\\boxed{",
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
    std::string reply;
    const bool soup = rng.below(4) != 0;
    const std::uint32_t length = rng.below(soup ? 25 : 200);
    for (std::uint32_t i = 0; i < length; ++i) {
        if (soup) {
            reply += kPieces[rng.below(static_cast<std::uint32_t>(kPieces.size()))];
        } else {
            reply += static_cast<char>(rng.below(256));
        }
    }
    return reply;
}

template <spf::Seated Game>
bool is_allowed(const Game& game, const typename Game::State& state, spf::Action action) {
    if constexpr (spf::TurnGame<Game>) return spf::is_legal(game, state, action);
    return game.legal_actions(state).contains(action);
}

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

// Random replies along random games; what the lenient reader accepts is played now and then.
template <spf::TurnGame Game>
void fuzz(const Game& game) {
    spf::Rng rng(7, static_cast<std::uint64_t>(game.max_plies()));
    auto state = game.initial();
    for (int round = 0; round < kRounds; ++round) {
        while (game.current_player(state) < 0) {
            if (game.current_player(state) == spf::kTerminal) {
                state = game.initial();
            } else {
                game.apply(state, spf::sample_chance(game.chance_outcomes(state), spf::Rng(8, rng.next())));
            }
        }
        const std::string reply = random_reply(rng);
        const spf::Reading reading = spf::read_lenient(game, state, reply);
        judge(game, state, reading);
        judge(game, state, spf::read_strict(game, state, reply));
        if constexpr (spf::kHasSpeech<Game>) {
            const std::string heard = spf::GameText<Game>::spoken(reply, 20);
            CHECK(is_utf8(heard) && heard.find('\n') == std::string::npos && heard.find("<|") == std::string::npos);
        }
        const bool follow = reading.action >= 0 && rng.below(2) == 0;
        spf::SmallDraws draws(rng.next());
        const spf::Action random = spf::sample_action(game.legal_actions(state), draws);
        game.apply(state, follow ? reading.action : random);
    }
}

// Both seats of a joint game along random play.
template <spf::JointGame Game>
void fuzz(const Game& game) {
    spf::Rng rng(7, static_cast<std::uint64_t>(game.max_ticks()));
    auto state = game.initial(spf::Rng(8, 0));
    for (int round = 0; round < kRounds; ++round) {
        if (game.is_over(state)) state = game.initial(spf::Rng(8, rng.next()));
        spf::Action moves[Game::kPlayers];
        for (spf::Player p = 0; p < Game::kPlayers; ++p) {
            const spf::Seat<Game> seat{game, p};
            const std::string reply = random_reply(rng);
            const spf::Reading reading = spf::read_lenient(seat, state, reply);
            judge(seat, state, reading);
            judge(seat, state, spf::read_strict(seat, state, reply));
            moves[p] = reading.action >= 0 ? reading.action
                                           : spf::sample_action(seat.legal_actions(state), spf::Rng(9, rng.next()));
        }
        game.tick(state, moves, spf::Rng(10, rng.next()));
    }
}

template <class Game>
void all() {
    fuzz(Game{});
    for (const spf::Option<Game>& option : Game::options()) {
        Game game;
        game.*option.member = option.high;
        fuzz(game);
    }
}

}  // namespace

int main() {
#define SPF_FUZZ(Game) all<spf::Game>();
    SPF_FOR_EACH_GAME(SPF_FUZZ)
#undef SPF_FUZZ
}
