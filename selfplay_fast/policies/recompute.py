"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) for passes that hand keys and values on.

transformers has it only without a cache and in train mode, which switches dropout on. Here a layer keeps its input, the
keys and values that stand before it and those that it adds; the rest is computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfplay_fast.policies.prefix_forward import backbone

Pair = tuple[Tensor, Tensor]


class _Reader:
    """A cache as one layer sees it; what the layer adds is noted and the cache stays as it is, so it can run again."""

    def __init__(self, before: Pair | None) -> None:
        self.before = before
        self.added: Pair | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Pair:
        self.added = keys, values
        if self.before is None:
            return keys, values
        return torch.cat([self.before[0], keys], -2), torch.cat([self.before[1], values], -2)


def recompute_layers(model: Any) -> None:
    """From now on, passes with gradients compute every layer twice and store little."""
    for index, layer in enumerate(backbone(model).layers):
        # Bound to the layer, so that a copy of the model runs its own layers.
        layer.forward = MethodType(_recomputed(type(layer).forward, index), layer)


def _recomputed(forward: Callable[..., Tensor], index: int) -> Callable[..., Tensor]:
    @wraps(forward)
    def run(layer: Any, hidden: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Tensor:
        own_forward = partial(forward, layer)
        if not torch.is_grad_enabled():
            return own_forward(hidden, *args, past_key_values=past_key_values, **kwargs)
        if past_key_values is None:
            return checkpoint(
                own_forward, hidden, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
            )
        own = past_key_values.layers[index]
        before = (own.keys, own.values) if own.get_seq_length() else None

        def once(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            reader = _Reader(before)
            output = own_forward(hidden, *args, past_key_values=reader, **kwargs)
            assert reader.added is not None
            return output, *reader.added

        output, keys, values = checkpoint(once, hidden, use_reentrant=False, preserve_rng_state=False)
        if before is None:  # a prefix, which others will stand behind
            past_key_values.update(keys, values, index)
        return output

    return run
