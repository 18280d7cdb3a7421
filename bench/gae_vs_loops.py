"""Advantages of a batch on one thread: generalised advantages and group baselines against what trainers run.

Peers: verl's ``compute_gae_advantage_return``, once as it is, where ours is followed by verl's own whitening, and once
with that whitening left out, and ``compute_grpo_outcome_advantage``, where verl is installed; scipy's ``lfilter``
row by row, which knows no mask; the PyTorch path of our own kernel. All results are asserted equal to a loop in
float64, or to the peer's, before anything is timed. Medians of turns; ratios above 1 mean that ours is faster.

    python bench/gae_vs_loops.py [--rows 256] [--tokens 8192] [--repeats 7]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import unittest.mock
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _measure import Timing, machine, measure, print_table, save
from selfplay_fast.kernels.discounted_sums import discounted_sums as kernel
from selfplay_fast.kernels.discounted_sums import discounted_sums_reference
from torch import Tensor

from selfplay_fast.learn import discounted_sums, gae, segment_normalise

DISCOUNT, LAMBDA = 0.99, 0.95
GROUPS, ROLES = 256, 2  # of 2,048 samples


def verl() -> Any | None:
    try:
        return importlib.import_module("verl.trainer.ppo.core_algos")
    except ImportError as error:
        print(f"verl: not installed ({error})")
        return None


def advantages(rows: int, tokens: int, repeats: int) -> list[dict[str, Any]]:
    rewards, values = torch.randn(2, rows, tokens)
    mask = torch.rand(rows, tokens) < 0.7
    number_mask = mask.float()

    def ours() -> tuple[Tensor, Tensor]:
        return gae(rewards, values, mask=mask, discount=DISCOUNT, lambda_=LAMBDA)

    want = discounted_sums_reference(
        rewards.double(), discount=DISCOUNT, lambda_=LAMBDA, baseline=values.double(), mask=mask
    )
    assert torch.allclose(ours()[0].double(), want, atol=1e-4)

    def pytorch() -> Tensor:
        return kernel(rewards, discount=DISCOUNT, lambda_=LAMBDA, baseline=values, mask=mask) + values

    assert torch.allclose(pytorch().double(), want + values, atol=1e-4)
    shape = f"{rows} x {tokens}"
    pairs: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        (f"masked advantages {shape}, kernels' PyTorch", ours, pytorch)
    ]
    algorithms = verl()
    if algorithms is not None:
        whiten = sys.modules["verl.utils.torch_functional"].masked_whiten

        def theirs() -> tuple[Tensor, Tensor]:
            return algorithms.compute_gae_advantage_return(rewards, values, number_mask, DISCOUNT, LAMBDA)

        def whitened() -> tuple[Tensor, Tensor]:
            mine, returns = ours()
            return whiten(mine, number_mask), returns

        for mine, peer in zip(whitened(), theirs(), strict=True):
            assert torch.allclose(mine, peer, atol=1e-3)
        pairs.append((f"masked advantages {shape}, verl, both whitened", whitened, theirs))

        def unwhitened() -> tuple[Tensor, Tensor]:
            with unittest.mock.patch(
                "verl.utils.torch_functional.masked_whiten", lambda values, mask: values
            ):
                return theirs()

        assert torch.allclose(ours()[0], unwhitened()[0], atol=1e-3)
        pairs.append((f"masked advantages {shape}, verl, not whitened", ours, unwhitened))
    try:
        from scipy.signal import lfilter
    except ImportError:
        print("scipy: not installed")
    else:
        plain = rewards.numpy()

        def returns() -> np.ndarray:
            return discounted_sums(plain, discount=DISCOUNT)

        def filtered() -> np.ndarray:
            return np.stack([lfilter([1], [1, -DISCOUNT], row[::-1])[::-1] for row in plain])

        assert np.allclose(returns(), filtered(), atol=1e-3)
        pairs.append((f"returns {shape}, scipy.signal.lfilter", returns, filtered))
    return [compared(name, mine, peer, repeats) for name, mine, peer in pairs]


def groups(repeats: int) -> list[dict[str, Any]]:
    """Group baselines and then role baselines of 2,048 samples, against verl's groups alone."""
    samples = 2048
    rewards = torch.randn(samples)
    group, role = np.arange(samples) // (samples // GROUPS), np.arange(samples) % ROLES

    def grouped() -> Tensor:
        return segment_normalise(rewards, group, keep_singletons=True)

    def both() -> Tensor:
        return segment_normalise(grouped(), role, scale=None)

    algorithms = verl()
    if algorithms is None:
        timing = measure({"ours": counted(both)}, 50 * repeats)["ours"]
        print(f"group and role advantages of {samples}: {milliseconds(timing):.3f} ms")
        return []
    column, ones = rewards[:, None], torch.ones(samples, 1)

    def theirs() -> Tensor:
        return algorithms.compute_grpo_outcome_advantage(column, ones, group)[0][:, 0]

    assert torch.allclose(grouped(), theirs(), atol=1e-4)
    return [
        compared(
            f"{samples} samples, groups and roles, verl's groups alone", both, theirs, repeats, batch=100
        )
    ]


def counted(run: Callable[[], object], times: int = 1) -> Callable[[], float]:
    def timed() -> float:
        for _ in range(times):
            run()
        return times

    return timed


def milliseconds(timing: Timing) -> float:
    return 1000 / timing.rate


def compared(
    name: str, mine: Callable[[], object], peer: Callable[[], object], repeats: int, batch: int = 1
) -> dict[str, Any]:
    """In microseconds. Short runs of ours are timed many at a time."""
    timings = measure({"ours": counted(mine, batch), "peer": counted(peer)}, repeats)
    ours, theirs = (1000 * milliseconds(timings[key]) for key in ("ours", "peer"))
    return {
        "case": name,
        "unit": "µs",
        "ours": ours,
        "peer": theirs,
        "ratio": theirs / ours,
        "ours_spread": timings["ours"].spread,
        "peer_spread": timings["peer"].spread,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = advantages(options.rows, options.tokens, options.repeats) + groups(options.repeats)
    facts = {**machine(("torch", "numpy", "scipy", "verl")), "device": "cpu, one thread"}
    print_table(facts, rows, "µs")
    save("gae_vs_loops", facts, rows)


if __name__ == "__main__":
    main()
