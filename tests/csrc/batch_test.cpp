// Oracle: the contract of Batch, for every game of the list: threads change nothing, bad calls change nothing, and
// every state of random play is sound. Run under the sanitizers, it also looks for races and overflows.
#include "core/batch.h"

#include <vector>

#include "check.h"
#include "core/options.h"
#include "games/all_games.h"
#include "joint.h"

namespace {

template <class Game>
std::vector<Game> variants() {
    std::vector<Game> all{Game{}};
    for (const spf::Option<Game>& option : Game::options()) {
        Game game;
        game.*option.member = option.high;
        all.push_back(game);
    }
    return all;
}

template <spf::TurnGame Game>
void random_play_is_sound(const Game& game) {
    const std::int64_t rows = game.max_plies() > 1'000 ? 3'000 : 6'000;  // enough for several threads
    spf::Batch<Game> one(game, rows, {.seed = 3, .threads = 1}), eight(game, rows, {.seed = 3, .threads = 8});
    std::vector<std::int64_t> moves(static_cast<std::size_t>(rows)), again(moves);
    for (int turn = 0; turn < game.max_turns(); ++turn) {
        one.sample_actions(9, moves);
        eight.sample_actions(9, again);
        CHECK(moves == again);
        for (std::int64_t row = 0; row < rows; ++row) {
            const auto& state = one.state(row);
            const spf::Player player = game.current_player(state);
            const auto legal = game.legal_actions(state);
            CHECK(player == one.current_player()[row]);
            CHECK(legal.empty() == (player < 0));
            if (player < 0) continue;
            int counted = 0;
            for (const spf::Action action : legal) {
                CHECK(legal.contains(action) && legal.nth(counted++) == action && spf::is_legal(game, state, action));
            }
            CHECK(counted == legal.size());
            CHECK(game.returns(state, 0) == 0.0f);
        }
        one.step(moves, std::nullopt, {});
        eight.step(moves, std::nullopt, {});
        eight.legal_actions();
    }
    CHECK(one.snapshot("x") == eight.snapshot("x"));
    for (std::int64_t row = 0; row < rows; ++row) {
        CHECK(one.terminated()[row]);
        if (spf::describe(game).zero_sum) CHECK(one.returns()[2 * row] + one.returns()[2 * row + 1] == 0.0f);
    }
    eight.reset(std::nullopt, std::nullopt, 10);
    CHECK(eight.random_playouts() > 0);
    eight.restore(one.snapshot("x"), "x");
    CHECK(one.snapshot("x") == eight.snapshot("x"));
}

template <spf::TurnGame Game>
void bad_calls_change_nothing(const Game& game) {
    spf::Batch<Game> batch(game, 4, {.seed = 1, .threads = 2});
    const std::string before = batch.snapshot("x");
    const std::vector<std::int64_t> wrong{0, 0, 0, 1'000}, twice{1, 1}, outside{4}, one{0}, two{0, 0};
    CHECK_THROWS(batch.step(wrong, std::nullopt, {}));
    CHECK_THROWS(batch.step(two, spf::Rows(twice), {}));
    CHECK_THROWS(batch.step(one, spf::Rows(outside), {}));
    CHECK_THROWS(batch.step(one, std::nullopt, {}));
    CHECK_THROWS(batch.reset(std::nullopt, std::nullopt, 3));
    for (std::size_t cut = 0; cut < before.size(); ++cut) {
        CHECK_THROWS(batch.restore(std::string_view(before).substr(0, cut), "x"));
        std::string damaged = before;
        damaged[cut] = static_cast<char>(damaged[cut] ^ 4);
        CHECK_THROWS(batch.restore(damaged, "x"));
    }
    CHECK_THROWS(batch.restore(before, "y"));
    CHECK(batch.snapshot("x") == before);
}

// A world is what its retold history leads to, and the observer cannot tell it from the truth.
template <spf::TurnGame Game>
void worlds_have_histories(const Game& game) {
    if constexpr (spf::Resamples<Game>) {
        for (const bool explicit_chance : {false, true}) {
            spf::Batch<Game> batch(game, 50, {.seed = 5, .threads = 1, .explicit_chance = explicit_chance});
            std::vector<std::int64_t> moves(50);
            for (std::uint64_t step = 0; step < static_cast<std::uint64_t>(game.max_plies()); ++step) {
                for (std::int64_t row = 0; row < batch.size(); ++row) {
                    if (step > 0 && batch.terminated()[row] && moves[static_cast<std::size_t>(row)] < 0) continue;
                    for (spf::Player player = 0; player < spf::num_players(game); ++player) {
                        spf::Rng rng(step, static_cast<std::uint64_t>(row));
                        const auto world = game.resample(batch.state(row), player, rng);
                        const auto before = batch.history(row);
                        std::vector<spf::Action> history(before.begin(), before.end());
                        game.retell(history, world, player);
                        auto state = game.initial();
                        for (const spf::Action action : history) game.apply(state, action);
                        CHECK(state == world);
                        CHECK(game.information_state(world, player) ==
                              game.information_state(batch.state(row), player));
                    }
                }
                batch.sample_actions(7, moves);
                batch.step(moves, std::nullopt, {});
            }
        }
    }
}

// A snapshot whose checksum is right but whose history no game allows.
void forged_snapshots_are_refused() {
    const spf::TicTacToe game;
    spf::Batch<spf::TicTacToe> batch(game, 1, {});
    for (const std::vector<spf::Action>& history : {std::vector<spf::Action>{4, 4}, {9}, {-1}, {0, 3, 1, 4, 2, 5}}) {
        spf::ByteWriter out;
        out.text("x");
        out.number(std::int64_t{1});
        out.number(std::uint64_t{0});
        out.number(std::uint64_t{0});
        out.number(std::uint32_t{1});
        out.number(static_cast<std::uint32_t>(history.size()));
        for (const spf::Action action : history) out.number(action);
        out.number(std::uint8_t{0});
        out.number(0.0f);
        out.number(0.0f);
        const std::string forged = out.finish();
        CHECK_THROWS(batch.restore(forged, "x"));
    }
}

template <spf::JointGame Game>
void all() {
    for (const Game& game : variants<Game>()) joint::is_sound(game);
}

template <spf::TurnGame Game>
void all() {
    for (const Game& game : variants<Game>()) {
        random_play_is_sound(game);
        bad_calls_change_nothing(game);
        worlds_have_histories(game);
    }
}

}  // namespace

int main() {
#define SPF_TEST(Game) all<spf::Game>();
    SPF_FOR_EACH_GAME(SPF_TEST)
#undef SPF_TEST
    forged_snapshots_are_refused();
}
