"""verl, from within: our advantages and policy losses under its registries, and its fused head on `token_logprobs`.

    installed = install()  # adv_estimator=selfplay_rae, policy_loss.loss_mode=selfplay_ppo, use_fused_kernels=True
    installed.role_advantages.baseline  # what selfplay_rae has learned, to be saved; install(baseline=...) resumes it
    installed.uninstall()

verl computes advantages in the trainer's process and losses in its workers'. Each of them imports the modules that the
environment variable VERL_USE_EXTERNAL_MODULES names: call `install` in one of those.

What a sample is of rides in verl's ``uid``, which estimators get as ``index``: "uid|game|role", made by `role_uids`.
verl's trainers draw uids at random: one line of a subclass puts the roles in, in ``RayPPOTrainer._get_gen_batch`` or in
``_fetch_one_gen_batch`` of its newer trainers. A row whose response mask is all 0 is padding and needs none.

SPIRAL: selfplay_rae, selfplay_ppo, loss_agg_mode=seq-mean-token-sum-norm, loss_scale_factor=4096, and clip_ratio_c so
high that nothing reaches it. MARS: selfplay_turns, selfplay_ppo, loss_agg_mode=seq-mean-token-mean, clip_ratio_c=1.4.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import verl
from torch import Tensor

_VERSION = "0.9.1"
if verl.__version__ != _VERSION:
    raise ImportError(f"selfplay_fast.integrations.verl needs verl {_VERSION}, found {verl.__version__}")

from verl.trainer.ppo import core_algos  # noqa: E402
from verl.utils.experimental.torch_functional import FusedLinearForPPO  # noqa: E402
from verl.utils.kernel import linear_cross_entropy as verl_head  # noqa: E402

from selfplay_fast.integrations import _verl_losses as losses  # noqa: E402
from selfplay_fast.integrations._verl_advantages import (  # noqa: E402
    Pool,
    RoleAdvantages,
    Rows,
    group_advantages,
    role_uids,
    token_returns,
    turn_advantages,
)
from selfplay_fast.kernels.token_logprobs import token_logprobs  # noqa: E402
from selfplay_fast.learn.advantages import Order, RoleBaseline  # noqa: E402

__all__ = ["Installed", "RoleAdvantages", "install", "linear_cross_entropy", "role_uids"]


# ---- the fused head ----


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    reduction: str = "none",
    dist_process_group: Any = None,
) -> tuple[Tensor, Tensor]:
    """verl's function of this name: hidden [..., H], weight [V, H], labels [...] -> logprobs [T], entropy [T], float32.

    reduction "sum" or "mean": of the log-probs, a scalar. Where the vocabulary lies on several ranks of
    ``dist_process_group`` verl's own kernels are called. Raises ValueError on a shape, dtype, device or range mismatch.
    """
    what = "linear_cross_entropy"
    reductions: dict[str, Callable[[Tensor], Tensor]] = {
        "none": lambda x: x,
        "sum": torch.sum,
        "mean": torch.mean,
    }
    if reduction.lower() not in reductions:
        raise ValueError(f"{what}: reduction must be one of {', '.join(reductions)}, got {reduction!r}")
    if dist_process_group is not None and torch.distributed.get_world_size(dist_process_group) > 1:
        return verl_head.LinearCrossEntropy.apply(
            hidden, weight, labels, temperature, reduction, dist_process_group
        )
    if hidden.ndim < 2 or labels.numel() != hidden.shape[:-1].numel():
        raise ValueError(
            f"{what}: hidden [..., H] and labels [...] do not fit: {tuple(hidden.shape)}, {tuple(labels.shape)}"
        )
    logprobs, entropy = _logprobs(hidden, weight, labels, temperature)
    return reductions[reduction.lower()](logprobs), entropy


def _fused_linear(
    self: Any, hidden_states: Tensor, vocab_weights: Tensor, input_ids: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``FusedLinearForPPO.forward``, whatever its backend: [T, H] or [B, S, H] -> logprobs float32 and entropy in the
    dtype of the hidden states, shaped like ``input_ids``."""
    if hidden_states.ndim not in (2, 3) or input_ids.shape != hidden_states.shape[:-1]:
        raise ValueError(
            "FusedLinearForPPO: hidden_states [T, H] or [B, S, H] and input_ids do not fit: "
            f"{tuple(hidden_states.shape)}, {tuple(input_ids.shape)}"
        )
    logprobs, entropy = _logprobs(hidden_states, vocab_weights, input_ids, temperature)
    return logprobs.view(input_ids.shape), entropy.view(input_ids.shape).to(hidden_states.dtype)


def _logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    device = hidden.device.type
    if hidden.dtype != weight.dtype and torch.is_autocast_enabled(device):
        hidden, weight = (x.to(torch.get_autocast_dtype(device)) for x in (hidden, weight))
    flat, own = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1).to(torch.int64)
    return token_logprobs(flat, weight, own, temperature=temperature, return_entropy=True)


# ---- into verl and out again ----


@dataclass(frozen=True, slots=True, eq=False)
class Installed:
    """What `install` put into verl; leaving it as a context takes it out again."""

    role_advantages: RoleAdvantages
    _undo: ExitStack

    def uninstall(self) -> None:
        """Give verl back what it had."""
        self._undo.close()

    def __enter__(self) -> Installed:
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstall()


def install(
    *,
    baseline: RoleBaseline | None = None,
    order: Order = "post",
    rows: Rows = "episodes",
    pool: Pool = "role",
) -> Installed:
    """Register the estimators and losses of this module in verl, and put its fused head on `token_logprobs`.

    Estimators: ``selfplay_rae`` (`RoleAdvantages` of ``baseline``, ``order``, ``rows``), ``selfplay_turns``
    (`turn_advantages` of ``pool``), ``selfplay_group``, ``selfplay_returns``. Losses: ``selfplay_ppo``,
    ``selfplay_reinforce``. Raises ValueError on an unknown word and where it is installed already.
    """
    if pool not in ("role", "game_role"):
        raise ValueError(f"pool: must be 'role' or 'game_role', got {pool!r}")
    role_advantages = RoleAdvantages(baseline, order=order, rows=rows)
    estimators: dict[str, Any] = {
        "selfplay_rae": role_advantages,
        "selfplay_turns": functools.partial(turn_advantages, pool=pool),
        "selfplay_group": group_advantages,
        "selfplay_returns": token_returns,
    }
    policy_losses = {
        "selfplay_ppo": losses.ppo_policy_loss,
        "selfplay_reinforce": losses.reinforce_policy_loss,
    }
    if "selfplay_rae" in core_algos.ADV_ESTIMATOR_REGISTRY:
        raise ValueError("install: is installed already; uninstall it first")
    with ExitStack() as undo:
        for name, estimator in estimators.items():
            core_algos.register_adv_est(name)(estimator)
            undo.callback(core_algos.ADV_ESTIMATOR_REGISTRY.pop, name)
        for name, policy_loss in policy_losses.items():
            core_algos.register_policy_loss(name)(policy_loss)
            undo.callback(core_algos.POLICY_LOSS_REGISTRY.pop, name)
        undo.callback(setattr, FusedLinearForPPO, "forward", FusedLinearForPPO.forward)
        FusedLinearForPPO.forward = _fused_linear
        undo.callback(_exchange, linear_cross_entropy, verl_head.linear_cross_entropy)
        _exchange(verl_head.linear_cross_entropy, linear_cross_entropy)
        return Installed(role_advantages, undo.pop_all())


def _exchange(old: Any, new: Any) -> None:
    """``linear_cross_entropy`` in the module that has it and in those that imported it by name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("verl.") and vars(module).get("linear_cross_entropy") is old:
            module.linear_cross_entropy = new  # type: ignore[attr-defined]
