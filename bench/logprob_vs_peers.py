"""Log-probability and entropy of tokens from hidden states and head: time and memory, against what users run today.

Peers: the whole formula in PyTorch; the head of TRL (``ChunkedLogProbFunction``), where it is installed; the
cross-entropy of Liger, which knows neither entropy nor temperature, on a GPU; and, as the floor, the
bare matrix products that any such function needs: one forward, four forward and backward. Values and gradients of all
are asserted equal to float64 and to PyTorch's in float32 on some of the tokens before anything is timed.
Medians of turns; ratios above 1 mean that ours is faster. Memory is what is allocated beyond inputs and results.

    python bench/logprob_vs_peers.py [--shapes 16384x2560x151936 ...] [--repeats 7]
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _measure import Timing, machine, peak_resident, print_table, save
from selfplay_fast.kernels.token_logprobs import token_logprobs, token_logprobs_reference
from torch import Tensor

GPU_SHAPES = ("16384x2560x151936", "16384x4096x128256")  # tokens, width, vocabulary: of 4B and 8B models
CPU_SHAPES = ("4096x512x32000",)
TEMPERATURE = 0.8
SOME = 512  # tokens on which results are compared with the reference


class Problem(NamedTuple):
    """Inputs, upstream gradients of both outputs, and where the gradients go."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    up: Tensor
    up_entropy: Tensor

    def head(self, count: int) -> Problem:
        hidden, weight, targets, up, up_entropy = self
        some = hidden[:count].detach().clone().requires_grad_()
        return Problem(some, weight, targets[:count], up[:count], up_entropy[:count])


Function = Callable[[Problem], tuple[Tensor, Tensor | None]]


def problem(tokens: int, width: int, vocabulary: int, device: str) -> Problem:
    """Logits of standard deviation 3, targets drawn from them for half of the tokens."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device=device).to(dtype)
    weight = (torch.randn(vocabulary, width, device=device) * 3 * TEMPERATURE / width**0.5).to(dtype)
    targets = torch.randint(vocabulary, (tokens,), device=device)
    for rows in range(0, tokens // 2, 256):
        targets[rows : rows + 256] = (hidden[rows : rows + 256] @ weight.T).float().softmax(-1).argmax(-1)
    up = torch.randn(tokens, device=device)
    return Problem(hidden.requires_grad_(), weight.requires_grad_(), targets, up, 0.1 * torch.randn_like(up))


def ours(p: Problem) -> tuple[Tensor, Tensor]:
    logprobs, entropy = token_logprobs(
        p.hidden, p.weight, p.targets, temperature=TEMPERATURE, return_entropy=True
    )
    return logprobs, entropy


def naive(p: Problem) -> tuple[Tensor, Tensor]:
    logits = (p.hidden @ p.weight.T).float() / TEMPERATURE
    logp = logits.log_softmax(-1)
    return logp.gather(-1, p.targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def trl(p: Problem) -> tuple[Tensor, Tensor]:
    from trl.kernels import ChunkedLogProbFunction

    outputs = ChunkedLogProbFunction.apply(
        p.hidden, p.weight, None, p.targets, TEMPERATURE, 4096, None, 1.0, ("entropy",)
    )
    return outputs[0], outputs[1]


def liger(p: Problem) -> tuple[Tensor, None]:
    """At temperature 1; it averages, so all tokens have one upstream gradient."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    return -LigerFusedLinearCrossEntropyFunction.apply(p.hidden, p.weight, p.targets)[0], None


def peers(device: str) -> dict[str, Function]:
    found: dict[str, Function] = {"PyTorch": naive}
    if importlib.util.find_spec("trl") is not None:
        found["TRL"] = trl
    if device == "cuda" and importlib.util.find_spec("liger_kernel") is not None:
        found["Liger"] = liger
    return found


def backward(function: Function, p: Problem) -> None:
    p.hidden.grad = p.weight.grad = None
    logprobs, entropy = function(p)
    if entropy is None:
        logprobs.backward()
    else:
        torch.autograd.backward([logprobs, entropy], [p.up, p.up_entropy])


def assert_right(name: str, function: Function, p: Problem) -> str:
    """Values against float64 and gradients against autograd in float32, on SOME tokens; says the largest errors."""
    some = p.head(SOME)
    wide = Problem(*(t.detach().float() for t in (some.hidden, some.weight)), *some[2:])
    wide.hidden.requires_grad_(), wide.weight.requires_grad_()
    with torch.no_grad():
        logprobs, entropy = function(some)
        temperature = 1.0 if entropy is None else TEMPERATURE
        exact = [
            token_logprobs_reference(wide.hidden[i : i + 64].double(), wide.weight.double(),
                                     some.targets[i : i + 64], temperature)
            for i in range(0, SOME, 64)
        ]  # fmt: skip
    if entropy is None:
        error = float((logprobs - torch.cat([truth for truth, *_ in exact]).mean()).abs())
        assert error <= 0.01, f"{name}: mean log-prob {error:.0e}"
        return f"{name}: mean log-prob {error:.0e}"
    errors = [
        float((mine.double() - torch.cat(truth)).abs().max())
        for mine, truth in zip((logprobs, entropy), list(zip(*exact, strict=True))[:2], strict=True)
    ]
    backward(function, some)
    backward(naive, wide)
    for mine, truth in ((some.hidden, wide.hidden), (some.weight, wide.weight)):
        assert mine.grad is not None
        assert truth.grad is not None
        errors.append(float((mine.grad - truth.grad).norm() / truth.grad.norm()))
        mine.grad = None
    text = "{}: log-prob {:.0e}, entropy {:.0e}, d hidden {:.0e}, d weight {:.0e}".format(name, *errors)
    bounds = (2e-3, 1e-4, 1e-2, 1e-2) if function is ours else (0.2, 0.2, 5e-2, 5e-2)
    assert all(error <= bound for error, bound in zip(errors, bounds, strict=True)), text
    return text


def timed(run: Callable[[], object], device: str) -> tuple[float, int]:
    """Seconds, and the most bytes allocated beyond what there was before."""
    if device == "cpu":
        began = time.perf_counter()
        held = peak_resident(run)
        return time.perf_counter() - began, held
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000, torch.cuda.max_memory_allocated() - before


def rows_of(shape: str, device: str, repeats: int) -> list[dict[str, Any]]:
    tokens, width, vocabulary = map(int, shape.split("x"))
    p = problem(tokens, width, vocabulary, device)
    functions = {"ours": ours, **peers(device)}
    for name, function in functions.items():
        print(assert_right(name, function, p), flush=True)
    out = p.hidden.new_empty(tokens, vocabulary)
    left, right = p.hidden.detach(), p.weight.detach().T
    masked = p._replace(up=p.up.clone(), up_entropy=p.up_entropy.clone())
    masked.up[tokens // 4 :] = masked.up_entropy[tokens // 4 :] = 0
    results = (p.hidden.numel() + p.weight.numel()) * p.hidden.element_size()  # the gradients

    def forward(function: Function) -> Callable[[], object]:
        return torch.no_grad()(lambda: function(p))

    def both(function: Function, of: Problem = p) -> Callable[[], object]:
        return lambda: backward(function, of)

    rows = []
    for case, runs, products in (
        ("forward", {n: forward(f) for n, f in functions.items()}, 1),
        ("forward and backward", {n: both(f) for n, f in functions.items()}, 4),
        ("the same, 3/4 of the tokens masked", {"ours": both(ours, masked), "unmasked": both(ours)}, 4),
    ):
        runs["matrix products"] = lambda n=products: [torch.mm(left, right, out=out) for _ in range(n)]
        for run in runs.values():
            run()
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                p.hidden.grad = p.weight.grad = None
                found[name].append(timed(run, device))
        timings = {
            name: Timing(seconds=tuple(t for t, _ in times), work=tokens) for name, times in found.items()
        }
        kept = 0 if products == 1 else results
        beyond = {name: max(0, max(b for _, b in times) - kept) / 2**20 for name, times in found.items()}
        for peer in runs:
            if peer == "ours":
                continue
            rows.append(
                {
                    "case": f"{shape}, {case}, against {peer}",
                    "unit": "tokens/s",
                    "ours": timings["ours"].rate,
                    "peer": timings[peer].rate,
                    "ratio": timings["ours"].rate / timings[peer].rate,
                    "ours_spread": timings["ours"].spread,
                    "peer_spread": timings[peer].spread,
                    "ours_mib": beyond["ours"],
                    "peer_mib": beyond[peer],
                }
            )
            print(
                rows[-1]["case"],
                f"{rows[-1]['ratio']:.3f}",
                f"{beyond['ours']:.0f} / {beyond[peer]:.0f} MiB",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--shapes", nargs="+", default=GPU_SHAPES if device == "cuda" else CPU_SHAPES)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for shape in options.shapes for row in rows_of(shape, device, options.repeats)]
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu, one thread"
    facts = {**machine(["torch", "triton", "trl", "liger_kernel"]), "device": name}
    print_table(facts, rows, "tokens/s")
    save("logprob_vs_peers", facts, rows)


if __name__ == "__main__":
    main()
