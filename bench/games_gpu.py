"""Steps per second of the engines on a GPU, with legal masks and returns looked at after every step.

Recorded actions of whole games are stepped; a step in a game that is over does not count. Both peers play the same
actions on the same machine: our batch on the host with all cores, and pgx on the same GPU where it is installed and
numbers the actions as we do. Everything is asserted equal to the host's batch on fewer games before it is timed; our
kernels are timed by CUDA events, and medians are reported.

    python bench/games_gpu.py [--games tic_tac_toe ...] [--size 1048576] [--repeats 7]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _measure import Timing, machine, print_table, save

from selfplay_fast import games
from selfplay_fast.cuda_batch import CudaBatch, open_device

GAMES = ("tic_tac_toe", "connect_four", "kuhn_poker")
PGX_GAMES = ("tic_tac_toe", "connect_four")
FEWER = 4096


def recorded(name: str, size: int) -> tuple[CudaBatch, list[torch.Tensor], float]:
    """New games, actions int32[B] that play them to their ends, and how many of these are moves."""
    start = games.make(name, size, seed=1, device="cuda")
    twin, actions, moves = start.copy(), [], 0
    while not bool(twin.terminated.all()):
        drawn = twin.sample_actions(len(actions))
        moves += int((drawn >= 0).sum())
        actions.append(drawn.int())
        twin.step(drawn)
    return start, actions, float(moves)


def assert_equal_to_the_host(name: str) -> None:
    gpu, actions, _ = recorded(name, FEWER)
    host = games.make(name, FEWER, seed=1)
    for step, chosen in enumerate(actions):
        assert np.array_equal(host.sample_actions(step), chosen.cpu().numpy())
        host.step(chosen.cpu().numpy())
        gpu.step(chosen)
        for column in ("current_player", "legal_actions", "terminated", "returns"):
            assert np.array_equal(getattr(gpu, column).cpu().numpy(), getattr(host, column)), (name, column)
    assert gpu.cpu().state() == host.state()


def by_events(play: Callable[[], object]) -> float:
    """Seconds of the GPU's time line from before the first launch to after the last kernel."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    play()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def by_clock(play: Callable[[], object]) -> float:
    began = time.perf_counter()
    play()
    return time.perf_counter() - began


def stepped(batch: games.Batch | CudaBatch, actions: list[Any], **arguments: bool) -> games.Batch | CudaBatch:
    for chosen in actions:
        batch.step(chosen, **arguments)
        batch.legal_actions, batch.returns  # noqa: B018
    return batch


def pgx_play(name: str, actions: list[torch.Tensor], returns: np.ndarray) -> Callable[[], Any]:
    """pgx's step, jitted and vectorised, on the same actions; its rewards are asserted ours."""
    import jax
    import pgx

    env = pgx.make(name)
    size = len(actions[0])
    step = jax.jit(jax.vmap(env.step))
    first = jax.jit(jax.vmap(env.init))(jax.random.split(jax.random.PRNGKey(0), size))
    moves = [jax.device_put(chosen.clamp(min=0).cpu().numpy()) for chosen in actions]
    assert moves[0].devices().pop().platform == "gpu", "jax has no GPU"

    def play() -> Any:
        state, total = first, 0.0
        for chosen in moves:
            state = step(state, chosen)
            total = total + state.rewards
        return jax.block_until_ready((total, state.legal_action_mask))[0]

    total, seat, rows = np.asarray(play()), np.asarray(first.current_player), np.arange(size)
    assert np.array_equal(np.stack([total[rows, seat], total[rows, 1 - seat]], 1), returns)
    return play


def rows_of(name: str, size: int, repeats: int) -> list[dict[str, Any]]:
    assert_equal_to_the_host(name)
    start, actions, moves = recorded(name, size)
    host_start, host_actions = start.cpu(), [chosen.cpu().numpy() for chosen in actions]

    def ours(**arguments: bool) -> float:
        batch = start.copy()
        return by_events(lambda: stepped(batch, actions, **arguments))

    def host() -> float:
        batch = host_start.copy()
        return by_clock(lambda: stepped(batch, host_actions))

    end = stepped(start.copy(), actions).returns.cpu().numpy()
    assert np.array_equal(end, stepped(host_start.copy(), host_actions).returns)
    runs = {"checked": ours, "unchecked": lambda: ours(check=False), "host": host}
    if name in PGX_GAMES and importlib.util.find_spec("pgx") is not None:
        play = pgx_play(name, actions, end)
        runs["pgx"] = lambda: by_clock(play)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {case: [] for case in runs}
    for _ in range(repeats):
        for case, run in runs.items():
            seconds[case].append(run())
    timings = {case: Timing(seconds=tuple(times), work=moves) for case, times in seconds.items()}
    return [
        {
            "case": f"{name}, N={size:,}, {case}, against {peer}",
            "unit": "steps/s",
            "ours": timings[case].rate,
            "peer": timings[peer].rate,
            "ratio": timings[case].rate / timings[peer].rate,
            "ours_spread": timings[case].spread,
            "peer_spread": timings[peer].spread,
        }
        for case in ("checked", "unchecked")
        for peer in ("host", "pgx")
        if peer in timings
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", nargs="+", default=GAMES, choices=GAMES)
    parser.add_argument("--size", type=int, default=2**20)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    try:
        device = open_device("cuda")
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both sides share the card
    rows = [row for name in options.games for row in rows_of(name, options.size, options.repeats)]
    facts = {**machine(["torch", "pgx", "jax"]), "device": torch.cuda.get_device_name(device)}
    print_table(facts, rows, "steps/s")
    save("games_gpu", facts, rows)


if __name__ == "__main__":
    main()
