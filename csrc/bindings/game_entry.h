// Joins a game's rules, its batch and its words; instantiated once per game by a generated translation unit.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/any_batch.h"
#include "text/reply.h"

namespace spf {

template <TurnGame Game>
class GameBatch final : public AnyBatch {
  public:
    GameBatch(const Game& game, std::int64_t size, const BatchOptions& options, const Format& format)
        : batch_(game, size, options),
          format_(format),
          info_(spf::describe(game)),
          preamble_(preamble(game, format.style)) {
        configuration_ = info_.name;
        for (const OptionInfo& option : info_.options)
            configuration_ += " " + option.name + "=" + std::to_string(option.value);
    }
    std::unique_ptr<AnyBatch> copy() const override { return std::make_unique<GameBatch>(*this); }
    std::unique_ptr<AnyBatch> resample(Rows rows, std::optional<Player> player, std::uint64_t seed) const override {
        if (rows) {
            for (const std::int64_t row : *rows) check_row(row);
            if (rows->empty()) throw std::invalid_argument(info_.name + ": rows must name at least one row");
        }
        if (player) check_player(*player);
        return std::make_unique<GameBatch>(*this, batch_.resample(rows, player, seed));
    }

    GameBatch(const GameBatch& like, Batch<Game>&& batch)
        : batch_(std::move(batch)),
          format_(like.format_),
          info_(like.info_),
          preamble_(like.preamble_),
          configuration_(like.configuration_) {}

    const GameInfo& info() const override { return info_; }
    std::int64_t size() const override { return batch_.size(); }
    const std::int32_t* current_player() const override { return batch_.current_player(); }
    const std::uint8_t* terminated() const override { return batch_.terminated(); }
    const float* returns() const override { return batch_.returns(); }
    const std::uint8_t* legal_actions() override { return batch_.legal_actions(); }

    void step(std::span<const std::int64_t> actions, Rows rows, std::span<const std::string_view> texts) override {
        std::vector<std::string> said;
        if constexpr (kHasSpeech<Game>) {
            said.reserve(texts.size());
            for (const std::string_view text : texts) {
                said.push_back(GameText<Game>::spoken(text, format_.speech_characters));
            }
        }
        batch_.step(actions, rows, said);
    }
    void reset(Rows rows, std::optional<std::span<const std::uint64_t>> seeds, std::int64_t repeat) override {
        batch_.reset(rows, seeds, repeat);
    }
    void sample_actions(std::uint64_t seed, std::span<std::int64_t> out) const override {
        batch_.sample_actions(seed, out);
    }
    std::int64_t random_playouts() override { return batch_.random_playouts(); }

    std::vector<std::string> observation(Rows rows) const override {
        std::vector<std::string> texts(count(rows));
        each_row(rows, kTextNs, [&](std::size_t i, std::int64_t row) {
            const Player player = batch_.current_player()[row];
            if (player < 0) return;  // nobody reads at chance nodes and after the end
            texts[i] = preamble_;
            append_situation(batch_.game(), batch_.state(row), player, format_, batch_.said(row), texts[i]);
        });
        return texts;
    }

    std::vector<int> tensor_shape() const override {
        if constexpr (kHasTensor) {
            const auto shape = batch_.game().tensor_shape();
            return {shape.begin(), shape.end()};
        } else {
            throw std::invalid_argument(info_.name + ": has no observation tensor, use observation()");
        }
    }
    void observation_tensor(Rows rows, float* out) const override {
        if constexpr (kHasTensor) {
            std::int64_t width = 1;
            for (const int n : batch_.game().tensor_shape()) width *= n;
            each_row(rows, 20 + width, [&](std::size_t i, std::int64_t row) {
                float* place = out + static_cast<std::int64_t>(i) * width;
                const Player player = batch_.current_player()[row];
                std::fill(place, place + width, 0.0f);
                if (player >= 0) batch_.game().observation_tensor(batch_.state(row), player, place);
            });
        }
    }

    std::vector<std::string> messages_since(std::int64_t row, Player player) const override;

    std::string information_state(std::int64_t row, Player player) const override {
        check_row(row);
        check_player(player);
        std::string key = batch_.game().information_state(batch_.state(row), player);
        for (const std::string& text : batch_.said(row)) key += "|" + text;
        return key;
    }
    std::string action_text(std::int64_t row, Action action) const override {
        check_action(row, action);
        std::string out;
        append_action(batch_.game(), batch_.state(row), action, format_.style, out);
        return out;
    }
    std::string reply_text(std::int64_t row, Action action) const override {
        check_action(row, action);
        return spf::reply_text(batch_.game(), batch_.state(row), action, format_.style);
    }

    std::vector<Reading> parse(std::span<const std::string_view> replies, Rows rows, bool strict) const override {
        std::vector<Reading> readings(count(rows));
        if (replies.size() != readings.size()) {
            throw std::invalid_argument(info_.name + ": replies must hold " + std::to_string(readings.size()) +
                                        " texts, got " + std::to_string(replies.size()));
        }
        std::size_t bytes = 0;
        for (const std::string_view reply : replies) bytes += reply.size();
        const std::int64_t each = kTextNs + static_cast<std::int64_t>(bytes / (replies.size() + 1));
        each_row(rows, each, [&](std::size_t i, std::int64_t row) {
            if (batch_.current_player()[row] < 0) {
                readings[i] = {kInvalidAction, "nobody is to move in this game"};
            } else if (strict) {
                readings[i] = read_strict(batch_.game(), batch_.state(row), replies[i]);
            } else {
                readings[i] = read_lenient(batch_.game(), batch_.state(row), replies[i]);
            }
        });
        return readings;
    }

    std::vector<ChanceOutcome> chance_outcomes(std::int64_t row) const override {
        check_row(row);
        if (batch_.current_player()[row] != kChance) return {};
        const auto outcomes = batch_.game().chance_outcomes(batch_.state(row));
        return {outcomes.begin(), outcomes.end()};
    }
    std::vector<Action> history(std::int64_t row) const override {
        check_row(row);
        const auto actions = batch_.history(row);
        return {actions.begin(), actions.end()};
    }

    std::string snapshot() const override { return batch_.snapshot(configuration_); }
    void restore(std::string_view bytes) override { batch_.restore(bytes, configuration_); }

  private:
    static constexpr bool kHasTensor = requires(const Game& game) { game.tensor_shape(); };
    static constexpr std::int64_t kTextNs = 1000;

    std::size_t count(Rows rows) const { return rows ? rows->size() : static_cast<std::size_t>(size()); }

    template <class Body>
    void each_row(Rows rows, std::int64_t ns, const Body& body) const {
        if (rows) {
            for (const std::int64_t row : *rows) check_row(row);
        }
        const auto total = static_cast<std::int64_t>(count(rows));
        parallel_rows(total, batch_.options().threads, ns, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                const auto at = static_cast<std::size_t>(i);
                body(at, rows ? (*rows)[at] : i);
            }
        });
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
    void check_action(std::int64_t row, Action action) const {
        check_row(row);
        if (batch_.current_player()[row] >= 0 && spf::is_legal(batch_.game(), batch_.state(row), action)) return;
        throw std::invalid_argument(info_.name + ": action " + std::to_string(action) + " is illegal in row " +
                                    std::to_string(row));
    }

    Batch<Game> batch_;
    Format format_;
    GameInfo info_;
    std::string preamble_, configuration_;
};

// What is new for a player since its last turn: the moves of the others, then what it sees now. Before its first turn:
// the complete observation.
template <TurnGame Game>
std::vector<std::string> GameBatch<Game>::messages_since(std::int64_t row, Player player) const {
    check_row(row);
    check_player(player);
    const Game& game = batch_.game();
    const auto said = batch_.said(row);
    std::vector<std::string> news;
    bool acted = false;
    std::size_t turn = 0;
    typename Game::State state = game.initial();
    for (const Action action : batch_.history(row)) {
        const Player actor = game.current_player(state);
        if (actor == player) {
            acted = true;
            news.clear();
        } else if (actor >= 0) {
            std::string line = "Player " + std::to_string(actor) + ": ";
            append_action(game, state, action, format_.style, line);
            if (turn < said.size() && !said[turn].empty()) line += " " + said[turn];
            news.push_back(std::move(line));
        }
        turn += actor >= 0;
        game.apply(state, action);
    }
    if (!acted) return {spf::observation(game, state, player, format_, said)};
    if (game.current_player(state) == player) {
        std::string now;
        append_situation(game, state, player, format_, said, now);
        news.push_back(std::move(now));
    }
    return news;
}

template <TurnGame Game>
GameEntry make_game_entry() {
    return {[](const OptionValues& values) { return describe(configure<Game>(values)); },
            [](const OptionValues& values, std::int64_t size, const BatchOptions& options,
               const Format& format) -> std::unique_ptr<AnyBatch> {
                return std::make_unique<GameBatch<Game>>(configure<Game>(values), size, options, format);
            },
            [](Style style) { return default_format<Game>(style); }};
}

}  // namespace spf
