"""Oracle: exact enumeration. Resampled worlds are those the observer holds possible, each as often as it should be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from selfplay_fast import games

POSITIONS = 10_000


def _players(batch: games.Batch) -> range:
    return range(batch.description.num_players)


def test_the_observer_notices_nothing(game: str) -> None:
    """Oracle: contract. In ten thousand random positions its key, its legal actions and all public things stay."""
    if games.describe(game).simultaneous:
        return  # refused, see test_contract.py
    seen = changed = 0
    batch = games.make(game, 200, seed=4)
    fresh = games.make(game, 200)
    while seen < POSITIONS:
        batch.reset()
        for step in range(batch.description.max_turns + 1):
            for player in _players(batch):
                worlds = batch.resample(player=player, seed=seen + step)
                assert (worlds.current_player == batch.current_player).all()
                moving = batch.current_player == player
                assert (worlds.legal_actions[moving] == batch.legal_actions[moving]).all()
                for row in np.flatnonzero(~batch.terminated):
                    assert worlds.information_state(row, player) == batch.information_state(row, player)
                    changed += worlds.history(row) != batch.history(row)
                fresh.set_state(worlds.state())  # so the histories are legal and lead there
                assert [fresh.information_state(r, 0) for r in range(9)] == [
                    worlds.information_state(r, 0) for r in range(9)
                ]
                seen += int((~batch.terminated).sum())
            if batch.terminated.all():
                break
            batch.step(batch.sample_actions(seen))
    about = batch.description
    if not (about.perfect_information or game == "negotiation" or about.name == "truth_and_deception"):
        assert changed > seen // 4


def _possible(game: str, history: list[int], observer: int) -> dict[tuple[int, ...], float]:
    """All histories with the same moves that look the same to the observer at every ply, with their probabilities."""
    worlds: dict[tuple[int, ...], float] = {(): 1.0}
    truth = games.make(game, 1, chance="explicit")
    for action in history:
        batch = games.make(game, len(worlds), chance="explicit")
        for ply in range(len(truth.history(0))):
            batch.step([world[ply] for world in worlds])
        after: dict[tuple[int, ...], float] = {}
        for row, (world, probability) in enumerate(worlds.items()):
            if truth.current_player[0] == games.CHANCE:
                for outcome, chance in batch.chance_outcomes(row):
                    after[(*world, outcome)] = probability * chance
            elif batch.legal_actions[row, action]:
                after[(*world, action)] = probability
        truth.step([action])
        batch = games.make(game, len(after), chance="explicit")
        for ply in range(len(truth.history(0))):
            batch.step([world[ply] for world in after])
        key, mover = truth.information_state(0, observer), truth.current_player[0]
        worlds = {
            world: probability
            for row, (world, probability) in enumerate(after.items())
            if batch.current_player[row] == mover and batch.information_state(row, observer) == key
        }
    total = sum(worlds.values())
    return {world: probability / total for world, probability in worlds.items()}


@pytest.mark.parametrize(
    "game",
    [
        "kuhn_poker",
        "kuhn_poker(rounds=2, cards=4)",
        "leduc_poker",
        "liars_dice(dice=2, faces=3)",
        "liars_dice(dice=2, faces=3, wild=yes, rules=textarena)",
        "hanabi(colors=2, ranks=2, hand=2, info_tokens=4)",
        "hanabi(colors=1, ranks=4, players=3, hand=1, info_tokens=3)",
        "hanabi(colors=1, ranks=3, hand=2, info_tokens=3)",
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_worlds_have_their_exact_probabilities(game: str, seed: int) -> None:
    """Oracle: exact enumeration of all deals, compared by chi-square over whole histories."""
    batch = games.make(game, 1, seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(rng.integers(1, 7)):
        after = batch.copy()
        after.step(after.sample_actions(seed))
        if after.terminated[0]:
            break
        batch = after
    for observer in _players(batch):
        expected = _possible(game, batch.history(0), observer)
        draws = max(2_000, 30 * len(expected))
        worlds = batch.resample(np.zeros(draws, np.int64), observer, seed=seed + 1)
        counts = Counter(tuple(worlds.history(row)) for row in range(draws))
        assert set(counts) <= set(expected)
        if len(expected) > 1:
            observed = [counts[world] for world in expected]
            result = chisquare(observed, draws * np.array(list(expected.values())))
            assert result.pvalue > 1e-4, (observed, expected)


def test_negotiators_may_have_begun_with_whatever_covers_their_offers() -> None:
    """Oracle: rules by hand. It sold 2 Wheat, bought 4 and offered 25: it began with 23 to 25."""
    batch = games.make("negotiation(resources=5)", 1, chance="explicit")
    own, other = [20, 20, 20, 20, 20], [25, 9, 25, 25, 25]
    for amount in [*own, *other, 5, 10, 15, 25, 40, 5, 10, 15, 25, 40]:
        batch.step([amount])
    for words in (
        "[offer: 1 Wood -> 2 Wheat]",  # player 1 accepts: 23 Wheat and 10 Wood are left
        "[accept]",
        "[offer: 4 Wheat -> 1 Gold]",
        "[accept] [offer: 25 Wheat -> 1 Wood]",  # it held 27 of them
    ):
        actions, why = batch.parse([words])
        assert why == [None]
        batch.step(actions)
    draws = 6_000
    worlds = batch.resample(np.zeros(draws, np.int64), 0, seed=3)
    deals = np.array([worlds.history(row)[:20] for row in range(draws)])
    assert (deals[:, :5] == own).all()
    assert (deals[:, 10:15] == [5, 10, 15, 25, 40]).all()
    ranges = [(23, 25), (5, 25), (5, 25), (5, 25), (5, 25), (5, 6), (8, 12), (12, 18), (20, 30), (32, 40)]
    for column, (low, high) in zip([*range(5, 10), *range(15, 20)], ranges, strict=True):
        counts = np.bincount(deals[:, column], minlength=high + 1)
        assert counts[:low].sum() == 0
        assert len(counts) == high + 1
        assert chisquare(counts[low:]).pvalue > 1e-4


def test_worlds_depend_on_seed_and_place_alone() -> None:
    """Oracle: contract. Seed and place in the list decide; threads do not; the default is the player to move."""
    one, eight = (games.make("hanabi", 3_000, seed=2, threads=n) for n in (1, 8))
    assert (
        one.resample(seed=5).state()
        == eight.resample(seed=5).state()
        == one.resample(player=0, seed=5).state()
    )
    first, second = one.resample([7, 7, 3], seed=5), one.resample([7, 7, 3], seed=6)
    assert len(first) == 3
    assert first.state() != second.state()
    assert first.history(0) != first.history(1)
    assert first.history(2)[5:10] == one.history(3)[5:10], "the other's hand is seen"
    assert one.state() == eight.state(), "the games themselves stay"
    ended = games.make("leduc_poker", 2)
    ended.random_playouts()
    assert ended.resample().history(1) == ended.history(1)


def test_the_future_of_worlds_differs() -> None:
    """Oracle: contract. Copies of one row are dealt different cards later on."""
    batch = games.make("leduc_poker", 1, seed=1)
    worlds = batch.resample([0] * 200, seed=2)
    for _ in range(2):
        worlds.step(np.ones(200, np.int64))
    assert len({worlds.history(row)[4] for row in range(200)}) == 5


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"rows": [2]}, "leduc_poker: row 2 is outside 0..1"),
        ({"rows": []}, "leduc_poker: rows must name at least one row"),
        ({"player": 2}, "leduc_poker: player 2 is outside 0..1"),
        ({"player": -1}, "leduc_poker: player -1 is outside 0..1"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], match: str) -> None:
    """Oracle: contract. One line names what is wrong."""
    with pytest.raises(ValueError, match=match):
        games.make("leduc_poker", 2).resample(**arguments)  # type: ignore[arg-type]
