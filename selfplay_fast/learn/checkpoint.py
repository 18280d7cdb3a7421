"""Checkpoints: safetensors for weights and optimizer, JSON for the rest; nothing is unpickled.

A checkpoint is a folder ``step-000120`` with ``model/`` (an ordinary transformers folder), ``optimizer.safetensors``,
``state.json`` (step, baselines, policy version) and ``files.json`` (size and CRC-32 of all the others, so that damage
is noticed). It is written beside its final place and renamed, and renamed before it is removed, so a killed run
leaves whole checkpoints only. Random streams are keyed by (seed, step), so the step is their whole state.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
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
_FILES = "files.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """What is left after a step, besides weights and optimizer."""

    step: int
    baseline: RoleBaseline
    rollouts: dict[str, Any] | None = None
    """`play.Rollouts.state`: the games to begin again"""


def save_checkpoint(
    folder: Path, policy: LanguageModel, optimizer: torch.optim.Optimizer, state: TrainState, *, keep: int = 2
) -> Path:
    """Write ``folder/step-N``; remove all but the newest ``keep`` and step 0 (the untrained policy).

    The policy forgets what it has computed, for a run that goes on from here has nothing to remember either. Raises
    OSError naming the folder when it cannot be written (a full disk), FloatingPointError when a weight is not a finite
    number; earlier checkpoints stay.
    """
    policy.forget()
    final = folder / f"step-{state.step:06d}"
    partial = folder / f".{final.name}.partial"
    if not all(bool(weight.isfinite().all()) for weight in policy.model.parameters()):
        raise FloatingPointError(f"step {state.step}: a weight is not finite; no checkpoint of it is written")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        _write(partial, policy, optimizer, state)
        if final.exists():
            _remove(final)
        partial.rename(final)
        _sync(folder)
        _tidy(folder, keep)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"cannot write checkpoint {final}: {error}; earlier ones are untouched") from error
    return final


def _tidy(folder: Path, keep: int = 2) -> None:
    """Remove what is old, and what a killed run was writing or removing."""
    for rest in (*folder.glob(".step-*.partial"), *folder.glob(".step-*.old")):
        shutil.rmtree(rest)
    for old in list_checkpoints(folder)[:-keep]:
        if old != folder / "step-000000":
            _remove(old)


def _remove(checkpoint: Path) -> None:
    """Out of the list first, so that nobody meets half of it."""
    old = checkpoint.with_name(f".{checkpoint.name}.old")
    checkpoint.rename(old)
    shutil.rmtree(old)


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
        "rollouts": state.rollouts,
    }
    (partial / "state.json").write_text(json.dumps(document, indent=1))
    files = {
        str(path.relative_to(partial)): _digest(path) for path in sorted(partial.rglob("*")) if path.is_file()
    }
    (partial / _FILES).write_text(json.dumps(files, indent=1))
    for path in [*partial.rglob("*"), partial]:
        _sync(path)


def _sync(path: Path) -> None:
    """A file's content, or a folder's names, on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> list[int]:
    """Size and CRC-32."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            checksum = zlib.crc32(chunk, checksum)
    return [path.stat().st_size, checksum]


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def load_newest(
    folder: Path, say: Callable[[str], None] = lambda text: None, **options: Any
) -> tuple[LanguageModel, dict[str, torch.Tensor], TrainState] | None:
    """`load_checkpoint` of the newest one that is whole; None where there is none at all.

    A damaged one is renamed to ``step-N.damaged``, and ``say`` is told, but only if there is an earlier one that can
    be read: otherwise ValueError, and everything stays as it is.
    """
    saved = list_checkpoints(folder)
    damaged: list[tuple[Path, str]] = []
    for path in reversed(saved):
        try:
            loaded = load_checkpoint(path, **options)
        except ValueError as error:
            damaged.append((path, str(error)))
            continue
        for broken, reason in damaged:
            aside = broken.with_name(f"{broken.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            broken.rename(aside)
            say(f"{reason}; it is now {aside.name}, and the run goes on from {path.name}")
        _tidy(folder)
        return loaded
    if damaged:
        raise ValueError(
            f"{damaged[0][1]}; no earlier checkpoint can be read either: put a good copy there, or start a new run"
        )
    return None


def load_checkpoint(path: Path, **options: Any) -> tuple[LanguageModel, dict[str, torch.Tensor], TrainState]:
    """Policy, optimizer tensors (for `restore_optimizer`) and state. A damaged file is a ValueError naming it."""
    with _named(path):
        _check_files(path, ("optimizer.safetensors",))
        document = json.loads((path / "state.json").read_text())
        baseline = RoleBaseline(
            decay=float(document["baseline"]["decay"]),
            values={(game, role): float(value) for game, role, value in document["baseline"]["values"]},
        )
        state = TrainState(step=int(document["step"]), baseline=baseline, rollouts=document.get("rollouts"))
        tensors = load_file(path / "optimizer.safetensors")
    return load_policy(path, **options), tensors, state


def load_policy(path: Path, **options: Any) -> LanguageModel:
    """The policy of a checkpoint alone. A damaged file is a ValueError naming it."""
    with _named(path):
        known = json.loads((path / _FILES).read_text())
        _check_files(path, [name for name in known if name != "optimizer.safetensors"])
        policy = LanguageModel.load(path / "model", **options)
        policy.version = int(json.loads((path / "state.json").read_text())["policy_version"])
    return policy


def _check_files(path: Path, names: Iterable[str]) -> None:
    known = json.loads((path / _FILES).read_text())
    for name in names:
        if _digest(path / name) != known[name]:
            raise ValueError(f"{name} is not what was written")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the files of a checkpoint becomes one line that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"checkpoint {path} is damaged or incomplete: {reason}") from error


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put saved tensors back into a fresh optimizer over the same parameters."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
