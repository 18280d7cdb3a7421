"""`selfplay-fast arena`: everyone against everyone."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..command_line import PROGRAM, UsageError, optional, parse
from .subject import SERVER, Subject, checked_sampling, simple_player, subject

if TYPE_CHECKING:
    from ..evaluate import Standings
    from ..policies import Policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArenaOptions:
    """Let players meet in a round robin and rate them: Bradley-Terry strengths on the scale of Elo."""

    game: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GAME")]
    """a game of two players, with options if wanted: kuhn_poker 'kuhn_poker(rounds=5)'"""
    players: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PLAYER [PLAYER ...]")]
    """two or more of: random, optimal (a solver's policy), 'mcts(simulations=100)', ismcts, a policy saved as .json, a
    run folder, RUN@STEP for one of its checkpoints, a transformers folder, a hub id, server:URL#MODEL"""
    episodes: int = 128
    """deals per pair of players; each is played in both seatings"""
    seed: int = 0
    """of the deals and of the sampling"""
    temperature: float = 0.6
    """sampling temperature"""
    top_p: float = 0.95
    """nucleus sampling"""
    max_tokens: Annotated[int | None, optional("INT")] = None
    """reply length limit (default: the longest of the players' own)"""
    style: Annotated[
        Literal["spiral", "plain", "brief", "mars"] | None, optional("{spiral,plain,brief,mars}")
    ] = None
    """how states are put into words (default: the models' own)"""
    json: bool = False
    """print one JSON object instead of tables"""


def arena(arguments: list[str]) -> None:
    """Let models, checkpoints and solvers play each other and rate them."""
    options = parse(ArenaOptions, arguments, f"{PROGRAM} arena")
    if options.episodes < 1:
        raise UsageError(f"--episodes: must be at least 1, got {options.episodes}")
    if len(options.players) < 2:
        raise UsageError(f"PLAYER: name two at least, got {len(options.players)}")
    for name in options.players:
        if options.players.count(name) > 1:
            raise UsageError(f"PLAYER: {name} is named twice")

    from ..evaluate import arena as play_all
    from ..games import describe

    describe(options.game)  # an unknown one is reported before any work
    entered = {name: _enter(name, options.game) for name in options.players}
    models = {name: player for name, player in entered.items() if isinstance(player, Subject)}
    styles = [*dict.fromkeys(named.style for named in models.values())]
    if len(styles) > 1 and options.style is None:
        raise UsageError(f"--style: the players read different ones ({', '.join(styles)}); choose one")
    tables = [dict(named.table) for named in models.values()]
    if any(table != tables[0] for table in tables):
        raise UsageError(
            "PLAYER: some learned in conversations and some did not; they cannot sit at one table"
        )
    lengths = [named.max_tokens for named in models.values()]
    sampling = checked_sampling(
        options.temperature,
        options.top_p,
        max(lengths, default=512) if options.max_tokens is None else options.max_tokens,
    )
    players: dict[str, Policy] = {}
    for name, player in entered.items():
        if isinstance(player, Subject):
            print(f"loading {name}", file=sys.stderr)
            players[name] = player.load()
        else:
            players[name] = player
    standings = play_all(
        players,
        options.game,
        episodes=options.episodes,
        seed=options.seed,
        sampling=sampling,
        style=options.style or (styles[0] if styles else "plain"),
        parse_mode="strict"
        if models and all(m.parse_mode == "strict" for m in models.values())
        else "lenient",
        **(tables[0] if tables else {}),
    )
    if options.json:
        print(json.dumps(_as_json(standings), indent=2))
    else:
        _show(standings)


def _enter(name: str, game: str) -> Subject | Policy:
    """A player of the arena: a solver's or random policy, or a model still to be loaded."""
    player = simple_player(name, game, "PLAYER")
    if player is not None:
        return player
    target, at, step = name.rpartition("@")
    if at and step.isdigit() and not name.startswith(SERVER):
        return subject(target, int(step))
    return subject(name)


def _as_json(standings: Standings) -> dict[str, Any]:
    def numbers(matrix: Any) -> list[list[float | None]]:
        return [[None if value != value else value for value in row] for row in matrix.tolist()]

    return {
        "game": standings.game,
        "players": list(standings.players),
        "ranking": [dataclasses.asdict(standing) for standing in standings.ranking],
        "returns": numbers(standings.returns),
        "errors": numbers(standings.errors),
    }


def _show(standings: Standings) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    ranks = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("player", "rating", "95 %", "mean return", "won", "drawn", "lost", "legal"):
        ranks.add_column(title, justify="left" if title == "player" else "right")
    for s in standings.ranking:
        ranks.add_row(
            s.player,
            f"{s.rating:+.0f}",
            f"{s.low:+.0f} to {s.high:+.0f}",
            f"{s.mean_return:+.3f}",
            *(str(count) for count in (s.wins, s.draws, s.losses)),
            f"{s.legal_rate:.1%}",
        )
    console.print(ranks)
    order = [standings.players.index(s.player) for s in standings.ranking]
    pairs = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption="Mean return of row against column, both seats; ± is one standard error.",
    )
    pairs.add_column("")
    for j in order:
        pairs.add_column(standings.players[j], justify="right")
    for i in order:
        cells = [
            f"{standings.returns[i, j]:+.3f} ± {standings.errors[i, j]:.3f}" if i != j else "" for j in order
        ]
        pairs.add_row(standings.players[i], *cells)
    console.print(pairs)
    console.print(
        "Ratings count games won, not by how much; their mean is 0, and 400 points are odds of 10 to 1."
    )
