// Many games of one kind, side by side in columns. Rows share nothing: a row's chance comes from its own stream, keyed
// by (episode key, ply), so results depend on no batch size, no order of stepping and no thread count.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/bytes.h"
#include "core/columns.h"
#include "core/game.h"
#include "core/resample.h"
#include "core/rng.h"

namespace spf {

template <TurnGame Game>
class Batch : public Columns {
  public:
    using State = typename Game::State;

    Batch(const Game& game, std::int64_t size, const BatchOptions& options)
        : Columns(Game::kName, size, num_players(game), game.num_actions(), options),
          game_(game),
          start_(game.initial()),
          plies_(index(game.max_plies())),
          states_(index(size)),
          history_(index(size) * plies_),
          said_(kHasSpeech<Game> ? index(size) : 0) {
        parallel(size, kStepNs, [this](std::size_t row) { begin_episode(row); });
    }

    static std::size_t row_bytes(const Game& game) {
        return Columns::row_bytes(num_players(game), game.num_actions()) + sizeof(State) +
               index(game.max_plies()) * sizeof(Remembered) + (kHasSpeech<Game> ? sizeof(std::vector<std::string>) : 0);
    }

    const Game& game() const { return game_; }
    const State& state(std::int64_t row) const { return states_[index(row)]; }
    std::vector<Action> history(std::int64_t row) const {
        const auto first = history_.begin() + static_cast<std::ptrdiff_t>(index(row) * plies_);
        return {first, first + ply_[index(row)]};
    }
    std::span<const std::string> said(std::int64_t row) const {
        if constexpr (kHasSpeech<Game>) {
            return said_[index(row)];
        } else {
            return {};
        }
    }

    // One byte per action, brought up to date by this call.
    const std::uint8_t* legal_actions() {
        return fresh_legal([this](std::size_t row, std::uint8_t* out) {
            game_.legal_actions(states_[row]).expand(game_.num_actions(), out);
        });
    }

    // One bit per action, words_for(num_actions) words a row.
    const std::uint64_t* legal_bits() {
        const int words = ActionSet<Game::kMaxActions>::words_for(game_.num_actions());
        return fresh_bits(index(words), [&](std::size_t row, std::uint64_t* out) {
            std::copy_n(game_.legal_actions(states_[row]).words, words, out);
        });
    }

    // Plays actions[i] in row rows[i] (all rows: entries of ended rows are ignored). Everything is checked first; a
    // std::invalid_argument names game, row and action and leaves the batch as it was. said: one text per action or
    // none at all; games without speech ignore them.
    void step(std::span<const std::int64_t> actions, Rows rows, std::span<const std::string> said) {
        check_step(actions, rows, said);
        const auto move = [&](std::size_t i, std::size_t row) {
            if constexpr (kHasSpeech<Game>) {
                if (current_player_[row] >= 0) said_[row].push_back(said.empty() ? std::string() : said[i]);
            }
            put(row, actions[i]);
            return game_.current_player(states_[row]);
        };
        play(rows, move, [this](std::size_t row) { settle(row); }, [this](std::size_t row) { begin_episode(row); });
    }

    void reset(Rows rows, std::optional<std::span<const std::uint64_t>> seeds, std::int64_t repeat) {
        begin_rows(rows, seeds, repeat, [this](std::size_t row) { begin_episode(row); });
    }

    // A uniform legal action for every row, or kInvalidAction where the game is over: a function of seed, row and ply.
    // At a chance node (explicit chance) an outcome, by its probability.
    void sample_actions(std::uint64_t seed, std::span<std::int64_t> out) const {
        parallel(size(), kStepNs, [&](std::size_t row) {
            const std::uint64_t key = mix_seeds(seed, row);
            const Player player = current_player_[row];
            if (player == kTerminal) {
                out[row] = kInvalidAction;
            } else if (player == kChance) {
                out[row] = draw_chance(game_, states_[row], Rng(key, ply_[row]));
            } else {
                SmallDraws draws(mix_seeds(key, ply_[row]));
                out[row] = sample_action(game_.legal_actions(states_[row]), draws);
            }
        });
    }

    // Plays every game to its end with uniform actions; returns the number of steps taken by players.
    std::int64_t random_playouts() {
        const std::int64_t steps =
            parallel_sum(kStepNs * game_.max_turns(), [this](std::size_t row) { return play_out(row); });
        mark_stale(size(), std::nullopt);
        return steps;
    }

    // The given rows, any number of times each, as `player` (none: whoever is to move) may believe them to be: what it
    // cannot know is drawn anew, by (seed, place in the list), and nature goes on differently. Rows where nobody is to
    // move are copied. Each copy has a legal history of its own.
    Batch resample(Rows rows, std::optional<Player> player, std::uint64_t seed) const {
        static_assert(Resamples<Game> || Game::kPerfectInformation, "what is hidden has to be drawn anew");
        Batch worlds(game_, count_of(rows), options_);
        parallel(count_of(rows), kStepNs, [&](std::size_t i) {
            const std::size_t from = row_of(rows, i);
            worlds.copy_row(i, *this, from);
            worlds.keys_[i] = mix_seeds(mix_seeds(seed, kResampleSalt), i);
            const Player observer = player.value_or(current_player_[from]);
            if (observer < 0) return;
            if constexpr (Resamples<Game>) {
                Rng rng(worlds.keys_[i], kResampleSalt);
                worlds.states_[i] = game_.resample(states_[from], observer, rng);
                std::vector<Action> told = history(static_cast<std::int64_t>(from));
                game_.retell(told, worlds.states_[i], observer);
                std::transform(told.begin(), told.end(), &worlds.history_[i * plies_], remembered);
                if (current_player_[from] == kTerminal) worlds.settle(i);  // another world, another result
            }
        });
        return worlds;
    }

    // The rows as their histories: whatever is loaded again was reached by legal play.
    std::string snapshot(std::string_view configuration) const {
        ByteWriter out;
        open_snapshot(out, configuration);
        for (std::size_t row = 0; row < states_.size(); ++row) {
            save_place(out, row);
            for (const Action action : history(static_cast<std::int64_t>(row))) out.number(action);
            for (const std::string& text : said(static_cast<std::int64_t>(row))) out.text(text);
            save_result(out, row);
        }
        return out.finish();
    }

    // Throws std::invalid_argument and changes nothing unless the bytes came from snapshot() of an equal batch.
    void restore(std::string_view bytes, std::string_view configuration) {
        ByteReader in(bytes);
        Batch loaded(*this);
        loaded.options_.seed = read_opening(in, configuration);
        for (std::size_t row = 0; row < states_.size(); ++row) loaded.restore_row(in, row);
        in.finish();
        Columns::assign(loaded);
        states_ = std::move(loaded.states_);
        history_ = std::move(loaded.history_);
        said_ = std::move(loaded.said_);
    }

  private:
    void begin_episode(std::size_t row) {
        states_[row] = start_;
        ply_[row] = 0;
        if constexpr (kHasSpeech<Game>) said_[row].clear();
        settle(row);
    }

    // A byte where all moves fit into one; a game with an is_legal of its own takes actions beyond the enumerable ones.
    static constexpr bool kRich =
        requires(const Game& game, const State& state, Action action) { game.is_legal(state, action); };
    static constexpr bool kSmall = !kRich && Game::kMaxActions <= 256 && Game::kMaxChance <= 256;
    using Remembered = std::conditional_t<kSmall, std::uint8_t, Action>;
    static Remembered remembered(Action action) {
        assert(static_cast<Remembered>(action) == action);
        return static_cast<Remembered>(action);
    }

    void put(std::size_t row, Action action) {
        history_[row * plies_ + ply_[row]++] = remembered(action);
        game_.apply(states_[row], action);
    }
    // Plays nature until a player must act or the game is over, then brings the row's columns up to date.
    void settle(std::size_t row) {
        Player player = game_.current_player(states_[row]);
        while (player == kChance && !options_.explicit_chance) {
            put(row, draw_chance(game_, states_[row], Rng(keys_[row], ply_[row])));
            player = game_.current_player(states_[row]);
        }
        close(row, player);
    }
    void close(std::size_t row, Player player) {
        close_row(row, player, [&](Player p) { return game_.returns(states_[row], p); });
    }
    // The rest of one game with uniform actions; returns the players' steps. A small state is held in registers; a
    // large one would only be copied to and fro.
    std::int64_t play_out(std::size_t row) {
        using Held = std::conditional_t<sizeof(State) <= 2 * sizeof(std::uint64_t), State, State&>;
        Held state = states_[row];
        std::uint32_t ply = ply_[row];
        Remembered* const log = &history_[row * plies_];
        SmallDraws draws(mix_seeds(keys_[row] ^ kPlayoutSalt, ply));
        std::int64_t steps = 0;
        for (Player player; (player = game_.current_player(state)) != kTerminal; ++ply) {
            Action action;
            if (player == kChance) {
                action = draw_chance(game_, state, Rng(keys_[row], ply));
            } else {
                action = sample_action(game_.legal_actions(state), draws);
                ++steps;
            }
            log[ply] = remembered(action);
            game_.apply(state, action);
        }
        if constexpr (!std::is_reference_v<Held>) states_[row] = state;
        ply_[row] = ply;
        if constexpr (kHasSpeech<Game>) said_[row].resize(said_[row].size() + index(steps));
        close(row, kTerminal);
        return steps;
    }

    bool can_step(std::size_t row, Action action, bool named) const {
        const Player player = current_player_[row];
        if (player == kTerminal) return may_skip(row, named);
        if (player == kChance) return is_chance_outcome(game_, states_[row], action);
        return spf::is_legal(game_, states_[row], action);
    }

    void check_step(std::span<const std::int64_t> actions, Rows rows, std::span<const std::string> said) {
        check_rows(rows);
        const std::size_t count = index(count_of(rows));
        if (actions.size() != count) {
            refuse("actions must hold " + std::to_string(count) + " numbers, got " + std::to_string(actions.size()));
        }
        if (!said.empty() && said.size() != count) {
            refuse("texts must hold " + std::to_string(count) + " strings, got " + std::to_string(said.size()));
        }
        const std::size_t bad =
            first_bad(count, [&](std::size_t i) { return can_step(row_of(rows, i), actions[i], rows.has_value()); });
        if (bad == count) return;
        const std::size_t row = row_of(rows, bad);
        const bool over = current_player_[row] == kTerminal;
        refuse("action " + std::to_string(actions[bad]) + " is illegal in row " + std::to_string(row) +
               (over ? ": its game is over" : legal_words(row)));
    }

    // "; legal: 0, 2", at most nine of them.
    std::string legal_words(std::size_t row) const {
        std::string words;
        int shown = 0;
        for (const Action action : game_.legal_actions(states_[row])) {
            if (shown++ == 9) return words + ", ...";
            words += (shown == 1 ? "; legal: " : ", ") + std::to_string(action);
        }
        return words;
    }

    void restore_row(ByteReader& in, std::size_t row) {
        const std::uint32_t plies = load_place(in, row, plies_);
        states_[row] = game_.initial();
        std::size_t turns = 0;
        for (std::uint32_t i = 0; i < plies; ++i) {
            const Action action = in.number<Action>();
            const Player player = game_.current_player(states_[row]);
            if (player == kTerminal) ByteReader::fail();
            if (!(player == kChance ? is_chance_outcome(game_, states_[row], action)
                                    : spf::is_legal(game_, states_[row], action))) {
                ByteReader::fail();
            }
            turns += player >= 0;
            put(row, action);
        }
        if (game_.current_player(states_[row]) == kChance && !options_.explicit_chance) ByteReader::fail();
        settle(row);
        if constexpr (kHasSpeech<Game>) {
            said_[row].clear();
            for (std::size_t i = 0; i < turns; ++i) said_[row].push_back(in.text());
        }
        load_result(in, row);
    }

    void copy_row(std::size_t row, const Batch& other, std::size_t from) {
        Columns::copy_row(row, other, from);
        states_[row] = other.states_[from];
        std::copy_n(&other.history_[from * plies_], plies_, &history_[row * plies_]);
        if constexpr (kHasSpeech<Game>) said_[row] = other.said_[from];
    }

    Game game_;
    State start_;  // copied for every new game: built anew, a large one would be written and read again at once
    std::size_t plies_;
    std::vector<State> states_;
    std::vector<Remembered> history_;
    std::vector<std::vector<std::string>> said_;  // by row and turn
};

}  // namespace spf
