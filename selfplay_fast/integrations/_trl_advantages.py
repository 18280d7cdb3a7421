"""Advantages of a batch of completions, for TRL's GRPO loss. Needs torch only.

N completions of all processes, in order, T tokens each with padding; a turn is a run of tokens that the model wrote,
between what the environment said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from selfplay_fast.arguments import shown
from selfplay_fast.config import nearest
from selfplay_fast.learn import credit
from selfplay_fast.learn.advantages import Order, RoleBaseline


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Samples:
    """What an estimator sees of a batch of completions."""

    rewards: Tensor
    """[N] float32: the weighted sum of the reward functions; NaN where none gave a number."""
    groups: Tensor
    """[N] int64: equal for completions of one prompt."""
    turns: Tensor
    """[N, T] int64: the number of each token's turn, from 0; -1 for the environment's tokens and padding."""
    columns: Mapping[str, Sequence[Any]]
    """The columns of the dataset, and what ``rollout_func`` returned besides, [N] each."""
    training: bool
    """False in evaluation."""

    def column(self, name: str) -> Sequence[Any]:
        """A column; ValueError if there is none of that name."""
        if name not in self.columns:
            raise ValueError(f"advantages: there is no column {name!r}{nearest(name, list(self.columns))}")
        return self.columns[name]


@runtime_checkable
class Estimator(Protocol):
    """An estimator that learns: what it has learnt goes into checkpoints, as JSON."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def turns_of(mask: Tensor) -> Tensor:
    """mask bool [N, T], True where the model wrote -> [N, T] int64: the number of the run of True, -1 elsewhere."""
    begins = mask & ~torch.nn.functional.pad(mask[:, :-1], (1, 0))
    return (begins.cumsum(1) - 1).masked_fill(~mask, -1)


class RoleConditioned:
    """One moving average of the reward for each role (SPIRAL, Liu et al. 2025, arXiv 2506.24119): advantages [N].

        b[G, p] <- decay b[G, p] + (1 - decay) R        A = R - b[G, p]

    role, game: the columns that name them; ``game`` None where there is one only. order: "post" updates, then
    subtracts; "pre" and "batch" as in `learn.advantages.role_conditioned_advantages`. Completions are visited in order.
    Evaluation does not move the averages. Raises ValueError on a wrong decay, order or column.
    """

    def __init__(
        self, *, decay: float = 0.95, order: Order = "post", role: str = "role", game: str | None = None
    ) -> None:
        if order not in ("post", "pre", "batch"):
            raise ValueError(f"order: must be 'post', 'pre' or 'batch', got {shown(order)}")
        self.baseline = RoleBaseline(decay=decay)
        self._order, self._role, self._game = order, role, game

    def __call__(self, samples: Samples) -> Tensor:
        roles = samples.column(self._role)
        played = [""] * len(roles) if self._game is None else samples.column(self._game)
        rewards = samples.rewards.double().cpu()
        scored = ~rewards.isnan()
        named = zip(played, roles, scored.tolist(), strict=True)
        slots = [(str(game), str(role)) for game, role, counts in named if counts]
        own, after = self.baseline.advantages(slots, rewards[scored].tolist(), self._order)
        if samples.training:
            self.baseline = after
        return torch.zeros_like(rewards).masked_scatter(scored, torch.from_numpy(own))

    def state_dict(self) -> dict[str, Any]:
        """The averages: [game, role, number] each."""
        return {"baseline": [[*slot, value] for slot, value in self.baseline.values.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        values = {(game, role): float(value) for game, role, value in state["baseline"]}
        self.baseline = RoleBaseline(decay=self.baseline.decay, values=values)


class TurnLevel:
    """Every turn its own advantage (MARS, Yuan et al. 2025, arXiv 2510.15414): advantages [N, T].

        S[k] = sum_{j >= k} discount^(j - k) r[j]        A[k] = (S[k] - mean) / std,   over the turns of one role

    rewards: the column with the rewards of a completion's turns, a list each; the reward functions are then for the
        log only. None: all of the reward comes with the last turn.
    role: the column whose values have their own mean; None for one mean over the batch.
    scale: whether to divide, and by which standard deviation ("biased", "unbiased"); None, as in the paper: not.

    Raises ValueError where a list is not as long as its completion has turns; one whose tokens are all masked, as
    ``mask_truncated_completions`` does, is left out.
    """

    def __init__(
        self,
        *,
        rewards: str | None = "turn_rewards",
        role: str | None = "role",
        discount: float = 1.0,
        scale: Literal["biased", "unbiased"] | None = None,
    ) -> None:
        if not 0 <= discount <= 1:
            raise ValueError(f"discount: must be in [0, 1], got {shown(discount)}")
        if scale not in ("biased", "unbiased", None):
            raise ValueError(f"scale: must be 'biased', 'unbiased' or None, got {shown(scale)}")
        self._rewards, self._role, self._discount, self._scale = rewards, role, discount, scale

    def __call__(self, samples: Samples) -> Tensor:
        turns = samples.turns.cpu()
        counts = (turns.amax(1) + 1).masked_fill(samples.rewards.isnan().cpu(), 0)
        if not counts.any():
            return torch.zeros(turns.shape)
        sample = torch.arange(len(counts)).repeat_interleave(counts)  # of each turn
        names = [""] * len(counts) if self._role is None else [str(x) for x in samples.column(self._role)]
        role = torch.tensor([sorted(set(names)).index(name) for name in names])
        sums = credit.discounted_sums(
            self._by_turn(samples, counts.tolist()), sample, discount=self._discount
        )
        own = credit.segment_normalise(sums, role[sample], scale=self._scale)
        first = counts.cumsum(0) - counts
        counted = (turns >= 0) & (counts > 0)[:, None]
        return own[(first[:, None] + turns).masked_fill(~counted, 0)].masked_fill(~counted, 0)

    def _by_turn(self, samples: Samples, counts: list[int]) -> Tensor:
        """The rewards of all turns one after another, float64."""
        if self._rewards is None:
            totals = zip(counts, samples.rewards.tolist(), strict=True)
            return torch.tensor(
                [x for n, total in totals if n for x in [0.0] * (n - 1) + [total]], dtype=torch.float64
            )
        flat: list[float] = []
        for row, (own, n) in enumerate(zip(samples.column(self._rewards), counts, strict=True)):
            if n and len(own) != n:
                raise ValueError(f"{self._rewards}: completion {row} has {len(own)} rewards and {n} turns")
            flat += own if n else ()
        return torch.tensor(flat, dtype=torch.float64)
