// A batch of any game behind one interface, so that the binding code is compiled once. One virtual call moves a whole
// batch; the loops inside are templates over the game.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/batch.h"
#include "core/options.h"
#include "text/text.h"

namespace spf {

// Many texts as one: text i is bytes[offsets[i]] to bytes[offsets[i + 1]].
struct TextBlock {
    std::string bytes;
    std::vector<std::int64_t> offsets;  // [texts + 1]
};

class AnyBatch {
  public:
    AnyBatch() = default;
    AnyBatch(const AnyBatch&) {}  // a copy is used by nobody yet
    virtual ~AnyBatch() = default;
    std::shared_mutex& in_use() const { return in_use_; }  // see Changes and Looks
    virtual std::unique_ptr<AnyBatch> copy() const = 0;
    virtual std::unique_ptr<AnyBatch> resample(Rows rows, std::optional<Player> player, std::uint64_t seed) const = 0;

    virtual const GameInfo& info() const = 0;
    // Moves of one row in one step: one, or one per player where all move at once.
    std::int64_t moves_per_row() const { return info().simultaneous ? info().num_players : 1; }
    virtual std::int64_t size() const = 0;
    virtual const std::int32_t* current_player() const = 0;
    virtual const std::uint8_t* terminated() const = 0;
    virtual const float* returns() const = 0;
    virtual const std::uint8_t* legal_actions() = 0;
    virtual const std::uint64_t* legal_bits() = 0;

    virtual void step(std::span<const std::int64_t> actions, Rows rows, std::span<const std::string_view> texts) = 0;
    virtual void reset(Rows rows, std::optional<std::span<const std::uint64_t>> seeds, std::int64_t repeat) = 0;
    virtual void sample_actions(std::uint64_t seed, std::span<std::int64_t> out) const = 0;
    virtual std::int64_t random_playouts(std::optional<std::uint64_t> seed) = 0;

    // player: whose view; none for whoever is to move, which a joint game does not know (its tensors: all players').
    virtual TextBlock observation(Rows rows, std::optional<Player> player) const = 0;
    virtual std::vector<int> tensor_shape() const = 0;  // throws if the game has no tensor
    virtual void observation_tensor(Rows rows, std::optional<Player> player, float* out) const = 0;
    virtual std::vector<std::string> messages_since(std::int64_t row, Player player) const = 0;
    virtual std::string information_state(std::int64_t row, Player player) const = 0;
    virtual std::string action_text(std::int64_t row, Action action, std::optional<Player> player) const = 0;
    virtual std::string reply_text(std::int64_t row, Action action, std::optional<Player> player) const = 0;
    virtual std::vector<Reading> parse(std::span<const std::string_view> replies, Rows rows,
                                       std::optional<Player> player, bool strict) const = 0;
    virtual std::vector<ChanceOutcome> chance_outcomes(std::int64_t row) const = 0;
    virtual std::vector<Action> history(std::int64_t row) const = 0;

    virtual std::string snapshot() const = 0;
    virtual void restore(std::string_view bytes) = 0;

  private:
    mutable std::shared_mutex in_use_;  // held by the bindings for the time of a call
};

// A batch is changed by one thread at a time, and by none while others look at it; calls wait for each other. What a
// view shows belongs to whoever keeps it.
using Changes = std::unique_lock<std::shared_mutex>;
using Looks = std::shared_lock<std::shared_mutex>;

struct GameEntry {
    GameInfo (*describe)(const OptionValues&);
    std::unique_ptr<AnyBatch> (*make)(const OptionValues&, std::int64_t size, const BatchOptions&, const Format&);
    Format (*format)(Style);
};

template <class Game>
GameEntry game_entry();  // one generated translation unit per game

}  // namespace spf
