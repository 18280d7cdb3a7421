"""`update`: the only function that changes weights.

The batch runs as prefix trees (`policies.prefix_forward`): each distinct token once, log-probs without stored
logits, the loss on every (sample, token). The keys and values of a shared prefix are detached; their gradient
is gathered over the micro-batches and sent through the prefix once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfplay_fast._native import TokenTree
from selfplay_fast.kernels.token_logprobs import token_logprobs
from selfplay_fast.learn.losses import TokenLoss, k2_kl
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.prefix_forward import (
    Cache,
    HiddenBlock,
    block_batches,
    build_tree,
    head_weight,
    prefill,
    prefix_groups,
    run_blocks,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """How one batch becomes optimizer steps.

    ``epochs`` passes over the batch, one optimizer step each. The log-probs of the first pass are the "old" ones
    of the ratio, as in the released SPIRAL code, which recomputes them with the learner. ``magnet`` is the
    weight of a k2 KL penalty towards ``reference`` (see `recipes.spiral`). ``max_grad_norm`` clips.
    """

    loss: TokenLoss
    epochs: int = 1
    max_grad_norm: float = 1.0
    magnet: float = 0.0
    block_tokens: int = 128
    max_batch_tokens: int = 16384


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Group:
    """One prefix tree and, for each of its scored tokens in tree order, its place in the batch's arrays."""

    tree: TokenTree
    tokens: NDArray[np.int64]  # [S] index into the batch's per-token arrays
    order: NDArray[np.int64]  # [S] scored tokens sorted by pair
    pair: NDArray[np.int64]  # [S] pair of each, in that order


def _groups(batch: TokenBatch, block_tokens: int) -> list[_Group]:
    groups = []
    for index in prefix_groups(batch.sequences):
        tree = build_tree([batch.sequences[i] for i in index], batch.first[index].tolist(), block_tokens)
        tokens = np.concatenate([np.arange(batch.offsets[i], batch.offsets[i + 1]) for i in index])
        order = np.argsort(tree.pair_of_scored, kind="stable")
        groups.append(_Group(tree=tree, tokens=tokens, order=order, pair=tree.pair_of_scored[order]))
    return groups


def _each_block(
    model: Any,
    group: _Group,
    max_tokens: int,
    visit: Callable[[HiddenBlock, NDArray[np.int64], Tensor], Tensor | None],
) -> None:
    """Call ``visit(block, tokens, pair)`` per micro-batch; backpropagate the loss it returns, prefix included.

    ``tokens`` [S'] indexes the batch's per-token arrays, ``pair`` [S'] the block's rows of hidden.
    """
    tree = group.tree
    prefix: Cache = prefill(model, tree.shared) if len(tree.shared) else []
    training = torch.is_grad_enabled()
    leaves: Cache = [
        (k.detach().requires_grad_(training), v.detach().requires_grad_(training)) for k, v in prefix
    ]
    for run in block_batches(tree, max_tokens):
        block = run_blocks(model, tree, leaves, run)
        first, last = np.searchsorted(group.pair, [block.pairs.start, block.pairs.stop])
        pair = torch.as_tensor(group.pair[first:last] - block.pairs.start, device=block.hidden.device)
        loss = visit(block, group.tokens[group.order[first:last]], pair)
        if loss is not None:
            loss.backward()
    if training and prefix:
        flat = [
            (out, leaf.grad)
            for o, l in zip(prefix, leaves, strict=True)
            for out, leaf in zip(o, l, strict=True)
        ]
        used = [(out, grad) for out, grad in flat if grad is not None]
        torch.autograd.backward([out for out, _ in used], [grad for _, grad in used])


def batch_logprobs(
    policy: LanguageModel, batch: TokenBatch, *, block_tokens: int, max_batch_tokens: int
) -> Tensor:
    """Log-prob [T] of every completion token of the batch under the policy, without gradient."""
    model = policy.model
    logprobs = torch.zeros(int(batch.offsets[-1]), device=model.device)

    def visit(block: HiddenBlock, tokens: NDArray[np.int64], pair: Tensor, tree: TokenTree) -> None:
        logp, _ = _pair_logprobs(model, block, tree, batch.temperature)
        logprobs[torch.as_tensor(tokens, device=logp.device)] = logp[pair]

    with torch.no_grad():
        for group in _groups(batch, block_tokens):
            _each_block(model, group, max_batch_tokens, lambda b, t, p, tree=group.tree: visit(b, t, p, tree))
    return logprobs


def _pair_logprobs(
    model: Any, block: HiddenBlock, tree: TokenTree, temperature: float
) -> tuple[Tensor, Tensor]:
    targets = torch.as_tensor(tree.pair_target[block.pairs], device=block.hidden.device)
    result = token_logprobs(
        block.hidden, head_weight(model), targets, temperature=temperature, return_entropy=True
    )
    assert isinstance(result, tuple)
    return result


def update(
    policy: LanguageModel,
    optimizer: torch.optim.Optimizer,
    batch: TokenBatch,
    settings: Update,
    *,
    reference: LanguageModel | None = None,
) -> dict[str, float]:
    """Improve the policy on one batch and return metrics.

    Raises FloatingPointError, before the weights are touched, when the loss or the gradient is not finite.
    """
    model = policy.model
    model.train()
    groups = _groups(batch, settings.block_tokens)
    device = model.device
    columns = {
        name: torch.as_tensor(getattr(batch, name), device=device)
        for name in ("advantages", "weights", "sampler_logprobs")
    }
    anchor = None
    if settings.magnet > 0:
        if reference is None:
            raise ValueError("reference: a magnet needs the policy it pulls towards")
        anchor = batch_logprobs(
            reference, batch, block_tokens=settings.block_tokens, max_batch_tokens=settings.max_batch_tokens
        )
    old = torch.zeros_like(columns["advantages"])
    metrics: dict[str, float] = {}
    for epoch in range(settings.epochs):
        optimizer.zero_grad(set_to_none=True)
        sums = _Sums()

        def visit(block: HiddenBlock, tokens: NDArray[np.int64], pair: Tensor, tree: TokenTree) -> Tensor:
            pair_logp, pair_entropy = _pair_logprobs(model, block, tree, batch.temperature)
            place = torch.as_tensor(tokens, device=device)
            logp = pair_logp[pair]
            if epoch == 0:
                old[place] = logp.detach()
            weights = columns["weights"][place]
            terms = settings.loss(logp, old[place], columns["advantages"][place])
            if anchor is not None:
                terms = terms + settings.magnet * k2_kl(logp, anchor[place])
            loss = (weights * terms).sum()
            sums.add(
                loss, logp, old[place], pair_entropy[pair], columns["sampler_logprobs"][place], weights > 0
            )
            return loss

        for group in groups:
            _each_block(
                model, group, settings.max_batch_tokens, lambda b, t, p, tree=group.tree: visit(b, t, p, tree)
            )
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        if not (np.isfinite(sums.loss) and bool(torch.isfinite(norm))):
            optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"loss {sums.loss} or gradient norm {float(norm)} is not finite; the weights are unchanged"
            )
        optimizer.step()
        policy.version += 1
        metrics |= sums.metrics(first=epoch == 0) | ({"grad_norm": float(norm)} if epoch == 0 else {})
    model.eval()
    computed = sum(g.tree.num_computed_tokens for g in groups)
    return metrics | {"distinct_tokens": float(computed), "sharing": batch.num_tokens / computed}


class _Sums:
    """Totals over the micro-batches of one epoch."""

    def __init__(self) -> None:
        self.loss = self.entropy = self.ratio = self.mismatch = 0.0
        self.tokens = 0

    def add(
        self, loss: Tensor, logp: Tensor, old: Tensor, entropy: Tensor, sampler: Tensor, trained: Tensor
    ) -> None:
        with torch.no_grad():
            self.loss += float(loss)
            self.tokens += int(trained.sum())
            self.entropy += float(entropy[trained].sum())
            self.ratio += float((logp - old)[trained].exp().sum())
            gap = (logp - sampler)[trained]
            self.mismatch += float((gap.exp() - gap - 1).sum())  # k3 estimate of KL(sampler || trainer)

    def metrics(self, *, first: bool) -> Mapping[str, float]:
        count = max(self.tokens, 1)
        if not first:
            return {"ratio": self.ratio / count}
        return {
            "loss": self.loss,
            "entropy": self.entropy / count,
            "sampler_kl": self.mismatch / count,
            "trained_tokens": float(self.tokens),
        }
