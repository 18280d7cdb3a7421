"""The batch behind an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfplay_fast import games


def make_batch(game: str, size: int, seed: int, arguments: Mapping[str, Any]) -> games.Batch:
    """``games.make`` with what an environment's user gave; ValueError for what the environment decides itself."""
    for name in ("chance", "autoreset"):
        if name in arguments:
            raise ValueError(f"{name}: the environment decides this itself; leave it out")
    return games.make(game, size, seed=seed, **arguments)
