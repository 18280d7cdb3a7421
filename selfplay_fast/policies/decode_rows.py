"""Decoding for models that prefix trees cannot run: each row by itself, with whatever memory the model keeps.

Rows whose prompts are equally long stand side by side, so nothing is padded and nothing needs a mask, which not every
kind of layer honours. Prefixes are not shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfplay_fast.policies.decode import Row
from selfplay_fast.policies.prefix_forward import backbone, head_weight
from selfplay_fast.policies.sampling import SamplingColumns, draw
from selfplay_fast.policies.streams import UIntArray, uniforms
from selfplay_fast.records import IntArray


@torch.no_grad()
def decode_rows(
    model: Any,
    prompts: Sequence[IntArray],
    rows: Sequence[Row],
    streams: UIntArray,
    end_tokens: frozenset[int],
    max_tokens: int,
    stop_check: Callable[[Row], bool],
) -> int:
    """Complete every row in place, as `decode` does; a pass over prompts holds at most ``max_tokens``, or one row.

    Returns how many tokens of prompts were computed.
    """
    lengths = np.array([len(prompts[row.prompt]) for row in rows])
    for length in np.unique(lengths).tolist():
        same = np.flatnonzero(lengths == length)
        for some in np.array_split(same, -(-len(same) // max(1, max_tokens // length))):
            members = [rows[r] for r in some]
            ids = np.stack([prompts[row.prompt] for row in members]).astype(np.int64)
            _complete(
                model, torch.from_numpy(ids).to(model.device), members, streams[some], end_tokens, stop_check
            )
    return int(lengths.sum())


def _complete(
    model: Any,
    ids: Tensor,
    rows: Sequence[Row],
    streams: UIntArray,
    end_tokens: frozenset[int],
    stop_check: Callable[[Row], bool],
) -> None:
    """Rows that are over run on with the others, unheard."""
    columns = SamplingColumns.of([row.sampling for row in rows], model.device)
    said: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
    memory: dict[str, Any] = {}
    count = 0
    live = set(range(len(rows)))
    while live:
        output = backbone(model)(input_ids=ids, use_cache=True, **memory)
        memory = {name: output[name] for name in ("past_key_values", "cache_params") if name in output}
        drawn, logprobs = draw(
            output.last_hidden_state[:, -1] @ head_weight(model).T, columns, uniforms(streams, count)
        )
        ids = drawn[:, None]
        count += 1
        for r, token, logprob in zip(range(len(rows)), drawn.tolist(), logprobs.tolist(), strict=True):
            if r not in live:
                continue
            row = rows[r]
            said[r][0].append(token)
            said[r][1].append(logprob)
            row.stopped = token in end_tokens
            if row.sampling.stop:
                row.recent.append(token)
                row.stopped |= stop_check(row)
            if row.stopped or count >= row.room:
                live.remove(r)
    for row, (tokens, logps) in zip(rows, said, strict=True):
        row.tokens, row.logprobs = np.array(tokens, np.int32), np.array(logps, np.float32)
