// Games under any options, and what must hold in every row of a batch whatever was played in it.
#pragma once

#include <cstdint>
#include <span>

#include "check.h"
#include "core/batch.h"
#include "core/joint_batch.h"

namespace sound {

// Every option at the value that pick(n) in 0 .. n-1 chooses among its n; the defaults if these conflict.
template <class Game, class Pick>
Game configured(const Pick& pick) {
    Game game;
    for (const spf::Option<Game>& option : Game::options()) {
        game.*option.member = option.low + option.step * pick((option.high - option.low) / option.step + 1);
    }
    if constexpr (requires { game.conflict(); }) {
        if (!game.conflict().empty()) return {};
    }
    return game;
}

template <class Game>
struct BatchFor;
template <spf::TurnGame Game>
struct BatchFor<Game> {
    using Type = spf::Batch<Game>;
};
template <spf::JointGame Game>
struct BatchFor<Game> {
    using Type = spf::JointBatch<Game>;
};
template <class Game>
using BatchOf = typename BatchFor<Game>::Type;

// Numbers that make up the moves of one row.
template <class Game>
inline constexpr std::size_t kWidth = spf::JointGame<Game> ? static_cast<std::size_t>(Game::kPlayers) : 1;

template <spf::TurnGame Game>
void step(spf::Batch<Game>& batch, std::span<const std::int64_t> moves, spf::Rows rows) {
    batch.step(moves, rows, {});
}
template <spf::JointGame Game>
void step(spf::JointBatch<Game>& batch, std::span<const std::int64_t> moves, spf::Rows rows) {
    batch.step(moves, rows);
}

template <class Game>
bool is_zero_sum(const Game& game) {
    if constexpr (requires { game.zero_sum(); }) {
        return game.zero_sum();
    } else {
        return Game::kZeroSum;
    }
}

// Every move of the history was allowed, and all of them lead to the state.
template <spf::TurnGame Game>
void history(const spf::Batch<Game>& batch, std::int64_t row) {
    const Game& game = batch.game();
    const auto moves = batch.history(row);
    CHECK(moves.size() <= static_cast<std::size_t>(game.max_plies()));
    auto state = game.initial();
    std::size_t turns = 0;
    for (const spf::Action action : moves) {
        const spf::Player player = game.current_player(state);
        CHECK(player != spf::kTerminal);
        CHECK(player == spf::kChance ? spf::is_chance_outcome(game, state, action)
                                     : spf::is_legal(game, state, action));
        turns += player >= 0;
        game.apply(state, action);
    }
    CHECK(state == batch.state(row));
    CHECK(turns <= static_cast<std::size_t>(game.max_turns()));
    CHECK(!spf::kHasSpeech<Game> || batch.said(row).size() == turns);
}

template <spf::JointGame Game>
void history(const spf::JointBatch<Game>& batch, std::int64_t row) {
    const Game& game = batch.game();
    std::size_t ticks = 0;
    batch.replay(row, [&](const auto& state, const spf::Action* moves) {
        for (spf::Player p = 0; p < Game::kPlayers; ++p) CHECK(game.legal_actions(state, p).contains(moves[p]));
        ++ticks;
    });
    CHECK(ticks * Game::kPlayers == batch.history(row).size() && ticks <= static_cast<std::size_t>(game.max_ticks()));
}

template <int N>
void set(const spf::ActionSet<N>& legal) {
    int counted = 0;
    for (const spf::Action action : legal) CHECK(legal.contains(action) && legal.nth(counted++) == action);
    CHECK(counted == legal.size() && legal.empty() == (counted == 0));
}

template <spf::TurnGame Game>
spf::Player mover(const Game& game, const typename Game::State& state) {
    return game.current_player(state);
}
template <spf::JointGame Game>
spf::Player mover(const Game& game, const typename Game::State& state) {
    return game.is_over(state) ? spf::kTerminal : spf::kSimultaneous;
}

// The columns say what the state says: who moves, whether it is over, what it paid.
template <class Batch>
void columns(const Batch& batch, std::int64_t row) {
    const auto& game = batch.game();
    const auto& state = batch.state(row);
    const spf::Player player = mover(game, state);
    const bool over = player == spf::kTerminal, shown = batch.terminated()[row] != 0;
    CHECK(batch.current_player()[row] == player);
    CHECK(player != spf::kChance || batch.options().explicit_chance);
    CHECK(over ? shown : !shown || batch.options().autoreset == spf::Autoreset::kSameStep);
    const int players = spf::num_players(game);
    float sum = 0.0f;
    for (spf::Player p = 0; p < players; ++p) {
        const float paid = batch.returns()[row * players + p];
        sum += paid;
        CHECK(over ? paid == game.returns(state, p) : game.returns(state, p) == 0.0f);
        CHECK(shown || paid == 0.0f);
    }
    CHECK(!over || !is_zero_sum(game) || sum == 0.0f);
}

template <spf::TurnGame Game>
void row(const spf::Batch<Game>& batch, std::int64_t row) {
    columns(batch, row);
    history(batch, row);
    const auto legal = batch.game().legal_actions(batch.state(row));
    set(legal);
    CHECK(legal.empty() == (batch.current_player()[row] < 0));
    for (const spf::Action action : legal) {
        CHECK(action < batch.game().num_actions() && spf::is_legal(batch.game(), batch.state(row), action));
    }
}

template <spf::JointGame Game>
void row(const spf::JointBatch<Game>& batch, std::int64_t row) {
    columns(batch, row);
    history(batch, row);
    for (spf::Player p = 0; p < Game::kPlayers; ++p) {
        const auto legal = batch.game().legal_actions(batch.state(row), p);
        set(legal);
        CHECK(legal.empty() == (batch.current_player()[row] == spf::kTerminal));
    }
}

template <class Batch>
void rows(const Batch& batch) {
    for (std::int64_t each = 0; each < batch.size(); ++each) row(batch, each);
}

}  // namespace sound
