"""Advantage estimators: pure functions of episodes and an explicit state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from selfplay_fast.learn.credit import discounted_sums, moving_advantages, segment_normalise
from selfplay_fast.records import Episode, FloatArray

Order = Literal["post", "pre", "batch"]
Pool = Literal["role", "role_game", "game", "batch"]
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


def without_forfeits(episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes in which all replies came: where a server did not answer, nothing is learned of anybody's play.

    ValueError where none is left.
    """
    whole = [episode for episode in episodes if episode.forfeit is None]
    if episodes and not whole:
        raise ValueError(f"episodes: all {len(episodes)} were forfeited; do the servers answer?")
    return whole


def undiscounted_returns(episodes: Sequence[Episode]) -> Advantages:
    """The bare return of the role as the advantage of each of its turns: the ablation without a baseline."""
    return [_spread(episode, episode.returns, 1.0) for episode in episodes]


def turn_level_advantages(
    episodes: Sequence[Episode],
    rewards: Advantages,
    *,
    pool: Pool = "role",
    estimator: Literal["paper", "released"] = "paper",
) -> Advantages:
    """Turn-level, agent-specific advantages (MARS, Yuan et al. 2025, arXiv 2510.15414): summed, then normalised.

        R[k] = sum of rewards[j] over the role's own turns j >= k        A[k] = R[k] - mean of R over its pool

    ``rewards`` and the result hold one number per episode and turn. ``pool``: all turns of a role, of a role in one
    game, of a game, or all. "released" is what the released code computes instead: rewards less their mean per game and
    role, then sums, less the mean of a role's distinct sums and 0, then whitened over all reply tokens; ``pool`` must
    be "role" there.
    """
    if pool not in ("role", "role_game", "game", "batch"):
        raise ValueError(f"pool: must be 'role', 'role_game', 'game' or 'batch', got {pool!r}")
    if estimator not in ("paper", "released"):
        raise ValueError(f"estimator: must be 'paper' or 'released', got {estimator!r}")
    if estimator == "released" and pool != "role":
        raise ValueError(f"pool: the released estimator has its own pools; leave it 'role', got {pool!r}")
    turns = [
        (e, k, episode.game, turn.ask.role, len(turn.reply.tokens), rewards[e][k])
        for e, episode in enumerate(episodes)
        for k, turn in enumerate(episode.turns)
    ]
    turns.sort(key=lambda turn: (turn[0], turn[3]))  # the own turns of a role side by side, in their order
    if not turns:
        return [[] for _ in episodes]
    place, number, game, role, length, reward = zip(*turns, strict=True)
    value = np.array(reward, np.float64)
    trajectory = _numbered(zip(place, role, strict=True))
    if estimator == "released":
        value = segment_normalise(value, _numbered(zip(game, role, strict=True)), scale=None)
        own = _released(discounted_sums(value, trajectory), _numbered(role), np.array(length, np.float64))
    else:
        keys = {
            "role": role,
            "role_game": zip(game, role, strict=True),
            "game": game,
            "batch": [0] * len(role),
        }
        own = segment_normalise(discounted_sums(value, trajectory), _numbered(keys[pool]), scale=None)
    advantages = [[0.0] * len(episode.turns) for episode in episodes]
    for e, k, advantage in zip(place, number, own.tolist(), strict=True):
        advantages[e][k] = advantage
    return advantages


def _released(sums: NDArray[np.float64], roles: NDArray[np.int64], tokens: NDArray[np.float64]) -> Any:
    """The last steps of the released code, without the rounding noise that there decides which sums are distinct."""
    centred = sums.copy()
    for role in np.unique(roles):
        distinct = np.unique(np.append(sums[roles == role].round(6), 0.0))
        centred[roles == role] -= distinct.mean()
    return segment_normalise(
        centred, weights=np.maximum(tokens, 1), scale="unbiased", eps=1e-8, eps_inside=True
    )


def leave_one_out_advantages(rewards: Sequence[Sequence[float]]) -> Advantages:
    """The rewards of each prompt's responses -> A_i = r_i - mean of the others' (RLOO, Ahmadian et al. 2024, Eq. 5).

    arXiv 2402.14740. Of a response alone it is 0.
    """
    lengths = [len(row) for row in rewards]
    if not sum(lengths):
        return [[] for _ in rewards]
    flat = np.concatenate([np.asarray(row, np.float64) for row in rewards])
    groups = np.repeat(np.arange(len(rewards)), lengths)
    own = segment_normalise(flat, groups, scale=None, leave_one_out=True)
    return [part.tolist() for part in np.split(own, np.cumsum(lengths)[:-1])]


def summed_rewards(episodes: Sequence[Episode], rewards: Advantages) -> Advantages:
    """All that a role gets in an episode at its last turn and nothing before: without turn-level credit.

    Summed and normalised, every turn of a trajectory then has the same return.
    """
    later = []
    for episode, row in zip(episodes, rewards, strict=True):
        roles = [turn.ask.role for turn in episode.turns]
        last = {role: k for k, role in enumerate(roles)}
        later.append(
            [
                sum(value for value, other in zip(row, roles, strict=True) if other == role)
                * (last[role] == k)
                for k, role in enumerate(roles)
            ]
        )
    return later


def _numbered(keys: Iterable[Any]) -> NDArray[np.int64]:
    """Each key as the number of its first appearance."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


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
