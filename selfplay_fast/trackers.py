"""Where a run's numbers also go when asked: TensorBoard, Weights & Biases, traces of torch's profiler.

Each package is an extra and imported where it is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes the rows of `metrics.jsonl` as they are written."""

    def write(self, row: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def check_installed(package: str) -> None:
    """ValueError naming the option and the extra where a package is missing; both are called like it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:  # a mere folder of that name has no origin
        raise ValueError(
            f"--{package}: the package {package} is not installed: "
            f"pip install -c constraints.txt -e '.[{package}]', or leave the option out"
        )


class TensorBoard:
    """Scalars in a folder that `tensorboard --logdir` shows; those of ``first_step`` and later are replaced."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, row: Mapping[str, Any]) -> None:
        for key, value in row.items():
            if key != "step" and value is not None:
                self._writer.add_scalar(key, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Rows in a run of Weights & Biases, called like the run's folder; a resumed run goes on under the same ``run_id``.

    Project, account and WANDB_MODE (offline) are read from the environment, as wandb documents; its files go into the
    run's folder.
    """

    def __init__(self, directory: Path, recipe: str, config: Mapping[str, Any], run_id: str) -> None:
        import wandb

        self._run = wandb.init(
            project=None if wandb.env.get_project() else "selfplay_fast",
            id=run_id,
            name=directory.name,
            dir=str(directory),
            config={"recipe": recipe, **config},
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="step")  # a resumed run repeats steps

    def write(self, row: Mapping[str, Any]) -> None:
        self._run.log({key: value for key, value in row.items() if value is not None})

    def close(self) -> None:
        self._run.finish()


@contextmanager
def trace(path: Path) -> Iterator[None]:
    """What torch does inside, as a trace for chrome://tracing or ui.perfetto.dev; not written after an error."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]
    with profile(activities=activities) as profiler:
        yield
    path.parent.mkdir(exist_ok=True)
    profiler.export_chrome_trace(str(path))
