"""A synthetic run directory, as a long three-game training run would leave it."""

import json
import math
import random
from pathlib import Path

import pytest
import yaml

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>bold</b><!--<script>"


def _row(step: int, steps: int, noise: random.Random) -> dict:
    t = step / steps
    row = {"step": step, "time_s": 1.9 * step, "entropy": 0.9 - 0.6 * t + noise.gauss(0, 0.02)}
    if step:
        row |= {
            "loss": noise.gauss(0, 0.02),
            "grad_norm": abs(noise.gauss(0.5, 0.1)),
            "tokens_per_s": 11000.0,
        }
        row |= {"samples_per_s": noise.gauss(400, 10), "rollout_s": 0.4, "update_s": 0.6}
        row |= {"sampler_ratio/p1": 0.98, "sampler_ratio/p50": 1.0, "sampler_ratio/p99": 1.03}
        row |= {"sampler_outside_share": 0.001, "peak_memory_mib": 700.0 + step}
    for game in ("kuhn_poker", "tic_tac_toe", "negotiation"):
        row[f"{game}/legal_rate"] = 1 - 0.1 * math.exp(-5 * t)
        row[f"{game}/return/player_0"] = 0.2 * t + noise.gauss(0, 0.08)
        row[f"{game}/return/player_1"] = -0.2 * t + noise.gauss(0, 0.08)
    if step % 20 == 0 or step == steps:
        row["kuhn_poker/nash_conv"] = 0.25 + 0.66 * math.exp(-4 * t)
        row["kuhn_poker/scored_mass"] = 0.999
        for game in ("kuhn_poker", "tic_tac_toe", "negotiation"):
            row[f"{game}/score_vs_random"] = 0.6 * t
            row[f"{game}/score_vs_random_error"] = 0.05
            for seat in ("first", "second"):
                row[f"{game}/score_vs_random_{seat}"] = 0.6 * t
                row[f"{game}/not_lost_vs_random_{seat}"] = 0.5 + 0.4 * t
        row["tic_tac_toe/score_vs_perfect"] = -0.8 + 0.5 * t
    if step == 57:
        row["loss"] = None
    return row


def _episode(game: str, seed: int, hostile: bool) -> dict:
    rules = f"Play {game}.\nThink, then put the action in \\boxed{{}}.\n"
    reply = HOSTILE if hostile else "\\boxed{check}"
    turns = [
        {
            "role": f"player_{k % 2}",
            "prompt": f"{rules}You are player {k % 2}. Your card: K. Actions so far: {'check ' * k}",
            "reasoning": f"thought {reply}" if k == 0 else "",
            "reply": reply,
            "action": None if hostile else 0,
            "action_text": None if hostile else "[check]",
            "refusal": f"no action in {HOSTILE}" if hostile else None,
            "reward": -1.5 if hostile else 0.0,
            "advantage": 0.125 * (k + 1),
        }
        for k in range(1 if hostile else 3)
    ]
    returns = {"player_0": 1.0, "player_1": -1.0}
    return {
        "game": game,
        "options": {"rounds": 1},
        "seed": seed,
        "group": 0,
        "returns": returns,
        "turns": turns,
    }


@pytest.fixture
def hostile_text() -> str:
    """What a hostile model says in the last step's second episode."""
    return HOSTILE


@pytest.fixture
def synthetic_run(tmp_path: Path) -> Path:
    """A run directory of 100 steps of three games, with a NaN, sparse evaluations and a hostile reply."""
    steps, noise = 100, random.Random(1)
    run = tmp_path / "synthetic-run"
    (run / "episodes").mkdir(parents=True)
    config = {
        "model": "nano",
        "games": ["kuhn_poker", "tic_tac_toe", "negotiation"],
        "seed": 0,
        "note": HOSTILE,
    }
    (run / "config.yaml").write_text(
        yaml.safe_dump({"recipe": "spiral", "version": "0.1.0", "config": config})
    )
    rows = [_row(step, steps, noise) for step in range(steps + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (0, 50, 100):
        episodes = [
            _episode(game, 2**62 + step + i, hostile=i == 1)
            for i, game in enumerate(("kuhn_poker", "tic_tac_toe"))
        ]
        text = "".join(json.dumps(episode) + "\n" for episode in episodes)
        (run / "episodes" / f"step-{step:06d}.jsonl").write_text(text)
    return run
