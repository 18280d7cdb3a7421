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
#include "core/rows.h"

namespace spf {

template <TurnGame Game>
class Batch : public Columns {
  public:
    using State = typename Game::State;

    Batch(const Game& game, std::int64_t size, const BatchOptions& options)
        : Columns(Game::kName, size, num_players(game), game.num_actions(), options),
          game_(game),
          plies_(index(game.max_plies())),
          states_(index(size)),
          history_(index(size) * plies_),
          said_(kHasSpeech<Game> ? index(size) : 0) {
        const GameRows<Game> all = rows();
        parallel(size, kStepNs, [&](std::size_t row) { begin(all, row); });
    }

    static std::size_t row_bytes(const Game& game) {
        return Columns::row_bytes(num_players(game), game.num_actions()) + sizeof(State) +
               index(game.max_plies()) * sizeof(Remembered<Game>) +
               (kHasSpeech<Game> ? sizeof(std::vector<std::string>) : 0);
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
        const GameRows<Game> all = this->rows();
        const auto move = [&](std::size_t i, std::size_t row) {
            if constexpr (kHasSpeech<Game>) {
                if (current_player_[row] >= 0) said_[row].push_back(said.empty() ? std::string() : said[i]);
            }
            all.put(row, actions[i]);
            return game_.current_player(states_[row]);
        };
        play(rows, move, [&](std::size_t row) { all.settle(row); }, [&](std::size_t row) { begin(all, row); });
    }

    void reset(Rows rows, std::optional<std::span<const std::uint64_t>> seeds, std::int64_t repeat) {
        const GameRows<Game> all = this->rows();
        begin_rows(rows, seeds, repeat, [&](std::size_t row) { begin(all, row); });
    }

    // A uniform legal action for every row, or kInvalidAction where the game is over: by (seed, row, episode, ply).
    // At a chance node (explicit chance) an outcome, by its probability.
    void sample_actions(std::uint64_t seed, std::span<std::int64_t> out) const {
        parallel(size(), kStepNs, [&](std::size_t row) {
            out[row] = sample_move(game_, states_[row], current_player_[row], sample_key(seed, row, episodes_[row]),
                                   ply_[row]);
        });
    }

    // Plays every game to its end with uniform actions; returns the number of steps taken by players. By default a row
    // goes on as it must, nature's moves included; with a seed, in a way of that (seed, row).
    std::int64_t random_playouts(std::optional<std::uint64_t> seed = std::nullopt) {
        const GameRows<Game> all = rows();
        const std::int64_t steps = parallel_sum(kStepNs * game_.max_turns(), [&](std::size_t row) {
            const std::int64_t here = all.play_out(row, all.playout_key(seed.has_value(), seed.value_or(0), row));
            if constexpr (kHasSpeech<Game>) said_[row].resize(said_[row].size() + index(here));
            return here;
        });
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
                std::transform(told.begin(), told.end(), &worlds.history_[i * plies_], remembered<Game>);
                if (current_player_[from] == kTerminal) worlds.rows().settle(i);  // another world, another result
            }
        });
        return worlds;
    }

    // New games: number i stands where row rows[i] would after these moves, nature's among them. Nature goes on by a
    // stream of its own. The moves are trusted.
    Batch branch(std::span<const std::int64_t> from, std::span<const std::vector<Action>> moves) const {
        Batch branches(game_, static_cast<std::int64_t>(from.size()), options_);
        const GameRows<Game> all = branches.rows();
        parallel(static_cast<std::int64_t>(from.size()), kStepNs, [&](std::size_t i) {
            branches.copy_row(i, *this, index(from[i]));
            std::uint64_t key = mix_seeds(keys_[index(from[i])], kBranchSalt);
            for (const Action action : moves[i]) {
                if constexpr (kHasSpeech<Game>) {
                    if (game_.current_player(branches.states_[i]) >= 0) branches.said_[i].emplace_back();
                }
                all.put(i, action);
                key = mix_seeds(key, static_cast<std::uint64_t>(action));
            }
            branches.keys_[i] = key;
            all.settle(i);
        });
        return branches;
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
    GameRows<Game> rows() {
        return {columns(), game_, game_.initial(), states_.data(), history_.data(), plies_, options_.explicit_chance};
    }
    void begin(const GameRows<Game>& all, std::size_t row) {
        if constexpr (kHasSpeech<Game>) said_[row].clear();
        all.begin(row);
    }

    bool can_step(std::size_t row, Action action, bool named) const {
        return may_skip(row, named) || may_play(game_, states_[row], current_player_[row], action);
    }

    void check_step(std::span<const std::int64_t> actions, Rows rows, std::span<const std::string> said) {
        check_rows(rows);
        const std::size_t count = index(count_of(rows));
        refuse_if(wrong_count("actions", "numbers", count_of(rows), actions.size()));
        if (!said.empty()) refuse_if(wrong_count("texts", "strings", count_of(rows), said.size()));
        const std::size_t bad =
            first_bad(count, [&](std::size_t i) { return can_step(row_of(rows, i), actions[i], rows.has_value()); });
        if (bad == count) return;
        const std::size_t row = row_of(rows, bad);
        refuse(illegal_move(game_, states_[row], current_player_[row], actions[bad], static_cast<std::int64_t>(row)));
    }

    void restore_row(ByteReader& in, std::size_t row) {
        const std::uint32_t plies = load_place(in, row, plies_);
        states_[row] = game_.initial();
        std::size_t turns = 0;
        for (std::uint32_t i = 0; i < plies; ++i) {
            const Action action = in.number<Action>();
            const Player player = game_.current_player(states_[row]);
            if (!may_play(game_, states_[row], player, action)) ByteReader::fail();
            turns += player >= 0;
            rows().put(row, action);
        }
        if (game_.current_player(states_[row]) == kChance && !options_.explicit_chance) {
            refuse("the snapshot stands where nature is to move; only a batch with chance=\"explicit\" can");
        }
        rows().settle(row);
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
    std::size_t plies_;
    std::vector<State> states_;
    std::vector<Remembered<Game>> history_;
    std::vector<std::vector<std::string>> said_;  // by row and turn
};

}  // namespace spf
