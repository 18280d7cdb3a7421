"""Counterfactual regret minimisation in all its variants: known values of games, and distance from equilibrium."""

from __future__ import annotations

import numpy as np
import pytest

from selfplay_fast import solvers

KUHN_VALUE, LEDUC_VALUE = -1 / 18, -0.0856064


def same(a: solvers.TabularPolicy, b: solvers.TabularPolicy) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("variant", "iterations", "bound"),
    [("cfr", 20_000, 0.03), ("cfr+", 4_000, 1e-3), ("linear", 4_000, 0.03), ("discounted", 4_000, 5e-3)],
)
def test_leduc_poker(variant: str, iterations: int, bound: float) -> None:
    """Oracle: the value -0.0856 of Leduc poker, which every policy holds to within its own NashConv."""
    policy = solvers.cfr("leduc_poker", iterations, variant)
    distance = solvers.nash_conv("leduc_poker", policy)
    assert distance < bound
    assert solvers.exploitability("leduc_poker", policy) == distance / 2
    assert abs(solvers.policy_value("leduc_poker", policy)[0] - LEDUC_VALUE) < distance


@pytest.mark.parametrize("variant", solvers.DISCOUNTS)
def test_every_variant_finds_a_kuhn_equilibrium(variant: str) -> None:
    """Oracle: Kuhn 1950: the bluffs of the jack fix player 0's other bets; player 1 plays one way only; -1/18."""
    policy = solvers.cfr("kuhn_poker", 200_000, variant)
    bets = {key: float(row[1]) for key, row in policy.items()}
    assert 0 <= bets["0"] <= 1 / 3 + 0.01
    first = {"0pb": 0, "1": 0, "1pb": bets["0"] + 1 / 3, "2": 3 * bets["0"], "2pb": 1}
    second = {"0p": 1 / 3, "0b": 0, "1p": 0, "1b": 1 / 3, "2p": 1, "2b": 1}
    for key, bet in (first | second).items():
        assert bets[key] == pytest.approx(bet, abs=0.02), key
    assert solvers.policy_value("kuhn_poker", policy)[0] == pytest.approx(KUHN_VALUE, abs=1e-3)


@pytest.mark.parametrize(
    ("game", "sampling", "iterations", "bound"),
    [
        ("kuhn_poker", "external", 500_000, 0.01),
        ("kuhn_poker", "outcome", 1_000_000, 0.02),
        ("leduc_poker", "external", 400_000, 0.15),
        ("leduc_poker", "outcome", 2_000_000, 0.6),
        ("liars_dice(faces=3)", "external", 200_000, 0.05),
    ],
)
def test_sampled_iterations_converge(game: str, sampling: str, iterations: int, bound: float) -> None:
    """Oracle: NashConv falls below the bound (uniform play: 0.9, 4.7, 1.2) and the known value lies within it."""
    policy = solvers.mccfr(game, iterations, sampling, seed=1)
    distance = solvers.nash_conv(game, policy)
    assert distance < bound
    values = {"kuhn_poker": KUHN_VALUE, "leduc_poker": LEDUC_VALUE}
    if game in values:
        assert abs(solvers.policy_value(game, policy)[0] - values[game]) < distance


@pytest.mark.parametrize("sampling", ["external", "outcome"])
def test_sampled_iterations_follow_the_seed(sampling: str) -> None:
    """Oracle: equal policies for equal seeds, others for others."""
    runs = [solvers.mccfr("leduc_poker", 1000, sampling, seed=seed) for seed in (3, 3, 4, -1)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])
    assert same(solvers.mccfr("kuhn_poker", 0, sampling), solvers.TabularPolicy.uniform("kuhn_poker"))


def test_bad_arguments() -> None:
    """Oracle: the documented refusals, one line each."""
    with pytest.raises(
        ValueError, match=r"variant must be one of cfr, cfr\+, linear, discounted, not 'dcfr'"
    ):
        solvers.cfr("kuhn_poker", 1, "dcfr")
    with pytest.raises(ValueError, match="alpha must be a number"):
        solvers.cfr("kuhn_poker", 1, alpha=float("nan"))
    with pytest.raises(ValueError, match="gamma must be a number >= 0"):
        solvers.cfr("kuhn_poker", 1, gamma=float("inf"))
    with pytest.raises(ValueError, match=r"gamma must keep iterations\^gamma below"):
        solvers.cfr("kuhn_poker", 10_000, gamma=80.0)
    with pytest.raises(ValueError, match="max_nodes must be at least 1"):
        solvers.cfr("kuhn_poker", 1, max_nodes=-1)
    with pytest.raises(ValueError, match="sampling must be 'external' or 'outcome', not 'chance'"):
        solvers.mccfr("kuhn_poker", 1, "chance")  # type: ignore[arg-type]
    for exploration in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"exploration must be in \(0, 1\]"):
            solvers.mccfr("kuhn_poker", 1, exploration=exploration)
    for solve in (solvers.cfr, solvers.mccfr):
        with pytest.raises(ValueError, match="iterations must be at least 0"):
            solve("kuhn_poker", -1)
        with pytest.raises(ValueError, match="tic_tac_toe has perfect information; use optimal_policy"):
            solve("tic_tac_toe", 1)
    with pytest.raises(ValueError, match="kuhn_poker has hidden information; use policy_value"):
        solvers.outcomes("kuhn_poker", solvers.TabularPolicy.uniform("kuhn_poker"))
