"""`selfplay-fast report`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ..command_line import PROGRAM, parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write report.html of a run, finished or not, and print its table."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run folder"""


def report(arguments: list[str]) -> None:
    """Write the HTML report of a run and print its table."""
    options = parse(ReportOptions, arguments, f"{PROGRAM} report")

    from rich.console import Console

    from ..report import read_metrics, write_report
    from ..report.terminal import closing_table

    path = write_report(options.run)
    console = Console(highlight=False)
    if rows := read_metrics(options.run):
        console.print(closing_table(rows))
    console.print(f"report: {path}", markup=False, soft_wrap=True)
