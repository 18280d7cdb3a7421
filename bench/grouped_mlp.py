"""Many small experts at once (`kernels.grouped_mlp`): time against what users run today.

Peers: a loop over experts in PyTorch, as models are written; ``torch._grouped_mm`` on tokens sorted by expert, as
transformers and torchtitan call it, where it takes the device's dtype; a dense network of as many weights, whatever k
is (SMoE-Dropout's own yardstick); and, as the floor, the bare matrix products on rows that somebody has already
sorted. Results and gradients of all that compute the same are asserted equal to float64 on some of the tokens before
anything is timed. Medians of turns; ratios above 1 mean that ours is faster.

    python bench/grouped_mlp.py [--shapes 11264x256x512x16 ...] [--top 1 2 8 16] [--repeats 7]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _measure import Timing, machine, print_table, save
from logprob_vs_peers import timed
from selfplay_fast.kernels.grouped_mlp import grouped_mlp, grouped_mlp_reference
from torch import Tensor

GPU_SHAPES = ("11264x256x512x16", "16384x1024x1024x64")  # tokens, width, units of an expert, experts
CPU_SHAPES = ("2048x256x512x16",)
SOME = 256  # tokens on which results are compared with the reference


class Problem(NamedTuple):
    """Inputs of one layer, and the upstream gradient."""

    x: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    index: Tensor
    gate: Tensor
    up: Tensor

    def leaves(self) -> list[Tensor]:
        return [t for t in self[:-1] if t.is_floating_point()]

    def head(self, dtype: torch.dtype) -> Problem:
        x, w1, b1, w2, b2, index, gate, up = self
        tensors = (x[:SOME], w1, b1, w2, b2, index[:SOME], gate[:SOME])
        copies = (t.detach().to(dtype).requires_grad_() if t.is_floating_point() else t for t in tensors)
        return Problem(*copies, up[:SOME].to(dtype))


Function = Callable[[Problem], Tensor]


def problem(
    tokens: int, width: int, units: int, experts: int, top: int, device: str, dtype: torch.dtype
) -> Problem:
    """A random router that never learns chooses, as in SMoE-Dropout; the weights are its layer's."""
    torch.manual_seed(0)
    x = torch.randn(tokens, width, device=device)
    values, index = (x @ torch.randn(width, experts, device=device) / width**0.5).topk(top)
    w1 = torch.randn(experts, units, width, device=device) / width**0.5
    w2 = torch.randn(experts, units, width, device=device) / units**0.5
    b1, b2 = torch.randn(experts, units, device=device), torch.randn(experts, width, device=device)
    up = torch.randn(tokens, width, device=device).to(dtype)
    leaves = [t.to(dtype).requires_grad_() for t in (x, w1, b1, w2, b2)]
    return Problem(*leaves, index, values.softmax(-1).to(dtype).requires_grad_(), up)


def ours(p: Problem) -> Tensor:
    return grouped_mlp(*p[:-1])


def reference(p: Problem) -> Tensor:
    return grouped_mlp_reference(*p[:-1])


def loop(p: Problem) -> Tensor:
    y = torch.zeros_like(p.up)
    for e in range(len(p.w1)):
        rows, place = (p.index == e).nonzero(as_tuple=True)
        hidden = torch.addmm(p.b1[e], p.x[rows], p.w1[e].T).relu()
        y = y.index_add(0, rows, torch.addmm(p.b2[e], hidden, p.w2[e]) * p.gate[rows, place, None])
    return y


def torch_grouped(p: Problem) -> Tensor:
    flat = p.index.flatten()
    order = flat.argsort(stable=True)
    chosen = flat[order]
    ends = torch.histc(flat.float(), len(p.w1), 0, len(p.w1) - 1).cumsum(0).int()
    hidden = torch._grouped_mm(p.x[order // p.index.shape[1]], p.w1.transpose(1, 2), offs=ends)
    out = torch._grouped_mm((hidden + p.b1[chosen]).relu(), p.w2, offs=ends) + p.b2[chosen]
    pairs = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return (out[pairs].view(*p.index.shape, -1) * p.gate[..., None]).sum(1)


def dense(p: Problem) -> Tensor:
    """One network with the weights of all experts."""
    hidden = torch.addmm(p.b1.flatten(), p.x, p.w1.flatten(0, 1).T).relu()
    return torch.addmm(p.b2.sum(0), hidden, p.w2.flatten(0, 1))


def products(p: Problem) -> Tensor:
    """The two products, pair by pair as they lie: an equal share of the pairs for every expert."""
    tokens, top = p.index.shape
    share = -(-tokens * top // len(p.w1))
    rows = p.x[torch.arange(share * len(p.w1), device=p.x.device) % tokens].view(len(p.w1), share, -1)
    return torch.bmm(torch.bmm(rows, p.w1.transpose(1, 2)), p.w2)


def backward(function: Function, p: Problem) -> None:
    for leaf in p.leaves():
        leaf.grad = None
    y = function(p)
    y.backward(p.up if y.shape == p.up.shape else torch.ones_like(y))


def assert_right(name: str, function: Function, p: Problem) -> str:
    """Result and gradients of SOME tokens against float64; says the largest errors."""
    some, exact = p.head(p.x.dtype), p.head(torch.float64)
    with torch.no_grad():
        y, truth = function(some), reference(exact)
    backward(function, some)
    backward(reference, exact)
    errors = [float((y - truth).norm() / truth.norm())]
    for mine, right in zip(some.leaves(), exact.leaves(), strict=True):
        assert mine.grad is not None
        assert right.grad is not None
        errors.append(float((mine.grad - right.grad).norm() / right.grad.norm()))
    text = f"{name}: y {errors[0]:.0e}, gradients {max(errors[1:]):.0e}"
    assert max(errors) <= (1e-5 if p.x.dtype == torch.float32 else 2e-2), text
    return text


def peers(p: Problem) -> dict[str, Function]:
    found: dict[str, Function] = {"a loop over experts": loop}
    try:
        backward(torch_grouped, p.head(p.x.dtype))
    except (AttributeError, RuntimeError) as error:
        print(f"torch._grouped_mm: not usable here: {str(error).splitlines()[0]}")
    else:
        found["torch._grouped_mm"] = torch_grouped
    return found


def rows_of(shape: str, top: int, device: str, dtype: torch.dtype, repeats: int) -> list[dict[str, Any]]:
    tokens, width, units, experts = map(int, shape.split("x"))
    p = problem(tokens, width, units, experts, top, device, dtype)
    functions = {"ours": ours, **peers(p)}
    for name, function in functions.items():
        print(assert_right(name, function, p), flush=True)
    functions |= {"a dense network": dense, "bare products": products}
    rows = []
    for case in ("forward", "forward and backward"):
        found: dict[str, list[float]] = {name: [] for name in functions}
        for turn in range(repeats + 1):
            for name, function in functions.items():
                run: Callable[[], object] = lambda f=function: backward(f, p)  # noqa: E731
                if case == "forward":
                    run = torch.no_grad()(lambda f=function: f(p))
                seconds, _ = timed(run, device)
                if turn > 0:  # the first warms up
                    found[name].append(seconds)
        timings = {name: Timing(seconds=tuple(times), work=tokens) for name, times in found.items()}
        mine = timings.pop("ours")
        for name, peer in timings.items():
            rows.append(
                {
                    "case": f"{shape}, {str(dtype)[6:]}, k = {top}, {case}, against {name}",
                    "unit": "tokens/s",
                    "ours": mine.rate,
                    "peer": peer.rate,
                    "ratio": mine.rate / peer.rate,
                    "ours_spread": mine.spread,
                    "peer_spread": peer.spread,
                }
            )
            print(rows[-1]["case"], f"{rows[-1]['ratio']:.3f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--shapes", nargs="+", default=GPU_SHAPES if device == "cuda" else CPU_SHAPES)
    parser.add_argument("--top", nargs="+", type=int, default=(1, 2, 8, 16))
    parser.add_argument("--dtype", default="bfloat16" if device == "cuda" else "float32")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, options.dtype)
    rows = [
        row
        for shape in options.shapes
        for top in options.top
        for row in rows_of(shape, top, device, dtype, options.repeats)
    ]
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu, one thread"
    facts = {**machine(["torch", "triton"]), "device": name}
    print_table(facts, rows, "tokens/s")
    save("grouped_mlp", facts, rows)


if __name__ == "__main__":
    main()
