// Positions that several ways lead to, met again by a hash of the state.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/game.h"
#include "core/rng.h"

namespace spf {

// Games whose state is the position and nothing else: no history, no padding.
template <TurnGame Game>
inline constexpr bool kTransposes = Game::kPerfectInformation && Game::kMaxChance == 0 &&
                                    std::has_unique_object_representations_v<typename Game::State>;

template <class State>
std::uint64_t hash_of(const State& state) {
    std::uint64_t words[(sizeof(State) + 7) / 8] = {}, hash = sizeof(State);
    std::memcpy(words, &state, sizeof(State));
    for (const std::uint64_t word : words) hash = mix_seeds(hash, word);
    return hash;
}

// Hash -> node; open addressing, at most half full.
class TranspositionTable {
  public:
    std::size_t bytes() const { return entries_.size() * sizeof(Entry); }
    void clear() {
        entries_.clear();
        count_ = 0;
    }
    std::uint32_t find(std::uint64_t hash) const { return entries_.empty() ? 0 : entries_[place_of(hash)].node; }
    void insert(std::uint64_t hash, std::uint32_t node) {
        if (2 * count_ >= entries_.size()) grow();
        Entry& entry = entries_[place_of(hash)];
        count_ += entry.node == 0;
        entry = {hash, node};
    }
    // The same for nodes that were given other numbers: 0 for those that are gone.
    TranspositionTable renumbered(const std::vector<std::uint32_t>& numbers) const {
        TranspositionTable table;
        for (const Entry& entry : entries_) {
            if (entry.node != 0 && numbers[entry.node] != 0) table.insert(entry.hash, numbers[entry.node]);
        }
        return table;
    }

  private:
    struct Entry {
        std::uint64_t hash = 0;
        std::uint32_t node = 0;  // 0: empty; the root, which no way leads to again, is not in here
    };

    std::size_t place_of(std::uint64_t hash) const {
        std::size_t at = hash & (entries_.size() - 1);
        while (entries_[at].node != 0 && entries_[at].hash != hash) at = (at + 1) & (entries_.size() - 1);
        return at;
    }
    void grow() {
        std::vector<Entry> old(std::max<std::size_t>(64, 2 * entries_.size()));
        old.swap(entries_);
        for (const Entry& entry : old) {
            if (entry.node != 0) entries_[place_of(entry.hash)] = entry;
        }
    }

    std::vector<Entry> entries_;
    std::size_t count_ = 0;
};

}  // namespace spf
