"""Round robins and ratings; oracles are exact values of the policies that play, and known strengths."""

from itertools import combinations

import numpy as np
import pytest

from selfplay_fast import solvers
from selfplay_fast.evaluate import arena, bradley_terry
from selfplay_fast.evaluate.arena import ELO, Z95
from selfplay_fast.policies import RandomPolicy, ScriptedPolicy, TabularPlayer

GAME = "kuhn_poker"


def seated(first: solvers.TabularPolicy, second: solvers.TabularPolicy) -> float:
    """What the first wins of the second, from the exact value of the mixed table."""
    states = solvers.information_states(GAME)
    mixed = {state.key: (first, second)[state.player][state.key] for state in states}
    return float(solvers.policy_value(GAME, mixed)[0])


def test_returns_are_exact_values() -> None:
    """Oracle: policy_value of the two tables in both seatings, within five standard errors; zero-sum to the digit."""
    tables = {
        "uniform": solvers.TabularPolicy.uniform(GAME),
        "equilibrium": solvers.cfr(GAME, 1000),
        "bets": solvers.TabularPolicy({s.key: [0.0, 1.0] for s in solvers.information_states(GAME)}),
    }
    result = arena({k: TabularPlayer(t) for k, t in tables.items()}, GAME, episodes=1500, seed=3)
    assert result.players == tuple(tables)
    for (i, mine), (j, other) in combinations(enumerate(tables.values()), 2):
        exact = (seated(mine, other) - seated(other, mine)) / 2
        assert 0 < result.errors[i, j] < 0.06
        assert abs(result.returns[i, j] - exact) < 5 * result.errors[i, j]
        assert result.returns[i, j] == -result.returns[j, i]
        assert result.points[i, j] + result.points[j, i] == 2 * 1500
    assert np.isnan(np.diag(result.returns)).all()


def test_a_player_against_its_double() -> None:
    """Oracle: every deal is played from both seats with the same draws, so what one wins the other wins: exactly
    even."""
    result = arena({"a": RandomPolicy(), "b": RandomPolicy()}, GAME, episodes=40, seed=0)
    assert result.returns[0, 1] == result.errors[0, 1] == 0
    assert result.points[0, 1] == 40
    assert [standing.rating for standing in result.ranking] == [0, 0]
    assert all((s.wins, s.losses) == (40 - s.draws // 2,) * 2 for s in result.ranking)


def test_ranking_of_tic_tac_toe() -> None:
    """Oracle: perfect play never loses, talking nonsense always does; counts are those of a full round robin."""
    players = {
        "nonsense": ScriptedPolicy(lambda ask, sample: "nonsense"),
        "random": RandomPolicy(),
        "perfect": TabularPlayer(solvers.optimal_policy("tic_tac_toe")),
    }
    result = arena(players, "tic_tac_toe", episodes=30, seed=1)
    assert [standing.player for standing in result.ranking] == ["perfect", "random", "nonsense"]
    perfect, random, nonsense = result.ranking
    assert perfect.losses == 0
    assert perfect.wins + perfect.draws == 2 * 2 * 30
    assert (nonsense.losses, nonsense.legal_rate, nonsense.mean_return) == (120, 0.0, -1.0)
    assert perfect.legal_rate == random.legal_rate == 1.0
    assert perfect.low < perfect.rating < perfect.high
    assert sum(standing.rating for standing in result.ranking) == pytest.approx(0, abs=1e-6)


def test_games_follow_the_seed() -> None:
    """Oracle: equal results for equal seeds, others for others."""
    players = {"a": RandomPolicy(), "b": TabularPlayer(solvers.cfr(GAME, 100))}
    runs = [arena(players, GAME, episodes=50, seed=seed) for seed in (5, 5, 6)]
    assert runs[0].ranking == runs[1].ranking
    assert runs[0].returns[0, 1] != runs[2].returns[0, 1]


def test_ratings_maximise_the_likelihood() -> None:
    """Oracle: scipy's minimiser on the written-out negative log-likelihood, and its numerical curvature."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    points = rng.integers(0, 30, (5, 5)).astype(float)
    np.fill_diagonal(points, 0)
    with_prior = points + 0.5 * (1 - np.eye(5))

    def loss(theta: np.ndarray) -> float:
        return float((with_prior * np.log1p(np.exp(theta[None, :] - theta[:, None]))).sum())

    found = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9}).x
    ratings, errors = bradley_terry(points)
    assert ratings == pytest.approx(ELO * (found - found.mean()), abs=1e-3)
    step = 1e-4 * np.eye(5)
    hessian = [
        [sum(s * t * loss(found + s * a + t * b) for s in (1, -1) for t in (1, -1)) / 4e-8 for b in step]
        for a in step
    ]
    assert errors == pytest.approx(ELO * np.sqrt(np.diag(np.linalg.pinv(hessian, rcond=1e-4))), rel=1e-3)


def test_two_players_by_hand() -> None:
    """Oracle: 75 of 100 games and the drawn one of the prior: the log of the odds, halved to each side."""
    ratings, _ = bradley_terry(np.array([[0.0, 75.0], [25.0, 0.0]]))
    assert ratings[0] - ratings[1] == pytest.approx(400 * np.log10(75.5 / 25.5))
    assert ratings.sum() == pytest.approx(0, abs=1e-9)
    lopsided, errors = bradley_terry(np.array([[0.0, 1000.0], [0.0, 0.0]]))
    assert lopsided[0] - lopsided[1] == pytest.approx(400 * np.log10(1000.5 / 0.5))
    assert np.isfinite(errors).all()


def test_intervals_cover_the_truth() -> None:
    """Oracle: known strengths. Of 400 simulated round robins, 95 % of the intervals hold the true rating, within
    three standard errors of that share (each player's apart: 3 * sqrt(0.95 * 0.05 / 400) = 3.3 %)."""
    rng = np.random.default_rng(1)
    truth = np.array([-250.0, -50.0, 100.0, 200.0])
    odds = 1 / (1 + 10 ** ((truth[None, :] - truth[:, None]) / 400))
    covered = np.zeros(4)
    for _ in range(400):
        upper = np.triu(rng.binomial(60, odds), 1)
        ratings, errors = bradley_terry((upper + np.tril((60 - upper.T), -1)).astype(float))
        covered += np.abs(ratings - truth) < Z95 * errors
    assert np.abs(covered / 400 - 0.95).max() < 0.033


def test_wrong_input() -> None:
    """Oracle: what an arena needs."""
    two = {"a": RandomPolicy(), "b": RandomPolicy()}
    with pytest.raises(ValueError, match="players: an arena needs two at least, got 1"):
        arena({"a": RandomPolicy()}, GAME, episodes=1, seed=0)
    with pytest.raises(ValueError, match="episodes: must be at least 1, got 0"):
        arena(two, GAME, episodes=0, seed=0)
    with pytest.raises(ValueError, match=r"an arena needs two players, 'hanabi\(players=3\)' has 3"):
        arena(two, "hanabi(players=3)", episodes=1, seed=0)
    groups = np.zeros((4, 4))
    groups[0, 1] = groups[2, 3] = 5
    with pytest.raises(ValueError, match="never met"):
        bradley_terry(groups)
