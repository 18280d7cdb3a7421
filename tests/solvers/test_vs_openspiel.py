"""Sequence-form solvers against OpenSpiel's, on every game with hidden information that both can hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyspiel
import pytest
from open_spiel.python.algorithms import discounted_cfr

from selfplay_fast import _native, games, solvers

GAMES = {
    "kuhn_poker": "kuhn_poker",
    "leduc_poker": "leduc_poker",
    "liars_dice(faces=3)": "liars_dice(dice_sides=3)",
}


@dataclass(frozen=True)
class Peer:
    """OpenSpiel's game and, for every information state of ours, its key there."""

    game: pyspiel.Game
    states: list[_native.InformationState]
    keys: dict[str, str]

    def table(self, policy: solvers.TabularPolicy) -> dict[str, list[tuple[int, float]]]:
        return {
            self.keys[s.key]: [(a, float(policy[s.key][a])) for a in s.legal_actions] for s in self.states
        }

    def largest_difference(
        self, policy: solvers.TabularPolicy, table: dict[str, list[tuple[int, float]]]
    ) -> float:
        return max(
            abs(p - policy[key][a]) for key, there in self.keys.items() for a, p in table.get(there, [])
        )


@lru_cache
def peer_of(name: str) -> Peer:
    game, keys = pyspiel.load_game(GAMES[name]), {}
    about = games.describe(name)
    form = _native.solver_form(about.name, about.options, 10**6)
    for state in form.information_states:
        there = game.new_initial_state()
        for action in state.history:
            there.apply_action(action)
        assert (there.current_player(), there.legal_actions()) == (state.player, state.legal_actions)
        keys[state.key] = there.information_state_string()
    assert len(set(keys.values())) == len(keys)
    return Peer(game, form.information_states, keys)


def random_policy(name: str, seed: int) -> solvers.TabularPolicy:
    """Some rows mixed, some pure, so that parts of the tree are never reached."""
    rng = np.random.default_rng(seed)
    rows = {}
    for state in peer_of(name).states:
        p = rng.dirichlet(np.full(len(state.legal_actions), rng.choice([0.02, 1.0])))
        rows[state.key] = np.zeros(solvers.num_actions(name))
        rows[state.key][state.legal_actions] = np.where(p.max() > 0.99, p == p.max(), p)
    return solvers.TabularPolicy(rows)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GAMES)
def test_values_of_random_policies(name: str, seed: int) -> None:
    """Oracle: OpenSpiel's C++ NashConv, best responses and expected returns, to 1e-9."""
    peer, policy = peer_of(name), random_policy(name, seed)
    table = peer.table(policy)
    there = pyspiel.TabularPolicy(table)
    assert solvers.nash_conv(name, policy) == pytest.approx(pyspiel.nash_conv(peer.game, there), abs=1e-9)
    start = peer.game.new_initial_state()
    assert solvers.policy_value(name, policy) == pytest.approx(
        pyspiel.expected_returns(start, there, -1, True), abs=1e-9
    )
    for player in range(2):
        expected = pyspiel.TabularBestResponse(peer.game, player, table).value(start.history_str())
        assert solvers.best_response(name, policy, player)[1] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", GAMES)
def test_head_to_head(name: str) -> None:
    """Oracle: OpenSpiel's expected returns of two policies in both seatings."""
    peer = peer_of(name)
    ours = [random_policy(name, seed) for seed in (0, 1)]
    first, second = (pyspiel.TabularPolicy(peer.table(policy)) for policy in ours)
    start = peer.game.new_initial_state()
    as_first = pyspiel.expected_returns(start, [first, second], -1, True)[0]
    as_second = pyspiel.expected_returns(start, [second, first], -1, True)[1]
    result = solvers.head_to_head(name, *ours)
    assert result.by_seat == pytest.approx((as_first, as_second), abs=1e-9)
    assert result.mean == pytest.approx((as_first + as_second) / 2, abs=1e-9)


@pytest.mark.parametrize(
    ("variant", "solver"), [("cfr", pyspiel.CFRSolver), ("cfr+", pyspiel.CFRPlusSolver)], ids=["cfr", "cfr+"]
)
@pytest.mark.parametrize("name", GAMES)
def test_cfr_averages(name: str, variant: str, solver: type) -> None:
    """Oracle: the average policy of OpenSpiel's C++ solver after 100 iterations, to 1e-6."""
    peer = peer_of(name)
    theirs = solver(peer.game)
    for _ in range(100):
        theirs.evaluate_and_update_policy()
    table = theirs.tabular_average_policy().policy_table()
    assert peer.largest_difference(solvers.cfr(name, 100, variant), table) < 1e-6


@pytest.mark.parametrize(
    ("name", "iterations"), [("kuhn_poker", 100), ("leduc_poker", 5)], ids=["kuhn_poker", "leduc_poker"]
)
@pytest.mark.parametrize(
    ("variant", "numbers"),
    [("linear", {}), ("discounted", {}), ("discounted", {"alpha": 1.7, "beta": 0.3, "gamma": 2.5})],
    ids=["linear", "discounted", "others"],
)
def test_discounted_averages(name: str, iterations: int, variant: str, numbers: dict[str, float]) -> None:
    """Oracle: the average policy of OpenSpiel's Python discounted_cfr, to 1e-6.

    At some numbers (alpha 2, beta 0.5) regrets of Kuhn poker are 0 but for rounding, and so is the strategy then.
    """
    peer = peer_of(name)
    solver = discounted_cfr.LCFRSolver if variant == "linear" else discounted_cfr.DCFRSolver
    theirs = solver(peer.game, **numbers)
    for _ in range(iterations):
        theirs.evaluate_and_update_policy()
    average = theirs.average_policy()
    table = {key: list(enumerate(average.policy_for_key(key))) for key in peer.keys.values()}
    assert peer.largest_difference(solvers.cfr(name, iterations, variant, **numbers), table) < 1e-6
