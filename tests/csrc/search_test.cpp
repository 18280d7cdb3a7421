// Search on small trees whose truth is known, and the sizes that the design promises.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "games/connect_four.h"
#include "games/hanabi.h"
#include "games/kuhn_poker.h"
#include "games/pig.h"
#include "games/tic_tac_toe.h"
#include "search/forest.h"

using namespace spf;

namespace {

constexpr std::size_t kRoom = std::size_t{1} << 30;

SearchOptions options(Rule rule, int simulations, int rollouts = 1) {
    SearchOptions o;
    o.rule = rule;
    o.simulations = simulations;
    o.rollouts = rollouts;
    return o;
}

template <class Game>
std::vector<std::int64_t> visits(const Game& game, const Mcts<Game>& search) {
    std::vector<std::int64_t> counts(static_cast<std::size_t>(game.num_actions()), 0);
    std::vector<float> values(counts.size());
    search.read(counts, values);
    return counts;
}
std::int64_t sum(const std::vector<std::int64_t>& counts) {
    std::int64_t total = 0;
    for (const std::int64_t n : counts) total += n;
    return total;
}

// Every simulation is counted once, a node costs at most 32 bytes and an edge 12.
void test_counting() {
    const ConnectFour game;
    for (const Rule rule : {Rule::kUct, Rule::kPuct, Rule::kGumbel}) {
        Mcts<ConnectFour> search(game, options(rule, 3000));
        search.begin(game.initial(), 7, kRoom);
        search.run();
        CHECK(sum(visits(game, search)) == 3000);
        const Tree& tree = search.tree();
        CHECK(tree.bytes() <= tree.nodes.size() * 32 + tree.edges.size() * 12);
        CHECK(tree.nodes.size() <= 3001);
        for (const Node& node : tree.nodes) {
            for (const Edge& edge : tree.edges_of(node)) CHECK(std::abs(edge.mean()) <= 1.0f);
        }
    }
}

// An edge keeps three numbers in two words.
void test_edge() {
    Edge edge(12345, 54321);
    CHECK(edge.link() == 12345 && edge.mark() == 54321 && edge.visits() == 0);
    for (int i = 0; i < 1000; ++i) edge.visit();
    edge.set_link(Edge::kMost);
    CHECK(edge.link() == Edge::kMost && edge.mark() == 54321 && edge.visits() == 1000);
}

// The solver proves a draw with perfect play, and a win in two.
void test_proofs() {
    const TicTacToe game;
    SearchOptions solving = options(Rule::kUct, 200'000);
    solving.solve = true;
    Mcts<TicTacToe> search(game, solving);
    TicTacToe::State centre = game.initial();
    for (const Action cell : {0, 4}) game.apply(centre, cell);
    search.begin(centre, 1, kRoom);
    search.run();
    CHECK(search.done() && search.tree().nodes[0].proven && search.tree().nodes[0].worth[0] == 0.0f);
    CHECK(sum(visits(game, search)) < 200'000);
    TicTacToe::State fork = game.initial();
    for (const Action cell : {0, 1, 4, 8}) game.apply(fork, cell);  // then 3 threatens 5 and 6
    search.begin(fork, 1, kRoom);
    search.run();
    CHECK(search.tree().nodes[0].worth[0] == 1.0f);
    const Action best = search.best();
    CHECK(best == 3 || best == 6);
}

// What is below a move stays; a move nobody searched begins a tree.
void test_advance() {
    const Pig game;
    Mcts<Pig> search(game, options(Rule::kUct, 500));
    Pig::State state = game.initial();
    search.begin(state, 3, kRoom);
    for (int move = 0; move < 8 && game.current_player(state) >= 0; ++move) {
        search.run();
        CHECK(sum(visits(game, search)) >= 500);
        const Action action = search.best();
        std::vector<Action> nature;
        game.apply(state, action);
        while (game.current_player(state) == kChance) {
            nature.push_back(draw_chance(game, state, Rng(5, static_cast<std::uint64_t>(move))));
            game.apply(state, nature.back());
        }
        search.advance(action, nature, state);
        CHECK(search.root() == state);
        for (const Node& node : search.tree().nodes) {
            CHECK(node.next == 0 || node.next < search.tree().nodes.size());
            for (const Edge& edge : search.tree().edges_of(node)) {
                CHECK(edge.visits() == 0 || edge.link() < search.tree().nodes.size());
            }
        }
    }
}

// Leaves that wait for their answers, several at once, against an evaluator that likes one column.
void test_outside_evaluator() {
    const ConnectFour game;
    SearchOptions puct = options(Rule::kPuct, 200);
    Mcts<ConnectFour> search(game, puct);
    search.begin(game.initial(), 1, kRoom);
    const std::vector<float> weights{0.1f, 0.1f, 0.1f, 3.0f, 0.1f, 0.1f, 0.1f};
    int answered = 0;
    while (true) {
        std::vector<Mcts<ConnectFour>::Leaf> leaves;
        while (leaves.size() < 5) {
            auto leaf = search.select();
            if (!leaf) break;
            ConnectFour::State state = game.initial();
            for (const Action action : leaf->actions) game.apply(state, action);
            CHECK(state == leaf->state);
            leaves.push_back(std::move(*leaf));
        }
        if (leaves.empty()) break;
        for (const auto& leaf : leaves) search.expand(leaf.state, weights, {0.0f, 0.0f});
        answered += static_cast<int>(leaves.size());
    }
    const std::vector<std::int64_t> counts = visits(game, search);
    CHECK(sum(counts) == 200 && answered <= 201);
    CHECK(*std::max_element(counts.begin(), counts.end()) == counts[3]);
    for (const Edge& edge : search.tree().edges_of(search.tree().nodes[0])) CHECK(std::abs(edge.mean()) <= 1.0f);
}

// A tree stops at its share of the memory.
void test_memory() {
    const ConnectFour game;
    Mcts<ConnectFour> search(game, options(Rule::kUct, 100'000));
    search.begin(game.initial(), 1, 10'000);
    bool refused = false;
    try {
        search.run();
    } catch (const std::length_error&) {
        refused = true;
    }
    CHECK(refused);
}

// Oracle: tic-tac-toe has 5,478 positions (765 up to symmetry), and the trees above, which share none. With shared
// positions the draw is proven in a tree of no more nodes than there are positions, and every position is one node,
// also after a move.
void test_transpositions() {
    const TicTacToe game;
    SearchOptions sharing = options(Rule::kUct, 200'000);
    sharing.solve = sharing.transpositions = true;
    Mcts<TicTacToe> search(game, sharing);
    TicTacToe::State state = game.initial();
    search.begin(state, 1, kRoom);
    search.run();
    CHECK(search.tree().nodes[0].proven && search.tree().nodes[0].worth[0] == 0.0f);
    const auto own_nodes = [&] {
        return std::count_if(search.tree().nodes.begin(), search.tree().nodes.end(),
                             [](const Node& node) { return !node.alias; });
    };
    CHECK(own_nodes() <= 5'478);
    for (const Action cell : {4, 0, 8}) {
        game.apply(state, cell);
        search.advance(cell, {}, state);
        for (const Node& node : search.tree().nodes) CHECK(!node.alias || !search.tree().nodes[node.next].alias);
        search.run();
        CHECK(search.tree().nodes[0].proven && search.tree().nodes[0].worth[0] == 0.0f && own_nodes() <= 5'478);
    }

    // Many leaves at once: a descent that ends at a waiting leaf leaves nothing behind, and every leaf is legal.
    for (const Rule rule : {Rule::kPuct, Rule::kGumbel}) {
        for (std::uint64_t seed = 0; seed < 20; ++seed) {
            SearchOptions many = options(rule, 400);
            many.transpositions = true;
            many.virtual_loss = seed % 2 == 0 ? 1.0f : 0.0f;
            Mcts<TicTacToe> asking(game, many);
            asking.begin(game.initial(), seed, kRoom);
            const std::vector<float> weights(9, 1.0f);
            int simulated = 0;
            while (true) {
                std::vector<Mcts<TicTacToe>::Leaf> leaves;
                while (leaves.size() < 16) {
                    auto leaf = asking.select();
                    if (!leaf) break;
                    TicTacToe::State at = game.initial();
                    for (const Action action : leaf->actions) {
                        CHECK(game.legal_actions(at).contains(action));
                        game.apply(at, action);
                    }
                    leaves.push_back(std::move(*leaf));
                }
                if (leaves.empty()) break;
                simulated += static_cast<int>(leaves.size());
                for (const auto& leaf : leaves) asking.expand(leaf.state, weights, {0.1f, -0.1f});
            }
            CHECK(simulated > 100 && sum(visits(game, asking)) == 400);
            for (const Node& node : asking.tree().nodes) {
                const auto edges = asking.tree().edges_of(node);
                for (std::size_t i = 0; i < edges.size(); ++i) CHECK((edges[i].visits() > 0) == (i < node.tried));
            }
        }
    }

    // An evaluator is asked once about every position; without sharing, again and again.
    const ConnectFour four;
    const std::vector<float> even(7, 1.0f);
    for (const bool shared : {false, true}) {
        SearchOptions puct = options(Rule::kPuct, 2'000);
        puct.transpositions = shared;
        Mcts<ConnectFour> asking(four, puct);
        ConnectFour::State root = four.initial();
        asking.begin(root, 1, kRoom);
        for (int move = 0; move < 3; ++move) {
            std::set<std::uint64_t> asked;  // anew: what was not below the last move is forgotten
            int answers = 0, again = 0;
            while (auto leaf = asking.select()) {
                again += asked.insert(hash_of(leaf->state)).second ? 0 : 1;
                asking.expand(leaf->state, even, {0.0f, 0.0f});
                ++answers;
            }
            CHECK(shared ? again == 0 : move > 0 || again > 100);
            CHECK(answers > 1'000 && sum(visits(four, asking)) >= 2'000);
            four.apply(root, 3);
            asking.advance(3, {}, root);
        }
    }
}

// Oracle: random play pays whoever opens tic-tac-toe 0.297 (585, 288 and 127 of a thousand games), and the root's
// value, from which Gumbel search completes those of actions never tried, is a mean of such games.
void test_root_of_gumbel_search() {
    const TicTacToe game;
    Mcts<TicTacToe> search(game, options(Rule::kGumbel, 1, 2'000));
    search.begin(game.initial(), 3, kRoom);
    search.run();
    CHECK(std::abs(search.tree().nodes[0].worth[0] - 0.297f) < 0.1f);
}

// Oracle: an edge counts to 2^24 - 1. A fresh tree takes as many simulations, and one that is kept what is left.
void test_visits_do_not_overflow() {
    const TicTacToe game;
    TicTacToe::State state = game.initial();
    for (const Action cell : {0, 4, 8, 2, 6}) game.apply(state, cell);
    Mcts<TicTacToe> search(game, options(Rule::kPuct, static_cast<int>(Edge::kMost), 0));
    search.begin(state, 1, kRoom);
    search.run();
    CHECK(sum(visits(game, search)) == static_cast<std::int64_t>(Edge::kMost));
    game.apply(state, 3);  // ends nothing
    search.advance(3, {}, state);
    CHECK(sum(visits(game, search)) > 0);
    bool refused = false;
    try {
        search.run();
    } catch (const std::length_error&) {
        refused = true;
    }
    CHECK(refused);
}

// Oracle: Dirichlet noise of concentration 10 has mean 1/7 and little variance, so priors of a root that was an inner
// node move towards equal ones by the share of noise; without noise they stay.
void test_noise_after_a_move() {
    const ConnectFour game;
    const std::vector<float> weights{0.0f, 0.0f, 0.0f, 1.0f, 0.0f, 0.0f, 0.0f};
    for (const float share : {0.0f, 0.5f}) {
        SearchOptions noisy = options(Rule::kPuct, 50);
        noisy.noise = share;
        noisy.alpha = 10.0f;
        Mcts<ConnectFour> search(game, noisy);
        ConnectFour::State state = game.initial();
        search.begin(state, 1, kRoom);
        while (auto leaf = search.select()) search.expand(leaf->state, weights, {0.0f, 0.0f});
        game.apply(state, 3);
        search.advance(3, {}, state);
        for (const Edge& edge : search.tree().edges_of(search.tree().nodes[0])) {
            const float prior = static_cast<float>(edge.mark()) / static_cast<float>(Edge::kSure);
            const float before = search.tree().action_of(edge) == 3 ? 1.0f : 0.0f;
            CHECK(share == 0.0f ? std::abs(prior - before) < 1e-4f
                                : std::abs(prior - (0.5f * before + 0.5f / 7)) < 0.08f);
        }
    }
}

// The same from every world a player holds possible, and for any number of threads.
void test_information_sets() {
    const KuhnPoker game;
    for (const bool multiple : {false, true}) {
        Ismcts<KuhnPoker> one(game, options(Rule::kUct, 300), multiple), other(one);
        KuhnPoker::State state = game.initial(), twin = state;
        for (const Action action : {2, 0, 1}) game.apply(state, action);
        for (const Action action : {1, 0, 1}) game.apply(twin, action);
        one.run(state, 9, kRoom);
        other.run(twin, 9, kRoom);
        std::vector<std::int64_t> a(2), b(2);
        std::vector<float> values(2);
        one.read(a, values);
        other.read(b, values);
        CHECK(a == b && sum(a) == 300);
        for (const KnowledgeTree& tree : one.trees()) CHECK(tree.bytes() <= 32 * tree.nodes() + 12 * tree.edges());
        CHECK(one.best() == KuhnPoker::kPass);  // a jack folds
    }
}

template <class Game>
void test_threads(const Game& game) {
    BatchOptions seeds;
    seeds.seed = 3;
    const Batch<Game> batch(game, 48, seeds);
    const std::uint64_t seed = 5;
    const auto width = static_cast<std::size_t>(game.num_actions());
    std::vector<std::int64_t> counts[2], actions[2];
    std::vector<float> values[2];
    for (int i = 0; i < 2; ++i) {
        counts[i].resize(48 * width);
        values[i].resize(48 * width);
        actions[i].resize(48);
        const Found found{counts[i], values[i], actions[i]};
        if constexpr (Resamples<Game>) {
            search_ismcts(batch, std::nullopt, {{&seed, 1}, true}, options(Rule::kUct, 300), true, i == 0 ? 1 : 8,
                          found);
        } else {
            search_mcts(batch, std::nullopt, {{&seed, 1}, true}, options(Rule::kUct, 300), i == 0 ? 1 : 8, found);
        }
    }
    CHECK(counts[0] == counts[1] && values[0] == values[1] && actions[0] == actions[1]);
}

}  // namespace

int main() {
    test_edge();
    test_counting();
    test_proofs();
    test_advance();
    test_outside_evaluator();
    test_memory();
    test_transpositions();
    test_noise_after_a_move();
    test_root_of_gumbel_search();
    test_visits_do_not_overflow();
    test_information_sets();
    test_threads(ConnectFour{});
    test_threads(Pig{});
    test_threads(Hanabi{});
    return 0;
}
