"""Rewards besides the game's: pure functions of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selfplay_fast.learn.advantages import Advantages
from selfplay_fast.records import Episode


def turn_rewards(
    episodes: Sequence[Episode],
    *,
    format_reward: float = 0.05,
    length_weight: float = 0.5,
    short: int = 11,
    long: int = 2048,
) -> Advantages:
    """The reward of every turn [episode][turn]: the game's, for the format, for the length (MARS's released code).

        game + format_reward, unless the reply was refused + length_weight min(0, 1 - (tokens - short) / (long - short))

    So a reply loses nothing up to ``long`` tokens.
    """
    if not long > short:
        raise ValueError(f"long: must be above short={short}, got {long}")

    def longer(tokens: int) -> float:
        return min(0.0, 1 - (tokens - short) / (long - short))

    return [
        [
            turn.reward
            + (format_reward if turn.refusal is None else 0.0)
            + length_weight * longer(len(turn.reply.tokens))
            for turn in episode.turns
        ]
        for episode in episodes
    ]


def rewarded_anew(episodes: Sequence[Episode], rewards: Advantages) -> list[Episode]:
    """The episodes with these rewards of turns, and their sums by role as returns."""
    anew = []
    for episode, row in zip(episodes, rewards, strict=True):
        turns = tuple(replace(turn, reward=reward) for turn, reward in zip(episode.turns, row, strict=True))
        returns = {
            role: sum(turn.reward for turn in turns if turn.ask.role == role) for role in episode.returns
        }
        anew.append(replace(episode, turns=turns, returns=returns))
    return anew
