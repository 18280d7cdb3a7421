"""Trees of sequences and what runs through the model. Oracles: sets of prefixes, and hooks on the model."""

import numpy as np
import pytest
import torch

from selfplay_fast.policies.prefix_forward import Attention, prefix_hidden, prefix_trees


def random_sequences(rng):
    """Two families with long common starts, branches of all lengths, some sequences twice; token 0 is nowhere."""
    starts = [rng.integers(3, 300, size).astype(np.int32) for size in (90, 60)]
    ends = [rng.integers(3, 5, rng.integers(2, 30)).astype(np.int32) for _ in range(40)]
    sequences = [np.concatenate([starts[i % 2], end]) for i, end in enumerate(ends)]
    return sequences + sequences[:5]


def trie_size(sequences):
    """Distinct prefixes that a model must read: the last token of a sequence is only predicted."""
    return len({tuple(s[:end]) for s in map(np.ndarray.tolist, sequences) for end in range(1, len(s))})


@torch.no_grad()
def computed(policy, trees, max_tokens):
    """Tokens that run through the model, padding (token 0) not counted, and the slots of its largest pass."""
    tokens, slots = [], []

    def note(module, args, kwargs):
        tokens.append(int((kwargs["input_ids"] != 0).sum()))
        slots.append(kwargs["input_ids"].numel())

    handle = policy.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    for tree in trees:
        list(prefix_hidden(policy.model, tree, max_tokens))
    handle.remove()
    return sum(tokens), max(slots)


@pytest.mark.parametrize("attention", ["flex", "dense", "rows"])
def test_no_sequences_no_trees(attention):
    """Oracle: the contract; a rank may have nothing to learn from."""
    assert prefix_trees([], [], attention, block_tokens=8, max_tokens=100) == []


@pytest.mark.parametrize("block_tokens", [8, 32, 4096])
def test_micro_batches_keep_what_is_shared(toy_policy, block_tokens):
    """Whatever the micro-batches, the model reads the same tokens: no node twice, every stem once.

    Oracle: distinct prefixes; blocks of 4,096 nodes read each once, small ones again at most one path for each block.
    """
    sequences = random_sequences(np.random.default_rng(0))
    first = [len(s) - 1 for s in sequences]
    counts, largest = [], []
    for max_tokens in (1, 100, 1000, 1 << 20):
        trees = prefix_trees(sequences, first, "dense", block_tokens=block_tokens, max_tokens=max_tokens)
        tokens, slots = computed(toy_policy, trees, max_tokens)
        counts.append(tokens)
        largest.append(slots)
        assert tokens == sum(tree.computed_tokens for tree in trees)
    assert len(set(counts)) == 1
    assert largest == sorted(largest)
    assert largest[0] < largest[-1] or block_tokens == 4096
    blocks = sum(len(tree.nodes.block_offsets) - 1 for tree in trees)
    assert trie_size(sequences) <= counts[0] <= trie_size(sequences) + 30 * (blocks - len(trees))
    assert sum(map(len, sequences)) > 3 * counts[0]


@pytest.mark.parametrize("max_tokens", [1, 64, 128, 400, 1 << 20])
def test_flex_cuts_between_sequences_only(max_tokens):
    """Oracle: each micro-batch reads the distinct prefixes of its own sequences, found in the tree by their tokens."""
    sequences = random_sequences(np.random.default_rng(0))
    first = [len(s) - 1 for s in sequences]
    (tree,) = prefix_trees(sequences, first, "flex", block_tokens=1, max_tokens=max_tokens)
    nodes = tree.nodes
    assert not len(nodes.shared)
    block_of = (
        np.searchsorted(nodes.block_offsets, nodes.scored_node[nodes.scored_offsets[:-1]], side="right") - 1
    )
    for block, size in enumerate(np.diff(nodes.block_offsets).tolist()):
        inside = [sequences[i] for i in np.flatnonzero(block_of == block)]
        assert size == trie_size(inside)
        assert size <= max_tokens or len({tuple(s[:-1].tolist()) for s in inside}) == 1
    if max_tokens == 1 << 20:
        assert tree.computed_tokens == trie_size(sequences)


@pytest.mark.parametrize("max_tokens", [1, 200, 1 << 20])
def test_rows_run_once_and_little_padded(toy_policy, max_tokens):
    """Oracle: all prefixes of distinct sequences, counted by a hook; passes are bounded or hold a single row."""
    sequences = random_sequences(np.random.default_rng(0))
    trees = prefix_trees(sequences, [60] * len(sequences), "rows", block_tokens=1, max_tokens=max_tokens)
    assert sorted(np.concatenate([tree.index for tree in trees]).tolist()) == list(range(len(sequences)))
    tokens, slots = computed(toy_policy, trees, max_tokens)
    distinct = {s.tobytes() for s in sequences} if max_tokens == 1 << 20 else sequences
    longest = max(map(len, sequences))
    assert tokens == sum(tree.computed_tokens for tree in trees)
    assert tokens <= sum(len(s) - 1 for s in sequences)
    if max_tokens == 1 << 20:
        assert tokens == sum(len(s) // 4 - 1 for s in {s.tobytes() for s in sequences})
    assert slots <= max(max_tokens, longest)
    assert len(distinct) >= len(trees)


@pytest.mark.parametrize("attention", ["dense", "rows"])
@torch.no_grad()
def test_a_branch_does_not_see_its_siblings(toy_policy, attention: Attention):
    """Other tokens in one branch leave the hidden states of the others as they are, to the last bit; the stem does not.

    Oracle: the same tree before, laid out alike.
    """
    rng = np.random.default_rng(0)
    stem, a, b, c = (rng.integers(10, 300, size).astype(np.int32) for size in (20, 9, 9, 9))
    a[0], b[0], c[0] = 3, 5, 4  # c lies between them

    def hidden(stem, c):
        sequences = [np.concatenate([stem, end]) for end in (a, b, c)]
        trees = prefix_trees(sequences, [21] * 3, attention, block_tokens=128, max_tokens=1 << 16)
        (tree,) = trees
        states = torch.cat([block.hidden for block in prefix_hidden(toy_policy.model, tree, 1 << 16)])
        by_token = states[torch.as_tensor(tree.nodes.pair_of_scored)]
        parts = by_token.split(np.diff(tree.nodes.scored_offsets).tolist())
        return [parts[tree.index.tolist().index(n)] for n in range(3)]

    before = hidden(stem, c)
    other = c.copy()
    other[1:] = rng.integers(10, 300, 8)
    after = hidden(stem, other)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[2], after[2], atol=1e-3)
    moved = stem.copy()
    moved[3] = 7
    assert not torch.allclose(before[0], hidden(moved, c)[0], atol=1e-4)
