"""Advantage estimators: pure functions of episodes and an explicit state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from selfplay_fast.learn.credit import moving_advantages
from selfplay_fast.records import Episode, FloatArray

Order = Literal["post", "pre", "batch"]
Slot = tuple[str, str]  # (game, role)
Advantages = list[list[float]]  # one number per episode and turn


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleBaseline:
    """Exponential moving average of the return, one per (game, role): SPIRAL's b[G, p]. Starts at 0."""

    decay: float = 0.95
    values: Mapping[Slot, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay: must be in [0, 1], got {self.decay}")

    def __getitem__(self, slot: Slot) -> float:
        return self.values.get(slot, 0.0)

    def advantages(
        self, slots: Sequence[Slot], returns: Sequence[float], order: Order
    ) -> tuple[FloatArray, RoleBaseline]:
        """Of returns [N] of these slots, visited in the order given: advantages [N] and the averages after them.

        ``order`` as of `role_conditioned_advantages`.
        """
        numbers: dict[Slot, int] = {}
        places = [numbers.setdefault(slot, len(numbers)) for slot in slots]
        own, after = moving_advantages(
            returns,
            np.array(places, np.int64),
            [self[slot] for slot in numbers],
            decay=self.decay,
            order=order,
        )
        values = dict(self.values) | dict(zip(numbers, after.tolist(), strict=True))
        return own, RoleBaseline(decay=self.decay, values=values)


def role_conditioned_advantages(
    episodes: Sequence[Episode], baseline: RoleBaseline, *, order: Order = "post", discount: float = 1.0
) -> tuple[Advantages, RoleBaseline]:
    """Role-conditioned advantage estimation (SPIRAL, arXiv 2506.24119, Eq. 2 and Algorithm 1).

        b[G, p] <- decay b[G, p] + (1 - decay) R_p        A[G, p] = R_p - b[G, p]

    Every turn of role p in an episode gets the same advantage, times ``discount`` to the number of turns that p
    still has after it. ``order``: "post" updates, then subtracts (Algorithm 1); "pre" subtracts the old baseline,
    then updates (released code); "batch" keeps the baseline fixed over the batch and updates it once with the
    batch mean. Episodes are visited in the order given. Returns the advantages [episode][turn] and the new
    baseline.
    """
    if order not in ("post", "pre", "batch"):
        raise ValueError(f"order: must be 'post', 'pre' or 'batch', got {order!r}")
    slots = [(episode.game, role) for episode in episodes for role in episode.returns]
    returns = [reward for episode in episodes for reward in episode.returns.values()]
    flat, after = baseline.advantages(slots, returns, order)
    own = iter(flat.tolist())
    advantages = [
        _spread(episode, {role: next(own) for role in episode.returns}, discount) for episode in episodes
    ]
    return advantages, after


def undiscounted_returns(episodes: Sequence[Episode]) -> Advantages:
    """The bare return of the role as the advantage of each of its turns: the ablation without a baseline."""
    return [_spread(episode, episode.returns, 1.0) for episode in episodes]


def _spread(episode: Episode, by_role: Mapping[str, float], discount: float) -> list[float]:
    """One advantage per role -> one per turn, discounted by the role's turns still to come."""
    later: dict[str, int] = {}
    spread = []
    for turn in reversed(episode.turns):
        if turn.ask.role not in by_role:
            raise ValueError(f"episodes: {episode.game} has turns but no return of role {turn.ask.role!r}")
        left = later.get(turn.ask.role, 0)
        later[turn.ask.role] = left + 1
        spread.append(by_role[turn.ask.role] * discount**left)
    return spread[::-1]
