"""Steps per second of the engines, on one thread, against the libraries a Python user would take instead.

The choice of an action counts on both sides or on neither:

- *given*: recorded actions are stepped; after every step legal actions and returns are looked at. OpenSpiel replays the
  games our batch played, and its legal sets and returns are asserted equal to ours; so does pgx, where nature plays no
  part and it is installed, and EnvPool, the same.
- *random*: uniform legal actions. OpenSpiel and PettingZoo play as their users would; that they play the same game is
  checked by its mean length, within five standard errors of ours.
- *text*: everything an agent that reads and writes text needs: an observation, a reply, its parsing, the step.
  TextArena plays the moves of a batch of ours, and both are asserted to end at the same move.

The other rows compare ours with ours: two threads with one, drawing actions with stepping them, the search for an
action in a long reply with copying that reply.

    python bench/games_vs_peers.py [--games tic_tac_toe ...] [--repeats 7]
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import random
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from _measure import Timing, machine, measure, print_table, save

from selfplay_fast import games

GAMES = ("tic_tac_toe", "connect_four", "kuhn_poker", "leduc_poker", "hanabi")
SIZES = (1, 256, 4096)
# Its Leduc hold'em lets a player fold what costs nothing: another game. Neither has a Kuhn poker of one hand.
PETTING_ZOO = {"tic_tac_toe": "tictactoe_v3", "connect_four": "connect_four_v3"}
TEXT_ARENA = {"tic_tac_toe": "TicTacToe-v0", "connect_four": "ConnectFour-v0"}
ENV_POOL = {"tic_tac_toe": "TicTacToe-v1", "connect_four": "ConnectFour-v1"}
PEER_GAMES = 300


class Side(NamedTuple):
    """One thing timed: what it is, and a run that returns how many steps it made."""

    name: str
    run: Callable[[], float]


class Case(NamedTuple):
    name: str
    ours: Side
    peer: Side


def given(name: str, size: int, steps: int) -> Callable[[], float]:
    """Recorded actions stepped in a batch that plays on and on; work is the number of steps."""
    start = games.make(name, size, seed=1, threads=1, autoreset="same_step")
    twin, actions = start.copy(), []
    for step in range(steps):
        actions.append(twin.sample_actions(step))
        twin.step(actions[-1])

    def run() -> float:
        batch = start.copy()  # well under a hundredth of the time
        for chosen in actions:
            batch.step(chosen)
            batch.legal_actions, batch.returns  # noqa: B018
        assert batch.history(0) == twin.history(0)
        return float(size * steps)

    return run


def histories(name: str, count: int) -> tuple[games.Batch, list[list[int]]]:
    batch = games.make(name, count, seed=2, threads=1)
    batch.random_playouts()
    return batch, [batch.history(row) for row in range(count)]


def openspiel_given(name: str) -> Callable[[], float]:
    """OpenSpiel replays our games; equality is asserted here, once, and not timed."""
    import pyspiel

    batch, played = histories(name, PEER_GAMES)
    game = pyspiel.load_game(name)
    twin = games.make(name, 1, threads=1, chance="explicit")
    turns = 0
    for row, history in enumerate(played):
        state = game.new_initial_state()
        twin.reset()
        for action in history:
            if not state.is_chance_node():
                assert np.flatnonzero(twin.legal_actions[0]).tolist() == state.legal_actions()
                turns += 1
            state.apply_action(action)
            twin.step([action])
        assert state.returns() == batch.returns[row].tolist()

    def run() -> float:
        for history in played:
            state = game.new_initial_state()
            for action in history:
                state.apply_action(action)
                state.legal_actions()
                state.returns()
        return float(turns)

    return run


def pgx_given(name: str, size: int) -> Callable[[], float]:
    """pgx replays our games in one jitted, vectorised step; equality of the rewards is asserted once."""
    import jax
    import pgx

    env = pgx.make(name)
    batch, played = histories(name, size)
    longest = max(map(len, played))
    actions = np.zeros((longest, size), np.int32)
    for row, history in enumerate(played):
        actions[: len(history), row] = history
    init, step = jax.jit(jax.vmap(env.init)), jax.jit(jax.vmap(env.step))
    first = init(jax.random.split(jax.random.PRNGKey(0), size))
    seat = np.asarray(first.current_player)  # pgx draws who begins

    def play() -> Any:
        state, total = first, np.zeros((size, 2), np.float32)
        for row in actions:
            state = step(state, row)
            total = total + state.rewards
        return jax.block_until_ready(total)

    total = np.asarray(play())
    rows = np.arange(size)
    assert np.array_equal(np.stack([total[rows, seat], total[rows, 1 - seat]], 1), batch.returns)
    turns = float(sum(map(len, played)))

    def run() -> float:
        play()
        return turns

    return run


def envpool_given(name: str, size: int, steps: int) -> Callable[[], float]:
    """EnvPool on one thread; its masks, ends and rewards are asserted ours at every step, once and not timed."""
    # Its __init__ wants the files of all its simulators; of them only the board games are needed.
    sys.modules.setdefault("envpool.entry", types.ModuleType("envpool.entry"))
    import envpool
    import envpool.pgx.registration

    env = envpool.make(ENV_POOL[name], env_type="gymnasium", num_envs=size, num_threads=1, seed=1)
    _, info = env.reset()
    ours = games.make(name, size, seed=2, autoreset="next_step")
    rows, actions, turns = np.arange(size), [], 0
    for step in range(steps):
        going, fresh = ~ours.terminated, ours.terminated.copy()
        assert np.array_equal(info["legal_action_mask"][going], ours.legal_actions[going])
        mover, seat = ours.current_player.copy(), info["current_player"]
        actions.append(np.where(going, ours.sample_actions(step), 0).astype(np.int32))
        _, rewards, ended, _, info = env.step(actions[-1])
        ours.step(actions[-1])
        assert np.array_equal(ended, ours.terminated)
        ends = ended & ~fresh
        paid = rewards.reshape(size, 2)[rows, seat]  # to who moved last; it draws who begins
        assert np.array_equal(paid[ends], ours.returns[rows[ends], mover[ends]])
        turns += int(going.sum())

    def run() -> float:
        env.reset()  # takes about as long as a step
        for chosen in actions:
            env.step(chosen)
        return float(turns)

    return run


def random_ours(name: str, size: int, times: int) -> Callable[[], float]:
    batch = games.make(name, size, seed=3, threads=1)

    def run() -> float:
        steps = 0
        for _ in range(times):
            batch.reset()
            steps += batch.random_playouts()
        return float(steps)

    return run


def random_stepped(name: str, size: int, steps: int) -> Callable[[], float]:
    batch = games.make(name, size, seed=3, threads=1, autoreset="same_step")

    def run() -> float:
        for step in range(steps):
            batch.step(batch.sample_actions(step))
            batch.legal_actions, batch.returns  # noqa: B018
        return float(size * steps)

    return run


def random_openspiel(name: str, lengths: list[int]) -> Callable[[], float]:
    import pyspiel

    game = pyspiel.load_game(name)
    draws = random.Random(4)

    def run() -> float:
        turns = 0
        for _ in range(PEER_GAMES):
            state = game.new_initial_state()
            before = turns
            while not state.is_terminal():
                if state.is_chance_node():
                    outcomes, weights = zip(*state.chance_outcomes(), strict=True)
                    state.apply_action(draws.choices(outcomes, weights)[0])
                else:
                    state.apply_action(draws.choice(state.legal_actions()))
                    turns += 1
            state.returns()
            lengths.append(turns - before)
        return float(turns)

    return run


def random_petting_zoo(name: str, lengths: list[int]) -> Callable[[], float]:
    module = importlib.import_module(f"pettingzoo.classic.{PETTING_ZOO[name]}")
    env = module.env()
    draws = random.Random(5)

    def run() -> float:
        turns = 0
        for seed in range(30):
            env.reset(seed=seed + len(lengths))
            before = turns
            for _ in env.agent_iter():
                observation, _, ended, cut, info = env.last()
                if ended or cut:
                    env.step(None)
                    continue
                mask = observation["action_mask"] if "action_mask" in observation else info["action_mask"]
                env.step(draws.choice(np.flatnonzero(mask).tolist()))
                turns += 1
            lengths.append(turns - before)
        return float(turns)

    return run


def text_ours(name: str, size: int) -> Callable[[], float]:
    """Every row is read, answered in words and parsed; the words are those of drawn actions."""
    start = games.make(name, size, seed=6, threads=1, style="plain")

    def run() -> float:
        batch, turns, step = start.copy(), 0, 0
        while not batch.terminated.all():
            drawn = batch.sample_actions(step)
            rows = np.flatnonzero(~batch.terminated)
            texts = batch.observation(rows)
            replies = [batch.reply_text(row, action) for row, action in zip(rows, drawn[rows], strict=True)]
            actions, refusals = batch.parse(replies, rows)
            assert all(texts)
            assert not any(refusals)
            batch.step(actions, rows)
            turns, step = turns + len(rows), step + 1
        return float(turns)

    return run


def text_arena(name: str) -> Callable[[], float]:
    """TextArena with the same random play; the legal moves come from a batch of ours that plays along."""
    import textarena

    def run() -> float:
        turns = 0
        for seed in range(20):
            twin = games.make(name, 1, threads=1)
            env = textarena.make(TEXT_ARENA[name])
            env.reset(num_players=2, seed=seed)
            over = False
            while not over:
                env.get_observation()
                action = int(twin.sample_actions(turns)[0])
                over, _ = env.step(twin.action_text(0, action))
                twin.step([action])
                turns += 1
            assert twin.terminated[0]
        return float(turns)

    return run


def mean_length(name: str) -> tuple[float, float]:
    """Mean turns of a uniformly random game of ours, and their standard deviation."""
    batch = games.make(name, 20_000, seed=7)
    turns = np.zeros(20_000)
    step = 0
    while not batch.terminated.all():
        turns += ~batch.terminated
        batch.step(batch.sample_actions(step))
        step += 1
    return float(turns.mean()), float(turns.std())


def assert_same_length(name: str, peer: str, lengths: Sequence[int]) -> None:
    mean, deviation = mean_length(name)
    error = deviation / math.sqrt(len(lengths)) + 1e-9
    theirs = statistics.fmean(lengths)
    assert abs(theirs - mean) < 5 * error, f"{peer} {name}: games of {theirs:.2f} turns, ours {mean:.2f}"


def cases(names: Sequence[str], lengths: dict[tuple[str, str], list[int]]) -> Iterator[Case]:
    has = {
        package: importlib.util.find_spec(package) is not None for package in ("pgx", "pettingzoo", "envpool")
    }
    for name in names:
        spiel = Side("OpenSpiel", openspiel_given(name))
        for size in SIZES:
            ours = Side(f"N={size}", given(name, size, max(64, 4096 // size)))
            yield Case(f"{name}, actions given, N={size}", ours, spiel)
        if has["pgx"] and name in ("tic_tac_toe", "connect_four"):
            ours = Side("N=4096", given(name, 4096, 64))
            yield Case(f"{name}, actions given, N=4096", ours, Side("pgx", pgx_given(name, 4096)))
        if has["envpool"] and name in ENV_POOL:
            ours = Side("N=4096", given(name, 4096, 64))
            yield Case(f"{name}, actions given, N=4096", ours, Side("EnvPool", envpool_given(name, 4096, 64)))
        played = lengths[name, "OpenSpiel"] = []
        peer = Side("OpenSpiel", random_openspiel(name, played))
        yield Case(f"{name}, random, N=4096", Side("step", random_stepped(name, 4096, 64)), peer)
        yield Case(f"{name}, random_playouts", Side("playouts", random_ours(name, 4096, 8)), peer)
        if has["pettingzoo"] and name in PETTING_ZOO:
            played = []
            try:
                peer = Side("PettingZoo", random_petting_zoo(name, played))
            except ImportError as missing:
                print(f"PettingZoo's {name} left out: {missing}")
            else:
                lengths[name, "PettingZoo"] = played
                yield Case(f"{name}, random, N=4096", Side("step", random_stepped(name, 4096, 64)), peer)
        if name in TEXT_ARENA:
            peer = Side("TextArena", text_arena(name))
            yield Case(f"{name}, text, N=256", Side("text", text_ours(name, 256)), peer)
    yield from own_cases()


def own_cases() -> Iterator[Case]:
    """Ours against ours, or against the least that could be done."""
    many = games.make("tic_tac_toe", 65_536, seed=8, threads=1)
    pair = games.make("tic_tac_toe", 65_536, seed=8, threads=2)

    def stepping(batch: games.Batch) -> Callable[[], float]:
        def run() -> float:
            batch.reset()
            for step in range(5):
                batch.step(batch.sample_actions(step))
            return 5.0 * len(batch)

        return run

    yield Case("two threads against one, N=65,536", Side("2", stepping(pair)), Side("1", stepping(many)))

    drawn = games.make("tic_tac_toe", 4096, seed=9, threads=1)
    fixed = games.make("tic_tac_toe", 4096, seed=9, threads=1)
    moves = drawn.sample_actions(2)

    def draw() -> float:
        for seed in range(100):
            drawn.sample_actions(seed)
        return 100.0 * len(drawn)

    def step() -> float:
        for _ in range(100):
            fixed.reset()
            fixed.step(moves)
        return 100.0 * len(fixed)

    yield Case("drawing an action against reset and step", Side("sample_actions", draw), Side("step", step))

    batch = games.make("tic_tac_toe", 4096, seed=10, threads=1)
    texts = batch.observation()
    buffer, offsets = batch.observation_bytes()
    assert buffer.tobytes().decode() == "".join(texts)
    assert len(offsets) == len(texts) + 1

    def observe() -> float:
        for _ in range(10):
            batch.observation()
        return 10.0 * len(batch)

    def copy_texts() -> float:
        for _ in range(10):
            [text[1:] for text in texts]
        return 10.0 * len(batch)

    yield Case(
        "tic_tac_toe observations as strings", Side("observation", observe), Side("text[1:]", copy_texts)
    )

    thinking = "I look at the board and weigh every free cell in turn; the corner seems best to me. " * 24
    for kind, end in (("with an action", "\n\\boxed{4}"), ("without one", "")):
        replies = [(thinking[: 2000 - len(end)] + end)] * len(batch)
        actions, _ = batch.parse(replies)
        assert (actions == (4 if end else games.INVALID)).all()

        def parse(replies: list[str] = replies) -> float:
            batch.parse(replies)
            return float(len(replies))

        def copy(replies: list[str] = replies) -> float:
            [reply[1:] for reply in replies]
            return float(len(replies))

        yield Case(f"replies of 2,000 characters {kind}", Side("parse", parse), Side("text[1:]", copy))


def timed(case: Case, repeats: int) -> dict[str, Timing]:
    for side in (case.ours, case.peer):
        side.run()
    clock = time.perf_counter if "threads" in case.name else time.process_time
    return measure({"ours": case.ours.run, "peer": case.peer.run}, repeats, clock)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", nargs="+", default=GAMES, choices=GAMES)
    parser.add_argument("--repeats", type=int, default=7)
    settings = parser.parse_args()
    lengths: dict[tuple[str, str], list[int]] = {}
    rows = []
    for case in cases(settings.games, lengths):
        timing = timed(case, settings.repeats)
        ours, peer = timing["ours"], timing["peer"]
        rows.append(
            {
                "case": f"{case.name}, against {case.peer.name}",
                "unit": "1/s",
                "ours": ours.rate,
                "peer": peer.rate,
                "ratio": ours.rate / peer.rate,
                "ours_spread": ours.spread,
                "peer_spread": peer.spread,
            }
        )
        print(
            f"{rows[-1]['case']}: {ours.rate:,.0f} / {peer.rate:,.0f} = {rows[-1]['ratio']:.2f}", flush=True
        )
    for (name, peer_name), played in lengths.items():
        assert_same_length(name, peer_name, played)
    packages = ("open_spiel", "pettingzoo", "textarena", "pgx", "envpool")
    facts = {**machine(packages), "device": "cpu, one thread"}
    print()
    print_table(facts, rows, "1/s")
    save("games_vs_peers", facts, rows)


if __name__ == "__main__":
    main()
