// A batch whose columns lie in one block of a machine's memory, worked on by row functions that the machine runs in any
// order. The machine is a GPU, or in tests the host: what tests cannot see without a GPU is in gpu.cuh alone.
//
//     struct Machine {
//         Machine(int device, std::size_t bytes);     // takes the block; throws OutOfMemory
//         std::byte* block() const;
//         int device() const;
//         Visit enter(Stream);                        // while it lives, work goes to this stream, after all before it
//         void join(Stream);                          // what is queued there later waits for all work before it
//         void each(std::size_t count, const F& f);   // f(i) for i in 0 .. count-1
//         void each_bytes(std::size_t count, std::size_t width, const F& f, std::uint8_t* out);
//                                                     // f(i, where) writes row i of out[count][width]
//         std::int64_t sum(std::size_t count, const F& f);
//         void fill(void* to, int byte, std::size_t bytes);
//         void copy(void* to, const void* from, std::size_t bytes);
//         void read(void* to_host, const void* from, std::size_t bytes);  // waits for the work before it
//     };
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "core/rows.h"
#include "cuda/device_batch.h"

namespace spf {

// *place = min(*place, value), whatever else runs at the time.
template <class T>
SPF_HD void lower(T* place, T value) {
#if defined(__CUDA_ARCH__)
    atomicMin(place, value);
#else
    if (value < *place) *place = value;
#endif
}

namespace block {

inline constexpr std::uint32_t kNone = 0xFFFFFFFFu;
struct Report {  // the lowest places in the lists of a call where something is wrong
    std::uint32_t row, action;
};
using Mark = unsigned long long;  // what atomicMin takes

template <TurnGame Game>
using Rows = GameRows<Game, true>;

// The rows of a call; std::optional is no device code.
struct List {
    bool named;
    Numbers rows;
    explicit List(const DeviceRows& given) : named(given.has_value()), rows(given.value_or(Numbers{})) {}
    SPF_HD std::size_t operator[](std::size_t i) const { return named ? static_cast<std::size_t>(rows[i]) : i; }
};

// ---- what is done to row i, or to place i of a list ----
template <TurnGame Game>
struct Open {
    Rows<Game> rows;
    SPF_HD void operator()(std::size_t row) const {
        rows.episodes[row] = 0;
        rows.terminated[row] = 0;
        for (std::size_t p = 0; p < rows.players; ++p) rows.returns[row * rows.players + p] = 0.0f;
        rows.keys[row] = rows.next_key(row);
        rows.begin(row);
    }
};

// Places that name the same row leave the lowest of them. Marks of later calls are lower than those of earlier ones.
struct MarkRow {
    Numbers list;
    std::size_t size;
    Mark* marks;
    std::uint32_t call;
    SPF_HD void operator()(std::size_t i) const {
        const auto row = static_cast<std::uint64_t>(list[i]);
        if (row < size) lower(&marks[row], (Mark{~call} << 32) | i);
    }
};
struct CheckRow {
    Numbers list;
    std::size_t size;
    const Mark* marks;
    Report* report;
    SPF_HD void operator()(std::size_t i) const {
        const auto row = static_cast<std::uint64_t>(list[i]);
        if (row >= size || (marks[row] & kNone) != i) lower(&report->row, static_cast<std::uint32_t>(i));
    }
};

template <TurnGame Game>
struct CheckAction {
    Rows<Game> rows;
    List list;
    Numbers actions;
    std::size_t size;
    Report* report;
    SPF_HD void operator()(std::size_t i) const {
        const std::size_t row = list[i];
        if (row >= size) return;  // CheckRow has seen it
        const Player player = rows.current_player[row];
        if (may_skip(player, list.named, rows.autoreset)) return;
        if (!may_play(rows.game, rows.states[row], player, actions[i])) {
            lower(&report->action, static_cast<std::uint32_t>(i));
        }
    }
};

template <TurnGame Game>
struct Step {
    Rows<Game> rows;
    List list;
    Numbers actions;
    SPF_HD void operator()(std::size_t i) const { rows.step(list[i], actions[i]); }
};

template <TurnGame Game>
struct DrawKey {
    Rows<Game> rows;
    List list;
    SPF_HD void operator()(std::size_t i) const { rows.keys[list[i]] = rows.next_key(list[i]); }
};
// After DrawKey: a group takes the key of its first row, or that of its seed; see Columns::assign_keys.
template <TurnGame Game>
struct BeginInGroup {
    Rows<Game> rows;
    List list, seeds;  // seeds: one per group, if any
    std::size_t repeat;
    SPF_HD void operator()(std::size_t i) const {
        const std::size_t row = list[i], group = i / repeat, first = list[group * repeat];
        if (seeds.named) {
            rows.keys[row] = mix_seeds(kSeedSalt, seeds[group]);
        } else if (row != first) {
            rows.keys[row] = rows.keys[first];
        }
        rows.begin(row);
    }
};

template <TurnGame Game>
struct Sample {
    Rows<Game> rows;
    std::uint64_t seed;
    std::int64_t* out;
    SPF_HD void operator()(std::size_t row) const {
        out[row] = sample_move(rows.game, rows.states[row], rows.current_player[row],
                               sample_key(seed, row, rows.episodes[row]), rows.ply[row]);
    }
};

template <TurnGame Game>
struct PlayOut {
    Rows<Game> rows;
    bool seeded;
    std::uint64_t seed;
    SPF_HD std::int64_t operator()(std::size_t row) const {
        return rows.play_out(row, rows.playout_key(seeded, seed, row));
    }
};

template <TurnGame Game>
struct Expand {
    Rows<Game> rows;
    SPF_HD void operator()(std::size_t row, std::uint8_t* out) const {
        rows.game.legal_actions(rows.states[row]).expand(rows.game.num_actions(), out);
    }
};

// Where the columns of a batch lie in its block.
template <TurnGame Game>
struct Layout {
    Rows<Game> rows;
    std::uint8_t* legal;
    Mark* marks;
    Report* report;
    std::size_t bytes = 0;

    Layout(const Game& game, std::size_t size, const BatchOptions& options, std::byte* block) {
        const auto players = static_cast<std::size_t>(num_players(game));
        const auto plies = static_cast<std::size_t>(game.max_plies()),
                   actions = static_cast<std::size_t>(game.num_actions());
        rows.game = game;
        rows.start = game.initial();
        rows.players = players;
        rows.seed = options.seed;
        rows.autoreset = options.autoreset;
        rows.explicit_chance = options.explicit_chance;
        rows.stride = size;
        place(block, size, rows.keys);
        place(block, size, rows.episodes);
        place(block, size, rows.ply);
        place(block, size, rows.current_player);
        place(block, size, rows.terminated);
        place(block, size * players, rows.returns);
        place(block, size * plies, rows.history);
        place(block, size, rows.states);
        place(block, size * actions, legal);
        place(block, size, marks);
        place(block, 1, report);
    }

  private:
    template <class T>
    void place(std::byte* block, std::size_t count, T*& column) {
        column = block == nullptr ? nullptr : reinterpret_cast<T*>(block + bytes);
        bytes += (count * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    }
    static constexpr std::size_t kAlign = 256;
};

}  // namespace block

template <TurnGame Game, class Machine>
class BlockBatch final : public DeviceBatch {
    static_assert(!kHasSpeech<Game>, "what players say is kept in strings");
    static_assert(std::is_trivially_copyable_v<Game>, "the rules are handed to every kernel");

  public:
    BlockBatch(const Game& game, std::int64_t size, const BatchOptions& options, int device)
        : BlockBatch(describe(game), game, size, options, device) {
        const auto visit = machine_.enter(0);
        machine_.fill(block_.marks, 0xFF, count() * sizeof *block_.marks);
        machine_.fill(block_.report, 0xFF, sizeof *block_.report);
        machine_.each(count(), block::Open<Game>{block_.rows});
    }

    std::unique_ptr<DeviceBatch> copy(Stream stream) const override {
        std::unique_ptr<BlockBatch> other(new BlockBatch(info_, block_.rows.game, size_, options_, device()));
        const auto visit = machine_.enter(stream), arrival = other->machine_.enter(stream);
        machine_.copy(other->machine_.block(), machine_.block(), block_.bytes);
        other->call_ = call_;
        other->stale_ = stale_;
        return other;
    }

    const GameInfo& info() const override { return info_; }
    std::int64_t size() const override { return size_; }
    int device() const override { return machine_.device(); }

    const std::int32_t* current_player() const override { return block_.rows.current_player; }
    const std::uint8_t* terminated() const override { return block_.rows.terminated; }
    const float* returns() const override { return block_.rows.returns; }
    const std::uint8_t* legal_actions() const override { return block_.legal; }
    void join(Stream stream) const override { machine_.join(stream); }
    void update_legal_actions(Stream stream) override {
        if (!stale_) return machine_.join(stream);
        const auto visit = machine_.enter(stream);
        machine_.each_bytes(count(), static_cast<std::size_t>(info_.num_actions), block::Expand<Game>{block_.rows},
                            block_.legal);
        stale_ = false;
    }

    void step(const Numbers& actions, const DeviceRows& rows, bool check, Stream stream) override {
        const auto visit = machine_.enter(stream);
        const block::List list(rows);
        refuse_if(wrong_count("actions", "numbers", static_cast<std::int64_t>(count_of(rows)), actions.count));
        if (check) {
            check_rows(rows);
            machine_.each(actions.count, block::CheckAction<Game>{block_.rows, list, actions, count(), block_.report});
            refuse_reported(list, actions);
        }
        machine_.each(actions.count, block::Step<Game>{block_.rows, list, actions});
        stale_ = true;
    }

    void reset(const DeviceRows& rows, const DeviceRows& seeds, std::int64_t repeat, Stream stream) override {
        const auto visit = machine_.enter(stream);
        const block::List list(rows);
        const std::size_t named = count_of(rows);
        check_rows(rows);
        if (rows) refuse_reported(list, {});
        refuse_if(
            wrong_groups(static_cast<std::int64_t>(named), repeat, seeds ? std::optional(seeds->count) : std::nullopt));
        machine_.each(named, block::DrawKey<Game>{block_.rows, list});
        machine_.each(
            named, block::BeginInGroup<Game>{block_.rows, list, block::List(seeds), static_cast<std::size_t>(repeat)});
        stale_ = true;
    }

    void sample_actions(std::uint64_t seed, std::int64_t* out, Stream stream) const override {
        const auto visit = machine_.enter(stream);
        machine_.each(count(), block::Sample<Game>{block_.rows, seed, out});
    }

    std::int64_t random_playouts(std::optional<std::uint64_t> seed, Stream stream) override {
        const auto visit = machine_.enter(stream);
        stale_ = true;
        return machine_.sum(count(), block::PlayOut<Game>{block_.rows, seed.has_value(), seed.value_or(0)});
    }

    std::vector<Action> history(std::int64_t row, Stream stream) const override {
        if (row < 0 || row >= size_) refuse(wrong_row(row, size_));
        const auto visit = machine_.enter(stream);
        const auto at = static_cast<std::size_t>(row);
        std::vector<Action> actions(read(block_.rows.ply + at));
        for (std::size_t ply = 0; ply < actions.size(); ++ply) {
            actions[ply] = static_cast<Action>(read(&block_.rows.move_at(at, ply)));
        }
        return actions;
    }

    std::string snapshot(Stream stream) const override {
        std::vector<std::byte> held(block_.bytes);
        {
            const auto visit = machine_.enter(stream);
            machine_.read(held.data(), machine_.block(), held.size());
        }
        const block::Rows<Game> rows = block::Layout<Game>(block_.rows.game, count(), options_, held.data()).rows;
        ByteWriter out;
        write_opening(out, configuration(info_), size_, options_.seed);
        for (std::size_t row = 0; row < count(); ++row) {
            write_place(out, rows.keys[row], rows.episodes[row], rows.ply[row]);
            for (std::size_t ply = 0; ply < rows.ply[row]; ++ply) {
                out.number(static_cast<Action>(rows.move_at(row, ply)));
            }
            write_result(out, rows.terminated[row], {rows.returns + row * rows.players, rows.players});
        }
        return out.finish();
    }

  private:
    BlockBatch(const GameInfo& info, const Game& game, std::int64_t size, const BatchOptions& options, int device)
        : info_(info),
          options_(options),
          size_(size),
          machine_(device, block::Layout<Game>(game, checked(size), options, nullptr).bytes),
          block_(game, count(), options, machine_.block()) {}

    std::size_t count() const { return static_cast<std::size_t>(size_); }
    std::size_t count_of(const DeviceRows& rows) const { return rows ? rows->count : count(); }

    [[noreturn]] static void refuse(const std::string& what) {
        throw std::invalid_argument(std::string(Game::kName) + ": " + what);
    }
    static void refuse_if(const std::string& what) {
        if (!what.empty()) refuse(what);
    }
    static std::size_t checked(std::int64_t size) {
        if (size < std::int64_t{block::kNone}) return static_cast<std::size_t>(size);
        refuse("a batch on a GPU holds fewer than 2^32 - 1 games, got " + std::to_string(size));
    }

    void check_rows(const DeviceRows& rows) {
        if (!rows) return;
        if (++call_ == block::kNone) {  // there is no lower mark
            machine_.fill(block_.marks, 0xFF, count() * sizeof *block_.marks);
            call_ = 1;
        }
        machine_.each(rows->count, block::MarkRow{*rows, count(), block_.marks, call_});
        machine_.each(rows->count, block::CheckRow{*rows, count(), block_.marks, block_.report});
    }
    void refuse_reported(const block::List& list, const Numbers& actions) {
        const block::Report found = read(block_.report);
        if (found.row == block::kNone && found.action == block::kNone) return;
        machine_.fill(block_.report, 0xFF, sizeof found);
        if (found.row != block::kNone) refuse(wrong_row(read(list.rows, found.row), size_));
        const std::int64_t row = list.named ? read(list.rows, found.action) : std::int64_t{found.action};
        refuse(illegal_move(block_.rows.game, read(block_.rows.states + row), read(block_.rows.current_player + row),
                            read(actions, found.action), row));
    }

    template <class T>
    T read(const T* from) const {
        T value;
        machine_.read(&value, from, sizeof value);
        return value;
    }
    std::int64_t read(const Numbers& numbers, std::size_t i) const {
        return numbers.wide ? read(static_cast<const std::int64_t*>(numbers.data) + i)
                            : read(static_cast<const std::int32_t*>(numbers.data) + i);
    }

    GameInfo info_;
    BatchOptions options_;
    std::int64_t size_;
    mutable Machine machine_;  // queues work for const calls too
    block::Layout<Game> block_;
    std::uint32_t call_ = 0;  // of check_rows
    bool stale_ = true;       // the legal actions
};

}  // namespace spf
