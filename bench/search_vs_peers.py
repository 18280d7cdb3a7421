"""Simulations per second of tree search, on one thread, against OpenSpiel's (C++ and Python) and mctx with pgx.

Both sides search the same position with the same number of simulations, exploration constant and playouts. Before
anything is timed the mean visits of every action at the root are asserted equal within six standard errors; for
information-set search, where OpenSpiel's trees are of another kind, that both leave a dominated action alone in four of
five searches.

    python bench/search_vs_peers.py [--games tic_tac_toe ...] [--repeats 5]

Time is that of the process, so that others on the machine count little.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from _measure import machine, measure, print_table, save
from numpy.typing import NDArray

from selfplay_fast import games, search

SIMULATIONS = 1000
C = 2.0
PUCT_SIMULATIONS, PUCT_ROOTS, PUCT_C = 128, 512, 1.25
CHECKED = 200  # searches whose visits are compared
HISTORIES = {"tic_tac_toe": [4, 0], "connect_four": [3, 3, 2]}
FACING_A_BET = {"kuhn_poker": [2, 0, 1], "leduc_poker": [0, 4, 2]}  # a jack must fold, a king must not
DOMINATED = {"kuhn_poker": 1, "leduc_poker": 0}

Visits = NDArray[np.int64]


class Case(NamedTuple):
    name: str
    ours: Callable[[], float]
    peer: Callable[[], float]


def close(ours: Visits, theirs: Visits, what: str) -> None:
    """Mean visits [searches, actions] of both sides within six standard errors."""
    error = np.sqrt(ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs)) + 1e-9
    far = (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) / error).max()
    assert far < 6, f"{what}: visits differ by {far:.1f} standard errors"


def position(game: str, history: list[int]) -> games.Batch:
    chance = "explicit" if game in FACING_A_BET else "sampled"
    batch = games.make(game, 1, threads=1, chance=chance)
    for action in history:
        batch.step([action])
    return batch


def our_uct(game: str, roots: int) -> Callable[[], float]:
    batch, rows = games.make(game, 1), np.zeros(roots, np.int64)

    def run() -> float:
        search.mcts(batch, rows=rows, simulations=SIMULATIONS, c=C, solve=False, threads=1)
        return float(roots * SIMULATIONS)

    return run


def uct_cases(game: str) -> list[Case]:
    import pyspiel
    from open_spiel.python.algorithms import mcts

    peer = pyspiel.load_game(game)

    def bot(seed: int, simulations: int) -> Any:
        evaluator = pyspiel.RandomRolloutEvaluator(1, seed)
        return pyspiel.MCTSBot(peer, evaluator, C, simulations, 1000, False, seed, False)

    def visits(history: list[int], searches: int) -> Visits:
        state = peer.new_initial_state()
        for action in history:
            state.apply_action(action)
        counts = np.zeros((searches, peer.num_distinct_actions()), np.int64)
        for k in range(searches):  # it counts its evaluation of the root
            for child in bot(k, SIMULATIONS + 1).mcts_search(state).children:
                counts[k, child.action] = child.explore_count
        return counts

    history = HISTORIES[game]
    rows = np.zeros(CHECKED, np.int64)
    ours = search.mcts(position(game, history), rows=rows, simulations=SIMULATIONS, c=C, solve=False).visits
    close(ours, visits(history, CHECKED), game)

    def cpp() -> float:
        searches = 30
        state = peer.new_initial_state()
        for k in range(searches):
            bot(k, SIMULATIONS).mcts_search(state)
        return float(searches * SIMULATIONS)

    def python() -> float:
        random = np.random.RandomState(0)
        evaluator = mcts.RandomRolloutEvaluator(1, random)
        mcts.MCTSBot(peer, C, SIMULATIONS, evaluator, solve=False, random_state=random).mcts_search(
            peer.new_initial_state()
        )
        return float(SIMULATIONS)

    name = f"{game}, UCT, {SIMULATIONS} simulations"
    return [
        Case(f"{name}, against OpenSpiel C++", our_uct(game, 300), cpp),
        Case(f"{name}, against OpenSpiel Python", our_uct(game, 300), python),
    ]


def ismcts_cases(game: str) -> list[Case]:
    import pyspiel

    peer = pyspiel.load_game(game)
    batch = position(game, FACING_A_BET[game])

    def bot(seed: int) -> Any:
        evaluator = pyspiel.RandomRolloutEvaluator(1, seed)
        return pyspiel.ISMCTSBot(seed, evaluator, C, SIMULATIONS)

    def state_of(history: list[int]) -> Any:
        state = peer.new_initial_state()
        for action in history:
            state.apply_action(action)
        return state

    bad = DOMINATED[game]
    rows = np.zeros(CHECKED, np.int64)
    ours_bad = search.ismcts(batch, rows=rows, simulations=SIMULATIONS, c=C).action == bad
    theirs_bad = [bot(k).step(state_of(FACING_A_BET[game])) == bad for k in range(60)]
    assert max(ours_bad.mean(), np.mean(theirs_bad)) < 0.2, f"{game}: the dominated action is played"

    start = games.make(game, 300, seed=1)
    deals = [state_of(start.history(row)) for row in range(30)]

    def ours(observers: str) -> Callable[[], float]:
        def run() -> float:
            search.ismcts(start, simulations=SIMULATIONS, c=C, threads=1, observers=observers)  # type: ignore[arg-type]
            return float(len(start) * SIMULATIONS)

        return run

    def cpp() -> float:
        for k, state in enumerate(deals):
            bot(k).step(state)
        return float(len(deals) * SIMULATIONS)

    return [
        Case(
            f"{game}, {observers} observer IS-MCTS, {SIMULATIONS} simulations, against OpenSpiel C++",
            ours(observers),
            cpp,
        )
        for observers in ("single", "multiple")
    ]


def puct_cases() -> list[Case]:
    """Priors all alike, values 0 until the game is over; no peer where mctx and pgx are not installed."""
    batch = games.make("connect_four", PUCT_ROOTS)

    def ours() -> float:
        for _ in range(4):
            search.mcts(batch, evaluator="uniform", simulations=PUCT_SIMULATIONS, c=PUCT_C, threads=1)
        return float(4 * PUCT_ROOTS * PUCT_SIMULATIONS)

    name = f"connect_four, PUCT, {PUCT_SIMULATIONS} simulations, {PUCT_ROOTS} roots"
    if not all(importlib.util.find_spec(library) for library in ("mctx", "pgx")):
        print(f"{name}: mctx or pgx is not installed; ours alone {_rate(ours):,.0f} simulations/s")
        return []
    import jax
    import jax.numpy as jnp
    import mctx
    import pgx

    env = pgx.make("connect_four")
    start = jax.vmap(env.init)(jax.random.split(jax.random.PRNGKey(0), PUCT_ROOTS))

    def recurrent(_: Any, __: Any, action: Any, state: Any) -> Any:
        mover = state.current_player
        after = jax.vmap(env.step)(state, action)
        reward = jax.vmap(lambda rewards, player: rewards[player])(after.rewards, mover)
        logits = jnp.where(after.legal_action_mask, 0.0, jnp.finfo(jnp.float32).min)
        discount = jnp.where(after.terminated, 0.0, -1.0)
        output = mctx.RecurrentFnOutput(
            reward=reward, discount=discount, prior_logits=logits, value=jnp.zeros(PUCT_ROOTS)
        )
        return output, after

    @jax.jit
    def plan(key: Any, state: Any) -> Any:
        root = mctx.RootFnOutput(
            prior_logits=jnp.zeros((PUCT_ROOTS, 7)), value=jnp.zeros(PUCT_ROOTS), embedding=state
        )
        output = mctx.muzero_policy(
            None,
            key,
            root,
            recurrent,
            num_simulations=PUCT_SIMULATIONS,
            dirichlet_fraction=0.0,
            pb_c_init=PUCT_C,
            pb_c_base=1e9,
            qtransform=lambda tree, node: tree.qvalues(node),
        )
        return output.search_tree.summary().visit_counts

    theirs = np.asarray(plan(jax.random.PRNGKey(1), start))
    found = search.mcts(batch, evaluator="uniform", simulations=PUCT_SIMULATIONS, c=PUCT_C)
    assert (theirs.sum(axis=1) == found.visits.sum(axis=1)).all()
    close(np.sort(found.visits), np.sort(theirs), name)  # ties are broken in another way

    def peer() -> float:
        plan(jax.random.PRNGKey(2), start).block_until_ready()
        return float(PUCT_ROOTS * PUCT_SIMULATIONS)

    return [Case(f"{name}, against mctx and pgx", ours, peer)]


def _rate(run: Callable[[], float]) -> float:
    timing = measure({"ours": run}, 3, time.process_time)
    return timing["ours"].rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    known = [*HISTORIES, *FACING_A_BET, "puct"]
    parser.add_argument("--games", nargs="+", default=known, choices=known)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for game in options.games:
        cases = (
            uct_cases(game) if game in HISTORIES else puct_cases() if game == "puct" else ismcts_cases(game)
        )
        for case in cases:
            times = measure({"ours": case.ours, "peer": case.peer}, options.repeats, time.process_time)
            ours, peer = times["ours"], times["peer"]
            rows.append(
                {
                    "case": case.name,
                    "unit": "simulations/s",
                    "ours": ours.rate,
                    "ours_spread": ours.spread,
                    "peer": peer.rate,
                    "peer_spread": peer.spread,
                    "ratio": ours.rate / peer.rate,
                }
            )
    facts = {**machine(["numpy", "open_spiel", "mctx", "pgx"]), "device": "cpu, one thread"}
    print_table(facts, rows, "simulations/s")
    save("search_vs_peers", facts, rows)


if __name__ == "__main__":
    main()
