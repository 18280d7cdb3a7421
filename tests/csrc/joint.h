// What every joint game must keep, checked on random play.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "core/joint_batch.h"

namespace joint {

// Threads change nothing, every player may move until the end, snapshots restore, bad calls change nothing.
template <spf::JointGame Game>
void is_sound(const Game& game) {
    using Rows = spf::JointBatch<Game>;
    using Number = typename Rows::Number;
    const std::int64_t size = 3'000;
    Rows one(game, size, {.seed = 3, .threads = 1}), eight(game, size, {.seed = 3, .threads = 8});
    std::vector<Number> moves(static_cast<std::size_t>(size) * Rows::kWidth), again(moves);
    for (int tick = 0; tick < game.max_ticks(); ++tick) {
        one.sample_actions(9, moves);
        eight.sample_actions(9, again);
        CHECK(moves == again);
        for (std::int64_t row = 0; row < size; ++row) {
            const bool over = game.is_over(one.state(row));
            CHECK(one.current_player()[row] == (over ? spf::kTerminal : spf::kSimultaneous));
            if constexpr (!Rows::kMotion) {
                for (spf::Player p = 0; p < Game::kPlayers; ++p) {
                    CHECK(game.legal_actions(one.state(row), p).empty() == over);
                }
            }
            CHECK(over || game.returns(one.state(row), 0) == 0.0f);
        }
        one.step(moves, std::nullopt);
        eight.step(moves, std::nullopt);
        if (tick == game.max_ticks() / 2) {
            const std::string half = one.snapshot("x");
            Rows loaded(game, size, {.seed = 77, .threads = 3});
            loaded.restore(half, "x");
            CHECK(loaded.snapshot("x") == half);
            loaded.random_playouts();
            Rows other(one);
            other.random_playouts();
            CHECK(loaded.snapshot("x") == other.snapshot("x"));
        }
    }
    CHECK(one.snapshot("x") == eight.snapshot("x"));
    for (std::int64_t row = 0; row < size; ++row) CHECK(one.terminated()[row]);
    eight.reset(std::nullopt, std::nullopt, 10);
    CHECK(eight.random_playouts() > 0);
    eight.restore(one.snapshot("x"), "x");
    CHECK(one.snapshot("x") == eight.snapshot("x"));

    Rows few(game, 4, {.seed = 1, .threads = 2});
    const std::string before = few.snapshot("x");
    std::vector<Number> wrong(4 * Rows::kWidth, Number{0});
    wrong.back() = static_cast<Number>(1'000);
    CHECK_THROWS(few.step(wrong, std::nullopt));
    wrong.pop_back();
    CHECK_THROWS(few.step(wrong, std::nullopt));
    const std::vector<std::int64_t> twice{1, 1}, outside{4};
    CHECK_THROWS(few.step(std::span(wrong).first(2 * Rows::kWidth), spf::Rows(twice)));
    CHECK_THROWS(few.step(std::span(wrong).first(Rows::kWidth), spf::Rows(outside)));
    CHECK_THROWS(few.reset(std::nullopt, std::nullopt, 3));
    for (std::size_t cut = 0; cut < before.size(); ++cut) {
        CHECK_THROWS(few.restore(std::string_view(before).substr(0, cut), "x"));
        std::string damaged = before;
        damaged[cut] = static_cast<char>(damaged[cut] ^ 4);
        CHECK_THROWS(few.restore(damaged, "x"));
    }
    CHECK_THROWS(few.restore(before, "y"));
    CHECK_THROWS(Rows(game, 1, {.explicit_chance = true}));
    CHECK(few.snapshot("x") == before);
}

}  // namespace joint
