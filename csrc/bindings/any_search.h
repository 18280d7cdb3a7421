// Searches of any game behind one interface, so that the binding code is compiled once.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "bindings/any_batch.h"
#include "search/forest.h"

namespace spf {

enum class Observers : std::uint8_t { kAll, kSingle, kMultiple };  // who knows what: all is seen, or information sets

struct SearchCall {
    SearchOptions options;
    Seeds seeds;
    int threads = 1;
};

// Trees kept over the rows of a copy of a batch.
class AnySearch {
  public:
    virtual ~AnySearch() = default;
    virtual const AnyBatch& games() const = 0;
    virtual void run() = 0;
    // The leaves as games, and the rows they belong to; none when there is nothing to evaluate.
    virtual std::unique_ptr<AnyBatch> select(int most) = 0;
    virtual const std::vector<std::int64_t>& leaf_rows() const = 0;
    virtual void expand(std::span<const float> weights, std::span<const float> returns) = 0;
    virtual void advance(std::span<const std::int64_t> actions) = 0;
    virtual void read(Found found) = 0;
    virtual void read_policy(std::span<float> policy) = 0;

    std::mutex& in_use() const { return in_use_; }
    bool failed = false;  // in the middle of a call

  private:
    mutable std::mutex in_use_;  // held by the bindings for the time of a call
};

struct SearchEntry {
    void (*search)(const AnyBatch&, Rows, const SearchCall&, Observers, Found);
    std::unique_ptr<AnySearch> (*keep)(const AnyBatch&, const SearchCall&);
};

template <class Game>
SearchEntry search_entry();  // one generated translation unit per game

}  // namespace spf
