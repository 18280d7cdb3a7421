"""What a run shows in the terminal: a live line while it works, a table when it is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from .summary import (
    BENCHMARKS,
    CHANGES,
    DOUBT,
    ERRORS,
    MARKS,
    Change,
    benchmark_changes,
    changes,
    format_difference,
    format_value,
    games,
    headline,
    is_doubtful,
    is_error,
    is_seat,
    number,
    troubles,
)

_PLAIN_INTERVAL_S = 15.0  # between two lines when stderr is a file


class _Remaining(ProgressColumn):
    """Time left at the average speed of the last steps, hours hidden until needed."""

    def render(self, task: Task) -> Text:
        return Text("" if task.finished else f"eta {_time_left(task):>6}", style="progress.remaining")


def _time_left(task: Task) -> str:
    if task.time_remaining is None:
        return "--:--"
    minutes, second = divmod(int(task.time_remaining), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute:02d}:{second:02d}"


class Display:
    """Live progress on stderr: bar, step, time, time left and the latest metrics.

    On anything but a terminal it writes one plain line at the start, at the end and every 15 seconds between.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._task: Any = None
        self._latest: dict[str, float] = {}
        self._status = ""
        self._last_line = 0.0
        self._started = time.monotonic()

    def status(self, text: str) -> None:
        """Say what is being done now."""
        self._status = text
        if not self._console.is_terminal:
            self._console.print(escape(text))
            return
        self._start_live()
        self._refresh()

    def note(self, text: str) -> None:
        """Write a line that stays, above what is live."""
        self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, total: int, done: int) -> None:
        """Start the bar at `done` of `total` steps."""
        self._status = ""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("step"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Remaining(),
            console=self._console,
            expand=True,
            speed_estimate_period=60,
        )
        self._task = self._progress.add_task("", total=total, completed=done)
        if self._console.is_terminal:
            self._start_live()
            self._refresh()

    def advance(self, step: int) -> None:
        """Step `step` is done."""
        if self._progress is None:
            return
        self._progress.update(self._task, completed=step)
        self._refresh()
        self._plain_line(step)

    def metrics(self, row: Mapping[str, float | None]) -> None:
        """Remember the newest value of every metric; None (not a number) is shown as such."""
        self._latest.update({key: float("nan") if value is None else value for key, value in row.items()})
        self._refresh()

    def stop(self) -> None:
        """End the live display; what it showed last stays on the screen. Safe to call twice."""
        if self._live is not None:
            live, self._live = self._live, None
            self._status = ""
            with contextlib.suppress(OSError):
                live.update(self._render(), refresh=True)
                live.stop()
        self._progress = None

    def _start_live(self) -> None:
        if self._live is None:
            self._live = Live(
                self._render(),
                console=self._console,
                refresh_per_second=4,
                redirect_stdout=True,
                redirect_stderr=True,
            )
            self._live.start()

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._render())

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._status:
            parts.append(Text(f"… {self._status}", style="cyan"))
        if self._progress is not None:
            parts.append(self._progress)
        if self._latest:
            parts.extend(self._metric_lines())
        return Group(*parts)

    def _metric_lines(self) -> list[RenderableType]:
        lines = []
        if common := _common_metrics(self._latest):
            lines.append(Text("   ".join(common), style="dim", overflow="ellipsis", no_wrap=True))
        by_game = _metrics_by_game(self._latest)
        width = max(map(len, by_game), default=0)
        for name, values in by_game.items():
            parts = ((name.ljust(width), "bold"), "  ", "  ".join(values))
            lines.append(Text.assemble(*parts, overflow="ellipsis", no_wrap=True))
        # The margin at the right leaves room for the ^C that a terminal echoes behind the last line.
        return [Padding(line, (0, 3, 0, 2)) for line in lines]

    def _plain_line(self, step: int) -> None:
        if self._console.is_terminal or self._progress is None:
            return
        task = self._progress.tasks[0]
        now = time.monotonic()
        if step < (task.total or 0) and self._last_line and now - self._last_line < _PLAIN_INTERVAL_S:
            return
        self._last_line = now
        parts = [
            f"step {step}/{int(task.total or 0)}",
            f"{now - self._started:.0f} s",
            *([] if task.finished else [f"eta {_time_left(task)}"]),
            *_common_metrics(self._latest),
        ]
        parts += [f"{name}: {', '.join(values)}" for name, values in _metrics_by_game(self._latest).items()]
        self._console.print(escape(" | ".join(parts)), soft_wrap=True)


def _common_metrics(row: Mapping[str, float]) -> list[str]:
    shown = []
    for key, name in (("loss", "loss"), ("entropy", "entropy"), ("grad_norm", "grad norm")):
        if key in row:
            shown.append(f"{name} {row[key]:.3g}")
    for key, unit in (("tokens_per_s", "tokens/s"), ("samples_per_s", "samples/s")):
        if number(row.get(key)) is not None:
            shown.append(f"{row[key]:,.0f} {unit}")
    for phase in ("rollout", "update"):
        if (share := number(row.get(f"{phase}_mfu"))) is not None:
            shown.append(f"MFU {phase} {share:.1%}")
    for key, name in (("forfeit_rate", "forfeits"), ("unclosed_rate", "reasoning cut or endless")):
        if number(row.get(key)):
            shown.append(f"{name} {format_value(key, row[key])}")
    return shown


def _metrics_by_game(row: Mapping[str, float]) -> dict[str, list[str]]:
    """The newest values of every game of which there are any."""
    return {game: values for game in games([row]) if (values := _game_metrics(row, game))}


def _game_metrics(row: Mapping[str, float], game: str) -> list[str]:
    """The game's newest values in a few words: legal replies, right answers, returns by role, scores, NashConv."""
    of_game = {
        key.removeprefix(f"{game}/"): value for key, value in row.items() if key.startswith(f"{game}/")
    }
    returns = [number(value) for key, value in of_game.items() if key.startswith("return/")]
    shown = []
    if "legal_rate" in of_game:
        shown.append(f"legal {format_value('legal_rate', number(of_game['legal_rate']))}")
    if "accuracy" in of_game:
        shown.append(f"accuracy {format_value('accuracy', number(of_game['accuracy']))}")
    if "nash_conv" in of_game:
        star = "*" if is_doubtful(row, game, "nash_conv") else ""
        shown.append(f"NashConv {format_value('nash_conv', number(of_game['nash_conv']))}{star}")
    if returns:
        shown.append("returns " + " ".join(format_value("return/", value) for value in returns))
    for key, value in of_game.items():
        if key.startswith("score_vs_") and not (is_error(key) or is_seat(key)):
            opponent = key.removeprefix("score_vs_").replace("_", " ")
            shown.append(f"vs {opponent} {format_value(key, number(value))}")
    return shown


def closing_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Per game, every headline measure before and after."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column("game", style="bold", no_wrap=True)
    table.add_column("measure", no_wrap=True)
    steps = [int(row["step"]) for row in rows]
    table.add_column(f"before (step {steps[0]})" if steps else "before", justify="right")
    table.add_column(f"after (step {steps[-1]})" if len(steps) > 1 else "after", justify="right")
    table.add_column("", width=1)
    previous = ""
    shown = headline(changes(rows))
    doubt = [DOUBT] if any(change.doubtful for change in shown) else []
    wrong = [f"{words[:1].upper()}{words[1:]}: {share}." for words, share in troubles(rows)]
    played = any(change.key == "legal_rate" or change.key.startswith("return/") for change in shown)
    table.caption = "\n".join([f"{MARKS if played else ERRORS} {CHANGES}", *doubt, *wrong])
    for change in shown:
        if previous and change.game != previous:
            table.add_section()
        table.add_row(
            escape(change.game) if change.game != previous else "",
            escape(change.label),
            format_value(change.key, change.before, change.before_error) + " *" * change.before_doubtful,
            format_value(change.key, change.after, change.after_error) + " *" * change.after_doubtful,
            _arrow(change),
        )
        previous = change.game
    return table


def evaluation_table(metrics: Mapping[str, float]) -> Table:
    """Every measure of one evaluation."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column("game", style="bold", no_wrap=True)
    table.add_column("measure", no_wrap=True)
    table.add_column("value", justify="right")
    previous = ""
    shown = changes([{"step": 0, **metrics}])
    if any(change.doubtful for change in shown):
        table.caption = DOUBT
    for change in shown:
        if previous not in ("", change.game):
            table.add_section()
        value = format_value(change.key, change.before, change.before_error) + " *" * change.doubtful
        table.add_row("" if change.game == previous else change.game, change.label, value)
        previous = change.game
    return table


def benchmark_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every measure of every benchmark of one or two steps, and the difference."""
    steps = sorted({int(row["step"]) for row in rows})
    values = [f"step {step}" for step in steps] + ["difference"] if len(steps) > 1 else ["value"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left", caption=BENCHMARKS)
    table.add_column("task", style="bold")
    table.add_column("measure")
    for title in ("questions", *values):
        table.add_column(title, justify="right", no_wrap=True)
    for change in benchmark_changes(rows):
        shown = [
            format_value("", change.before, change.before_error),
            format_value("", change.after, change.after_error),
            format_difference(change),
        ]
        if len(steps) == 1:
            shown = shown[:1] if steps == [0] else shown[1:2]
        questions = "–" if change.questions is None else f"{change.questions:,}"
        table.add_row(escape(change.task), escape(change.measure), questions, *shown)
    return table


def _arrow(change: Change) -> Text:
    if change.better is None or change.after is None or change.before is None:
        return Text("")
    return Text("▲" if change.after > change.before else "▼", style="green" if change.better else "red")
