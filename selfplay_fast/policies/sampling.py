"""Draw tokens and their log-probability under the distribution they were drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfplay_fast.records import Sampling

_CHUNK_ENTRIES = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingColumns:
    """The sampling options of N rows as tensors [N]."""

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor

    @classmethod
    def of(cls, options: Sequence[Sampling], device: torch.device) -> SamplingColumns:
        def column(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return cls(
            temperature=column([o.temperature for o in options], torch.float32),
            top_p=column([o.top_p for o in options], torch.float32),
            top_k=column([o.top_k for o in options], torch.int64),
            min_p=column([o.min_p for o in options], torch.float32),
        )

    @classmethod
    def joined(cls, a: SamplingColumns, b: SamplingColumns) -> SamplingColumns:
        """The rows of both."""
        return cls(
            temperature=torch.cat([a.temperature, b.temperature]),
            top_p=torch.cat([a.top_p, b.top_p]),
            top_k=torch.cat([a.top_k, b.top_k]),
            min_p=torch.cat([a.min_p, b.min_p]),
        )

    def rows(self, index: Tensor | slice) -> SamplingColumns:
        def of(column: Tensor) -> Tensor:
            return column[index] if isinstance(index, slice) else column.index_select(0, index)

        return SamplingColumns(
            temperature=of(self.temperature),
            top_p=of(self.top_p),
            top_k=of(self.top_k),
            min_p=of(self.min_p),
        )


def truncate(logp: Tensor, options: SamplingColumns) -> Tensor:
    """log-probs [N, V] -> the same, -inf outside top-k, top-p and min-p, renormalised.

    Of what top-k leaves, top-p keeps the smallest set of most likely tokens whose share of the mass reaches p (Holtzman
    et al. 2020); min-p keeps tokens with at least ``min_p`` times the top probability (Nguyen et al. 2024,
    arXiv 2407.01082). The order is that of transformers.
    """
    vocabulary = logp.shape[-1]
    if not bool((options.top_p < 1).any() or (options.top_k > 0).any() or (options.min_p > 0).any()):
        return logp
    ranked, order = logp.sort(dim=-1, descending=True, stable=True)
    p = ranked.exp()
    limit = torch.where(options.top_k > 0, options.top_k, vocabulary)
    keep = torch.arange(vocabulary, device=logp.device) < limit[:, None]
    p = p.where(keep, 0.0)
    top_p = options.top_p[:, None]
    keep &= (p.cumsum(-1) - p < top_p * p.sum(-1, keepdim=True)) | (top_p >= 1)
    keep &= p >= options.min_p[:, None] * p[:, :1]
    kept = torch.zeros_like(keep).scatter(-1, order, keep)
    return torch.log_softmax(logp.masked_fill(~kept, -torch.inf), dim=-1)


def draw(logits: Tensor, options: SamplingColumns, u: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """logits [N, V], one uniform number per row [N] -> tokens [N] int64, log-probs [N] float32, by inverse CDF.

    Rows with temperature 0 take the most likely token, with log-prob 0.
    """
    greedy = options.temperature == 0
    if bool(greedy.all()):
        return logits.argmax(-1), torch.zeros(len(logits), device=logits.device)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    step = max(1, _CHUNK_ENTRIES // logits.shape[-1])
    uniform = torch.as_tensor(u, device=logits.device)
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        part = options.rows(rows)
        scale = torch.where(greedy[rows], 1.0, part.temperature)
        logp = truncate(torch.log_softmax(logits[rows].float() / scale[:, None], dim=-1), part)
        cumulative = logp.exp().cumsum(-1, dtype=torch.float64)
        point = uniform[rows, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, point, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
        chosen = torch.where(greedy[rows], logits[rows].argmax(-1), drawn)
        tokens[rows] = chosen
        logprobs[rows] = torch.where(greedy[rows], 0.0, logp.gather(-1, chosen[:, None])[:, 0])
    return tokens, logprobs
