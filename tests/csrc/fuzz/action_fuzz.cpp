// Oracle: a model of step in a few lines. Any numbers as actions and rows are refused, and nothing changes, unless
// every row is named once and may do what it is told; then every row is sound. Between them: resets, playouts,
// snapshots.
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "input.h"

namespace {

using fuzz::Input;
constexpr int kMostRows = 4;

template <class Game>
bool may_play(const spf::Batch<Game>& batch, std::int64_t row, const std::int64_t* move) {
    const auto& state = batch.state(row);
    const spf::Player player = batch.game().current_player(state);
    if (player == spf::kChance) {
        for (const spf::ChanceOutcome& outcome : batch.game().chance_outcomes(state)) {
            if (outcome.action == *move) return true;
        }
        return false;
    }
    for (const spf::Action action : batch.game().legal_actions(state)) {
        if (action == *move) return true;
    }
    if constexpr (requires { batch.game().is_legal(state, *move); }) {
        return *move >= batch.game().num_actions() && batch.game().is_legal(state, *move);
    }
    return false;
}

template <class Game>
bool may_play(const spf::JointBatch<Game>& batch, std::int64_t row, const std::int64_t* moves) {
    for (spf::Player p = 0; p < Game::kPlayers; ++p) {
        bool found = false;
        for (const spf::Action action : batch.game().legal_actions(batch.state(row), p)) found |= action == moves[p];
        if (!found) return false;
    }
    return true;
}

template <class Game>
bool may_step(const sound::BatchOf<Game>& batch, const std::vector<std::int64_t>& moves, spf::Rows rows) {
    const std::size_t count = rows ? rows->size() : static_cast<std::size_t>(batch.size());
    if (moves.size() != count * sound::kWidth<Game>) return false;
    std::set<std::int64_t> named;
    for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t row = rows ? (*rows)[i] : static_cast<std::int64_t>(i);
        if (row < 0 || row >= batch.size() || !named.insert(row).second) return false;
        const bool over = batch.current_player()[row] == spf::kTerminal;
        if (over && rows && batch.options().autoreset != spf::Autoreset::kNextStep) return false;
        if (!over && !may_play(batch, row, &moves[i * sound::kWidth<Game>])) return false;
    }
    return true;
}

// Mostly small numbers, since the others are all alike.
std::int64_t any_number(Input& in, int usual) {
    switch (in.below(8)) {
        case 0:
            return in.number<std::int64_t>();
        case 1:
            return in.number<std::int8_t>();
        case 2:
            return in.number<std::int16_t>();
        default:
            return in.below(usual);
    }
}

std::vector<std::int64_t> any_rows(Input& in, std::int64_t size) {
    std::vector<std::int64_t> rows(static_cast<std::size_t>(in.below(kMostRows + 2)));
    for (std::int64_t& row : rows) row = any_number(in, static_cast<int>(size));
    return rows;
}

// The moves of sample_actions for these rows, one of them changed now and then.
template <class Game>
std::vector<std::int64_t> any_moves(Input& in, const sound::BatchOf<Game>& batch, spf::Rows rows) {
    constexpr std::size_t kWidth = sound::kWidth<Game>;
    std::vector<std::int64_t> all(static_cast<std::size_t>(batch.size()) * kWidth), moves;
    batch.sample_actions(in.number<std::uint8_t>(), all);
    const std::size_t count = rows ? rows->size() : static_cast<std::size_t>(batch.size());
    for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t row = rows ? (*rows)[i] : static_cast<std::int64_t>(i);
        for (std::size_t k = 0; k < kWidth; ++k) {
            const bool known = row >= 0 && row < batch.size();
            moves.push_back(known ? all[static_cast<std::size_t>(row) * kWidth + k] : 0);
        }
    }
    if (!moves.empty() && in.flag()) {
        const auto at = static_cast<std::size_t>(in.below(static_cast<int>(moves.size())));
        moves[at] = any_number(in, batch.game().num_actions() + 1);
    }
    if (in.below(32) == 31) moves.push_back(0);
    return moves;
}

// True if call() went through; if it did not, nothing has changed.
template <class Batch, class Call>
bool goes(Batch& batch, const Call& call) {
    const std::string before = batch.snapshot("x");
    try {
        call();
    } catch (const std::invalid_argument&) {
        CHECK(batch.snapshot("x") == before);
        return false;
    }
    return true;
}

template <class Game>
void any_step(Input& in, sound::BatchOf<Game>& batch) {
    std::vector<std::int64_t> named;
    spf::Rows rows;
    if (in.flag()) {
        named = any_rows(in, batch.size());
        rows = named;
    }
    const std::vector<std::int64_t> moves = any_moves<Game>(in, batch, rows);
    const bool expected = may_step<Game>(batch, moves, rows);
    CHECK(goes(batch, [&] { sound::step(batch, moves, rows); }) == expected);
}

template <class Game>
void any_reset(Input& in, sound::BatchOf<Game>& batch) {
    const std::vector<std::int64_t> named = any_rows(in, batch.size());
    const std::vector<std::uint64_t> seeds(static_cast<std::size_t>(in.below(4)), in.number<std::uint8_t>());
    const std::int64_t repeat = any_number(in, 3);
    const bool all = in.flag(), seeded = in.flag();
    goes(batch, [&] {
        batch.reset(all ? spf::Rows() : spf::Rows(named),
                    seeded ? std::optional<std::span<const std::uint64_t>>(seeds) : std::nullopt, repeat);
    });
}

template <spf::JointGame Game>
void imagine(Input&, const spf::JointBatch<Game>&) {}

template <spf::TurnGame Game>
void imagine(Input& in, const spf::Batch<Game>& batch) {
    const std::int64_t row = in.below(static_cast<int>(batch.size()));
    const std::vector<std::int64_t> named{row, row};
    const spf::Player player = in.below(spf::num_players(batch.game()));
    const auto worlds = batch.resample(spf::Rows(named), player, in.number<std::uint8_t>());
    sound::rows(worlds);
    if (batch.current_player()[row] >= 0) {
        CHECK(batch.game().information_state(worlds.state(0), player) ==
              batch.game().information_state(batch.state(row), player));
    }
}

template <class Game>
void play(Input& in, const Game& game) {
    const spf::BatchOptions options = fuzz::batch_options(in, spf::JointGame<Game>);
    sound::BatchOf<Game> batch(game, 1 + in.below(kMostRows), options);
    while (!in.empty()) {
        switch (in.below(16)) {
            case 0:
                any_reset<Game>(in, batch);
                break;
            case 1:
                batch.random_playouts();
                break;
            case 2:
                batch.restore(std::string(batch.snapshot("x")), "x");
                break;
            case 3:
                imagine(in, batch);
                break;
            case 4:
                batch.legal_actions();
                break;
            default:
                any_step<Game>(in, batch);
        }
        sound::rows(batch);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input in(data, size);
    fuzz::with_game(in, [&](const auto& game) { play(in, game); });
    return 0;
}
