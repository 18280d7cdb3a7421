"""Batches: views, subsets, seeds, explicit chance, autoreset, copies, and clear errors."""

from __future__ import annotations

import gc
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from selfplay_fast import games


def test_views_follow_the_games_and_outlive_the_batch() -> None:
    """Oracle: contract. Views are read-only, share the batch's memory, and keep it alive."""
    batch = games.make("tic_tac_toe", 3)
    players, over, returns = batch.current_player, batch.terminated, batch.returns
    legal = batch.legal_actions
    assert (players.dtype, over.dtype, returns.dtype, legal.dtype) == (
        np.int32,
        np.bool_,
        np.float32,
        np.bool_,
    )
    batch.step([0, 1, 2])
    assert players.tolist() == [1, 1, 1]
    assert batch.legal_actions.ctypes.data == legal.ctypes.data
    assert legal.sum() == 24
    for view in (players, over, returns, legal):
        assert not view.flags.writeable
        assert not view.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
    batch.set_state(games.make("tic_tac_toe", 3).state())
    assert players.tolist() == [0, 0, 0], "loading keeps the buffers"
    del batch
    gc.collect()
    assert players.tolist() == [0, 0, 0]


def test_subsets_step_alone_and_in_any_order() -> None:
    """Oracle: the same games stepped together. Order and grouping of rows change nothing."""
    together, apart = (games.make("kuhn_poker(rounds=3)", 50, seed=4) for _ in range(2))
    rng = np.random.default_rng(0)
    while not together.terminated.all():
        moves = together.sample_actions(1)
        rows = rng.permutation(np.flatnonzero(~together.terminated))
        for part in np.array_split(rows, 3):
            apart.step(moves[part], rows=part)
            assert (apart.legal_actions.any(axis=1) == ~apart.terminated).all()
        together.step(moves)
        assert (together.legal_actions == apart.legal_actions).all()
    assert together.state() == apart.state()


def test_ended_rows() -> None:
    """Oracle: contract. Without rows an ended game ignores its entry; named, it is an error."""
    batch = games.make("kuhn_poker", 2)
    batch.step([1], rows=[0])
    batch.step([0], rows=[0])
    assert batch.terminated.tolist() == [True, False]
    assert batch.sample_actions(0)[0] == games.INVALID
    assert batch.observation()[0] == ""
    batch.step([99, 1])
    with pytest.raises(ValueError, match=r"^kuhn_poker: action 0 is illegal in row 0: its game is over$"):
        batch.step([0], rows=[0])
    assert batch.parse(["bet"], rows=[0])[1] == ["nobody is to move in this game"]


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, "row 3 is outside 0..2", lambda b: b.step([0], rows=[3])),
        (ValueError, "row -1 is outside 0..2", lambda b: b.observation([-1])),
        (ValueError, "row 1 is named twice", lambda b: b.step([0, 0], rows=[1, 1])),
        (ValueError, "actions must hold 3 numbers, got 2", lambda b: b.step([0, 0])),
        (
            ValueError,
            r"actions must have the shape \[rows\], one per row; got 2 dimensions",
            lambda b: b.step([[0, 0, 0]]),
        ),
        (
            TypeError,
            "actions must be whole numbers, int64 or int32, got float64",
            lambda b: b.step(np.zeros(3)),
        ),
        (
            TypeError,
            "actions must be whole numbers, int64 or int32, got <U1",
            lambda b: b.step(["a", "b", "c"]),
        ),
        (
            TypeError,
            "rows must be whole numbers, int64 or int32, got bool",
            lambda b: b.observation(np.ones(3, bool)),
        ),
        (
            TypeError,
            "texts must hold str or bytes, got NoneType",
            lambda b: b.step([0, 0, 0], texts=[None] * 3),
        ),
        (
            TypeError,
            "texts must be a list of texts, one per row, got one",
            lambda b: b.step([0] * 3, texts="abc"),
        ),
        (TypeError, "replies must be a list of texts, one per row, got one", lambda b: b.parse("bet")),
        (
            ValueError,
            "kuhn_poker: texts must hold 3 strings, got 1",
            lambda b: b.step([0] * 3, texts=["bet"]),
        ),
        (ValueError, "action 7 is illegal in row 1; legal: 0, 1$", lambda b: b.step([0, 7, 0])),
        (ValueError, "player 2 is outside 0..1", lambda b: b.information_state(0, 2)),
        (ValueError, "row 9 is outside 0..2", lambda b: b.messages_since(9, 0)),
        (ValueError, "action 40 is illegal in row 0", lambda b: b.action_text(0, 40)),
        (ValueError, "repeat must divide the 3 rows, got 2", lambda b: b.reset(repeat=2)),
        (ValueError, "repeat must divide the 3 rows, got 0", lambda b: b.reset(repeat=0)),
        (
            ValueError,
            "seeds must hold one number per group, 1, got 3",
            lambda b: b.reset(seeds=[1, 2, 3], repeat=3),
        ),
        (TypeError, "seeds must hold whole numbers: 'float' object", lambda b: b.reset([0], seeds=[1.7])),
        (TypeError, "seeds must hold whole numbers: 'numpy.float64'", lambda b: b.reset(seeds=np.ones(3))),
        (TypeError, "seeds must be a list of whole numbers, got 3", lambda b: b.reset(seeds=3)),
        (TypeError, "repeat must be a whole number, got 1.5", lambda b: b.reset(repeat=1.5)),
        (
            ValueError,
            "repeat must be at most 9223372036854775807, got 1000",
            lambda b: b.reset(repeat=10**30),
        ),
        (TypeError, "seed must be a whole number, got 1.5", lambda b: b.sample_actions(1.5)),
        (TypeError, "seed must be a whole number, got 1.5", lambda b: b.resample(seed=1.5)),
        (TypeError, "player must be a whole number, got '0'", lambda b: b.observation(player="0")),
        (
            ValueError,
            "player must be at most 2147483647, got 10000",
            lambda b: b.parse(["bet"] * 3, player=10**30),
        ),
        (TypeError, "player must be a whole number, got 0.0", lambda b: b.information_state(0, 0.0)),
        (TypeError, "row must be a whole number, got 1.5", lambda b: b.history(1.5)),
        (TypeError, "row must be a whole number, got '0'", lambda b: b.chance_outcomes("0")),
        (TypeError, "action must be a whole number, got 1.0", lambda b: b.action_text(0, 1.0)),
        (
            ValueError,
            "action must be at most 9223372036854775807, got 1000",
            lambda b: b.reply_text(0, 10**30),
        ),
        (TypeError, "mode must be a string, got None", lambda b: b.parse(["bet"] * 3, mode=None)),
        (TypeError, "replies must be a list of texts, one per row, got int", lambda b: b.parse(3)),
        (
            TypeError,
            "texts must be a list of texts, one per row, got int",
            lambda b: b.step([0] * 3, texts=3),
        ),
        (ValueError, "kuhn_poker: texts must hold 3 strings, got 0", lambda b: b.step([0] * 3, texts=[])),
        (
            ValueError,
            "kuhn_poker: texts must hold 1 strings, got 0",
            lambda b: b.step([0], rows=[1], texts=[]),
        ),
        (
            ValueError,
            "actions must be at most 9223372036854775807, got 184467440737",
            lambda b: b.step([2**64 - 1] * 3),
        ),
        (
            ValueError,
            "rows must be at most 9223372036854775807, got 18446744073709551615",
            lambda b: b.observation(np.array([2**64 - 1], np.uint64)),
        ),
        (TypeError, "actions must be an array of whole numbers", lambda b: b.step([[0], [0, 0]])),
        (TypeError, "state must be bytes, got str", lambda b: b.set_state("state")),
    ],
)
def test_errors(error: type[Exception], match: str, call) -> None:  # type: ignore[no-untyped-def]
    """Oracle: contract. Wrong arguments are refused by name, and the batch stays as it was."""
    batch = games.make("kuhn_poker", 3)
    before = batch.state()
    with pytest.raises(error, match=match) as caught:
        call(batch)
    assert "\n" not in str(caught.value)
    assert batch.state() == before


@pytest.mark.parametrize(
    ("game", "options", "match"),
    [
        ("kuhn_pokr", {}, "unknown game 'kuhn_pokr'; did you mean 'kuhn_poker'?"),
        ("xyzzy", {}, "unknown game 'xyzzy'; there are: "),
        ("kuhn_poker", {"round": 3}, "kuhn_poker has no option 'round'; did you mean 'rounds'?"),
        ("kuhn_poker(rounds=0)", {}, "kuhn_poker: option rounds must be 1 to 15, got 0"),
        ("kuhn_poker", {"rounds": "three"}, "option rounds must be a whole number, got 'three'"),
        ("kuhn_poker", {"rules": "house"}, "option rules must be one of: correct textarena; got 'house'"),
        ("tic_tac_toe(size=4)", {}, "tic_tac_toe: option size must be 3 or 5, got 4"),
        ("kuhn_poker(rounds)", {}, "must look like"),
        ("kuhn_poker(rounds=3", {}, "must look like"),
        ("kuhn_poker(rounds=--5)", {}, "kuhn_poker: option rounds must be a whole number, got '--5'"),
        (
            f"kuhn_poker(rounds={'9' * 5000})",
            {},
            "kuhn_poker: option rounds must be a whole number, got '999",
        ),
        (
            "kuhn_poker(rounds=5,rounds=7)",
            {},
            "game 'kuhn_poker(rounds=5,rounds=7)' gives option rounds twice",
        ),
        (
            "kuhn_poker(rounds=5)",
            {"rounds": 7},
            "kuhn_poker: option rounds is given twice, in 'kuhn_poker(rounds=5)' and by itself",
        ),
        ("kuhn_poker", {"rounds": 10**30}, "kuhn_poker: option rounds must be 1 to 15, got 10000"),
        ("kuhn_poker", {"rules": 3}, "option rules must be one of: correct textarena; got 3"),
        ("kuhn_poker", {"threads": 2**40}, "threads must be at most 2147483647, got 1099511627776"),
        ("kuhn_poker", {"speech_characters": -1}, "speech_characters must be at least 0, got -1"),
        ("kuhn_poker", {"threads": 0}, "threads must be at least 1"),
        ("kuhn_poker", {"style": "loud"}, "style must be brief, mars, plain or spiral, got 'loud'"),
        ("kuhn_poker", {"chance": "none"}, "chance must be sampled or explicit"),
        ("kuhn_poker", {"autoreset": "yes"}, "autoreset must be off, same_step or next_step"),
    ],
)
def test_unknown_names_and_values(game: str, options: dict[str, object], match: str) -> None:
    """Oracle: contract. One line names what is wrong and what would be right."""
    with pytest.raises(ValueError, match=re.escape(match)) as caught:
        games.make(game, 1, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "match", "arguments", "options"),
    [
        (TypeError, "batch_size must be a whole number, got '4'", ("kuhn_poker", "4"), {}),
        (TypeError, "batch_size must be a whole number, got 4.0", ("kuhn_poker", 4.0), {}),
        (TypeError, "seed must be a whole number, got 1.5", ("kuhn_poker", 4), {"seed": 1.5}),
        (
            TypeError,
            "kuhn_poker: option rounds must be a whole number, got 3.0",
            ("kuhn_poker", 4),
            {"rounds": 3.0},
        ),
        (TypeError, "game must be a name, one of connect_four, .*; got NoneType", (None, 4), {}),
        (ValueError, "batch_size must be at least 1, got 0", ("kuhn_poker", 0), {}),
        (ValueError, "batch_size must be at most 9223372036854775807, got 10000", ("kuhn_poker", 10**30), {}),
        (ValueError, "batch_size must be at most .*, got a number of", ("kuhn_poker", 10**5000), {}),
        (TypeError, "threads must be a whole number, got 1.5", ("kuhn_poker", 4), {"threads": 1.5}),
        (TypeError, "threads must be a whole number, got '2'", ("kuhn_poker", 4), {"threads": "2"}),
        (
            TypeError,
            "legal_list must be True, False or None, got 'no'",
            ("kuhn_poker", 4),
            {"legal_list": "no"},
        ),
        (
            TypeError,
            "speech_characters must be a whole number, got 1.5",
            ("kuhn_poker", 4),
            {"speech_characters": 1.5},
        ),
        (TypeError, "style must be a string, got None", ("kuhn_poker", 4), {"style": None}),
        (TypeError, "chance must be a string, got 0", ("kuhn_poker", 4), {"chance": 0}),
        (TypeError, "autoreset must be a string, got True", ("kuhn_poker", 4), {"autoreset": True}),
        (TypeError, "device must be a string, got None", ("kuhn_poker", 4), {"device": None}),
        (MemoryError, "snake: 1000000000000 games do not fit into memory", ("snake", 10**12), {}),
    ],
)
def test_wrong_arguments(
    error: type[Exception], match: str, arguments: tuple[object, ...], options: dict[str, object]
) -> None:
    """Oracle: contract. One line names the argument and what it must be."""
    with pytest.raises(error, match=match) as caught:
        games.make(*arguments, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(games.make("kuhn_poker", np.int32(3), rounds=np.int64(2))) == 3


def test_describe() -> None:
    """Oracle: the games' own documentation."""
    about = games.describe("kuhn_poker(rounds=5, rules=textarena)")
    assert (about.name, about.num_players, about.num_actions, about.max_turns) == ("kuhn_poker", 2, 2, 15)
    assert about.options == {"rounds": 5, "rules": "textarena", "cards": 3}
    assert (about.zero_sum, about.perfect_information, about.speech) == (True, False, False)
    assert games.describe("negotiation", resources=5).num_actions == 182
    assert games.make("tic_tac_toe", 1).description.perfect_information
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        games.make("kuhn_poker", 0)


def _deals(batch: games.Batch) -> list[tuple[int, ...]]:
    return [tuple(batch.history(row)) for row in range(len(batch))]


def test_reset_takes_the_next_deal_and_repeat_shares_it() -> None:
    """Oracle: contract. Groups share their deal, episodes and rows differ, seeds decide alone."""
    name = "negotiation(resources=5)"
    batch = games.make(name, 8, seed=1)
    first = _deals(batch)
    assert len(set(first)) == 8
    batch.reset()
    second = _deals(batch)
    assert not set(first) & set(second)
    batch.reset(repeat=4)
    shared = _deals(batch)
    assert shared[:4] == shared[:1] * 4
    assert shared[4:] == shared[4:5] * 4
    assert len(set(shared)) == 2
    batch.reset(rows=[6, 1], seeds=[-5, 3**60])
    other = games.make(name, 2, seed=99)
    other.reset(seeds=[-5, 3**60])
    assert [_deals(batch)[6], _deals(batch)[1]] == _deals(other)
    assert _deals(batch)[0] == shared[0], "rows that were not named play on"


def test_shared_deals_still_play_apart() -> None:
    """Oracle: contract. sample_actions draws per row, also where the deal is shared."""
    batch = games.make("tic_tac_toe", 200)
    batch.reset(repeat=200)
    assert len(set(batch.sample_actions(0).tolist())) == 9


def test_deals_are_uniform() -> None:
    """Oracle: statistics. Six Kuhn deals, each within five standard errors of a sixth; moves likewise."""
    n = 60_000
    batch = games.make("kuhn_poker", n, seed=12)
    counts = Counter(_deals(batch))
    assert len(counts) == 6
    assert all(abs(c - n / 6) < 5 * (n * 5 / 36) ** 0.5 for c in counts.values())
    moves = games.make("tic_tac_toe", n).sample_actions(5)
    assert all(abs((moves == cell).sum() - n / 9) < 5 * (n * 8 / 81) ** 0.5 for cell in range(9))


def test_explicit_chance() -> None:
    """Oracle: contract. Nature is a player: its moves are offered with probabilities, checked, and drawn by them."""
    batch = games.make("kuhn_poker", 1000, chance="explicit")
    assert (batch.current_player == games.CHANCE).all()
    assert not batch.legal_actions.any()
    assert batch.chance_outcomes(0) == [(0, 1 / 3), (1, 1 / 3), (2, 1 / 3)]
    drawn = Counter(batch.sample_actions(3).tolist())
    assert set(drawn) == {0, 1, 2}
    assert min(drawn.values()) > 250
    batch.step(np.ones(1000, np.int32))
    assert batch.chance_outcomes(0) == [(0, 0.5), (2, 0.5)]
    with pytest.raises(ValueError, match="action 1 is illegal in row 0"):
        batch.step(np.ones(1000, np.int64))
    batch.step(np.zeros(1000, np.int64))
    assert batch.chance_outcomes(0) == []
    assert (batch.information_state(0, 0), batch.information_state(0, 1)) == ("1", "0")


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_autoreset(mode: str) -> None:
    """Oracle: a batch reset by hand. The same episodes follow each other, with every result seen once."""
    automatic = games.make("kuhn_poker", 20, seed=2, autoreset=mode)  # type: ignore[arg-type]
    by_hand = games.make("kuhn_poker", 20, seed=2)
    rng = np.random.default_rng(1)
    for _ in range(40):
        bits = rng.integers(0, 2, 20)
        automatic.step(bits)
        if mode == "next_step":
            ended = np.flatnonzero(by_hand.terminated)
            by_hand.step(bits)
            by_hand.reset(rows=ended)
        else:
            by_hand.step(bits)
        assert (automatic.terminated == by_hand.terminated).all()
        assert (automatic.returns == by_hand.returns).all()
        if mode == "same_step":
            by_hand.reset(rows=np.flatnonzero(by_hand.terminated))
            assert (automatic.legal_actions.any(axis=1)).all()
        assert (automatic.current_player == by_hand.current_player).all()
        assert _deals(automatic) == _deals(by_hand)
        twin = games.make("kuhn_poker", 20, autoreset=mode)  # type: ignore[arg-type]
        twin.set_state(automatic.state())
        assert (twin.terminated == automatic.terminated).all()
        assert (twin.returns == automatic.returns).all()


def test_copies_are_independent() -> None:
    """Oracle: contract. A copy goes its own way and would go the same way."""
    batch = games.make("kuhn_poker", 100, seed=3)
    twin = batch.copy()
    before = batch.state()
    twin.random_playouts()
    assert batch.state() == before
    batch.random_playouts()
    assert batch.state() == twin.state()


def test_messages_since() -> None:
    """Oracle: the rules by hand. First everything, then only what is new."""
    batch = games.make("kuhn_poker", 1, chance="explicit")
    batch.step([2])
    batch.step([0])
    assert batch.messages_since(0, 0) == batch.observation()
    batch.step([0])
    assert batch.messages_since(0, 0) == []
    batch.step([1])
    assert batch.messages_since(0, 0) == [
        "Player 1: [bet]",
        "You are player 0. Your card: K. Actions so far: check, bet. Legal: [fold], [call]",
    ]
    assert batch.messages_since(0, 1) == []
    batch.step([1])
    assert batch.messages_since(0, 1) == ["Player 0: [call]"]
    assert batch.returns[0].tolist() == [2.0, -2.0]


def test_legal_list_can_be_switched() -> None:
    """Oracle: contract. The list ends the observation, or is left out."""
    board, plain = (
        games.make("tic_tac_toe", 1, legal_list=True),
        games.make("kuhn_poker", 1, legal_list=False),
    )
    assert board.observation()[0].endswith("6 7 8\nLegal: [0], [1], [2], [3], [4], [5], [6], [7], [8]")
    assert plain.observation()[0].endswith("Actions so far: none.")


def test_random_playouts_count_turns() -> None:
    """Oracle: contract. The count is that of the players' turns."""
    batch = games.make("negotiation(resources=5)", 30)
    assert batch.random_playouts() == 300
    assert batch.random_playouts() == 0


@pytest.mark.parametrize("name", ["tic_tac_toe", "snake"])
@pytest.mark.parametrize("mode", ["off", "same_step", "next_step"])
def test_steps_after_playouts(mode: str, name: str) -> None:
    """Oracle: contract. A game that a playout ended takes no move; the next one begins only in mode next_step."""
    batch = games.make(name, 5, autoreset=mode)  # type: ignore[arg-type]
    batch.random_playouts()
    returns, histories = batch.returns.copy(), [batch.history(row) for row in range(5)]
    for _ in range(3):
        batch.step(batch.sample_actions(1))
        if mode == "next_step":
            assert not batch.terminated.any()
            assert not batch.history(0)
            break
        assert batch.terminated.all()
        assert (batch.returns == returns).all()
        assert [batch.history(row) for row in range(5)] == histories
    if mode == "same_step":
        with pytest.raises(ValueError, match="its game is over"):
            batch.step(batch.sample_actions(1)[:1], rows=[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_texts_in_one_buffer(threads: int) -> None:
    """Oracle: observation(). The buffer holds the same texts, also of ended games (empty) and of rows in any order."""
    batch = games.make("kuhn_poker(rounds=2)", 700, seed=5, threads=threads)
    for step in range(5):
        batch.step(batch.sample_actions(step))
    for rows in (None, np.arange(699, -1, -2)):
        buffer, offsets = batch.observation_bytes(rows)
        texts = [buffer[a:b].tobytes().decode() for a, b in pairwise(offsets)]
        assert texts == batch.observation(rows)
        assert (buffer.dtype, offsets.dtype) == (np.uint8, np.int64)
    assert batch.terminated.any()
    with pytest.raises(ValueError, match="row 700 is outside"):
        batch.observation_bytes([700])
