"""Writes mctx.json: tables of completed values and schedules of sequential halving, as mctx computes them.

python tests/search/vectors/write_mctx.py  # needs mctx and jax
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import mctx
import numpy as np
from mctx._src.seq_halving import get_sequence_of_considered_visits

SCHEDULES = [(1, 5), (2, 7), (3, 16), (4, 16), (7, 32), (7, 128), (9, 50), (16, 16), (16, 200), (25, 3)]


def tables(count: int) -> list[dict[str, object]]:
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        actions = int(random.integers(2, 12))
        logits = random.normal(size=actions).astype(np.float32) * 2
        priors = np.exp(logits) / np.exp(logits).sum()
        visits = random.integers(0, 9, size=actions) * (random.random(actions) < 0.7)
        values = np.where(visits > 0, random.uniform(-1, 1, size=actions), 0).astype(np.float32)
        own = np.float32(random.uniform(-1, 1))
        completed = mctx.qtransform_completed_by_mix_value(
            SimpleNamespace(
                qvalues=lambda index, q=values: jnp.asarray(q),
                children_visits=jnp.asarray(visits[None]),
                raw_values=jnp.asarray([own]),
                children_prior_logits=jnp.asarray(np.log(priors)[None]),
            ),
            0,
        )
        found.append(
            {
                "priors": priors.tolist(),
                "visits": visits.tolist(),
                "values": values.tolist(),
                "own_value": float(own),
                "completed": np.asarray(completed, np.float64).tolist(),
            }
        )
    return found


if __name__ == "__main__":
    schedules = [
        {"actions": a, "simulations": n, "visits": list(map(int, get_sequence_of_considered_visits(a, n)))}
        for a, n in SCHEDULES
    ]
    content = {"mctx": version("mctx"), "schedules": schedules, "completed": tables(40)}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    Path(__file__).with_name("mctx.json").write_text(f"{{\n{lines}\n}}\n")
