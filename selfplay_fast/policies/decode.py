"""Batched decoding in which rows with the same context share one forward pass.

Distinct prompts are prefilled once, after what is stored of them, then all are extended together; while rows have said
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
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from selfplay_fast.policies.prefix_forward import Cache as KeysValues
from selfplay_fast.policies.prefix_forward import common_prefix
from selfplay_fast.policies.prefix_store import PrefixStore, Slots
from selfplay_fast.policies.sampling import SamplingColumns, draw
from selfplay_fast.policies.streams import UIntArray, uniforms
from selfplay_fast.policies.thinking import Thoughts
from selfplay_fast.records import NO_LOGPROBS, NO_TOKENS, FloatArray, IntArray, Sampling

_ROOM = 64  # tokens a cache can grow before it is copied, at least


@dataclass(kw_only=True, slots=True)
class Row:
    """One sample in the making; ``recent``, its last tokens, is kept for rows with stop strings only.

    ``forced`` holds the places of the tokens that were not drawn.
    """

    prompt: int
    sampling: Sampling
    room: int  # tokens that still fit: max_tokens or the rest of the model's context
    tokens: IntArray = field(default_factory=lambda: NO_TOKENS)
    logprobs: FloatArray = field(default_factory=lambda: NO_LOGPROBS)
    recent: deque[int] = field(default_factory=deque)
    thinks: bool = False  # it begins in its reasoning
    think_budget: int | None = None
    forced: list[int] = field(default_factory=list)
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

    What the store has of a prompt is not computed; what a group of prompts shares beyond that is computed once. A
    context's tokens lie in order, where the mask is 1; ``place`` is the row of each prompt.
    """

    def __init__(
        self, model: Any, groups: Sequence[Sequence[IntArray]], max_tokens: int, store: PrefixStore
    ) -> None:
        self.model, self.store = model, store
        self.computed = 0  # tokens of prompts that went through the model
        self.cache: Any = Cache(layer_class_to_replicate=_RoomyLayer)
        for group in groups:
            self._share(group)
        prompts = [prompt for group in groups for prompt in group]
        found = [store.match(prompt[:-1]) for prompt in prompts]
        fresh = np.array([len(p) - len(slots) for p, slots in zip(prompts, found, strict=True)])
        order = np.argsort(fresh, kind="stable")
        self.place = np.argsort(order)
        parts = [
            self._prefill([prompts[i] for i in run], [found[i] for i in run])
            for run in _passes(order, np.array([len(slots) for slots in found]), fresh, max_tokens)
        ]
        longest = max(mask.shape[1] for _, _, mask in parts)
        self.logits = torch.cat([logits for _, logits, _ in parts])
        self.mask = torch.cat([pad(mask, (longest - mask.shape[1], 0)) for _, _, mask in parts])
        self.positions = self.mask.sum(1)
        for layer in range(len(parts[0][0])):
            pairs = [cache.pop(0) for cache, _, _ in parts]  # what is copied is not kept
            keys, values = (
                torch.cat([pad(part, (0, 0, longest - part.shape[-2], 0)) for part in column])
                for column in zip(*pairs, strict=True)
            )
            self.cache.update(keys, values, layer)

    def _share(self, prompts: Sequence[IntArray]) -> None:
        """Have the store know what these prompts begin with."""
        if len(prompts) < 2:
            return
        shared = prompts[0][: min(min(common_prefix(prompts[0], p), len(p) - 1) for p in prompts)]
        found = self.store.match(shared)
        if len(found) == len(shared):
            return
        cache, _, mask = self._prefill([shared], [found[: len(shared) - 1]])
        self.store.put([shared], cache, np.zeros(1, np.int64), _columns(mask))

    def _prefill(
        self, prompts: Sequence[IntArray], found: Sequence[Slots]
    ) -> tuple[KeysValues, Tensor, Tensor]:
        """Keys and values, last logits and mask of prompts of which ``found`` is stored: one pass over the rest."""
        device = self.model.device
        stored = max(map(len, found))
        width = max(len(p) - len(slots) for p, slots in zip(prompts, found, strict=True))
        ids = np.zeros((len(prompts), width), np.int64)
        mask = np.zeros((len(prompts), stored + width), np.int64)
        for r, (prompt, slots) in enumerate(zip(prompts, found, strict=True)):
            rest = prompt[len(slots) :]
            ids[r, width - len(rest) :] = rest
            mask[r, stored - len(slots) : stored] = 1
            mask[r, stored + width - len(rest) :] = 1
            self.computed += len(rest)
        positions = (mask.cumsum(1)[:, stored:] - 1).clip(min=0)
        cache: Any = DynamicCache(config=self.model.config)
        if stored:
            for layer, pair in enumerate(self.store.gather(found)):
                cache.update(*pair, layer)
        inputs, allowed, places = (torch.as_tensor(x, device=device) for x in (ids, mask, positions))
        logits = self._forward(inputs, allowed, places, cache)
        return [(layer.keys, layer.values) for layer in cache.layers], logits, allowed

    def keep(self, rows: NDArray[np.int64], contexts: Sequence[IntArray]) -> None:
        """Store contexts, those of these rows without their last token."""
        cache = [(layer.keys, layer.values) for layer in self.cache.layers]
        self.store.put(
            contexts, cache, rows, _columns(self.mask[torch.as_tensor(rows, device=self.mask.device)])
        )

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


def _passes(
    order: NDArray[np.int64], stored: NDArray[np.int64], fresh: NDArray[np.int64], max_tokens: int
) -> Iterator[list[int]]:
    """Rows of one forward pass each, in order: at most ``max_tokens`` slots, or one row."""
    some: list[int] = []
    width = 0, 0
    for row in order.tolist():
        wider = max(width[0], int(stored[row])), max(width[1], int(fresh[row]))
        if some and sum(wider) * (len(some) + 1) > max_tokens:
            yield some
            some, wider = [], (int(stored[row]), int(fresh[row]))
        some.append(row)
        width = wider
    yield some


def _columns(mask: Tensor) -> list[NDArray[np.int64]]:
    """Where each row's tokens are."""
    return [np.flatnonzero(row) for row in mask.cpu().numpy()]


@torch.no_grad()
def decode(
    model: Any,
    groups: Sequence[Sequence[IntArray]],
    rows: Sequence[Row],
    streams: UIntArray,
    end_tokens: frozenset[int],
    max_prefill_tokens: int,
    stop_check: Callable[[Row], bool],
    store: PrefixStore,
    keep: bool,
    thoughts: Thoughts | None = None,
) -> int:
    """Complete every row in place. ``row.prompt`` counts through the groups; ``streams`` [rows] keys the draws.

    Prompts of a group share a prefix that is computed once, what the store has is not computed, and the rest is
    computed in passes of at most ``max_prefill_tokens`` slots; then all rows of all groups are extended together. What
    they have become is left in the store, where told to keep it. Returns how many tokens of prompts were computed.

    ``stop_check(row)`` is asked after each token of rows that have stop strings. ``thoughts`` of these rows keeps
    reasoning within its budget, and stop strings out of it; a forced token leaves its number of the stream unused.
    """
    frontier = _Frontier(model, groups, max_prefill_tokens, store)
    prompts = [prompt for group in groups for prompt in group]
    columns = SamplingColumns.of([row.sampling for row in rows], model.device)
    node = frontier.place[[row.prompt for row in rows]]
    room = np.array([row.room for row in rows], np.int64)
    has_stop = np.array([bool(row.sampling.stop) for row in rows])
    ends = np.array(sorted(end_tokens), np.int64)
    live = np.arange(len(rows))
    said = np.zeros((len(rows), _ROOM), np.int32)
    logprobs = np.zeros((len(rows), _ROOM), np.float32)
    count = 0
    vocabulary = frontier.logits.shape[-1]
    while len(live):
        logits, options = frontier.logits, columns
        if len(live) != len(logits) or bool((node[live] != np.arange(len(live))).any()):
            logits = logits[torch.as_tensor(node[live], device=model.device)]
        if len(live) != len(rows):
            options = columns.rows(torch.as_tensor(live, device=model.device))
        drawn, logp = draw(logits, options, uniforms(streams[live], count))
        tokens, drawn_logp = drawn.cpu().numpy(), logp.cpu().numpy()
        forced = thoughts.force(live, tokens, count) if thoughts else np.zeros(len(live), bool)
        drawn_logp[forced] = 0
        if count == said.shape[1]:
            said, logprobs = (np.concatenate([x, np.zeros_like(x)], 1) for x in (said, logprobs))
        said[live, count], logprobs[live, count] = tokens, drawn_logp
        count += 1
        if thoughts:
            thoughts.hear(live, said[:, :count], forced)
        stopped = np.isin(tokens, ends)
        for k in np.flatnonzero(has_stop[live]):
            row = rows[live[k]]
            if thoughts and thoughts.silent[live[k]] and not row.sampling.stop_in_thinking:
                row.recent.clear()
                continue
            row.recent.append(int(tokens[k]))
            stopped[k] |= stop_check(row)
        for r in live[stopped]:
            rows[r].stopped = True
        going = ~stopped & (count < room[live])
        over = live[~going]
        if len(over):
            if keep:
                places, first = np.unique(node[over], return_index=True)
                done = over[first]
                contexts = [np.concatenate([prompts[rows[r].prompt], said[r, : count - 1]]) for r in done]
                frontier.keep(places, contexts)
            for r in over:
                rows[r].tokens, rows[r].logprobs = said[r, :count].copy(), logprobs[r, :count].copy()
        live, tokens = live[going], tokens[going]
        if len(live):
            parents, inverse = np.unique(node[live] * vocabulary + tokens, return_inverse=True)
            frontier.extend(parents // vocabulary, parents % vocabulary)
            node[live] = inverse
    return frontier.computed
