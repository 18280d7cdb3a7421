"""`critic_update`: `update` for a critic. Its values stand where a policy has log-probs, its returns for advantages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from selfplay_fast.learn.losses import Surrogate, value_clip_loss
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.learn.update import Update, batch_logprobs, update
from selfplay_fast.policies.critic import Critic


def batch_values(critic: Critic, batch: TokenBatch, *, max_batch_tokens: int = 16384) -> Tensor:
    """The value before every completion token of the batch, float32 [T] on the CPU."""
    return batch_logprobs(critic, batch, _settings(max_batch_tokens=max_batch_tokens))


def critic_update(
    critic: Critic,
    optimizer: torch.optim.Optimizer,
    batch: TokenBatch,
    values: Tensor,
    returns: Tensor,
    *,
    clip: float | None = 0.2,
    **settings: Any,
) -> dict[str, float]:
    """values [T] (`batch_values`, before the update) and returns [T] -> a critic that is nearer to the returns.

    `update` with `value_clip_loss`, each optimizer step on the mean over its trained tokens; ``settings`` are further
    ones of `Update`. Metrics: ``critic_loss`` and ``critic_grad_norm``, means over the steps, and
    ``explained_variance``, the share of the variance of the returns that the old values explain. FloatingPointError
    where a loss or gradient is not finite; that step is not taken.
    """
    own, wanted = (x.detach().cpu().double() for x in (values, returns))
    learned = replace(batch, advantages=wanted.float().numpy(), sampler_logprobs=own.float().numpy())
    done = update(critic, optimizer, learned, _settings(value_clip_loss(clip), **settings))
    trained = torch.as_tensor(batch.weights != 0)
    spread, left = (x[trained].var(correction=0) for x in (wanted, wanted - own))
    return {
        "critic_loss": done["loss"],
        "critic_grad_norm": done["grad_norm"],
        "explained_variance": (1 - left / spread.clamp(min=1e-8)).item(),
    }


def _settings(loss: Surrogate = value_clip_loss(), **settings: Any) -> Update:  # noqa: B008 - a pure function
    return Update(loss=loss, old="sampler", token_mean=True, **settings)
