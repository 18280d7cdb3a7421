"""Token losses: the loss of each token from its log-prob, as plain PyTorch on vectors [tokens].

A surrogate is called as ``loss(logprobs, old_logprobs, advantages) -> [tokens]``; `update` weights and sums.
`PolicyLoss` adds to it what else is asked for, and `policy_loss` makes gradients of the sum without storing logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from selfplay_fast.kernels._head_arguments import check_column
from selfplay_fast.kernels.fused_token_loss import fused_token_loss

Surrogate = Callable[[Tensor, Tensor, Tensor], Tensor]


def reinforce_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A log p (Williams 1992)."""
    return -advantages * logprobs


def ppo_clip_loss(
    clip: float = 0.2, *, clip_high: float | None = None, dual_clip: float | None = None
) -> Surrogate:
    """max(-A r, -A clip(r, 1 - clip, 1 + clip)), r = exp(log p - log p_old)  (Schulman et al. 2017, Eq. 7).

    ``clip_high`` replaces the upper clip (Yu et al. 2025, arXiv 2503.14476). Where A < 0, ``dual_clip`` > 1 bounds the
    loss by -A dual_clip (Ye et al. 2020, arXiv 1912.09729).
    """
    high = clip if clip_high is None else clip_high
    if clip <= 0:
        raise ValueError(f"clip: must be > 0, got {clip}")
    if high <= 0:
        raise ValueError(f"clip_high: must be > 0, got {high}")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip: must be > 1, got {dual_clip}")

    def loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
        ratio = torch.exp(logprobs - old_logprobs)
        terms = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + high))
        if dual_clip is None:
            return terms
        return torch.where(advantages < 0, torch.minimum(terms, -advantages * dual_clip), terms)

    return loss


def value_clip_loss(clip: float | None = 0.2) -> Surrogate:
    """max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) / 2 of values V, old ones and returns R.

    OpenRLHF's value loss (as OpenAI's PPO, Schulman et al. 2017, has it); None: not clipped. It is called like a
    surrogate, ``loss(values, old_values, returns)``.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: must be > 0, got {clip}; None does not clip")

    def loss(values: Tensor, old_values: Tensor, returns: Tensor) -> Tensor:
        terms = (values - returns) ** 2
        if clip is not None:
            near = old_values + (values - old_values).clamp(-clip, clip)
            terms = torch.maximum(terms, (near - returns) ** 2)
        return 0.5 * terms

    return loss


def negative_log_likelihood(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-log p: supervised fine-tuning; advantages are ignored."""
    return -logprobs


def k1_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """log p - log q: on samples of p its mean is KL(p || q), but its gradient is zero in the mean (Schulman 2020)."""
    return logprobs - reference_logprobs


def k2_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """(log p - log q)^2 / 2: on samples of p its gradient is unbiased for that of KL(p || q) (Schulman 2020)."""
    return 0.5 * (logprobs - reference_logprobs) ** 2


def k3_kl(logprobs: Tensor, reference_logprobs: Tensor, limit: float = math.inf) -> Tensor:
    """q / p - log(q / p) - 1: on samples of p its mean is KL(p || q), and it is never negative (Schulman 2020).

    Beyond ``limit`` it is that, and without a gradient; MARS's is 10.
    """
    gap = reference_logprobs - logprobs
    return (torch.exp(gap) - gap - 1).clamp(max=limit)


def truncated_importance(old_logprobs: Tensor, sampler_logprobs: Tensor, limit: float) -> Tensor:
    """min(p_old / p_sampler, limit): corrects for a sampler that is not quite the old policy (Yao et al. 2025)."""
    return torch.exp(old_logprobs - sampler_logprobs).clamp(max=limit)


_KL = {"k1": k1_kl, "k2": k2_kl, "k3": k3_kl}


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """c surrogate(log p, log p_old, A) + kl_coef kl(log p, log p_ref) - entropy_coef H, for each token.

    c is 1, or `truncated_importance` with limit ``max_importance``. A plain function of vectors [tokens]; without old
    log-probs the policy is its own old one, and the ratio 1.
    """

    surrogate: Surrogate = reinforce_loss
    kl: Literal["k1", "k2", "k3"] = "k3"
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    max_importance: float | None = None

    def __post_init__(self) -> None:
        if self.kl not in _KL:
            raise ValueError(f"kl: must be one of {', '.join(_KL)}, got {self.kl}")
        if not self.kl_coef >= 0:
            raise ValueError(f"kl_coef: must be >= 0, got {self.kl_coef}")
        if self.surrogate is ppo_clip_loss:
            raise ValueError("surrogate: call it, ppo_clip_loss(0.2) makes the formula")
        if self.max_importance is not None and not self.max_importance > 0:
            raise ValueError(f"max_importance: must be > 0, got {self.max_importance}")

    def __call__(
        self,
        logprobs: Tensor,
        entropy: Tensor,
        advantages: Tensor,
        old_logprobs: Tensor | None = None,
        reference_logprobs: Tensor | None = None,
        sampler_logprobs: Tensor | None = None,
    ) -> Tensor:
        old = logprobs.detach() if old_logprobs is None else old_logprobs
        terms = self.surrogate(logprobs, old, advantages)
        if self.max_importance is not None:
            if sampler_logprobs is None:
                raise ValueError("sampler_logprobs: needed where max_importance is set")
            terms = truncated_importance(old, sampler_logprobs, self.max_importance) * terms
        if self.kl_coef != 0:
            if reference_logprobs is None:
                raise ValueError("reference_logprobs: needed where kl_coef is not 0")
            terms = terms + self.kl_coef * _KL[self.kl](logprobs, reference_logprobs)
        return terms - self.entropy_coef * entropy if self.entropy_coef != 0 else terms


def policy_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    loss: PolicyLoss,
    advantages: Tensor,
    *,
    old_logprobs: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
    sampler_logprobs: Tensor | None = None,
    weights: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden [T, H], weight [V, H], targets [T] -> sum_t weights[t] loss[t], logprobs [T], entropy [T].

    `fused_token_loss` of a `PolicyLoss`, with its ``options`` (temperature, mask, bias, softcap, …): its gradients are
    formed in the same pass, logits are never stored. The log-probs and advantages are float [T].
    """
    if not isinstance(loss, PolicyLoss):
        raise ValueError(
            "policy_loss: loss must be a PolicyLoss, such as PolicyLoss(surrogate=ppo_clip_loss(0.2)), "
            f"got {type(loss).__name__}"
        )
    if reference_logprobs is not None and loss.kl_coef == 0:
        raise ValueError("policy_loss: reference_logprobs are given, but kl_coef of the loss is 0")
    if sampler_logprobs is not None and loss.max_importance is None:
        raise ValueError("policy_loss: sampler_logprobs are given, but max_importance of the loss is not")
    columns = {
        "advantages": advantages,
        "old_logprobs": old_logprobs,
        "reference_logprobs": reference_logprobs,
        "sampler_logprobs": sampler_logprobs,
    }
    for name, column in columns.items():
        if column is not None:
            check_column("policy_loss", name, column, len(targets))
    return fused_token_loss(hidden, weight, targets, loss, *columns.values(), weights=weights, **options)
