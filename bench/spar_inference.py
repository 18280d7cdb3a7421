"""SPaR at inference: tree search against best-of-N and iterative refinement, at equal numbers of responses.

    for seed in 0 1 2; do selfplay-fast train spar --seed $seed --run-dir runs/spar-$seed; done
    python bench/spar_inference.py runs/spar-0 runs/spar-1 runs/spar-2 [--actor 0] [--refiner 0]

Actor and refiner of a run on its held-out prompts. Every way begins with the same response of the actor, drawn
as in training: best-of-N draws more of them, the others refine it. Each is looked at after so many responses; it has
passed if one of them keeps to the rule. "Used" is how many were drawn: a tree stops after the children of a level (DFS:
of a node), best-of-N, in its favour, at the very response that passes. Means over runs, least and largest beside
them; the greedy response is the actor's at temperature 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import machine, save

from selfplay_fast.learn.checkpoint import list_checkpoints, load_policy
from selfplay_fast.play.prompt_sets import prompt_set
from selfplay_fast.play.refine_table import ACTOR, REFINER
from selfplay_fast.recipes import spar
from selfplay_fast.refine_search import Draft, Refined, RefineOptions, best_of, one_by_one
from selfplay_fast.run import Run

BUDGETS = (1, 4, 10, 16)  # responses up to each level of a tree: one, and 3, 6 and 6 children
SEED = 1


def trees_of(folder: Path, steps: dict[str, int | None]) -> dict[str, list[Refined]]:
    """The trees of every way, one for each held-out prompt."""
    config = Run.resume(folder).config
    prompts = prompt_set(config.prompts, config.held_out_prompts, config.seed)
    last = list_checkpoints(folder / "checkpoints")[-1].name
    names = {role: last if step is None else f"step-{step:06d}" for role, step in steps.items()}
    cast: dict[str, Any] = {
        ACTOR: load_policy(folder / "checkpoints" / names[ACTOR]),
        REFINER: load_policy(folder / "checkpoints" / REFINER / names[REFINER]),
        **spar.judges(config, prompts),
    }

    def grown(drafts: Sequence[Draft], options: RefineOptions, greedy: bool = False) -> list[Refined]:
        samplings = config.samplings()
        if greedy:
            samplings["respond"] = replace(samplings["respond"], temperature=0.0)
        return spar.grown(config, cast, drafts, options, SEED, samplings)

    asked = [Draft(prompt=prompt) for prompt in prompts.held_out]
    drawn = grown(asked, best_of(BUDGETS[-1]))
    begun = [Draft(prompt=tree.draft.prompt, response=tree.nodes[1].response) for tree in drawn]
    return {
        "greedy": grown(asked, best_of(1), greedy=True),
        "best of N": drawn,
        "iterative refinement": grown(begun, one_by_one(BUDGETS[-1] - 1)),
        "tree search, BFS": grown(begun, replace(config.options(), order="bfs")),
        "tree search, DFS": grown(begun, replace(config.options(), order="dfs")),
    }


def within(trees: Sequence[Refined], budget: int) -> tuple[float, float]:
    """(share of trees that passed, mean number of responses used) with so many responses at most."""
    passed, used = [], []
    for tree in trees:
        searched = tree.draft.response is not None
        nodes = (tree.nodes if searched else tree.nodes[1:])[:budget]
        good = [k for k, node in enumerate(nodes, 1) if node.value > 0.5]
        passed.append(bool(good))
        used.append(good[0] if good and not searched else len(nodes))
    return float(np.mean(passed)), float(np.mean(used))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--actor", type=int, help="step of its checkpoint; default: the last")
    parser.add_argument("--refiner", type=int, help="the same")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for run in args.runs:
        for way, trees in trees_of(run, {ACTOR: args.actor, REFINER: args.refiner}).items():
            for budget in BUDGETS if way != "greedy" else BUDGETS[:1]:
                passed, used = within(trees, budget)
                asked = {
                    "run": run.name,
                    "actor": args.actor,
                    "refiner": args.refiner,
                    "way": way,
                    "responses": budget,
                }
                rows.append({**asked, "passed": passed, "used": used})
                print(rows[-1], flush=True)
    save("spar_inference", machine(["selfplay_fast", "torch", "transformers"]), rows)
    print(table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Passed, and used in brackets, of every way at every budget."""
    lines = [f"| | {' | '.join(f'{n} responses' for n in BUDGETS)} |", "|---" * (len(BUDGETS) + 1) + "|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for budget in BUDGETS:
            found = [row for row in rows if (row["way"], row["responses"]) == (way, budget)]
            passed, used = ([row[name] for row in found] for name in ("passed", "used"))
            spread = f"{np.mean(passed):.3f} ({min(passed):.2f}–{max(passed):.2f})" if found else ""
            cells.append(f"{spread}, {np.mean(used):.1f} used" if found else "")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
