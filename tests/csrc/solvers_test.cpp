// Solvers on toy games that no shipped game stands for: three players, chance in a game of perfect
// information, a player who forgets. Oracles: worked out by hand.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "rollout/token_tree.h"
#include "rollout/tree_mask.h"
#include "solvers/best_response.h"
#include "solvers/cfr.h"
#include "solvers/game_tree_builder.h"
#include "solvers/monte_carlo_cfr.h"
#include "solvers/positions.h"

namespace {

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                        \
        }                                                                        \
    } while (false)

bool near(double a, double b) { return std::abs(a - b) < 1e-12; }

// Every player in turn picks 0 or 1 unseen; who picked differently from both others wins 2, they lose 1.
struct OddOneOut {
    static constexpr std::string_view kName = "odd_one_out";
    static constexpr int kPlayers = 3, kMaxActions = 2, kMaxChance = 0;
    static constexpr bool kZeroSum = true, kPerfectInformation = false;
    static constexpr std::array<spf::Option<OddOneOut>, 0> options() { return {}; }
    struct State {
        int count = 0, picks[3] = {};
    };
    int num_actions() const { return 2; }
    int max_plies() const { return 3; }
    int max_turns() const { return 3; }
    State initial() const { return {}; }
    spf::Player current_player(const State& s) const { return s.count < 3 ? s.count : spf::kTerminal; }
    spf::ActionSet<2> legal_actions(const State& s) const {
        spf::ActionSet<2> legal;
        if (s.count < 3) legal.words[0] = 3;
        return legal;
    }
    spf::ChanceOutcomes<0> chance_outcomes(const State&) const { return {}; }
    void apply(State& s, spf::Action action) const { s.picks[s.count++] = static_cast<int>(action); }
    float returns(const State& s, spf::Player player) const {
        const int ones = s.picks[0] + s.picks[1] + s.picks[2];
        if (s.count < 3 || ones % 3 == 0) return 0.0f;
        return s.picks[player] == (ones == 1 ? 1 : 0) ? 2.0f : -1.0f;
    }
    std::string information_state(const State&, spf::Player player) const { return std::to_string(player); }
};

// Player 0 plays safe (action 0: +1) or tosses (action 1): heads +5, tails lets player 1 choose -4 or 0.
struct Toss {
    static constexpr std::string_view kName = "toss";
    static constexpr int kPlayers = 2, kMaxActions = 2, kMaxChance = 2;
    static constexpr bool kZeroSum = true, kPerfectInformation = true;
    static constexpr std::array<spf::Option<Toss>, 0> options() { return {}; }
    struct State {
        int count = 0, moves[3] = {};
    };
    int num_actions() const { return 2; }
    int max_plies() const { return 3; }
    int max_turns() const { return 2; }
    State initial() const { return {}; }
    spf::Player current_player(const State& s) const {
        if (s.count == 0) return 0;
        if (s.moves[0] == 0) return spf::kTerminal;
        if (s.count == 1) return spf::kChance;
        return s.count == 2 && s.moves[1] == 1 ? 1 : spf::kTerminal;
    }
    spf::ActionSet<2> legal_actions(const State& s) const {
        spf::ActionSet<2> legal;
        if (current_player(s) >= 0) legal.words[0] = 3;
        return legal;
    }
    spf::ChanceOutcomes<2> chance_outcomes(const State&) const {
        spf::ChanceOutcomes<2> outcomes;
        outcomes.push(0, 0.25);
        outcomes.push(1, 0.75);
        return outcomes;
    }
    void apply(State& s, spf::Action action) const { s.moves[s.count++] = static_cast<int>(action); }
    float returns(const State& s, spf::Player player) const {
        const float won = s.moves[0] == 0 ? 1.0f : s.count == 2 ? 5.0f : s.moves[2] == 0 ? -4.0f : 0.0f;
        return player == 0 ? won : -won;
    }
    std::string information_state(const State& s, spf::Player) const {
        std::string key;
        for (int i = 0; i < s.count; ++i) key += static_cast<char>('0' + s.moves[i]);
        return key;
    }
};

// A coin falls unseen, then both players in turn pick 0 or 1 unseen.
struct HiddenCoin {
    static constexpr std::string_view kName = "hidden_coin";
    static constexpr int kPlayers = 2, kMaxActions = 2, kMaxChance = 2;
    static constexpr bool kZeroSum = true, kPerfectInformation = false;
    static constexpr std::array<spf::Option<HiddenCoin>, 0> options() { return {}; }
    struct State {
        int count = 0, moves[3] = {};
    };
    int num_actions() const { return 2; }
    int max_plies() const { return 3; }
    int max_turns() const { return 2; }
    State initial() const { return {}; }
    spf::Player current_player(const State& s) const {
        return s.count == 0 ? spf::kChance : s.count < 3 ? s.count - 1 : spf::kTerminal;
    }
    spf::ActionSet<2> legal_actions(const State& s) const {
        spf::ActionSet<2> legal;
        if (current_player(s) >= 0) legal.words[0] = 3;
        return legal;
    }
    spf::ChanceOutcomes<2> chance_outcomes(const State&) const {
        spf::ChanceOutcomes<2> outcomes;
        outcomes.push(0, 0.25);
        outcomes.push(1, 0.75);
        return outcomes;
    }
    void apply(State& s, spf::Action action) const { s.moves[s.count++] = static_cast<int>(action); }
    float returns(const State& s, spf::Player player) const {
        if (s.count < 3) return 0.0f;
        const int won = s.moves[0] == 0 ? 4 * s.moves[1] * s.moves[2] : s.moves[1] - s.moves[2];
        return static_cast<float>(player == 0 ? won : -won);
    }
    std::string information_state(const State&, spf::Player player) const { return std::to_string(player); }
};

// The lone player moves twice and forgets the first move.
struct Forgetful {
    static constexpr std::string_view kName = "forgetful";
    static constexpr int kPlayers = 1, kMaxActions = 2, kMaxChance = 0;
    static constexpr bool kZeroSum = false, kPerfectInformation = false;
    static constexpr std::array<spf::Option<Forgetful>, 0> options() { return {}; }
    struct State {
        int count = 0;
    };
    int num_actions() const { return 2; }
    int max_plies() const { return 2; }
    int max_turns() const { return 2; }
    State initial() const { return {}; }
    spf::Player current_player(const State& s) const { return s.count < 2 ? 0 : spf::kTerminal; }
    spf::ActionSet<2> legal_actions(const State& s) const {
        spf::ActionSet<2> legal;
        if (s.count < 2) legal.words[0] = 3;
        return legal;
    }
    spf::ChanceOutcomes<0> chance_outcomes(const State&) const { return {}; }
    void apply(State& s, spf::Action) const { ++s.count; }
    float returns(const State&, spf::Player) const { return 0.0f; }
    std::string information_state(const State& s, spf::Player) const { return std::to_string(s.count); }
};

void three_players() {
    const spf::GameTree tree = spf::GameTreeBuilder<OddOneOut>({}, 100).build();
    CHECK(tree.information_states() == 3 && tree.payoff.size() == 3 * 8 && tree.sequences() == 9);
    spf::TreeValues values(tree);
    CHECK(near(values.nash_conv(tree.uniform()), 0.0));  // half and half is an equilibrium
    // 0 and 1 always pick 0: player 2 wins 2 by picking 1; 0 (and 1) win 2 by leaving a 2 who picks 0.
    const std::vector<double> zeros = tree.strategy(std::vector<double>{1, 0, 1, 0, 1, 0});
    CHECK(near(values.nash_conv(zeros), 6.0));
    const std::vector<double> mixed = tree.strategy(std::vector<double>{1, 0, 1, 0, 0.5, 0.5});
    const auto expected = values.expected(mixed);
    CHECK(near(expected[0], -0.5) && near(expected[1], -0.5) && near(expected[2], 1.0));
    std::vector<double> response = mixed;
    CHECK(near(values.best_response(2, mixed, response), 2.0));
    CHECK(tree.policy(response) == (std::vector<double>{1, 0, 1, 0, 0, 1}));
    spf::Cfr cfr(tree, spf::kCfrPlus);
    cfr.run(10);
    CHECK(near(values.nash_conv(cfr.average()), 0.0));
    for (const spf::CfrSampling sampling : {spf::CfrSampling::kExternal, spf::CfrSampling::kOutcome}) {
        spf::MonteCarloCfr sampled(tree, sampling, 0.6, 1);
        sampled.run(1000);
        for (const double p : sampled.average()) CHECK(p >= 0.0 && p <= 1.0);
    }
}

// Nobody sees the coin, so two leaves share every pair of sequences.
void hidden_coin() {
    const spf::GameTree tree = spf::GameTreeBuilder<HiddenCoin>({}, 100).build();
    CHECK(tree.information_states() == 2 && tree.histories.decision.size() == 15);
    CHECK(tree.payoff.size() == 2 * 4);  // of 8 leaves, each once for either player
    spf::TreeValues values(tree);
    // The picks (a, b) pay 4 a b on heads (1/4) and a - b on tails (3/4).
    const auto expected = values.expected(tree.strategy(std::vector<double>{0, 1, 0.5, 0.5}));
    CHECK(near(expected[0], 0.25 * 2.0 + 0.75 * 0.5) && near(expected[1], -expected[0]));
    // Player 0 picks 1: (1, 0) is worth 3/4 and (1, 1) is worth 1 to it; player 1 answers 0.
    CHECK(near(values.best_response(1, tree.strategy(std::vector<double>{0, 1, 0, 1})), -0.75));
    for (const spf::Discounts& discounts : {spf::kCfr, spf::kCfrPlus, spf::kLinearCfr, spf::kDiscountedCfr}) {
        spf::Cfr cfr(tree, discounts);
        cfr.run(2000);
        CHECK(values.nash_conv(cfr.average()) < 0.01);
    }
}

void chance_with_perfect_information() {
    const spf::Positions positions = spf::PositionsBuilder<Toss>({}, 100).build();
    CHECK(positions.count() == 7 && positions.states.size() == 2);
    std::vector<double> worth(2);
    bool optimal[4] = {};
    positions.minimax(worth, optimal);
    // Tossing is worth 5/4 - 3 = -7/4 against the best reply: play safe. Player 1 takes 4.
    for (std::size_t i = 0; i < 2; ++i) {
        const bool first = positions.states[i].player == 0;
        CHECK(near(worth[i], first ? 1.0 : 4.0) && optimal[2 * i] && !optimal[2 * i + 1]);
    }
    const std::vector<double> half(4, 0.5);
    CHECK(near(positions.value(0, half), 0.5 + 0.5 * (1.25 - 1.5)));
    CHECK(near(positions.value(0, half, true), 1.0));
    CHECK(near(positions.value(1, half, true), -0.5 + 0.5 * 1.75));
    CHECK(near(positions.nash_conv(half), 1.0 + 0.375));
    // Safe and heads win (1/2 + 1/8), tails lets player 1 take 4 or leave it (3/16 each).
    const std::vector<double> shares = positions.outcomes(half);
    const double exact[] = {0.625, 0.1875, 0.1875, 0.1875, 0.1875, 0.625};
    for (std::size_t i = 0; i < 6; ++i) CHECK(near(shares[i], exact[i]));
}

template <class Build>
bool refuses(const Build& build, const std::string& word) {
    try {
        build();
    } catch (const std::invalid_argument& error) {
        return std::string(error.what()).find(word) != std::string::npos;
    }
    return false;
}

void refusals() {
    CHECK(refuses([] { spf::GameTreeBuilder<Forgetful>({}, 100).build(); }, "perfect recall"));
    CHECK(refuses([] { spf::GameTreeBuilder<OddOneOut>({}, 14).build(); }, "max_nodes = 14"));
    CHECK(refuses([] { spf::PositionsBuilder<Toss>({}, 6).build(); }, "max_nodes = 6"));
    spf::PositionsBuilder<Toss>({}, 7).build();
    spf::GameTreeBuilder<OddOneOut>({}, 15).build();
}

void token_tree() {
    const std::vector<std::int64_t> tokens{7, 8, 1, 5, 9, 7, 8, 2, 5, 9, 7, 8, 1, 6, 9}, offsets{0, 5, 10, 15};
    const std::vector<std::int64_t> first_scored{3, 3, 3};
    const spf::TokenTree tree = spf::TokenTreeBuilder({tokens, offsets, first_scored}, 4).build();
    CHECK(tree.node_tokens == (std::vector<std::int64_t>{1, 5, 6, 2, 5}));
    CHECK(tree.node_exit == (std::vector<std::int32_t>{3, 2, 3, 2, 2}));
    CHECK(tree.scored_node == (std::vector<std::int64_t>{0, 1, 3, 4, 0, 2}));
    const spf::MaskBlocks blocks{tree.node_exit, tree.block_offsets};
    bool mask[2 * 3 * 5] = {};
    spf::check_mask_blocks(blocks);
    spf::fill_tree_mask(blocks, 2, 3, mask);
    const std::string expected =
        "11100"
        "11110"
        "11101"
        "11100"
        "11110"
        "00001";
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(mask[i] == (expected[i] == '1'));
}

}  // namespace

int main() {
    three_players();
    hidden_coin();
    chance_with_perfect_information();
    refusals();
    token_tree();
    std::puts("solvers and rollout: all checks passed");
}
