"""Sequence-form solvers on Kuhn poker, against known numbers and OpenSpiel."""

from __future__ import annotations

import numpy as np
import pyspiel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_spiel.python import policy as spiel_policy
from open_spiel.python.algorithms import best_response as spiel_best_response
from open_spiel.python.algorithms import expected_game_score
from open_spiel.python.algorithms import exploitability as spiel_exploitability

from selfplay_fast import games, solvers

GAME = "kuhn_poker"
KEYS = ("0", "0pb", "1", "1pb", "2", "2pb", "0b", "0p", "1b", "1p", "2b", "2p")
BETS_AS_SECOND = {"0p": 1 / 3, "0b": 0, "1p": 0, "1b": 1 / 3, "2p": 1, "2b": 1}


def table(bets: dict[str, float]) -> dict[str, list[float]]:
    return {key: [1 - bet, bet] for key, bet in bets.items()}


def random_bets(seed: int) -> dict[str, float]:
    """Interior probabilities, with some 0 and 1 so that parts of the tree are never reached."""
    rng = np.random.default_rng(seed)
    bets = rng.random(len(KEYS))
    pure = rng.random(len(KEYS)) < rng.choice([0.0, 0.3, 1.0])
    return dict(zip(KEYS, np.where(pure, np.round(bets), bets).tolist(), strict=True))


def in_openspiel(bets: dict[str, float]) -> spiel_policy.TabularPolicy:
    policy = spiel_policy.TabularPolicy(pyspiel.load_game(GAME))
    for key, probabilities in table(bets).items():
        policy.policy_for_key(key)[:] = probabilities
    return policy


def test_information_states() -> None:
    """Oracle: OpenSpiel's twelve strings; the batch reads back the replies; texts tell the states apart."""
    states = solvers.information_states(GAME)
    assert [state.key for state in states] == list(KEYS)
    assert [state.player for state in states] == [0] * 6 + [1] * 6
    assert all(state.legal_actions == (0, 1) for state in states)
    assert len({state.observation for state in states}) == 12
    assert set(in_openspiel(random_bets(0)).state_lookup) == set(KEYS)
    for state in states:
        batch = games.make(GAME, batch_size=2, chance="explicit")
        card = int(state.key[0])
        deal = [card, (card + 1) % 3] if state.player == 0 else [(card + 1) % 3, card]
        for action in [*deal, *("pb".index(letter) for letter in state.key[1:])]:
            batch.step(np.array([action, action]))
        assert batch.observation() == [state.observation] * 2
        assert batch.parse(list(state.reply_texts))[0].tolist() == list(state.legal_actions)


def test_styles_differ_in_text_only() -> None:
    """Oracle: the styles of the contract."""
    spiral, plain, brief, mars = (solvers.information_states(GAME, style) for style in games.STYLES)
    assert all([s.key for s in spiral] == [s.key for s in other] for other in (plain, brief, mars))
    assert len({state.observation for state in brief}) == 12
    assert brief[3].observation == "kuhn_poker player 0 card Q actions check bet legal [fold] [call]"
    assert [state.reply_texts for state in brief] == [state.reply_texts for state in spiral]
    assert plain[0].reply_texts != spiral[0].reply_texts
    assert "\\boxed{" in spiral[0].reply_texts[0]
    assert mars[0].reply_texts == ("<answer>check</answer>", "<answer>bet</answer>")


def test_uniform_policy() -> None:
    """Oracle: NashConv 11/12 and value 1/8, worked out by hand and known from OpenSpiel."""
    uniform = solvers.TabularPolicy.uniform(GAME)
    assert solvers.nash_conv(GAME, uniform) == pytest.approx(11 / 12, abs=1e-12)
    assert solvers.policy_value(GAME, uniform) == pytest.approx([1 / 8, -1 / 8], abs=1e-12)


def test_stacks_of_policies() -> None:
    """Oracle: the same policies one by one."""
    policies = [table(random_bets(seed)) for seed in range(5)]
    assert solvers.nash_convs(GAME, policies).tolist() == [solvers.nash_conv(GAME, p) for p in policies]


@given(st.floats(0, 1 / 3))
def test_equilibria(alpha: float) -> None:
    """Oracle: Kuhn's family of equilibria (alpha: how often the jack bluffs); its value is -1/18."""
    first = {"0": alpha, "0pb": 0, "1": 0, "1pb": alpha + 1 / 3, "2": 3 * alpha, "2pb": 1}
    policy = table(first | BETS_AS_SECOND)
    assert solvers.nash_conv(GAME, policy) == pytest.approx(0, abs=1e-12)
    assert solvers.policy_value(GAME, policy) == pytest.approx([-1 / 18, 1 / 18], abs=1e-12)


@pytest.mark.parametrize("seed", range(200))
def test_random_policies_against_openspiel(seed: int) -> None:
    """Oracle: OpenSpiel's nash_conv, best_response and expected_game_score."""
    bets = random_bets(seed)
    game, peer = pyspiel.load_game(GAME), in_openspiel(bets)
    assert solvers.nash_conv(GAME, table(bets)) == pytest.approx(
        spiel_exploitability.nash_conv(game, peer), abs=1e-12
    )
    values = expected_game_score.policy_value(game.new_initial_state(), [peer, peer])
    assert solvers.policy_value(GAME, table(bets)) == pytest.approx(values, abs=1e-12)
    for player in range(2):
        response, value = solvers.best_response(GAME, table(bets), player)
        expected = spiel_best_response.BestResponsePolicy(game, player, peer).value(game.new_initial_state())
        assert value == pytest.approx(expected, abs=1e-12)
        assert solvers.policy_value(GAME, table(bets) | dict(response))[player] == pytest.approx(
            value, abs=1e-12
        )


@pytest.mark.parametrize("options", ["rounds=2", "rounds=2, rules=textarena", "rounds=3"])
def test_matches(options: str) -> None:
    """Oracle: a best response earns its value, and no random strategy more; textarena's last hand decides alone."""
    game = f"{GAME}({options})"
    uniform = solvers.TabularPolicy.uniform(game)
    rng = np.random.default_rng(0)
    for player in range(2):
        response, value = solvers.best_response(game, uniform, player)
        assert all(sorted(row) == [0, 1] for row in response.values())
        assert solvers.policy_value(game, {**uniform, **response})[player] == pytest.approx(value, abs=1e-12)
        for _ in range(5):
            other = {key: rng.dirichlet([0.3, 0.3]) for key in response}
            assert solvers.policy_value(game, {**uniform, **other})[player] <= value + 1e-12
    assert solvers.nash_conv(game, solvers.cfr(game, 300)) < 0.02


@pytest.mark.parametrize(
    ("variant", "peer"), [("cfr", pyspiel.CFRSolver), ("cfr+", pyspiel.CFRPlusSolver)], ids=["cfr", "cfr+"]
)
def test_cfr_iterates_are_openspiels(variant: str, peer: type) -> None:
    """Oracle: OpenSpiel's average policy after 1, 2, 10 and 100 iterations."""
    game = pyspiel.load_game(GAME)
    solver, done = peer(game), 0
    for iterations in (1, 2, 10, 100):
        while done < iterations:
            solver.evaluate_and_update_policy()
            done += 1
        expected, ours = (
            solver.tabular_average_policy().policy_table(),
            solvers.cfr(GAME, iterations, variant),
        )
        assert set(expected) == set(ours)
        for key, probabilities in expected.items():
            assert ours[key] == pytest.approx([p for _, p in probabilities], abs=1e-9), key


def test_cfr_plus_converges() -> None:
    """Oracle: NashConv itself, and the game's value -1/18."""
    policy = solvers.cfr(GAME, 1000)
    assert solvers.nash_conv(GAME, policy) < 1e-3
    assert solvers.policy_value(GAME, policy)[0] == pytest.approx(-1 / 18, abs=1e-3)
    assert solvers.nash_conv(GAME, solvers.cfr(GAME, 20_000, "cfr")) < 1e-3
    assert solvers.cfr(GAME, 0)["0"].tolist() == [0.5, 0.5]


def test_is_enumerable() -> None:
    """Oracle: 12 information states are few; a match of five rounds has millions of histories."""
    assert solvers.is_enumerable(GAME)
    assert not solvers.is_enumerable(GAME, max_information_states=11)
    assert not solvers.is_enumerable(f"{GAME}(rounds=5)")
    assert solvers.is_enumerable("leduc_poker")
    assert not solvers.is_enumerable("hanabi(colors=1, ranks=2, hand=1)"), "its keys forget"
    with pytest.raises(ValueError, match="unknown game"):
        solvers.is_enumerable("hanaby")


def test_policies_are_copies() -> None:
    """Oracle: the documented behaviour of TabularPolicy."""
    row = np.array([0.5, 0.5])
    policy = solvers.TabularPolicy({"a": row})
    row[0] = 9
    assert policy["a"].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="read-only"):
        policy["a"][0] = 1
    assert dict(policy) == {"a": policy["a"]}
    assert len(policy) == 1
    with pytest.raises(ValueError, match="'b' must have one dimension"):
        solvers.TabularPolicy({"b": [[1.0]]})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (None, "no probabilities for information state '1pb'"),
        ([1.0], r"'1pb' must have the shape \(2,\), not \(1,\)"),
        ([0.5, 0.6], "'1pb' must sum to 1"),
        ([-0.5, 1.5], "'1pb' must be numbers >= 0"),
        ([float("nan"), 1.0], "'1pb' must be numbers >= 0"),
    ],
)
def test_bad_policies(row: list[float] | None, message: str) -> None:
    """Oracle: the documented refusals, from every function that takes a policy."""
    policy = dict(solvers.TabularPolicy.uniform(GAME)) | {"1pb": row}
    if row is None:
        del policy["1pb"]
    for function, arguments in (
        (solvers.nash_conv, ()),
        (solvers.policy_value, ()),
        (solvers.best_response, (0,)),
    ):
        with pytest.raises(ValueError, match=message):
            function(GAME, policy, *arguments)


def test_bad_arguments() -> None:
    """Oracle: the documented refusals."""
    uniform = solvers.TabularPolicy.uniform(GAME)
    for player in (-1, 2):
        with pytest.raises(ValueError, match="player must be from 0 to 1"):
            solvers.best_response(GAME, uniform, player)
    with pytest.raises(ValueError, match="more than max_nodes = 10 nodes"):
        solvers.nash_conv(GAME, uniform, max_nodes=10)
    with pytest.raises(ValueError, match="not a two-player zero-sum game of perfect information"):
        solvers.minimax(GAME)
    with pytest.raises(ValueError, match="kuhn_pokr"):
        solvers.nash_conv("kuhn_pokr", uniform)
