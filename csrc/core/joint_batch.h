// Many games of one kind in which all players move at once, side by side in columns. As in Batch, rows share nothing:
// the chance of a tick is a function of (episode key, tick), whatever the batch size, the order and the threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/bytes.h"
#include "core/columns.h"
#include "core/joint_game.h"

namespace spf {

template <JointGame Game>
class JointBatch : public Columns {
  public:
    using State = typename Game::State;
    using Number = MoveNumber<Game>;
    static constexpr bool kMotion = kControlsOf<Game> > 0;
    static constexpr std::size_t kWidth = Game::kPlayers * kMoveWidth<Game>;  // numbers per tick

    JointBatch(const Game& game, std::int64_t size, const BatchOptions& options)
        : Columns(Game::kName, size, Game::kPlayers, legal_width(game), options),
          game_(game),
          ticks_(index(game.max_ticks())),
          states_(index(size)),
          log_(kMotion ? 0 : index(size) * ticks_ * kWidth) {
        if (options.explicit_chance) refuse("chance is drawn inside a tick, leave it 'sampled'");
        parallel(size, kStepNs, [this](std::size_t row) { begin_episode(row); });
    }

    static std::size_t row_bytes(const Game& game) {
        return Columns::row_bytes(Game::kPlayers, legal_width(game)) + sizeof(State) +
               (kMotion ? 0 : index(game.max_ticks()) * kWidth);
    }

    const Game& game() const { return game_; }
    const State& state(std::int64_t row) const { return states_[index(row)]; }
    // All moves so far, tick by tick and player by player; nothing for a game of motion.
    std::vector<Action> history(std::int64_t row) const {
        if constexpr (kMotion) return {};
        const auto first = log_.begin() + static_cast<std::ptrdiff_t>(index(row) * ticks_ * kWidth);
        return {first, first + static_cast<std::ptrdiff_t>(ply_[index(row)] * kWidth)};
    }

    std::span<const std::string> said(std::int64_t) const { return {}; }

    // Calls see(state, moves) for every tick so far, with the state it began in.
    template <class See>
    void replay(std::int64_t row, const See& see) const
        requires(!kMotion)
    {
        State state = game_.initial(Rng(keys_[index(row)], 0));
        const auto log = log_of(index(row));
        for (std::uint32_t tick = 0; tick < ply_[index(row)]; ++tick) {
            Action moves[kWidth];
            std::copy_n(&log[tick * kWidth], kWidth, moves);
            see(state, moves);
            game_.tick(state, moves, Rng(keys_[index(row)], tick + 1));
        }
    }

    // One byte per player and action, brought up to date by this call.
    const std::uint8_t* legal_actions()
        requires(!kMotion)
    {
        return fresh_legal([this](std::size_t row, std::uint8_t* out) {
            for (Player p = 0; p < Game::kPlayers; ++p) {
                game_.legal_actions(states_[row], p).expand(game_.num_actions(), out);
                out += game_.num_actions();
            }
        });
    }

    // One bit per player and action.
    const std::uint64_t* legal_bits()
        requires(!kMotion)
    {
        const int words = ActionSet<Game::kMaxActions>::words_for(game_.num_actions());
        return fresh_bits(index(Game::kPlayers * words), [&](std::size_t row, std::uint64_t* out) {
            for (Player p = 0; p < Game::kPlayers; ++p) {
                std::copy_n(game_.legal_actions(states_[row], p).words, words, out + p * words);
            }
        });
    }

    // Plays one tick in row rows[i] with moves[i * kWidth ...] (all rows: those of ended rows are ignored). Everything
    // is checked first; a std::invalid_argument names game, row, player and move and leaves the batch as it was.
    void step(std::span<const Number> moves, Rows rows) {
        check_step(moves, rows);
        const auto move = [&](std::size_t i, std::size_t row) {
            put(row, &moves[i * kWidth]);
            return game_.is_over(states_[row]) ? kTerminal : kSimultaneous;
        };
        play(rows, move, [this](std::size_t row) { settle(row); }, [this](std::size_t row) { begin_episode(row); });
    }

    void reset(Rows rows, std::optional<std::span<const std::uint64_t>> seeds, std::int64_t repeat) {
        begin_rows(rows, seeds, repeat, [this](std::size_t row) { begin_episode(row); });
    }

    // A uniform move of every player, kWidth numbers per row, kInvalidAction (or 0) where the game is over: a function
    // of seed, row, episode and tick.
    void sample_actions(std::uint64_t seed, std::span<Number> out) const {
        parallel(size(), kStepNs, [&](std::size_t row) {
            SmallDraws draws(sample_key(seed, row, episodes_[row]), ply_[row]);
            Number* const moves = &out[row * kWidth];
            if (current_player_[row] == kTerminal) {
                std::fill_n(moves, kWidth, kMotion ? Number{0} : static_cast<Number>(kInvalidAction));
            } else {
                draw(states_[row], draws, moves);
            }
        });
    }

    // Plays every game to its end with uniform moves; returns the number of ticks. With a seed the moves are those of
    // (seed, row); what happens by chance is the game's own.
    std::int64_t random_playouts(std::optional<std::uint64_t> seed = std::nullopt) {
        const RowColumns all = columns();
        const std::int64_t ticks = parallel_sum(kStepNs * game_.max_ticks(), [&](std::size_t row) {
            return play_out(row, all.playout_key(seed.has_value(), seed.value_or(0), row));
        });
        mark_stale(size(), std::nullopt);
        return ticks;
    }

    // The rows as keys and moves, from which the states follow; of a game of motion, the states.
    std::string snapshot(std::string_view configuration) const {
        ByteWriter out;
        open_snapshot(out, configuration);
        for (std::size_t row = 0; row < states_.size(); ++row) {
            save_place(out, row);
            if constexpr (kMotion) {
                out.text({reinterpret_cast<const char*>(&states_[row]), sizeof(State)});
            } else {
                for (const Logged& number : log_of(row)) out.number(number);
            }
            save_result(out, row);
        }
        return out.finish();
    }

    // Throws std::invalid_argument and changes nothing unless the bytes came from snapshot() of an equal batch.
    void restore(std::string_view bytes, std::string_view configuration) {
        ByteReader in(bytes);
        JointBatch loaded(*this);
        loaded.options_.seed = read_opening(in, configuration);
        for (std::size_t row = 0; row < states_.size(); ++row) loaded.restore_row(in, row);
        in.finish();
        Columns::assign(loaded);
        states_ = std::move(loaded.states_);
        log_ = std::move(loaded.log_);
    }

  private:
    // A move as it is remembered.
    using Logged = std::conditional_t<kMotion, float, std::uint8_t>;

    static int legal_width(const Game& game) {
        if constexpr (kMotion) {
            return 0;
        } else {
            static_assert(Game::kMaxActions <= 256, "a move is remembered as a byte");
            return Game::kPlayers * game.num_actions();
        }
    }
    std::span<const Logged> log_of(std::size_t row) const { return {&log_[row * ticks_ * kWidth], ply_[row] * kWidth}; }

    // Stream 0 of an episode deals, stream t + 1 belongs to tick t.
    void begin_episode(std::size_t row) {
        states_[row] = game_.initial(Rng(keys_[row], 0));
        ply_[row] = 0;
        settle(row);
    }
    void put(std::size_t row, const Number* moves) {
        remember(row, ply_[row], moves);
        game_.tick(states_[row], moves, Rng(keys_[row], ++ply_[row]));
    }
    void remember(std::size_t row, std::uint32_t tick, const Number* moves) {
        if constexpr (!kMotion) {
            Logged* const log = &log_[(row * ticks_ + tick) * kWidth];
            for (std::size_t i = 0; i < kWidth; ++i) log[i] = static_cast<Logged>(moves[i]);
        }
    }
    void settle(std::size_t row) {
        const Player player = game_.is_over(states_[row]) ? kTerminal : kSimultaneous;
        close_row(row, player, [&](Player p) { return game_.returns(states_[row], p); });
    }

    void draw(const State& state, SmallDraws& draws, Number* moves) const {
        if constexpr (kMotion) {
            for (std::size_t i = 0; i < kWidth; ++i) {  // 24 bits are what a float holds
                moves[i] = static_cast<float>(draws.below(1u << 24)) * 0x1.0p-23f - 1.0f;
            }
        } else {
            for (Player p = 0; p < Game::kPlayers; ++p) {
                moves[p] = sample_action(game_.legal_actions(state, p), draws);
            }
        }
    }
    // The rest of one game with uniform moves, in registers; returns its ticks.
    std::int64_t play_out(std::size_t row, std::uint64_t key) {
        State state = states_[row];
        std::uint32_t tick = ply_[row];
        SmallDraws draws(key ^ kPlayoutSalt, tick);
        while (!game_.is_over(state)) {
            Number moves[kWidth];
            draw(state, draws, moves);
            remember(row, tick, moves);
            game_.tick(state, moves, Rng(keys_[row], ++tick));
        }
        const std::int64_t ticks = tick - ply_[row];
        states_[row] = state;
        ply_[row] = tick;
        settle(row);
        return ticks;
    }

    bool is_legal(const State& state, Player player, const Number* move) const {
        if constexpr (kMotion) {
            for (int i = 0; i < kMoveWidth<Game>; ++i) {
                if (!(move[i] >= -1.0f && move[i] <= 1.0f)) return false;  // so is a NaN
            }
            return true;
        } else {
            return game_.legal_actions(state, player).contains(*move);
        }
    }
    // The first player whose move is not allowed, or kPlayers.
    Player offender(std::size_t row, const Number* moves) const {
        for (Player p = 0; p < Game::kPlayers; ++p) {
            if (!is_legal(states_[row], p, moves + p * kMoveWidth<Game>)) return p;
        }
        return Game::kPlayers;
    }

    void check_step(std::span<const Number> moves, Rows rows) {
        check_rows(rows);
        const std::size_t count = index(count_of(rows));
        if (moves.size() != count * kWidth) {
            refuse("actions must hold " + std::to_string(count) + " x " + std::to_string(kWidth) + " numbers, got " +
                   std::to_string(moves.size()));
        }
        const std::size_t bad = first_bad(count, [&](std::size_t i) {
            const std::size_t row = row_of(rows, i);
            if (current_player_[row] == kTerminal) return may_skip(row, rows.has_value());
            return offender(row, &moves[i * kWidth]) == Game::kPlayers;
        });
        if (bad == count) return;
        const std::size_t row = row_of(rows, bad);
        const bool over = current_player_[row] == kTerminal;
        const Player player = over ? 0 : offender(row, &moves[bad * kWidth]);
        const std::size_t at = bad * kWidth + index(player * kMoveWidth<Game>);
        const std::string what = kMotion ? "a control" : "action " + std::to_string(moves[at]);
        refuse(what + " of player " + std::to_string(player) + " is illegal in row " + std::to_string(row) +
               (over ? ": its game is over" : ""));
    }

    void restore_row(ByteReader& in, std::size_t row) {
        const std::uint32_t ticks = load_place(in, row, ticks_);
        if constexpr (kMotion) {
            const std::string state = in.text();
            if (state.size() != sizeof(State)) ByteReader::fail();
            std::memcpy(&states_[row], state.data(), sizeof(State));
            if (!game_.is_sound(states_[row])) ByteReader::fail();
            ply_[row] = ticks;
        } else {
            states_[row] = game_.initial(Rng(keys_[row], 0));
            for (std::uint32_t i = 0; i < ticks; ++i) {
                Number moves[kWidth];
                for (Number& move : moves) move = in.number<Logged>();
                if (game_.is_over(states_[row]) || offender(row, moves) != Game::kPlayers) ByteReader::fail();
                put(row, moves);
            }
        }
        settle(row);
        load_result(in, row);
    }

    Game game_;
    std::size_t ticks_;
    std::vector<State> states_;
    std::vector<Logged> log_;
};

}  // namespace spf
