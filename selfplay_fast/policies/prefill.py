"""Keys and values of prompts: what the store has is not computed, what prompts share beyond that is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from selfplay_fast.policies.flops import Passes
from selfplay_fast.policies.prefix_forward import Cache as KeysValues
from selfplay_fast.policies.prefix_forward import common_prefix, prefix_groups
from selfplay_fast.policies.prefix_store import PrefixStore, Slots
from selfplay_fast.records import IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefilled:
    """Prompts ``index`` of those given: row r of logits [R, V], keys and values; its token j is in columns[r][j]."""

    index: list[int]
    logits: Tensor
    cache: KeysValues
    columns: list[Slots]
    passes: Passes


def prefill(
    model: Any, prompts: Sequence[IntArray], store: PrefixStore, max_tokens: int
) -> Iterator[Prefilled]:
    """Distinct prompts in passes of at most ``max_tokens`` slots, or one row.

    What is computed to be shared comes first and is stored, as a pass without prompts of its own (``index`` is empty).
    The store must not change before the last pass.
    """
    for group in prefix_groups(prompts):
        some = [prompts[i] for i in group.tolist()]
        shared = some[0][: min(min(common_prefix(some[0], p), len(p) - 1) for p in some)]
        found = store.match(shared)
        if len(some) > 1 and len(found) < len(shared):
            part = _pass(model, [shared], [], [found[: len(shared) - 1]], store)
            store.put([shared], part.cache, np.zeros(1, np.int64), part.columns)
            yield part
    matches = [store.match(prompt[:-1]) for prompt in prompts]
    stored = np.array([len(slots) for slots in matches])
    fresh = np.array([len(prompt) for prompt in prompts]) - stored
    order = np.argsort(fresh, kind="stable")
    for run in _passes(order, stored, fresh, max_tokens):
        yield _pass(model, [prompts[i] for i in run], run, [matches[i] for i in run], store)


def _pass(
    model: Any, prompts: Sequence[IntArray], index: list[int], found: Sequence[Slots], store: PrefixStore
) -> Prefilled:
    """One forward pass over what is not ``found`` in the store."""
    stored = max(map(len, found))
    rests = [prompt[len(slots) :] for prompt, slots in zip(prompts, found, strict=True)]
    width = max(map(len, rests))
    ids = np.zeros((len(prompts), width), np.int64)
    mask = np.zeros((len(prompts), stored + width), np.int64)
    for r, (rest, slots) in enumerate(zip(rests, found, strict=True)):
        ids[r, width - len(rest) :] = rest
        mask[r, stored - len(slots) : stored] = 1
        mask[r, stored + width - len(rest) :] = 1
    positions = (mask.cumsum(1)[:, stored:] - 1).clip(min=0)
    cache: Any = DynamicCache(config=model.config)
    if stored:
        for layer, pair in enumerate(store.gather(found)):
            cache.update(*pair, layer)
    inputs, allowed, places = (torch.as_tensor(x, device=model.device) for x in (ids, mask, positions))
    output = model(
        input_ids=inputs,
        attention_mask=allowed,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Prefilled(
        index=index,
        logits=output.logits[:, -1],
        cache=[(layer.keys, layer.values) for layer in cache.layers],
        columns=[np.flatnonzero(row) for row in mask],
        passes=Passes(
            int(mask[:, stored:].sum()), int(((positions + 1) * mask[:, stored:]).sum()), len(prompts)
        ),
    )


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
