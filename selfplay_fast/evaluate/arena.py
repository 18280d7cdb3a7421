"""Round robins between policies of any kind, and how strong each of them is by the results.

Every two players play every deal twice, seats exchanged. Wins, losses and draws (half of each) give Bradley–Terry
strengths (Bradley and Terry 1952) on the scale of Elo:

    P(i beats j) = 1 / (1 + 10 ** ((rating_j - rating_i) / 400))
"""

# Legend: P players.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfplay_fast import games
from selfplay_fast.play import GameTable, InvalidRewards, play
from selfplay_fast.policies import Policy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask, Episode, Reply, Sampling

FloatArray = NDArray[np.float64]
ELO = 400 / np.log(10)  # points of the scale per unit of log-odds
Z95 = 1.959964  # 95 % of a normal distribution lie within so many standard errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One player's rating, its 95 % confidence interval, and its games over all opponents and both seats."""

    player: str
    rating: float
    low: float
    high: float
    mean_return: float
    wins: int
    draws: int
    losses: int
    legal_rate: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Standings:
    """What a round robin came to; players in the order given, ``ranking`` from the strongest down.

    ``returns`` [P, P] is the mean return of the row's player against the column's over both seats, ``errors`` its
    standard error over deals, ``points`` the row's wins and half its draws; nan and 0 on the diagonal.
    """

    game: str
    players: tuple[str, ...]
    ranking: tuple[Standing, ...]
    returns: FloatArray
    errors: FloatArray
    points: FloatArray


def bradley_terry(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ratings [P] with mean 0 and their standard errors, from points [P, P] won by row against column.

    One drawn game more for every two players that met is the prior: it keeps a rating finite where all games are won,
    and an even one in place. Errors are those of the likelihood's curvature, with games taken as independent.
    Raises ValueError where players form groups that never met.
    """
    won = np.asarray(points, np.float64)
    met = won + won.T > 0
    if not np.linalg.matrix_power(met + np.eye(len(won)), len(won)).all():
        raise ValueError("points: some players never met, not even through others; they share no scale")
    won = won + 0.5 * met
    played = won + won.T
    level = np.full(
        won.shape, 1 / len(won)
    )  # fills the one direction that results cannot tell: all alike stronger
    strength = np.zeros(len(won))
    for _ in range(100):  # Newton's method on a concave function; far from its top the steps are bounded
        p = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
        curvature = played * p * (1 - p)
        covariance = np.linalg.inv(np.diag(curvature.sum(1)) - curvature + level) - level
        step = covariance @ (won - played * p).sum(1)
        strength += np.clip(step, -1.0, 1.0)
        strength -= strength.mean()
        if np.abs(step).max() < 1e-10:
            break
    return ELO * strength, ELO * np.sqrt(np.diag(covariance))


def arena(
    players: Mapping[str, Policy],
    game: str,
    *,
    episodes: int,
    seed: int,
    sampling: Sampling | None = None,
    style: games.Style = "spiral",
    parse_mode: games.ParseMode = "lenient",
    **options: Any,
) -> Standings:
    """Every two players at a two-player game: ``episodes`` deals, each played in both seatings.

    All matches are in play at once, so a policy answers all its opponents in one batch. A refused reply loses the game
    (-1 / +1). ``options`` are those of `GameTable`. The greater return wins a game.
    """
    names = tuple(players)
    if len(names) < 2:
        raise ValueError(f"players: an arena needs two at least, got {len(names)}")
    if episodes < 1:
        raise ValueError(f"episodes: must be at least 1, got {episodes}")
    about = games.describe(game)
    if about.num_players != 2:
        raise ValueError(f"game: an arena needs two players, {game!r} has {about.num_players}")
    matches = []
    for pair, (i, j) in enumerate(combinations(range(len(names)), 2)):
        for seats in ((i, j), (j, i)):
            table = GameTable(
                game,
                episodes=episodes,
                seed=derive_seed(seed, pair),  # the same deals in both seatings
                sampling=sampling,
                invalid=InvalidRewards(offender=-1.0, others=1.0),
                style=style,
                parse_mode=parse_mode,
                **options,
            )
            matches.append(_Match(table, names, seats))
    play(players, matches)
    return _standings(game, names, matches)


class _Match:
    """A table whose roles are the names of the players that sit there; it keeps its episodes."""

    def __init__(self, table: GameTable, names: Sequence[str], seats: tuple[int, int]) -> None:
        self.table, self.names, self.seats = table, names, seats
        self.episodes: list[Episode] = []

    def asks(self) -> list[Ask]:
        names = {f"player_{p}": self.names[player] for p, player in enumerate(self.seats)}
        return [replace(ask, role=names[ask.role]) for ask in self.table.asks()]

    def answer(self, replies: Sequence[Reply], asks: Sequence[Ask] | None = None) -> None:
        self.table.answer(replies, asks)

    def finished(self) -> Sequence[Episode]:
        self.episodes.extend(self.table.finished())
        return ()

    def returns(self) -> FloatArray:
        """[episodes, 2] by deal and seat."""
        ordered = sorted(self.episodes, key=lambda episode: episode.index)
        return np.array([[episode.returns[f"player_{p}"] for p in range(2)] for episode in ordered])

    def legal(self, seat: int) -> list[bool]:
        """Whether each reply that came from a seat was accepted."""
        turns = (turn for episode in self.episodes for turn in episode.turns)
        own = (turn for turn in turns if turn.ask.role == f"player_{seat}" and not turn.reply.lost)
        return [turn.refusal is None for turn in own]


def _standings(game: str, names: tuple[str, ...], matches: Sequence[_Match]) -> Standings:
    size = len(names)
    results = np.zeros((size, 3), np.int64)  # wins, draws, losses
    legal: list[list[bool]] = [[] for _ in names]
    returns, errors, points = (
        np.full((size, size), np.nan),
        np.full((size, size), np.nan),
        np.zeros((size, size)),
    )
    for first, second in zip(matches[::2], matches[1::2], strict=True):
        i, j = first.seats
        both = np.stack([first.returns(), second.returns()[:, ::-1]])  # [seating, deal, player i or j]
        won = np.sign(both[..., 0] - both[..., 1])
        for player, opponent, sign, mine in ((i, j, 1, 0), (j, i, -1, 1)):
            mean_of_deal = both[..., mine].mean(0)
            returns[player, opponent] = mean_of_deal.mean()
            if len(mean_of_deal) > 1:
                errors[player, opponent] = mean_of_deal.std(ddof=1) / np.sqrt(len(mean_of_deal))
            counts = [int((won == sign * outcome).sum()) for outcome in (1, 0, -1)]
            results[player] += counts
            points[player, opponent] = counts[0] + counts[1] / 2
        for match in (first, second):
            for seat, player in enumerate(match.seats):
                legal[player] += match.legal(seat)
    ratings, spread = bradley_terry(points)
    ranking = [
        Standing(
            player=names[p],
            rating=float(ratings[p]),
            low=float(ratings[p] - Z95 * spread[p]),
            high=float(ratings[p] + Z95 * spread[p]),
            mean_return=float(np.nanmean(returns[p])),
            wins=int(results[p, 0]),
            draws=int(results[p, 1]),
            losses=int(results[p, 2]),
            legal_rate=float(np.mean(legal[p])) if legal[p] else 1.0,
        )
        for p in np.argsort(-ratings, kind="stable").tolist()
    ]
    return Standings(
        game=game, players=names, ranking=tuple(ranking), returns=returns, errors=errors, points=points
    )
