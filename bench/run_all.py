"""Every bench of this folder, one after the other, and one table of all ratios.

Each runs in a process of its own with a time limit; what fails or is stopped is said, and the rest goes on. The rows
that a bench adds to its own file in `bench/results/` are also written, with its name, to one file,
`bench/results/all-DATE.jsonl`, under a line that names machine and versions.
Peers that are missing stand below the table, and in each row as "not installed".

    python bench/run_all.py [--only gae_vs_loops search_vs_peers] [--minutes 15] [--list]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _measure import RESULTS, machine
from rich.console import Console
from rich.markup import escape
from rich.table import Table

HERE = Path(__file__).parent
NO_RATIOS = ("run_all", "tables", "learning_curves", "mars_without_hints")  # these compare nothing
PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "numpy",
    "open_spiel",
    "pettingzoo",
    "textarena",
    "pgx",
    "mctx",
)
PEERS = ("envpool", "jax", "scipy", "trl", "liger_kernel", "verl", "vllm")


def benches() -> list[str]:
    """The names of all benches, sorted."""
    names = (path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    return sorted(name for name in names if name not in NO_RATIOS)


def purpose(name: str) -> str:
    """The first line of a bench's docstring."""
    return (HERE / f"{name}.py").read_text().split('"""')[1].splitlines()[0]


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def run(name: str, minutes: float) -> tuple[str, list[dict[str, Any]]]:
    """How a bench ended, in a word or its last line, and the rows that it has added."""
    results = RESULTS / f"{name}.jsonl"
    before = len(lines_of(results))
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with subprocess.Popen(
        [sys.executable, str(HERE / f"{name}.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as bench:
        try:
            said, _ = bench.communicate(timeout=60 * minutes)
            last = (said.strip().splitlines() or ["no output"])[-1]
            ended = "ok" if bench.returncode == 0 else f"failed ({bench.returncode}): {last[:200]}"
        except BaseException as error:
            os.killpg(bench.pid, signal.SIGKILL)  # with the servers and workers that it has started
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            ended = f"stopped after {minutes:g} minutes"
    return ended, [json.loads(line) for line in lines_of(results)[before:]]


def ratios(rows: Sequence[dict[str, Any]]) -> Table:
    """All rows that have a ratio, by bench."""
    table = Table("bench", "case", "unit", "ours", "peer", "ratio", "spread of ratio's sides")
    last = ""
    for row in rows:
        if "ratio" not in row:
            continue
        if last and row["bench"] != last:
            table.add_section()
        table.add_row(
            row["bench"] if row["bench"] != last else "",
            escape(str(row["case"])),
            escape(str(row["unit"])),
            f"{row['ours']:,.4g}",
            f"{row['peer']:,.4g}",
            f"{row['ratio']:.2f}",
            f"{row['ours_spread']:.0%} / {row['peer_spread']:.0%}",
        )
        last = row["bench"]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=benches(), metavar="NAME", help="these benches")
    parser.add_argument("--minutes", type=float, default=15, help="limit of each bench")
    parser.add_argument("--list", action="store_true", help="name the benches and stop")
    options = parser.parse_args()
    if options.minutes <= 0:
        parser.error(f"--minutes: must be above 0, got {options.minutes:g}")
    console = Console(highlight=False)
    if options.list:
        for name in benches():
            print(f"{name}: {purpose(name)}")
        return
    facts = machine([*PACKAGES, *PEERS])
    raw = RESULTS / time.strftime("all-%Y%m%d-%H%M%S.jsonl")
    RESULTS.mkdir(exist_ok=True)
    found: list[dict[str, Any]] = []
    failed = False
    with raw.open("w") as file:
        file.write(json.dumps(facts) + "\n")
        for name in options.only or benches():
            start = time.monotonic()
            ended, rows = run(name, options.minutes)
            failed |= ended != "ok"
            console.print(
                f"{name}: {ended}, {len(rows)} rows, {time.monotonic() - start:.0f} s", markup=False
            )
            for row in rows:
                found.append({"bench": name} | {key: row[key] for key in row if key not in facts})
                file.write(json.dumps(found[-1]) + "\n")
            file.flush()
    console.print(ratios(found))
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), markup=False, soft_wrap=True)
    missing = [peer for peer in (*PACKAGES, *PEERS) if facts[peer] == "not installed"]
    if missing:
        console.print(f"not installed: {', '.join(missing)}", markup=False)
    console.print(f"raw: {raw}", markup=False, soft_wrap=True)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
