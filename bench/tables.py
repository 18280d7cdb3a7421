"""Writes the tables of ratios in README and docs from bench/results/: between `<!-- bench NAME -->` and `<!-- end -->`.

python bench/tables.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "games.md",
    ROOT / "docs" / "kernels.md",
    ROOT / "docs" / "refine.md",
)
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "python",
    "torch",
    "transformers",
    "open_spiel",
    "pettingzoo",
    "textarena",
    "pgx",
    "mctx",
    "envpool",
    "jax",
    "scipy",
    "verl",
    "vllm",
)
BLOCK = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def newest(name: str) -> list[dict[str, Any]]:
    """The last row of every (device, model, case, unit) in ``bench/results/NAME.jsonl``, in the order of the file."""
    rows = [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]
    return list({(row["device"], _model(row), row["case"], row["unit"]): row for row in rows}.values())


def _model(row: dict[str, Any]) -> str:
    return str(row.get("model", "nano"))


def table(name: str) -> str:
    """The rows as Markdown: a table for each machine and its versions; ours and peer with the spread of repeats."""
    text, last = "", ""
    for row in newest(name):
        versions = ", ".join(
            f"{key} {row[key]}" for key in PACKAGES if row.get(key, "not installed") != "not installed"
        )
        model = "" if _model(row) == "nano" else f", Qwen3 {_model(row).upper()} of random weights"
        title = f"{row['cpu']}, {row['device']}{model}, {versions}"
        if title != last:
            columns = [
                "case",
                "unit",
                "ours",
                "peer",
                "ratio",
                *(["MiB, ours", "MiB, peer"] if "ours_mib" in row else []),
            ]
            text += f"\n{title}:\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
            last = title
        ours, peer = (f"{_rate(row[side])} ± {row[f'{side}_spread'] / 2:.0%}" for side in ("ours", "peer"))
        case = f"{row['episodes']} games, {row['case']}" if "episodes" in row else row["case"]
        text += f"| {case} | {row['unit']} | {ours} | {peer} | {row['ratio']:.2f} |"
        if "ours_mib" in row:
            text += f" {row['ours_mib']:,.0f} | {row['peer_mib']:,.0f} |"
        text += "\n"
    return text.lstrip("\n")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def filled(text: str) -> str:
    """A page with every table written anew."""
    return BLOCK.sub(lambda block: block[1] + table(block[2]) + block[3], text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
