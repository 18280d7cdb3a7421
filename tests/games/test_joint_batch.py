"""Batches of joint games: shapes, views, subsets, seeds, autoreset, news, and clear errors."""

from __future__ import annotations

import numpy as np
import pytest

from selfplay_fast import games, solvers

NAME = "snake(width=6, height=6)"


def test_shapes_and_views() -> None:
    """Oracle: contract. Players move at once, -2; arrays have a column per player; views follow the games."""
    batch = games.make(NAME, 3)
    about = batch.description
    assert (about.simultaneous, about.num_players, about.num_actions, about.max_turns) == (True, 2, 4, 40)
    players, legal, returns = batch.current_player, batch.legal_actions, batch.returns
    assert players.tolist() == [games.SIMULTANEOUS] * 3 == [-2] * 3
    assert (legal.shape, legal.dtype, returns.shape) == ((3, 2, 4), np.bool_, (3, 2))
    assert legal.all()
    moves = batch.sample_actions(1)
    assert (moves.shape, moves.dtype) == ((3, 2), np.int64)
    assert batch.observation_tensor(player=1).shape == (3, 6, 6, 6)
    assert batch.observation_tensor().shape == (3, 2, 6, 6, 6)
    assert batch.observation([1, 0], 0) == batch.observation(player=0)[1::-1]
    assert batch.chance_outcomes(0) == []
    batch.random_playouts()
    assert players.tolist() == [games.TERMINAL] * 3
    assert not batch.legal_actions.any()
    assert batch.legal_actions.ctypes.data == legal.ctypes.data
    assert (batch.sample_actions(1) == games.INVALID).all()
    assert batch.parse(["up"] * 3, player=0)[1] == ["nobody is to move in this game"] * 3
    with pytest.raises(ValueError, match="read-only"):
        returns[0] = 1


def test_subsets_step_alone_and_in_any_order() -> None:
    """Oracle: the same games stepped together. Order and grouping of rows change nothing."""
    together, apart = (games.make(NAME, 60, seed=4) for _ in range(2))
    rng = np.random.default_rng(0)
    while not together.terminated.all():
        moves = together.sample_actions(1)
        rows = rng.permutation(np.flatnonzero(~together.terminated))
        for part in np.array_split(rows, 3):
            apart.step(moves[part].astype(np.int32), rows=part)
        together.step(moves)
        assert (together.legal_actions == apart.legal_actions).all()
    assert together.state() == apart.state()
    assert together.history(0) == apart.history(0)
    assert len(together.history(0)) % 2 == 0


def test_deals_and_later_chance_follow_the_key() -> None:
    """Oracle: contract. Groups share deals and, with equal moves, all that comes; seeds decide alone; resets differ."""
    batch = games.make(NAME, 8, seed=1)
    deals = [batch.information_state(row, 0) for row in range(8)]
    assert len(set(deals)) == 8
    batch.reset()
    assert not set(deals) & {batch.information_state(row, 0) for row in range(8)}
    batch.reset(repeat=4)
    rng = np.random.default_rng(1)
    for _ in range(10):
        keys = [batch.information_state(row, 0) for row in range(8)]
        assert keys[:4] == keys[:1] * 4
        assert keys[4:] == keys[4:5] * 4
        assert keys[0] != keys[4]
        batch.step(np.repeat(rng.integers(0, 4, (2, 2)), 4, axis=0))
    batch.reset(rows=[6, 1], seeds=[-5, 3**60])
    other = games.make(NAME, 2, seed=99)
    other.reset(seeds=[-5, 3**60])
    assert [batch.information_state(row, 1) for row in (6, 1)] == [
        other.information_state(row, 1) for row in (0, 1)
    ]


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_autoreset(mode: str) -> None:
    """Oracle: a batch reset by hand. The same episodes follow each other, with every result seen once."""
    automatic = games.make(NAME, 30, seed=2, autoreset=mode)  # type: ignore[arg-type]
    by_hand = games.make(NAME, 30, seed=2)
    rng = np.random.default_rng(1)
    ended_games = 0
    for _ in range(40):
        moves = rng.integers(0, 4, (30, 2))
        ended = np.flatnonzero(by_hand.terminated)
        automatic.step(moves)
        by_hand.step(moves)
        if mode == "next_step":
            by_hand.reset(rows=ended)
        ended_games += by_hand.terminated.sum()
        assert (automatic.terminated == by_hand.terminated).all()
        assert (automatic.returns == by_hand.returns).all()
        if mode == "same_step":
            by_hand.reset(rows=np.flatnonzero(by_hand.terminated))
            assert automatic.legal_actions.all()
        assert (automatic.current_player == by_hand.current_player).all()
        assert automatic.observation(player=0) == by_hand.observation(player=0)
        twin = games.make(NAME, 30, autoreset=mode)  # type: ignore[arg-type]
        twin.set_state(automatic.state())
        assert twin.state() == automatic.state()
        assert (twin.returns == automatic.returns).all()
    assert ended_games > 100


def test_copies_are_independent() -> None:
    """Oracle: contract. A copy goes its own way and would go the same way."""
    batch = games.make(NAME, 100, seed=3)
    twin = batch.copy()
    before = batch.state()
    steps = twin.random_playouts()
    assert steps == sum(len(twin.history(row)) for row in range(100)) // 2
    assert batch.state() == before
    assert batch.random_playouts() == steps
    assert batch.state() == twin.state()


def test_messages_since() -> None:
    """Oracle: by hand. First everything, then what the other did in the last step and how things stand."""
    batch = games.make("snake(width=10, height=10)", 200, seed=5)
    start = batch.messages_since(0, 1)
    assert start == batch.observation([0], 1)
    batch.step(np.tile([0, 2], (200, 1)))
    row = int(np.flatnonzero(~batch.terminated)[0])
    situation = batch.observation([row], 1)[0]
    news = batch.messages_since(row, 1)
    assert news[0] == "Player 0: [up]"
    assert situation.endswith(news[1])
    assert news[1].startswith("You are snake 1. Move 2 of 20.")
    over = int(np.flatnonzero(batch.terminated)[0])
    assert batch.messages_since(over, 0) == ["Player 1: [left]"]


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, r"snake: actions must have the shape \[rows, 2\]", lambda b: b.step([0, 0, 0])),
        (ValueError, r"must have the shape \[rows, 2\]", lambda b: b.step(np.zeros((3, 3), int))),
        (ValueError, "actions must hold 3 x 2 numbers, got 4", lambda b: b.step([[0, 0], [1, 1]])),
        (
            TypeError,
            "actions must be whole numbers, int64 or int32, got float64",
            lambda b: b.step(np.zeros((3, 2))),
        ),
        (ValueError, "action 4 of player 1 is illegal in row 2", lambda b: b.step([[0, 1], [2, 3], [0, 4]])),
        (ValueError, "row 1 is named twice", lambda b: b.step([[0, 0]] * 2, rows=[1, 1])),
        (ValueError, r"row 3 is outside 0\.\.2", lambda b: b.step([[0, 0]], rows=[3])),
        (ValueError, "repeat must divide the 3 rows, got 2", lambda b: b.reset(repeat=2)),
        (ValueError, "say which with player=0", lambda b: b.action_text(0, 1)),
        (ValueError, "action 9 is illegal in row 0", lambda b: b.reply_text(0, 9, 1)),
        (ValueError, r"player 2 is outside 0\.\.1", lambda b: b.information_state(0, 2)),
        (ValueError, "chance is drawn inside a tick", lambda b: games.make("snake", 1, chance="explicit")),
        (
            ValueError,
            "players move at once, and no solver takes that",
            lambda b: solvers.optimal_policy(NAME),
        ),
        (ValueError, "snapshot is of another game", lambda b: b.set_state(games.make("snake", 3).state())),
    ],
)
def test_errors(error: type[Exception], match: str, call) -> None:  # type: ignore[no-untyped-def]
    """Oracle: contract. Wrong arguments are refused by name, and the batch stays as it was."""
    batch = games.make(NAME, 3)
    before = batch.state()
    with pytest.raises(error, match=match):
        call(batch)
    assert batch.state() == before


def test_ended_rows() -> None:
    """Oracle: contract. Without rows an ended game ignores its entry; named, it is an error."""
    batch = games.make("snake(turns=2)", 2)
    batch.step([[0, 0]], rows=[0])
    assert batch.terminated.tolist() == [True, False]
    batch.step([[99, -7], [1, 1]])
    with pytest.raises(ValueError, match=r"of player 0 is illegal in row 0: its game is over$"):
        batch.step([[0, 0]], rows=[0])
    assert not solvers.is_enumerable("snake")
