// Joins a game and its searches; instantiated once per game by a generated translation unit.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/any_search.h"
#include "bindings/game_entry.h"
#include "search/forest.h"

namespace spf {

template <TurnGame Game>
class GameSearch final : public AnySearch {
  public:
    GameSearch(const GameBatch<Game>& games, const SearchCall& call)
        : games_(games), forest_(games_.batch(), call.seeds, call.options, call.threads) {}

    const AnyBatch& games() const override { return games_; }
    void run() override { forest_.run(); }
    std::unique_ptr<AnyBatch> select(int most) override {
        leaves_ = forest_.select(most, rows_);
        if (leaves_.empty()) return nullptr;
        std::vector<std::vector<Action>> moves;
        for (auto& leaf : leaves_) moves.push_back(std::move(leaf.actions));
        return std::make_unique<GameBatch<Game>>(games_, games_.batch().branch(rows_, moves));
    }
    const std::vector<std::int64_t>& leaf_rows() const override { return rows_; }
    void expand(std::span<const float> weights, std::span<const float> returns) override {
        forest_.expand(leaves_, rows_, weights, returns);
        leaves_.clear();
        rows_.clear();
    }
    void advance(std::span<const std::int64_t> actions) override {
        if (games_.batch().options().autoreset != Autoreset::kOff) {
            throw std::invalid_argument(
                "advance: games that begin again by themselves are not followed; give Search a batch with "
                "autoreset=\"off\"");
        }
        games_.step(actions, std::nullopt, {});
        forest_.advance(games_.batch());
    }
    void read(Found found) override {
        for (std::size_t row = 0; row < forest_.size(); ++row) {
            forest_.tree(row).read(found.visits_of(row), found.values_of(row));
            found.actions[row] = forest_.tree(row).best();
        }
    }
    void read_policy(std::span<float> policy) override {
        const std::size_t width = policy.size() / forest_.size();
        for (std::size_t row = 0; row < forest_.size(); ++row) {
            forest_.tree(row).read_policy(policy.subspan(row * width, width));
        }
    }

  private:
    GameBatch<Game> games_;
    Forest<Game> forest_;
    std::vector<typename Forest<Game>::Leaf> leaves_;
    std::vector<std::int64_t> rows_;
};

// Throws std::invalid_argument for what this search cannot do with this game.
template <AnyGame Game>
void check_search(const AnyBatch& batch, const SearchCall& call, Observers observers) {
    const auto refuse = [&](const std::string& what) { throw std::invalid_argument(batch.info().name + ": " + what); };
    if constexpr (JointGame<Game>) {
        refuse("all players move at once, and no search takes that");
    } else {
        if (observers == Observers::kAll && !Game::kPerfectInformation) {
            refuse("hides information, which mcts would see; use ismcts");
        }
        if (observers != Observers::kAll && !Resamples<Game>) refuse("hides nothing; use mcts");
        if (call.options.transpositions && !kTransposes<Game>) {
            refuse("transpositions need perfect information, no chance, and positions that tell no history");
        }
        if (!call.options.insist) return;
        if (batch.info().num_players != 2 || Game::kMaxChance > 0) {
            refuse("solve needs two players and no chance");
        }
    }
}

template <AnyGame Game>
SearchEntry make_search_entry() {
    return {[](const AnyBatch& batch, Rows rows, const SearchCall& call, Observers observers, Found found) {
                check_search<Game>(batch, call, observers);
                if constexpr (TurnGame<Game>) {
                    const auto& games = static_cast<const GameBatch<Game>&>(batch).batch();
                    if constexpr (Resamples<Game>) {
                        search_ismcts(games, rows, call.seeds, call.options, observers == Observers::kMultiple,
                                      call.threads, found);
                    } else {
                        search_mcts(games, rows, call.seeds, call.options, call.threads, found);
                    }
                }
            },
            [](const AnyBatch& batch, const SearchCall& call) -> std::unique_ptr<AnySearch> {
                check_search<Game>(batch, call, Observers::kAll);
                if constexpr (TurnGame<Game> && Game::kPerfectInformation) {
                    return std::make_unique<GameSearch<Game>>(static_cast<const GameBatch<Game>&>(batch), call);
                } else {
                    return nullptr;  // refused
                }
            }};
}

}  // namespace spf
