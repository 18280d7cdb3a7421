// Many searches at once, one per row of a batch, threads over the rows. A row's search is a function of its state, its
// seed and the options alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/batch.h"
#include "core/workers.h"
#include "search/ismcts.h"
#include "search/mcts.h"

namespace spf {

// What was found, by row: visits and mean returns [rows, actions] (zeroed by the caller), the action to play [rows].
struct Found {
    std::span<std::int64_t> visits;
    std::span<float> values;
    std::span<std::int64_t> actions;

    std::span<std::int64_t> visits_of(std::size_t row) const {
        return visits.subspan(row * visits.size() / actions.size(), visits.size() / actions.size());
    }
    std::span<float> values_of(std::size_t row) const {
        return values.subspan(row * values.size() / actions.size(), values.size() / actions.size());
    }
};

// One seed for all, which every row makes its own, or one for each.
struct Seeds {
    std::span<const std::uint64_t> seeds;
    bool shared = false;
    std::uint64_t of(std::size_t row) const { return shared ? mix_seeds(seeds[0], row) : seeds[row]; }
};

inline constexpr std::int64_t kSimulationNs = 150;

// Searches every row and forgets the trees; a thread uses one again and again. Search: Mcts or Ismcts.
template <class Search, TurnGame Game, class Begin>
void search_rows(const Batch<Game>& batch, Rows rows, const SearchOptions& options, int threads, const Search& fresh,
                 const Begin& run, Found found) {
    const auto count = static_cast<std::int64_t>(found.actions.size());
    parallel_rows(count, threads, kSimulationNs * options.simulations, [&](std::int64_t begin, std::int64_t end) {
        Search search = fresh;
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
            run(search, batch.state(rows ? (*rows)[i] : static_cast<std::int64_t>(i)), i);
            search.read(found.visits_of(i), found.values_of(i));
            found.actions[i] = search.best();
        }
    });
}

// What one tree may take: as many are searched at once as there are threads, or rows.
inline std::size_t share_of(const SearchOptions& options, int threads, const Found& found) {
    const auto rows = std::max<std::size_t>(1, found.actions.size());
    return options.max_bytes / std::min(static_cast<std::size_t>(threads), rows);
}

template <TurnGame Game>
void search_mcts(const Batch<Game>& batch, Rows rows, Seeds seeds, const SearchOptions& options, int threads,
                 Found found) {
    const std::size_t share = share_of(options, threads, found);
    search_rows(
        batch, rows, options, threads, Mcts<Game>(batch.game(), options),
        [&](Mcts<Game>& search, const typename Game::State& state, std::size_t i) {
            search.begin(state, seeds.of(i), share);
            search.run();
        },
        found);
}

template <TurnGame Game>
void search_ismcts(const Batch<Game>& batch, Rows rows, Seeds seeds, const SearchOptions& options, bool multiple,
                   int threads, Found found) {
    const std::size_t share = share_of(options, threads, found);
    search_rows(
        batch, rows, options, threads, Ismcts<Game>(batch.game(), options, multiple),
        [&](Ismcts<Game>& search, const typename Game::State& state, std::size_t i) {
            search.run(state, seeds.of(i), share);
        },
        found);
}

// Trees that are kept: for an evaluator outside, and from move to move.
template <TurnGame Game>
class Forest {
  public:
    using Leaf = typename Mcts<Game>::Leaf;

    Forest(const Batch<Game>& batch, Seeds seeds, const SearchOptions& options, int threads)
        : options_(options), threads_(threads) {
        const auto rows = static_cast<std::size_t>(batch.size());
        trees_.reserve(rows);
        for (std::size_t row = 0; row < rows; ++row) {
            const auto at = static_cast<std::int64_t>(row);
            trees_.emplace_back(batch.game(), options).begin(batch.state(at), seeds.of(row), options.max_bytes / rows);
            plies_.push_back(batch.ply(at));
        }
    }

    std::size_t size() const { return trees_.size(); }
    Mcts<Game>& tree(std::size_t row) { return trees_[row]; }

    void run() {
        each_row(kSimulationNs * options_.simulations, [](Mcts<Game>& tree, std::size_t) { tree.run(); });
    }
    // Up to `most` leaves of every tree, row by row; `rows` says whose they are.
    std::vector<Leaf> select(int most, std::vector<std::int64_t>& rows) {
        std::vector<std::vector<Leaf>> found(size());
        each_row(kSimulationNs * most, [&](Mcts<Game>& tree, std::size_t row) {
            for (int i = 0; i < most; ++i) {
                std::optional<Leaf> leaf = tree.select();
                if (!leaf) break;
                found[row].push_back(std::move(*leaf));
            }
        });
        std::vector<Leaf> leaves;
        rows.clear();
        for (std::size_t row = 0; row < size(); ++row) {
            for (Leaf& leaf : found[row]) {
                leaves.push_back(std::move(leaf));
                rows.push_back(static_cast<std::int64_t>(row));
            }
        }
        return leaves;
    }
    // The answers to the leaves of the last select, in its order: weights [leaves, actions], returns [leaves, players].
    void expand(std::span<const Leaf> leaves, std::span<const std::int64_t> rows, std::span<const float> weights,
                std::span<const float> returns) {
        const std::size_t actions = weights.size() / std::max<std::size_t>(leaves.size(), 1);
        const std::size_t players = returns.size() / std::max<std::size_t>(leaves.size(), 1);
        for (std::size_t i = 0; i < leaves.size(); ++i) {
            Returns<Game> worth{};
            std::copy_n(returns.begin() + static_cast<std::ptrdiff_t>(i * players), players, worth.begin());
            tree(static_cast<std::size_t>(rows[i]))
                .expand(leaves[i].state, weights.subspan(i * actions, actions), worth);
        }
    }
    // Every row that was not over was stepped once: its tree follows.
    void advance(const Batch<Game>& batch) {
        for (std::size_t row = 0; row < size(); ++row) {
            const auto now = static_cast<std::int64_t>(row);
            if (batch.ply(now) == plies_[row]) continue;
            const std::vector<Action> history = batch.history(now);
            const auto news = std::span(history).subspan(plies_[row]);
            trees_[row].advance(news[0], news.subspan(1), batch.state(now));
            plies_[row] = batch.ply(now);
        }
    }

  private:
    template <class Body>
    void each_row(std::int64_t ns, const Body& body) {
        parallel_rows(static_cast<std::int64_t>(size()), threads_, ns, [&](std::int64_t begin, std::int64_t end) {
            for (auto row = static_cast<std::size_t>(begin); row < static_cast<std::size_t>(end); ++row) {
                body(trees_[row], row);
            }
        });
    }

    SearchOptions options_;
    int threads_;
    std::vector<std::uint32_t> plies_;  // where the roots stand
    std::vector<Mcts<Game>> trees_;
};

}  // namespace spf
