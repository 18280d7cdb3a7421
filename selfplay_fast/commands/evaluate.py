"""`selfplay-fast evaluate`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Literal

import tyro

from ..command_line import PROGRAM, UsageError, optional, parse
from .subject import check_games, checked_sampling, servers, subject


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score a model against fixed opponents, and its exact exploitability where the game is small."""

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """a run folder (its newest checkpoint), a transformers folder, a hub id, or server:URL#MODEL"""
    games: Annotated[tuple[str, ...] | None, optional("GAME [GAME ...]")] = None
    """games to play (default: the run's own; for a model: kuhn_poker tic_tac_toe)"""
    episodes: int = 256
    """games per seat and opponent"""
    seed: int = 0
    """of the deals and of the sampling"""
    temperature: float = 0.6
    """sampling temperature"""
    top_p: float = 0.95
    """nucleus sampling"""
    max_tokens: Annotated[int | None, optional("INT")] = None
    """reply length limit (default: the run's own; for a model: 512)"""
    style: Annotated[
        Literal["spiral", "plain", "brief", "mars"] | None, optional("{spiral,plain,brief,mars}")
    ] = None
    """how states are put into words (default: the run's own; for a model: spiral)"""
    step: Annotated[int | None, optional("INT")] = None
    """evaluate the checkpoint of this step of the run (default: the newest)"""
    opponents: Annotated[tuple[str, ...], optional("server:URL#MODEL [...]")] = ()
    """models on servers to play against besides the fixed opponents"""
    exact_states: int = 1000
    """exact exploitability where a game has at most so many information states (tic_tac_toe 4520, liars_dice 24576)"""
    json: bool = False
    """print one JSON object instead of a table"""


def evaluate(arguments: list[str]) -> None:
    """Score a model against fixed opponents and measure its exploitability."""
    options = parse(EvaluateOptions, arguments, f"{PROGRAM} evaluate")
    if options.episodes < 1:
        raise UsageError(f"--episodes: must be at least 1, got {options.episodes}")
    if options.exact_states < 0:
        raise UsageError(f"--exact-states: must be at least 0, got {options.exact_states}")
    named = subject(options.target, options.step)
    opponents = servers(options.opponents)
    games = named.games if options.games is None else options.games
    check_games(games)

    from rich.console import Console

    from ..evaluate import episode_metrics, evaluate_policy
    from ..play import play_games, self_play
    from ..policies.streams import derive_seed
    from ..report.summary import MARKS
    from ..report.terminal import evaluation_table

    sampling = checked_sampling(
        options.temperature,
        options.top_p,
        named.max_tokens if options.max_tokens is None else options.max_tokens,
    )
    style = options.style or named.style
    with Console(stderr=True).status(f"evaluating {options.target}"):
        policy = named.load()
        played = play_games(
            self_play(policy),
            games=games,
            episodes=options.episodes * len(games),
            seed=derive_seed(options.seed, -1),
            sampling=sampling,
            style=style,
            parse_mode=named.parse_mode,
        )
        metrics = episode_metrics(played) | evaluate_policy(
            policy,
            games,
            episodes=options.episodes,
            seed=options.seed,
            sampling=sampling,
            style=style,
            parse_mode=named.parse_mode,
            exact_states=options.exact_states if named.scores else 0,
            opponents=opponents,
        )
    if options.json:
        print(json.dumps(metrics, indent=2))
    else:
        console = Console(highlight=False)
        console.print(evaluation_table(metrics))
        console.print(f"All games at temperature {options.temperature:g}, top-p {options.top_p:g}. {MARKS}")
