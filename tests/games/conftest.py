"""What the game tests share: all games under test and random play."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import metadata

import pytest

from selfplay_fast import games

GAMES = [
    "connect_four",
    "nim",
    "nim(piles=1;3;5;7, misere=yes)",
    "simple_tak",
    "simple_tak(size=6)",
    "kuhn_poker",
    "kuhn_poker(rounds=5)",
    "kuhn_poker(rounds=5, rules=textarena)",
    "kuhn_poker(rounds=2, cards=5)",
    "leduc_poker",
    "liars_dice",
    "liars_dice(dice=3, faces=4, wild=no)",
    "liars_dice(rules=textarena)",
    "pig(target=20, horizon=30)",
    "pig(target=10, horizon=12, rules=textarena)",
    "hanabi",
    "hanabi(colors=2, ranks=2, hand=3, info_tokens=3)",
    "hanabi(colors=3, ranks=3, players=3)",
    "tic_tac_toe",
    "tic_tac_toe(size=5)",
    "snake",
    "snake(width=4, height=3, apples=3, turns=12, rules=textarena)",
    "negotiation",
    "negotiation(resources=5)",
    "negotiation(resources=8)",
    "truth_and_deception",
    "truth_and_deception(rules=textarena)",
]


@pytest.fixture(scope="session")
def all_games() -> list[str]:
    """Every game under test."""
    return GAMES


@pytest.fixture(params=GAMES)
def game(request: pytest.FixtureRequest) -> str:
    """Every game under test, with its options."""
    return str(request.param)


@pytest.fixture(params=games.STYLES)
def style(request: pytest.FixtureRequest) -> games.Style:
    """Every text style."""
    return request.param


@pytest.fixture(scope="session")
def positions() -> Callable[..., list[games.Batch]]:
    """A function (game, size, seed, **arguments of make) -> copies of one batch after every step of random play."""

    def play(game: str, size: int, seed: int = 0, **arguments: object) -> list[games.Batch]:
        batch = games.make(game, size, seed=seed, **arguments)
        seen = [batch.copy()]
        while not batch.terminated.all():
            batch.step(batch.sample_actions(seed))
            seen.append(batch.copy())
        return seen

    return play


@pytest.fixture(scope="session")
def peer_games() -> Callable[[int], int]:
    """A function: games a comparison with a peer plays by default -> how many it plays now."""
    return lambda usual: int(os.environ.get("SPF_PEER_GAMES", usual))


@pytest.fixture(scope="session")
def views() -> Callable[[games.Batch], Sequence[int | None]]:
    """A function: batch -> whose words make up a row's step: None for the player to move, or all players at once."""

    def of(batch: games.Batch) -> Sequence[int | None]:
        about = batch.description
        return range(about.num_players) if about.simultaneous else (None,)

    return of


@pytest.fixture(scope="session")
def textarena_release() -> tuple[int, ...]:
    """The release of the peer that is installed, (0, 6, 4) or (0, 7, 4)."""
    pytest.importorskip("textarena", exc_type=ImportError, reason="comes with the extra 'test'")
    return tuple(map(int, metadata.version("textarena").split(".")))
