// Python faces of csrc/rollout: TokenTree and tree_mask.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

#include "rollout/token_tree.h"
#include "rollout/tree_mask.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;  // smaller integers are widened, floats are refused

template <class T>
std::span<const T> as_span(const Array<T>& array, const std::string& name) {
    if (array.ndim() != 1) throw std::invalid_argument(name + " must have one dimension");
    return {array.data(), static_cast<std::size_t>(array.size())};
}

spf::TokenTree build(const Array<std::int64_t>& tokens, const Array<std::int64_t>& offsets,
                     const Array<std::int64_t>& first_scored, std::int64_t max_nodes) {
    const spf::TokenSequences input{as_span(tokens, "tokens"), as_span(offsets, "offsets"),
                                    as_span(first_scored, "first_scored")};
    py::gil_scoped_release unlocked;
    return spf::TokenTreeBuilder(input, max_nodes).build();
}

py::array_t<bool> tree_mask(const Array<std::int32_t>& node_exit, const Array<std::int64_t>& block_offsets,
                            std::int64_t shared_length, std::optional<std::int64_t> width) {
    const spf::MaskBlocks blocks{as_span(node_exit, "node_exit"), as_span(block_offsets, "block_offsets")};
    spf::check_mask_blocks(blocks);
    if (shared_length < 0) throw std::invalid_argument("tree_mask: shared_length must be >= 0");
    const auto widest = static_cast<std::int64_t>(blocks.widest());
    const std::int64_t columns = width.value_or(widest);
    if (columns < widest)
        throw std::invalid_argument("tree_mask: width must be at least the largest block, " + std::to_string(widest));
    py::array_t<bool> mask({static_cast<std::int64_t>(blocks.count()), columns, shared_length + columns});
    const std::span<bool> cells(mask.mutable_data(), static_cast<std::size_t>(mask.size()));
    {
        py::gil_scoped_release unlocked;
        std::fill(cells.begin(), cells.end(), false);
        spf::fill_tree_mask(blocks, static_cast<std::size_t>(shared_length), static_cast<std::size_t>(columns), cells);
    }
    return mask;
}

// A property that is a numpy array over the vector itself; the array keeps the tree alive.
template <class T>
void def_array(py::class_<spf::TokenTree>& tree, const char* name, std::vector<T> spf::TokenTree::* member,
               const char* doc) {
    tree.def_property_readonly(
        name,
        [member](const py::object& self) {
            const auto& values = self.cast<const spf::TokenTree&>().*member;
            return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data(), self);
        },
        doc);
}

}  // namespace

void bind_rollout(py::module_& m) {
    using spf::TokenTree;
    py::class_<TokenTree> tree(m, "TokenTree", R"(Token sequences packed into prefix trees.

A model that runs over `shared` once and over every block, each node attending to `shared` and to its
ancestors-or-self (j <= i < node_exit[j]), has computed every scored token of every sequence.

Legend: N sequences, P shared tokens, M nodes, R blocks, S scored tokens, U distinct (node, target) pairs.
The arrays are views of the tree.)");
    tree.def(py::init(&build), py::arg("tokens"), py::arg("offsets"), py::arg("first_scored"), py::arg("max_nodes"),
             R"(Pack N sequences.

tokens int64[total]: all sequences one after another, values >= 0; offsets int64[N + 1];
first_scored int64[N]: index inside the sequence of the first token whose log-probability is needed (the length
of the prompt), from 1 to length - 1; max_nodes: capacity of a block (a longer sequence gets a block alone).
Raises ValueError on malformed input, TypeError on arrays that are not integers.)");
    def_array(tree, "shared", &TokenTree::shared,
              "int64[P]: prefix of all sequences, ending before the first token that predicts a scored one");
    def_array(tree, "node_tokens", &TokenTree::node_tokens, "int64[M]: depth-first inside a block");
    def_array(tree, "node_position", &TokenTree::node_position, "int64[M]: position of the token in its sequences");
    def_array(tree, "node_exit", &TokenTree::node_exit,
              "int32[M]: inside a block, j is an ancestor of i or i itself iff j <= i < node_exit[j]");
    def_array(tree, "block_offsets", &TokenTree::block_offsets, "int64[R + 1]: block r is nodes [r] to [r + 1]");
    def_array(tree, "scored_node", &TokenTree::scored_node,
              "int64[S]: the node whose output predicts each scored token, in input order");
    def_array(tree, "scored_targets", &TokenTree::scored_targets, "int64[S]: the scored tokens, in input order");
    def_array(tree, "scored_offsets", &TokenTree::scored_offsets, "int64[N + 1]: scored tokens of sequence n");
    def_array(tree, "pair_node", &TokenTree::pair_node, "int64[U]: distinct (node, target) pairs, sorted");
    def_array(tree, "pair_target", &TokenTree::pair_target, "int64[U]");
    def_array(tree, "pair_of_scored", &TokenTree::pair_of_scored, "int64[S]: which pair each scored token is");
    tree.def_readonly("num_input_tokens", &TokenTree::num_input_tokens, "tokens given");
    tree.def_readonly("num_distinct_tokens", &TokenTree::num_distinct_tokens,
                      "nodes of one trie of all sequences, last tokens included");
    tree.def_readonly("num_computed_tokens", &TokenTree::num_computed_tokens,
                      "P + M: tokens the model runs over (the last token of a sequence is only predicted)");

    m.def("tree_mask", &tree_mask, py::arg("node_exit"), py::arg("block_offsets"), py::arg("shared_length"),
          py::arg("width") = py::none(), R"(Attention mask of a run of R blocks: bool[R, C, P + C].

node_exit int32[M] of the whole tree; block_offsets int64[R + 1], a slice of the tree's (R consecutive blocks);
shared_length P; width C, by default the largest of these blocks. True where a node may attend: the shared
positions, its ancestors, itself. Padded rows see themselves alone. Raises ValueError on malformed input.)");
}
