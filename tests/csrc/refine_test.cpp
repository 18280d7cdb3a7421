// Oracle: the published search in recursion over a table of verdicts by path, and traces written by hand. Under the
// sanitizers, what is read and written lies inside.
#include "search/refine.h"

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "check.h"
#include "core/rng.h"

using namespace spf;

namespace {

// Answers every want of a tree: refinements by `write` (text number or kUnread), verdicts by `judge`.
template <class Write, class Judge>
int run(RefineTree& tree, const Write& write, const Judge& judge) {
    int rounds = 0;
    for (bool over = false; !over; ++rounds) {
        std::vector<std::int64_t> answers;
        for (const RefineWant& want : tree.wanted()) {
            for (std::int64_t i = 0; i < want.count; ++i) {
                answers.push_back(want.is_judgement() ? judge(want, i) : write(want, want.branch + i));
            }
        }
        over = tree.answer(answers);
    }
    return rounds;
}

void worst_cases() {
    for (const RefineOrder order : {RefineOrder::kBreadth, RefineOrder::kDepth}) {
        RefineOptions options;
        options.order = order;
        RefineTree tree(options, true);
        std::int64_t texts = 0;  // every refinement is new, and refused
        const int rounds = run(
            tree, [&](const RefineWant&, std::int64_t) { return ++texts; },
            [](const RefineWant&, std::int64_t) { return std::int64_t{0}; });
        const bool breadth = order == RefineOrder::kBreadth;
        CHECK(rounds == (breadth ? 6 : 14));
        CHECK(tree.cost().rounds == rounds);
        CHECK(tree.cost().requests == (breadth ? 30 : 42));
        CHECK(tree.nodes().size() == (breadth ? 16 : 22));
        CHECK(!tree.accepted());
        CHECK(tree.nodes()[static_cast<std::size_t>(tree.final_node())].number == 3);  // the later
    }
}

// Values by the number of the path; the search in recursion gives the path of the result.
struct Recursive {
    const RefineOptions& options;
    const std::map<std::int64_t, int>& yes;  // verdicts for yes, of five; a path without has no node
    std::vector<std::int64_t> walk;          // of nodes made, parents first
    std::map<std::int64_t, std::vector<std::int64_t>> children;

    double value(std::int64_t n) const { return n == 0 ? 0.0 : yes.at(n) / 5.0; }
    std::vector<std::int64_t> expand(std::int64_t n) {
        std::vector<std::int64_t> made;
        for (std::int64_t b = 0; b < options.branch; ++b) {
            const std::int64_t child = n * options.branch + b + 1;
            if (yes.contains(child)) made.push_back(child);
        }
        return children[n] = made;
    }
    std::vector<std::int64_t> ranked(std::vector<std::int64_t> nodes) const {  // insertion sort, stable
        for (std::size_t i = 1; i < nodes.size(); ++i) {
            for (std::size_t j = i; j > 0 && value(nodes[j]) > value(nodes[j - 1]); --j)
                std::swap(nodes[j], nodes[j - 1]);
        }
        return nodes;
    }
    std::int64_t deep(std::int64_t n, int depth) {
        if (depth >= options.depth) return -1;
        const auto order = ranked(expand(n));
        if (order.empty()) return -1;
        if (value(order[0]) > options.accept) return order[0];
        for (std::size_t k = 0; k < order.size() && k < static_cast<std::size_t>(options.keep); ++k) {
            if (const std::int64_t found = deep(order[k], depth + 1); found >= 0) return found;
        }
        return -1;
    }
    std::int64_t broad() {
        std::vector<std::int64_t> frontier{0};
        for (int d = 0; d < options.depth; ++d) {
            std::vector<std::int64_t> level;
            for (const std::int64_t n : frontier) {
                for (const std::int64_t child : expand(n)) level.push_back(child);
            }
            if (level.empty()) return -1;
            frontier = ranked(level);
            if (value(frontier[0]) > options.accept) return frontier[0];
            if (frontier.size() > static_cast<std::size_t>(options.keep))
                frontier.resize(static_cast<std::size_t>(options.keep));
        }
        return -1;
    }
    std::int64_t best(std::int64_t n) {
        std::int64_t found = n;
        for (const std::int64_t child : children[n]) {
            const std::int64_t other = best(child);
            if (value(other) >= value(found)) found = other;
        }
        return found;
    }
    std::int64_t result() {
        const std::int64_t found = options.order == RefineOrder::kBreadth ? broad() : deep(0, 0);
        return found >= 0 ? found : best(0);
    }
};

void random_trees() {
    Rng rng(3, 0);
    for (int round = 0; round < 4'000; ++round) {
        RefineOptions options;
        options.order = round % 2 == 0 ? RefineOrder::kBreadth : RefineOrder::kDepth;
        options.branch = 1 + static_cast<int>(rng.below(4));
        options.keep = 1 + static_cast<int>(rng.below(4));
        options.depth = 1 + static_cast<int>(rng.below(4));
        options.accept = round % 3 == 0 ? 0.5 : 0.9;
        options.refine_attempts = 2;
        std::map<std::int64_t, int> yes;
        for (std::int64_t n = 1; n < 400; ++n) {
            if (rng.below(8) != 0) yes[n] = static_cast<int>(rng.below(round % 5 == 0 ? 6 : 4));
        }
        std::map<std::int64_t, std::int64_t> path;  // of a text
        std::int64_t texts = 0;
        RefineTree tree(options, true);
        const auto write = [&](const RefineWant& want, std::int64_t branch) {
            const std::int64_t parent = tree.nodes()[static_cast<std::size_t>(want.node)].number;
            const std::int64_t child = parent * options.branch + branch + 1;
            if (!yes.contains(child) || (want.attempt == 0 && child % 3 == 0)) return kUnread;
            path[++texts] = child;
            return texts;
        };
        run(tree, write, [&](const RefineWant& want, std::int64_t i) {
            return static_cast<std::int64_t>(i < yes.at(path.at(want.text)));
        });
        Recursive oracle{options, yes, {}, {}};
        CHECK(tree.nodes()[static_cast<std::size_t>(tree.final_node())].number == oracle.result());
        CHECK(tree.accepted() == (oracle.value(oracle.result()) > options.accept));
    }
}

// Tied votes are drawn again, three times at most, while the siblings' are not waited for; the first verdict of the
// majority is kept; equal texts are judged once.
void votes_by_hand() {
    RefineOptions options;
    options.depth = 1;
    RefineTree tree(options, true);
    CHECK(!tree.answer(std::array<std::int64_t, 3>{1, 2, 1}));
    CHECK(tree.wanted().size() == 2 && tree.wanted()[0].text == 1 && tree.wanted()[1].text == 2);
    CHECK(!tree.answer(std::array<std::int64_t, 10>{1, 0, 1, 0, -1, -1, 0, 1, 0, 0}));
    CHECK(tree.wanted().size() == 1 && tree.wanted()[0].text == 1 && tree.wanted()[0].attempt == 1);
    CHECK(!tree.answer(std::array<std::int64_t, 5>{-1, -1, -1, -1, -1}));
    CHECK(tree.answer(std::array<std::int64_t, 5>{0, 0, 1, 1, -1}));
    CHECK(tree.nodes().size() == 2 && tree.final_node() == 1 && !tree.accepted());
    CHECK(tree.nodes()[1].text == 2 && tree.nodes()[1].branch == 1 && tree.nodes()[1].value == 0.25);
    CHECK(tree.votes()[2].kept == 1 && tree.votes()[1].state == Vote::State::kTied);
}

// A first response without a critique is judged first: it passes, is dropped, or is refined.
void first_responses() {
    RefineOptions options;
    options.judge_attempts = 1;
    RefineTree passes(options, false), tied(options, false), refined(options, false);
    CHECK(passes.wanted().size() == 1 && passes.wanted()[0].is_judgement());
    CHECK(passes.answer(std::array<std::int64_t, 5>{1, 1, 1, 0, 0}));
    CHECK(passes.accepted() && passes.final_node() == 0 && passes.wanted().empty());
    CHECK(tied.answer(std::array<std::int64_t, 5>{1, 1, 0, 0, -1}));
    CHECK(!tied.accepted() && tied.final_node() == kNoNode);
    CHECK(!refined.answer(std::array<std::int64_t, 5>{0, 0, 0, 1, 1}));
    CHECK(refined.wanted().size() == 1 && refined.wanted()[0].count == 3);
}

void refusals() {
    RefineTree tree(RefineOptions{}, true);
    CHECK(tree.wanted().size() == 1);
    CHECK_THROWS(tree.answer(std::array<std::int64_t, 2>{1, 2}));
    CHECK_THROWS(tree.answer(std::array<std::int64_t, 3>{1, 2, 4}));
    CHECK_THROWS(tree.answer(std::array<std::int64_t, 3>{1, 2, -2}));
    CHECK(!tree.answer(std::array<std::int64_t, 3>{1, 2, 3}));
    CHECK_THROWS(tree.answer(std::vector<std::int64_t>(15, 2)));
    CHECK(tree.answer(std::vector<std::int64_t>(15, 1)));
    CHECK(tree.answer(std::span<const std::int64_t>{}));
    CHECK_THROWS(tree.answer(std::array<std::int64_t, 1>{1}));  // it is over
    for (std::int64_t RefineOptions::* field :
         {&RefineOptions::branch, &RefineOptions::keep, &RefineOptions::depth, &RefineOptions::judgements,
          &RefineOptions::judge_attempts, &RefineOptions::refine_attempts}) {
        RefineOptions options;
        options.*field = 0;
        CHECK_THROWS(RefineTree(options, true));
    }
    RefineOptions large;
    large.depth = 100;
    CHECK_THROWS(RefineTree(large, true));
    large.branch = INT64_MAX;
    CHECK_THROWS(RefineTree(large, true));
    large.branch = 1;  // one path
    RefineTree(large, true);
    RefineOptions accept;
    accept.accept = 1.5;
    CHECK_THROWS(RefineTree(accept, true));
}

}  // namespace

int main() {
    worst_cases();
    random_trees();
    votes_by_hand();
    first_responses();
    refusals();
}
