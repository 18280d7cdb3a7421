"""Information-set search sees what the player sees, and plays what dominates."""

from __future__ import annotations

import numpy as np
import pytest

from selfplay_fast import games, search

HIDDEN = [
    "kuhn_poker",
    "kuhn_poker(rounds=3)",
    "leduc_poker",
    "liars_dice",
    "hanabi",
    "negotiation",
    "truth_and_deception",
]


@pytest.mark.parametrize("game", HIDDEN)
@pytest.mark.parametrize("observers", ["single", "multiple"])
def test_hidden_cards_make_no_difference(game: str, observers: str) -> None:
    """Oracle: the same search from worlds that differ only in what the player cannot know."""
    batch = games.make(game, 6, seed=5)
    for ply in range(3):
        rows = np.repeat(np.flatnonzero(~batch.terminated), 2)
        if len(rows) == 0:
            break
        worlds = batch.resample(rows, seed=ply)
        truth, swapped = (
            search.ismcts(
                games_,
                rows=which,
                simulations=60,
                observers=observers,
                seed=np.arange(len(rows)),  # type: ignore[arg-type]
            )
            for games_, which in ((batch, rows), (worlds, np.arange(len(rows))))
        )
        for ours, theirs in zip(truth, swapped, strict=True):
            assert (ours == theirs).all()
        batch.step(np.where(batch.terminated, 0, batch.sample_actions(ply)))


@pytest.mark.parametrize("observers", ["single", "multiple"])
def test_kuhn_poker_by_dominance(observers: str) -> None:
    """Oracle: dominance. Facing a bet one calls with the king and folds the jack."""
    batch = games.make("kuhn_poker", 200, seed=1)
    batch.step(np.ones(200, np.int64))
    found = search.ismcts(batch, simulations=1000, observers=observers, seed=2)  # type: ignore[arg-type]
    for row, action in enumerate(found.action):
        card = batch.information_state(row, 1)[0]
        if card != "1":
            assert action == (1 if card == "2" else 0)


def test_what_an_action_is_worth() -> None:
    """Oracle: enumeration. With the king, calling wins two chips and folding loses one, in every world."""
    batch = games.make("kuhn_poker", 50, seed=3)
    batch.step(np.ones(50, np.int64))
    found = search.ismcts(batch, simulations=200)
    kings = [row for row in range(50) if batch.information_state(row, 1)[0] == "2"]
    assert len(kings) > 3
    assert (found.values[kings] == [-1, 2]).all()
    assert (found.visits.sum(axis=1) == 200).all()


def test_threads_change_nothing() -> None:
    """Oracle: one thread."""
    batch = games.make("leduc_poker", 64, seed=3)
    one, eight = (search.ismcts(batch, simulations=500, seed=4, threads=n) for n in (1, 8))
    for a, b in zip(one, eight, strict=True):
        assert (a == b).all()
