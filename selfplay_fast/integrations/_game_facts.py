"""What OpenSpiel's interface tells of a game and our descriptions leave out, found by playing it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from selfplay_fast import games, solvers

_LARGEST_WALK = 20_000  # nodes or positions of a game whose ends are looked up one by one
_PROBES = 64  # random games that show what nature does


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of nature, in 64 random games; where all players move at once, nature is sampled and has no moves."""

    simultaneous: bool
    chance: bool
    """Does nature ever move, or draw?"""
    tensor: bool
    """Do observations have a tensor?"""
    outcomes: int
    """One more than the highest number of an outcome."""
    first_draws: int
    """The most moves of nature in a row before the first turn of a player."""
    later_draws: int
    """The most between two turns, or after the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of one game: exact for small games, else what holds in any case."""

    least: float = -math.inf
    greatest: float = math.inf
    draws: int
    """The most moves of nature."""


@lru_cache(maxsize=64)
def facts(game: str) -> Facts:
    """What 64 random games show."""
    simultaneous = games.describe(game).simultaneous
    batch = games.make(game, _PROBES, chance="sampled" if simultaneous else "explicit")
    chance = False
    step = outcomes = first = later = 0
    draws, begun = np.zeros(_PROBES, int), np.zeros(_PROBES, bool)
    while not batch.terminated.all():
        nature = batch.current_player == games.CHANCE
        chance |= bool(nature.any())
        for row in np.flatnonzero(nature).tolist():
            outcomes = max(outcomes, 1 + max(action for action, _ in batch.chance_outcomes(row)))
        draws = np.where(nature, draws + 1, 0)
        first = max(first, int(draws[~begun].max(initial=0)))
        later = max(later, int(draws[begun].max(initial=0)))
        begun |= ~nature
        moves = batch.sample_actions(step)
        if simultaneous:  # equal moves lead to unequal places only where nature moves
            chance |= len({batch.information_state(row, 0) for row in range(_PROBES)}) > 1
            moves[:] = moves[int(batch.terminated.argmin())]
        batch.step(moves)
        step += 1
    try:
        batch.observation_tensor([0])
        tensor = True
    except ValueError:
        tensor = False
    return Facts(
        simultaneous=simultaneous,
        chance=chance,
        tensor=tensor,
        outcomes=outcomes,
        first_draws=first,
        later_draws=later,
    )


@lru_cache(maxsize=64)
def bounds(game: str) -> Bounds:
    """The least and the greatest return of any player at the end of the game, and the most moves of nature."""
    seen, about = facts(game), games.describe(game)
    if seen.simultaneous or not solvers.is_enumerable(
        game, max_information_states=_LARGEST_WALK, max_nodes=_LARGEST_WALK
    ):
        return Bounds(draws=seen.first_draws + seen.later_draws * about.max_turns)
    least, greatest, most = math.inf, -math.inf, 0
    level = [(games.make(game, 1, chance="explicit"), 0)]
    while level:
        following: dict[str, tuple[games.Batch, int]] = {}
        for batch, draws in level:
            if batch.terminated[0]:
                returns = batch.returns[0].tolist()
                least, greatest, most = min(least, *returns), max(greatest, *returns), max(most, draws)
                continue
            outcomes = [action for action, _ in batch.chance_outcomes(0)]
            for action in outcomes or np.flatnonzero(batch.legal_actions[0]).tolist():
                child = batch.copy()
                child.step([action])
                key = position_key(child)  # positions that several histories lead to are walked once
                earlier = following.get(key, (child, 0))[1]
                following[key] = child, max(earlier, draws + bool(outcomes))
        level = list(following.values())
    return Bounds(least=least, greatest=greatest, draws=most)


@lru_cache(maxsize=64)
def action_words(game: str) -> dict[tuple[int, int], str]:
    """The words of every action of every player that is legal somewhere in 64 random games, such as "check or fold"."""
    batch = games.make(game, _PROBES, style="plain")
    players = range(batch.description.num_players)
    words: dict[tuple[int, int], dict[str, None]] = {}
    step = 0
    while not batch.terminated.all():
        for row in np.flatnonzero(~batch.terminated).tolist():
            mover = int(batch.current_player[row])
            for player in players if mover == games.SIMULTANEOUS else (mover,):
                legal = batch.legal_actions[row]
                for action in np.flatnonzero(legal if legal.ndim == 1 else legal[player]).tolist():
                    words.setdefault((player, action), {})[batch.action_text(row, action, player)] = None
        batch.step(batch.sample_actions(step))
        step += 1
    return {which: " or ".join(texts) for which, texts in words.items()}


def position_key(batch: games.Batch) -> str:
    """What all players know together; it tells states apart as far as it matters for what follows."""
    known = (batch.information_state(0, player) for player in range(batch.description.num_players))
    return f"{batch.current_player[0]}|" + "|".join(known)
