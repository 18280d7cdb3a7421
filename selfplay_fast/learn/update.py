"""`update`: the only function that changes weights.

The batch runs as prefix trees (`policies.prefix_forward`): shared prefixes and equal samples once, log-probs without
stored logits, the loss on every (sample, token). The keys and values of a shared prefix are detached; their gradient
is gathered over the micro-batches and sent through the prefix once. Micro-batches are gradient accumulation: a batch
may be of any size, and memory holds ``max_batch_tokens`` of it. Where there are several ranks (`learn.distributed`),
every one is given the whole batch and learns from its share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfplay_fast._native import TokenTree
from selfplay_fast.learn import distributed
from selfplay_fast.learn.losses import Surrogate, k2_kl, negative_log_likelihood, truncated_importance
from selfplay_fast.learn.packing import TokenBatch, dealt, minibatches
from selfplay_fast.policies.adapters import without_adapters
from selfplay_fast.policies.base import Learner
from selfplay_fast.policies.prefix_forward import (
    Cache,
    HiddenBlock,
    PrefixTree,
    block_batches,
    prefix_trees,
    run_blocks,
    shared_cache,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """How one batch becomes optimizer steps.

    ``epochs`` passes over the batch, one optimizer step for each ``minibatch`` samples in their order, or for all of
    them. The log-probs before the first step are the "old" ones of the ratio: the learner's, as in the released SPIRAL
    code, or those that the sampler has told (``old``), which saves a pass where there are minibatches. ``rates`` are
    the learning rates of the steps, the last for all after it; none: the optimizer's own. ``magnet`` is the weight of a
    KL penalty towards ``reference`` (see `recipes.spiral`), estimated by ``kl``. ``max_grad_norm`` clips.
    ``max_importance`` weighs the loss of each token by `truncated_importance` with that limit; None: not at all. A loss
    beyond ``max_loss`` has exploded. ``token_mean``: each optimizer step takes the mean over the trained tokens of its
    own samples, whatever the batch's weights sum to.
    """

    loss: Surrogate
    epochs: int = 1
    minibatch: int | None = None
    old: Literal["learner", "sampler"] = "learner"
    rates: Sequence[float] = ()
    max_grad_norm: float = 1.0
    magnet: float = 0.0
    kl: Callable[[Tensor, Tensor], Tensor] = k2_kl
    max_importance: float | None = None
    max_loss: float = 1e6
    token_mean: bool = False
    block_tokens: int = 512
    max_batch_tokens: int = 16384

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs: must be at least 1, got {self.epochs}")
        if self.old not in ("learner", "sampler"):
            raise ValueError(f"old: must be 'learner' or 'sampler', got {self.old!r}")
        if self.minibatch is not None and self.minibatch < 1:
            raise ValueError(
                f"minibatch: must be at least 1, got {self.minibatch}; None takes the whole batch"
            )
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm: must be > 0, got {self.max_grad_norm}")
        if not self.magnet >= 0:
            raise ValueError(f"magnet: must be >= 0, got {self.magnet}")
        if self.max_importance is not None and not self.max_importance > 0:
            raise ValueError(f"max_importance: must be > 0, got {self.max_importance}")
        if self.max_importance is not None and self.old == "sampler":
            raise ValueError(
                "max_importance: does nothing where old is 'sampler', whose ratio to itself is 1; leave it None"
            )
        if not self.max_loss > 0:
            raise ValueError(f"max_loss: must be > 0, got {self.max_loss}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Beside:
    """What every optimizer step learns from besides: ``weight`` times the loss on the next of ``batches``.

    With demonstrations this is PTX, which keeps a policy from forgetting (Ouyang et al. 2022, arXiv 2203.02155, Eq. 2).
    """

    batches: Iterator[TokenBatch]
    weight: float = 1.0
    loss: Surrogate = negative_log_likelihood


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Group:
    """One prefix tree and, for each of its scored tokens in tree order, its place in the batch's arrays."""

    tree: PrefixTree
    tokens: NDArray[np.int64]  # [S] index into the batch's per-token arrays
    order: NDArray[np.int64]  # [S] scored tokens sorted by pair
    pair: NDArray[np.int64]  # [S] pair of each, in that order


def _groups(policy: Learner, batch: TokenBatch, settings: Update) -> list[_Group]:
    trees = prefix_trees(
        batch.sequences,
        batch.first.tolist(),
        policy.attention,
        block_tokens=settings.block_tokens,
        max_tokens=settings.max_batch_tokens,
    )
    groups = []
    for tree in trees:
        pair = tree.nodes.pair_of_scored
        tokens = np.concatenate([np.arange(batch.offsets[i], batch.offsets[i + 1]) for i in tree.index])
        order = np.argsort(pair, kind="stable")
        groups.append(_Group(tree=tree, tokens=tokens, order=order, pair=pair[order]))
    return groups


# visit(tree, block, tokens, pair): tokens [S'] index the batch's per-token arrays, pair [S'] the rows of block.hidden
Visit = Callable[[TokenTree, HiddenBlock, NDArray[np.int64], Tensor], "Tensor | None"]


def _each_block(model: Any, group: _Group, max_tokens: int, visit: Visit) -> None:
    """Call ``visit`` per micro-batch; backpropagate the loss it returns, through the shared prefix once at the end."""
    tree = group.tree
    prefix = shared_cache(model, tree)
    training = torch.is_grad_enabled()
    leaves: Cache = [
        (keys.detach().requires_grad_(training), values.detach().requires_grad_(training))
        for keys, values in prefix
    ]
    for run in block_batches(tree, max_tokens):
        block = run_blocks(model, tree, leaves, run)
        first, last = np.searchsorted(group.pair, [block.pairs.start, block.pairs.stop])
        pair = torch.as_tensor(group.pair[first:last] - block.pairs.start, device=block.hidden.device)
        loss = visit(tree.nodes, block, group.tokens[group.order[first:last]], pair)
        if loss is not None:
            (loss * distributed.gradient_scale()).backward()
    if training and prefix:
        outputs, inputs = (list(chain.from_iterable(cache)) for cache in (prefix, leaves))
        torch.autograd.backward(outputs, [leaf.grad for leaf in inputs])


def _pair_logprobs(
    policy: Learner, tree: TokenTree, block: HiddenBlock, temperature: float
) -> tuple[Tensor, Tensor]:
    targets = torch.as_tensor(tree.pair_target[block.pairs], device=block.hidden.device)
    return policy.per_token(block.hidden, targets, temperature)


@torch.no_grad()
def _batch_logprobs(policy: Learner, batch: TokenBatch, settings: Update) -> Tensor:
    """Log-prob [T] of every completion token of the batch under another policy."""
    logprobs = torch.zeros(int(batch.offsets[-1]), device=policy.model.device)

    def visit(tree: TokenTree, block: HiddenBlock, tokens: NDArray[np.int64], pair: Tensor) -> None:
        pair_logp, _ = _pair_logprobs(policy, tree, block, batch.temperature)
        logprobs[torch.as_tensor(tokens, device=logprobs.device)] = pair_logp[pair]

    policy.model.eval()
    for group in _groups(policy, batch, settings):
        policy.forward_passes.add(group.tree.passes)
        _each_block(policy.model, group, settings.max_batch_tokens, visit)
    return logprobs


def batch_logprobs(
    policy: Learner, batch: TokenBatch, settings: Update, *, reference: Learner | None = None
) -> Tensor:
    """Log-prob of every completion token of the batch, float32 [T] on the CPU, under the policy or the ``reference``.

    The policy as its own reference stands for the model without its adapters. Ranks share the samples.
    """
    policy.forget()
    mine, parts = distributed.share()
    samples = np.arange(batch.num_samples)
    with distributed.together(), without_adapters(policy.model) if reference is policy else nullcontext():
        own = _batch_logprobs(reference or policy, batch.take(samples[mine::parts]), settings).cpu()
    found = torch.zeros(int(batch.offsets[-1]))
    for rank, logprobs in enumerate(distributed.gather(own)):
        lengths = np.diff(batch.offsets)[rank::parts]
        starts = np.repeat(batch.offsets[:-1][rank::parts] - np.cumsum(lengths) + lengths, lengths)
        found[torch.from_numpy(starts + np.arange(len(logprobs)))] = logprobs
    return found


class _Pass:
    """One pass over the batch: the loss of each micro-batch, and totals for the metrics.

    ``old`` [T] holds the log-probs of the ratio's denominator; None: this pass is on-policy and records them. ``own``
    [T] are the learner's, the old ones where those are its own.
    """

    def __init__(
        self,
        policy: Learner,
        batch: TokenBatch,
        settings: Update,
        old: Tensor | None,
        reference: Tensor | None,
    ) -> None:
        self.policy, self.settings, self.temperature = policy, settings, batch.temperature
        self.advantages, self.weights, self.sampler = (
            torch.as_tensor(column, device=policy.model.device)
            for column in (batch.advantages, batch.weights, batch.sampler_logprobs)
        )
        self.on_policy = old is None
        self.old = torch.zeros_like(self.advantages) if old is None else old
        self.own = torch.zeros_like(self.old) if settings.old == "sampler" else self.old
        self.reference = reference
        self.loss = self.entropy = self.ratio = self.magnet = 0.0
        self.tokens = 0

    def visit(self, tree: TokenTree, block: HiddenBlock, tokens: NDArray[np.int64], pair: Tensor) -> Tensor:
        pair_logp, pair_entropy = _pair_logprobs(self.policy, tree, block, self.temperature)
        place = torch.as_tensor(tokens, device=pair_logp.device)
        logp, weights = pair_logp[pair], self.weights[place]
        if self.on_policy or self.own is not self.old:
            self.own[place] = logp.detach()
        terms = self.settings.loss(logp, self.old[place], self.advantages[place])
        if self.settings.max_importance is not None:
            limit = self.settings.max_importance
            terms = truncated_importance(self.old[place], self.sampler[place], limit) * terms
        if self.reference is not None:
            pull = self.settings.kl(logp, self.reference[place])
            self.magnet += pull.detach()[weights > 0].sum().item()
            terms = terms + self.settings.magnet * pull
        loss = (weights * terms).sum()
        self._count(loss.detach(), logp.detach(), place, pair_entropy.detach()[pair], weights > 0)
        return loss

    def _count(self, loss: Tensor, logp: Tensor, place: Tensor, entropy: Tensor, trained: Tensor) -> None:
        self.loss += loss.item()
        self.tokens += int(trained.sum().item())
        self.entropy += entropy[trained].sum().item()
        self.ratio += (logp - self.old[place])[trained].exp().sum().item()

    def metrics(self, *, first: bool) -> dict[str, float]:
        """Of the passes of all ranks; of later passes than the first only what they change."""
        own = np.array([self.loss, self.entropy, self.ratio, self.magnet, self.tokens])
        loss, entropy, ratio, magnet, tokens = np.sum(distributed.gather(own), axis=0).tolist()
        count = max(tokens, 1)
        if not first:
            return {"loss": loss, "ratio": ratio / count}
        gaps = distributed.gather((self.own - self.sampler)[self.weights > 0].cpu())
        metrics = {
            "loss": loss,
            "entropy": entropy / count,
            "trained_tokens": tokens,
            **_mismatch(torch.cat(gaps)),
        }
        if not self.on_policy:
            metrics["ratio"] = ratio / count
        return metrics if self.reference is None else metrics | {"magnet_kl": magnet / count}


def _fault(loss: float, norm: float, max_loss: float) -> str | None:
    if not (np.isfinite(loss) and np.isfinite(norm)):
        return f"loss {loss:g} or gradient norm {norm:g} is not finite"
    if abs(loss) > max_loss:
        return f"loss {loss:g} has exploded: it is beyond max_loss {max_loss:g}"
    return None


def _mismatch(gap: Tensor) -> dict[str, float]:
    """gap = log p - log p_sampler [tokens]: how far the sampler is from the policy that learns; it should be nowhere.

    The k3 estimate of KL(sampler || policy), percentiles of the ratio exp(gap), and the share of ratios outside
    0.9 … 1.1.
    """
    if not len(gap):
        return {}
    ratio = gap.exp()
    ordered = ratio.sort().values
    ranks = {percent: round(percent / 100 * (len(gap) - 1)) for percent in (1, 50, 99)}
    return {
        "sampler_kl": (ratio - gap - 1).mean().item(),
        **{f"sampler_ratio/p{percent}": ordered[rank].item() for percent, rank in ranks.items()},
        "sampler_outside_share": ((ratio < 0.9) | (ratio > 1.1)).float().mean().item(),
    }


def update(
    policy: Learner,
    optimizer: torch.optim.Optimizer,
    batch: TokenBatch,
    settings: Update,
    *,
    reference: Learner | None = None,
    beside: Beside | None = None,
) -> dict[str, float]:
    """Improve the policy on one batch and return metrics, those of the first, on-policy pass where passes differ.

    A critic learns by `critic_update`, which is this.

    Raises FloatingPointError when a loss or gradient is not finite or a loss exploded; that step is not taken, on any
    rank. The policy as its own ``reference`` stands for the model without its adapters.
    """
    if settings.magnet > 0 and reference is None:
        raise ValueError("reference: a magnet needs the policy it pulls towards")
    model = policy.model
    if policy.attention == "flex" and model.device.type == "cpu":
        raise ValueError("attention: 'flex' has no backward pass on a CPU; make the policy with 'dense'")
    policy.forget()  # its memory is needed, and the weights will change
    model.eval()  # the log-probs of the sampler: no dropout
    whole = [batch] if settings.minibatch is None else minibatches(batch, settings.minibatch)
    if settings.token_mean:
        whole = [part.token_mean() for part in whole]
    with distributed.together():
        parts = [_part(policy, dealt(part, distributed.share()), settings, reference) for part in whole]
        for part in parts:
            if settings.old == "sampler":
                part.old = torch.as_tensor(part.batch.sampler_logprobs, device=model.device)
            elif len(parts) > 1:
                part.old = _batch_logprobs(policy, part.batch, settings)
    metrics: dict[str, float] = {}
    steps = 0
    for epoch in range(settings.epochs):
        passed = []
        for part in parts:
            if settings.rates:
                rate = settings.rates[min(steps, len(settings.rates) - 1)]
                for group in optimizer.param_groups:
                    group["lr"] = rate
            passed.append(_learn(policy, optimizer, part, settings, beside, first=epoch == 0))
            steps += 1
        metrics = _mean(passed) | metrics
    computed = sum(distributed.gather(sum(g.tree.computed_tokens for part in parts for g in part.groups)))
    return metrics | {"computed_tokens": float(computed), "sharing": batch.num_tokens / computed}


@dataclass(kw_only=True, slots=True, eq=False)
class _Part:
    """What this rank learns from in one optimizer step. ``old`` and ``pull`` [T]: log-probs before the first step, and
    of the reference."""

    batch: TokenBatch
    groups: list[_Group]
    old: Tensor | None
    pull: Tensor | None


def _part(policy: Learner, own: TokenBatch, settings: Update, reference: Learner | None) -> _Part:
    pull = None
    if reference is not None and settings.magnet > 0:
        with without_adapters(policy.model) if reference is policy else nullcontext():
            pull = _batch_logprobs(reference, own, settings)
    return _Part(batch=own, groups=_groups(policy, own, settings), old=None, pull=pull)


def _learn(
    policy: Learner,
    optimizer: torch.optim.Optimizer,
    part: _Part,
    settings: Update,
    beside: Beside | None,
    *,
    first: bool,
) -> dict[str, float]:
    """One optimizer step. Where the part has no old log-probs, this pass is on-policy and leaves them there."""
    optimizer.zero_grad(set_to_none=True)
    batch_pass = _Pass(policy, part.batch, settings, part.old, part.pull)
    passes = [(batch_pass, part.groups)]
    if beside is not None:
        passes.append(_beside(policy, beside, settings))
    with distributed.together(), _enough_memory(settings.max_batch_tokens):
        for each, groups in passes:
            for group in groups:
                policy.forward_passes.add(group.tree.passes)
                policy.backward_passes.add(group.tree.passes)
                _each_block(policy.model, group, settings.max_batch_tokens, each.visit)
    distributed.reduce_gradients(policy.model)
    passed = batch_pass.metrics(first=first)
    if beside is not None:
        passed["beside_loss"] = passes[1][0].metrics(first=False)["loss"]
    with distributed.sharded(policy.model):
        norm = _step(optimizer, settings, passed["loss"] + passed.get("beside_loss", 0.0))
    policy.version += 1
    part.old = batch_pass.old
    return passed | {"grad_norm": norm}


def _beside(policy: Learner, beside: Beside, settings: Update) -> tuple[_Pass, list[_Group]]:
    """A pass over this rank's share of the next batch."""
    own = dealt(next(beside.batches), distributed.share())
    weighed = replace(own, weights=own.weights * np.float32(beside.weight))
    plain = replace(settings, loss=beside.loss, max_importance=None)
    return _Pass(policy, weighed, plain, None, None), _groups(policy, own, settings)


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of every metric over optimizer steps, and the sum of the trained tokens."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in names}
    if "trained_tokens" in mean:
        mean["trained_tokens"] *= len(rows)
    return mean


@contextmanager
def _enough_memory(tokens: int) -> Iterator[None]:
    """Where memory runs out, one line that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"max_batch_tokens: a micro-batch of {tokens} tokens does not fit the GPU's memory; "
            f"try {max(1, tokens // 2)}, or gradient_checkpointing"
        ) from error


def _step(optimizer: torch.optim.Optimizer, settings: Update, loss: float) -> float:
    """Clip the gradients and take a step; returns their norm before."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = distributed.whole(torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)).item()
    if fault := _fault(loss, norm, settings.max_loss):
        optimizer.zero_grad(set_to_none=True)
        raise FloatingPointError(f"{fault}; the step was not taken")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # what comes next needs the memory
    return norm
