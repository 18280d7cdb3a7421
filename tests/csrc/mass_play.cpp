// Oracle: the contract of Batch and JointBatch, on random play at length of all games: mass_play [MOVES [SEED]]. Any
// options, sampled and explicit chance, every autoreset, parts of the rows, few rows and many, one thread and several,
// with resets, playouts, other worlds and snapshots between moves.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "games/all_games.h"
#include "sound.h"

namespace {

using Draws = spf::SmallDraws;

int below(Draws& draws, std::int64_t n) { return static_cast<int>(draws.below(static_cast<std::uint32_t>(n))); }

template <class Batch>
void some_rows_are_sound(const Batch& batch, Draws& draws) {
    for (int i = 0; i < 4; ++i) sound::row(batch, below(draws, batch.size()));
    for (std::int64_t row = 0; row < batch.size(); row += 1 + below(draws, 16)) sound::columns(batch, row);
}

// Rows in any order, most of them or few, such as may be named.
template <class Batch>
std::vector<std::int64_t> some_rows(const Batch& batch, Draws& draws) {
    const int most = 1 + below(draws, 8);
    std::vector<std::int64_t> rows;
    for (std::int64_t row = 0; row < batch.size(); ++row) {
        const bool over = batch.current_player()[row] == spf::kTerminal;
        if (over && batch.options().autoreset != spf::Autoreset::kNextStep) continue;
        if (below(draws, 8) < most) rows.push_back(row);
    }
    for (std::size_t i = rows.size(); i > 1; --i) {
        std::swap(rows[i - 1], rows[static_cast<std::size_t>(below(draws, static_cast<std::int64_t>(i)))]);
    }
    return rows;
}

// Random moves in all rows or some; returns how many rows moved.
template <class Game>
std::int64_t move(sound::BatchOf<Game>& batch, Draws& draws) {
    constexpr std::size_t kWidth = sound::kWidth<Game>;
    const std::uint64_t seed = draws.below(1'000'000'007u);
    std::vector<std::int64_t> all(static_cast<std::size_t>(batch.size()) * kWidth);
    batch.sample_actions(seed, all);
    const auto moved = [&](std::int64_t row) { return batch.current_player()[row] != spf::kTerminal; };
    std::int64_t count = 0;
    if (below(draws, 3) != 0) {
        for (std::int64_t row = 0; row < batch.size(); ++row) count += moved(row);
        sound::step(batch, all, std::nullopt);
        return count;
    }
    const std::vector<std::int64_t> rows = some_rows(batch, draws);
    std::vector<std::int64_t> moves;
    for (const std::int64_t row : rows) {
        count += moved(row);
        const auto first = all.begin() + row * static_cast<std::ptrdiff_t>(kWidth);
        moves.insert(moves.end(), first, first + static_cast<std::ptrdiff_t>(kWidth));
    }
    sound::step(batch, moves, spf::Rows(rows));
    return count;
}

// A batch loaded from a snapshot, of another seed and thread count, goes on as the one it is of.
template <class Game>
std::int64_t goes_on_alike(sound::BatchOf<Game>& batch, Draws& draws) {
    spf::BatchOptions options = batch.options();
    options.seed += 1;
    options.threads = options.threads == 1 ? 3 : 1;
    sound::BatchOf<Game> twin(batch.game(), batch.size(), options);
    twin.restore(batch.snapshot("x"), "x");
    std::int64_t count = 0;
    for (int step = below(draws, 4); step >= 0; --step) {
        Draws same = draws;
        count += move<Game>(batch, draws) + move<Game>(twin, same);
    }
    CHECK(twin.snapshot("x") == batch.snapshot("x"));
    return count;
}

template <spf::JointGame Game>
void imagine(const spf::JointBatch<Game>&, Draws&) {}

template <spf::TurnGame Game>
void imagine(const spf::Batch<Game>& batch, Draws& draws) {
    const spf::Player player = below(draws, spf::num_players(batch.game()));
    const auto worlds = batch.resample(std::nullopt, player, draws.below(1'000'000'007u));
    some_rows_are_sound(worlds, draws);
}

template <class Batch>
void begin_again(Batch& batch, Draws& draws) {
    const std::int64_t half = batch.size() / 2;
    std::vector<std::int64_t> rows;
    for (std::int64_t row = 0; row < 2 * half; ++row) rows.push_back(row);
    const std::vector<std::uint64_t> seeds(static_cast<std::size_t>(half), draws.below(9));
    switch (below(draws, 3)) {
        case 0:
            return batch.reset(std::nullopt, std::nullopt, 1);
        case 1:
            return batch.reset(spf::Rows(rows), std::nullopt, 2);
        default:
            return batch.reset(spf::Rows(rows), seeds, 2);
    }
}

// One batch under options drawn at random, for about so many moves; returns how many were played.
template <class Game>
std::int64_t play(Draws& draws, std::int64_t moves) {
    const auto game = below(draws, 4) == 0 ? Game{} : sound::configured<Game>([&](int n) { return below(draws, n); });
    const bool many = below(draws, 4) == 0;
    const std::int64_t rows = many ? 3'000 + below(draws, 5'000) : 1 + below(draws, 100);
    spf::BatchOptions options{.seed = draws.below(1'000'000'007u), .threads = many ? 1 + below(draws, 8) : 1};
    options.explicit_chance = !spf::JointGame<Game> && below(draws, 2) == 0;
    options.autoreset = static_cast<spf::Autoreset>(below(draws, 3));
    sound::BatchOf<Game> batch(game, rows, options);
    std::int64_t played = 0;
    for (int idle = 0; played < moves && idle < 4;) {
        const std::int64_t now = move<Game>(batch, draws);
        played += now;
        if (below(draws, 4) == 0) some_rows_are_sound(batch, draws);
        if (below(draws, 4) == 0) batch.legal_actions();
        if (below(draws, 64) == 0) played += goes_on_alike<Game>(batch, draws);
        if (below(draws, 64) == 0) imagine(batch, draws);
        if (below(draws, 128) == 0) played += batch.random_playouts();
        if (now == 0) {
            begin_again(batch, draws);
            ++idle;
        } else {
            idle = 0;
        }
    }
    some_rows_are_sound(batch, draws);
    return played;
}

}  // namespace

int main(int argc, char** argv) {
    const std::int64_t wanted = argc > 1 ? std::atoll(argv[1]) : 1'000'000;
    spf::SmallDraws draws(argc > 2 ? static_cast<std::uint64_t>(std::atoll(argv[2])) : 1, 0);
    const std::int64_t each = std::clamp<std::int64_t>(wanted / 200, 2'000, 200'000);
    const auto start = std::chrono::steady_clock::now();
    std::int64_t played = 0, batches = 0;
    while (played < wanted) {
#define SPF_PLAY(Game)                      \
    played += play<spf::Game>(draws, each); \
    ++batches;
        SPF_FOR_EACH_GAME(SPF_PLAY)
#undef SPF_PLAY
    }
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    std::printf("%lld moves in %lld batches, %.1f s\n", static_cast<long long>(played), static_cast<long long>(batches),
                passed.count());
}
