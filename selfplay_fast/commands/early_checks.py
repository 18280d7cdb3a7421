"""What is wrong with `train …` and can be seen without the recipe, whose import takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..command_line import UsageError
from ..model_folder import folder_facts
from ..report.data import CONFIG
from .subject import check_games


def check_early(arguments: Sequence[str]) -> None:
    """UsageError for games, devices, models, packages and run folders that are not there or cannot be."""
    given = _given(arguments)
    if "games" in given:
        check_games(given["games"])
    if given.get("held_out"):
        check_games(given["held_out"], "--held-out")
    check_device_name(_one(given, "device") or "auto")
    rank = _one(given, "lora_rank")
    if rank is not None and rank.isdecimal() and int(rank) > 0 and not find_spec("peft"):
        raise UsageError(
            "--lora-rank: the package peft is not installed: pip install -c constraints.txt -e '.[lora]'"
        )
    _check_model(_one(given, "model"))
    folder = _one(given, "run_dir")
    if folder is not None and (Path(folder) / CONFIG).is_file():
        raise UsageError(
            f"--run-dir: {folder} holds a run: continue it with --resume {folder}, or name another folder"
        )


def check_device_name(name: str) -> None:
    """UsageError for a word that is no device; whether it is here, torch knows."""
    if name.partition(":")[0] not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device: must be cpu, cuda (or cuda:1 …) or auto, got {name!r}")


def _check_model(name: str | None) -> None:
    if name is None:
        return
    try:
        folder_facts(name)
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def _one(given: dict[str, list[str]], name: str) -> str | None:
    values = given.get(name, [])
    return values[0] if len(values) == 1 else None


def _given(arguments: Sequence[str]) -> dict[str, list[str]]:
    """The words after each option, by its name; an option's last mention counts."""
    given: dict[str, list[str]] = {}
    words: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            words = given[name.replace("-", "_")] = [value] if equals else []
        else:
            words.append(argument)
    return given
