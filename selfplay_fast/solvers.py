"""Exact solutions of small games: best responses, NashConv, CFR, perfect play.

A game is walked once in C++ and kept. With hidden information it becomes a tree in sequence form, with perfect
information its distinct positions; games beyond ``max_nodes`` of either are refused. Wherever a game is taken, its
options may be part of the name: ``"kuhn_poker(rounds=2)"``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay_fast import _native, games

__all__ = [
    "InformationState",
    "PerfectPlay",
    "TabularPolicy",
    "best_response",
    "cfr",
    "information_states",
    "is_enumerable",
    "minimax",
    "nash_conv",
    "num_actions",
    "optimal_policy",
    "policy_value",
]

FloatArray = NDArray[np.float64]
Form: TypeAlias = "_native.GameTree | _native.Positions"

MAX_NODES = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class InformationState:
    """Where a player has to decide, as far as it can tell.

    Example: player 0, key "0pb", observation "… Your card: J. …", legal_actions (0, 1), reply_texts one per action.
    """

    player: int
    key: str
    observation: str
    legal_actions: tuple[int, ...]
    reply_texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PerfectPlay:
    """What ``player``, to move, gets when both play perfectly, and the actions that get it."""

    player: int
    value: float
    actions: tuple[int, ...]


class TabularPolicy(Mapping[str, FloatArray]):
    """Action probabilities float64[A] by information state key, read-only."""

    def __init__(self, probabilities: Mapping[str, ArrayLike]) -> None:
        """Copies the values. Whether they are distributions over legal actions is checked where a game is known."""
        self._rows: dict[str, FloatArray] = {}
        for key, values in probabilities.items():
            row = np.array(values, np.float64)
            if row.ndim != 1:
                raise ValueError(
                    f"policy: probabilities of information state {key!r} must have one dimension"
                )
            row.flags.writeable = False
            self._rows[key] = row

    @classmethod
    def uniform(cls, game: str, *, max_nodes: int = MAX_NODES) -> TabularPolicy:
        """Every legal action alike."""
        length = num_actions(game)
        return cls(
            {
                state.key: np.bincount(state.legal_actions, minlength=length) / len(state.legal_actions)
                for state in _form(game, max_nodes).information_states
            }
        )

    def __getitem__(self, key: str) -> FloatArray:
        return self._rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"TabularPolicy({len(self)} information states)"


def num_actions(game: str) -> int:
    """Length of a policy's rows."""
    return games.describe(game).num_actions


@lru_cache(maxsize=64)
def is_enumerable(game: str, *, max_information_states: int = 1000, max_nodes: int = 100_000) -> bool:
    """Whether a policy can be asked about every information state: there are few, and players forget nothing.

    Of a joint game there is no such list.
    """
    games.describe(game)  # an unknown game is an error, not an answer
    try:
        return len(_form(game, max_nodes).information_states) <= max_information_states
    except ValueError:
        return False


def information_states(
    game: str, style: games.Style = "spiral", *, max_nodes: int = MAX_NODES
) -> list[InformationState]:
    """All information states with a player to move, by player and key.

    ``observation`` is what ``games.make(game, style=style)`` would show there, ``reply_texts`` the canonical replies.
    """
    native = sorted(_form(game, max_nodes).information_states, key=lambda state: (state.player, state.key))
    batch = games.make(game, batch_size=len(native), chance="explicit", style=style)
    for ply in range(max(len(state.history) for state in native)):
        rows = np.array([row for row, state in enumerate(native) if len(state.history) > ply], np.int64)
        batch.step(np.array([native[row].history[ply] for row in rows], np.int64), rows=rows)
    return [
        InformationState(
            player=state.player,
            key=state.key,
            observation=observation,
            legal_actions=tuple(state.legal_actions),
            reply_texts=tuple(batch.reply_text(row, action) for action in state.legal_actions),
        )
        for row, (state, observation) in enumerate(zip(native, batch.observation(), strict=True))
    ]


def policy_value(game: str, policy: Mapping[str, ArrayLike], *, max_nodes: int = MAX_NODES) -> FloatArray:
    """Expected return float64[P] of every player when all follow the policy."""
    form = _form(game, max_nodes)
    return np.array(form.policy_value(_table(form, policy)))


def best_response(
    game: str, policy: Mapping[str, ArrayLike], player: int, *, max_nodes: int = MAX_NODES
) -> tuple[TabularPolicy, float]:
    """What ``player`` does best against the others' policy, and what it gets.

    The result holds the player's information states; at those that the others never allow, the first legal action.
    """
    form = _form(game, max_nodes)
    table, value = form.best_response(_table(form, policy), player)
    return TabularPolicy(
        {s.key: row for s, row in zip(form.information_states, table, strict=True) if s.player == player}
    ), value


def nash_conv(game: str, policy: Mapping[str, ArrayLike], *, max_nodes: int = MAX_NODES) -> float:
    """Sum over the players of what a best response gains: 0 exactly at an equilibrium.

    Raises ValueError naming the information state where the policy has no row, or one that is no distribution over
    the legal actions (to 1e-6).
    """
    form = _form(game, max_nodes)
    return float(form.nash_conv(_table(form, policy)[None])[0])


def cfr(game: str, iterations: int, variant: str = "cfr+", *, max_nodes: int = MAX_NODES) -> TabularPolicy:
    """The average policy after ``iterations`` of counterfactual regret minimisation with alternating updates.

    ``"cfr"``: Zinkevich et al. 2007. ``"cfr+"``: Tammelin 2014, with linear averaging. Both approach an equilibrium
    of a two-player zero-sum game. ValueError for a game of perfect information: use ``optimal_policy``.
    """
    form = _form(game, max_nodes)
    if not isinstance(form, _native.GameTree):
        raise ValueError(f"cfr: {game} has perfect information; use optimal_policy")
    solver = _native.Cfr(form, variant)
    solver.run(iterations)
    return _as_policy(form, solver.average_policy())


def minimax(game: str, *, max_nodes: int = MAX_NODES) -> dict[str, PerfectPlay]:
    """Perfect play at every information state of a two-player zero-sum game of perfect information."""
    about = games.describe(game)
    if about.num_players != 2 or not about.zero_sum or not about.perfect_information:
        raise ValueError(f"minimax: {game} is not a two-player zero-sum game of perfect information")
    form = _form(game, max_nodes)
    assert isinstance(form, _native.Positions)
    values, optimal = form.minimax()
    return {
        state.key: PerfectPlay(
            player=state.player, value=float(value), actions=tuple(np.flatnonzero(row).tolist())
        )
        for state, value, row in zip(form.information_states, values, optimal, strict=True)
    }


def optimal_policy(game: str, *, max_nodes: int = MAX_NODES) -> TabularPolicy:
    """Uniform over the actions that ``minimax`` finds optimal."""
    length = num_actions(game)
    return TabularPolicy(
        {
            key: np.bincount(play.actions, minlength=length) / len(play.actions)
            for key, play in minimax(game, max_nodes=max_nodes).items()
        }
    )


def _form(game: str, max_nodes: int) -> Form:
    about = games.describe(game)
    return _walk(about.name, tuple(about.options.items()), max_nodes)


@lru_cache(maxsize=16)
def _walk(name: str, options: tuple[tuple[str, int | str], ...], max_nodes: int) -> Form:
    return _native.solver_form(name, dict(options), max_nodes)


def _table(form: Form, policy: Mapping[str, ArrayLike]) -> FloatArray:
    """The policy as float64[I, A] in the form's order; C++ checks that the rows are distributions."""
    table = np.empty((len(form.information_states), form.num_actions))
    for row, state in zip(table, form.information_states, strict=True):
        try:
            values = np.asarray(policy[state.key], np.float64)
        except KeyError:
            raise ValueError(f"policy: no probabilities for information state {state.key!r}") from None
        if values.shape != row.shape:
            raise ValueError(
                f"policy: probabilities of information state {state.key!r} must have the shape {row.shape}, "
                f"not {values.shape}"
            )
        row[:] = values
    return table


def _as_policy(form: Form, table: FloatArray) -> TabularPolicy:
    return TabularPolicy({state.key: row for state, row in zip(form.information_states, table, strict=True)})
