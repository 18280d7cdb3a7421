// What happens to one row of a batch, over plain pointers: how it begins, is stepped, sampled and played to its end.
// One source for every machine: Batch calls it in loops over its vectors, csrc/cuda in kernels over the memory of a
// GPU.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/bytes.h"
#include "core/game.h"
#include "core/rng.h"

namespace spf {

enum class Autoreset : std::uint8_t { kOff, kSameStep, kNextStep };

struct BatchOptions {
    std::uint64_t seed = 0;
    int threads = 1;
    bool explicit_chance = false;  // stop at chance nodes and let the caller play them
    Autoreset autoreset = Autoreset::kOff;
};

inline constexpr std::uint64_t kSeedSalt = 0xA5EED, kPlayoutSalt = 0x91A7, kResampleSalt = 0x4E5A,
                               kBranchSalt = 0xB4A2C;

// Of the actions that a caller has drawn.
SPF_HD inline std::uint64_t sample_key(std::uint64_t seed, std::size_t row, std::uint32_t episode) {
    return mix_seeds(seed + episode * 0x9E3779B97F4A7C15u, row);
}

// The columns that games of every kind have.
struct RowColumns {
    std::uint64_t* keys;      // of the episode
    std::uint32_t* episodes;  // begun so far
    std::uint32_t* ply;
    std::int32_t* current_player;
    std::uint8_t* terminated;
    float* returns;  // [rows, players]
    std::size_t players;
    std::uint64_t seed;
    Autoreset autoreset;

    SPF_HD std::uint64_t next_key(std::size_t row) const { return mix_seeds(mix_seeds(seed, row), episodes[row]++); }

    // Of how a playout goes on.
    SPF_HD std::uint64_t playout_key(bool seeded, std::uint64_t given, std::size_t row) const {
        return seeded ? mix_seeds(mix_seeds(given, kPlayoutSalt), row) : keys[row];
    }

    template <class ReturnOf>
    SPF_HD void close(std::size_t row, Player player, const ReturnOf& return_of) const {
        close(row, player, terminated[row] != 0, return_of);
    }
    // shown: the row still shows the result of an ended game.
    template <class ReturnOf>
    SPF_HD void close(std::size_t row, Player player, bool shown, const ReturnOf& return_of) const {
        current_player[row] = player;
        if (player != kTerminal) {
            if (shown) forget_result(row);  // else the returns are 0 as they are
            return;
        }
        terminated[row] = 1;
        for (std::size_t p = 0; p < players; ++p) returns[row * players + p] = return_of(static_cast<Player>(p));
    }
    SPF_HD void forget_result(std::size_t row) const {
        terminated[row] = 0;
        for (std::size_t p = 0; p < players; ++p) returns[row * players + p] = 0.0f;
    }

    template <class Begin>
    SPF_HD void restart(std::size_t row, const Begin& begin) const {
        keys[row] = next_key(row);
        if (autoreset != Autoreset::kSameStep) return begin();
        terminated[row] = 0;  // what is not over is not forgotten: the ended game's result stays visible
        begin();
        terminated[row] = 1;
    }
};

// An ended game takes no move: its entry is ignored where all rows are stepped, and an error where it is named.
SPF_HD inline bool may_skip(Player player, bool named, Autoreset autoreset) {
    return player == kTerminal && (!named || autoreset == Autoreset::kNextStep);
}

// A byte where all moves fit into one; a game with an is_legal of its own takes actions beyond the enumerable ones.
template <TurnGame Game>
inline constexpr bool kRich =
    requires(const Game& game, const typename Game::State& state, Action action) { game.is_legal(state, action); };
template <TurnGame Game>
using Remembered =
    std::conditional_t<!kRich<Game> && Game::kMaxActions <= 256 && Game::kMaxChance <= 256, std::uint8_t, Action>;
template <TurnGame Game>
SPF_HD Remembered<Game> remembered(Action action) {
    assert(static_cast<Remembered<Game>>(action) == action);
    return static_cast<Remembered<Game>>(action);
}

// May whoever is to move, nature included, do this? Not when the game is over.
template <TurnGame Game>
SPF_HD bool may_play(const Game& game, const typename Game::State& state, Player player, Action action) {
    if (player == kTerminal) return false;
    return player == kChance ? is_chance_outcome(game, state, action) : spf::is_legal(game, state, action);
}

// A uniform legal action, at a chance node an outcome by its probability, or kInvalidAction where the game is over.
template <TurnGame Game>
SPF_HD Action sample_move(const Game& game, const typename Game::State& state, Player player, std::uint64_t key,
                          std::uint32_t ply) {
    if (player == kTerminal) return kInvalidAction;
    if (player == kChance) return draw_chance(game, state, Rng(key, ply));
    SmallDraws draws(key, ply);
    return sample_action(game.legal_actions(state), draws);
}

// kByPly: the history lies ply by ply, so that neighbouring rows write side by side; else row by row.
template <TurnGame Game, bool kByPly = false>
struct GameRows : RowColumns {
    using State = typename Game::State;
    // A small state is worked on in registers; a large one would only be copied to and fro.
    static constexpr bool kSmall = sizeof(State) <= 2 * sizeof(std::uint64_t);
    using Held = std::conditional_t<kSmall, State, State&>;

    Game game;
    State start;  // copied for every new game: built anew, a large one would be written and read again at once
    State* states;
    Remembered<Game>* history;
    std::size_t stride;  // of the history: the plies of a row, or the rows of a ply
    bool explicit_chance;

    SPF_HD Remembered<Game>& move_at(std::size_t row, std::size_t ply_of_row) const {
        return history[kByPly ? ply_of_row * stride + row : row * stride + ply_of_row];
    }

    SPF_HD void begin(std::size_t row) const {
        states[row] = start;
        ply[row] = 0;
        settle(row);
    }
    SPF_HD void put(std::size_t row, Action action) const { put(row, states[row], ply[row], action); }
    // Plays nature until a player must act or the game is over, then brings the row's columns up to date.
    SPF_HD void settle(std::size_t row) const {
        close(row, play_nature(row, states[row], ply[row]), terminated[row] != 0);
    }
    SPF_HD void close(std::size_t row, Player player, bool shown) const {
        RowColumns::close(row, player, shown, [&](Player p) { return game.returns(states[row], p); });
    }
    // What a kernel does; Columns::play does it for many rows of a host. All that is read is asked for before the
    // first write, which might change it for all the compiler knows.
    SPF_HD void step(std::size_t row, Action action) const {
        const bool over = current_player[row] == kTerminal, shown = terminated[row] != 0;
        std::uint32_t at = ply[row];
        Held state = states[row];
        if (over) {  // also in the same-step mode, after a playout
            if (autoreset == Autoreset::kNextStep) restart(row, [&] { begin(row); });
            return;
        }
        put(row, state, at, action);
        const Player player = play_nature(row, state, at);
        if constexpr (kSmall) states[row] = state;
        ply[row] = at;
        close(row, player, shown);
        if (player == kTerminal && autoreset == Autoreset::kSameStep) restart(row, [&] { begin(row); });
    }

    // The rest of one game with uniform actions, by playout_key; returns the players' steps.
    SPF_HD std::int64_t play_out(std::size_t row, std::uint64_t key) const {
        Held state = states[row];
        std::uint32_t at = ply[row];
        SmallDraws draws(key ^ kPlayoutSalt, at);
        std::int64_t steps = 0;
        for (Player player; (player = game.current_player(state)) != kTerminal; ++at) {
            Action action;
            if (player == kChance) {
                action = draw_chance(game, state, Rng(key, at));
            } else {
                action = sample_action(game.legal_actions(state), draws);
                ++steps;
            }
            move_at(row, at) = remembered<Game>(action);
            game.apply(state, action);
        }
        if constexpr (kSmall) states[row] = state;
        ply[row] = at;
        close(row, kTerminal, false);
        return steps;
    }

  private:
    SPF_HD void put(std::size_t row, State& state, std::uint32_t& at, Action action) const {
        move_at(row, at++) = remembered<Game>(action);
        game.apply(state, action);
    }
    // Until a player must act or the game is over; says which.
    SPF_HD Player play_nature(std::size_t row, State& state, std::uint32_t& at) const {
        Player player = game.current_player(state);
        while (player == kChance && !explicit_chance) {
            put(row, state, at, draw_chance(game, state, Rng(keys[row], at)));
            player = game.current_player(state);
        }
        return player;
    }
};

// ---- what callers are told; empty where all is well ----
// With what would be legal, nine actions at most.
template <TurnGame Game>
std::string illegal_move(const Game& game, const typename Game::State& state, Player player, Action action,
                         std::int64_t row) {
    std::string what = "action " + std::to_string(action) + " is illegal in row " + std::to_string(row);
    if (player == kTerminal) return what + ": its game is over";
    int shown = 0;
    for (const Action legal : game.legal_actions(state)) {
        if (shown++ == 9) return what + ", ...";
        what += (shown == 1 ? "; legal: " : ", ") + std::to_string(legal);
    }
    return what;
}
inline std::string wrong_row(std::int64_t row, std::int64_t size) {
    if (row >= 0 && row < size) return "row " + std::to_string(row) + " is named twice";
    return "row " + std::to_string(row) + " is outside 0.." + std::to_string(size - 1);
}
inline std::string wrong_count(std::string_view what, std::string_view of, std::int64_t wanted, std::size_t got) {
    if (got == static_cast<std::size_t>(wanted)) return {};
    return std::string(what) + " must hold " + std::to_string(wanted) + " " + std::string(of) + ", got " +
           std::to_string(got);
}
inline std::string wrong_groups(std::int64_t count, std::int64_t repeat, std::optional<std::size_t> seeds) {
    if (repeat < 1 || count % repeat != 0) {
        return "repeat must divide the " + std::to_string(count) + " rows, got " + std::to_string(repeat);
    }
    if (!seeds || *seeds == static_cast<std::size_t>(count / repeat)) return {};
    return "seeds must hold one number per group, " + std::to_string(count / repeat) + ", got " +
           std::to_string(*seeds);
}

// ---- the parts of a snapshot around the history of a row ----
inline void write_opening(ByteWriter& out, std::string_view configuration, std::int64_t size, std::uint64_t seed) {
    out.text(configuration);
    out.number(size);
    out.number(seed);
}
// Where a row stands in its streams.
inline void write_place(ByteWriter& out, std::uint64_t key, std::uint32_t episodes, std::uint32_t ply) {
    out.number(key);
    out.number(episodes);
    out.number(ply);
}
// What the history of a row does not tell: the result of an ended game may still be shown by its successor.
inline void write_result(ByteWriter& out, std::uint8_t terminated, std::span<const float> returns) {
    out.number(terminated);
    for (const float value : returns) out.number(value);
}

}  // namespace spf
