"""Advantage estimators in the form that verl calls: pure functions of its rows, but for the state of SPIRAL's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor

from selfplay_fast.learn.advantages import Order, RoleBaseline, Slot
from selfplay_fast.learn.credit import discounted_sums, segment_normalise

Rows = Literal["episodes", "turns"]
Pool = Literal["role", "game_role"]
Advantages: TypeAlias = tuple[Tensor, Tensor]  # advantages and returns, [B, T] each


def role_uids(uids: Sequence[str], games: Sequence[str] | str, roles: Sequence[str] | str) -> np.ndarray:
    """ "uid|game|role" of each sample, an object array for ``non_tensor_batch["uid"]``; one word stands for all.

    In the words "%", "|" and "_" are written "%25", "%7C" and "%5F": verl's newer trainers take a uid to end at "_".
    Raises ValueError where the lengths differ or a word is none or empty.
    """
    columns = {"uids": list(uids)}
    for name, given in (("games", games), ("roles", roles)):
        columns[name] = [given] * len(uids) if isinstance(given, str) else list(given)
    for name, words in columns.items():
        if len(words) != len(uids):
            raise ValueError(f"role_uids: {name} must be {len(uids)} like the uids, got {len(words)}")
        for word in words:
            if not isinstance(word, str) or not word:
                raise ValueError(f"role_uids: {name} must be words, got {word!r}")
        columns[name] = [re.sub("[%|_]", lambda sign: f"%{ord(sign[0]):X}", word) for word in words]
    return np.array(["|".join(words) for words in zip(*columns.values(), strict=True)], dtype=object)


def _slots(what: str, index: Any, rows: Sequence[int]) -> list[Slot]:
    slots = []
    for row in rows:
        parts = index[row].rsplit("|", 2) if isinstance(index[row], str) else []
        if len(parts) != 3 or not all(parts):
            raise ValueError(f'{what}: index must hold "uid|game|role", got {index[row]!r} in row {row}')
        slots.append((unquote(parts[1]), unquote(parts[2])))
    return slots


def _checked(what: str, rewards: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards in float32 or float64, mask as bool."""
    if rewards.ndim != 2 or not rewards.is_floating_point():
        raise ValueError(
            f"{what}: token_level_rewards must be floating [B, T], got {rewards.dtype} {tuple(rewards.shape)}"
        )
    if mask.shape != rewards.shape or mask.device != rewards.device:
        raise ValueError(
            f"{what}: response_mask must be {list(rewards.shape)} on {rewards.device} like the rewards, "
            f"got {tuple(mask.shape)} on {mask.device}"
        )
    if not rewards.isfinite().all():
        raise ValueError(f"{what}: token_level_rewards must be finite")
    return rewards.detach().to(torch.promote_types(rewards.dtype, torch.float32)), mask != 0


def _indexed(what: str, index: Any, rewards: Tensor) -> None:
    if index is None or len(index) != len(rewards):
        got = "none" if index is None else len(index)
        raise ValueError(f"{what}: index must be {len(rewards)} like the rows of the rewards, got {got}")


def _turns(mask: Tensor) -> tuple[Tensor, Tensor]:
    """bool [B, T] -> the turn that a token is in or after [B, T], and how many turns a row has [B].

    A turn is an unbroken run of the policy's tokens; what lies before the first one counts as of it.
    """
    begins = mask.clone()
    begins[:, 1:] &= ~mask[:, :-1]
    return (begins.cumsum(1) - 1).clamp(min=0), begins.sum(1)


def _gamma(config: Any) -> float:
    return 1.0 if config is None else float(config.gamma)


# ---- advantages, called as verl calls its own ----


class RoleAdvantages:
    """``selfplay_rae``: SPIRAL's advantages; `learn.role_conditioned_advantages` of verl's rows, and its state.

    rows "episodes": a row is what one role said in one episode, and the baseline moves once for each, in their order.
    rows "turns": rows of equal index are the turns of one role in one episode and have the same return; the baseline
    moves once for all of them. verl gives all rollouts of a prompt one uid, so rollout.n must then be 1.
    The return of a row is the sum of its rewards. A turn gets its role's advantage times config.gamma to the number of
    turns that follow in its row.
    """

    def __init__(
        self, baseline: RoleBaseline | None = None, *, order: Order = "post", rows: Rows = "episodes"
    ) -> None:
        if order not in ("post", "pre", "batch"):
            raise ValueError(f"order: must be 'post', 'pre' or 'batch', got {order!r}")
        if rows not in ("episodes", "turns"):
            raise ValueError(f"rows: must be 'episodes' or 'turns', got {rows!r}")
        self.baseline = RoleBaseline() if baseline is None else baseline
        self.order: Order = order
        self.rows: Rows = rows

    def __call__(
        self,
        token_level_rewards: Tensor,
        response_mask: Tensor,
        index: Any = None,
        config: Any = None,
        **_: Any,
    ) -> Advantages:
        what = "selfplay_rae"
        rewards, mask = _checked(what, token_level_rewards, response_mask)
        _indexed(what, index, rewards)
        kept = mask.any(1).nonzero()[:, 0].tolist()
        slot_of = dict(zip(kept, _slots(what, index, kept), strict=True))
        episode_of = {row: index[row] if self.rows == "turns" else row for row in kept}
        returns = rewards.sum(1)
        totals = returns.tolist()
        first: dict[Any, int] = {}  # the row that stands for an episode
        for row, episode in episode_of.items():
            stands = first.setdefault(episode, row)
            if totals[row] != totals[stands]:
                raise ValueError(
                    f"{what}: token_level_rewards of {index[row]!r} must have the same sum in rows {stands} and {row}"
                )
        standing = list(first.values())
        flat, self.baseline = self.baseline.advantages(
            [slot_of[row] for row in standing], [totals[row] for row in standing], self.order
        )
        own = dict(zip(first, flat.tolist(), strict=True))
        of_rows = torch.zeros_like(returns)
        of_rows[kept] = of_rows.new_tensor([own[episode] for episode in episode_of.values()])
        turn, count = _turns(mask)
        left = _gamma(config) ** (count[:, None] - 1 - turn) * mask
        dtype = token_level_rewards.dtype
        return (of_rows[:, None] * left).to(dtype), (returns[:, None] * left).to(dtype)


def turn_advantages(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Any = None,
    config: Any = None,
    *,
    pool: Pool = "role",
    **_: Any,
) -> Advantages:
    """``selfplay_turns``: credit for turns, against the mean of a pool (MARS, Yuan et al. 2025, arXiv 2510.15414).

        G[k] = r[k] + gamma G[k + 1]        A[k] = G[k] - mean of G over all turns of the pool in the batch

    A row is what one role said in one episode, its turns the unbroken runs of the response mask; r[k] is what the
    rewards of turn k and of what follows it add up to, and gamma is config.gamma. A pool is a role or a (game, role).
    """
    what = "selfplay_turns"
    if pool not in ("role", "game_role"):
        raise ValueError(f"pool: must be 'role' or 'game_role', got {pool!r}")
    rewards, mask = _checked(what, token_level_rewards, response_mask)
    _indexed(what, index, rewards)
    turn, count = _turns(mask)
    kept = count.nonzero()[:, 0].tolist()
    numbers: dict[Any, int] = {}
    pools = torch.zeros_like(count)
    for row, slot in zip(kept, _slots(what, index, kept), strict=True):
        pools[row] = numbers.setdefault(slot if pool == "game_role" else slot[1], len(numbers))
    most = max(count.tolist(), default=0)
    exists = torch.arange(max(most, 1), device=mask.device) < count[:, None]
    sums = torch.zeros_like(exists, dtype=rewards.dtype).scatter_add_(1, turn, rewards)
    sums = discounted_sums(sums, discount=_gamma(config), mask=exists)
    centred = torch.zeros_like(sums)
    if most:
        centred[exists] = segment_normalise(sums[exists], pools[:, None].expand_as(sums)[exists], scale=None)
    dtype = token_level_rewards.dtype
    return (centred.gather(1, turn) * mask).to(dtype), (sums.gather(1, turn) * mask).to(dtype)


def group_advantages(
    token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None, **_: Any
) -> Advantages:
    """``selfplay_group``: the return of a row relative to rows of equal index, as verl's ``grpo``.

    Divided by their standard deviation where config.norm_adv_by_std_in_grpo is set; a row alone keeps its return.
    """
    what = "selfplay_group"
    rewards, mask = _checked(what, token_level_rewards, response_mask)
    _indexed(what, index, rewards)
    numbers: dict[Any, int] = {}
    groups = torch.tensor([numbers.setdefault(key, len(numbers)) for key in index], device=mask.device)
    scaled = config is None or config.norm_adv_by_std_in_grpo
    returns = rewards.sum(1)
    if len(returns):
        scale: Literal["unbiased"] | None = "unbiased" if scaled else None
        returns = segment_normalise(returns, groups, scale=scale, keep_singletons=True)
    advantages = (returns[:, None] * mask).to(token_level_rewards.dtype)
    return advantages, advantages


def token_returns(
    token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None, **_: Any
) -> Advantages:
    """``selfplay_returns``: discounted returns of tokens, whitened over the batch, as ``reinforce_plus_plus``.

    Rewards of masked tokens do not count, and discounts pass over them.
    """
    rewards, mask = _checked("selfplay_returns", token_level_rewards, response_mask)
    returns = discounted_sums(rewards, discount=_gamma(config), mask=mask) * mask if len(mask) else rewards
    advantages = torch.zeros_like(returns)
    if mask.any():
        advantages[mask] = segment_normalise(returns[mask], scale="unbiased", eps=1e-8, eps_inside=True)
    return advantages.to(token_level_rewards.dtype), returns.to(token_level_rewards.dtype)
