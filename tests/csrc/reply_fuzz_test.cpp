// Oracle: the contract of the readers. Whatever a reply holds, they return a legal action or a reason in valid UTF-8,
// and so does what is heard of it. Inputs are random bytes and shuffled pieces of well-formed replies.
#include <string>
#include <vector>

#include "core/rng.h"
#include "games/all_games.h"
#include "replies.h"

namespace {

constexpr int kRounds = 20'000;

std::string random_reply(spf::Rng& rng) {
    const std::vector<std::string>& pieces = replies::pieces();
    std::string reply;
    const bool soup = rng.below(4) != 0;
    const std::uint32_t length = rng.below(soup ? 25 : 200);
    for (std::uint32_t i = 0; i < length; ++i) {
        if (soup) {
            reply += pieces[rng.below(static_cast<std::uint32_t>(pieces.size()))];
        } else {
            reply += static_cast<char>(rng.below(256));
        }
    }
    return reply;
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
        replies::judge(game, state, reading);
        replies::judge(game, state, spf::read_strict(game, state, reply));
        replies::heard(game, reply);
        const bool follow = reading.action >= 0 && rng.below(2) == 0;
        spf::SmallDraws draws(rng.next(), 0);
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
            replies::judge(seat, state, reading);
            replies::judge(seat, state, spf::read_strict(seat, state, reply));
            spf::SmallDraws draws(rng.next(), 0);
            const spf::Action random = spf::sample_action(seat.legal_actions(state), draws);
            moves[p] = reading.action >= 0 ? reading.action : random;
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
