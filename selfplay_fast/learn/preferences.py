"""Preference losses: chosen against rejected completions, as plain PyTorch on vectors [pairs].

A loss is called as ``loss(chosen, rejected) -> [pairs]`` with two `Completions`; `preference_loss` averages it and
makes gradients without storing logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from selfplay_fast.arguments import shown
from selfplay_fast.kernels._head_arguments import check_column
from selfplay_fast.kernels.token_logprobs import token_logprobs


class Completions(NamedTuple):
    """One completion of each pair, floating [P] each."""

    logprobs: Tensor  # summed over its tokens
    lengths: Tensor  # how many these are
    reference_logprobs: Tensor | None = None

    @property
    def log_ratio(self) -> Tensor:
        """log pi(y) - log pi_ref(y)."""
        if self.reference_logprobs is None:
            raise ValueError("reference_logprobs: none were given, and the log-ratio needs them")
        return self.logprobs - self.reference_logprobs

    @property
    def mean(self) -> Tensor:
        """log pi(y) / |y|, and 0 of an empty completion."""
        return self.logprobs / self.lengths.clamp(min=1)


PreferenceLoss = Callable[[Completions, Completions], Tensor]


def _margin(chosen: Completions, rejected: Completions) -> Tensor:
    return chosen.log_ratio - rejected.log_ratio


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: must be > 0, got {value}")


def dpo_loss(beta: float = 0.1, *, label_smoothing: float = 0.0) -> PreferenceLoss:
    """-log sigmoid(beta h), h = log pi/pi_ref (chosen) - log pi/pi_ref (rejected)  (Rafailov et al. 2023, Eq. 7).

    ``label_smoothing`` e in [0, 0.5): the label is taken to be wrong with that probability,
    -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)  (Mitchell 2023).
    """
    _positive("beta", beta)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing: must be from 0 to below 0.5, got {label_smoothing}")

    def loss(chosen: Completions, rejected: Completions) -> Tensor:
        logit = beta * _margin(chosen, rejected)
        return -(1 - label_smoothing) * logsigmoid(logit) - label_smoothing * logsigmoid(-logit)

    return loss


def ipo_loss(beta: float = 0.1, *, per_token: bool = False) -> PreferenceLoss:
    """(h - 1 / (2 beta))^2  (Azar et al. 2023, Eq. 17).

    ``per_token`` divides the log-ratio of each completion by its length, as TRL does.
    """
    _positive("beta", beta)

    def loss(chosen: Completions, rejected: Completions) -> Tensor:
        if not per_token:
            margin = _margin(chosen, rejected)
        else:
            margin, back = (side.log_ratio / side.lengths.clamp(min=1) for side in (chosen, rejected))
            margin = margin - back
        return (margin - 1 / (2 * beta)) ** 2

    return loss


def rpo_loss(beta: float = 0.1, *, nll_weight: float = 1.0) -> PreferenceLoss:
    """DPO - nll_weight log pi(chosen) / |chosen|  (Pang et al. 2024, arXiv 2404.19733, Eq. 1)."""
    dpo = dpo_loss(beta)
    if not nll_weight >= 0:
        raise ValueError(f"nll_weight: must be >= 0, got {nll_weight}")

    def loss(chosen: Completions, rejected: Completions) -> Tensor:
        return dpo(chosen, rejected) - nll_weight * chosen.mean

    return loss


def sppo_loss(beta: float = 0.001, *, chosen_wins: float = 1.0) -> PreferenceLoss:
    """((r_w - (P - 1/2) / beta)^2 + (r_l + (P - 1/2) / beta)^2) / 2, r = log pi/pi_ref  (Wu et al. 2024).

    ``chosen_wins`` is P, the probability that chosen beats rejected: 1 where the pairs are sure. The half is that of
    eva (Ye et al. 2024); TRL's ``sppo_hard`` is twice this.
    """
    _positive("beta", beta)
    if not 0 <= chosen_wins <= 1:
        raise ValueError(f"chosen_wins: must be from 0 to 1, got {chosen_wins}")
    goal = (chosen_wins - 0.5) / beta

    def loss(chosen: Completions, rejected: Completions) -> Tensor:
        return 0.5 * ((chosen.log_ratio - goal) ** 2 + (rejected.log_ratio + goal) ** 2)

    return loss


def hinge_loss(beta: float = 0.1) -> PreferenceLoss:
    """max(0, 1 - beta h)  (Zhao et al. 2023, arXiv 2305.10425; Liu et al. 2024, arXiv 2309.06657)."""
    _positive("beta", beta)
    return lambda chosen, rejected: relu(1 - beta * _margin(chosen, rejected))


def simpo_loss(beta: float = 2.0, *, margin: float = 1.0) -> PreferenceLoss:
    """-log sigmoid(beta (log pi(w) / |w| - log pi(l) / |l|) - margin), no reference  (Meng et al. 2024, Eq. 6)."""
    _positive("beta", beta)
    return lambda chosen, rejected: -logsigmoid(beta * (chosen.mean - rejected.mean) - margin)


def orpo_loss(weight: float = 0.1) -> PreferenceLoss:
    """NLL(w) / |w| - weight log sigmoid(log odds(w) - log odds(l)), no reference  (Hong et al. 2024, Eqs. 6 and 7).

    odds = p / (1 - p) with log p = log pi(y) / |y|.
    """
    _positive("weight", weight)

    def log_odds(side: Completions) -> Tensor:
        mean = side.mean.clamp(max=-torch.finfo(side.mean.dtype).eps)  # of what is certain they are infinite
        return mean - torch.log(-torch.expm1(mean))

    def loss(chosen: Completions, rejected: Completions) -> Tensor:
        return -chosen.mean - weight * logsigmoid(log_odds(chosen) - log_odds(rejected))

    return loss


FREE_OF_REFERENCE = ("simpo", "orpo")


def loss_called(
    name: str, *, beta: float, nll_weight: float = 1.0, simpo_margin: float = 1.0
) -> PreferenceLoss:
    """``name``_loss with this beta, in `orpo_loss` its weight."""
    makers: dict[str, Callable[[], PreferenceLoss]] = {
        "dpo": lambda: dpo_loss(beta),
        "ipo": lambda: ipo_loss(beta),
        "rpo": lambda: rpo_loss(beta, nll_weight=nll_weight),
        "sppo": lambda: sppo_loss(beta),
        "simpo": lambda: simpo_loss(beta, margin=simpo_margin),
        "orpo": lambda: orpo_loss(beta),
        "hinge": lambda: hinge_loss(beta),
    }
    return makers[name]()


def preference_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    offsets: Tensor,
    loss: PreferenceLoss,
    *,
    reference_logprobs: Tensor | None = None,
    mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Completions, Completions]:
    """hidden [T, H], weight [V, H], targets [T] -> mean loss of the pairs, their chosen and rejected completions.

    Tokens offsets[i] to offsets[i + 1] - 1 are of completion i; ``offsets`` is int64 [2 P + 1], and the first P
    completions are the chosen ones, the last P the rejected ones of the same pairs. ``reference_logprobs`` is floating,
    of the tokens [T] or summed over those of each completion [2 P]. Where ``mask`` (bool [T]) is False a token has no
    part in anything. The other options are those of `token_logprobs`, which stores no logits and carries the gradients.
    The completions returned are detached. Raises ValueError on a shape, dtype, device or range mismatch.
    """
    if isinstance(loss, type) or loss in _MAKERS:
        raise ValueError(f"preference_loss: loss must be a formula such as dpo_loss(0.1), got {shown(loss)}")
    offsets = torch.as_tensor(offsets, device=targets.device)
    count = len(offsets) - 1
    if offsets.ndim != 1 or offsets.dtype != torch.int64 or count < 2 or count % 2:
        raise ValueError(
            f"preference_loss: offsets must be int64 [2 P + 1], got {offsets.dtype} {tuple(offsets.shape)}"
        )
    steps = offsets.diff()
    if offsets[0] != 0 or offsets[-1] != len(targets) or (steps < 0).any():
        raise ValueError(f"preference_loss: offsets must rise from 0 to {len(targets)}, the number of tokens")
    by_token = reference_logprobs is not None and len(reference_logprobs) == len(targets) != count
    if reference_logprobs is not None:
        check_column(
            "preference_loss", "reference_logprobs", reference_logprobs, len(targets) if by_token else count
        )
    logprobs = token_logprobs(hidden, weight, targets, mask=mask, **options)
    if not isinstance(logprobs, Tensor):
        raise ValueError("preference_loss: takes none of the return_ options")
    kept = torch.ones_like(logprobs) if mask is None else mask.to(logprobs.dtype)
    sums, lengths = (torch.segment_reduce(x, "sum", offsets=offsets) for x in (logprobs, kept))
    reference: Any = (None, None)
    if reference_logprobs is not None:
        fixed = reference_logprobs.detach()
        if by_token:
            fixed = torch.segment_reduce(torch.where(kept > 0, fixed, 0.0), "sum", offsets=offsets)
        reference = fixed.chunk(2)
    sides = [Completions(*side) for side in zip(sums.chunk(2), lengths.chunk(2), reference, strict=True)]
    chosen, rejected = (side._replace(logprobs=side.logprobs.detach()) for side in sides)
    terms = loss(*sides)
    if not isinstance(terms, Tensor) or terms.shape != sides[0].logprobs.shape:
        got = tuple(terms.shape) if isinstance(terms, Tensor) else type(terms).__name__
        raise ValueError(f"preference_loss: loss must return [{count // 2}], one number a pair, got {got}")
    return terms.mean(), chosen, rejected


_MAKERS = (dpo_loss, ipo_loss, rpo_loss, sppo_loss, hinge_loss, simpo_loss, orpo_loss)
