"""What every bench shares: repeated timings, the machine, the printed table and the file of raw numbers."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Times of one thing done several times, and how much work each did."""

    seconds: tuple[float, ...]
    work: float = 1.0

    @property
    def rate(self) -> float:
        """Work per second at the median time."""
        return self.work / statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return (max(self.seconds) - min(self.seconds)) / statistics.median(self.seconds)


def measure(
    runs: dict[str, Callable[[], float]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time every run ``repeats`` times, in turns so that a busy spell hits all; a run returns its work."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    work = {}
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            work[name] = run()
            seconds[name].append(clock() - start)
    return {name: Timing(seconds=tuple(times), work=work[name]) for name, times in seconds.items()}


def peak_resident(run: Callable[[], object]) -> int:
    """Bytes that the process held at most while it ran, beyond those it held before; Linux only.

    To some MiB: what was freed before may lie in the allocator's hands and be used again.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """The processor, its cores, and the versions of Python and ``packages``."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def print_table(facts: dict[str, Any], rows: Sequence[dict[str, Any]], unit: str) -> None:
    """``case | ours | peer | ratio | spread`` as a Markdown table under one line of facts."""
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"\n| case | ours ({unit}) | peer ({unit}) | ratio | spread |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        spread = f"{row['ours_spread']:.0%} / {row['peer_spread']:.0%}"
        print(f"| {row['case']} | {row['ours']:,.0f} | {row['peer']:,.0f} | {row['ratio']:.2f} | {spread} |")


def save(name: str, facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Append the rows, each with the facts, to ``bench/results/NAME.jsonl``."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        for row in rows:
            file.write(json.dumps({**facts, **row}) + "\n")
