"""Checkpoints: safetensors for weights and optimizer, JSON for the rest; nothing is unpickled.

A checkpoint is a folder ``step-000120`` with ``model/`` (an ordinary transformers folder), ``optimizer.safetensors``
and ``state.json`` (step, baselines, policy version). It is written beside its final place and renamed, so a killed
run leaves whole checkpoints only. Random streams are keyed by (seed, step), so the step is their whole state.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from selfplay_fast.learn.advantages import RoleBaseline
from selfplay_fast.policies.language_model import LanguageModel

_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """What is left after a step, besides weights and optimizer."""

    step: int
    baseline: RoleBaseline


def save_checkpoint(
    folder: Path, policy: LanguageModel, optimizer: torch.optim.Optimizer, state: TrainState, *, keep: int = 2
) -> Path:
    """Write ``folder/step-N``; remove all but the newest ``keep`` and step 0 (the untrained policy).

    Raises OSError naming the folder when it cannot be written (a full disk); earlier checkpoints stay.
    """
    final = folder / f"step-{state.step:06d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write(partial, policy, optimizer, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"cannot write checkpoint {final}: {error}; earlier ones are untouched") from error
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in list_checkpoints(folder)[:-keep]:
        if old != folder / "step-000000":
            shutil.rmtree(old)
    return final


def _write(partial: Path, policy: LanguageModel, optimizer: torch.optim.Optimizer, state: TrainState) -> None:
    """All files of a checkpoint, on the disk when this returns."""
    policy.save(partial / "model")
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    save_file(tensors, partial / "optimizer.safetensors")
    values = [[game, role, value] for (game, role), value in sorted(state.baseline.values.items())]
    document = {
        "step": state.step,
        "policy_version": policy.version,
        "baseline": {"decay": state.baseline.decay, "values": values},
    }
    (partial / "state.json").write_text(json.dumps(document, indent=1))
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def load_checkpoint(path: Path, **options: Any) -> tuple[LanguageModel, dict[str, torch.Tensor], TrainState]:
    """Policy, optimizer tensors (for `restore_optimizer`) and state. A damaged file is a ValueError naming it."""
    with _named(path):
        document = json.loads((path / "state.json").read_text())
        baseline = RoleBaseline(
            decay=float(document["baseline"]["decay"]),
            values={(game, role): float(value) for game, role, value in document["baseline"]["values"]},
        )
        state = TrainState(step=int(document["step"]), baseline=baseline)
        tensors = load_file(path / "optimizer.safetensors")
    return load_policy(path, **options), tensors, state


def load_policy(path: Path, **options: Any) -> LanguageModel:
    """The policy of a checkpoint alone. A damaged file is a ValueError naming it."""
    with _named(path):
        policy = LanguageModel.load(path / "model", **options)
        policy.version = int(json.loads((path / "state.json").read_text())["policy_version"])
    return policy


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the files of a checkpoint becomes one line that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"checkpoint {path} is damaged or incomplete: {reason}; remove it to go on from an earlier one"
        ) from error


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put saved tensors back into a fresh optimizer over the same parameters."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
