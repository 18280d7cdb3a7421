"""Token losses: the loss of each token from its log-prob, as plain PyTorch on vectors [tokens].

A token loss is called as ``loss(logprobs, old_logprobs, advantages) -> [tokens]``; `update` weights and sums.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def reinforce_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A log p (Williams 1992)."""
    return -advantages * logprobs


def ppo_clip_loss(clip: float = 0.2) -> TokenLoss:
    """max(-A r, -A clip(r, 1 - clip, 1 + clip)), r = exp(log p - log p_old)  (Schulman et al. 2017, Eq. 7)."""
    if clip <= 0:
        raise ValueError(f"clip: must be > 0, got {clip}")

    def loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
        ratio = torch.exp(logprobs - old_logprobs)
        return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))

    return loss


def negative_log_likelihood(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-log p: supervised fine-tuning; advantages are ignored."""
    return -logprobs


def k2_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """(log p - log q)^2 / 2: on samples of p its gradient is unbiased for that of KL(p || q) (Schulman 2020)."""
    return 0.5 * (logprobs - reference_logprobs) ** 2
