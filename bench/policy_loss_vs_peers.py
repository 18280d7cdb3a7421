"""A policy loss (PPO clip with an entropy bonus) and its gradients, against what users run today.

Peers: the whole formula in PyTorch; the same loss on the log-probs of TRL's head (``ChunkedLogProbFunction``), where
it is installed; the same on our `token_logprobs`; and, as the floor, the bare matrix products: three, or two where the
head is frozen. "Own gradient": the head's gradient is added to a float32 tensor that is there already. Loss and
gradients of all are asserted equal to float64 and to PyTorch's in float32 on some tokens before anything is timed.
Medians of turns; ratios above 1 mean that ours is faster. Memory is what is allocated beyond inputs and results.

    python bench/policy_loss_vs_peers.py [--shapes 16384x2560x151936 ...] [--repeats 7]
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import logprob_vs_peers as heads
import torch
from _measure import Timing, machine, print_table, save
from torch import Tensor

from selfplay_fast.learn.losses import PolicyLoss, policy_loss, ppo_clip_loss

LOSS = PolicyLoss(surrogate=ppo_clip_loss(0.2), entropy_coef=0.01)


class Case(NamedTuple):
    """A problem of the head, and what the loss reads besides."""

    head: heads.Problem
    old: Tensor
    weight_grad: Tensor | None = None

    @property
    def advantages(self) -> Tensor:
        return self.head.up


Function = Callable[[Case], Tensor]


def ours(case: Case) -> Tensor:
    hidden, weight, targets = case.head[:3]
    return policy_loss(
        hidden, weight, targets, LOSS, case.advantages, old_logprobs=case.old, temperature=heads.TEMPERATURE,
        weight_grad=case.weight_grad,
    )[0]  # fmt: skip


def on(function: heads.Function) -> Function:
    """The same formula on somebody's log-probs and entropies, with autograd."""

    def loss(case: Case) -> Tensor:
        logprobs, entropy = function(case.head)
        assert entropy is not None
        return LOSS(logprobs, entropy, case.advantages, case.old).sum()

    return loss


def peers() -> dict[str, Function]:
    found = {"PyTorch": on(heads.naive), "token_logprobs": on(heads.ours)}
    if importlib.util.find_spec("trl") is not None:
        found["TRL"] = on(heads.trl)
    return found


def run(function: Function, case: Case) -> Tensor:
    case.head.hidden.grad = case.head.weight.grad = None
    loss = function(case)
    loss.backward()
    return loss.detach()


def assert_right(name: str, function: Function, case: Case) -> str:
    """The loss against float64 and gradients against float32 autograd, on SOME tokens; says the relative errors."""
    head = case.head.head(heads.SOME)
    own = None if case.weight_grad is None else torch.zeros_like(case.weight_grad)
    some = Case(head, case.old[: heads.SOME], own)
    wide = head._replace(hidden=head.hidden.detach().float(), weight=head.weight.detach().float())
    truth = Case(wide, some.old)
    wide.hidden.requires_grad_(), wide.weight.requires_grad_(head.weight.requires_grad)
    mine, exact = run(function, some), run(on(heads.naive), truth)
    with torch.no_grad():
        double = wide._replace(hidden=wide.hidden.double(), weight=wide.weight.double())
        parts = [
            double._replace(hidden=double.hidden[i : i + 64], targets=double.targets[i : i + 64])
            for i in range(0, heads.SOME, 64)
        ]
        columns = [heads.token_logprobs_reference(*part[:3], heads.TEMPERATURE)[:2] for part in parts]
        logprobs, entropy = (torch.cat(column) for column in zip(*columns, strict=True))
        exact = LOSS(logprobs, entropy, some.advantages.double(), some.old.double()).sum()
    errors = [float((mine - exact).abs() / exact.abs())]
    given = head.hidden.grad, head.weight.grad if own is None else own
    for a, b in zip(given, (wide.hidden, wide.weight), strict=True):
        if b.requires_grad:
            assert a is not None
            assert b.grad is not None
            errors.append(float((a - b.grad).norm() / b.grad.norm()))
    head.hidden.grad = head.weight.grad = None
    text = f"{name}: loss, gradients: " + ", ".join(f"{error:.0e}" for error in errors)
    assert max(errors) <= (1e-2 if function is ours else 5e-2), text
    return text


def rows_of(shape: str, device: str, repeats: int) -> list[dict[str, Any]]:
    tokens, width, vocabulary = map(int, shape.split("x"))
    head = heads.problem(tokens, width, vocabulary, device)
    with torch.no_grad():
        old = heads.ours(head)[0] + 0.1 * torch.randn(tokens, device=device)
    out = head.hidden.new_empty(tokens, vocabulary)
    left, right = head.hidden.detach(), head.weight.detach().T
    frozen = Case(head._replace(weight=head.weight.detach()), old)
    own = Case(head, old, torch.zeros(head.weight.shape, device=device))
    functions = {"ours": ours, **peers()}
    for case in (Case(head, old), frozen):
        for name, function in functions.items():
            print(assert_right(name, function, case), flush=True)
    print(assert_right("ours, own gradient", ours, own), flush=True)
    rows = []
    for title, case, products in (
        ("trained head", Case(head, old), 3), ("own gradient", own, 3), ("frozen head", frozen, 2)
    ):  # fmt: skip
        plain = case._replace(weight_grad=None)
        runs: dict[str, Callable[[], object]] = {
            name: lambda f=function, c=case if function is ours else plain: run(f, c)
            for name, function in functions.items()
        }
        runs["matrix products"] = lambda n=products: [torch.mm(left, right, out=out) for _ in range(n)]
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in runs}
        for turn in range(repeats + 1):
            for name, function in runs.items():
                head.hidden.grad = head.weight.grad = None
                seconds = heads.timed(function, device)
                if turn > 0:  # the first warms up
                    found[name].append(seconds)
        kept = sum(x.numel() * x.element_size() for x in (head.hidden, case.head.weight) if x.requires_grad)
        for peer, times in found.items():
            if peer == "ours":
                continue
            mine, theirs = (
                Timing(seconds=tuple(t for t, _ in x), work=tokens) for x in (found["ours"], times)
            )
            rows.append(
                {
                    "case": f"{shape}, {title}, against {peer}",
                    "unit": "tokens/s",
                    "ours": mine.rate,
                    "peer": theirs.rate,
                    "ratio": mine.rate / theirs.rate,
                    "ours_spread": mine.spread,
                    "peer_spread": theirs.spread,
                    "ours_mib": max(0, max(b for _, b in found["ours"]) - (0 if case is own else kept))
                    / 2**20,
                    "peer_mib": max(0, max(b for _, b in times) - kept) / 2**20,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument(
        "--shapes", nargs="+", default=heads.GPU_SHAPES if device == "cuda" else heads.CPU_SHAPES
    )
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for shape in options.shapes for row in rows_of(shape, device, options.repeats)]
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu, one thread"
    facts = {**machine(["torch", "triton", "trl"]), "device": name}
    print_table(facts, rows, "tokens/s")
    save("policy_loss_vs_peers", facts, rows)


if __name__ == "__main__":
    main()
