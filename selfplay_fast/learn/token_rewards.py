"""Rewards of tokens: KL-shaped, summed from behind, whitened. Pure functions of packed torch vectors.

T tokens of N samples lie behind one another; ``offsets`` [N + 1] cuts them by sample, as in `TokenBatch`. Masked
tokens (forced ones) carry no penalty, count in no mean, and have advantage 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selfplay_fast.learn.credit import discounted_sums

LEAST_VARIANCE = 1e-8  # of whitening, as in OpenRLHF


def shaped_rewards(
    rewards: Tensor,
    offsets: Tensor,
    kl: Tensor | None = None,
    *,
    kl_coef: float = 0.01,
    limit: float = 10.0,
    mask: Tensor | None = None,
) -> Tensor:
    """rewards [N], kl [T] -> the reward of each token, float64 [T] (Ouyang et al. 2022, arXiv 2203.02155).

        r[t] = -kl_coef kl[t] + (t is the last token of its sample) clip(reward, -limit, limit)

    ``kl`` is an estimate of each token, usually k1, log p - log p_ref. ValueError for shapes that do not fit, for a
    sample without tokens and for a reward that is not finite.
    """
    lengths = offsets.diff()
    if len(rewards) != len(lengths):
        raise ValueError(f"rewards: must be one for each of {len(lengths)} samples, got {len(rewards)}")
    if bool((lengths < 1).any()):
        raise ValueError("offsets: a sample has no tokens, and none to be rewarded; leave it out")
    if not bool(rewards.isfinite().all()):
        raise ValueError("rewards: must be finite; leave samples without a reward out")
    shaped = torch.zeros(int(offsets[-1]), dtype=torch.float64, device=rewards.device)
    if kl is not None:
        shaped -= kl_coef * _masked("kl", kl.double(), shaped, mask)
    shaped[offsets[1:] - 1] += rewards.double().clamp(-limit, limit)
    return shaped


def whiten(values: Tensor, segments: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """values [T] -> zero mean and unit variance in each segment, every token with the same weight.

        out = (values - mean) / sqrt(max(variance, 1e-8))        variance: of the population

    ``segments`` int64 [T] are 0 … S - 1 (None: all is one segment). Where all values of a segment are equal, all of it
    is 0. OpenRLHF's whitening, in float64.
    """
    own = values.double()
    keys = torch.zeros_like(own, dtype=torch.int64) if segments is None else segments
    if keys.shape != own.shape:
        raise ValueError(f"segments: must be {list(own.shape)} like the values, got {list(keys.shape)}")
    weights = _masked("mask", torch.ones_like(own), own, mask)
    size = int(keys.max()) + 1 if len(keys) else 0

    def mean(x: Tensor) -> Tensor:
        sums, counts = (
            torch.zeros(size, dtype=own.dtype, device=own.device).index_add(0, keys, y)
            for y in (weights * x, weights)
        )
        return (sums / counts.clamp(min=1))[keys]

    centred = own - mean(own)
    return weights * centred * mean(centred**2).clamp(min=LEAST_VARIANCE).rsqrt()


def reinforce_pp_advantages(
    token_rewards: Tensor, offsets: Tensor, segments: Tensor | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """token_rewards [T] -> advantages and returns, float64 [T]: REINFORCE++ (Hu 2025, arXiv 2501.03262, Eq. 6).

        returns[t] = sum of token_rewards[t'] over t' >= t of the sample        advantages = whiten(returns, segments)

    ``segments`` [T]: whose tokens are whitened together, for example those of a role.
    """
    samples = torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(offsets.diff())
    returns = discounted_sums(token_rewards.double(), samples)
    return whiten(returns, segments, mask), returns


def _masked(name: str, values: Tensor, like: Tensor, mask: Tensor | None) -> Tensor:
    for what, column in ((name, values), ("mask", mask)):
        if column is not None and column.shape != like.shape:
            raise ValueError(f"{what}: must be {list(like.shape)}, one per token, got {list(column.shape)}")
    return values if mask is None else values * mask
