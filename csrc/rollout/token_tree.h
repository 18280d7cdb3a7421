// Token sequences as prefix trees, so that a model runs once per distinct token instead of once per token.
//
// All sequences share a prefix; what follows it is cut into blocks, each the trie of some sequences, with its
// nodes in depth-first order: node j is an ancestor of node i, or i itself, exactly if j <= i < exit[j]. The
// last token of a sequence is only ever predicted, never read, so it has no node.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace spf {

// The input: N sequences, one after another; the tokens of sequence n from first_scored[n] on are to be
// predicted.
struct TokenSequences {
    std::span<const std::int64_t> tokens;        // [total]
    std::span<const std::int64_t> offsets;       // [N + 1]
    std::span<const std::int64_t> first_scored;  // [N], counted inside the sequence, 1 <= first_scored < length

    std::size_t count() const { return first_scored.size(); }
    std::span<const std::int64_t> operator[](std::size_t n) const {
        const auto begin = static_cast<std::size_t>(offsets[n]);
        return tokens.subspan(begin, static_cast<std::size_t>(offsets[n + 1]) - begin);
    }
};

inline void check_sequences(const TokenSequences& input, std::int64_t max_nodes) {
    constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
    const auto fail = [](const std::string& message) { throw std::invalid_argument("TokenTree: " + message); };
    const auto& offsets = input.offsets;
    const auto total = static_cast<std::int64_t>(input.tokens.size());
    if (total > kLimit) fail("tokens has more than 2^31 - 1 elements; split the batch");
    if (max_nodes < 1 || max_nodes > kLimit) fail("max_nodes must be from 1 to 2^31 - 1");
    if (input.count() == 0) fail("first_scored is empty; give at least one sequence");
    if (offsets.size() != input.count() + 1) fail("offsets must have one element more than first_scored");
    if (offsets.front() != 0) fail("offsets must start at 0");
    if (offsets.back() != total) fail("offsets must end at the number of tokens, " + std::to_string(total));
    for (std::size_t n = 0; n < input.count(); ++n) {
        const std::string name = "sequence " + std::to_string(n);
        if (offsets[n] > offsets[n + 1]) fail("offsets must not decrease; they do at " + name);
        const std::int64_t length = offsets[n + 1] - offsets[n];
        if (length < 2) fail(name + " needs at least 2 tokens, one to read and one to predict");
        if (input.first_scored[n] < 1 || input.first_scored[n] >= length)
            fail("first_scored of " + name + " must be from 1 to its length - 1, " + std::to_string(length - 1));
    }
    for (const std::int64_t token : input.tokens)
        if (token < 0) fail("tokens must be >= 0, not " + std::to_string(token));
}

// Legend: N sequences, P shared tokens, M nodes, R blocks, S scored tokens, U distinct (node, target) pairs.
struct TokenTree {
    std::vector<std::int64_t> shared;          // [P] the prefix of all sequences; at least one token short of a score
    std::vector<std::int64_t> node_tokens;     // [M]
    std::vector<std::int64_t> node_position;   // [M] position of the token in its sequences
    std::vector<std::int32_t> node_exit;       // [M] counted inside the block
    std::vector<std::int64_t> block_offsets;   // [R + 1]
    std::vector<std::int64_t> scored_node;     // [S] the node whose output predicts the token, in input order
    std::vector<std::int64_t> scored_targets;  // [S] the token to be predicted
    std::vector<std::int64_t> scored_offsets;  // [N + 1]
    std::vector<std::int64_t> pair_node;       // [U] sorted
    std::vector<std::int64_t> pair_target;     // [U] sorted inside a node
    std::vector<std::int64_t> pair_of_scored;  // [S]
    std::int64_t num_input_tokens = 0;
    std::int64_t num_distinct_tokens = 0;  // nodes of one trie of all sequences, their last tokens included
    std::int64_t num_computed_tokens = 0;  // P + M
};

class TokenTreeBuilder {
  public:
    // Throws std::invalid_argument on malformed input. Time O(total log N).
    TokenTreeBuilder(const TokenSequences& input, std::int64_t max_nodes)
        : input_(input), max_nodes_(static_cast<std::size_t>(max_nodes)) {
        check_sequences(input, max_nodes);
    }

    TokenTree build() {
        find_shared();
        tree_.num_input_tokens = static_cast<std::int64_t>(input_.tokens.size());
        tree_.num_distinct_tokens = static_cast<std::int64_t>(count_distinct());
        lay_out_scored();
        add_blocks();
        find_pairs();
        tree_.num_computed_tokens = static_cast<std::int64_t>(shared_ + tree_.node_tokens.size());
        return std::move(tree_);
    }

  private:
    using Tokens = std::span<const std::int64_t>;

    static std::size_t common_prefix(Tokens a, Tokens b) {
        const std::size_t limit = std::min(a.size(), b.size());
        const auto end = a.begin() + static_cast<std::ptrdiff_t>(limit);
        return static_cast<std::size_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
    }

    // What the blocks hold of a sequence: neither the shared prefix nor the last token.
    Tokens body(std::size_t n) const {
        const Tokens sequence = input_[n];
        return sequence.subspan(shared_, sequence.size() - 1 - shared_);
    }

    // What follows the shared prefix.
    Tokens rest(std::size_t n) const { return input_[n].subspan(shared_); }

    template <class Part>
    std::vector<std::size_t> sorted_by(Part part) const {
        std::vector<std::size_t> order(input_.count());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
            const Tokens left = part(a), right = part(b);
            return std::lexicographical_compare(left.begin(), left.end(), right.begin(), right.end());
        });
        return order;
    }

    void find_shared() {
        const Tokens first = input_[0];
        shared_ = first.size();
        for (std::size_t n = 0; n < input_.count(); ++n) {
            const auto limit = static_cast<std::size_t>(input_.first_scored[n]) - 1;
            shared_ = std::min({shared_, limit, common_prefix(first.first(shared_), input_[n])});
        }
        tree_.shared.assign(first.begin(), first.begin() + static_cast<std::ptrdiff_t>(shared_));
    }

    // Size of the trie over everything: in sorted order each sequence adds what it does not share with the
    // last one.
    std::size_t count_distinct() const {
        std::size_t distinct = shared_;
        Tokens previous;
        for (const std::size_t n : sorted_by([this](std::size_t i) { return rest(i); })) {
            const Tokens current = rest(n);
            distinct += current.size() - common_prefix(previous, current);
            previous = current;
        }
        return distinct;
    }

    void lay_out_scored() {
        tree_.scored_offsets.assign(1, 0);
        for (std::size_t n = 0; n < input_.count(); ++n) {
            const Tokens sequence = input_[n];
            const auto first = static_cast<std::ptrdiff_t>(input_.first_scored[n]);
            tree_.scored_targets.insert(tree_.scored_targets.end(), sequence.begin() + first, sequence.end());
            tree_.scored_offsets.push_back(static_cast<std::int64_t>(tree_.scored_targets.size()));
        }
        tree_.scored_node.resize(tree_.scored_targets.size());
    }

    // Sorted bodies visit their trie in depth-first order: each leaves the last path where they part and adds
    // the rest.
    void add_blocks() {
        tree_.block_offsets.assign(1, 0);
        Tokens previous;
        for (const std::size_t n : sorted_by([this](std::size_t i) { return body(i); })) {
            const Tokens current = body(n);
            std::size_t kept = common_prefix(previous, current);
            const std::size_t block_size = tree_.node_tokens.size() - block_start();
            const std::size_t added = current.size() - kept;
            if (block_size > 0 && added > 0 && block_size + added > max_nodes_) {
                close_block();
                kept = 0;
            }
            leave_path(kept);
            for (std::size_t depth = kept; depth < current.size(); ++depth) {
                path_.push_back(tree_.node_tokens.size());
                tree_.node_tokens.push_back(current[depth]);
                tree_.node_position.push_back(static_cast<std::int64_t>(shared_ + depth));
                tree_.node_exit.push_back(0);  // known when the path leaves the node
            }
            score(n);
            previous = current;
        }
        close_block();
    }

    std::size_t block_start() const { return static_cast<std::size_t>(tree_.block_offsets.back()); }

    void leave_path(std::size_t kept) {
        const auto exit = static_cast<std::int32_t>(tree_.node_tokens.size() - block_start());
        for (; path_.size() > kept; path_.pop_back()) tree_.node_exit[path_.back()] = exit;
    }

    void close_block() {
        leave_path(0);
        tree_.block_offsets.push_back(static_cast<std::int64_t>(tree_.node_tokens.size()));
    }

    // path_ holds at least the body of sequence n: token t stands at path_[t - shared].
    void score(std::size_t n) {
        const auto begin = static_cast<std::size_t>(tree_.scored_offsets[n]);
        const auto end = static_cast<std::size_t>(tree_.scored_offsets[n + 1]);
        const std::size_t first = static_cast<std::size_t>(input_.first_scored[n]) - 1 - shared_;
        for (std::size_t i = begin; i < end; ++i)
            tree_.scored_node[i] = static_cast<std::int64_t>(path_[first + i - begin]);
    }

    // Counting sort by node, then by target inside a node.
    void find_pairs() {
        const std::size_t scored = tree_.scored_node.size();
        std::vector<std::size_t> start(tree_.node_tokens.size() + 1, 0);
        for (const std::int64_t node : tree_.scored_node) ++start[static_cast<std::size_t>(node) + 1];
        std::partial_sum(start.begin(), start.end(), start.begin());
        std::vector<std::size_t> order(scored), next(start.begin(), start.end() - 1);
        for (std::size_t i = 0; i < scored; ++i) order[next[static_cast<std::size_t>(tree_.scored_node[i])]++] = i;
        tree_.pair_of_scored.resize(scored);
        const auto& targets = tree_.scored_targets;
        for (std::size_t node = 0; node + 1 < start.size(); ++node) {
            const std::span<std::size_t> here(order.data() + start[node], start[node + 1] - start[node]);
            std::sort(here.begin(), here.end(), [&](std::size_t a, std::size_t b) { return targets[a] < targets[b]; });
            for (std::size_t k = 0; k < here.size(); ++k) {
                if (k == 0 || targets[here[k]] != targets[here[k - 1]]) {
                    tree_.pair_node.push_back(static_cast<std::int64_t>(node));
                    tree_.pair_target.push_back(targets[here[k]]);
                }
                tree_.pair_of_scored[here[k]] = static_cast<std::int64_t>(tree_.pair_node.size()) - 1;
            }
        }
    }

    TokenSequences input_;
    std::size_t max_nodes_;
    std::size_t shared_ = 0;
    std::vector<std::size_t> path_;  // nodes from the root of the block to where the last body ended
    TokenTree tree_;
};

}  // namespace spf
