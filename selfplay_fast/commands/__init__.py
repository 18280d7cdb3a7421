"""The commands of `selfplay-fast`, one module each.

A module imports no engine, model or torch before its command runs, so that help and errors are quick.
"""

from __future__ import annotations

from collections.abc import Callable

from .arena import arena
from .evaluate import evaluate
from .export import export
from .games import games
from .play import play
from .refine import refine
from .report import report
from .serve import serve
from .train import train

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "arena": arena,
    "play": play,
    "refine": refine,
    "report": report,
    "games": games,
    "export": export,
    "serve": serve,
}
