"""A run is a directory: configuration, metrics, transcripts, checkpoints and, at the end, a report.

    run = Run.create("spiral", config)
    for step in run.steps(config.steps):
        with run.phase("rollout"):
            episodes = ...
        run.log(step, metrics, episodes)
    run.finish()

Everything written is complete after each call, so a killed run continues from its last checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.console import Console

from . import config as configs
from .phases import Phases
from .records import Episode, episode_to_json
from .report import data, write_report
from .report.terminal import Display, closing_table
from .trackers import TensorBoard, Tracker, WeightsAndBiases, check_installed, trace

T = TypeVar("T")

TRANSCRIPTS_PER_GAME = 4  # of each step, so that a run stays small
TRANSCRIPT_BYTES = 2_000_000  # of each step
PROFILED_STEPS = 2
ERROR_LOG = "error.txt"


class Run:
    """A run directory being written. Make one with `Run.create` or `Run.resume`."""

    def __init__(
        self,
        directory: Path,
        recipe: str,
        config: Any,
        *,
        tensorboard: bool = False,
        wandb: str | None = None,
        profile: bool = False,
    ) -> None:
        for package in ["tensorboard"] * tensorboard + ["wandb"] * (wandb is not None):
            check_installed(package)
        self.directory = directory
        self.recipe = recipe
        self.config = config
        self.display = Display()
        self._tensorboard = tensorboard
        self._wandb = wandb
        self._profile = profile
        self._open = ExitStack()
        self._trackers: list[Tracker] | None = None  # opened with the first row
        self._began = time.monotonic()
        self.phases = Phases()  # since the last row
        self._step = 0
        self._new = False
        self._changes: list[dict[str, Any]] = []  # of options, when the run was resumed

    @classmethod
    def create(
        cls,
        recipe: str,
        config: Any,
        directory: Path | None = None,
        *,
        tensorboard: bool = False,
        wandb: bool = False,
        profile: bool = False,
    ) -> Run:
        """Start a new run directory (default `runs/RECIPE-date-time`) and write its `config.yaml`.

        Raises ValueError when the directory already holds something or cannot be written.
        """
        named = directory is not None
        directory = Path(directory) if directory is not None else _default_directory(recipe)
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"run folder {directory} is a file; name another one")
        if any(path.is_file() and not _is_half_written(path) for path in directory.rglob("*")):
            hint = (
                f"holds a run: continue it with --resume {directory}, or name another folder"
                if (directory / data.CONFIG).exists()
                else "is not empty; name another folder"
            )
            raise ValueError(f"run folder (--run-dir) {directory} {hint}")
        run_id = secrets.token_hex(4) if wandb else None
        run = cls(directory, recipe, config, tensorboard=tensorboard, wandb=run_id, profile=profile)
        run._new = True
        try:
            directory.mkdir(parents=True, exist_ok=named)
            run.checkpoints.mkdir(exist_ok=True)
            (directory / data.EPISODES).mkdir(exist_ok=True)
            run._write_config()  # last: with it, the folder is a run
        except OSError as error:
            raise ValueError(
                f"cannot write the run folder {directory}: {_reason(error)}; name another one with --run-dir"
            ) from None
        return run

    @classmethod
    def resume(cls, directory: Path, *, profile: bool = False) -> Run:
        """Open a run directory again, with the configuration it was started with.

        Raises ValueError when there is no run, or its `config.yaml` does not fit the recipe (naming the key).
        """
        directory = Path(directory)
        content = data.read_config(directory)
        recipe = configs.load_recipe(content["recipe"])
        config = configs.config_from_dict(recipe.Config, content["config"], str(directory / data.CONFIG))
        run = cls(
            directory,
            content["recipe"],
            config,
            tensorboard=content.get("tensorboard") is True,
            wandb=content.get("wandb"),
            profile=profile,
        )
        run._changes = data.read_changes(content)
        try:
            run.checkpoints.mkdir(exist_ok=True)
            (directory / data.EPISODES).mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot write the run folder {directory}: {_reason(error)}") from None
        return run

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.directory / data.CHECKPOINTS

    def replace_config(self, config: Any, from_step: int) -> None:
        """Go on with another configuration (a longer run, on another device) from this step, and write it down."""
        for option, (before, after) in configs.differences(self.config, config).items():
            self._changes.append({"from_step": from_step, "option": option, "before": before, "after": after})
        self.config = config
        self._write_config()

    def status(self, text: str) -> None:
        """Show what is being done before, between or after the steps."""
        self.display.status(text)

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        self.display.note(text)

    def steps(self, total: int, start: int = 0) -> Iterator[int]:
        """Yield `start + 1 … total`, showing progress; a step is done when the next one is asked for.

        With `profile`, the first `PROFILED_STEPS` after the very first are traced.
        """
        self.display.begin(total, start)
        self._step = start
        traced = range(start + 2, start + 2 + PROFILED_STEPS) if total > start + 1 else [total]
        for step in range(start + 1, total + 1):
            with self._traced(step) if self._profile and step in traced else nullcontext():
                yield step
            self._step = step
            self.display.advance(step)

    def _traced(self, step: int) -> Any:
        return trace(self.directory / data.PROFILE / f"step-{step:06d}.json.gz")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is done inside; the next row holds what `Phases.row` says of each phase since the row before."""
        with self.phases.phase(name), _record_function(name) if self._profile else nullcontext():
            yield

    def enter(self, resource: AbstractContextManager[T]) -> T:
        """Enter a context that is left when the run ends, however it ends."""
        return self._open.enter_context(resource)

    def seconds(self, *phases: str) -> float:
        """How long these phases took, since the last row."""
        return self.phases.seconds(*phases)

    def log(
        self,
        step: int,
        metrics: Mapping[str, float],
        episodes: Sequence[Episode] = (),
        advantages: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Append one row to `metrics.jsonl` and a sample of `episodes` as readable transcripts.

        Values are anything `float` takes; what is not finite is written as null. `advantages[i]` holds one
        number per turn of `episodes[i]`. The time of every `phase` and the largest memory so far are added. The row is
        on the disk when this returns. Raises OSError naming the run folder when it cannot be written (a full disk);
        earlier rows stay good.
        """
        if advantages is not None and len(advantages) != len(episodes):
            raise ValueError(
                f"log: {len(advantages)} advantages for {len(episodes)} episodes; give one list for each"
            )
        row: dict[str, Any] = {"step": int(step), "time_s": round(self._elapsed(), 3)}
        row.update({key: _number(value) for key, value in metrics.items()})
        row.update(self.phases.row())
        self.phases.clear()
        try:
            self._append(json.dumps(row, allow_nan=False) + "\n")
            if episodes:
                self._write_episodes(step, episodes, advantages)
            self._track(row)
        except OSError as error:
            message = f"cannot write to {self.directory}: {_reason(error)}; nothing logged so far is lost"
            raise OSError(error.errno, message) from error
        self.display.metrics({key: value for key, value in row.items() if key not in ("step", "time_s")})

    def truncate(self, step: int) -> None:
        """Forget rows and transcripts of later steps than `step`, to go on from its checkpoint."""
        rows = [row for row in data.read_metrics(self.directory) if row["step"] <= step]
        last = rows[-1]["step"] if rows else -1
        if last < step:
            self.note(
                f"{self.directory / data.METRICS} ends with step {last}: rows up to step {step} are missing"
            )
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        configs.write_atomic(self.directory / data.METRICS, text)
        for number, path in data.episode_files(self.directory):
            if number > step:
                path.unlink()
        for path in self.directory.rglob(".*.tmp"):  # half a file of a run that was killed while it wrote
            path.unlink()
        self._settle_changes(step + 1)
        self._step = step
        self._began = time.monotonic() - (rows[-1].get("time_s") or 0.0 if rows else 0.0)

    def _settle_changes(self, step: int) -> None:
        """What was changed holds from this step at the latest: all from there is made anew."""
        late = [change for change in self._changes if change["from_step"] > step]
        for change in late:
            change["from_step"] = step
        for change in self._changes:
            if change["from_step"] == step:
                self.note(f"from step {step}: {data.describe_change(change)}")
        if late:
            self._write_config()

    def fail(self, error: BaseException) -> None:
        """Close what is open after an error and keep the traceback in `error.txt`; the run can be resumed.

        A new run that was refused before its first row (an unknown model, say) leaves no folder behind.
        """
        self._close()
        if isinstance(error, KeyboardInterrupt):
            return
        if self._new and isinstance(error, ValueError | OSError) and not self._has_results():
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        try:
            text = "".join(traceback.format_exception(error))
            configs.write_atomic(self.directory / ERROR_LOG, text)
        except OSError:
            pass  # the disk may be what failed; the error itself is on its way to the user

    def finish(self) -> Path:
        """Write `report.html`, print the closing table with its path, and return the path."""
        self._close()
        (self.directory / ERROR_LOG).unlink(missing_ok=True)
        report = write_report(self.directory)
        console = Console(highlight=False)
        rows = data.read_metrics(self.directory)
        if rows:
            console.print(closing_table(rows))
        console.print(f"report: {report}", markup=False, soft_wrap=True)
        return report

    def _has_results(self) -> bool:
        metrics = self.directory / data.METRICS
        return (metrics.is_file() and metrics.stat().st_size > 0) or any(self.checkpoints.glob("step-*"))

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _close(self) -> None:
        self._open.close()
        self.display.stop()
        trackers, self._trackers = self._trackers or [], None
        for tracker in trackers:
            with suppress(OSError):  # the disk may be what failed
                tracker.close()

    def _write_config(self) -> None:
        from importlib.metadata import version

        content = {
            "recipe": self.recipe,
            "version": version("selfplay-fast"),
            "tensorboard": self._tensorboard,
            "wandb": self._wandb,
        }
        if self._changes:
            content["changes"] = self._changes
        content["config"] = configs.config_to_dict(
            self.config
        )  # last: a file that is cut short lacks some of it
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
        configs.write_atomic(self.directory / data.CONFIG, text)

    def _append(self, line: str) -> None:
        path = self.directory / data.METRICS
        with path.open("ab", buffering=0) as file:  # a buffer would be written once more when it is closed
            size = file.tell()
            rest = line.encode()
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)  # a full disk may have taken half of the line
                raise

    def _write_episodes(
        self, step: int, episodes: Sequence[Episode], advantages: Sequence[Sequence[float]] | None
    ) -> None:
        lines: list[str] = []
        size = 0
        for i in _sample([episode.game for episode in episodes]):
            readable = episode_to_json(episodes[i], None if advantages is None else advantages[i])
            line = json.dumps(_finite(readable), ensure_ascii=False, allow_nan=False)
            size += len(line)
            if lines and size > TRANSCRIPT_BYTES:
                break
            lines.append(line.encode("utf-8", "replace").decode() + "\n")
        configs.write_atomic(self.directory / data.EPISODES / f"step-{step:06d}.jsonl", "".join(lines))

    def _track(self, row: Mapping[str, Any]) -> None:
        if self._trackers is None:
            self._trackers = []
            if self._tensorboard:
                self._trackers.append(TensorBoard(self.directory / data.TENSORBOARD, row["step"]))
            if self._wandb is not None:
                settings = configs.config_to_dict(self.config)
                self._trackers.append(WeightsAndBiases(self.directory, self.recipe, settings, self._wandb))
        for tracker in self._trackers:
            tracker.write(row)


class Follower(Run):
    """A run on the ranks that do not write it: all is read from its folder, nothing is written or shown."""

    def steps(self, total: int, start: int = 0) -> Iterator[int]:
        yield from range(start + 1, total + 1)

    def status(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def log(self, *args: Any, **kwargs: Any) -> None:
        self.phases.clear()

    def truncate(self, step: int) -> None:
        pass

    def replace_config(self, config: Any, from_step: int) -> None:
        self.config = config

    def fail(self, error: BaseException) -> None:
        self._open.close()

    def finish(self) -> Path:
        self._open.close()
        return self.directory


def _record_function(name: str) -> Any:
    from torch.profiler import record_function

    return record_function(name)


def _is_half_written(path: Path) -> bool:
    """Is it what `write_atomic` leaves where the process is killed in the middle?"""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _default_directory(recipe: str) -> Path:
    base = Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 1000))]
    return next(path for path in candidates if not path.exists())


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _number(value: Any) -> int | float | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    result = float(value)
    return result if math.isfinite(result) else None


def _finite(value: Any) -> Any:
    """The same JSON value with null for every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _sample(games: Sequence[str]) -> list[int]:
    """Indices of a few episodes of every game, spread evenly over the step's."""
    by_game: dict[str, list[int]] = {}
    for i, game in enumerate(games):
        by_game.setdefault(game, []).append(i)
    chosen = []
    for group in by_game.values():
        count = min(TRANSCRIPTS_PER_GAME, len(group))
        chosen += [group[i * len(group) // count] for i in range(count)]
    return chosen
