// Joins a game's rules, its batch and its words; instantiated once per game by a generated translation unit. At a joint
// game words are read and written seat by seat.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/any_batch.h"
#include "core/joint_batch.h"
#include "text/reply.h"

namespace spf {

// Would this many rows leave something of the machine's memory? Asked first, since a system may promise what it lacks.
inline bool fits_in_memory(std::int64_t rows, std::size_t bytes_per_row) {
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page <= 0) return true;
    return static_cast<double>(rows) * static_cast<double>(bytes_per_row) <
           0.9 * static_cast<double>(pages) * static_cast<double>(page);
}

template <class Game>
struct BatchOf;
template <TurnGame Game>
struct BatchOf<Game> {
    using Type = Batch<Game>;
};
template <JointGame Game>
struct BatchOf<Game> {
    using Type = JointBatch<Game>;
};

template <AnyGame Game>
class GameBatch final : public AnyBatch {
  public:
    GameBatch(const Game& game, std::int64_t size, const BatchOptions& options, const Format& format)
        : batch_(game, size, options),
          format_(format),
          info_(spf::describe(game)),
          preamble_(preamble(game, format.style)),
          configuration_(configuration(info_)) {}
    std::unique_ptr<AnyBatch> copy() const override { return std::make_unique<GameBatch>(*this); }
    std::unique_ptr<AnyBatch> resample(Rows rows, std::optional<Player> player, std::uint64_t seed) const override {
        check_rows(rows);
        if (rows && rows->empty()) {
            throw std::invalid_argument(info_.name + ": rows must name at least one row");
        }
        if (player) check_player(*player);
        if constexpr (kJoint) {
            throw std::invalid_argument(info_.name + ": has no resample, all players move at once");
        } else {
            return std::make_unique<GameBatch>(*this, batch_.resample(rows, player, seed));
        }
    }

    GameBatch(const GameBatch& like, typename BatchOf<Game>::Type&& batch)
        : batch_(std::move(batch)),
          format_(like.format_),
          info_(like.info_),
          preamble_(like.preamble_),
          configuration_(like.configuration_) {}

    const typename BatchOf<Game>::Type& batch() const { return batch_; }
    const GameInfo& info() const override { return info_; }
    std::int64_t size() const override { return batch_.size(); }
    const std::int32_t* current_player() const override { return batch_.current_player(); }
    const std::uint8_t* terminated() const override { return batch_.terminated(); }
    const float* returns() const override { return batch_.returns(); }
    const std::uint8_t* legal_actions() override { return batch_.legal_actions(); }
    const std::uint64_t* legal_bits() override { return batch_.legal_bits(); }

    void step(std::span<const std::int64_t> actions, Rows rows, std::span<const std::string_view> texts) override {
        if (!texts.empty() && texts.size() != count(rows)) {
            throw std::invalid_argument(info_.name + ": texts must hold " + std::to_string(count(rows)) +
                                        " strings, got " + std::to_string(texts.size()));
        }
        if constexpr (kJoint) {
            batch_.step(actions, rows);
        } else {
            std::vector<std::string> said;
            if constexpr (kHasSpeech<Game>) {
                said.reserve(texts.size());
                for (const std::string_view text : texts) {
                    const std::string_view reply = format_.style == Style::kMars ? answer_of(text) : text;
                    said.push_back(GameText<Game>::spoken(reply, format_.speech_characters));
                }
            }
            batch_.step(actions, rows, said);
        }
    }
    void reset(Rows rows, std::optional<std::span<const std::uint64_t>> seeds, std::int64_t repeat) override {
        batch_.reset(rows, seeds, repeat);
    }
    void sample_actions(std::uint64_t seed, std::span<std::int64_t> out) const override {
        batch_.sample_actions(seed, out);
    }
    std::int64_t random_playouts(std::optional<std::uint64_t> seed) override { return batch_.random_playouts(seed); }

    TextBlock observation(Rows rows, std::optional<Player> player) const override {
        check_reader(player);
        return write_rows(rows, [&](std::int64_t row, std::string& out) {
            const Player reader = reader_of(row, player);
            if (reader < 0) return;  // nobody reads at chance nodes and after the end
            out += preamble_;
            tell_situation(row, reader, out);
        });
    }

    std::vector<int> tensor_shape() const override {
        if constexpr (kHasTensor) {
            const auto shape = batch_.game().tensor_shape();
            return {shape.begin(), shape.end()};
        } else {
            throw std::invalid_argument(info_.name + ": has no observation tensor, use observation()");
        }
    }
    void observation_tensor(Rows rows, std::optional<Player> player, float* out) const override {
        if (player) check_player(*player);
        if constexpr (kHasTensor) {
            std::int64_t width = 1;
            for (const int n : batch_.game().tensor_shape()) width *= n;
            const bool all = kJoint && !player;
            const Player views = all ? info_.num_players : 1;
            each_row(rows, (20 + width) * views, [&](std::size_t i, std::int64_t row) {
                float* place = out + static_cast<std::int64_t>(i) * views * width;
                std::fill(place, place + views * width, 0.0f);
                for (Player view = 0; view < views; ++view, place += width) {
                    const Player reader = viewer_of(row, all ? std::optional(view) : player);
                    if (reader >= 0) batch_.game().observation_tensor(batch_.state(row), reader, place);
                }
            });
        }
    }

    std::vector<std::string> messages_since(std::int64_t row, Player player) const override;

    std::string information_state(std::int64_t row, Player player) const override {
        check_row(row);
        check_player(player);
        std::string key = batch_.game().information_state(batch_.state(row), player);
        for (const std::string& text : batch_.said(row)) {
            key += '|';
            key += std::to_string(text.size());
            key += ':';
            key += text;
        }
        return key;
    }
    std::string action_text(std::int64_t row, Action action, std::optional<Player> player) const override {
        const Player mover = check_action(row, action, player);
        std::string out;
        append_action(seat(mover), batch_.state(row), action, format_.style, out);
        return out;
    }
    std::string reply_text(std::int64_t row, Action action, std::optional<Player> player) const override {
        const Player mover = check_action(row, action, player);
        return spf::reply_text(seat(mover), batch_.state(row), action, format_.style);
    }

    std::vector<Reading> parse(std::span<const std::string_view> replies, Rows rows, std::optional<Player> player,
                               bool strict) const override {
        check_reader(player);
        std::vector<Reading> readings(count(rows));
        if (replies.size() != readings.size()) {
            throw std::invalid_argument(info_.name + ": replies must hold " + std::to_string(readings.size()) +
                                        " texts, got " + std::to_string(replies.size()));
        }
        std::size_t bytes = 0;
        for (const std::string_view reply : replies) bytes += reply.size();
        const std::int64_t each = kTextNs + static_cast<std::int64_t>(bytes / (replies.size() + 1));
        each_row(rows, each, [&](std::size_t i, std::int64_t row) {
            const Player mover = mover_of(row, player);
            if (batch_.current_player()[row] == kTerminal || batch_.current_player()[row] == kChance) {
                readings[i] = {kInvalidAction, "nobody is to move in this game"};
            } else if (mover < 0) {
                readings[i] = {kInvalidAction, "player " + std::to_string(*player) + " is not to move"};
            } else if (strict) {
                readings[i] = read_strict(seat(mover), batch_.state(row), replies[i], format_.style);
            } else {
                readings[i] = read_lenient(seat(mover), batch_.state(row), replies[i], format_.style);
            }
        });
        return readings;
    }

    std::vector<ChanceOutcome> chance_outcomes(std::int64_t row) const override {
        check_row(row);
        if constexpr (kJoint) {
            return {};
        } else {
            if (batch_.current_player()[row] != kChance) return {};
            const auto outcomes = batch_.game().chance_outcomes(batch_.state(row));
            return {outcomes.begin(), outcomes.end()};
        }
    }
    std::vector<Action> history(std::int64_t row) const override {
        check_row(row);
        const auto actions = batch_.history(row);
        return {actions.begin(), actions.end()};
    }

    std::string snapshot() const override { return batch_.snapshot(configuration_); }
    void restore(std::string_view bytes) override {
        if constexpr (kHasSpeech<Game>) {
            auto loaded = batch_;
            loaded.restore(bytes, configuration_);
            for (std::int64_t row = 0; row < size(); ++row) {
                for (const std::string& text : loaded.said(row)) {
                    if (sanitize_speech(text, format_.speech_characters) == text) continue;
                    throw std::invalid_argument(info_.name +
                                                ": the snapshot holds speech that could not have been said here");
                }
            }
        }
        batch_.restore(bytes, configuration_);  // keeps the buffers that views show
    }

  private:
    static constexpr bool kJoint = JointGame<Game>;
    static constexpr bool kHasTensor = requires(const Game& game) { game.tensor_shape(); };
    static constexpr std::int64_t kTextNs = 1000;

    // Player turns of a game so far, nature's left out; of a joint game, steps.
    std::size_t turns(std::int64_t row) const {
        const std::vector<Action> history = batch_.history(row);
        if constexpr (kJoint) {
            return history.size() / static_cast<std::size_t>(info_.num_players);
        } else {
            typename Game::State state = batch_.game().initial();
            std::size_t count = 0;
            for (const Action action : history) {
                count += batch_.game().current_player(state) >= 0;
                batch_.game().apply(state, action);
            }
            return count;
        }
    }
    void tell_situation(std::int64_t row, Player player, std::string& out) const {
        if (format_.style == Style::kMars) {
            out += "Turn " + std::to_string(turns(row) + 1) + ". ";
            if (mover_of(row, player) == player) out += "It is your turn. ";
        }
        append_situation(seat(player), batch_.state(row), player, format_, batch_.said(row), out);
    }
    // What the words of one player are about.
    decltype(auto) seat([[maybe_unused]] Player player) const {
        if constexpr (kJoint) {
            return Seat<Game>{batch_.game(), player};
        } else {
            return batch_.game();
        }
    }
    // Who reads what happens in a row: the player named, or else the one to move; negative if nobody is to move.
    Player reader_of(std::int64_t row, std::optional<Player> player) const {
        const Player current = batch_.current_player()[row];
        return current == kTerminal || current == kChance ? current : player.value_or(current);
    }
    // Whose view a tensor is: that of a player who is named is there after the end too.
    Player viewer_of(std::int64_t row, std::optional<Player> player) const {
        return batch_.current_player()[row] == kChance ? kChance : player.value_or(batch_.current_player()[row]);
    }
    // Whose move it is; negative if the player named is not to move.
    Player mover_of(std::int64_t row, std::optional<Player> player) const {
        const Player reader = reader_of(row, player), current = batch_.current_player()[row];
        return current == kSimultaneous || current == reader ? reader : kTerminal;
    }

    std::size_t count(Rows rows) const { return rows ? rows->size() : static_cast<std::size_t>(size()); }

    // write(row, out) appends the text of one row.
    template <class Write>
    TextBlock write_rows(Rows rows, const Write& write) const {
        check_rows(rows);
        const auto total = static_cast<std::int64_t>(count(rows));
        TextBlock block{{}, std::vector<std::int64_t>(count(rows) + 1)};
        std::map<std::int64_t, std::string> pieces;  // by the range of rows they are of
        std::mutex mutex;
        parallel_rows(total, batch_.options().threads, kTextNs, [&](std::int64_t begin, std::int64_t end) {
            std::string piece;
            for (std::int64_t i = begin; i < end; ++i) {
                const std::size_t before = piece.size(), at = static_cast<std::size_t>(i);
                write(rows ? (*rows)[at] : i, piece);
                block.offsets[at + 1] = static_cast<std::int64_t>(piece.size() - before);
            }
            const std::scoped_lock lock(mutex);
            pieces.emplace(begin, std::move(piece));
        });
        for (std::size_t i = 0; i < count(rows); ++i) block.offsets[i + 1] += block.offsets[i];
        if (pieces.size() == 1) {
            block.bytes = std::move(pieces.begin()->second);
        } else {
            for (const auto& [begin, piece] : pieces) block.bytes += piece;
        }
        return block;
    }

    template <class Body>
    void each_row(Rows rows, std::int64_t ns, const Body& body) const {
        check_rows(rows);
        const auto total = static_cast<std::int64_t>(count(rows));
        parallel_rows(total, batch_.options().threads, ns, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                const auto at = static_cast<std::size_t>(i);
                body(at, rows ? (*rows)[at] : i);
            }
        });
    }

    void check_rows(Rows rows) const {
        if (!rows) return;
        for (const std::int64_t row : *rows) check_row(row);
    }
    void check_row(std::int64_t row) const {
        if (row >= 0 && row < size()) return;
        throw std::invalid_argument(info_.name + ": row " + std::to_string(row) + " is outside 0.." +
                                    std::to_string(size() - 1));
    }
    void check_player(Player player) const {
        if (player >= 0 && player < info_.num_players) return;
        throw std::invalid_argument(info_.name + ": player " + std::to_string(player) + " is outside 0.." +
                                    std::to_string(info_.num_players - 1));
    }
    void check_reader(std::optional<Player> player) const {
        if (player) return check_player(*player);
        if (!kJoint) return;
        throw std::invalid_argument(info_.name + ": all players move at once, say which with player=0.." +
                                    std::to_string(info_.num_players - 1));
    }
    Player check_action(std::int64_t row, Action action, std::optional<Player> player) const {
        check_row(row);
        check_reader(player);
        const Player mover = mover_of(row, player);
        if (mover >= 0 && is_legal(row, mover, action)) return mover;
        throw std::invalid_argument(info_.name + ": action " + std::to_string(action) + " is illegal in row " +
                                    std::to_string(row));
    }

    bool is_legal(std::int64_t row, [[maybe_unused]] Player mover, Action action) const {
        if constexpr (kJoint) {
            return batch_.game().legal_actions(batch_.state(row), mover).contains(action);
        } else {
            return spf::is_legal(batch_.game(), batch_.state(row), action);
        }
    }

    typename BatchOf<Game>::Type batch_;
    Format format_;
    GameInfo info_;
    std::string preamble_, configuration_;
};

// What is new for a player since its last turn: the moves of the others, then what it sees now. Before its first turn:
// the complete observation.
template <AnyGame Game>
std::vector<std::string> GameBatch<Game>::messages_since(std::int64_t row, Player player) const {
    check_row(row);
    check_player(player);
    const auto said = batch_.said(row);
    std::vector<std::string> news;
    if (batch_.current_player()[row] == kChance) return news;
    bool acted = false;
    std::size_t turn = 0;
    const auto tell = [&](const auto& seat, const typename Game::State& state, Player actor, Action action) {
        if (actor == player) {
            acted = true;
        } else if (actor >= 0) {
            std::string line;
            if (format_.style == Style::kMars) {
                line += "Turn " +
                        std::to_string((kJoint ? turn / static_cast<std::size_t>(info_.num_players) : turn) + 1) + ". ";
                if constexpr (!kJoint) {
                    if (info_.perfect_information) {  // what the other saw and could do
                        GameText<Game>::situation(batch_.game(), state, player, format_, said, line);
                        append_legal_list(batch_.game(), state, format_, line);
                        line += '\n';
                    }
                }
            }
            line += "Player " + std::to_string(actor) + ": ";
            append_action(seat, state, action, format_.style, line);
            if (turn < said.size() && !said[turn].empty()) line.append(" \"").append(said[turn]).append("\"");
            news.push_back(std::move(line));
        }
        turn += actor >= 0;
    };
    if constexpr (kJoint) {
        batch_.replay(row, [&](const typename Game::State& state, const Action* moves) {
            news.clear();
            for (Player p = 0; p < info_.num_players; ++p) tell(seat(p), state, p, moves[p]);
        });
    } else {
        typename Game::State state = batch_.game().initial();
        for (const Action action : batch_.history(row)) {
            const Player actor = batch_.game().current_player(state);
            if (actor == player) news.clear();
            tell(batch_.game(), state, actor, action);
            batch_.game().apply(state, action);
        }
    }
    std::string now = acted ? std::string() : preamble_;
    if (!acted || mover_of(row, player) == player) tell_situation(row, player, now);
    if (!acted) return {now};
    if (!now.empty()) news.push_back(std::move(now));
    return news;
}

template <AnyGame Game>
GameEntry make_game_entry() {
    return {[](const OptionValues& values) { return describe(configure<Game>(values)); },
            [](const OptionValues& values, std::int64_t size, const BatchOptions& options,
               const Format& format) -> std::unique_ptr<AnyBatch> {
                const Game game = configure<Game>(values);
                if (!fits_in_memory(size, BatchOf<Game>::Type::row_bytes(game))) throw std::bad_alloc();
                return std::make_unique<GameBatch<Game>>(game, size, options, format);
            },
            [](Style style) { return default_format<Game>(style); }};
}

}  // namespace spf
