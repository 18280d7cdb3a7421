// Oracle: Batch. What a GPU runs, run by the host, gives bit for bit the same games: columns, legal bytes, samples,
// histories and errors, for every game built for GPUs, under every autoreset, with nature's moves drawn or explicit.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "core/batch.h"
#include "core/options.h"
#include "cuda/block_batch.h"
#include "cuda/device_games.h"

namespace {

// The order of rows is a GPU's own business: backwards here.
class Host {
  public:
    struct Visit {
        ~Visit() {}  // so that one that is not read is no unused variable
    };

    Host(int, std::size_t bytes) : block_(bytes, std::byte{0xA5}) {}
    std::byte* block() { return block_.data(); }
    int device() const { return 0; }
    Visit enter(spf::Stream) { return {}; }
    void join(spf::Stream) const {}
    template <class F>
    void each(std::size_t count, const F& f) {
        for (std::size_t i = count; i-- > 0;) f(i);
    }
    template <class F>
    void each_bytes(std::size_t count, std::size_t width, const F& f, std::uint8_t* out) {
        each(count, [&](std::size_t i) { f(i, out + i * width); });
    }
    template <class F>
    std::int64_t sum(std::size_t count, const F& f) {
        std::int64_t total = 0;
        each(count, [&](std::size_t i) { total += f(i); });
        return total;
    }
    void fill(void* to, int byte, std::size_t bytes) { std::memset(to, byte, bytes); }
    void copy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
    void read(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }

  private:
    std::vector<std::byte> block_;
};

template <class Game>
using Block = spf::BlockBatch<Game, Host>;
using Ints = std::vector<std::int64_t>;

spf::Numbers numbers(const Ints& values) { return {values.data(), values.size(), true}; }
spf::Numbers numbers(const std::vector<std::int32_t>& values) { return {values.data(), values.size(), false}; }

template <class Game>
void same(spf::Batch<Game>& batch, spf::DeviceBatch& block) {
    const std::int64_t rows = batch.size(), actions = batch.game().num_actions();
    CHECK(std::equal(batch.current_player(), batch.current_player() + rows, block.current_player()));
    CHECK(std::equal(batch.terminated(), batch.terminated() + rows, block.terminated()));
    CHECK(std::equal(batch.returns(), batch.returns() + rows * spf::num_players(batch.game()), block.returns()));
    const std::uint8_t* legal = batch.legal_actions();
    block.update_legal_actions(0);
    CHECK(std::equal(legal, legal + rows * actions, block.legal_actions()));
}

// Keys, episodes, histories and results; and that the host can take over.
template <class Game>
void same_to_the_end(spf::Batch<Game>& batch, spf::DeviceBatch& block) {
    same(batch, block);
    const std::string configuration = spf::configuration(block.info());
    CHECK(batch.snapshot(configuration) == block.snapshot(0));
    for (std::int64_t row = 0; row < batch.size(); row += 7) {
        const auto moves = batch.history(row);
        CHECK(std::vector<spf::Action>(moves.begin(), moves.end()) == block.history(row, 0));
    }
    spf::Batch<Game> twin(batch.game(), batch.size(), batch.options());
    twin.restore(block.snapshot(0), configuration);
    CHECK(twin.snapshot(configuration) == batch.snapshot(configuration));
}

template <class Game>
void plays_alike(const Game& game, const spf::BatchOptions& options) {
    constexpr std::int64_t kRows = 60;
    spf::Batch<Game> batch(game, kRows, options);
    Block<Game> block(game, kRows, options, 0);
    same(batch, block);
    Ints moves(kRows), again(kRows);
    for (int step = 0; step < std::min(game.max_plies() + 5, 120); ++step) {
        batch.sample_actions(9, moves);
        block.sample_actions(9, again.data(), 0);
        CHECK(moves == again);
        Ints rows, chosen;
        for (std::int64_t row = kRows - 1; row >= 0 && step % 3 == 1; row -= 2) {  // some, in another order
            if (moves[static_cast<std::size_t>(row)] < 0) continue;
            rows.push_back(row);
            chosen.push_back(moves[static_cast<std::size_t>(row)]);
        }
        if (rows.empty()) {
            batch.step(moves, std::nullopt, {});
            block.step(numbers(moves), std::nullopt, step % 2 == 0, 0);
        } else {
            const std::vector<std::int32_t> narrow(rows.begin(), rows.end());
            batch.step(chosen, spf::Rows(rows), {});
            block.step(numbers(chosen), numbers(narrow), true, 0);
        }
        same(batch, block);
    }
    same_to_the_end(batch, block);

    const auto copy = block.copy(0);
    const Ints some{7, 3, 4, 50, 2, 11};
    const Ints seeds{-5, 8};
    const std::vector<std::uint64_t> host_seeds{static_cast<std::uint64_t>(-5), 8};
    batch.reset(spf::Rows(some), std::nullopt, 2);
    block.reset(numbers(some), std::nullopt, 2, 0);
    same_to_the_end(batch, block);
    batch.reset(spf::Rows(some), std::span<const std::uint64_t>(host_seeds), 3);
    block.reset(numbers(some), numbers(seeds), 3, 0);
    same_to_the_end(batch, block);
    CHECK(copy->snapshot(0) != block.snapshot(0));
    batch.reset(std::nullopt, std::nullopt, 10);
    block.reset(std::nullopt, std::nullopt, 10, 0);
    same_to_the_end(batch, block);
    CHECK(batch.random_playouts() == block.random_playouts(std::nullopt, 0));
    same_to_the_end(batch, block);
}

template <class Call>
std::string refusal(const Call& call) {
    try {
        call();
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "none";
}

template <class Game>
void refuses_alike(const Game& game) {
    spf::Batch<Game> batch(game, 4, {.seed = 1});
    Block<Game> block(game, 4, {.seed = 1}, 0);
    Ints legal(4);
    for (int step = 0; step < 2; ++step) {
        batch.sample_actions(3, legal);
        const std::string before = block.snapshot(0);
        Ints one_wrong(legal), two_wrong(legal);
        one_wrong[3] = two_wrong[1] = 1'000;
        two_wrong[2] = -7;
        const Ints two{legal[0], legal[0]}, three{legal[0], legal[1], 1'000};
        const Ints twice{1, 1}, outside{0, 4}, below{-1, 0}, first{0, 1, 2};
        const auto alike = [&](const Ints& actions, const Ints* rows) {
            const std::string said =
                refusal([&] { batch.step(actions, rows == nullptr ? spf::Rows() : spf::Rows(*rows), {}); });
            CHECK(said != "none" && said.starts_with(std::string(Game::kName) + ": "));
            CHECK(said == refusal([&] {
                      block.step(numbers(actions), rows == nullptr ? spf::DeviceRows() : numbers(*rows), true, 0);
                  }));
            CHECK(block.snapshot(0) == before);
        };
        alike(one_wrong, nullptr);
        alike(two_wrong, nullptr);
        alike(two, nullptr);
        alike(two, &twice);
        alike(two, &outside);
        alike(two, &below);
        alike(three, &first);
        CHECK(refusal([&] { batch.reset(std::nullopt, std::nullopt, 3); }) ==
              refusal([&] { block.reset(std::nullopt, std::nullopt, 3, 0); }));
        CHECK(refusal([&] { batch.reset(spf::Rows(twice), std::nullopt, 1); }) ==
              refusal([&] { block.reset(numbers(twice), std::nullopt, 1, 0); }));
        CHECK(refusal([&] { block.reset(std::nullopt, numbers(two), 1, 0); }) ==
              std::string(Game::kName) + ": seeds must hold one number per group, 4, got 2");
        CHECK(block.snapshot(0) == before);
        batch.random_playouts();  // next: games that are over
        block.random_playouts(std::nullopt, 0);
        if (step == 1) continue;
        const Ints zero{0}, row{2};
        const std::string over = block.snapshot(0);
        CHECK(refusal([&] { block.step(numbers(zero), numbers(row), true, 0); }) ==
              std::string(Game::kName) + ": action 0 is illegal in row 2: its game is over");
        CHECK(block.snapshot(0) == over);
        batch.reset(std::nullopt, std::nullopt, 1);
        block.reset(std::nullopt, std::nullopt, 1, 0);
    }
}

template <class Game>
void all() {
    std::vector<Game> variants{Game{}};
    for (const spf::Option<Game>& option : Game::options()) {
        Game game;
        game.*option.member = option.high;
        variants.push_back(game);
    }
    for (const Game& game : variants) {
        for (const auto autoreset : {spf::Autoreset::kOff, spf::Autoreset::kSameStep, spf::Autoreset::kNextStep}) {
            for (const bool explicit_chance : {false, true}) {
                plays_alike(game, {.seed = 3, .explicit_chance = explicit_chance, .autoreset = autoreset});
            }
        }
        refuses_alike(game);
    }
}

}  // namespace

int main() {
#define SPF_TEST(Game) all<spf::Game>();
    SPF_FOR_EACH_DEVICE_GAME(SPF_TEST)
#undef SPF_TEST
}
