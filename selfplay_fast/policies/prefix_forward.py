"""Run a causal model once per distinct token of many sequences that share prefixes.

Sequences are split into groups with a long common prefix (`prefix_groups`). In each group the common prefix is
computed once, its keys and values are expanded, and the rest is packed into blocks of a prefix tree whose mask
"j is an ancestor of i" is `j <= i < exit[j]` (`TokenTree`). `prefix_hidden` yields the hidden states that predict
each distinct (context, target) pair; gradients equal those of independent sequences.

Legend: N sequences, P shared prefix, R blocks, C nodes of the longest block, U distinct scored pairs, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from selfplay_fast._native import TokenTree, tree_mask
from selfplay_fast.records import IntArray

Cache = list[tuple[Tensor, Tensor]]  # keys, values [rows, heads, length, dim] by layer

_SPLIT_GAIN = 256  # tokens a split must save to be worth two more forward passes


def common_prefix(a: IntArray, b: IntArray) -> int:
    """Number of leading tokens that two arrays share."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


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


def prefill(model: Any, tokens: NDArray[np.integer[Any]]) -> Cache:
    """Keys and values of one prefix, differentiable."""
    ids = torch.as_tensor(tokens.astype(np.int64), device=model.device)[None]
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


def block_batches(tree: TokenTree, max_tokens: int) -> list[tuple[int, int]]:
    """Runs of blocks (start, stop) that fit ``max_tokens``; each block holds a copy of the shared prefix."""
    return runs(np.diff(tree.block_offsets) + len(tree.shared), max_tokens)


def run_blocks(model: Any, tree: TokenTree, prefix: Cache, run: tuple[int, int]) -> HiddenBlock:
    """One forward pass over blocks ``run`` after the shared prefix."""
    start, stop = run
    offsets = tree.block_offsets[start : stop + 1]
    rows, width = stop - start, int(np.diff(offsets).max())
    nodes = slice(int(offsets[0]), int(offsets[-1]))
    sizes = np.diff(offsets)
    row = np.repeat(np.arange(rows), sizes)
    column = np.arange(nodes.stop - nodes.start) - np.repeat(offsets[:-1] - offsets[0], sizes)
    ids = np.zeros((rows, width), np.int64)
    positions = np.zeros((rows, width), np.int64)
    ids[row, column] = tree.node_tokens[nodes]
    positions[row, column] = tree.node_position[nodes]
    mask = tree_mask(tree.node_exit, offsets, len(tree.shared), width)  # bool [R, C, P + C]
    device = model.device
    hidden = backbone(model)(
        input_ids=torch.as_tensor(ids, device=device),
        position_ids=torch.as_tensor(positions, device=device),
        attention_mask=torch.as_tensor(mask, device=device)[:, None],
        past_key_values=expand_cache(model, prefix, rows),
        use_cache=True,
    ).last_hidden_state
    first, last = np.searchsorted(tree.pair_node, [nodes.start, nodes.stop])
    local = tree.pair_node[first:last] - nodes.start
    flat = torch.as_tensor(row[local] * width + column[local], device=device)
    return HiddenBlock(hidden=hidden.flatten(0, 1)[flat], pairs=slice(int(first), int(last)))


def prefix_hidden(model: Any, tree: TokenTree, max_tokens: int) -> Iterator[HiddenBlock]:
    """All distinct scored pairs of a tree, block run by block run (for use without gradients)."""
    prefix = prefill(model, tree.shared) if len(tree.shared) else []
    for run in block_batches(tree, max_tokens):
        yield run_blocks(model, tree, prefix, run)
