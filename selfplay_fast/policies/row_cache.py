"""Keys and values of the contexts that are being extended, and the step that extends all of them by one token.

Token j of a context lies in column j of its row. Buffers have room for more rows and more columns, so a new token is
written where it belongs and nothing else moves; rows that join are written behind the last one.

A step's shape is that of the rows there are, or the next of a few shapes (``static``): then a step has no shape of its
own, and on a GPU each is captured once as a CUDA graph and replayed. Both are the same code; rows too many are computed
and thrown away.

Legend: C rows and W columns that there is room for; B rows and L columns of a step; A rows in use; V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from selfplay_fast.policies.prefix_forward import Cache as KeysValues

_LEAST = 8, 256  # rows and columns of the smallest static shape
_ROOM = 64  # columns that are made in advance, at least


class _Rows(CacheLayerMixin):
    """One layer: a step's new token of row r is written where ``place`` says."""

    is_sliding = False
    keys: Tensor  # [C, heads, W, dim]
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.place: Tensor  # [B * heads] int64: the slot of every head of every row, all slots in one line
        self.rows = self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            buffer.view(-1, buffer.shape[-1]).index_copy_(0, self.place, states[:, :, 0].flatten(0, 1))
        return self.keys[: self.rows, :, : self.length], self.values[: self.rows, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length, 0

    def get_seq_length(self) -> int:
        return self.length - 1

    def get_max_length(self) -> int:
        return -1


class RowCache:
    """The rows of one model, rows times columns at most ``max_tokens`` unless one step needs more (`slots`).

    ``static`` pads steps to few shapes, ``graphs`` captures each of them (CUDA only).
    """

    def __init__(self, model: Any, max_tokens: int, *, static: bool = False, graphs: bool = False) -> None:
        self.model, self.max_tokens = model, max_tokens
        self.static, self.graphs = static or graphs, graphs
        self.lengths = np.zeros(0, np.int64)  # [A] tokens of each row
        self._cache: Any = None
        self._steps: dict[tuple[int, int], _Step] = {}
        self._weights_at: object = None
        self._pool: Any = None

    def slots(self, rows: int, width: int) -> int:
        """Rows times columns that so many rows of this width take, padding counted."""
        return math.prod(self._shape(rows, width))

    def _shape(self, rows: int, width: int) -> tuple[int, int]:
        return (_static(rows, _LEAST[0]), _static(width, _LEAST[1])) if self.static else (rows, width)

    def begin(self, weights_at: object) -> None:
        """No rows; the room stays, and so do captured steps as long as the weights are where they were."""
        self.clear()
        if weights_at != self._weights_at:
            self._drop_steps()
            self._weights_at = weights_at

    def clear(self) -> None:
        """No rows; the room stays."""
        self.lengths = np.zeros(0, np.int64)

    def add(
        self,
        cache: KeysValues,
        columns: Sequence[NDArray[np.int64]],
        room: tuple[int, int] = (0, 0),
    ) -> None:
        """Rows behind the others: token j of new row r is at [r, :, columns[r][j]] of keys and values of ``cache``.

        ``room`` is for so many rows and columns in all, which will be needed soon.
        """
        lengths = np.array([len(own) for own in columns], np.int64)
        first, longest = len(self.lengths), int(lengths.max())
        if self._cache is None:
            self._cache = Cache(layers=[_Rows(*(part[:0, :, :0] for part in pair)) for pair in cache])
        self._reserve(max(first + len(columns), room[0]), max(longest, room[1]))
        index = np.zeros((len(columns), longest), np.int64)  # what lies behind a row's end is never looked at
        for row, own in enumerate(columns):
            index[row, : len(own)] = own
        rows, heads, width, _ = cache[0][0].shape
        start = np.arange(rows * heads).reshape(rows, heads, 1) * width  # of each head, all in one line
        place = torch.from_numpy((start + index[:, None]).ravel()).to(cache[0][0].device)
        for layer, pair in zip(self._cache.layers, cache, strict=True):
            for buffer, part in zip((layer.keys, layer.values), pair, strict=True):
                taken = part.flatten(0, 2).index_select(0, place).view(rows, heads, longest, -1)
                buffer[first : first + rows, :, :longest] = taken
        self.lengths = np.concatenate([self.lengths, lengths])

    def arrange(self, parents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows become copies of rows ``parents`` (sorted; those not named go); the row where each copy now is.

        A row stays where it is if it can, so what is moved are copies beyond the first and rows that fill holes.
        """
        count = len(parents)
        if count == len(self.lengths) and (parents == np.arange(count)).all():
            return parents
        stays = np.append(True, parents[1:] != parents[:-1])[:count] & (parents < count)
        place = parents.copy()
        free = np.ones(count, bool)
        free[parents[stays]] = False
        place[~stays] = np.flatnonzero(free)
        lengths = np.empty(count, np.int64)
        lengths[place] = self.lengths[parents]
        named = np.zeros(int(parents[-1]) + 1, np.int64)
        named[parents] = self.lengths[parents]
        self.lengths = named  # the others need no room
        moved = np.flatnonzero(~stays)
        if len(moved):
            width = int(self.lengths[parents[moved]].max())
            self._reserve(count, width)
            device = self._cache.layers[0].keys.device
            source, target = (torch.from_numpy(x[moved]).to(device) for x in (parents, place))
            for layer in self._cache.layers:
                for buffer in (layer.keys, layer.values):
                    part = buffer[:, :, :width]
                    part.index_copy_(0, target, part.index_select(0, source))
        self.lengths = lengths
        return place

    def layers(self) -> KeysValues:
        """Keys and values [C, heads, W, dim] by layer."""
        return [(layer.keys, layer.values) for layer in self._cache.layers]

    def extend(self, tokens: NDArray[np.int64]) -> Tensor:
        """Row r gets token ``tokens[r]``; logits [A, V] of what comes next."""
        count, longest = len(tokens), int(self.lengths.max()) + 1
        self._reserve(count, longest)
        inputs = np.empty((2, count), np.int64)
        inputs[0], inputs[1] = tokens, self.lengths
        self.lengths = self.lengths + 1
        if not self.static:
            return _forward(self.model, self._cache, torch.from_numpy(inputs).to(self.model.device), longest)
        shape = self._shape(count, longest)
        if shape not in self._steps:
            self._steps[shape] = _Step(self.model, self._cache, shape, self._graph_pool())
        step = self._steps[shape]
        step.inputs[:, :count] = torch.from_numpy(inputs).to(step.inputs.device)
        step.inputs[:, count:] = 0
        return step()[:count]

    def _drop_steps(self) -> None:
        self._steps.clear()
        self._pool = None  # memory that no graph uses any more is gone

    def _graph_pool(self) -> Any:
        """Memory that all captured steps share, one of which runs at a time; None where none is captured."""
        if self.graphs and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def _reserve(self, rows: int, width: int) -> None:
        """Have room, for the rows in use too. Columns that are added are a quarter more than needed, or what
        ``max_tokens`` leaves; where the most rows and the most columns so far exceed it, only what is needed stays."""
        old_rows, _, old_width, _ = self._cache.layers[0].keys.shape
        used = len(self.lengths), int(self.lengths.max(initial=0))
        needed = self._shape(max(rows, used[0]), max(width, used[1]))
        rows, width = max(needed[0], old_rows), max(needed[1], old_width)
        if rows * width > max(self.max_tokens, math.prod(needed)):
            rows, width = needed
        if (rows, width) == (old_rows, old_width):
            return
        if width != old_width and not self.static:
            width += max(0, min(self.max_tokens // rows - width, max(_ROOM, width // 4)))
        for layer in self._cache.layers:  # one after another: old and new are there together
            layer.keys, layer.values = (_grown(part, rows, width) for part in (layer.keys, layer.values))
        self._drop_steps()


class _Step:
    """One shape's step. ``inputs`` [2, B] int64: the token of each row, and how many came before it."""

    def __init__(self, model: Any, cache: Any, shape: tuple[int, int], pool: Any) -> None:
        self.model, self.cache = model, cache
        rows, self.length = shape
        self.inputs = torch.zeros(2, rows, dtype=torch.int64, device=model.device)
        self.graph: Any = None
        self.pool = pool  # of graphs; None: the step is not captured
        self.logits: Tensor

    def __call__(self) -> Tensor:
        """Logits [B, V]; those of a captured step are overwritten by the next."""
        if self.pool is None:
            return self._forward()
        if self.graph is None:
            self._capture()
        self.graph.replay()
        return self.logits

    def _forward(self) -> Tensor:
        return _forward(self.model, self.cache, self.inputs, self.length)

    def _capture(self) -> None:
        """Run on a side stream until all is allocated, then record; running it again writes the same."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._forward()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=self.pool):
            self.logits = self._forward()


def _forward(model: Any, cache: Any, inputs: Tensor, length: int) -> Tensor:
    """inputs [2, B] as those of a step, L = ``length`` columns -> logits [B, V]."""
    tokens, columns = inputs
    places: dict[tuple[int, int], Tensor] = {}
    for layer in cache.layers:
        _, heads, width, _ = layer.keys.shape
        if (heads, width) not in places:
            first = torch.arange(0, len(tokens) * heads * width, width, device=inputs.device)
            places[heads, width] = (first.view(-1, heads) + columns[:, None]).flatten()
        layer.place, layer.rows, layer.length = places[heads, width], len(tokens), length
    mask = torch.arange(length, device=inputs.device) <= columns[:, None]
    output = model(
        input_ids=tokens[:, None],
        attention_mask=mask[:, None, None],
        position_ids=columns[:, None],
        past_key_values=cache,
        use_cache=True,
    )
    logits: Tensor = output.logits[:, -1]
    return logits


def _grown(part: Tensor, rows: int, width: int) -> Tensor:
    part = part[:rows, :, :width]
    larger = part.new_empty(rows, part.shape[1], width, part.shape[3])
    larger[: part.shape[0], :, : part.shape[2]] = part
    larger[: part.shape[0], :, part.shape[2] :] = 0  # what a mask hides must be finite
    larger[part.shape[0] :] = 0
    return larger


def _static(size: int, least: int) -> int:
    """The next power of two, or ``least``."""
    return max(least, 1 << (size - 1).bit_length())
