"""Gumbel search: against mctx's numbers and the properties it is made for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from selfplay_fast import games, search

MCTX = json.loads((Path(__file__).parent / "vectors" / "mctx.json").read_text())


@pytest.mark.parametrize(
    "case", MCTX["schedules"], ids=lambda case: f"{case['actions']}-{case['simulations']}"
)
def test_sequential_halving_is_mctxs(case: dict[str, object]) -> None:
    """Oracle: mctx's schedules, committed with the script that wrote them."""
    assert search.considered_visits(case["actions"], case["simulations"]) == case["visits"]  # type: ignore[arg-type]


def test_completed_values_are_mctxs() -> None:
    """Oracle: mctx's `qtransform_completed_by_mix_value` on the same tables, to single precision."""
    for table in MCTX["completed"]:
        ours = search.completed_values(table["priors"], table["visits"], table["values"], table["own_value"])
        np.testing.assert_allclose(ours, table["completed"], rtol=2e-4, atol=2e-4)


def test_the_root_follows_the_schedule() -> None:
    """Oracle: the schedule, which fixes the sorted visits of the root whatever the values are."""
    found = search.mcts(games.make("connect_four", 16), rule="gumbel", simulations=64, considered=4, seed=2)
    schedule = search.considered_visits(4, 64)
    counts = np.zeros(7, int)
    for visits in schedule:
        counts[np.flatnonzero(np.sort(counts) >= 0)[counts == visits][:1]] += 1
    for visits in found.visits:
        assert sorted(visits) == sorted(counts)
    assert (np.take_along_axis(found.visits, found.action[:, None], 1)[:, 0] == counts.max()).all()


def test_actions_are_drawn_from_the_policy() -> None:
    """Oracle: the Gumbel trick. One simulation plays the highest of Gumbel + log prior: a draw from the priors."""
    priors = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.15, 0.1])
    batch = games.make("connect_four", 3000)
    trees = search.Search(
        batch,
        evaluator=lambda leaves: (np.tile(priors, (len(leaves), 1)), np.zeros(len(leaves))),
        rule="gumbel",
        simulations=1,
        seed=1,
    )
    counts = np.bincount(trees.run().results.action, minlength=7)
    assert (np.abs(counts - 3000 * priors) < 5 * np.sqrt(3000 * priors)).all()
    np.testing.assert_allclose(trees.policy.sum(axis=1), 1, rtol=1e-5)


def test_the_policy_improves() -> None:
    """Oracle: the rules. Where a win in one stands, the policy to learn from puts more on it than the prior did."""
    batch = games.make("connect_four", 1)
    for action in (3, 0, 3, 0, 3, 1):
        batch.step([action])
    trees = search.Search(batch, evaluator="uniform", rule="gumbel", simulations=64, seed=1).run()
    assert trees.results.action[0] == 3
    assert trees.policy[0, 3] > 0.5
