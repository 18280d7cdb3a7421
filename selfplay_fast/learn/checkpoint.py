"""Checkpoints: safetensors for weights and optimizer, JSON for the rest; nothing is unpickled.

A checkpoint is a folder ``step-000120`` with ``model/`` (an ordinary transformers folder), ``optimizer.safetensors``,
``state.json`` (step, baselines, policy version) and ``files.json`` (size and CRC-32 of all the others, so that damage
is noticed). A critic beside the policy is in ``critic/``, with a ``model/`` and an optimizer of its own.

A checkpoint is written beside its final place and renamed, and renamed before it is removed, so a killed run leaves
whole checkpoints only. Random streams are keyed by (seed, step), so the step is their whole state.

Several ranks write the optimizer's states as ``shard-….safetensors``, each its own, by torch.distributed.checkpoint,
which also reads them, or the one file, into however many ranks there are; the first rank writes all else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from selfplay_fast.learn import distributed
from selfplay_fast.learn.advantages import RoleBaseline
from selfplay_fast.policies.critic import Critic
from selfplay_fast.policies.language_model import LanguageModel

_NAME = re.compile(r"step-(\d{6,})")
_FILES = "files.json"
CRITIC = "critic"  # its folder in a checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainState:
    """What is left after a step, besides weights and optimizer."""

    step: int
    baseline: RoleBaseline
    rollouts: dict[str, Any] | None = None
    """`play.Rollouts.state`: the games to begin again"""


def save_checkpoint(
    folder: Path,
    policy: LanguageModel,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    *,
    keep: int = 2,
    critic: tuple[Critic, torch.optim.Optimizer] | None = None,
) -> Path:
    """Write ``folder/step-N``; remove all but the newest ``keep`` and step 0 (the untrained policy).

    ``critic``: one that learns beside the policy, and its optimizer.
    The policy forgets what it has computed, for a run that goes on from here has nothing to remember either. Raises
    OSError naming the folder when it cannot be written (a full disk), FloatingPointError when a weight is not a finite
    number; earlier checkpoints stay.
    """
    policy.forget()
    final = folder / f"step-{state.step:06d}"
    partial = folder / f".{final.name}.partial"
    try:
        with distributed.sharded(policy.model):
            _check_finite(policy.model, state.step)
            weights = distributed.whole_weights(policy.model)
            _write_first(partial, policy, weights, state)
            _write_optimizer(partial, optimizer)
        if critic is not None:
            _write_critic(partial / CRITIC, *critic, state.step)
        with distributed.together():
            if distributed.is_first():
                _seal(partial)
                if final.exists():
                    _remove(final)
                partial.rename(final)
                _sync(folder)
                _tidy(folder, keep)
    except (OSError, SafetensorError) as error:
        if distributed.is_first():
            shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"cannot write checkpoint {final}: {error}; earlier ones are untouched") from error
    return final


def _write_critic(folder: Path, critic: Critic, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Into ``folder``, by all ranks."""
    with distributed.sharded(critic.model):
        _check_finite(critic.model, step)
        weights = distributed.whole_weights(critic.model)
        with distributed.together():
            if distributed.is_first():
                critic.save(folder / "model", weights)
        _write_optimizer(folder, optimizer)


def _check_finite(model: Any, step: int) -> None:
    finite = all(bool(_own(weight).isfinite().all()) for weight in model.parameters())
    if not all(distributed.gather(finite)):
        raise FloatingPointError(f"step {step}: a weight is not finite; no checkpoint of it is written")


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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


def _write_first(
    partial: Path, policy: LanguageModel, weights: dict[str, torch.Tensor] | None, state: TrainState
) -> None:
    """What the first rank writes alone, while the others wait for their folder."""
    with distributed.together():
        if not distributed.is_first():
            return
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        policy.save(partial / "model", weights)
        values = [[game, role, value] for (game, role), value in sorted(state.baseline.values.items())]
        document = {
            "step": state.step,
            "policy_version": policy.version,
            "baseline": {"decay": state.baseline.decay, "values": values},
            "rollouts": state.rollouts,
        }
        (partial / "state.json").write_text(json.dumps(document, indent=1))


def _write_optimizer(partial: Path, optimizer: torch.optim.Optimizer) -> None:
    """One file, or one of each rank."""
    tensors = {
        f"{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    if distributed.share()[1] == 1:
        save_file(
            {key: distributed.whole(value).contiguous() for key, value in tensors.items()},
            partial / "optimizer.safetensors",
        )
    elif tensors:
        try:
            dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True))
        except CheckpointException as error:
            rank, (reason, _) = next(iter(error.failures.items()))
            raise OSError(f"rank {rank}: {reason}") from error


def _seal(partial: Path) -> None:
    """The sums of all files; everything is on the disk when this returns."""
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
) -> tuple[LanguageModel, Path, TrainState] | None:
    """`load_checkpoint` of the newest one that is whole; None where there is none at all.

    A damaged one is renamed to ``step-N.damaged``, and ``say`` is told, but only if there is an earlier one that can
    be read: otherwise ValueError, and everything stays as it is. All ranks load what the first one found.
    """
    with distributed.together():
        loaded = _find_newest(folder, say, options) if distributed.is_first() else None
    path = distributed.gather(None if loaded is None else loaded[1])[0]
    return loaded if loaded is not None or path is None else load_checkpoint(path, **options)


def _find_newest(
    folder: Path, say: Callable[[str], None], options: dict[str, Any]
) -> tuple[LanguageModel, Path, TrainState] | None:
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


def load_checkpoint(path: Path, **options: Any) -> tuple[LanguageModel, Path, TrainState]:
    """Policy, where the optimizer's states are (for `restore_optimizer`) and state. A damaged file is a ValueError."""
    with _named(path):
        _check_files(path, lambda name: not _is_of_policy(name))
        document = json.loads((path / "state.json").read_text())
        baseline = RoleBaseline(
            decay=float(document["baseline"]["decay"]),
            values={(game, role): float(value) for game, role, value in document["baseline"]["values"]},
        )
        state = TrainState(step=int(document["step"]), baseline=baseline, rollouts=document.get("rollouts"))
    return load_policy(path, **options), path, state


def load_policy(path: Path, **options: Any) -> LanguageModel:
    """The policy of a checkpoint alone. A damaged file is a ValueError naming it."""
    with _named(path):
        _check_files(path, _is_of_policy)
        policy = LanguageModel.load(path / "model", **options)
        policy.version = int(json.loads((path / "state.json").read_text())["policy_version"])
    return policy


def _is_of_policy(name: str) -> bool:
    return name == "state.json" or name.startswith("model/")


def _check_files(path: Path, wanted: Callable[[str], bool]) -> None:
    known = json.loads((path / _FILES).read_text())
    for name, sums in known.items():
        if wanted(name) and _digest(path / name) != sums:
            raise ValueError(f"{name} is not what was written")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the files of a checkpoint becomes one line that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"checkpoint {path} is damaged or incomplete: {reason}") from error


def restore_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Put the states of a checkpoint, as `load_checkpoint` returns it, into a fresh optimizer over the same parameters.

    The parameters may be sharded, over any number of ranks.
    """
    reader = HuggingFaceStorageReader(str(folder))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors: dict[str, Any] = {}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, saved in reader.read_metadata().state_dict_metadata.items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        assert isinstance(saved, TensorStorageMetadata)
        tensors[key] = torch.zeros_like(like) if saved.size == like.shape else torch.zeros(saved.size)
        state.setdefault(int(index), {})[name] = tensors[key]
    alone = distributed.share()[1] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it tells that one process reads alone
        dcp.load(tensors, storage_reader=reader, no_dist=alone)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
