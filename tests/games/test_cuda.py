"""Games on a GPU: the same as on the host, and clear errors where there is no GPU.

What the kernels run is compared with the host's batch on the host, by tests/csrc/cuda_rows_test.cpp.
"""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest
import torch

from selfplay_fast import _native, cuda_batch, games

GAMES = [
    "tic_tac_toe",
    "tic_tac_toe(size=5, rewards=mars)",
    "connect_four",
    "kuhn_poker(rounds=3)",
    "leduc_poker",
    "liars_dice(dice=2)",
    "pig(target=20, horizon=30)",
    "simple_tak",
    "hanabi(players=3)",
]


def why_not() -> str:
    """Why there is no GPU to play on; empty where there is one."""
    try:
        cuda_batch.open_device("cuda")
    except RuntimeError as error:
        return str(error)
    return ""


WITHOUT = why_not()
on_gpu = pytest.mark.skipif(bool(WITHOUT), reason=WITHOUT)


def both(game: str, size: int, **arguments: object) -> tuple[games.Batch, cuda_batch.CudaBatch]:
    """The same games on the host and on the GPU."""
    return games.make(game, size, **arguments), games.make(game, size, device="cuda", **arguments)


def assert_same(host: games.Batch, gpu: cuda_batch.CudaBatch) -> None:
    """All columns, and what a snapshot holds: keys, histories, results."""
    for column in ("current_player", "legal_actions", "terminated", "returns"):
        ours, theirs = getattr(gpu, column), getattr(host, column)
        assert ours.is_cuda
        assert ours.cpu().numpy().dtype == theirs.dtype
        assert np.array_equal(ours.cpu().numpy(), theirs), column
    assert gpu.cpu().state() == host.state()


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("autoreset", ["off", "same_step", "next_step"])
@pytest.mark.parametrize("chance", ["sampled", "explicit"])
@pytest.mark.parametrize("name", GAMES)
def test_the_same_games_as_on_the_host(name: str, chance: str, autoreset: str) -> None:
    """Oracle: the host's batch, bit for bit: all rows, some rows, resets, playouts."""
    host, gpu = both(name, 1000, seed=3, chance=chance, autoreset=autoreset)
    for step in range(60):
        moves = gpu.sample_actions(step)
        assert np.array_equal(moves.cpu().numpy(), host.sample_actions(step))
        rows = torch.nonzero(moves >= 0)[:, 0].flip(0)[::3]
        if step % 3 == 1 and len(rows) > 0:
            gpu.step(moves[rows].int(), rows=rows)
            host.step(moves[rows].cpu().numpy(), rows=rows.cpu().numpy())
        else:
            gpu.step(moves, check=step % 2 == 0)
            host.step(moves.cpu().numpy())
        if step % 10 < 2:
            assert_same(host, gpu)
    some = [3, 8, 1, 999, 500, 42]
    for seeds in (None, [5, -5]):
        gpu.reset(torch.tensor(some, device=gpu.device), seeds=seeds, repeat=3)
        host.reset(some, seeds=seeds, repeat=3)
        assert_same(host, gpu)
    assert gpu.history(999) == host.history(999)
    twin = gpu.copy()
    assert gpu.random_playouts() == host.random_playouts()
    assert_same(host, gpu)
    gpu.reset()
    host.reset()
    assert_same(host, gpu)
    assert twin.random_playouts() > 0


@pytest.mark.gpu
@on_gpu
def test_bad_calls_change_nothing() -> None:
    """Oracle: the host's errors, word for word; the games stand as they stood."""
    host, gpu = both("connect_four", 5)
    for actions, rows in [([0, 1, 9, 2, -3], None), ([0, 0], [1, 1]), ([0, 0], [2, 5]), ([0], None)]:
        with pytest.raises(ValueError, match="connect_four: ") as ours:
            gpu.step(
                torch.tensor(actions, device="cuda"),
                None if rows is None else torch.tensor(rows, device="cuda"),
            )
        with pytest.raises(ValueError, match="connect_four: ") as theirs:
            host.step(actions, rows)
        assert str(ours.value) == str(theirs.value)
        assert_same(host, gpu)
    with pytest.raises(ValueError, match=r"must be on cuda:\d, got a tensor on cpu"):
        gpu.step(torch.zeros(5, dtype=torch.int64))


@pytest.mark.gpu
@on_gpu
def test_views_follow_the_games_and_outlive_the_batch() -> None:
    """Oracle: contract. Views share the batch's memory and keep it alive, on any stream."""
    gpu = games.make("tic_tac_toe", 1000, device="cuda")
    players = gpu.current_player
    assert players.data_ptr() == gpu.current_player.data_ptr()
    with torch.cuda.stream(torch.cuda.Stream()):
        gpu.step(torch.zeros(1000, dtype=torch.int64, device="cuda"))
        assert (gpu.current_player == 1).all()
    del gpu
    gc.collect()
    other = games.make("tic_tac_toe", 1000, device="cuda")
    assert (players == 1).all()
    del other


@pytest.mark.gpu
@on_gpu
def test_errors_with_a_gpu() -> None:
    """Oracle: contract. Each is one line that names what is wrong."""
    with pytest.raises(ValueError, match=r"^negotiation: is not built for GPUs; there are: connect_four, "):
        games.make("negotiation", 1, device="cuda")
    with pytest.raises(ValueError, match=r"^there is no cuda:99; the last GPU is cuda:\d+$"):
        games.make("tic_tac_toe", 1, device="cuda:99")
    with pytest.raises(
        MemoryError, match=r"^out of memory on cuda:\d+: the batch needs \d+ MiB, \d+ MiB are free$"
    ):
        games.make("hanabi", 2**31, device="cuda")


@pytest.mark.skipif(not WITHOUT, reason="there is a GPU")
def test_errors_without_a_gpu() -> None:
    """Oracle: contract. One line says what is missing: a build with CUDA, a GPU, or a torch that sees it."""
    lines = r"^device=\"cuda\" (needs a build with CUDA: pip install|needs a torch|found no GPU: ).*$"
    for device in ("cuda", "cuda:1"):
        with pytest.raises(RuntimeError, match=lines):
            games.make("tic_tac_toe", 1, device=device)
    with pytest.raises(RuntimeError, match=lines):
        _native.CudaBatch("tic_tac_toe", [], 1, 0, "sampled", "off", 0)


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "cuda0", ""])
def test_unknown_devices(device: str) -> None:
    """Oracle: contract. The host is "cpu", a GPU "cuda" or "cuda:1"."""
    with pytest.raises(ValueError, match=f"^unknown device {re.escape(repr(device))}; there are: cpu, cuda"):
        games.make("tic_tac_toe", 1, device=device)


def test_wrong_arguments_come_first() -> None:
    """Oracle: contract. A misspelt game is refused as such, with or without a GPU."""
    with pytest.raises(ValueError, match="did you mean 'tic_tac_toe'"):
        games.make("tic_tac_to", 1, device="cuda")


def test_only_whole_numbers_on_the_device_are_taken() -> None:
    """Oracle: contract. dtype, device and shape are named."""
    host, gpu = torch.device("cpu"), torch.device("cuda", 0)
    numbers = torch.arange(6, dtype=torch.int32)
    assert cuda_batch.as_numbers(numbers, "actions", host) is numbers
    assert cuda_batch.as_numbers(numbers[::2], "actions", host).is_contiguous()
    assert cuda_batch.as_numbers(np.arange(3), "rows", host).tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match=r"^actions must be a tensor on cuda:0, got list$"):
        cuda_batch.as_numbers([0, 1], "actions", gpu)
    with pytest.raises(TypeError, match=r"^actions must be int64 or int32, got float32$"):
        cuda_batch.as_numbers(numbers.float(), "actions", gpu)
    with pytest.raises(
        TypeError, match=r"^rows must be int64 or int32, got bool; torch.nonzero turns a mask"
    ):
        cuda_batch.as_numbers(numbers > 1, "rows", gpu)
    with pytest.raises(ValueError, match=r"^actions must be on cuda:0, got a tensor on cpu$"):
        cuda_batch.as_numbers(numbers, "actions", gpu)
    with pytest.raises(ValueError, match=r"^actions must be one-dimensional, got the shape \(2, 3\)$"):
        cuda_batch.as_numbers(numbers.reshape(2, 3), "actions", host)
