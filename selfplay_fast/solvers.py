"""Solutions of small games: best responses, NashConv, counterfactual regret minimisation, perfect play.

A game is walked once in C++ and kept. With hidden information it becomes a tree in sequence form, with perfect
information its distinct positions; games beyond ``max_nodes`` of either are refused. Wherever a game is taken, its
options may be part of the name: ``"kuhn_poker(rounds=2)"``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay_fast import _native, arguments, games

__all__ = [
    "DISCOUNTS",
    "HeadToHead",
    "InformationState",
    "PerfectPlay",
    "TabularPolicy",
    "at_information_states",
    "best_response",
    "cfr",
    "exploitability",
    "head_to_head",
    "information_states",
    "is_enumerable",
    "load_policy",
    "mccfr",
    "minimax",
    "nash_conv",
    "nash_convs",
    "num_actions",
    "optimal_policy",
    "outcomes",
    "policy_value",
    "save_policy",
]

FloatArray = NDArray[np.float64]
Form: TypeAlias = "_native.GameTree | _native.Positions"

MAX_NODES = 1_000_000
MOST_NODES = 2**31 - 1  # what the trees can number

DISCOUNTS: dict[str, tuple[float, float, float]] = {
    "cfr": (inf, inf, 0.0),  # Zinkevich et al. 2007
    "cfr+": (inf, -inf, 1.0),  # Tammelin 2014
    "linear": (1.0, 1.0, 1.0),  # Brown and Sandholm 2019, arXiv 1809.04040
    "discounted": (1.5, 0.0, 2.0),  # the same; their recommended numbers
}
"""alpha, beta and gamma of the variants of ``cfr``."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadToHead:
    """Expected return of a policy against another: ``by_seat[p]`` when it is player p, and their mean."""

    mean: float
    by_seat: tuple[float, ...]


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
    return at_information_states(game, style, max_nodes=max_nodes)[0]


def at_information_states(
    game: str, style: games.Style = "spiral", *, max_nodes: int = MAX_NODES
) -> tuple[list[InformationState], games.Batch]:
    """The ``information_states`` and a batch whose rows stand at them, one history each."""
    native = sorted(_form(game, max_nodes).information_states, key=lambda state: (state.player, state.key))
    batch = games.make(game, batch_size=len(native), chance="explicit", style=style)
    for ply in range(max(len(state.history) for state in native)):
        rows = np.array([row for row, state in enumerate(native) if len(state.history) > ply], np.int64)
        batch.step(np.array([native[row].history[ply] for row in rows], np.int64), rows=rows)
    states = [
        InformationState(
            player=state.player,
            key=state.key,
            observation=observation,
            legal_actions=tuple(state.legal_actions),
            reply_texts=tuple(batch.reply_text(row, action) for action in state.legal_actions),
        )
        for row, (state, observation) in enumerate(zip(native, batch.observation(), strict=True))
    ]
    return states, batch


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
    return float(nash_convs(game, [policy], max_nodes=max_nodes)[0])


def nash_convs(
    game: str, policies: Sequence[Mapping[str, ArrayLike]], *, max_nodes: int = MAX_NODES
) -> FloatArray:
    """NashConv float64[K] of K policies in one call."""
    form = _form(game, max_nodes)
    return np.array(form.nash_conv(np.stack([_table(form, policy) for policy in policies])))


def exploitability(game: str, policy: Mapping[str, ArrayLike], *, max_nodes: int = MAX_NODES) -> float:
    """NashConv over the number of players: what a best responder gains in a seat drawn by lot."""
    return nash_conv(game, policy, max_nodes=max_nodes) / games.describe(game).num_players


def head_to_head(
    game: str, policy: Mapping[str, ArrayLike], other: Mapping[str, ArrayLike], *, max_nodes: int = MAX_NODES
) -> HeadToHead:
    """Exact value of ``policy`` in every seat while ``other`` plays all the others."""
    form = _form(game, max_nodes)
    mine, theirs = _table(form, policy), _table(form, other)
    mover = np.array([state.player for state in form.information_states])[:, None]
    by_seat = tuple(
        float(form.policy_value(np.where(mover == seat, mine, theirs))[seat])
        for seat in range(form.num_players)
    )
    return HeadToHead(mean=sum(by_seat) / len(by_seat), by_seat=by_seat)


def outcomes(game: str, policy: Mapping[str, ArrayLike], *, max_nodes: int = MAX_NODES) -> FloatArray:
    """Probabilities float64[P, 3] that each player wins, draws and loses, in a game of perfect information."""
    form = _form(game, max_nodes)
    if not isinstance(form, _native.Positions):
        raise ValueError(f"outcomes: {game} has hidden information; use policy_value")
    return np.array(form.outcomes(_table(form, policy)))


def cfr(
    game: str,
    iterations: int,
    variant: str = "cfr+",
    *,
    alpha: float | None = None,
    beta: float | None = None,
    gamma: float | None = None,
    max_nodes: int = MAX_NODES,
) -> TabularPolicy:
    """The average policy after ``iterations`` of counterfactual regret minimisation with alternating updates.

    variant: ``"cfr"``, ``"cfr+"`` (with linear averaging), ``"linear"`` or ``"discounted"``. All are one rule with
        other numbers, see ``DISCOUNTS``; alpha, beta and gamma replace them. After iteration t positive regrets are
        multiplied by t^alpha / (t^alpha + 1), negative ones by t^beta / (t^beta + 1), and the average weighs it by
        t^gamma.

    Approaches an equilibrium of a two-player zero-sum game. ValueError for a game of perfect information: use
    ``optimal_policy``.
    """
    if variant not in DISCOUNTS:
        raise ValueError(f"cfr: variant must be one of {', '.join(DISCOUNTS)}, not {variant!r}")
    given = zip((alpha, beta, gamma), DISCOUNTS[variant], strict=True)
    tree = _tree(game, max_nodes, "cfr")
    arguments.whole("cfr: iterations", iterations, 0)
    discounts = [default if value is None else value for value, default in given]
    if math.isfinite(discounts[2]) and discounts[2] * math.log(max(iterations, 2)) > 600:
        raise ValueError(f"cfr: gamma must keep iterations^gamma below 1e260, got {discounts[2]}")
    solver = _native.Cfr(tree, *discounts)
    solver.run(iterations)
    return _as_policy(tree, solver.average_policy())


def mccfr(
    game: str,
    iterations: int,
    sampling: Literal["external", "outcome"] = "external",
    *,
    seed: int = 0,
    exploration: float = 0.6,
    max_nodes: int = MAX_NODES,
) -> TabularPolicy:
    """The average policy after ``iterations`` of CFR on sampled histories (Lanctot et al. 2009), fixed by the seed.

    In an iteration every player learns once. ``"external"`` tries all of its actions and draws those of nature and of
    the others; ``"outcome"`` draws one history, in which the learner's actions are uniform with probability
    ``exploration``. Iterations are much cheaper than those of ``cfr`` and progress is noisier.
    """
    tree = _tree(game, max_nodes, "mccfr")
    arguments.whole("mccfr: iterations", iterations, 0)
    solver = _native.MonteCarloCfr(tree, sampling, exploration, arguments.seed_bits("seed", seed))
    solver.run(iterations)
    return _as_policy(tree, solver.average_policy())


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


def save_policy(
    path: str | Path, game: str, policy: Mapping[str, ArrayLike], *, max_nodes: int = MAX_NODES
) -> None:
    """Write a policy of ``game`` as JSON; ValueError where it is none, or one of other options too."""
    form = _form(game, max_nodes)
    table = _checked(form, policy)
    rows = dict(zip(_keys(form), table.tolist(), strict=True))
    about = games.describe(game)
    content = {"game": about.name, "options": about.options, "probabilities": rows}
    Path(path).write_text(json.dumps(content, indent=1) + "\n")


def load_policy(path: str | Path, game: str, *, max_nodes: int = MAX_NODES) -> TabularPolicy:
    """Read what ``save_policy`` wrote for the same game and options, and check it.

    Raises ValueError, with the path, for another file, another game, a missing or unknown information state and for
    probabilities that are no distribution over the legal actions.
    """
    try:
        content = json.loads(Path(path).read_text())
        written = {name: content[name] for name in ("game", "options", "probabilities")}
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path}: this is no policy file; save_policy writes one") from None
    about = games.describe(game)
    if written["game"] != about.name or written["options"] != about.options:
        raise ValueError(
            f"{path}: the policy is for {written['game']} with options {written['options']}, not for {about.name} "
            f"with {about.options}"
        )
    form = _form(game, max_nodes)
    try:
        policy = TabularPolicy(written["probabilities"])
        _checked(form, policy)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return policy


@lru_cache(maxsize=64)
def _form(game: str, max_nodes: int) -> Form:
    arguments.whole("max_nodes", max_nodes, 1, MOST_NODES)
    about = games.describe(game)
    return _walk(about.name, tuple(about.options.items()), max_nodes)


@lru_cache(maxsize=16)
def _walk(name: str, options: tuple[tuple[str, int | str], ...], max_nodes: int) -> Form:
    return _native.solver_form(name, dict(options), max_nodes)


@lru_cache(maxsize=16)
def _keys(form: Form) -> tuple[str, ...]:
    return tuple(state.key for state in form.information_states)


def _tree(game: str, max_nodes: int, caller: str) -> _native.GameTree:
    if games.describe(game).perfect_information:  # asked before the walk, which may be long
        raise ValueError(f"{caller}: {game} has perfect information; use optimal_policy")
    form = _form(game, max_nodes)
    assert isinstance(form, _native.GameTree)
    return form


def _checked(form: Form, policy: Mapping[str, ArrayLike]) -> FloatArray:
    """The policy as a table; nothing may be missing, unknown or no distribution."""
    table = _table(form, policy)
    form.policy_value(table)  # where the rows are found to be distributions
    if unknown := set(policy) - set(_keys(form)):
        raise ValueError(f"policy: the game has no information state {min(unknown)!r}")
    return table


def _table(form: Form, policy: Mapping[str, ArrayLike]) -> FloatArray:
    """The policy as float64[I, A] in the form's order; C++ checks that the rows are distributions."""
    rows = []
    for key in _keys(form):
        try:
            row = np.asarray(policy[key], np.float64)
        except KeyError:
            raise ValueError(f"policy: no probabilities for information state {key!r}") from None
        if row.shape != (form.num_actions,):
            raise ValueError(
                f"policy: probabilities of information state {key!r} must have the shape "
                f"{(form.num_actions,)}, not {row.shape}"
            )
        rows.append(row)
    return np.stack(rows)


def _as_policy(form: Form, table: FloatArray) -> TabularPolicy:
    return TabularPolicy(dict(zip(_keys(form), table, strict=True)))
