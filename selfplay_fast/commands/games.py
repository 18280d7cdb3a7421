"""`selfplay-fast games`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ..command_line import PROGRAM, parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class GamesOptions:
    """List the games and their options."""

    json: bool = False
    """print JSON instead"""


def games(arguments: list[str]) -> None:
    """List the games and their options."""
    options = parse(GamesOptions, arguments, f"{PROGRAM} games")

    from .. import games as engine

    described = {name: dataclasses.asdict(engine.describe(name)) for name in engine.names()}
    if options.json:
        print(json.dumps(described, indent=2))
        return
    for name, facts in described.items():
        print(f"{name}: {_summary(facts)}")
        settings = {f"{option}={default}": option for option, default in facts["options"].items()}
        width = max(map(len, settings), default=0)
        for setting, option in settings.items():
            print(f"    {setting:<{width}}  {facts['option_help'][option]}")
    print(f"\nwith options: {PROGRAM} play 'NAME(option=value, ...)', and wherever else a game is named")


def _summary(facts: dict[str, Any]) -> str:
    parts = [f"{facts['num_players']} player{'s' if facts['num_players'] > 1 else ''}"]
    parts += ["zero-sum"] if facts["zero_sum"] else []
    parts += [f"{'perfect' if facts['perfect_information'] else 'hidden'} information"]
    parts += ["free speech"] if facts["speech"] else []
    parts += [f"{facts['max_turns']} turns at most"]
    return ", ".join(parts)
