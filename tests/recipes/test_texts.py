"""What a recipe's policy reads in training and in evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from selfplay_fast.play import GameTable, play, scheduler, self_play
from selfplay_fast.policies import RandomPolicy
from selfplay_fast.recipes import mars, spiral

Openings = dict[str, set[tuple[str, str]]]
RANDOM: Any = RandomPolicy()


def openings(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> Openings:
    """How the tables that ``run`` makes put the first turn of one deal, by game: the message and the reply's prefix."""
    seen: Openings = defaultdict(set)

    class Watched(GameTable):
        def __init__(self, name: str, **options: Any) -> None:
            super().__init__(name, **options)
            (ask,) = GameTable(name, **options | {"episodes": 1, "seed": 0, "rows": None}).asks()
            seen[name].add((str(ask.append), ask.forced_prefix))

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "GameTable", Watched)
        run()
    return seen


def check_alike(trained: Openings, evaluated: Openings, games: tuple[str, ...]) -> None:
    """One opening of each game, the same in both."""
    assert set(trained) == set(games)
    assert all(len(trained[game]) == 1 for game in games)
    assert {game: evaluated[game] for game in games} == trained


@pytest.mark.parametrize("preset", sorted(mars.PRESETS))
def test_mars_is_evaluated_in_the_words_of_its_training(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the openings of training's tables, here of all games that it learns or is evaluated on."""
    own = mars.PRESETS[preset]
    games = own.games + own.held_out
    many = len(games)
    config = replace(own, games=games, held_out=(), eval_episodes=many, eval_episodes_between=1)
    trained = openings(monkeypatch, partial(mars._play, config, self_play(RANDOM), many, 1))
    monkeypatch.setattr(mars, "opponents", lambda game: {"random": RANDOM})
    for full in (False, True):
        evaluated = openings(monkeypatch, partial(mars._evaluate, config, RANDOM, full=full))
        check_alike(trained, evaluated, games)


@pytest.mark.parametrize("preset", ["nano", "paper"])
def test_spiral_is_evaluated_in_the_words_of_its_training(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the openings of training's tables."""
    config = replace(spiral.PRESETS[preset], eval_episodes=1, eval_episodes_between=1)
    ones = [1] * len(config.games)
    trained = openings(monkeypatch, lambda: play(self_play(RANDOM), spiral._tables(config, ones, 1, (0, 1))))
    for full in (False, True):
        evaluated = openings(monkeypatch, partial(spiral._evaluate, config, RANDOM, {}, full=full))
        check_alike(trained, evaluated, config.games)
