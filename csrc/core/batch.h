// Many games of one kind, side by side in columns. Rows share nothing: a row's chance comes from its own stream, keyed
// by (episode key, ply), so results depend on no batch size, no order of stepping and no thread count.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/bytes.h"
#include "core/game.h"
#include "core/resample.h"
#include "core/rng.h"
#include "core/workers.h"

namespace spf {

enum class Autoreset : std::uint8_t { kOff, kSameStep, kNextStep };

struct BatchOptions {
    std::uint64_t seed = 0;
    int threads = 1;
    bool explicit_chance = false;  // stop at chance nodes and let the caller play them
    Autoreset autoreset = Autoreset::kOff;
};

using Rows = std::optional<std::span<const std::int64_t>>;  // none: all rows, in order

template <TurnGame Game>
class Batch {
  public:
    using State = typename Game::State;

    Batch(const Game& game, std::int64_t size, const BatchOptions& options)
        : game_(game),
          options_(options),
          players_(static_cast<std::size_t>(num_players(game))),
          plies_(static_cast<std::size_t>(game.max_plies())),
          states_(index(size)),
          keys_(index(size)),
          episodes_(index(size), 0),
          ply_(index(size), 0),
          history_(index(size) * plies_),
          said_(kHasSpeech<Game> ? index(size) : 0),
          current_player_(index(size), kTerminal),
          terminated_(index(size), 0),
          returns_(index(size) * players_, 0.0f),
          legal_(index(size) * index(game.num_actions()), 0),
          stale_(index(size), 0),
          marks_(index(size), 0) {
        for (std::int64_t row = 0; row < size; ++row) keys_[index(row)] = next_key(row);
        parallel(size, kStepNs, [this](std::size_t row) { begin_episode(row); });
    }

    const Game& game() const { return game_; }
    const BatchOptions& options() const { return options_; }
    std::int64_t size() const { return static_cast<std::int64_t>(states_.size()); }
    const State& state(std::int64_t row) const { return states_[index(row)]; }
    std::uint32_t ply(std::int64_t row) const { return ply_[index(row)]; }
    std::span<const Action> history(std::int64_t row) const {
        return {&history_[index(row) * plies_], ply_[index(row)]};
    }
    std::span<const std::string> said(std::int64_t row) const {
        if constexpr (kHasSpeech<Game>) {
            return said_[index(row)];
        } else {
            return {};
        }
    }

    const std::int32_t* current_player() const { return current_player_.data(); }
    const std::uint8_t* terminated() const { return terminated_.data(); }
    const float* returns() const { return returns_.data(); }
    // One byte per action, brought up to date by this call.
    const std::uint8_t* legal_actions() {
        if (all_stale_) {
            parallel(size(), kStepNs, [this](std::size_t row) { expand_legal(row); });
        } else {
            for (const std::size_t row : stale_rows_) expand_legal(row);
        }
        all_stale_ = false;
        stale_rows_.clear();
        return legal_.data();
    }

    // Plays actions[i] in row rows[i] (all rows: entries of ended rows are ignored). Everything is checked first; a
    // std::invalid_argument names game, row and action and leaves the batch as it was. said: one text per action or
    // none at all; games without speech ignore them.
    void step(std::span<const std::int64_t> actions, Rows rows, std::span<const std::string> said) {
        check_step(actions, rows, said);
        const std::int64_t count = static_cast<std::int64_t>(actions.size());
        parallel(count, kStepNs, [&](std::size_t i) {
            const std::size_t row = rows ? index((*rows)[i]) : i;
            if (terminated_[row] != 0 && options_.autoreset != Autoreset::kSameStep) {
                if (options_.autoreset == Autoreset::kNextStep) restart(row);
                return;
            }
            if constexpr (kHasSpeech<Game>) {
                if (current_player_[row] >= 0) said_[row].push_back(said.empty() ? std::string() : said[i]);
            }
            advance(row, actions[i]);
            if (terminated_[row] != 0 && options_.autoreset == Autoreset::kSameStep) {
                restart(row);
            }
        });
        mark_stale(count, rows);
    }

    // Begins new games. Row i of the list belongs to group i / repeat, and one group shares one deal. Without seeds a
    // group takes the next stream of its first row; with seeds (one per group) it is a function of its seed alone.
    void reset(Rows rows, std::optional<std::span<const std::uint64_t>> seeds, std::int64_t repeat) {
        const std::int64_t count = rows ? static_cast<std::int64_t>(rows->size()) : size();
        check_rows(rows);
        if (repeat < 1 || count % repeat != 0) {
            throw std::invalid_argument(name() + ": repeat must divide the " + std::to_string(count) + " rows, got " +
                                        std::to_string(repeat));
        }
        if (seeds && static_cast<std::int64_t>(seeds->size()) != count / repeat) {
            throw std::invalid_argument(name() + ": seeds must hold one number per group, " +
                                        std::to_string(count / repeat) + ", got " + std::to_string(seeds->size()));
        }
        std::uint64_t key = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t row = rows ? (*rows)[index(i)] : i;
            const std::uint64_t own = next_key(row);
            if (i % repeat == 0) key = seeds ? mix_seeds(kSeedSalt, (*seeds)[index(i / repeat)]) : own;
            keys_[index(row)] = key;
        }
        parallel(count, kStepNs, [&](std::size_t i) { begin_episode(rows ? index((*rows)[i]) : i); });
        mark_stale(count, rows);
    }

    // A uniform legal action for every row, or kInvalidAction where the game is over: a function of seed, row and ply.
    // At a chance node (explicit chance) an outcome, by its probability.
    void sample_actions(std::uint64_t seed, std::span<std::int64_t> out) const {
        parallel(size(), kStepNs, [&](std::size_t row) {
            const Rng rng(mix_seeds(seed, row), ply_[row]);
            out[row] = current_player_[row] == kTerminal ? kInvalidAction : sample(row, rng);
        });
    }

    // Plays every game to its end with uniform actions; returns the number of steps taken by players.
    std::int64_t random_playouts() {
        std::atomic<std::int64_t> total = 0;
        parallel_rows(size(), options_.threads, kStepNs * game_.max_turns(), [&](std::int64_t begin, std::int64_t end) {
            std::int64_t steps = 0;
            for (std::size_t row = index(begin); row < index(end); ++row) steps += play_out(row);
            total += steps;
        });
        mark_stale(size(), std::nullopt);
        return total;
    }

    // The given rows, any number of times each, as `player` (none: whoever is to move) may believe them to be: what it
    // cannot know is drawn anew, by (seed, place in the list), and nature goes on differently. Rows where nobody is to
    // move are copied. Each copy has a legal history of its own.
    Batch resample(Rows rows, std::optional<Player> player, std::uint64_t seed) const {
        if (!Resamples<Game> && !Game::kPerfectInformation) throw std::invalid_argument(name() + ": has no resample");
        const std::int64_t count = rows ? static_cast<std::int64_t>(rows->size()) : size();
        Batch worlds(game_, count, options_);
        parallel(count, kStepNs, [&](std::size_t i) {
            const std::size_t from = rows ? index((*rows)[i]) : i;
            worlds.copy_row(i, *this, from);
            worlds.keys_[i] = mix_seeds(mix_seeds(seed, kResampleSalt), i);
            const Player observer = player.value_or(current_player_[from]);
            if (observer < 0) return;
            if constexpr (Resamples<Game>) {
                Rng rng(worlds.keys_[i], kResampleSalt);
                worlds.states_[i] = game_.resample(states_[from], observer, rng);
                game_.retell({&worlds.history_[i * plies_], ply_[from]}, worlds.states_[i], observer);
                if (current_player_[from] == kTerminal) worlds.settle(i);  // another world, another result
            }
        });
        return worlds;
    }

    // The rows as their histories: whatever is loaded again was reached by legal play.
    std::string snapshot(std::string_view configuration) const {
        ByteWriter out;
        out.text(configuration);
        out.number(size());
        out.number(options_.seed);
        for (std::size_t row = 0; row < states_.size(); ++row) {
            out.number(keys_[row]);
            out.number(episodes_[row]);
            out.number(ply_[row]);
            for (const Action action : history(static_cast<std::int64_t>(row))) out.number(action);
            for (const std::string& text : said(static_cast<std::int64_t>(row))) out.text(text);
            out.number(terminated_[row]);
            for (std::size_t p = 0; p < players_; ++p) out.number(returns_[row * players_ + p]);
        }
        return out.finish();
    }

    // Throws std::invalid_argument and changes nothing unless the bytes came from snapshot() of an equal batch.
    void restore(std::string_view bytes, std::string_view configuration) {
        ByteReader in(bytes);
        if (in.text() != configuration || in.number<std::int64_t>() != size()) {
            throw std::invalid_argument("snapshot is of another game, other options or another batch size than " +
                                        std::string(configuration) + " with " + std::to_string(size()) + " rows");
        }
        Batch loaded(*this);
        loaded.options_.seed = in.number<std::uint64_t>();
        for (std::size_t row = 0; row < states_.size(); ++row) loaded.restore_row(in, row);
        in.finish();
        assign(loaded);
    }

  private:
    static constexpr std::int64_t kStepNs = 40;
    static constexpr std::uint64_t kSeedSalt = 0xA5EED, kPlayoutSalt = 0x91A7, kResampleSalt = 0x4E5A;

    template <class I>
    static std::size_t index(I i) {
        return static_cast<std::size_t>(i);
    }
    static std::string name() { return std::string(Game::kName); }

    template <class Body>
    void parallel(std::int64_t count, std::int64_t ns, const Body& body) const {
        parallel_rows(count, options_.threads, ns, [&](std::int64_t begin, std::int64_t end) {
            for (std::size_t i = index(begin); i < index(end); ++i) body(i);
        });
    }

    std::uint64_t next_key(std::int64_t row) {
        return mix_seeds(mix_seeds(options_.seed, static_cast<std::uint64_t>(row)), episodes_[index(row)]++);
    }

    void restart(std::size_t row) {
        const bool keep = options_.autoreset == Autoreset::kSameStep;  // the ended game's result stays visible
        keys_[row] = next_key(static_cast<std::int64_t>(row));
        float kept[Game::kPlayers];
        for (std::size_t p = 0; p < players_; ++p) kept[p] = returns_[row * players_ + p];
        begin_episode(row);
        if (!keep) return;
        terminated_[row] = 1;
        for (std::size_t p = 0; p < players_; ++p) returns_[row * players_ + p] = kept[p];
    }

    void begin_episode(std::size_t row) {
        states_[row] = game_.initial();
        ply_[row] = 0;
        if constexpr (kHasSpeech<Game>) said_[row].clear();
        settle(row);
    }

    void put(std::size_t row, Action action) {
        history_[row * plies_ + ply_[row]++] = action;
        game_.apply(states_[row], action);
    }
    void advance(std::size_t row, Action action) {
        put(row, action);
        settle(row);
    }
    // Plays nature until a player must act or the game is over, then brings the row's columns up to date.
    void settle(std::size_t row) {
        Player player = game_.current_player(states_[row]);
        while (player == kChance && !options_.explicit_chance) {
            put(row, draw_chance(game_, states_[row], Rng(keys_[row], ply_[row])));
            player = game_.current_player(states_[row]);
        }
        current_player_[row] = player;
        terminated_[row] = player == kTerminal;
        for (std::size_t p = 0; p < players_; ++p) {
            const bool over = player == kTerminal;
            returns_[row * players_ + p] = over ? game_.returns(states_[row], static_cast<Player>(p)) : 0.0f;
        }
    }
    Action sample(std::size_t row, const Rng& rng) const {
        if (current_player_[row] == kChance) return draw_chance(game_, states_[row], rng);
        return sample_action(game_.legal_actions(states_[row]), rng);
    }
    // Random play from here to the end; the number of player turns. Columns are brought up to date once.
    std::int64_t play_out(std::size_t row) {
        std::int64_t turns = 0;
        SmallDraws draws(mix_seeds(keys_[row] ^ kPlayoutSalt, ply_[row]));
        for (Player player = current_player_[row]; player != kTerminal;) {
            if (player == kChance) {
                put(row, draw_chance(game_, states_[row], Rng(keys_[row], ply_[row])));
            } else {
                const auto legal = game_.legal_actions(states_[row]);
                put(row, legal.nth(static_cast<int>(draws.below(static_cast<std::uint32_t>(legal.size())))));
                ++turns;
            }
            player = game_.current_player(states_[row]);
        }
        if constexpr (kHasSpeech<Game>) said_[row].resize(said_[row].size() + index(turns));
        settle(row);
        return turns;
    }

    void expand_legal(std::size_t row) {
        const auto legal = game_.legal_actions(states_[row]);
        std::uint8_t* out = &legal_[row * index(game_.num_actions())];
        for (int a = 0; a < game_.num_actions(); ++a) out[a] = legal.contains(a);
        stale_[row] = 0;
    }
    void mark_stale(std::int64_t count, Rows rows) {
        if (!rows || count * 2 > size()) all_stale_ = true;
        if (all_stale_) return;
        for (const std::int64_t row : *rows) {
            if (stale_[index(row)] == 0) stale_rows_.push_back(index(row));
            stale_[index(row)] = 1;
        }
    }

    void check_rows(Rows rows) {
        if (!rows) return;
        ++mark_;
        for (const std::int64_t row : *rows) {
            if (row < 0 || row >= size()) {
                throw std::invalid_argument(name() + ": row " + std::to_string(row) + " is outside 0.." +
                                            std::to_string(size() - 1));
            }
            if (marks_[index(row)] == mark_) {
                throw std::invalid_argument(name() + ": row " + std::to_string(row) + " is named twice");
            }
            marks_[index(row)] = mark_;
        }
    }

    bool can_step(std::size_t row, Action action, bool named) const {
        if (current_player_[row] == kTerminal) return !named || options_.autoreset == Autoreset::kNextStep;
        if (current_player_[row] == kChance) return is_chance_outcome(game_, states_[row], action);
        return spf::is_legal(game_, states_[row], action);
    }

    void check_step(std::span<const std::int64_t> actions, Rows rows, std::span<const std::string> said) {
        check_rows(rows);
        const std::size_t count = rows ? rows->size() : states_.size();
        if (actions.size() != count) {
            throw std::invalid_argument(name() + ": actions must hold " + std::to_string(count) + " numbers, got " +
                                        std::to_string(actions.size()));
        }
        if (!said.empty() && said.size() != count) {
            throw std::invalid_argument(name() + ": texts must hold " + std::to_string(count) + " strings, got " +
                                        std::to_string(said.size()));
        }
        std::atomic<std::size_t> bad = count;
        parallel_rows(static_cast<std::int64_t>(count), options_.threads, kStepNs,
                      [&](std::int64_t begin, std::int64_t end) {
                          for (std::size_t i = index(begin); i < index(end); ++i) {
                              if (can_step(rows ? index((*rows)[i]) : i, actions[i], rows.has_value())) continue;
                              std::size_t lowest = bad.load();
                              while (i < lowest && !bad.compare_exchange_weak(lowest, i)) {
                              }
                              return;
                          }
                      });
        if (const std::size_t i = bad; i < count) {
            const std::int64_t row = rows ? (*rows)[i] : static_cast<std::int64_t>(i);
            const bool over = current_player_[index(row)] == kTerminal;
            throw std::invalid_argument(name() + ": action " + std::to_string(actions[i]) + " is illegal in row " +
                                        std::to_string(row) + (over ? ": its game is over" : ""));
        }
    }

    void restore_row(ByteReader& in, std::size_t row) {
        keys_[row] = in.number<std::uint64_t>();
        episodes_[row] = in.number<std::uint32_t>();
        const std::uint32_t plies = in.number<std::uint32_t>();
        if (plies > plies_) ByteReader::fail();
        states_[row] = game_.initial();
        ply_[row] = 0;
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
        terminated_[row] = in.number<std::uint8_t>() != 0;
        for (std::size_t p = 0; p < players_; ++p) returns_[row * players_ + p] = in.number<float>();
    }

    void copy_row(std::size_t row, const Batch& other, std::size_t from) {
        states_[row] = other.states_[from];
        ply_[row] = other.ply_[from];
        std::copy_n(&other.history_[from * plies_], plies_, &history_[row * plies_]);
        if constexpr (kHasSpeech<Game>) said_[row] = other.said_[from];
        current_player_[row] = other.current_player_[from];
        terminated_[row] = other.terminated_[from];
        std::copy_n(&other.returns_[from * players_], players_, &returns_[row * players_]);
    }

    // Copies the contents and keeps the buffers, whose addresses Python holds.
    void assign(const Batch& other) {
        options_.seed = other.options_.seed;
        states_ = other.states_;
        keys_ = other.keys_;
        episodes_ = other.episodes_;
        ply_ = other.ply_;
        history_ = other.history_;
        said_ = other.said_;
        std::copy(other.current_player_.begin(), other.current_player_.end(), current_player_.begin());
        std::copy(other.terminated_.begin(), other.terminated_.end(), terminated_.begin());
        std::copy(other.returns_.begin(), other.returns_.end(), returns_.begin());
        all_stale_ = true;
    }

    Game game_;
    BatchOptions options_;
    std::size_t players_, plies_;
    std::vector<State> states_;
    std::vector<std::uint64_t> keys_;  // of the episode
    std::vector<std::uint32_t> episodes_, ply_;
    std::vector<Action> history_;
    std::vector<std::vector<std::string>> said_;  // by row and turn
    std::vector<std::int32_t> current_player_;
    std::vector<std::uint8_t> terminated_;
    std::vector<float> returns_;
    std::vector<std::uint8_t> legal_, stale_;
    std::vector<std::size_t> stale_rows_;
    bool all_stale_ = true;
    std::vector<std::uint32_t> marks_;
    std::uint32_t mark_ = 0;
};

}  // namespace spf
