"""Run a causal model once per distinct token of many sequences that share prefixes.

`prefix_trees` packs sequences into trees: what all of a tree share is computed once, and its keys and values are
expanded; the rest lies in blocks whose mask "j is an ancestor of i" is `j <= i < exit[j]` (`TokenTree`). Which
sequences lie in a tree and how large its blocks are follow from the attention that runs it (`Attention`).
`prefix_hidden` yields the hidden states that predict each distinct (context, target) pair; gradients equal those of
independent sequences.

Legend: N sequences, P shared prefix, R blocks, C nodes of the longest block, U distinct scored pairs, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from selfplay_fast._native import TokenTree, tree_mask
from selfplay_fast.policies.flops import Passes
from selfplay_fast.policies.tree_attention import tree_block_mask
from selfplay_fast.records import IntArray

Cache = list[tuple[Tensor, Tensor]]  # keys, values [rows, heads, length, dim] by layer

# flex: FlexAttention over blocks as large as a micro-batch. dense: many small blocks side by side, each with its whole
# mask. rows: every distinct sequence by itself and no mask, for layers that look at places and not at ancestors.
Attention = Literal["flex", "dense", "rows"]

_SPLIT_GAIN = 256  # tokens a split must save to be worth two more forward passes


def common_prefix(a: IntArray, b: IntArray) -> int:
    """Number of leading tokens that two arrays share."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length


def prefix_groups(sequences: Sequence[IntArray]) -> list[NDArray[np.int64]]:
    """Split sequences into groups whose shared prefix is worth computing apart; indices, sorted by content.

    A group is cut where its neighbours share least, as long as the cut saves more than `_SPLIT_GAIN` tokens.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].astype(">u4").tobytes())
    shared = [common_prefix(sequences[a], sequences[b]) for a, b in pairwise(order)]
    groups: list[NDArray[np.int64]] = []
    pending = [(0, len(order))]
    while pending:
        start, stop = pending.pop()
        if stop - start < 2:
            groups.append(np.array(order[start:stop], np.int64))
            continue
        inner = shared[start : stop - 1]
        cut = start + 1 + int(np.argmin(inner))
        here = min(inner)
        left = min(shared[start : cut - 1], default=len(sequences[order[start]]))
        right = min(shared[cut : stop - 1], default=len(sequences[order[cut]]))
        gain = (left - here) * (cut - start - 1) + (right - here) * (stop - cut - 1)
        if gain > _SPLIT_GAIN:
            pending += [(cut, stop), (start, cut)]
        else:
            groups.append(np.array(order[start:stop], np.int64))
    return groups


def build_tree(sequences: Sequence[IntArray], first_scored: Sequence[int], max_nodes: int) -> TokenTree:
    """The prefix tree of sequences [N]; sequence n scores its tokens from ``first_scored[n]`` on."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.concatenate(sequences).astype(np.int64)
    return TokenTree(tokens, offsets, np.asarray(first_scored, np.int64), max_nodes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrefixTree:
    """The sequences ``index`` [N] of a batch as one tree, and the attention that runs it."""

    index: NDArray[np.int64]
    nodes: TokenTree
    attention: Attention

    @property
    def computed_tokens(self) -> int:
        """Tokens that the model runs over, padding not counted."""
        rows = len(self.nodes.block_offsets) - 1 if self.attention == "rows" else 1
        return len(self.nodes.shared) * rows + len(self.nodes.node_tokens)

    @property
    def passes(self) -> Passes:
        """One pass over the tree, padding not counted; each pair of context and target has its row of logits."""
        shared = len(self.nodes.shared)
        rows = len(self.nodes.block_offsets) - 1 if self.attention == "rows" else 1
        pairs = (
            rows * shared * (shared + 1) // 2
            + int(self.nodes.node_position.sum())
            + len(self.nodes.node_tokens)
        )
        return Passes(self.computed_tokens, pairs, len(self.nodes.pair_node))


def prefix_trees(
    sequences: Sequence[IntArray],
    first_scored: Sequence[int],
    attention: Attention,
    *,
    block_tokens: int,
    max_tokens: int,
) -> list[PrefixTree]:
    """Trees that hold every sequence once; sequence n scores its tokens from ``first_scored[n]`` on.

    A pass of `run_blocks` over at most ``max_tokens`` slots will do; ``block_tokens`` are the nodes of a dense block.
    No sequences, no trees.
    """
    if not len(sequences):
        return []
    if attention == "flex":
        groups, capacity = [np.arange(len(sequences))], max_tokens
    elif attention == "dense":
        groups, capacity = prefix_groups(sequences), block_tokens
    else:
        groups, capacity = _groups_by_length(sequences, max_tokens), 1
    return [
        PrefixTree(
            index=index,
            nodes=build_tree(
                [sequences[i] for i in index.tolist()], [first_scored[i] for i in index.tolist()], capacity
            ),
            attention=attention,
        )
        for index in groups
    ]


def _groups_by_length(sequences: Sequence[IntArray], max_tokens: int) -> list[NDArray[np.int64]]:
    """Sequences of like length, equal ones together, as many as make one pass."""
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), sequences[i].tobytes()))
    lengths = np.array([len(sequences[i]) for i in order], np.int64)
    return [np.array(order[start:stop], np.int64) for start, stop in runs(lengths, max_tokens)]


def backbone(model: Any) -> Any:
    """The model without its head: input ids -> last hidden state."""
    return model.base_model


def head_weight(model: Any) -> Tensor:
    """The output embedding [V, H]."""
    return model.get_output_embeddings().weight


def expand_cache(model: Any, prefix: Cache, rows: int) -> DynamicCache:
    """A cache in which each of ``rows`` sequences starts after the same prefix."""
    cache = DynamicCache(config=model.config)
    for layer, (keys, values) in enumerate(prefix):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


def shared_cache(model: Any, tree: PrefixTree) -> Cache:
    """Keys and values of what all sequences share, differentiable; none where every row holds it itself."""
    if tree.attention == "rows" or not len(tree.nodes.shared):
        return []
    ids = torch.as_tensor(tree.nodes.shared, device=model.device)[None]
    cache: Any = DynamicCache(config=model.config)
    backbone(model)(input_ids=ids, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


@dataclass(frozen=True, kw_only=True, slots=True)
class HiddenBlock:
    """hidden [U', H] that predicts the distinct pairs ``pairs`` (a slice of the tree's pair arrays)."""

    hidden: Tensor
    pairs: slice


def runs(sizes: NDArray[np.integer[Any]], max_tokens: int) -> list[tuple[int, int]]:
    """Runs of rows (start, stop) that fit ``max_tokens`` slots, padded to their widest; at least one row each."""
    result, start, widest = [], 0, 0
    for stop, size in enumerate(sizes.tolist()):
        widest = max(widest, size)
        if stop > start and widest * (stop + 1 - start) > max_tokens:
            result.append((start, stop))
            start, widest = stop, size
    if len(sizes):
        result.append((start, len(sizes)))
    return result


def block_batches(tree: PrefixTree, max_tokens: int) -> list[tuple[int, int]]:
    """Runs of blocks (start, stop) that fit ``max_tokens``; each block holds a copy of the shared prefix."""
    sizes = np.diff(tree.nodes.block_offsets)
    if tree.attention == "flex":
        return list(pairwise(range(len(sizes) + 1)))
    return runs(sizes + len(tree.nodes.shared), max_tokens)


def run_blocks(model: Any, tree: PrefixTree, prefix: Cache, run: tuple[int, int]) -> HiddenBlock:
    """One forward pass over blocks ``run`` after the shared prefix."""
    nodes, device = tree.nodes, model.device
    offsets = nodes.block_offsets[run[0] : run[1] + 1]
    sizes = np.diff(offsets)
    begin, end = int(offsets[0]), int(offsets[-1])
    own = nodes.shared if tree.attention == "rows" else nodes.shared[:0]  # at the start of every row
    rows, width = len(sizes), len(own) + int(sizes.max())
    row = np.repeat(np.arange(rows), sizes)
    column = len(own) + np.arange(end - begin) - np.repeat(offsets[:-1] - begin, sizes)
    ids = np.zeros((rows, width), np.int64)
    ids[:, : len(own)] = own
    ids[row, column] = nodes.node_tokens[begin:end]
    inputs: dict[str, Any] = {"input_ids": torch.as_tensor(ids, device=device), "use_cache": False}
    if tree.attention != "rows":
        positions = np.zeros((rows, width), np.int64)
        positions[row, column] = nodes.node_position[begin:end]
        inputs["position_ids"] = torch.as_tensor(positions, device=device)
        inputs["attention_mask"] = _mask(tree, offsets, width, device)
        inputs |= {"past_key_values": expand_cache(model, prefix, rows), "use_cache": True}
    hidden = backbone(model)(**inputs).last_hidden_state
    first, last = np.searchsorted(nodes.pair_node, [begin, end])
    local = nodes.pair_node[first:last] - begin
    flat = torch.as_tensor(row[local] * width + column[local], device=device)
    return HiddenBlock(hidden=hidden.flatten(0, 1)[flat], pairs=slice(int(first), int(last)))


def _mask(tree: PrefixTree, offsets: NDArray[np.int64], width: int, device: torch.device) -> Any:
    """Who attends to whom in these blocks: bool [R, 1, C, P + C], or the same of one block as a BlockMask."""
    exits, shared = tree.nodes.node_exit, len(tree.nodes.shared)
    if tree.attention == "flex":
        assert len(offsets) == 2
        return tree_block_mask(exits[offsets[0] : offsets[1]], shared, device)
    return torch.as_tensor(tree_mask(exits, offsets, shared, width), device=device)[:, None]


def prefix_hidden(model: Any, tree: PrefixTree, max_tokens: int) -> Iterator[HiddenBlock]:
    """All distinct scored pairs of a tree, block run by block run (for use without gradients)."""
    prefix = shared_cache(model, tree)
    for run in block_batches(tree, max_tokens):
        yield run_blocks(model, tree, prefix, run)
