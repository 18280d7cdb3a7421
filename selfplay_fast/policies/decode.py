"""Batched decoding in which rows with the same context share one forward pass.

Distinct prompts are prefilled once after their common prefix; while rows have said the same so far they are one
row of the cache, and the cache splits where their samples part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from selfplay_fast.policies.prefix_forward import common_prefix, expand_cache, prefill
from selfplay_fast.policies.sampling import SamplingColumns, draw
from selfplay_fast.policies.streams import UIntArray, uniforms
from selfplay_fast.records import NO_LOGPROBS, NO_TOKENS, FloatArray, IntArray, Sampling


@dataclass(kw_only=True, slots=True)
class Row:
    """One sample in the making; ``recent`` is kept for rows with stop strings only."""

    prompt: int
    sampling: Sampling
    room: int  # tokens that still fit: max_tokens or the rest of the model's context
    tokens: IntArray = field(default_factory=lambda: NO_TOKENS)
    logprobs: FloatArray = field(default_factory=lambda: NO_LOGPROBS)
    recent: list[int] = field(default_factory=list)
    stopped: bool = False


class _Frontier:
    """The distinct contexts being extended: logits [A, V], cache, attention mask [A, L], next positions [A]."""

    def __init__(self, model: Any, prompts: Sequence[IntArray]) -> None:
        self.model = model
        shared = min(min(common_prefix(prompts[0], p) for p in prompts), min(len(p) for p in prompts) - 1)
        rows, width = len(prompts), max(len(p) for p in prompts) - shared
        ids = np.zeros((rows, width), np.int64)
        self.mask = torch.ones(rows, shared + width, dtype=torch.int64, device=model.device)
        for r, prompt in enumerate(prompts):
            suffix = prompt[shared:]
            ids[r, width - len(suffix) :] = suffix
            self.mask[r, shared : shared + width - len(suffix)] = 0
        positions = self.mask.cumsum(-1)[:, shared:] - 1
        self.positions = positions[:, -1] + 1
        self.cache = (
            expand_cache(model, prefill(model, prompts[0][:shared]), rows)
            if shared
            else DynamicCache(config=model.config)
        )
        self.logits = self._forward(torch.as_tensor(ids, device=model.device), positions.clamp(min=0))

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
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
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        ids = torch.as_tensor(tokens, device=self.mask.device)[:, None]
        self.logits = self._forward(ids, self.positions[:, None])
        self.positions = self.positions + 1


@torch.no_grad()
def decode(
    model: Any,
    prompts: Sequence[IntArray],
    rows: Sequence[Row],
    streams: UIntArray,
    end_tokens: frozenset[int],
    stop_check: Any = None,
) -> None:
    """Complete every row in place. ``row.prompt`` indexes ``prompts``; ``streams`` [rows] keys the draws.

    ``stop_check(row) -> bool`` is asked after each token of rows that have stop strings.
    """
    frontier = _Frontier(model, prompts)
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
