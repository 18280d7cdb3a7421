// Oracle: the contract of the readers, in states reached by play: in every style, lenient and strict, they return a
// legal action that every style can say again, or a reason in valid UTF-8.
#include <string>

#include "../replies.h"
#include "input.h"

namespace {

using fuzz::Input;

template <class Legal>
spf::Action nth_of(const Legal& legal, int n) {
    return legal.nth(n % legal.size());
}

// Bytes as they come; of 1, 2 and 3 the next byte chooses a whole reply, the words of an action, or a piece of a reply.
template <spf::Seated Game>
std::string any_reply(Input& in, const Game& game, const typename Game::State& state, spf::Style style) {
    std::string reply;
    const int length = in.below(200);
    for (int i = 0; i < length && !in.empty(); ++i) {
        const char byte = in.number<char>();
        if (byte < 1 || byte > 3) {
            reply += byte;
            continue;
        }
        const int choice = in.number<std::uint8_t>();
        const auto& pieces = replies::pieces();
        const spf::Action action = nth_of(game.legal_actions(state), choice);
        if (byte == 1) reply += spf::reply_text(game, state, action, style);
        if (byte == 2) spf::append_action(game, state, action, style, reply);
        if (byte == 3) reply += pieces[static_cast<std::size_t>(choice) % pieces.size()];
    }
    return reply;
}

// The action of a reply, or one chosen by a byte if it names none.
template <spf::Seated Game>
spf::Action listen(Input& in, const Game& game, const typename Game::State& state) {
    const auto style = static_cast<spf::Style>(in.below(4));
    const std::string reply = any_reply(in, game, state, style);
    const spf::Reading lenient = spf::read_lenient(game, state, reply, style);
    const spf::Reading strict = spf::read_strict(game, state, reply, style);
    replies::judge(game, state, lenient);
    replies::judge(game, state, strict);
    replies::heard(game, reply);
    const int choice = in.number<std::uint8_t>();
    return lenient.action >= 0 ? lenient.action : nth_of(game.legal_actions(state), choice);
}

template <spf::TurnGame Game>
void play(Input& in, const Game& game) {
    auto state = game.initial();
    while (!in.empty() && game.current_player(state) != spf::kTerminal) {
        if (game.current_player(state) == spf::kChance) {
            const auto outcomes = game.chance_outcomes(state);
            game.apply(state, outcomes[in.below(outcomes.size())].action);
        } else if (in.flag()) {
            game.apply(state, listen(in, game, state));
        } else {
            game.apply(state, nth_of(game.legal_actions(state), in.number<std::uint8_t>()));
        }
    }
}

template <spf::JointGame Game>
void play(Input& in, const Game& game) {
    const std::uint64_t seed = in.number<std::uint8_t>();
    auto state = game.initial(spf::Rng(seed, 0));
    for (std::uint64_t tick = 1; !in.empty() && !game.is_over(state); ++tick) {
        spf::Action moves[Game::kPlayers];
        for (spf::Player p = 0; p < Game::kPlayers; ++p) {
            const spf::Seat<Game> seat{game, p};
            moves[p] =
                in.flag() ? listen(in, seat, state) : nth_of(game.legal_actions(state, p), in.number<std::uint8_t>());
        }
        game.tick(state, moves, spf::Rng(seed, tick));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input in(data, size);
    fuzz::with_game(in, [&](const auto& game) { play(in, game); });
    return 0;
}
