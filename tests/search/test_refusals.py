"""Bad input is one line that names the argument."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from selfplay_fast import games, search


def board() -> games.Batch:
    return games.make("tic_tac_toe", 2)


CASES: dict[str, tuple[Callable[[], object], str]] = {
    "hidden": (lambda: search.mcts(games.make("kuhn_poker", 1)), "use ismcts"),
    "nothing hidden": (lambda: search.ismcts(board()), "use mcts"),
    "joint": (lambda: search.mcts(games.make("snake", 1)), "all players move at once"),
    "kept, hidden": (lambda: search.Search(games.make("kuhn_poker", 1)), "use ismcts"),
    "simulations": (lambda: search.mcts(board(), simulations=0), "simulations must be"),
    "many": (lambda: search.mcts(board(), simulations=2**24), "simulations must be at most"),
    "rollouts": (lambda: search.mcts(board(), rollouts=0), "rollouts must be"),
    "rule": (lambda: search.mcts(board(), rule="best"), "rule must be"),
    "c": (lambda: search.mcts(board(), c=float("nan")), "c must be"),
    "evaluator": (lambda: search.mcts(board(), evaluator="oracle"), "evaluator must be"),  # type: ignore[arg-type]
    "solve": (lambda: search.mcts(board(), evaluator="uniform", solve=True), "solve goes with"),
    "chance": (
        lambda: search.mcts(games.make("pig", 1), solve=True),
        "solve needs two players and no chance",
    ),
    "transpositions": (
        lambda: search.mcts(games.make("pig", 1), transpositions=True),
        "transpositions need perfect information, no chance",
    ),
    "noise in UCT": (lambda: search.mcts(board(), noise=0.5), "noise goes with rule"),
    "considered": (
        lambda: search.mcts(board(), rule="gumbel", considered=2**40),
        "considered must be at most",
    ),
    "schedule": (lambda: search.considered_visits(3, -5), "simulations must be at least 0"),
    "large c": (lambda: search.mcts(board(), c=1e39), "c must be"),
    "observers": (lambda: search.ismcts(games.make("kuhn_poker", 1), observers="none"), "observers must be"),  # type: ignore[arg-type]
    "memory": (
        lambda: search.mcts(board(), simulations=10_000, max_bytes=5_000),
        "max_bytes: a tree outgrew",
    ),
    "memory, hidden": (
        lambda: search.ismcts(games.make("hanabi", 1), simulations=10_000, max_bytes=5_000),
        "max_bytes: a tree outgrew",
    ),
    "rows": (lambda: search.mcts(board(), rows=[2]), "row 2 is outside"),
    "seeds": (lambda: search.mcts(board(), seed=[1, 2, 3]), "seed must be one number"),
    "unknown": (lambda: search.mcts(board(), sims=5), "unknown option 'sims'; there are: simulations"),
    "no batch": (lambda: search.mcts("tic_tac_toe"), "games must be a batch"),  # type: ignore[arg-type]
    "long playouts": (lambda: search.mcts(board(), rollouts=10**9), "rollouts must be at most"),
    "nan seed": (lambda: search.mcts(board(), seed=float("nan")), "seed must be a whole number"),
    "solve word": (lambda: search.mcts(board(), solve="no"), "solve must be True, False or None"),
    "c word": (lambda: search.mcts(board(), c="a"), "c must be a number"),
    "threads": (lambda: search.mcts(board(), threads=0), "threads must be"),
    "answer": (
        lambda: search.mcts(board(), evaluator=lambda leaves: np.ones((len(leaves), 9))),
        "evaluator must give",
    ),  # type: ignore[arg-type,return-value]
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str) -> None:
    """Oracle: the words."""
    call, words = CASES[name]
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("priors", "values", "words"),
    [
        (np.ones((2, 8)), np.zeros(2), r"priors must have the shape \(2, 9\)"),
        (np.full((2, 9), np.nan), np.zeros(2), "priors must be finite"),
        (-np.ones((2, 9)), np.zeros(2), "priors must not be negative"),
        (np.ones((2, 9)), np.zeros(3), r"values must have the shape \(2, 2\) or \(2,\)"),
        (np.ones((2, 9)), np.array([0.0, np.inf]), "values must be finite"),
    ],
)
def test_answers_are_checked_first(priors: np.ndarray, values: np.ndarray, words: str) -> None:
    """Oracle: the words, and a good answer after the bad one, which goes on as if nothing had been."""
    trees = search.Search(board(), evaluator="uniform", simulations=4)
    assert trees.select() is not None
    with pytest.raises(ValueError, match=words):
        trees.expand(priors, values)
    with pytest.raises(ValueError, match="wait for expand"):
        trees.select()
    while True:
        trees.expand(np.ones((2, 9)), np.zeros(2))
        if trees.select() is None:
            break
    assert trees.results.visits.sum(axis=1).tolist() == [4, 4]


def test_ended_games_are_left_alone() -> None:
    """Oracle: the definition of `Found`."""
    batch = board()
    for action in (0, 3, 1, 4, 2):
        batch.step([action], rows=[0])
    for found in (
        search.mcts(batch, simulations=20),
        search.mcts(
            batch, simulations=20, evaluator=lambda leaves: (np.ones((len(leaves), 9)), np.zeros(len(leaves)))
        ),
    ):
        assert found.action[0] == games.INVALID
        assert found.visits.sum(axis=1).tolist() == [0, 20]


def test_rich_and_general_games_are_searched() -> None:
    """Oracle: legality. Three players with one score, and a game that does not sum to zero."""
    for game in ("hanabi(players=3)", "negotiation"):
        batch = games.make(game, 3, seed=1)
        found = search.ismcts(batch, simulations=50)
        assert batch.legal_actions[np.arange(3), found.action].all()
    batch = games.make("tic_tac_toe(rewards=mars)", 1)
    assert search.mcts(batch, simulations=50).visits.sum() == 50
    with pytest.raises(ValueError, match=r"values must have the shape \(1, 2\), got"):
        search.mcts(batch, evaluator=lambda leaves: (np.ones((len(leaves), 9)), np.zeros(len(leaves))))
