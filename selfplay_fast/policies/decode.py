"""Batched decoding in which rows with the same context share one forward pass.

Distinct prompts are prefilled once after their common prefix, then all are extended together; while rows have said
the same so far they are one row of the cache, and the cache splits where their samples part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from selfplay_fast.policies.prefix_forward import Cache as KeysValues
from selfplay_fast.policies.prefix_forward import common_prefix, expand_cache, prefill, runs
from selfplay_fast.policies.sampling import SamplingColumns, draw
from selfplay_fast.policies.streams import UIntArray, uniforms
from selfplay_fast.records import NO_LOGPROBS, NO_TOKENS, FloatArray, IntArray, Sampling

_ROOM = 64  # tokens a cache can grow before it is copied, at least


@dataclass(kw_only=True, slots=True)
class Row:
    """One sample in the making; ``recent``, its last tokens, is kept for rows with stop strings only."""

    prompt: int
    sampling: Sampling
    room: int  # tokens that still fit: max_tokens or the rest of the model's context
    tokens: IntArray = field(default_factory=lambda: NO_TOKENS)
    logprobs: FloatArray = field(default_factory=lambda: NO_LOGPROBS)
    recent: deque[int] = field(default_factory=deque)
    stopped: bool = False


class _RoomyLayer(DynamicLayer):
    """Keys and values at the start of buffers with room to grow: a new token is written, the old are not copied."""

    keys: Tensor
    values: Tensor
    buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        old = self.keys.shape[-2]
        length = old + key_states.shape[-2]
        buffers = self.buffers
        replaced = (
            buffers is None or self.keys.data_ptr() != buffers[0].data_ptr()
        )  # by what the base class does
        if buffers is None or replaced or buffers[0].shape[-2] < length:
            buffers = _with_room(self.keys, length), _with_room(self.values, length)
        for buffer, new in zip(buffers, (key_states, value_states), strict=True):
            buffer[..., old:length, :] = new
        self._view(buffers, length)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.keys.shape[-2]
        buffers = _with_room(self.keys, length, indices), _with_room(self.values, length, indices)
        self._view(buffers, length)

    def _view(self, buffers: tuple[Tensor, Tensor], length: int) -> None:
        self.buffers = buffers
        self.keys, self.values = buffers[0][..., :length, :], buffers[1][..., :length, :]


def _with_room(part: Tensor, length: int, rows: Tensor | None = None) -> Tensor:
    """A buffer for ``length`` tokens and some more that begins with ``part``, or with these rows of it; one copy."""
    count = len(part) if rows is None else len(rows)
    buffer = part.new_empty(count, *part.shape[1:-2], length + max(_ROOM, length // 4), part.shape[-1])
    start = buffer[..., : part.shape[-2], :]
    if rows is None:
        start.copy_(part)
    else:
        torch.index_select(part, 0, rows, out=start)
    return buffer


class _Frontier:
    """The distinct contexts being extended: logits [A, V], cache, attention mask [A, L], next positions [A].

    Prompts come in groups, each computed after its own common prefix; contexts are aligned at their ends.
    """

    def __init__(self, model: Any, groups: Sequence[Sequence[IntArray]], max_tokens: int) -> None:
        self.model = model
        self.cache: Any = Cache(layer_class_to_replicate=_RoomyLayer)
        lengths = np.array([len(prompt) for group in groups for prompt in group], np.int64)
        longest = int(lengths.max())
        parts = [part for group in groups for part in self._prefill(group, max_tokens)]
        self.logits = torch.cat([last for _, last in parts])
        for layer in range(len(parts[0][0])):
            pairs = [cache.pop(0) for cache, _ in parts]  # what is copied is not kept
            keys, values = (
                torch.cat([pad(part, (0, 0, longest - part.shape[-2], 0)) for part in column])
                for column in zip(*pairs, strict=True)
            )
            self.cache.update(keys, values, layer)
        missing = torch.as_tensor(longest - lengths, device=model.device)
        self.mask = (torch.arange(longest, device=model.device) >= missing[:, None]).long()
        self.positions = torch.as_tensor(lengths, device=model.device)

    def _prefill(self, prompts: Sequence[IntArray], max_tokens: int) -> Iterator[tuple[KeysValues, Tensor]]:
        """Keys and values, and last logits, of runs of prompts; each context is whole at its end.

        The prefix that all prompts share is computed once, then one pass runs over at most ``max_tokens`` slots.
        """
        shared = 0
        if len(prompts) > 1:
            shared = min(min(common_prefix(prompts[0], p) for p in prompts), min(len(p) for p in prompts) - 1)
        prefix = prefill(self.model, prompts[0][:shared]) if shared else []
        for start, stop in runs(np.array([len(p) for p in prompts]), max_tokens):
            yield self._prefill_run(prompts[start:stop], shared, prefix)

    def _prefill_run(
        self, prompts: Sequence[IntArray], shared: int, prefix: KeysValues
    ) -> tuple[KeysValues, Tensor]:
        device = self.model.device
        rows, longest = len(prompts), max(len(p) for p in prompts)
        ids = np.zeros((rows, longest - shared), np.int64)
        mask = np.ones((rows, longest), np.int64)
        for r, prompt in enumerate(prompts):
            gap = longest - len(prompt)
            ids[r, gap:] = prompt[shared:]
            mask[r, shared : shared + gap] = 0
        positions = (mask.cumsum(-1)[:, shared:] - 1).clip(min=0)
        cache: Any = expand_cache(self.model, prefix, rows)
        inputs, allowed, places = (torch.as_tensor(x, device=device) for x in (ids, mask, positions))
        logits = self._forward(inputs, allowed, places, cache)
        layers, cache.layers = cache.layers, []
        if mask.all():
            return [(layer.keys, layer.values) for layer in layers], logits
        # shared prefix, gap, rest: move the gap to the front
        order = torch.as_tensor(mask.argsort(-1, kind="stable"), device=device)[:, None, :, None]
        whole: KeysValues = []
        while layers:
            layer = layers.pop(0)
            keys, values = (part.gather(-2, order.expand_as(part)) for part in (layer.keys, layer.values))
            whole.append((keys, values))
        return whole, logits

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def extend(self, parents: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        """Replace the contexts by (context ``parents[a]`` + ``tokens[a]``) for every a."""
        if len(parents) != len(self.mask) or bool((parents != np.arange(len(parents))).any()):
            index = torch.as_tensor(parents, device=self.mask.device)
            self.cache.batch_select_indices(index)
            self.mask, self.positions = self.mask[index], self.positions[index]
        self.mask = pad(self.mask, (0, 1), value=1)
        ids = torch.as_tensor(tokens, device=self.mask.device)[:, None]
        self.logits = self._forward(ids, self.mask, self.positions[:, None], self.cache)
        self.positions = self.positions + 1


@torch.no_grad()
def decode(
    model: Any,
    groups: Sequence[Sequence[IntArray]],
    rows: Sequence[Row],
    streams: UIntArray,
    end_tokens: frozenset[int],
    max_prefill_tokens: int,
    stop_check: Callable[[Row], bool],
) -> None:
    """Complete every row in place. ``row.prompt`` counts through the groups; ``streams`` [rows] keys the draws.

    Prompts of a group share a prefix that is computed once, and are computed in passes of at most
    ``max_prefill_tokens`` slots; then all rows of all groups are extended together.

    ``stop_check(row)`` is asked after each token of rows that have stop strings.
    """
    frontier = _Frontier(model, groups, max_prefill_tokens)
    columns = SamplingColumns.of([row.sampling for row in rows], model.device)
    node = np.array([row.prompt for row in rows], np.int64)
    room = np.array([row.room for row in rows], np.int64)
    has_stop = np.array([bool(row.sampling.stop) for row in rows])
    ends = np.array(sorted(end_tokens), np.int64)
    live = np.arange(len(rows))
    said: list[
        tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]
    ] = []  # (rows, tokens, log-probs) by step
    vocabulary = frontier.logits.shape[-1]
    while len(live):
        logits, options = frontier.logits, columns
        if len(live) != len(logits) or bool((node[live] != np.arange(len(live))).any()):
            logits = logits[torch.as_tensor(node[live], device=model.device)]
        if len(live) != len(rows):
            options = columns.rows(torch.as_tensor(live, device=model.device))
        drawn, logprobs = draw(logits, options, uniforms(streams[live], len(said)))
        tokens = drawn.cpu().numpy()
        said.append((live, tokens, logprobs.cpu().numpy()))
        stopped = np.isin(tokens, ends)
        for k in np.flatnonzero(has_stop[live]):
            row = rows[live[k]]
            row.recent.append(int(tokens[k]))
            stopped[k] |= stop_check(row)
        for r in live[stopped]:
            rows[r].stopped = True
        going = ~stopped & (len(said) < room[live])
        live, tokens = live[going], tokens[going]
        if len(live):
            contexts, inverse = np.unique(node[live] * vocabulary + tokens, return_inverse=True)
            frontier.extend(contexts // vocabulary, contexts % vocabulary)
            node[live] = inverse
    _deal(rows, said)


def _deal(rows: Sequence[Row], said: list[tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]]) -> None:
    """Give every row its tokens and log-probs, in the order they were said."""
    owner = np.concatenate([step[0] for step in said])
    order = np.argsort(owner, kind="stable")
    cuts = np.cumsum(np.bincount(owner, minlength=len(rows)))[:-1]
    tokens = np.split(np.concatenate([step[1] for step in said])[order].astype(np.int32), cuts)
    logprobs = np.split(np.concatenate([step[2] for step in said])[order].astype(np.float32), cuts)
    for row, row_tokens, row_logprobs in zip(rows, tokens, logprobs, strict=True):
        row.tokens, row.logprobs = row_tokens, row_logprobs
