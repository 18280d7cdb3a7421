"""Learning rates by optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal


def cosine_rate(step: int, steps: int, *, peak: float, least: float, warmup: int) -> float:
    """The rate of ``step`` = 0 … steps - 1 (Loshchilov and Hutter 2017, arXiv 1608.03983).

    Up to ``peak`` in equal parts over ``warmup`` steps, then half a cosine down to ``least``.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return least + (peak - least) * (1 + math.cos(math.pi * min(1.0, done))) / 2


def cosine_rates(which: Iterable[int], steps: int, *, peak: float, least: float, warmup: int) -> list[float]:
    """The `cosine_rate` of several steps."""
    return [cosine_rate(step, steps, peak=peak, least=least, warmup=warmup) for step in which]


def linear_rates(steps: int, *, peak: float, warmup: float) -> list[float]:
    """Those of all steps: up in a line over the share ``warmup`` of them, from 0, then down in a line towards 0.

    As transformers' scheduler ``linear`` has them.
    """
    rises = math.ceil(steps * warmup)
    rising = [peak * step / rises for step in range(rises)]
    return rising + [peak * (steps - step) / (steps - rises) for step in range(rises, steps)]


def constant_rates(steps: int, *, peak: float, warmup: float) -> list[float]:
    """The same, but the peak is kept: transformers' ``constant_with_warmup``."""
    rises = math.ceil(steps * warmup)
    return [peak * step / rises for step in range(rises)] + [peak] * (steps - rises)


def falling_rates(
    kind: Literal["cosine", "linear"], steps: int, *, peak: float, warmup: float
) -> list[float]:
    """Those of all steps: up over the share ``warmup`` of them, then down towards 0, half a cosine or a line."""
    if kind == "linear":
        return linear_rates(steps, peak=peak, warmup=warmup)
    return cosine_rates(range(steps), steps + 1, peak=peak, least=0.0, warmup=math.ceil(warmup * steps))


def iteration_rates(step: int, steps: int, updates: int, *, peak: float, warmup: int) -> list[float]:
    """Those of the ``updates`` optimizer steps of iteration ``step`` = 1 … ``steps``.

    One cosine over all iterations, down to a tenth of the peak, which ``warmup`` optimizer steps lead up to.
    """
    which = range((step - 1) * updates, step * updates)
    return cosine_rates(which, steps * updates, peak=peak, least=peak / 10, warmup=warmup)
