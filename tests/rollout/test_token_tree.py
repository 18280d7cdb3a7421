"""TokenTree against tries made of Python sets and dicts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay_fast import _native

INT64_ARRAYS = (
    *("shared", "node_tokens", "node_position", "block_offsets"),
    *("scored_node", "scored_targets", "scored_offsets", "pair_node", "pair_target", "pair_of_scored"),
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[int]], list[int], int]:
    """Sequences over a tiny alphabet (so that much is shared), their prompt lengths, a block capacity."""
    stem = draw(st.lists(st.integers(0, 2), max_size=4))
    tails = st.lists(st.integers(0, 2), min_size=2, max_size=7)
    sequences = [stem + tail for tail in draw(st.lists(tails, min_size=1, max_size=12))]
    first_scored = [draw(st.integers(1, len(sequence) - 1)) for sequence in sequences]
    return sequences, first_scored, draw(st.integers(1, 30))


def trie(paths: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Every non-empty prefix: the nodes of the trie."""
    return {path[:end] for path in paths for end in range(1, len(path) + 1)}


def longest_shared(sequences: list[list[int]], first_scored: list[int]) -> list[int]:
    shared: list[int] = []
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared[: min(first_scored) - 1]


def node_paths(tree: _native.TokenTree) -> list[tuple[int, tuple[int, ...]]]:
    """(block, tokens from the root of the block to the node), ancestors read from the exits."""
    paths = []
    for block, (begin, end) in enumerate(itertools.pairwise(tree.block_offsets.tolist())):
        exits, tokens = tree.node_exit[begin:end], tree.node_tokens[begin:end]
        for node in range(end - begin):
            ancestors = [j for j in range(node + 1) if exits[j] > node]
            paths.append((block, tuple(tokens[ancestors].tolist())))
    return paths


def greedy_blocks(bodies: list[tuple[int, ...]], max_nodes: int) -> list[list[tuple[int, ...]]]:
    """The nodes of each block, each in depth-first (here: lexicographic) order."""
    blocks: list[list[tuple[int, ...]]] = []
    current: list[tuple[int, ...]] = []
    for body in sorted(set(bodies)):
        if current and len(trie([*current, body])) > max_nodes:
            blocks.append(sorted(trie(current)))
            current = []
        current.append(body)
    return [*blocks, sorted(trie(current))]


@settings(max_examples=400)
@given(batches())
def test_nodes_are_the_tries_of_the_sequences(pack: Callable, batch: tuple) -> None:
    """Oracle: sets of prefixes, packed greedily; order, ancestors and positions follow."""
    sequences, first_scored, max_nodes = batch
    tree = pack(sequences, first_scored, max_nodes)
    shared = longest_shared(sequences, first_scored)
    assert tree.shared.tolist() == shared
    bodies = [tuple(sequence[len(shared) : -1]) for sequence in sequences]
    expected = [(b, path) for b, nodes in enumerate(greedy_blocks(bodies, max_nodes)) for path in nodes]
    assert node_paths(tree) == expected
    assert tree.node_position.tolist() == [len(shared) + len(path) - 1 for _, path in expected]
    assert tree.num_input_tokens == sum(map(len, sequences))
    assert tree.num_distinct_tokens == len(trie([tuple(sequence) for sequence in sequences]))
    assert tree.num_computed_tokens == len(shared) + len(expected)
    sizes = np.diff(tree.block_offsets)
    assert all(size <= max(max_nodes, max(map(len, bodies))) for size in sizes)


@settings(max_examples=400)
@given(batches())
def test_scored_tokens_are_read_where_they_are_predicted(pack: Callable, batch: tuple) -> None:
    """Oracle: the input itself, rebuilt from the ancestors of every scored token's node."""
    sequences, first_scored, max_nodes = batch
    tree = pack(sequences, first_scored, max_nodes)
    paths, shared = node_paths(tree), tuple(tree.shared.tolist())
    assert tree.scored_offsets.tolist() == [
        0,
        *itertools.accumulate(
            len(sequence) - first for sequence, first in zip(sequences, first_scored, strict=True)
        ),
    ]
    for n, (sequence, first) in enumerate(zip(sequences, first_scored, strict=True)):
        scored = range(*tree.scored_offsets[n : n + 2])
        for t, index in zip(range(first, len(sequence)), scored, strict=True):
            _, path = paths[tree.scored_node[index]]
            assert (*shared, *path) == tuple(sequence[:t])
            assert tree.scored_targets[index] == sequence[t]


@settings(max_examples=200)
@given(batches())
def test_pairs_are_the_distinct_scored_tokens(pack: Callable, batch: tuple) -> None:
    """Oracle: sorted(set(...)) of the (node, target) pairs."""
    tree = pack(*batch)
    scored = list(zip(tree.scored_node.tolist(), tree.scored_targets.tolist(), strict=True))
    pairs = list(zip(tree.pair_node.tolist(), tree.pair_target.tolist(), strict=True))
    assert pairs == sorted(set(scored))
    assert [pairs[index] for index in tree.pair_of_scored] == scored


def test_kuhn_like_batch(pack: Callable) -> None:
    """Oracle: worked out by hand."""
    sequences = [[7, 8, 1, 5, 9], [7, 8, 2, 5, 9], [7, 8, 1, 6, 9], [7, 8, 1, 5, 9]]
    tree = pack(sequences, [3, 3, 3, 3], 4)
    assert tree.shared.tolist() == [7, 8]
    assert tree.node_tokens.tolist() == [1, 5, 6, 2, 5]
    assert tree.node_position.tolist() == [2, 3, 3, 2, 3]
    assert tree.node_exit.tolist() == [3, 2, 3, 2, 2]
    assert tree.block_offsets.tolist() == [0, 3, 5]
    assert tree.scored_node.tolist() == [0, 1, 3, 4, 0, 2, 0, 1]
    assert tree.scored_targets.tolist() == [5, 9, 5, 9, 6, 9, 5, 9]
    assert (tree.pair_node.tolist(), tree.pair_target.tolist()) == ([0, 0, 1, 2, 3, 4], [5, 6, 9, 9, 5, 9])
    assert tree.pair_of_scored.tolist() == [0, 2, 4, 5, 1, 3, 0, 2]
    assert (tree.num_input_tokens, tree.num_distinct_tokens, tree.num_computed_tokens) == (20, 10, 7)


@pytest.mark.parametrize(
    ("sequences", "first_scored", "shared", "nodes"),
    [
        pytest.param([[3, 4, 5]], [2], [3], [4], id="one"),
        pytest.param([[3, 4]], [1], [], [3], id="shortest"),
        pytest.param([[3, 4, 5]] * 5, [2] * 5, [3], [4], id="identical"),
        pytest.param([[3, 4], [3, 4, 5, 6]], [1, 2], [], [3, 4, 5], id="prefix of another"),
        pytest.param([[1, 2], [2, 2]], [1, 1], [], [1, 2], id="nothing shared"),
        pytest.param([[1, 2, 3], [1, 2, 3]], [1, 2], [], [1, 2], id="different prompts, equal tokens"),
    ],
)
def test_edges(pack: Callable, sequences: list, first_scored: list, shared: list, nodes: list) -> None:
    """Oracle: worked out by hand."""
    tree = pack(sequences, first_scored, 100)
    assert tree.shared.tolist() == shared
    assert tree.node_tokens.tolist() == nodes


def test_long_sequence_has_its_own_block(pack: Callable) -> None:
    """Oracle: the rule that a suffix beyond the capacity stands alone."""
    tree = pack([[1, 2, 3], [5] * 10 + [6], [7, 8, 9]], [1, 1, 1], 3)
    assert np.diff(tree.block_offsets).tolist() == [2, 10, 2]


def test_arrays_are_views_that_keep_the_tree_alive(pack: Callable) -> None:
    """Oracle: numpy's own account of who owns the memory, and the dtypes of the contract."""
    tree = pack([[1, 2, 3], [1, 2, 4]], [2, 2], 10)
    for name in (*INT64_ARRAYS, "node_exit"):
        array = getattr(tree, name)
        assert array.dtype == (np.int64 if name in INT64_ARRAYS else np.int32), name
        assert array.ndim == 1
        with pytest.raises(AttributeError):
            setattr(tree, name, array)
    nodes = tree.node_tokens
    del tree
    assert nodes.tolist() == [2]


@pytest.mark.parametrize(
    ("tokens", "offsets", "first_scored", "max_nodes", "message"),
    [
        ([1, 2], [0, 2], [1], 0, "max_nodes"),
        ([1, 2], [0, 2], [], 9, "first_scored is empty"),
        ([1, 2], [0, 1, 2], [1], 9, "one element more"),
        ([1, 2], [1, 2], [1], 9, "start at 0"),
        ([1, 2], [0, 3], [1], 9, "end at the number of tokens, 2"),
        ([1, 2, 3, 4], [0, 5, 2, 4], [1, 1, 1], 9, "decrease; they do at sequence 1"),
        ([1, 2, 3], [0, 1, 3], [1, 1], 9, "sequence 0 needs at least 2 tokens"),
        ([1, 2, 3], [0, 3], [0], 9, "sequence 0 must be from 1 to its length - 1, 2"),
        ([1, 2, 3], [0, 3], [3], 9, "sequence 0 must be from 1 to its length - 1, 2"),
        ([1, -2, 3], [0, 3], [1], 9, "tokens must be >= 0, not -2"),
        ([[1, 2]], [0, 2], [1], 9, "tokens must have one dimension"),
    ],
)
def test_bad_input(tokens: list, offsets: list, first_scored: list, max_nodes: int, message: str) -> None:
    """Oracle: the documented refusals; nothing is built."""
    arrays = (np.array(values, np.int64) for values in (tokens, offsets, first_scored))
    with pytest.raises(ValueError, match=message):
        _native.TokenTree(*arrays, max_nodes)


def test_floats_are_refused() -> None:
    """Oracle: the documented type; a cast would silently cut token ids."""
    with pytest.raises(TypeError):
        _native.TokenTree(np.array([1.5, 2.0]), np.array([0, 2]), np.array([1]), 9)
