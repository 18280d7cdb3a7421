"""Tree search over the rows of a batch, in C++: UCT, PUCT and Gumbel search, and information-set search.

    visits, values, action = search.mcts(g, simulations=1000)  # UCT with random playouts
    g.step(action)

Every row of the batch is one root; threads share the rows, and a row's result depends on its state, its seed and the
options alone. `Search` keeps the trees from move to move and hands out leaves to whatever evaluates them. `refine`
searches for texts, see `refine_search`.

Shapes: ``B`` roots (the rows of the batch, or those named), ``A`` actions, ``P`` players, ``K`` leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfplay_fast import _native, arguments
from selfplay_fast.games import Batch
from selfplay_fast.refine_search import Draft, Refined, RefineOptions, RefineTree, refine

__all__ = [
    "Cached",
    "Draft",
    "Evaluator",
    "Found",
    "Options",
    "RefineOptions",
    "RefineTree",
    "Refined",
    "Search",
    "check_options",
    "completed_values",
    "considered_visits",
    "ismcts",
    "mcts",
    "refine",
]

Evaluator: TypeAlias = "Callable[[Batch], tuple[ArrayLike, ArrayLike]]"
"""Leaves as a batch of games -> (priors [K, A], values): what ``Search.expand`` takes."""
Rule = Literal["uct", "puct", "gumbel"]
MOST_SIMULATIONS = 2**24 - 1  # what an edge can count
MOST_CONSIDERED = 1_000_000
LARGEST = 1e6  # of what is added up in float32
MOST_ROLLOUTS = 1_000_000  # of one leaf: no signal is heard while a search runs


class Found(NamedTuple):
    """What a search found: ``visits`` int64[B, A], ``values`` float32[B, A], ``action`` int64[B].

    Values are mean returns of the player to move, 0 where nobody went. The action is ``games.INVALID`` where the game
    is over or nature is to move.
    """

    visits: NDArray[np.int64]
    values: NDArray[np.float32]
    action: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a tree is searched.

    rule: ``"uct"`` tries every action once, then mean + c sqrt(log N / n); ``"puct"`` mean + c prior sqrt(N) / (1 + n);
        ``"gumbel"`` halves the actions considered at the root and follows completed values below. None: UCT with
        playouts, else PUCT. c: None for 2 in UCT and 1.25 in PUCT.
    rollouts: random playouts per leaf, averaged.
    solve: prove forced results; a root that is proven is searched no further. It takes UCT with playouts, two players
        and no chance; None: where that is so.
    transpositions: one node for a position, whichever way leads to it; every edge keeps the mean of what went through
        it (Saffidine, Cazenave and Mehat 2012, with all depths 0). It takes perfect information and no chance.
    considered: how many actions Gumbel search begins with.
    noise, alpha: this share of Dirichlet(alpha) noise in the priors at the root, drawn anew after a move.
    temperature: the action is drawn by visits ** (1 / temperature); 0 takes the most visited (a proven return counts
        first).
    leaves: how many leaves of one tree an outside evaluator gets at once; each counts as ``virtual_loss`` lost until it
        is answered.
    max_bytes: of all trees together; a search that needs more is a ValueError.
    """

    simulations: int = 100
    rule: Rule | None = None
    c: float | None = None
    rollouts: int = 1
    solve: bool | None = None
    transpositions: bool = False
    considered: int = 16
    noise: float = 0.0
    alpha: float = 0.3
    temperature: float = 0.0
    leaves: int = 1
    virtual_loss: float = 1.0
    max_bytes: int = 2**31

    def __post_init__(self) -> None:
        for name in ("leaves", "max_bytes"):
            arguments.whole(name, getattr(self, name), 1)
        arguments.whole("considered", self.considered, 1, MOST_CONSIDERED)
        arguments.whole("simulations", self.simulations, 1, MOST_SIMULATIONS)
        arguments.whole("rollouts", self.rollouts, 1, MOST_ROLLOUTS)
        arguments.flag("solve", self.solve)
        arguments.flag("transpositions", self.transpositions)
        if self.rule not in (None, "uct", "puct", "gumbel"):
            raise ValueError(f"rule must be 'uct', 'puct' or 'gumbel', got {self.rule!r}")
        for name, low, high in (
            ("c", 0.0, LARGEST),
            ("noise", 0.0, 1.0),
            ("alpha", 1e-3, math.inf),
            ("temperature", 0.0, math.inf),
            ("virtual_loss", 0.0, LARGEST),
        ):
            value = getattr(self, name)
            real = isinstance(value, int | float | np.number) and math.isfinite(value)
            if value is not None and not (real and low <= value <= high):
                raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")

    def native(self, evaluator: Evaluator | str) -> _native.SearchOptions:
        """The same for C++, with what None stands for."""
        if not callable(evaluator) and evaluator not in ("rollout", "uniform"):
            raise ValueError(f"evaluator must be 'rollout', 'uniform' or a function, got {evaluator!r}")
        rule = self.rule or ("uct" if evaluator == "rollout" else "puct")
        if rule == "uct" and self.noise > 0:
            raise ValueError("noise goes with rule='puct' or 'gumbel', whose priors it disturbs")
        if self.solve and (rule != "uct" or callable(evaluator)):
            raise ValueError("solve goes with rule='uct' and evaluator='rollout'")
        options = _native.SearchOptions()
        options.rule = getattr(_native.Rule, rule)
        options.c = self.c if self.c is not None else 2.0 if rule == "uct" else 1.25
        options.solve = rule == "uct" and evaluator == "rollout" if self.solve is None else self.solve
        options.insist = bool(self.solve)
        options.transpositions = bool(self.transpositions)
        options.rollouts = self.rollouts if evaluator == "rollout" else 0
        for name in (
            "simulations",
            "considered",
            "noise",
            "alpha",
            "temperature",
            "virtual_loss",
            "max_bytes",
        ):
            setattr(options, name, getattr(self, name))
        return options


def mcts(
    games: Batch,
    *,
    evaluator: Evaluator | Literal["rollout", "uniform"] = "rollout",
    rows: ArrayLike | None = None,
    seed: int | ArrayLike = 0,
    threads: int | None = None,
    **options: Any,
) -> Found:
    """Search every row of ``games``, or ``rows``, which may repeat; the options are those of `Options`.

    evaluator: ``"rollout"``: random playouts in C++; ``"uniform"``: equal priors, and a leaf is worth 0 until the game
        is over; or a function, which gets the leaves of all trees as one batch.
    seed: one for all rows, or one for each. threads: None for all cores.
    Raises ValueError for a game that hides information (use `ismcts`) or in which all players move at once.
    """
    settings = check_options(options)
    if callable(evaluator):
        roots = games if rows is None else games.resample(rows)
        return Search(roots, evaluator=evaluator, seed=seed, threads=threads, **options).run().results
    return _search(games, rows, settings.native(evaluator), seed, threads, _native.Observers.all)


def ismcts(
    games: Batch,
    *,
    observers: Literal["single", "multiple"] = "single",
    rows: ArrayLike | None = None,
    seed: int | ArrayLike = 0,
    threads: int | None = None,
    simulations: int = 100,
    c: float | None = None,
    rollouts: int = 1,
    max_bytes: int = 2**31,
) -> Found:
    """Information-set search for the players to move, who see what they see: the rest is drawn anew every time.

    observers: ``"single"``: one tree, of what the searching player knows; ``"multiple"``: a tree for every player, who
        chooses by what it knows. The rest as in `mcts`. Raises ValueError for a game that hides nothing.
    Leaves are valued by random playouts; where those all end alike, as in Hanabi, whose random play scores 0, a search
    finds nothing.
    """
    settings = Options(simulations=simulations, c=c, rollouts=rollouts, max_bytes=max_bytes)
    if observers not in ("single", "multiple"):
        raise ValueError(f"observers must be 'single' or 'multiple', got {observers!r}")
    return _search(
        games, rows, settings.native("rollout"), seed, threads, getattr(_native.Observers, observers)
    )


def check_options(given: dict[str, Any]) -> Options:
    """The options of these names; TypeError naming what there is for an unknown one, ValueError for a value."""
    known = [field.name for field in fields(Options)]
    for name in given:
        if name not in known:
            raise TypeError(f"unknown option {name!r}; there are: {', '.join(known)}")
    return Options(**given)


def _search(
    games: Batch,
    rows: ArrayLike | None,
    options: _native.SearchOptions,
    seed: int | ArrayLike,
    threads: int | None,
    observers: _native.Observers,
) -> Found:
    chosen = None if rows is None else _rows(rows)
    return Found(
        *_native.search_rows(_native_of(games), chosen, options, _seeds(seed), _threads(threads), observers)
    )


class Search:
    """Trees over a copy of ``games``, kept from move to move.

        trees = Search(g, evaluator=network, simulations=64, rule="gumbel")
        action = trees.run().results.action
        g.step(action)
        trees.advance(action)  # what was searched below the action is kept

    Or by hand, as an evaluator in another process needs it: ``select`` gives the leaves, ``expand`` takes the answers.
    The arguments are those of `mcts`.
    """

    def __init__(
        self,
        games: Batch,
        *,
        evaluator: Evaluator | Literal["rollout", "uniform"] = "rollout",
        seed: int | ArrayLike = 0,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        settings = check_options(options)
        self.evaluator = evaluator
        self.leaves = settings.leaves
        self.players = games.description.num_players
        self.zero_sum = games.description.zero_sum
        self._description = games.description
        self._pending: Batch | None = None
        self._native = _native.Search(
            _native_of(games), settings.native(evaluator), _seeds(seed), _threads(threads)
        )

    def run(self) -> Search:
        """All simulations from the present roots."""
        if not callable(self.evaluator):
            self._native.run()
            return self
        while (leaves := self.select()) is not None:
            self.expand(*_pair(self.evaluator(leaves)))
        return self

    def select(self) -> Batch | None:
        """The leaves to evaluate, as games: the roots first, then up to ``leaves`` of every tree; None at the end."""
        if self._pending is not None:
            raise ValueError("select: the leaves of the last call wait for expand")
        native = self._native.select(self.leaves)
        self._pending = None if native is None else Batch(native, self._description)
        return self._pending

    @property
    def leaf_rows(self) -> NDArray[np.int64]:
        """int64[K]: whose leaves those of the last ``select`` are."""
        return self._native.leaf_rows

    def expand(self, priors: ArrayLike, values: ArrayLike) -> None:
        """The answers to the last ``select``.

        priors: [K, A] weights >= 0; those of illegal actions are ignored, the others need not sum to 1, and all 0 means
            all alike. values: [K] returns expected for the player to move, in games of two players whose returns sum to
            0, or [K, P] for all players. ValueError, and nothing changes, for another shape or a NaN.
        """
        if self._pending is None:
            raise ValueError("expand: no leaves wait for an answer")
        count, actions = len(self._pending), self._description.num_actions
        weights = _floats("priors", priors)
        if weights.shape != (count, actions):
            raise ValueError(f"priors must have the shape {(count, actions)}, got {weights.shape}")
        if (weights < 0).any():
            raise ValueError("priors must not be negative")
        returns = _floats("values", values)
        if returns.shape == (count,) and self.players == 2 and self.zero_sum:
            mover = self._pending.current_player
            returns = np.stack([np.where(mover == p, returns, -returns) for p in range(2)], axis=1)
        if returns.shape != (count, self.players):
            wanted = f"{(count, self.players)}" + (
                f" or {(count,)}" if self.players == 2 and self.zero_sum else ""
            )
            raise ValueError(f"values must have the shape {wanted}, got {returns.shape}")
        if np.abs(returns).max(initial=0.0) > LARGEST:
            raise ValueError(f"values must be from {-LARGEST:g} to {LARGEST:g}")
        self._native.expand(weights, returns)
        self._pending = None

    def advance(self, actions: ArrayLike) -> None:
        """Play ``actions`` int64[B] in all games that are not over; the trees below them become the new trees.

        Gumbel search begins anew. Nature moves as it does in the batch the search was made of, if stepped alike.
        """
        if self._pending is not None:
            raise ValueError("advance: the leaves of the last select wait for expand")
        self._native.advance(_rows(actions, "actions"))

    @property
    def results(self) -> Found:
        """What has been found so far."""
        return Found(*self._native.results())

    @property
    def policy(self) -> NDArray[np.float32]:
        """float32[B, A]: the policy to learn from, of Gumbel search the improved one, else the shares of the visits."""
        return self._native.policy()


class Cached:
    """An evaluator that asks another one only for positions it has not met; leaves that are equal are asked for once.

    ``clear`` when the other one has changed. At ``limit`` positions it starts again.
    """

    def __init__(self, evaluator: Evaluator, *, limit: int = 100_000) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.evaluator = evaluator
        self.limit = limit
        self._known: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}

    def clear(self) -> None:
        """Forget all answers."""
        self._known.clear()

    def __call__(self, leaves: Batch) -> tuple[NDArray[Any], NDArray[Any]]:
        keys = [
            f"{player} {leaves.information_state(row, player)}"
            for row, player in enumerate(leaves.current_player.tolist())
        ]
        if len(self._known) + len(keys) > self.limit:
            self.clear()
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        if new:
            answer = _pair(self.evaluator(leaves.resample(list(new.values()))))
            priors, values = (np.asarray(part) for part in answer)
            if len(priors) != len(new) or len(values) != len(new):
                raise ValueError(
                    f"evaluator must answer {len(new)} leaves, got {len(priors)} and {len(values)}"
                )
            self._known.update(zip(new, zip(priors, values, strict=True), strict=True))
        answers = [self._known[key] for key in keys]
        return np.stack([prior for prior, _ in answers]), np.stack([value for _, value in answers])


def considered_visits(actions: int, simulations: int) -> list[int]:
    """Sequential halving over ``actions``: for every simulation, the visits an action must have to be considered."""
    arguments.whole("actions", actions, 1, MOST_CONSIDERED)
    arguments.whole("simulations", simulations, 0, MOST_SIMULATIONS)
    return _native.considered_visits(actions, simulations)


def completed_values(
    priors: ArrayLike, visits: ArrayLike, values: ArrayLike, own_value: float
) -> NDArray[np.float32]:
    """float32[A]: what Gumbel search adds to log priors; softmax of the sum is the improved policy.

    An action without visits gets the mixed value; all are rescaled to 0..1 and multiplied by (50 + most visits) / 10.
    Danihelka et al. 2022, equations 8 and 33.
    """
    return _native.completed_values(priors, visits, values, own_value)


def _rows(numbers: ArrayLike, name: str = "rows") -> NDArray[np.int64]:
    array = np.asarray(numbers)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} must be whole numbers, got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got {array.ndim}")
    return array.astype(np.int64)


def _native_of(games: Any) -> _native.GameBatch:
    if not isinstance(games, Batch):
        raise TypeError(f"games must be a batch, as games.make gives it, got {type(games).__name__}")
    return games._native


def _seeds(seed: int | ArrayLike) -> NDArray[np.uint64]:
    """One number of no dimensions, or one per row."""
    if np.ndim(seed) == 0:
        return np.array(arguments.seed_bits("seed", seed), np.uint64)
    return arguments.seeds_bits(np.asarray(seed).ravel())


def _threads(threads: int | None) -> int:
    return arguments.optional("threads", threads, 1, 2**16) or 0


def _floats(name: str, values: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def _pair(answer: Any) -> tuple[ArrayLike, ArrayLike]:
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise ValueError(f"evaluator must give (priors, values), got {type(answer).__name__}")
    return answer
