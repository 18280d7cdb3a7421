"""Read what a run directory holds: its configuration, its metrics rows, its transcripts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
BENCHMARKS = "benchmarks.jsonl"
EPISODES = "episodes"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
PROFILE = "profile"
REPORT = "report.html"

Row = dict[str, Any]


def read_config(run_dir: Path) -> dict[str, Any]:
    """`config.yaml` as a dictionary with at least `recipe` and `config`. ValueError when there is none."""
    path = run_dir / CONFIG
    if not run_dir.is_dir():
        raise ValueError(f"no run at {run_dir}: there is no such folder")
    if not path.is_file():
        raise ValueError(f"no run at {run_dir}: it has no {CONFIG}")
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not text.endswith("\n"):  # its last value may be half of one
        raise ValueError(f"{path}: the last line does not end; see that it is whole and end it")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected 'key: value' lines")
    for key in ("recipe", "config"):
        if key not in content:
            raise ValueError(f"{path}: missing key {key!r}")
    if not isinstance(content["recipe"], str):
        raise ValueError(f"{path}: recipe: expected a name, got {content['recipe']!r}")
    return content


def read_changes(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the content of `config.yaml`: options that were changed on resume, each `from_step`, `option`, `before` and
    `after`; what is not of this form is left out."""
    found = content.get("changes")
    return [
        dict(change)
        for change in (found if isinstance(found, list) else [])
        if isinstance(change, dict)
        and change.keys() == {"from_step", "option", "before", "after"}
        and isinstance(change["from_step"], int)
    ]


def describe_change(change: Mapping[str, Any]) -> str:
    """`device cuda, before cpu`"""
    return f"{change['option']} {change['after']}, before {change['before']}"


def read_metrics(run_dir: Path) -> list[Row]:
    """The rows of `metrics.jsonl`, oldest first, one per step.

    Rows of one step are joined (later values win). A last line cut short by a crash is left out; a broken
    line before it raises ValueError naming the line.
    """
    path = run_dir / METRICS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    by_step: dict[int, Row] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            if number == len(lines):  # no newline after it: half-written when the process died
                break
            raise ValueError(f"{path}, line {number}: not a metrics row; remove the line") from None
        by_step.setdefault(step, {}).update(row)
    return [by_step[step] for step in sorted(by_step)]


def append_benchmarks(run_dir: Path, step: int, rows: Sequence[Row]) -> None:
    """Add the rows of `evaluate.benchmarks` of the checkpoint of ``step`` to `benchmarks.jsonl`."""
    text = "".join(json.dumps({"step": step, **row}) + "\n" for row in rows)
    with (run_dir / BENCHMARKS).open("a", encoding="utf-8") as file:
        file.write(text)


def read_benchmarks(run_dir: Path) -> list[Row]:
    """The rows of `benchmarks.jsonl`, of every (step, task, measure) the last; lines that are not rows are left out."""
    path = run_dir / BENCHMARKS
    newest: dict[tuple[int, str, str], Row] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            key = int(row["step"]), str(row["task"]), str(row["measure"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        newest.pop(key, None)
        newest[key] = row
    return list(newest.values())


def episode_files(run_dir: Path) -> list[tuple[int, Path]]:
    """(step, file) of the transcripts, by step."""
    files = []
    for path in (run_dir / EPISODES).glob("step-*.jsonl"):
        if match := re.fullmatch(r"step-(\d+)\.jsonl", path.name):
            files.append((int(match[1]), path))
    return sorted(files)


def read_episodes(path: Path) -> Iterator[dict[str, Any]]:
    """The transcripts of one file; lines that are not JSON objects are left out."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                episode = json.loads(line)
            except ValueError:
                continue
            if isinstance(episode, dict):
                yield episode
