"""A token and its log-probability per row of logits: `sample_with_logprob` against what rollouts run.

Peers: transformers' logits processors, then softmax, multinomial and the gathered log-softmax; vLLM's
``apply_top_k_top_p`` and ``random_sample`` with the same gather, where vLLM is installed. Before anything is timed, the
tokens left are asserted to be those of transformers' processors in float64, and the log-probabilities theirs. Logits
are float32: "peaked" rows have twenty likely tokens above a normal background, as those of language models have; "flat"
ones are normal with deviation 3 and have thousands of tokens in their 95 % at temperature 1. On a CPU one thread;
medians of turns; ratios above 1 mean that ours is faster.

    python bench/sampling_vs_peers.py [--rows 8] [--vocabulary 151936] [--device cpu] [--repeats 7]
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any

import torch
import transformers
from _measure import Timing, machine, measure, print_table, save
from torch import Tensor

from selfplay_fast.kernels import sample_with_logprob as kernel

CASES: dict[str, dict[str, float]] = {
    "whole": {},
    "top-p 0.95": {"top_p": 0.95},
    "temperature 0.6, top-k 20, top-p 0.95": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "min-p 0.05": {"min_p": 0.05},
}
WARPERS = {
    "temperature": transformers.TemperatureLogitsWarper,
    "top_k": transformers.TopKLogitsWarper,
    "top_p": transformers.TopPLogitsWarper,
    "min_p": transformers.MinPLogitsWarper,
}


def warped(logits: Tensor, settings: dict[str, float]) -> Tensor:
    for name, warper in WARPERS.items():
        if name in settings:
            logits = warper(settings[name])(None, logits)
    return logits


def with_transformers(logits: Tensor, settings: dict[str, float]) -> tuple[Tensor, Tensor]:
    scores = warped(logits, settings)
    tokens = torch.multinomial(scores.softmax(-1), 1)
    return tokens[:, 0], scores.log_softmax(-1).gather(1, tokens)[:, 0]


def with_vllm(sampler: Any, logits: Tensor, settings: dict[str, float]) -> tuple[Tensor, Tensor]:
    scores = logits / settings.get("temperature", 1.0)  # a copy, of which the rest is made in place
    k, p = (
        torch.full((len(logits),), settings[name], dtype=dtype, device=logits.device)
        if name in settings
        else None
        for name, dtype in (("top_k", torch.int32), ("top_p", torch.float32))
    )
    scores = sampler.apply_top_k_top_p(scores, k, p)
    tokens = sampler.random_sample(scores.softmax(-1, dtype=torch.float32), {})
    return tokens, scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def vllm() -> Any | None:
    try:
        return importlib.import_module("vllm.v1.sample.ops.topk_topp_sampler")
    except ImportError as error:
        print(f"vllm: not installed ({error})")
        return None


def agree(logits: Tensor, settings: dict[str, float]) -> None:
    """On a GPU, which sums in float32, a token of a row may be on the other side of a threshold."""
    rows = len(logits)
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    columns = [
        torch.full((rows,), x, dtype=torch.int64 if name == "top_k" else torch.float32, device=logits.device)
        for name, x in {**defaults, **settings}.items()
    ]
    seeds = torch.arange(rows, device=logits.device)
    logprobs, _, tokens, least = kernel._sample(logits, seeds, 0, *columns)
    want = warped(logits.double(), settings)
    apart = ((logits >= least[:, None]) != want.isfinite()).sum(1)
    assert int(apart.max()) <= int(logits.is_cuda), f"{settings}: {apart.tolist()} other tokens are left"
    exact = want.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert torch.allclose(logprobs.double(), exact, atol=1e-4), settings


def made(rows: int, vocabulary: int, device: str) -> dict[str, Tensor]:
    peaked = 2 * torch.randn(rows, vocabulary)
    likely = torch.randint(0, vocabulary, (rows, 20))
    peaked.scatter_(1, likely, torch.linspace(22, 10, 20).expand(rows, -1))
    return {"peaked": peaked.to(device), "flat": 3 * torch.randn(rows, vocabulary, device=device)}


def timed(run: Callable[[], object], device: str) -> Callable[[], float]:
    def once() -> float:
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        return 1.0

    once()
    return once


def compared(
    logits: Tensor, settings: dict[str, float], sampler: Any | None, repeats: int, title: str
) -> list[dict[str, Any]]:
    """In microseconds."""
    agree(logits, settings)
    device = logits.device.type
    runs = {
        "ours": timed(lambda: kernel.sample_with_logprob(logits, 0, **settings), device),
        "transformers": timed(lambda: with_transformers(logits, settings), device),
    }
    if sampler is not None and "min_p" not in settings:
        runs["vllm"] = timed(lambda: with_vllm(sampler, logits, settings), device)
    timings = measure(runs, repeats)
    ours = timings.pop("ours")
    return [row(f"{title}, {name}", ours, peer) for name, peer in timings.items()]


def row(name: str, ours: Timing, peer: Timing) -> dict[str, Any]:
    return {
        "case": name,
        "unit": "µs",
        "ours": 1e6 / ours.rate,
        "peer": 1e6 / peer.rate,
        "ratio": ours.rate / peer.rate,
        "ours_spread": ours.spread,
        "peer_spread": peer.spread,
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows, sampler = [], vllm()
    for kind, logits in made(options.rows, options.vocabulary, options.device).items():
        for what, settings in CASES.items():
            title = f"{options.rows} x {options.vocabulary} {kind}, {what}"
            rows += compared(logits, settings, sampler, options.repeats, title)
    device = "cpu, one thread" if options.device == "cpu" else torch.cuda.get_device_name()
    facts = {**machine(("torch", "transformers", "vllm")), "device": device}
    print_table(facts, rows, "µs")
    save("sampling_vs_peers", facts, rows)


if __name__ == "__main__":
    main()
