"""`selfplay-fast export`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ..command_line import PROGRAM, optional, parse
from .subject import checkpoint_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a run's model as a plain transformers folder; adapters are added to the weights."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run folder"""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """the folder to write; it must not exist or be empty"""
    step: Annotated[int | None, optional("INT")] = None
    """the checkpoint of this step (default: the newest)"""


def export(arguments: list[str]) -> None:
    """Write a run's model as a plain transformers folder."""
    options = parse(ExportOptions, arguments, f"{PROGRAM} export")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ValueError(f"{options.out} already exists; name a new folder")
    checkpoint = checkpoint_of(options.run, options.step)

    from ..learn.checkpoint import load_policy
    from ..policies.adapters import merge_adapters

    policy = load_policy(checkpoint)
    merge_adapters(policy.model)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        policy.save(options.out)
    except OSError as error:
        raise ValueError(f"cannot write {options.out}: {(error.strerror or str(error)).lower()}") from None
    print(f"{checkpoint} -> {options.out}")
