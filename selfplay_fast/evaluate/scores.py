"""Scores against fixed opponents, both seats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from selfplay_fast import games, solvers
from selfplay_fast.learn import distributed
from selfplay_fast.play import InvalidRewards, play_games, self_play
from selfplay_fast.policies import Policy, RandomPolicy, SearchPlayer, TabularPlayer
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode, Sampling, legal_rate

MAX_TURNS = 100  # of a game that is searched for one: a playout takes as long
COOPERATIVE = ("hanabi",)
MAX_POSITIONS = 100_000  # of a game of perfect information that is solved for a yardstick


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Mean return, its standard error, the share of games not lost and the legal-reply rate, for one seat."""

    mean: float
    error: float
    not_lost: float
    legal_rate: float
    episodes: int


def _score(episodes: list[Episode], role: str) -> Score:
    returns = np.array([episode.returns[role] for episode in episodes])
    own = [turn for episode in episodes for turn in episode.turns if turn.ask.role == role]
    return Score(
        mean=float(returns.mean()),
        error=float(returns.std(ddof=1) / np.sqrt(len(returns))) if len(returns) > 1 else float("nan"),
        not_lost=float((returns >= 0).mean()),
        legal_rate=legal_rate(own),
        episodes=len(episodes),
    )


def score_against(
    policy: Policy,
    opponent: Policy,
    game: str,
    *,
    episodes: int,
    seed: int,
    sampling: Sampling | None = None,
    style: games.Style = "spiral",
    parse_mode: games.ParseMode = "lenient",
    **options: Any,
) -> list[Score]:
    """``episodes`` games in each seat of a two-player game: the scores of ``policy`` by seat.

    A refused reply loses the game (-1 / +1), as in SPIRAL's evaluation. Several ranks share the games. ``options`` are
    those of `GameTable`.
    """
    if games.describe(game).num_players != 2:
        raise ValueError(
            f"game: score_against needs two players, {game!r} has {games.describe(game).num_players}"
        )
    scores = []
    for seat in range(2):
        cast: Mapping[str, Policy] = {f"player_{seat}": policy, f"player_{1 - seat}": opponent}
        play = partial(
            play_games,
            cast,
            games=[game],
            episodes=episodes,
            seed=derive_seed(seed, seat),
            sampling=sampling,
            style=style,
            parse_mode=parse_mode,
            invalid=InvalidRewards(offender=-1.0, others=1.0),
            **options,
        )
        played = distributed.play_dealt(play)
        scores.append(_score(played, f"player_{seat}"))
    return scores


def is_cooperative(game: str) -> bool:
    """Do all players of a game get the same?"""
    return games.describe(game).name in COOPERATIVE


def score_together(
    policy: Policy,
    game: str,
    *,
    episodes: int,
    seed: int,
    sampling: Sampling | None = None,
    style: games.Style = "spiral",
    parse_mode: games.ParseMode = "lenient",
    **options: Any,
) -> Score:
    """``episodes`` games of a policy with itself, for games that all players win together; a refused reply pays 0."""
    played = distributed.play_dealt(
        lambda share: play_games(
            self_play(policy),
            games=[game],
            episodes=episodes,
            seed=seed,
            sampling=sampling,
            style=style,
            parse_mode=parse_mode,
            invalid=InvalidRewards(offender=0.0, others=0.0),
            share=share,
            **options,
        )
    )
    return _score(played, "player_0")


def search_opponents(*simulations: int) -> dict[str, Policy]:
    """Tree searches as strong as these, "mcts 100" …, otherwise as MARS's: UCT with c 2, 10 playouts of a leaf."""
    return {
        f"mcts {count}": SearchPlayer("mcts", simulations=count, c=2.0, rollouts=10) for count in simulations
    }


@lru_cache(maxsize=32)
def fixed_opponents(game: str) -> Mapping[str, Policy]:
    """The yardsticks of a game: "random" always, "perfect" or "equilibrium" where a solver affords it, else searches.

    These are MARS's opponents for Connect Four (Yuan et al. 2025): c 2, 10 playouts of a leaf.
    """
    opponents: dict[str, Policy] = {"random": RandomPolicy()}
    about = games.describe(game)
    if about.num_players != 2 or not about.zero_sum:
        return opponents
    if about.perfect_information:
        if solvers.is_enumerable(game, max_information_states=MAX_POSITIONS, max_nodes=MAX_POSITIONS):
            opponents["perfect"] = TabularPlayer(solvers.optimal_policy(game, max_nodes=MAX_POSITIONS))
        elif not about.simultaneous and about.max_turns <= MAX_TURNS:
            opponents |= search_opponents(10, 100)
    elif solvers.is_enumerable(game):
        opponents["equilibrium"] = TabularPlayer(solvers.cfr(game, 2000))
    return opponents
