"""Keys and values of contexts, kept between calls: what a later prompt begins with is not computed again.

Contexts lie in a radix tree of their tokens (Zheng et al. 2024, arXiv 2312.07104), so what several of them share is
there once; the least recently used ends make room for others.

Legend: S slots of the pool, one a token; R rows; L tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfplay_fast.policies.prefix_forward import Cache, common_prefix
from selfplay_fast.records import IntArray

Slots = NDArray[np.int64]

_FIRST_ROOM = 4096  # slots of a new pool


@dataclass(slots=True, eq=False)
class _Node:
    """A run of tokens that contexts share, and where their keys and values are."""

    tokens: IntArray
    slots: Slots
    parent: _Node | None
    used: int = 0
    children: dict[int, _Node] = field(default_factory=dict)


class PrefixStore:
    """Keys and values of at most ``max_tokens`` tokens, which may change; what is there stays."""

    def __init__(self, max_tokens: int = 0) -> None:
        self.max_tokens = max_tokens
        self.clear()

    def clear(self) -> None:
        """Forget everything, and give the memory back."""
        self._root = _Node(np.empty(0, np.int32), np.empty(0, np.int64), None)
        self._pool: Cache = []  # keys, values [S, heads, dim] by layer
        self._free = np.empty(0, np.int64)
        self._room = 0
        self._clock = 0

    @property
    def tokens(self) -> int:
        """How many are stored."""
        return self._room - len(self._free)

    def match(self, context: IntArray) -> Slots:
        """The slots of the longest stored prefix."""
        self._clock += 1
        path = list(self._walk(context))
        return np.concatenate([node.slots[:count] for node, count in path]) if path else self._root.slots

    def _walk(self, context: IntArray) -> Iterator[tuple[_Node, int]]:
        """The nodes that a context runs through, and how many tokens of each it has."""
        node, place = self._root, 0
        while place < len(context):
            child = node.children.get(int(context[place]))
            if child is None:
                return
            count = common_prefix(child.tokens, context[place:])
            child.used = self._clock
            yield child, count
            if count < len(child.tokens):
                return
            node, place = child, place + count

    def gather(self, found: Sequence[Slots]) -> Cache:
        """Keys and values [R, heads, L, dim] by layer, aligned at their ends; what lies before them means nothing."""
        longest = max(map(len, found))
        index = np.zeros((len(found), longest), np.int64)
        for row, slots in enumerate(found):
            index[row, longest - len(slots) :] = slots
        if not self._pool:
            return []
        place = torch.from_numpy(index.ravel()).to(self._pool[0][0].device)
        shape = (*index.shape, *self._pool[0][0].shape[1:])
        return [
            (
                keys.index_select(0, place).view(shape).transpose(1, 2),
                values.index_select(0, place).view(*shape[:3], -1).transpose(1, 2),
            )
            for keys, values in self._pool
        ]

    def put(self, contexts: Sequence[IntArray], cache: Cache, rows: Slots, columns: Sequence[Slots]) -> None:
        """Keep contexts: token j of contexts[i] is at [rows[i], :, columns[i][j]] of keys and values of ``cache``.

        Where there is no room, only their beginnings.
        """
        self._clock += 1
        row, column, slot = [], [], []
        for context, own, at in zip(contexts, rows.tolist(), columns, strict=True):
            start, slots = self._insert(context)
            row.append(np.full(len(slots), own, np.int64))
            column.append(at[start : start + len(slots)])
            slot.append(slots)
        if not self._pool:
            self._pool = [
                (keys.new_empty(0, *keys.shape[1::2]), values.new_empty(0, *values.shape[1::2]))
                for keys, values in cache
            ]
        if len(self._pool[0][0]) < self._room:
            for layer, (keys, values) in enumerate(
                self._pool
            ):  # one after another: old and new are there together
                self._pool[layer] = _grown(keys, self._room), _grown(values, self._room)
        device = cache[0][0].device
        r, c, s = (torch.from_numpy(np.concatenate(x)).to(device) for x in (row, column, slot))
        places: dict[torch.Size, Tensor] = {}
        for pair, source in zip(self._pool, cache, strict=True):
            for part, whole in zip(pair, source, strict=True):
                if whole.shape[:3] not in places:
                    places[whole.shape[:3]] = _place(whole, r, c)
                taken = whole.reshape(-1, whole.shape[3]).index_select(0, places[whole.shape[:3]])
                part.index_copy_(0, s, taken.view(-1, *part.shape[1:]))

    def _insert(self, context: IntArray) -> tuple[int, Slots]:
        """How much of a context was there already, and slots for what now follows."""
        path = list(self._walk(context))
        node, count = path[-1] if path else (self._root, 0)
        start = sum(count for _, count in path)
        slots = self._take(len(context) - start)
        if not len(slots):
            return start, slots
        if count < len(node.tokens):
            node = self._split(node, count)
        tokens = context[start : start + len(slots)].copy()
        node.children[int(tokens[0])] = _Node(tokens, slots, node, self._clock)
        return start, slots

    def _split(self, node: _Node, count: int) -> _Node:
        """The first ``count`` tokens of a node become its parent."""
        assert node.parent is not None
        upper = _Node(node.tokens[:count], node.slots[:count], node.parent, self._clock)
        node.parent.children[int(node.tokens[0])] = upper
        node.tokens, node.slots, node.parent = node.tokens[count:], node.slots[count:], upper
        upper.children[int(node.tokens[0])] = node
        return upper

    def _take(self, count: int) -> Slots:
        """Slots that are free, as many as wanted or as there can be."""
        if len(self._free) < count and self._room < self.max_tokens:
            room = min(self.max_tokens, max(2 * self._room, self._room + count, _FIRST_ROOM))
            self._free = np.concatenate([self._free, np.arange(self._room, room)])
            self._room = room
        if len(self._free) < count:
            self._evict(max(count, self.max_tokens // 8))
        slots, self._free = self._free[:count], self._free[count:]
        return slots

    def _evict(self, wanted: int) -> None:
        """Leaves that this call has not used, the least recently used first, until so many slots are free."""
        while len(self._free) < wanted:
            leaves = [node for node in self._nodes() if not node.children and node.used < self._clock]
            if not leaves:
                return
            freed = [self._free]
            missing = wanted - len(self._free)
            for node in sorted(leaves, key=lambda node: node.used):
                if missing <= 0:
                    break
                assert node.parent is not None
                del node.parent.children[int(node.tokens[0])]
                freed.append(node.slots)
                missing -= len(node.slots)
            self._free = np.concatenate(freed)

    def _nodes(self) -> Iterator[_Node]:
        pending = list(self._root.children.values())
        while pending:
            node = pending.pop()
            yield node
            pending += node.children.values()


def _place(whole: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Where each head of slots (row, column) [N] of ``whole`` [C, heads, W, dim] is, all slots in one line."""
    _, heads, width, _ = whole.shape
    head = torch.arange(heads, device=rows.device)
    return ((rows[:, None] * heads + head) * width + columns[:, None]).flatten()


def _grown(part: Tensor, room: int) -> Tensor:
    larger = part.new_empty(room, *part.shape[1:])
    larger[: len(part)] = part
    larger[len(part) :] = 0  # what a gap of a row shows must be finite
    return larger
