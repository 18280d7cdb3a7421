"""Learning curves of finished runs as one Markdown table; the raw numbers go to `bench/results/`.

    for seed in 0 1 2; do selfplay-fast train spiral --games kuhn_poker --seed $seed --run-dir runs/kuhn-$seed; done
    python bench/learning_curves.py kuhn_poker/nash_conv spiral-kuhn runs/kuhn-0 runs/kuhn-1 runs/kuhn-2

One row per run: the metric at evenly spaced evaluations (± one standard error, if it has one), and last, minutes,
and the last legal-reply rate and scored mass of that game. A run evaluated again, over more games, has a column more:

    selfplay-fast evaluate runs/kuhn-0 --episodes 1024 --json > runs/kuhn-0/evaluation.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
AGAIN = "evaluation.json"


def read(run: Path) -> list[dict[str, Any]]:
    """The metric rows of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def curve(rows: list[dict[str, Any]], metric: str) -> list[tuple[int, float]]:
    """(step, value) wherever the metric was taken."""
    return [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]


def shown(value: float | None, error: float | None = None, digits: int = 3) -> str:
    """A cell of the table."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} ± {error:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("metric", help="for example kuhn_poker/nash_conv")
    parser.add_argument("name", help="file name of the raw numbers, without ending")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--points", type=int, default=7, help="columns of the table")
    arguments = parser.parse_args()
    metric, game = arguments.metric, arguments.metric.split("/")[0]
    curves = {run: curve(read(run), metric) for run in arguments.runs}
    missing = [str(run) for run, points in curves.items() if not points]
    if missing:
        parser.error(f"{metric} is not in {', '.join(missing)}")
    steps = [step for step, _ in next(iter(curves.values()))]
    last = len(steps) - 1
    columns = sorted({steps[round(k * last / max(1, arguments.points - 1))] for k in range(arguments.points)})
    again = {run: json.loads((run / AGAIN).read_text()) for run in curves if (run / AGAIN).exists()}
    titles = ["run", *(f"step {step}" for step in columns), *(["again"] if again else [])]
    print(f"| {' | '.join([*titles, 'minutes', 'legal replies', 'scored mass'])} |")
    print("|---" * (len(titles) + 3) + "|")
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{arguments.name}.jsonl").open("w") as file:
        for run, points in curves.items():
            rows, values = read(run), dict(points)
            errors = dict(curve(rows, f"{metric}_error"))
            cells = [shown(values.get(step), errors.get(step)) for step in columns]
            repeated = again.get(run, {})
            if again:
                cells.append(shown(repeated.get(metric), repeated.get(f"{metric}_error")))
            final = rows[-1]
            minutes = final["time_s"] / 60
            cells.append(shown(minutes, digits=1))
            cells += [shown(final.get(f"{game}/{key}")) for key in ("legal_rate", "scored_mass")]
            print(f"| {' | '.join([run.name, *cells])} |")
            record = {"run": run.name, "metric": metric, "minutes": minutes, "curve": points}
            if errors:
                record["errors"] = [errors.get(step) for step, _ in points]
            if repeated:
                record["again"] = [repeated.get(metric), repeated.get(f"{metric}_error")]
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
