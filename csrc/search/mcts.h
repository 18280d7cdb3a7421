// Monte Carlo tree search from one position of a game without hidden information: descend, evaluate, back up.
//
// A descent ends at a node that is new or over. Every node counts one visit of its own, when it was evaluated; the root
// too. Where nature moves it is sampled, and what it did tells the outcomes of an action apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/game.h"
#include "core/rng.h"
#include "search/formulas.h"
#include "search/gumbel.h"
#include "search/playout.h"
#include "search/proofs.h"
#include "search/search_options.h"
#include "search/tree.h"

namespace spf {

template <TurnGame Game>
class Mcts {
  public:
    using State = typename Game::State;
    static constexpr bool kChances = Game::kMaxChance > 0;

    Mcts(const Game& game, const SearchOptions& options) : game_(game), options_(options), dice_(0) {
        options_.solve = options.solve && !kChances && num_players(game) == 2;
        options_.transpositions = options.transpositions && kTransposes<Game>;
        path_.resize(static_cast<std::size_t>(game.max_turns()) + 1);
    }

    // A new tree, within so many bytes.
    void begin(const State& root, std::uint64_t seed, std::size_t max_bytes) {
        tree_.clear(max_bytes);
        dice_ = Dice(seed);
        roots_ = 0;
        reroot(root);
        tree_.add_node(game_.current_player(root), 0, 0);
        root_visits_ = 1;
    }

    const State& root() const { return root_; }
    const Tree& tree() const { return tree_; }
    bool over() const { return tree_.nodes[0].player < 0; }
    bool done() const { return over() || tree_.nodes[0].proven || simulated_ >= options_.simulations; }
    bool evaluated() const { return tree_.nodes[0].count > 0; }

    // All simulations, with playouts or no evaluator at all.
    void run() {
        switch (options_.rule) {
            case Rule::kUct:
                return options_.solve ? run_as<Rule::kUct, true>() : run_as<Rule::kUct, false>();
            case Rule::kPuct:
                return run_as<Rule::kPuct, false>();
            case Rule::kGumbel:
                return run_as<Rule::kGumbel, false>();
        }
    }

    // ---- an evaluator outside: leaves go out, priors and returns come in ----
    struct Leaf {
        std::uint32_t node;
        State state;
        std::vector<Action> actions;  // from the root, nature's included
    };
    // The next leaf to evaluate, which counts as visited and lost from now on; none if the search is done or has to
    // wait for an answer. Games that are over on the way are backed up at once.
    std::optional<Leaf> select() {
        if (!evaluated()) {
            if (over() || !waiting_.empty()) return std::nullopt;
            waiting_.push_back({0, {}});
            return Leaf{0, root_, {}};
        }
        check_room_for_visits();
        while (!done()) {
            State state = root_;
            actions_.clear();
            const std::uint32_t leaf = options_.rule == Rule::kGumbel ? descend<Rule::kGumbel, false, true>(state)
                                       : options_.rule == Rule::kPuct ? descend<Rule::kPuct, false, true>(state)
                                                                      : descend<Rule::kUct, false, true>(state);
            if (leaf == kBusy) return std::nullopt;
            ++simulated_;
            if (tree_.nodes[leaf].player < 0) {
                back_up(returns_of(game_, state));
                continue;
            }
            for (const Step& step : path()) {
                tree_.edges[step.edge].visit();
                tree_.edges[step.edge].total -= options_.virtual_loss;
            }
            ++root_visits_;
            waiting_.push_back({leaf, {path().begin(), path().end()}});
            return Leaf{leaf, state, actions_};
        }
        return std::nullopt;
    }
    // The answer to the oldest leaf: weights of all actions, those of illegal ones ignored, and the returns.
    void expand(const State& state, std::span<const float> weights, const Returns<Game>& returns) {
        const auto [leaf, path] = std::move(waiting_.front());
        waiting_.erase(waiting_.begin());
        open(leaf, state, weights);
        Node& node = tree_.nodes[leaf];
        node.worth[0] = returns[static_cast<std::size_t>(node.player)];
        for (const Step& step : path) {
            tree_.edges[step.edge].total += options_.virtual_loss + returns[static_cast<std::size_t>(step.player)];
        }
    }

    // Keeps what was searched below an action and what nature did after it.
    void advance(Action action, std::span<const Action> nature, const State& now) {
        std::uint32_t next = 0;
        if (options_.rule != Rule::kGumbel && waiting_.empty()) {  // sequential halving begins with unvisited actions
            for (const Edge& edge : tree_.edges_of(tree_.nodes[0])) {
                if (edge.visits() == 0 || tree_.action_of(edge) != action) continue;
                std::uint32_t key = 0;
                for (const Action event : nature) key = key_after(key, event);
                next = kChances ? tree_.outcome(edge, key) : tree_.node_after(edge);
                break;
            }
        }
        if (next == 0) {
            tree_.clear();
            tree_.add_node(game_.current_player(now), 0, 0);
        } else {
            tree_ = tree_.below(next);
        }
        root_visits_ = visits_of(tree_.nodes[0]);
        reroot(now);
        if (evaluated() && options_.rule == Rule::kPuct && options_.noise > 0.0f) disturb_root();
    }

    // ---- what was found, by action ----
    void read(std::span<std::int64_t> visits, std::span<float> values) const {
        const Node& node = tree_.nodes[0];
        for (const Edge& edge : tree_.edges_of(node)) {
            const auto action = static_cast<std::size_t>(tree_.action_of(edge));
            visits[action] = edge.visits();
            values[action] = value_of(edge, node);
        }
    }
    // The policy to learn from: of Gumbel search the improved one, else the share of visits.
    void read_policy(std::span<float> policy) {
        const Node& node = tree_.nodes[0];
        const std::span<const Edge> edges = tree_.edges_of(node);
        if (options_.rule == Rule::kGumbel && !edges.empty()) {
            const std::span<const float> shares = gumbel_.improved_policy(tree_, node);
            for (std::size_t i = 0; i < edges.size(); ++i) {
                policy[static_cast<std::size_t>(tree_.action_of(edges[i]))] = shares[i];
            }
            return;
        }
        float sum = 0.0f;
        for (const Edge& edge : edges) sum += static_cast<float>(claim_of(edge));
        for (const Edge& edge : edges) {
            policy[static_cast<std::size_t>(tree_.action_of(edge))] =
                sum > 0.0f ? static_cast<float>(claim_of(edge)) / sum : 1.0f / static_cast<float>(edges.size());
        }
    }
    // What to play. A sure return, of a game that is over or a position that is proven, counts before visits, visits
    // before the mean return.
    Action best() {
        const Node& node = tree_.nodes[0];
        const std::span<const Edge> edges = tree_.edges_of(node);
        if (edges.empty()) return over() ? kInvalidAction : game_.legal_actions(root_).nth(0);
        if (options_.rule == Rule::kGumbel) return tree_.action_of(edges[gumbel_.best_at_root(tree_)]);
        if (options_.temperature > 0.0f) return drawn(edges);
        const auto rank = [&](const Edge& edge) {
            const bool over = options_.rule == Rule::kUct && edge.is_over();
            const float sure = is_proven(tree_, edge) ? proven_worth(tree_, edge, node.player)
                               : over                 ? edge.mean()
                                                      : 0.0f;
            return std::tuple(sure, edge.visits(), edge.mean());
        };
        return tree_.action_of(*std::max_element(edges.begin(), edges.end(),
                                                 [&](const Edge& a, const Edge& b) { return rank(a) < rank(b); }));
    }

  private:
    struct Waiting {
        std::uint32_t leaf;
        std::vector<Step> path;
    };
    static constexpr std::uint32_t kBusy = ~0u;

    static std::uint32_t key_after(std::uint32_t key, Action event) {
        return key * 0x9E3779B1u + static_cast<std::uint32_t>(event) + 1u;
    }

    std::span<const Step> path() const { return {path_.data(), depth_}; }
    void reroot(const State& root) {
        root_ = root;
        ++roots_;
        simulated_ = 0;
        waiting_.clear();
    }
    void check_room_for_visits() const {
        const std::uint32_t counted = root_visits_ - 1;  // by the edges of the root, one of which may get all the rest
        if (counted + static_cast<std::uint32_t>(options_.simulations - simulated_) <= Edge::kMost) return;
        throw std::length_error("simulations: a tree that is kept counts at most " + std::to_string(Edge::kMost) +
                                " visits; begin a new search");
    }
    std::uint32_t visits_of(const Node& node) const {
        std::uint32_t visits = 1;
        for (const Edge& edge : tree_.edges_of(node)) visits += edge.visits();
        return visits;
    }

    template <Rule kRule, bool kSolve>
    void run_as() {
        if (over()) return;
        check_room_for_visits();
        if (!evaluated()) {
            open(0, root_, {});
            if (kRule == Rule::kGumbel && options_.rollouts > 0) {  // whose completed values start from the root's
                const Returns<Game> returns = play_out(game_, root_, options_.rollouts, dice_);
                tree_.nodes[0].worth[0] = returns[static_cast<std::size_t>(tree_.nodes[0].player)];
            }
        }
        for (; simulated_ < options_.simulations; ++simulated_) {
            if (kSolve && tree_.nodes[0].proven) return;
            State state = root_;
            const std::uint32_t leaf = descend<kRule, kSolve, false>(state);
            if (tree_.nodes[leaf].player < 0 || tree_.nodes[leaf].proven) {
                const Returns<Game> returns = tree_.nodes[leaf].proven ? worth_of(leaf) : returns_of(game_, state);
                back_up(returns);
                if constexpr (kSolve) prove(tree_, path(), leaf, returns);
                continue;
            }
            if (options_.rollouts == 0) {
                back_up({});
                continue;
            }
            const Returns<Game> returns = play_out(game_, state, options_.rollouts, dice_);
            if constexpr (kRule == Rule::kGumbel) {
                tree_.nodes[leaf].worth[0] = returns[static_cast<std::size_t>(tree_.nodes[leaf].player)];
            }
            back_up(returns);
        }
    }

    // From the root to a new node or one that is over; `state` becomes its, path_ the way. kAsk: nodes are opened by
    // the evaluator's answers, and one that still waits for its answer stops the descent.
    template <Rule kRule, bool kSolve, bool kAsk>
    std::uint32_t descend(State& state) {
        depth_ = 0;
        std::uint32_t at = 0, visits = root_visits_;
        while (true) {
            if (tree_.nodes[at].player < 0 || (kSolve && tree_.nodes[at].proven)) return at;
            if (tree_.nodes[at].count == 0) {
                if constexpr (kAsk) {
                    untry_aliases();
                    return kBusy;
                }
                open(at, state, {});
            }
            const std::uint32_t pick = choose<kRule, kSolve>(tree_.nodes[at], at == 0, visits);
            Edge& edge = tree_.edges[pick];
            const bool fresh = edge.visits() == 0;
            const Action action = tree_.action_of(edge);
            path_[depth_++] = {pick, tree_.nodes[at].player};
            game_.apply(state, action);
            if constexpr (kAsk) actions_.push_back(action);
            Player player = game_.current_player(state);
            std::uint32_t key = 0;
            if constexpr (kChances) {
                for (; player == kChance; player = game_.current_player(state)) {
                    const Action event = draw_chance(game_, state, dice_.event());
                    game_.apply(state, event);
                    key = key_after(key, event);
                    if constexpr (kAsk) actions_.push_back(event);
                }
            }
            if (fresh) {
                const std::uint64_t position = position_of(state);
                const std::uint32_t known = met_before<kAsk>(position);
                const std::uint32_t child =
                    known != 0 ? tree_.add_alias(action, known) : tree_.add_node(player, action, key);
                edge.set_link(child);
                if (kRule == Rule::kUct && !kChances && player < 0) edge.mark_over();
                if (known == 0) {
                    if (position != 0) tree_.positions.insert(position, child);
                    return child;
                }
                at = known;
                visits = visits_of(tree_.nodes[at]);
                continue;
            }
            if constexpr (kChances) {
                at = tree_.outcome(edge, key);
                if (at == 0) {
                    at = tree_.add_node(player, action, key);
                    tree_.nodes[at].next = tree_.nodes[edge.link()].next;
                    tree_.nodes[edge.link()].next = at;
                    return at;
                }
                visits = visits_of(tree_.nodes[at]);
            } else {
                at = tree_.node_after(edge);
                visits = options_.transpositions ? visits_of(tree_.nodes[at]) : edge.visits();
            }
        }
    }

    // A hash; 0 where every way has its own nodes.
    std::uint64_t position_of(const State& state) const {
        if constexpr (kTransposes<Game>) {
            if (options_.transpositions) return hash_of(state);
        }
        return 0;
    }
    // Takes back the edges that a descent which came to nothing tried on its way.
    void untry_aliases() {
        for (std::size_t depth = depth_; depth-- > 0;) {
            Edge& edge = tree_.edges[path_[depth].edge];
            if (edge.visits() != 0) continue;
            edge.set_link(tree_.nodes[edge.link()].action);
            tree_.nodes.pop_back();  // the alias; nothing was added after it
            --tree_.nodes[depth == 0 ? 0 : tree_.node_after(tree_.edges[path_[depth - 1].edge])].tried;
        }
    }
    // The node of a position that another way led to; 0 if there is none, or none yet to go on from.
    template <bool kAsk>
    std::uint32_t met_before(std::uint64_t position) const {
        if (position == 0) return 0;
        const std::uint32_t known = tree_.positions.find(position);
        return kAsk && tree_.nodes[known].count == 0 && tree_.nodes[known].player >= 0 ? 0 : known;
    }

    void back_up(const Returns<Game>& returns) {
        ++root_visits_;
        for (const Step& step : path()) {
            Edge& edge = tree_.edges[step.edge];
            edge.visit();
            edge.total += returns[static_cast<std::size_t>(step.player)];
        }
    }

    // ---- which edge ----
    template <Rule kRule, bool kSolve>
    std::uint32_t choose(Node& node, bool root, std::uint32_t visits) {
        if constexpr (kRule == Rule::kUct) {
            return choose_uct<kSolve>(node, visits);
        } else if constexpr (kRule == Rule::kPuct) {
            return choose_puct(node, visits);
        } else {
            return choose_gumbel(node, root);
        }
    }

    // Any action once, then mean + c sqrt(log N / n); what is over or proven is worth that and no exploration.
    template <bool kSolve>
    std::uint32_t choose_uct(Node& node, std::uint32_t visits) {
        if (node.tried < node.count) {
            const auto left = static_cast<std::uint32_t>(node.count - node.tried);
            return tree_.try_edge(node, node.first + node.tried + dice_.draws.below(left));
        }
        const float k = options_.c * root_of_log(visits);
        const Edge* const edges = tree_.edges.data() + node.first;
        const std::uint32_t best = with_counts(visits, [&](const auto& counts) {
            return highest(node.count, -INFINITY, [&](std::uint32_t i) {
                if constexpr (kSolve) {
                    if (is_proven(tree_, edges[i])) return proven_worth(tree_, edges[i], node.player);
                }
                const float r = counts.inverse_root(edges[i].visits());
                return edges[i].total * r * r + (edges[i].is_over() ? 0.0f : k * r);
            });
        });
        return node.first + best % node.count;  // the first where no score is a number
    }

    // mean + c P sqrt(N) / (1 + n), the mean of an action never tried being 0. Of those only the likeliest can win, and
    // they lie in this order unless all are alike; then any of them is taken.
    std::uint32_t choose_puct(Node& node, std::uint32_t visits) {
        const float k = options_.c * std::sqrt(static_cast<float>(visits)) * (1.0f / Edge::kSure);
        const Edge* const edges = tree_.edges.data() + node.first;
        const std::uint32_t least = edges[node.count - 1].mark();
        const bool alike = edges[0].mark() == least;
        const float even = k * static_cast<float>(least);
        const float floor = node.tried == node.count ? -INFINITY
                            : alike                  ? even
                                                     : k * static_cast<float>(edges[node.tried].mark());
        const std::uint32_t best = with_counts(visits + 1, [&](const auto& counts) {
            const auto score = [&](const Edge& edge, float prior) {
                const std::uint32_t n = edge.visits();
                return edge.total * counts.inverse(std::max(n, 1u)) + prior * counts.inverse(n + 1);
            };
            if (alike) return highest(node.tried, floor, [&](std::uint32_t i) { return score(edges[i], even); });
            return highest(node.tried, floor,
                           [&](std::uint32_t i) { return score(edges[i], k * static_cast<float>(edges[i].mark())); });
        });
        if (best < node.tried || node.tried == node.count) return node.first + best % node.count;
        const auto left = static_cast<std::uint32_t>(node.count - node.tried);
        return tree_.try_edge(node, node.first + best + (alike ? dice_.draws.below(left) : 0));
    }

    std::uint32_t choose_gumbel(Node& node, bool root) {
        const std::size_t place = root ? gumbel_.choose_at_root(tree_, simulated_) : gumbel_.choose_below(tree_, node);
        const auto edge = static_cast<std::uint32_t>(node.first + place);
        return place < node.tried ? edge : tree_.try_edge(node, edge);
    }
    Action drawn(std::span<const Edge> edges) {
        std::vector<double> weights;
        double sum = 0.0, most = 1.0;
        for (const Edge& edge : edges) most = std::max(most, static_cast<double>(claim_of(edge)));
        for (const Edge& edge : edges) {
            weights.push_back(std::pow(claim_of(edge) / most, 1.0 / static_cast<double>(options_.temperature)));
            sum += weights.back();
        }
        double left = Rng(mix_seeds(dice_.key, roots_), 0).uniform() * sum;
        std::size_t i = 0;
        for (; i + 1 < edges.size() && (left -= weights[i]) >= 0.0; ++i) {
        }
        return tree_.action_of(edges[i]);
    }

    // ---- opening a node ----
    // Weights of all actions; none: all alike.
    void open(std::uint32_t at, const State& state, std::span<const float> weights) {
        const auto legal = game_.legal_actions(state);
        if (options_.rule == Rule::kUct) return tree_.open(at, legal, [](Action) { return 0u; });
        if (at == 0) return open_root(legal, weights);
        const int count = legal.size();
        if (weights.empty()) {
            const std::uint32_t even = Edge::kSure / static_cast<std::uint32_t>(count);
            return tree_.open(at, legal, [&](Action) { return even; });
        }
        float sum = 0.0f;
        for (const Action a : legal) sum += weights[static_cast<std::size_t>(a)];
        open_sorted(at, legal, [&](Action a) {
            return sum > 0.0f ? weights[static_cast<std::size_t>(a)] / sum : 1.0f / static_cast<float>(count);
        });
    }
    static std::uint32_t mark_of(float prior) {
        return static_cast<std::uint32_t>(std::lround(prior * static_cast<float>(Edge::kSure)));
    }
    template <int N, class Prior>
    void open_sorted(std::uint32_t at, const ActionSet<N>& legal, const Prior& prior) {
        tree_.open(at, legal, [&](Action a) { return mark_of(prior(a)); });
        const std::span<Edge> edges = tree_.edges_of(tree_.nodes[at]);
        std::stable_sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.mark() > b.mark(); });
    }
    template <int N>
    void open_root(const ActionSet<N>& legal, std::span<const float> weights) {
        const int count = legal.size();
        std::vector<float> priors(static_cast<std::size_t>(game_.num_actions()), 0.0f);
        float sum = 0.0f;
        for (const Action a : legal) sum += weights.empty() ? 0.0f : weights[static_cast<std::size_t>(a)];
        const std::vector<float> noise = dirichlet(count);
        std::size_t i = 0;
        for (const Action a : legal) {
            float& prior = priors[static_cast<std::size_t>(a)];
            prior = sum > 0.0f ? weights[static_cast<std::size_t>(a)] / sum : 1.0f / static_cast<float>(count);
            if (!noise.empty()) prior += options_.noise * (noise[i++] - prior);
        }
        open_sorted(0, legal, [&](Action a) { return priors[static_cast<std::size_t>(a)]; });
        if (options_.rule != Rule::kGumbel) return;
        gumbel_.begin(priors, count, options_.considered, options_.simulations, dice_.event());
    }
    // Noise in the priors of a root that was an inner node. Edges never tried stay sorted, as choose_puct wants them.
    void disturb_root() {
        Node& node = tree_.nodes[0];
        const std::span<Edge> edges = tree_.edges_of(node);
        const std::vector<float> noise = dirichlet(node.count);
        for (std::size_t i = 0; i < noise.size(); ++i) {
            const float prior = static_cast<float>(edges[i].mark()) / static_cast<float>(Edge::kSure);
            edges[i].set_mark(mark_of(prior + options_.noise * (noise[i] - prior)));
        }
        const auto likelier = [](const Edge& a, const Edge& b) { return a.mark() > b.mark(); };
        std::stable_sort(edges.begin() + node.tried, edges.end(), likelier);
        if (edges.size() > 1 && edges.front().mark() == edges.back().mark()) {  // else all would be taken for alike
            edges.front().set_mark(edges.front().mark() ^ 1u);
        }
    }
    // Shares of noise that sum to 1; none where none is asked for.
    std::vector<float> dirichlet(int count) {
        std::vector<float> shares(options_.noise > 0.0f ? static_cast<std::size_t>(count) : 0);
        float sum = 0.0f;
        for (float& share : shares) sum += share = gamma_variate(options_.alpha, dice_.event());
        if (!(sum > 0.0f)) shares.clear();
        for (float& share : shares) share /= sum;
        return shares;
    }

    // Visits of a root's edge, as they count for what is played: of a proven root those of the best edges alone.
    std::uint32_t claim_of(const Edge& edge) const {
        const Node& node = tree_.nodes[0];
        if (!options_.solve || !node.proven) return edge.visits();
        const bool best = is_proven(tree_, edge) && proven_worth(tree_, edge, node.player) >= node.worth[node.player];
        return best ? edge.visits() : 0;
    }
    float value_of(const Edge& edge, const Node& node) const {
        return options_.solve && is_proven(tree_, edge) ? proven_worth(tree_, edge, node.player) : edge.mean();
    }
    Returns<Game> worth_of(std::uint32_t proven) const {
        Returns<Game> returns{};
        std::copy_n(tree_.nodes[proven].worth, std::min<std::size_t>(2, returns.size()), returns.begin());
        return returns;
    }

    Game game_;
    SearchOptions options_;
    Tree tree_;
    State root_{};
    Dice dice_;
    std::uint32_t root_visits_ = 1;
    int simulated_ = 0;
    std::uint64_t roots_ = 0;  // so far
    std::vector<Step> path_;   // its first depth_ steps
    std::size_t depth_ = 0;
    std::vector<Action> actions_;   // of the way to a leaf handed out
    std::vector<Waiting> waiting_;  // for the evaluator, oldest first
    Gumbel gumbel_;
};

}  // namespace spf
