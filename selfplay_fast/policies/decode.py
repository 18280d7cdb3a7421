"""Continuous decoding: rows join and leave at any token, and rows that have said the same so far are one.

A step extends the contexts by the tokens drawn last, lets waiting rows join, whose prompts are computed after what is
stored of them, draws the next token of every row and hands out the rows that are over. A context splits where its
samples part. What a row draws is keyed by its stream and the number of the token, so it does not depend on who stands
beside it or on when it joined.

Legend: S rows that are spoken, A distinct contexts among them, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from itertools import compress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfplay_fast.policies.flops import Passes
from selfplay_fast.policies.prefill import prefill
from selfplay_fast.policies.prefix_store import PrefixStore
from selfplay_fast.policies.row_cache import RowCache
from selfplay_fast.policies.sampling import SamplingColumns, draw
from selfplay_fast.policies.streams import uniforms
from selfplay_fast.policies.thinking import Thought
from selfplay_fast.records import NO_LOGPROBS, NO_TOKENS, FloatArray, IntArray, Sampling

_AHEAD = 64  # tokens that a row must still have room for when it joins
_JOIN_SHARE = 1 / 16  # of all rows must be waiting before they interrupt the others
_PATIENCE = 16  # steps that a row waits for others to join with, at most


@dataclass(kw_only=True, slots=True, eq=False)
class Row:
    """One sample in the making; ``recent``, its last tokens, is kept for rows with stop strings only.

    Nothing of what a ``final`` row says is stored once it is over.
    ``thought`` keeps reasoning within its budget, and stop strings out of it; ``forced`` holds the places of the tokens
    that were not drawn.
    """

    prompt: IntArray
    sampling: Sampling
    stream: np.uint64  # keys the draws
    room: int  # tokens that still fit: max_tokens or the rest of the model's context
    tokens: IntArray = field(default_factory=lambda: NO_TOKENS)
    logprobs: FloatArray = field(default_factory=lambda: NO_LOGPROBS)
    recent: deque[int] = field(default_factory=deque)
    thought: Thought | None = None
    forced: list[int] = field(default_factory=list)
    final: bool = False
    stopped: bool = False

    @property
    def width(self) -> int:
        """Tokens of the context that a row must have room for before it joins."""
        return len(self.prompt) + min(self.room, len(self.tokens) + _AHEAD)

    @property
    def context(self) -> IntArray:
        """The prompt and what has been said."""
        return np.concatenate([self.prompt, self.tokens]) if len(self.tokens) else self.prompt


@dataclass(kw_only=True, slots=True)
class _Spoken:
    """The rows that are being spoken, as columns [S] or [S, tokens]."""

    rows: list[Row]
    node: NDArray[np.int64]  # the context of each, a row of the cache
    streams: NDArray[np.uint64]
    count: NDArray[np.int64]  # tokens said
    room: NDArray[np.int64]
    has_stop: NDArray[np.bool_]
    has_thought: NDArray[np.bool_]
    final: NDArray[np.bool_]
    tokens: IntArray
    logprobs: FloatArray
    draws: NDArray[np.float64]  # the uniform number of each token
    options: SamplingColumns

    @classmethod
    def of(cls, rows: Sequence[Row], node: NDArray[np.int64], device: torch.device) -> _Spoken:
        width = max((len(row.tokens) for row in rows), default=0) + _AHEAD
        tokens, logprobs = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.float32)
        for r, row in ((r, row) for r, row in enumerate(rows) if len(row.tokens)):
            tokens[r, : len(row.tokens)], logprobs[r, : len(row.tokens)] = row.tokens, row.logprobs
        streams = np.array([row.stream for row in rows], np.uint64)
        return cls(
            rows=list(rows),
            node=node,
            streams=streams,
            count=np.array([len(row.tokens) for row in rows], np.int64),
            room=np.array([row.room for row in rows], np.int64),
            has_stop=np.array([bool(row.sampling.stop) for row in rows], bool),
            has_thought=np.array([row.thought is not None for row in rows], bool),
            final=np.array([row.final for row in rows], bool),
            tokens=tokens,
            logprobs=logprobs,
            draws=_draws(streams, 0, width),
            options=SamplingColumns.of([row.sampling for row in rows], device),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def say(self, tokens: NDArray[np.int64], logprobs: FloatArray) -> None:
        """One token more in every row."""
        every = np.arange(len(self))
        self.tokens[every, self.count], self.logprobs[every, self.count] = tokens, logprobs
        self.count += 1

    def widen(self, width: int) -> None:
        """Room for so many tokens of every row."""
        more = width - self.tokens.shape[1]
        self.tokens = np.pad(self.tokens, ((0, 0), (0, more)))
        self.logprobs = np.pad(self.logprobs, ((0, 0), (0, more)))
        self.draws = np.concatenate([self.draws, _draws(self.streams, width - more, width)], 1)

    def uniform(self) -> NDArray[np.float64]:
        """The number that draws the next token [S]."""
        if int(self.count.max()) == self.draws.shape[1]:
            self.widen(2 * self.draws.shape[1])
        return self.draws[np.arange(len(self)), self.count]

    def last(self) -> NDArray[np.int64]:
        """The token said last [S]."""
        return self.tokens[np.arange(len(self)), self.count - 1].astype(np.int64)

    def leave(self, going: NDArray[np.bool_]) -> tuple[list[Row], _Spoken]:
        """The rows that do not go on, with what they have said, and the others."""
        gone = []
        for s in np.flatnonzero(~going).tolist():
            row, count = self.rows[s], int(self.count[s])
            row.tokens, row.logprobs = self.tokens[s, :count].copy(), self.logprobs[s, :count].copy()
            gone.append(row)
        stay = torch.from_numpy(np.flatnonzero(going)).to(self.options.temperature.device)
        left = _Spoken(
            rows=list(compress(self.rows, going.tolist())),
            options=self.options.rows(stay),
            **{name: getattr(self, name)[going] for name in _COLUMNS},
        )
        return gone, left


_COLUMNS = [f.name for f in fields(_Spoken) if f.name not in ("rows", "options")]


class Decoder(ABC):
    """Rows that wait and rows that are spoken. ``stop_check(row)`` is asked after each token where there are stops."""

    def __init__(self, model: Any, end_tokens: frozenset[int], stop_check: Callable[[Row], bool]) -> None:
        self.model = model
        self.ends = sorted(end_tokens)
        self.stop_check = stop_check
        self.computed = 0  # tokens of prompts that went through the model
        self.passes = Passes()  # all that did
        self.waiting: deque[Row] = deque()
        self._spoken = self._columns([], np.zeros(0, np.int64))

    def _columns(self, rows: Sequence[Row], node: NDArray[np.int64]) -> _Spoken:
        return _Spoken.of(rows, node, self.model.device)

    def submit(self, rows: Sequence[Row]) -> None:
        """Have rows join, in this order, when there is room."""
        self.waiting += rows

    def cancel(self, rows: Collection[Row]) -> None:
        """Let go of these rows, wherever they are."""
        self.waiting = deque(row for row in self.waiting if row not in rows)
        going = np.array([row not in rows for row in self._spoken.rows], bool)
        if not going.all():
            self._spoken = self._spoken.leave(going)[1]

    def step(self) -> list[Row]:
        """One token more for every row that there is room for; those that are over."""
        parts = []
        if len(self._spoken):
            parts.append(self._extend())
        joining = self._joining()
        if joining:
            parts += self._join(joining)
        return self._draw(torch.cat(parts) if len(parts) > 1 else parts[0]) if parts else []

    @abstractmethod
    def _extend(self) -> Tensor:
        """Put what was said last into the contexts; logits [A, V]."""

    @abstractmethod
    def _joining(self) -> list[Row]:
        """The waiting rows that join now."""

    @abstractmethod
    def _join(self, rows: Sequence[Row]) -> list[Tensor]:
        """Compute what they start from; their logits, which come after those of `_extend`."""

    @abstractmethod
    def _keep(self, which: NDArray[np.bool_]) -> None:
        """Store the contexts of these rows, which go, as far as they are computed."""

    def _draw(self, logits: Tensor) -> list[Row]:
        """The next token of every row from logits [A, V]; the rows that are over."""
        spoken = self._spoken
        if len(spoken) != len(logits) or bool((spoken.node != np.arange(len(spoken))).any()):
            logits = logits.index_select(0, torch.from_numpy(spoken.node).to(logits.device))
        drawn, logp = draw(logits, spoken.options, spoken.uniform())
        tokens, logprobs = drawn.cpu().numpy(), logp.cpu().numpy()
        self._say(tokens, logprobs)
        stopped = np.zeros(len(tokens), bool)
        for end in self.ends:
            stopped |= tokens == end
        for s in np.flatnonzero(spoken.has_stop).tolist():
            row = spoken.rows[s]
            if row.thought is not None and row.thought.silent and not row.sampling.stop_in_thinking:
                row.recent.clear()
                continue
            row.recent.append(int(tokens[s]))
            stopped[s] |= self.stop_check(row)
        going = ~stopped & (spoken.count < spoken.room)
        if going.all():
            return []
        if not (spoken.final | going).all():
            self._keep(~(spoken.final | going))
        for s in np.flatnonzero(stopped).tolist():
            spoken.rows[s].stopped = True
        over, self._spoken = spoken.leave(going)
        return over

    def _say(self, tokens: NDArray[np.int64], logprobs: FloatArray) -> None:
        """Add what was drawn, or forced in its place; a forced token leaves its number of the stream unused."""
        spoken = self._spoken
        thinking = np.flatnonzero(spoken.has_thought).tolist()
        forced = dict.fromkeys(thinking, False)
        for s in thinking:
            row = spoken.rows[s]
            assert row.thought is not None
            token = row.thought.force()
            if token is not None:
                tokens[s], logprobs[s], forced[s] = token, 0, True
                row.forced.append(int(spoken.count[s]))
        spoken.say(tokens, logprobs)
        for s in thinking:
            thought = spoken.rows[s].thought
            assert thought is not None
            thought.hear(spoken.tokens[s, : spoken.count[s]], forced[s])


class TreeDecoder(Decoder):
    """Rows with one context share its keys and values.

    Prompts are computed in passes of at most ``max_batch_tokens`` slots. All spoken rows together, each as wide as the
    longest, take at most ``max_cache_tokens`` slots, or there is one; whoever does not fit waits, and where rows
    outgrow the cache those that joined last wait again and lose nothing. What rows have become is left in the store.
    """

    def __init__(
        self,
        model: Any,
        store: PrefixStore,
        cache: RowCache,
        *,
        end_tokens: frozenset[int],
        max_batch_tokens: int,
        max_cache_tokens: int,
        stop_check: Callable[[Row], bool],
    ) -> None:
        super().__init__(model, end_tokens, stop_check)
        self.store, self.cache = store, cache
        self.max_batch_tokens, self.max_cache_tokens = max_batch_tokens, max_cache_tokens
        self._waited = 0

    def _extend(self) -> Tensor:
        self._preempt()
        spoken, cache = self._spoken, self.cache
        last = spoken.last()
        if not self._alone():
            span = int(last.max()) + 1
            pairs, child = np.unique(spoken.node * span + last, return_inverse=True)
            spoken.node = cache.arrange(pairs // span)[child]
        tokens = np.empty(len(cache.lengths), np.int64)
        tokens[spoken.node] = last
        self.passes.add(Passes(len(tokens), int((cache.lengths + 1).sum()), len(tokens)))
        return cache.extend(tokens)

    def _alone(self) -> bool:
        """Has every context one row, and none more?"""
        count = len(self.cache.lengths)
        return len(self._spoken) == count and bool(np.bincount(self._spoken.node, minlength=count).all())

    def _preempt(self) -> None:
        """Send away as many rows, the last first, as the next token would have no room for."""
        spoken = self._spoken
        if self.cache.slots(len(spoken), int(self.cache.lengths.max()) + 1) <= self.max_cache_tokens:
            return
        widths = np.maximum.accumulate(self.cache.lengths[spoken.node] + 1)
        most = len(spoken)
        while most > 1 and self.cache.slots(most, int(widths[most - 1])) > self.max_cache_tokens:
            most -= 1
        if most < len(spoken):
            going = np.arange(len(spoken)) < most
            self._keep(~going)
            gone, self._spoken = spoken.leave(going)
            self.waiting.extendleft(reversed(gone))

    def _joining(self) -> list[Row]:
        waiting, speaking = self.waiting, len(self._spoken)
        self._waited = self._waited + 1 if waiting else 0
        few = len(waiting) < _JOIN_SHARE * (speaking + len(waiting))
        if not waiting or (few and self._waited <= _PATIENCE):
            return []
        joining: list[Row] = []
        width = int(self.cache.lengths.max()) if speaking else 0
        while waiting:
            row = waiting[0]
            width = max(width, row.width)
            rows = speaking + len(joining) + 1
            if rows > 1 and self.cache.slots(rows, width) > self.max_cache_tokens:
                break
            joining.append(waiting.popleft())
        if joining:
            self._waited = 0
        return joining

    def _join(self, rows: Sequence[Row]) -> list[Tensor]:
        """Compute what they start from, equal starts once; their logits, in the order of the cache."""
        starts = [row.context for row in rows]
        distinct = {start.tobytes(): start for start in starts}
        number = {key: i for i, key in enumerate(distinct)}
        prompts = list(distinct.values())
        if not len(self._spoken):
            self.cache.clear()
        first = len(self.cache.lengths)
        room = len(self._spoken) + len(rows), max(row.width for row in rows)
        place = np.zeros(len(prompts), np.int64)
        logits = []
        for part in prefill(self.model, prompts, self.store, self.max_batch_tokens):
            self.computed += part.passes.tokens
            self.passes.add(part.passes)
            if part.index:
                place[part.index] = len(self.cache.lengths) + np.arange(len(part.index))
                self.cache.add(part.cache, part.columns, room)
                logits.append(part.logits)
        self._store(place, prompts)
        assert len(self.cache.lengths) == first + len(prompts)
        node = place[[number[start.tobytes()] for start in starts]]
        new = self._columns(rows, node)
        self._spoken = _joined(self._spoken, new) if len(self._spoken) else new
        return logits

    def _keep(self, which: NDArray[np.bool_]) -> None:
        spoken = self._spoken
        nodes, first = np.unique(spoken.node[which], return_index=True)
        contexts = []
        for s, node in zip(np.flatnonzero(which)[first].tolist(), nodes.tolist(), strict=True):
            prompt, said = spoken.rows[s].prompt, spoken.tokens[s]
            contexts.append(np.concatenate([prompt, said[: self.cache.lengths[node] - len(prompt)]]))
        self._store(nodes, contexts)

    def _store(self, nodes: NDArray[np.int64], contexts: Sequence[IntArray]) -> None:
        columns = [np.arange(len(context)) for context in contexts]
        self.store.put(contexts, self.cache.layers(), nodes, columns)


def _joined(a: _Spoken, b: _Spoken) -> _Spoken:
    """The rows of both."""
    width = max(a.tokens.shape[1], b.tokens.shape[1])
    for one in (a, b):
        if one.tokens.shape[1] < width:
            one.widen(width)
    return _Spoken(
        rows=a.rows + b.rows,
        options=SamplingColumns.joined(a.options, b.options),
        **{name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in _COLUMNS},
    )


def _draws(streams: NDArray[np.uint64], start: int, stop: int) -> NDArray[np.float64]:
    """Numbers ``start`` to ``stop`` of every stream [S, stop - start]."""
    return uniforms(streams[:, None], np.arange(start, stop))
