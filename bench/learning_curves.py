"""Learning curves of finished runs as one Markdown table; the raw numbers go to `bench/results/`.

    for seed in 0 1 2; do selfplay-fast train spiral --games kuhn_poker --seed $seed --run-dir runs/kuhn-$seed; done
    python bench/learning_curves.py kuhn_poker/nash_conv spiral-kuhn runs/kuhn-0 runs/kuhn-1 runs/kuhn-2

One row per run: the metric at evenly spaced evaluations, its last value, minutes, and the last legal-reply rate and
scored mass of that game.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read(run: Path) -> list[dict[str, Any]]:
    """The metric rows of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def curve(rows: list[dict[str, Any]], metric: str) -> list[tuple[int, float]]:
    """(step, value) wherever the metric was taken."""
    return [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("metric", help="for example kuhn_poker/nash_conv")
    parser.add_argument("name", help="file name of the raw numbers, without ending")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--points", type=int, default=7, help="columns of the table")
    arguments = parser.parse_args()
    game = arguments.metric.split("/")[0]
    curves = {run: curve(read(run), arguments.metric) for run in arguments.runs}
    missing = [str(run) for run, points in curves.items() if not points]
    if missing:
        parser.error(f"{arguments.metric} is not in {', '.join(missing)}")
    steps = [step for step, _ in next(iter(curves.values()))]
    last = len(steps) - 1
    shown = sorted({steps[round(k * last / max(1, arguments.points - 1))] for k in range(arguments.points)})
    print(f"| run | {' | '.join(f'step {step}' for step in shown)} | minutes | legal replies | scored mass |")
    print("|---" * (len(shown) + 4) + "|")
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{arguments.name}.jsonl").open("w") as file:
        for run, points in curves.items():
            rows, values = read(run), dict(points)
            cells = [f"{values[step]:.3f}" if step in values else "" for step in shown]
            final = rows[-1]
            extras = [final["time_s"] / 60, final.get(f"{game}/legal_rate"), final.get(f"{game}/scored_mass")]
            texts = [
                "" if x is None else f"{x:.{digits}f}" for x, digits in zip(extras, (1, 3, 3), strict=True)
            ]
            print(f"| {run.name} | {' | '.join(cells + texts)} |")
            record = {"run": run.name, "metric": arguments.metric, "minutes": extras[0], "curve": points}
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
