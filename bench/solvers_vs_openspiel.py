"""Iterations and evaluations per second of CPU time of the solvers, against OpenSpiel's C++ ones called from Python.

First, for every game, the average policies of CFR and CFR+ after ``--check`` iterations are asserted equal to 1e-6,
NashConv of a random policy to 1e-9. Sampled iterations draw differently: for both sides NashConv on Kuhn poker is
asserted to fall below 0.05. One case runs CFR+ on Leduc poker to an exploitability below 1e-3; the number of iterations
is found beforehand, by OpenSpiel's NashConv for both. (After some 100 iterations regrets that are 0 but for rounding
let the two drift a little apart.)

Our call does many iterations, or one stack of policies. Solvers and policies of OpenSpiel are made before the clock
runs.

    python bench/solvers_vs_openspiel.py [--games kuhn_poker ...] [--repeats 5] [--check 100]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyspiel
from _measure import machine, measure, print_table, save

from selfplay_fast import _native, games, solvers

# name: iterations a run, ours and OpenSpiel's
GAMES = {"kuhn_poker": (300_000, 2_000), "leduc_poker": (3_000, 15), "liars_dice": (100, 2)}
VARIANTS = {"cfr": pyspiel.CFRSolver, "cfr+": pyspiel.CFRPlusSolver}
SAMPLERS = {
    "external": pyspiel.ExternalSamplingMCCFRSolver,
    "outcome": pyspiel.OutcomeSamplingMCCFRSolver,
}
EXPLOITABILITY = 1e-3
Run = Callable[[], float]


class Case(NamedTuple):
    name: str
    ours: Run
    peer: Run


class Pair:
    """One game on both sides, with OpenSpiel's key for every information state of ours."""

    def __init__(self, name: str) -> None:
        about = games.describe(name)
        self.name, self.there = name, pyspiel.load_game(name)
        self.form = _native.solver_form(about.name, about.options, solvers.MAX_NODES)
        self.keys: dict[str, str] = {}
        for state in self.form.information_states:
            there = self.there.new_initial_state()
            for action in state.history:
                there.apply_action(action)
            self.keys[state.key] = there.information_state_string()

    def random_policies(self, count: int) -> list[solvers.TabularPolicy]:
        rng = np.random.default_rng(0)
        policies = []
        for _ in range(count):
            rows = {}
            for state in self.form.information_states:
                rows[state.key] = np.zeros(self.form.num_actions)
                rows[state.key][state.legal_actions] = rng.dirichlet(np.ones(len(state.legal_actions)))
            policies.append(solvers.TabularPolicy(rows))
        return policies

    def policy_there(self, policy: solvers.TabularPolicy) -> pyspiel.TabularPolicy:
        states = self.form.information_states
        return pyspiel.TabularPolicy(
            {self.keys[s.key]: [(a, float(policy[s.key][a])) for a in s.legal_actions] for s in states}
        )

    def difference(self, policy: solvers.TabularPolicy, there: pyspiel.TabularPolicy) -> float:
        table = there.policy_table()
        return max(abs(policy[key][a] - p) for key, other in self.keys.items() for a, p in table[other])

    def table(self, policy: solvers.TabularPolicy) -> np.ndarray:
        return np.array([policy[state.key] for state in self.form.information_states])


def solved_there(solver: Any, iterations: int) -> pyspiel.TabularPolicy:
    for _ in range(iterations):
        solver.evaluate_and_update_policy()
    return solver.tabular_average_policy()


def assert_equal(pair: Pair, check: int) -> None:
    for variant, solver in VARIANTS.items():
        there = solved_there(solver(pair.there), check)
        difference = pair.difference(solvers.cfr(pair.name, check, variant), there)
        assert difference < 1e-6, (pair.name, variant, difference)
        print(
            f"{pair.name}, {variant}: averages after {check} iterations differ by {difference:.1e}",
            flush=True,
        )
    (policy,) = pair.random_policies(1)
    difference = abs(
        solvers.nash_conv(pair.name, policy) - pyspiel.nash_conv(pair.there, pair.policy_there(policy))
    )
    assert difference < 1e-9, (pair.name, difference)
    print(f"{pair.name}: NashConv of a random policy differs by {difference:.1e}", flush=True)


def iteration_cases(pair: Pair) -> Iterator[Case]:
    many, few = GAMES[pair.name]
    for variant, make in VARIANTS.items():
        theirs = make(pair.there)

        def ours(variant: str = variant) -> float:
            solvers.cfr(pair.name, many, variant)
            return float(many)

        def peer(theirs: Any = theirs) -> float:
            for _ in range(few):
                theirs.evaluate_and_update_policy()
            return float(few)

        yield Case(f"{pair.name}, {variant}", ours, peer)


def sampling_cases(pair: Pair) -> Iterator[Case]:
    for sampling, make in SAMPLERS.items():
        theirs = make(pair.there)

        def ours(sampling: str = sampling) -> float:
            solvers.mccfr(pair.name, 100_000, sampling)  # type: ignore[arg-type]
            return 100_000.0

        def peer(theirs: Any = theirs) -> float:
            for _ in range(5_000):
                theirs.run_iteration()
            return 5_000.0

        if pair.name == "kuhn_poker":
            for _ in range(100_000):
                theirs.run_iteration()
            assert pyspiel.nash_conv(pair.there, theirs.average_policy()) < 0.05, sampling
            assert solvers.nash_conv(pair.name, solvers.mccfr(pair.name, 100_000, sampling)) < 0.05, sampling  # type: ignore[arg-type]
        yield Case(f"{pair.name}, {sampling} sampling", ours, peer)


def nash_conv_cases(pair: Pair) -> Iterator[Case]:
    count = {"kuhn_poker": 100_000, "leduc_poker": 1_000, "liars_dice": 20}[pair.name]
    few = {"kuhn_poker": 200, "leduc_poker": 5, "liars_dice": 1}[pair.name]
    policies = pair.random_policies(few)
    stack = np.resize(
        np.stack([pair.table(policy) for policy in policies]), (count, *pair.table(policies[0]).shape)
    )
    there = [pair.policy_there(policy) for policy in policies]

    def ours() -> float:
        pair.form.nash_conv(stack)
        return float(count)

    def one_by_one() -> float:
        for policy in policies:
            solvers.nash_conv(pair.name, policy)
        return float(few)

    def peer() -> float:
        for policy in there:
            pyspiel.nash_conv(pair.there, policy)
        return float(few)

    yield Case(f"{pair.name}, NashConv, a stack of tables", ours, peer)
    yield Case(f"{pair.name}, NashConv, one policy a call", one_by_one, peer)


def solved_case(pair: Pair) -> Case:
    """CFR+ until the exploitability is below the bound, without the time of finding out when that is."""
    iterations, theirs = 0, pyspiel.CFRPlusSolver(pair.there)
    distances = [1.0]
    while max(distances) >= EXPLOITABILITY:
        iterations += 50
        both = (
            pair.policy_there(solvers.cfr(pair.name, iterations)),
            solved_there(theirs, 50),
        )
        distances = [pyspiel.nash_conv(pair.there, policy) / 2 for policy in both]

    def ours() -> float:
        solvers.cfr(pair.name, iterations)
        return 1.0

    def peer() -> float:
        solved_there(pyspiel.CFRPlusSolver(pair.there), iterations)
        return 1.0

    return Case(
        f"{pair.name}, cfr+ to exploitability {EXPLOITABILITY:g} ({iterations} iterations)", ours, peer
    )


def cases(names: Sequence[str], check: int) -> Iterator[Case]:
    for name in names:
        pair = Pair(name)
        assert_equal(pair, check)
        yield from iteration_cases(pair)
        if name != "liars_dice":
            yield from sampling_cases(pair)
        yield from nash_conv_cases(pair)
        if name == "leduc_poker":
            yield solved_case(pair)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", nargs="+", default=list(GAMES), choices=list(GAMES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--check", type=int, default=100, help="iterations whose results must be equal")
    settings = parser.parse_args()
    rows = []
    for case in cases(settings.games, settings.check):
        timing = measure({"ours": case.ours, "peer": case.peer}, settings.repeats, time.process_time)
        ours, peer = timing["ours"], timing["peer"]
        rows.append(
            {
                "case": case.name,
                "unit": "1/s",
                "ours": ours.rate,
                "peer": peer.rate,
                "ratio": ours.rate / peer.rate,
                "ours_spread": ours.spread,
                "peer_spread": peer.spread,
            }
        )
        print(f"{case.name}: {ours.rate:,.1f} / {peer.rate:,.2f} = {rows[-1]['ratio']:.1f}", flush=True)
    facts = {**machine(("open_spiel",)), "device": "cpu, one thread"}
    print()
    print_table(facts, rows, "1/s")
    save("solvers_vs_openspiel", facts, rows)


if __name__ == "__main__":
    main()
