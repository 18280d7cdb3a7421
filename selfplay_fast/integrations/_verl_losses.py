"""Policy losses in the form that verl calls: [B, T] tensors, its config, its aggregation and its metrics."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss

from selfplay_fast.learn.losses import ppo_clip_loss, reinforce_loss

Loss: TypeAlias = tuple[Tensor, dict[str, float]]  # a scalar and metrics

_LOG_RATIO = 20.0  # verl's bound of log p - log p_old


def ppo_policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> Loss:
    """``selfplay_ppo``: `learn.ppo_clip_loss` with clip_ratio_low, clip_ratio_high and clip_ratio_c of the config.

    All tensors are [B, T]. Masked tokens have no part in it, whatever they hold. The aggregation is verl's ``agg_loss``
    and the metrics are those of its ``vanilla``. Raises ValueError on a shape mismatch or without a config.
    """
    what = "selfplay_ppo"
    kept = _kept(what, old_log_prob, log_prob, advantages, response_mask, config, rollout_is_weights)
    low, high = (
        config.clip_ratio if side is None else side
        for side in (config.clip_ratio_low, config.clip_ratio_high)
    )
    gaps = (log_prob[kept] - old_log_prob[kept]).clamp(-_LOG_RATIO, _LOG_RATIO)
    inputs = (gaps, torch.zeros_like(gaps), advantages[kept])  # the loss is of the ratio alone
    terms = ppo_clip_loss(low, clip_high=high, dual_clip=config.get("clip_ratio_c", 3.0))(*inputs)
    with torch.no_grad():
        once = ppo_clip_loss(low, clip_high=high)(*inputs)
        metrics = {
            "actor/pg_clipfrac": once > -inputs[2] * gaps.exp(),
            "actor/ppo_kl": -gaps,
            "actor/pg_clipfrac_lower": terms < once,
        }
    return _aggregated(terms, kept, response_mask, loss_agg_mode, config, rollout_is_weights), _means(metrics)


def reinforce_policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> Loss:
    """``selfplay_reinforce``: `learn.reinforce_loss`, else as `ppo_policy_loss`; its one metric is actor/ppo_kl."""
    what = "selfplay_reinforce"
    kept = _kept(what, old_log_prob, log_prob, advantages, response_mask, config, rollout_is_weights)
    terms = reinforce_loss(log_prob[kept], old_log_prob[kept], advantages[kept])
    metrics = {"actor/ppo_kl": (old_log_prob - log_prob).detach()[kept]}
    return _aggregated(terms, kept, response_mask, loss_agg_mode, config, rollout_is_weights), _means(metrics)


def _kept(
    what: str,
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    config: Any,
    rollout_is_weights: Tensor | None,
) -> Tensor:
    if config is None:
        raise ValueError(f"{what}: config must be verl's actor config, got none")
    if log_prob.ndim != 2:
        raise ValueError(f"{what}: log_prob must be [B, T], got {tuple(log_prob.shape)}")
    others = {
        "old_log_prob": old_log_prob,
        "advantages": advantages,
        "response_mask": response_mask,
        "rollout_is_weights": rollout_is_weights,
    }
    for name, other in others.items():
        if other is not None and (other.shape != log_prob.shape or other.device != log_prob.device):
            raise ValueError(
                f"{what}: {name} must be {list(log_prob.shape)} on {log_prob.device} like log_prob, "
                f"got {tuple(other.shape)} on {other.device}"
            )
    return response_mask != 0


def _aggregated(
    terms: Tensor, kept: Tensor, mask: Tensor, mode: str, config: Any, weights: Tensor | None
) -> Tensor:
    if weights is not None:
        terms = terms * weights[kept]
    matrix = terms.new_zeros(kept.shape).masked_scatter(kept, terms)
    return agg_loss(loss_mat=matrix, loss_mask=mask, loss_agg_mode=mode, **config.global_batch_info)


def _means(columns: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each, 0 of nothing; the GPU is waited for once."""
    means = [column.float().sum() / max(len(column), 1) for column in columns.values()]
    return dict(zip(columns, torch.stack(means).tolist(), strict=True))
