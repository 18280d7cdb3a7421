"""Every evaluation of a policy on a list of games, as flat metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from selfplay_fast import solvers
from selfplay_fast.evaluate.exploitability import exact_metrics, tabular_views
from selfplay_fast.evaluate.scores import fixed_opponents, is_cooperative, score_against, score_together
from selfplay_fast.games import ParseMode, Style
from selfplay_fast.policies import Policy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode, Sampling, legal_rate

EXACT_STATES = 1000  # information states of a game that every evaluation can afford to score one by one
MAX_NODES = 1_000_000


def episode_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """``<game>/legal_rate`` over turns, ``<game>/return/<role>``, ``<game>/turns`` of self-play episodes."""
    metrics: dict[str, float] = {}
    for game in dict.fromkeys(episode.game for episode in episodes):
        played = [episode for episode in episodes if episode.game == game]
        turns = [turn for episode in played for turn in episode.turns]
        metrics[f"{game}/legal_rate"] = legal_rate(turns)
        metrics[f"{game}/turns"] = len(turns) / len(played)
        for role in played[0].returns:
            metrics[f"{game}/return/{role}"] = float(np.mean([episode.returns[role] for episode in played]))
    return metrics


def reply_metrics(played: Sequence[Episode]) -> dict[str, float]:
    """Of all games of a step: ``forfeits``, those in which a reply never came, and ``forfeit_rate``, their share.

    ``unclosed_rate``, where anybody reasons: the share of replies whose reasoning was ended by force or did not end.
    """
    forfeits = sum(episode.forfeit is not None for episode in played)
    metrics: dict[str, float] = {"forfeits": forfeits, "forfeit_rate": forfeits / max(1, len(played))}
    replies = [turn.reply for episode in played for turn in episode.turns if not turn.reply.lost]
    unclosed = sum(reply.unclosed or reply.closed_by_force for reply in replies)
    if unclosed or any(reply.hidden for reply in replies):
        metrics["unclosed_rate"] = unclosed / len(replies)
    return metrics


def evaluate_policy(
    policy: Policy,
    games: Sequence[str],
    *,
    episodes: int,
    seed: int,
    sampling: Sampling,
    style: Style = "spiral",
    parse_mode: ParseMode = "lenient",
    exact_states: int = EXACT_STATES,
    opponents: Mapping[str, Policy] | None = None,
    fixed: Callable[[str], Mapping[str, Policy]] = fixed_opponents,
    **options: Any,
) -> dict[str, float]:
    """Scores against the fixed opponents of each game (``episodes`` per seat), and the exact metrics of small games.

    opponents: others to play against, by names that no fixed opponent has; ``fixed(game)`` are those. Small are games
    of at most ``exact_states`` information states, none at 0; all of them are scored in one batch. ``options`` are
    those of `GameTable`. Where all win together, the policy also plays with itself.

    Names: ``<game>/score_vs_<opponent>`` with ``…_error`` (mean of both seats), ``…_first`` and ``…_second`` by
    seat, each with ``…_error``, ``<game>/not_lost_vs_<opponent>_first`` …, ``<game>/nash_conv`` and the other
    ``exact_metrics``; in cooperative games ``<game>/score_vs_itself`` with ``…_error``.
    """
    metrics: dict[str, float] = {}
    for g, game in enumerate(games):
        if is_cooperative(game):
            own = score_together(
                policy,
                game,
                episodes=2 * episodes,
                seed=derive_seed(seed, g),
                sampling=sampling,
                style=style,
                parse_mode=parse_mode,
                **options,
            )
            metrics[f"{game}/score_vs_itself"], metrics[f"{game}/score_vs_itself_error"] = own.mean, own.error
        known = fixed(game)
        if clash := known.keys() & (opponents or {}).keys():
            raise ValueError(f"opponents: {game} has a fixed opponent {min(clash)!r} already")
        for name, opponent in {**known, **(opponents or {})}.items():
            first, second = score_against(
                policy,
                opponent,
                game,
                episodes=episodes,
                seed=derive_seed(seed, g),
                sampling=sampling,
                style=style,
                parse_mode=parse_mode,
                **options,
            )
            key = f"{game}/score_vs_{name}"
            metrics[key] = (first.mean + second.mean) / 2
            metrics[f"{key}_error"] = (first.error**2 + second.error**2) ** 0.5 / 2
            for label, seat in (("first", first), ("second", second)):
                metrics[f"{key}_{label}"] = seat.mean
                metrics[f"{key}_{label}_error"] = seat.error
                metrics[f"{game}/not_lost_vs_{name}_{label}"] = seat.not_lost
    small = [
        game
        for game in games
        if solvers.is_enumerable(game, max_information_states=exact_states, max_nodes=MAX_NODES)
    ]
    for game, view in tabular_views(policy, small, style=style).items():
        metrics |= {f"{game}/{name}": value for name, value in exact_metrics(game, view).items()}
    return metrics
