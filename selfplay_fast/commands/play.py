"""`selfplay-fast play`: a person sits down at a game."""

from __future__ import annotations

import dataclasses
import io
import secrets
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..command_line import PROGRAM, UsageError, optional, parse
from .subject import RANDOM, simple_player, subject

if TYPE_CHECKING:
    from ..games import Description
    from ..policies import Policy
    from ..records import Episode, Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlayOptions:
    """Play a game against random moves, perfect play or a model. Type a move when asked; Ctrl-D leaves."""

    game: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GAME")]
    """a game, with options if wanted: kuhn_poker 'kuhn_poker(rounds=5)'"""
    opponent: Annotated[str, tyro.conf.arg(metavar="random|optimal|mcts|ismcts|RUN")] = RANDOM
    """who plays the other seats: uniform moves, a solver's policy (small games), a search, with options if wanted:
    'mcts(simulations=1000)', a policy saved as .json, or a model: a run folder, a transformers folder, a hub id
    or server:URL#MODEL"""
    seat: int = 0
    """your seat; player 0 mostly begins"""
    seed: Annotated[int | None, optional("INT")] = None
    """of the deal and of the opponent's draws (default: another one every time)"""


def play(arguments: list[str]) -> None:
    """Play a game in the terminal against random moves, perfect play or a model."""
    options = parse(PlayOptions, arguments, f"{PROGRAM} play")

    from .. import games as engine

    about = engine.describe(options.game)
    if not 0 <= options.seat < about.num_players:
        raise UsageError(f"--seat: {about.name} has seats 0 to {about.num_players - 1}, got {options.seat}")
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    opponent, table, sampling = _opponent(options)
    print(f"{options.game}, seat {options.seat}, against {options.opponent}, seed {seed}\n")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # broken bytes are a wrong move, no crash
    try:
        _play(options, about, seed, opponent, table, sampling)
    except EOFError:
        print("\nYou left; the game is not finished.")
    except KeyboardInterrupt:
        print("\nYou left; the game is not finished.")
        raise


def _play(
    options: PlayOptions,
    about: Description,
    seed: int,
    opponent: Policy,
    settings: Mapping[str, Any],
    sampling: Sampling,
) -> None:
    from ..play import GameTable, InvalidRewards
    from ..play import play as run
    from ..policies.person import Person
    from ..records import GameSeat

    person = Person(read=_read, show=_show)
    table = GameTable(
        options.game,
        episodes=1,
        seed=seed,
        sampling=sampling,
        invalid=InvalidRewards(offender=-1.0, others=1.0),
        **settings,
    )
    cast = {f"player_{p}": person if p == options.seat else opponent for p in range(about.num_players)}
    (episode,) = run(cast, [table])
    for message in person.news(GameSeat(table.batch, 0, options.seat)):
        _show(message)
    _show(_result(episode, options.seat, about.zero_sum))


def _read(prompt: str) -> str:
    line = input(prompt)
    if not sys.stdin.isatty():  # nobody has seen it yet
        print(line)
    return line


def _show(text: str) -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    for line in text.splitlines():
        print(textwrap.fill(line, width) if len(line) > width else line)  # short lines may be a board


def _result(episode: Episode, seat: int, zero_sum: bool) -> str:
    lines = []
    if (refusal := episode.turns[-1].refusal) is not None:
        lines.append(f"The reply of {episode.turns[-1].ask.role} is no move: {refusal}")
    own = episode.returns[f"player_{seat}"]
    result = "You win." if own > 0 else "You lose." if own < 0 else "A draw."
    points = ", ".join(
        f"player {p}{' (you)' if p == seat else ''} {value:+g}"
        for p, value in enumerate(episode.returns.values())
    )
    return "\n".join([*lines, f"{result if zero_sum else 'The game is over.'} Returns: {points}."])


def _opponent(options: PlayOptions) -> tuple[Policy, Mapping[str, Any], Sampling]:
    """Who plays the other seats, how the table speaks to it and how it draws."""
    from ..records import Sampling

    name = options.opponent
    if (player := simple_player(name, options.game, "--opponent")) is not None:
        return player, {"style": "plain"}, Sampling()
    named = subject(name)
    print(f"loading {name}", file=sys.stderr)
    sampling = Sampling(temperature=0.6, top_p=0.95, max_tokens=named.max_tokens)
    return named.load(), {"style": named.style, **named.table}, sampling
