"""Recipes over several processes."""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from selfplay_fast import cli


def _rank(rank: int, size: int, port: int, log: str, arguments: list[str]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    handle = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os._exit(cli.main(arguments))


@pytest.fixture
def on_ranks(tmp_path: Path, free_port: Callable[[], int]) -> Callable[..., tuple[list[int], list[str]]]:
    """Runs a command line in several forked processes, as torchrun would; exit codes and outputs by rank."""

    def run(size: int, *arguments: str) -> tuple[list[int], list[str]]:
        port = free_port()
        logs = [str(tmp_path / f"rank-{rank}.log") for rank in range(size)]
        fork = multiprocessing.get_context("fork")
        ranks = [
            fork.Process(target=_rank, args=(rank, size, port, logs[rank], list(arguments)))
            for rank in range(size)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(600)
            rank.kill()  # one that hangs has failed
            rank.join()
        texts = [Path(log).read_text(errors="replace") for log in logs]
        for log in logs:
            os.remove(log)
        return [rank.exitcode or 0 for rank in ranks], texts

    return run


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], list[dict[str, float]]]:
    """Reads the rows of a run's metrics, without times, speeds and memory."""

    def read(run: Path) -> list[dict[str, float]]:
        found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [
            {key: value for key, value in row.items() if not key.endswith(("_s", "_mib"))} for row in found
        ]

    return read


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a module's command line, `RUN`, without an interruption."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main([*request.module.RUN.split(), str(run)]) == 0
    return run


@pytest.fixture
def base(toy_policy, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    """A transformers folder with a small smooth model, in which rounding does not grow."""
    toy_policy.save(tmp_path / "base")
    return tmp_path / "base"
