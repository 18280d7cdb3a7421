// What every kind of batch keeps beside its states: the columns Python sees, the keys of episodes, the checks of row
// lists, and the way rows begin, end and begin again. It knows no game.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/bytes.h"
#include "core/game.h"
#include "core/rng.h"
#include "core/rows.h"
#include "core/workers.h"

namespace spf {

using Rows = std::optional<std::span<const std::int64_t>>;  // none: all rows, in order

class Columns {
  public:
    std::int64_t size() const { return static_cast<std::int64_t>(keys_.size()); }
    const BatchOptions& options() const { return options_; }
    std::uint32_t ply(std::int64_t row) const { return ply_[index(row)]; }
    const std::int32_t* current_player() const { return current_player_.data(); }
    const std::uint8_t* terminated() const { return terminated_.data(); }
    const float* returns() const { return returns_.data(); }

    static std::size_t row_bytes(int players, int legal_width) {
        return 2 * sizeof(std::uint64_t) + 4 * sizeof(std::uint32_t) + 2 + sizeof(float) * index(players) +
               index(legal_width);
    }

  protected:
    static constexpr std::int64_t kStepNs = 40;

    // legal_width: bytes of one row of the legal actions.
    Columns(std::string_view name, std::int64_t size, int players, int legal_width, const BatchOptions& options)
        : name_(name),
          options_(options),
          players_(index(players)),
          legal_width_(index(legal_width)),
          keys_(index(size)),
          episodes_(index(size), 0),
          ply_(index(size), 0),
          current_player_(index(size), kTerminal),
          terminated_(index(size), 0),
          returns_(index(size) * players_, 0.0f),
          legal_(index(size) * legal_width_, 0),
          stale_(index(size), 0),
          marks_(index(size), 0) {
        for (std::int64_t row = 0; row < size; ++row) keys_[index(row)] = next_key(row);
    }

    RowColumns columns() {
        return {keys_.data(),    episodes_.data(), ply_.data(),   current_player_.data(), terminated_.data(),
                returns_.data(), players_,         options_.seed, options_.autoreset};
    }
    template <class I>
    static std::size_t index(I i) {
        return static_cast<std::size_t>(i);
    }
    std::int64_t count_of(Rows rows) const { return rows ? static_cast<std::int64_t>(rows->size()) : size(); }
    static std::size_t row_of(Rows rows, std::size_t i) { return rows ? index((*rows)[i]) : i; }

    template <class Body>
    void parallel(std::int64_t count, std::int64_t ns, const Body& body) const {
        parallel_rows(count, options_.threads, ns, [&](std::int64_t begin, std::int64_t end) {
            for (std::size_t i = index(begin); i < index(end); ++i) body(i);
        });
    }

    // Sum of body(row) over all rows.
    template <class Body>
    std::int64_t parallel_sum(std::int64_t ns, const Body& body) const {
        std::atomic<std::int64_t> total = 0;
        parallel_rows(size(), options_.threads, ns, [&](std::int64_t begin, std::int64_t end) {
            std::int64_t sum = 0;
            for (std::size_t row = index(begin); row < index(end); ++row) sum += body(row);
            total += sum;
        });
        return total;
    }

    // ---- checks, all before anything changes ----
    [[noreturn]] void refuse(const std::string& what) const { throw std::invalid_argument(name_ + ": " + what); }
    void refuse_if(const std::string& what) const {
        if (!what.empty()) refuse(what);
    }

    void check_rows(Rows rows) {
        if (!rows) return;
        ++mark_;
        for (const std::int64_t row : *rows) {
            if (row < 0 || row >= size() || marks_[index(row)] == mark_) refuse(wrong_row(row, size()));
            marks_[index(row)] = mark_;
        }
    }
    bool may_skip(std::size_t row, bool named) const {
        return spf::may_skip(current_player_[row], named, options_.autoreset);
    }
    // The lowest i below count for which good(i) is false, or count.
    template <class Good>
    std::size_t first_bad(std::size_t count, const Good& good) const {
        std::atomic<std::size_t> bad = count;
        parallel_rows(static_cast<std::int64_t>(count), options_.threads, kStepNs,
                      [&](std::int64_t begin, std::int64_t end) {
                          for (std::size_t i = index(begin); i < index(end); ++i) {
                              if (good(i)) continue;
                              std::size_t lowest = bad.load();
                              while (i < lowest && !bad.compare_exchange_weak(lowest, i)) {
                              }
                              return;
                          }
                      });
        return bad;
    }

    // ---- episodes ----
    std::uint64_t next_key(std::int64_t row) { return columns().next_key(index(row)); }

    // Keys for new games. Row i of the list belongs to group i / repeat, and one group shares one deal. Without seeds a
    // group takes the next stream of its first row; with seeds (one per group) it is a function of its seed alone.
    void assign_keys(Rows rows, std::optional<std::span<const std::uint64_t>> seeds, std::int64_t repeat) {
        const std::int64_t count = count_of(rows);
        check_rows(rows);
        refuse_if(wrong_groups(count, repeat, seeds ? std::optional(seeds->size()) : std::nullopt));
        std::uint64_t key = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            const std::size_t row = row_of(rows, index(i));
            const std::uint64_t own = next_key(static_cast<std::int64_t>(row));
            if (i % repeat == 0) key = seeds ? mix_seeds(kSeedSalt, (*seeds)[index(i / repeat)]) : own;
            keys_[row] = key;
        }
    }

    // Begins new games in these rows; see assign_keys for repeat and seeds.
    template <class Begin>
    void begin_rows(Rows rows, std::optional<std::span<const std::uint64_t>> seeds, std::int64_t repeat,
                    const Begin& begin) {
        assign_keys(rows, seeds, repeat);
        parallel(count_of(rows), kStepNs, [&](std::size_t i) { begin(row_of(rows, i)); });
        mark_stale(count_of(rows), rows);
    }

    // Calls move(i, row), which says who is to move then, for every row of the list whose game goes on; settle(row)
    // where that is nature or nobody; and begin(row) where autoreset says so. Block by block, first what all rows need
    // and then what some do: one row after the other, every end of a game would stall the next ones.
    template <class Move, class Settle, class Begin>
    void play(Rows rows, const Move& move, const Settle& settle, const Begin& begin) {
        constexpr std::size_t kBlock = 256;
        const std::int64_t count = count_of(rows);
        const RowColumns all = columns();
        parallel_rows(count, options_.threads, kStepNs, [&](std::int64_t first, std::int64_t last) {
            std::size_t unsettled[kBlock];
            for (std::size_t block = index(first); block < index(last); block += kBlock) {
                std::size_t some = 0;
                for (std::size_t i = block; i < std::min(block + kBlock, index(last)); ++i) {
                    const std::size_t row = row_of(rows, i);
                    if (current_player_[row] == kTerminal) {  // also in the same-step mode, after a playout
                        if (options_.autoreset == Autoreset::kNextStep) all.restart(row, [&] { begin(row); });
                        continue;
                    }
                    const Player player = move(i, row);
                    current_player_[row] = player;
                    if (options_.autoreset == Autoreset::kSameStep) all.forget_result(row);
                    unsettled[some] = row;
                    some += index(player == kChance || player == kTerminal);
                }
                for (std::size_t i = 0; i < some; ++i) {
                    const std::size_t row = unsettled[i];
                    settle(row);
                    if (terminated_[row] != 0 && options_.autoreset == Autoreset::kSameStep) {
                        all.restart(row, [&] { begin(row); });
                    }
                }
            }
        });
        mark_stale(count, rows);
    }

    template <class ReturnOf>
    void close_row(std::size_t row, Player player, const ReturnOf& return_of) {
        columns().close(row, player, return_of);
    }

    // ---- legal actions as bytes, written when they are looked at ----
    template <class Expand>
    const std::uint8_t* fresh_legal(const Expand& expand) {
        const auto refresh = [&](std::size_t row) { expand(row, &legal_[row * legal_width_]); };
        if (all_stale_) {
            parallel(size(), kStepNs, refresh);
        } else {
            for (const std::size_t row : stale_rows_) refresh(row);
        }
        for (const std::size_t row : stale_rows_) stale_[row] = 0;
        all_stale_ = false;
        stale_rows_.clear();
        return legal_.data();
    }
    // The same as bits, words of 64 per row, all written anew: a few stores a row.
    template <class Write>
    const std::uint64_t* fresh_bits(std::size_t words_per_row, const Write& write) {
        bits_.resize(keys_.size() * words_per_row);
        parallel(size(), kStepNs, [&](std::size_t row) { write(row, &bits_[row * words_per_row]); });
        return bits_.data();
    }
    void mark_stale(std::int64_t count, Rows rows) {
        if (!rows || count * 2 > size()) all_stale_ = true;
        if (all_stale_) return;
        for (const std::int64_t row : *rows) {
            if (stale_[index(row)] == 0) stale_rows_.push_back(index(row));
            stale_[index(row)] = 1;
        }
    }

    // ---- snapshots ----
    void save_place(ByteWriter& out, std::size_t row) const { write_place(out, keys_[row], episodes_[row], ply_[row]); }
    // A row is loaded from its beginning, and its plies are returned.
    std::uint32_t load_place(ByteReader& in, std::size_t row, std::size_t most_plies) {
        keys_[row] = in.number<std::uint64_t>();
        episodes_[row] = in.number<std::uint32_t>();
        ply_[row] = 0;
        const std::uint32_t plies = in.number<std::uint32_t>();
        if (plies > most_plies) ByteReader::fail();
        return plies;
    }
    void save_result(ByteWriter& out, std::size_t row) const {
        write_result(out, terminated_[row], {&returns_[row * players_], players_});
    }
    // The row is settled: an ended game has the result its history gives. One from before a restart is kept where
    // restarts show it, and dropped where not.
    void load_result(ByteReader& in, std::size_t row) {
        const bool over = current_player_[row] == kTerminal, shown = in.number<std::uint8_t>() != 0;
        if (over && !shown) ByteReader::fail();
        const bool earlier = shown && !over && options_.autoreset == Autoreset::kSameStep;
        if (earlier) terminated_[row] = 1;
        for (std::size_t p = 0; p < players_; ++p) {
            const float saved = in.number<float>();
            float& known = returns_[row * players_ + p];
            if (!std::isfinite(saved) || ((over || !shown) && saved != known)) ByteReader::fail();
            if (earlier) known = saved;
        }
    }
    void open_snapshot(ByteWriter& out, std::string_view configuration) const {
        write_opening(out, configuration, size(), options_.seed);
    }
    // The seed of a snapshot of an equal batch.
    std::uint64_t read_opening(ByteReader& in, std::string_view configuration) const {
        if (in.text() != configuration || in.number<std::int64_t>() != size()) {
            throw std::invalid_argument("snapshot is of another game, other options or another batch size than " +
                                        std::string(configuration) + " with " + std::to_string(size()) + " rows");
        }
        return in.number<std::uint64_t>();
    }

    // How a row stands, without its key and its number of episodes.
    void copy_row(std::size_t row, const Columns& other, std::size_t from) {
        ply_[row] = other.ply_[from];
        current_player_[row] = other.current_player_[from];
        terminated_[row] = other.terminated_[from];
        std::copy_n(&other.returns_[from * players_], players_, &returns_[row * players_]);
    }
    // Copies the contents and keeps the buffers, whose addresses Python holds.
    void assign(const Columns& other) {
        options_.seed = other.options_.seed;
        keys_ = other.keys_;
        episodes_ = other.episodes_;
        ply_ = other.ply_;
        std::copy(other.current_player_.begin(), other.current_player_.end(), current_player_.begin());
        std::copy(other.terminated_.begin(), other.terminated_.end(), terminated_.begin());
        std::copy(other.returns_.begin(), other.returns_.end(), returns_.begin());
        all_stale_ = true;
    }

    std::string name_;
    BatchOptions options_;
    std::size_t players_, legal_width_;
    std::vector<std::uint64_t> keys_;  // of the episode
    std::vector<std::uint32_t> episodes_, ply_;
    std::vector<std::int32_t> current_player_;
    std::vector<std::uint8_t> terminated_;
    std::vector<float> returns_;

  private:
    std::vector<std::uint8_t> legal_, stale_;
    std::vector<std::uint64_t> bits_;
    std::vector<std::size_t> stale_rows_;
    bool all_stale_ = true;
    std::vector<std::uint64_t> marks_;
    std::uint64_t mark_ = 0;
};

}  // namespace spf
