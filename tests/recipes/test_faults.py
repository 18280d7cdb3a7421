"""SPIRAL killed, out of disk or on a read-only disk, at every change that it makes to a file.

Real processes, forked by `faulty_runs.py`. The oracle is the same run without a fault: every metric but timings digit
for digit, the checkpoints and transcripts byte for byte, and no file more or less.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long  # test_spiral.py kills a run at three moments, always

RUN = (
    "train spiral --games kuhn_poker --steps 3 --samples-per-step 12 --learning-rate 5e-5 --inner-epochs 2 --magnet"
    " --max-tokens 4 --warmup-steps 2 --warmup-learning-rate 1e-2 --eval-every 9 --eval-episodes 1"
    " --checkpoint-every 1 --threads 1 --device cpu --run-dir"
)
LAST_STEP = "open episodes/.step-000003.jsonl.tmp"  # after row 3, before checkpoint 3

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def live() -> Iterator[Callable[..., Answer]]:
    """Run `train` with a fault in a process of its own; the answer says how it ended."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("faulty_runs.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def ask(folder: Path, **fault: Any) -> Answer:
        resumed = (folder / "config.yaml").exists()
        arguments = ["train", "--resume", str(folder)] if resumed else [*RUN.split(), str(folder)]
        server.stdin.write(json.dumps({"arguments": arguments, "folder": str(folder), **fault}) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield ask
    server.stdin.close()
    server.wait()
    server.stdout.close()


@pytest.fixture(scope="module")
def whole(live: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a fault."""
    run = tmp_path_factory.mktemp("whole") / "run"
    answer = live(run)
    assert answer["status"] == 0, answer["stderr"]
    return run


@pytest.fixture(scope="module")
def two_steps(live: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run killed in its third and last step."""
    run = tmp_path_factory.mktemp("two_steps") / "run"
    answer = live(run, at=LAST_STEP)
    assert (answer["status"], answer["operations"][-1]) == (-signal.SIGKILL, LAST_STEP)
    return run


def rows(run: Path) -> list[dict[str, Any]]:
    """The whole rows of a run's metrics, without times, speeds and memory."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [
        {key: value for key, value in json.loads(line).items() if not key.endswith(("_s", "_mib"))}
        for line in lines
    ]


def content(run: Path) -> dict[str, Any]:
    """All files by name, with their bytes.

    Of the two files that hold times, the rows; not those in which transformers writes down whether it loaded a
    tokenizer or was given one, and their sums.
    """
    files = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    content = {name: path.read_bytes() for name, path in files.items()}
    content |= {name: rows(run) for name in content if name in ("metrics.jsonl", "report.html")}
    return content | {name: b"" for name in content if name.endswith(("tokenizer_config.json", "files.json"))}


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = content(run), content(whole)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def go_wrong(live: Callable[..., Answer], run: Path, kind: str) -> list[str]:
    """One fault after another, each where there has been none, until the run gets to its end."""
    tried: list[str] = []
    while (answer := live(run, passed=tried, kind=kind))["status"] != 0:
        before = rows(run)
        if kind == "kill":
            assert answer["status"] == -signal.SIGKILL, answer["stderr"]
        else:
            assert_one_line(answer)
        assert answer["operations"][-1] not in tried
        tried.append(answer["operations"][-1])
        assert [row["step"] for row in before] == list(range(len(before)))
    return tried


def assert_one_line(answer: Answer, *words: str) -> None:
    assert answer["status"] == 2, answer["stderr"]
    errors = [line for line in answer["stderr"].splitlines() if line.startswith("selfplay-fast:")]
    assert len(errors) == 1, answer["stderr"]
    assert "Traceback" not in answer["stderr"]
    for word in words:
        assert word in errors[0].lower()


def test_what_is_compared_is_not_constant(whole: Path) -> None:
    """Oracle: a run worth comparing has another loss and another pull of the magnet at every step."""
    found = rows(whole)
    assert [row["step"] for row in found] == [0, 1, 2, 3]
    assert len({row["loss"] for row in found[1:]}) == len({row["magnet_kl"] for row in found[2:]}) + 1 == 3
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == [
        "step-000000",
        "step-000002",
        "step-000003",
    ]


def test_one_step_killed_at_each_of_50_changes_to_files(
    live: Callable[..., Answer], whole: Path, two_steps: Path, tmp_path: Path
) -> None:
    """Oracle: the run without a fault. For each change to a file a copy of the run is killed there, resumed and
    compared; of a file that was to be synced half of what is new is gone."""
    run = tmp_path / "run"
    tried: list[str] = []
    while True:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(two_steps, run)
        answer = live(run, passed=tried)
        if answer["status"] == 0:
            break
        assert answer["status"] == -signal.SIGKILL, answer["stderr"]
        tried.append(answer["operations"][-1])
        answer = live(run)
        assert answer["status"] == 0, (tried[-1], answer["stderr"])
        assert_same(run, whole)
    assert len(tried) >= 50
    for kind in ("open", "write", "fsync", "rename", "remove", "rmdir", "mkdir"):
        assert any(name.startswith(kind) for name in tried), kind


def test_a_run_killed_in_each_of_its_120_lives(
    live: Callable[..., Answer], whole: Path, tmp_path: Path
) -> None:
    """Oracle: the run without a fault. A run is killed and resumed again and again, each time at a change to a file at
    which it was not killed before, from the first folder made to the report."""
    run = tmp_path / "run"
    assert len(go_wrong(live, run, "kill")) >= 120
    assert_same(run, whole)


def test_one_step_with_a_full_disk_at_each_of_40_changes_to_files(
    live: Callable[..., Answer], whole: Path, two_steps: Path, tmp_path: Path
) -> None:
    """Oracle: one line of error and exit code 2 for each fault, rows as they were, and in the end the run without a
    fault. From the change that fails on nothing can be written at all."""
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    assert len(go_wrong(live, run, "ENOSPC")) >= 40
    assert_same(run, whole)


def test_a_disk_that_has_become_read_only(
    live: Callable[..., Answer], whole: Path, two_steps: Path, tmp_path: Path
) -> None:
    """Oracle: one line, every file as it was, and on a good disk the run without a fault."""
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    before = content(run)
    assert_one_line(
        live(run, passed=["mkdir checkpoints", "mkdir episodes"], kind="EROFS"), "read-only", str(run)
    )
    assert content(run) == before
    assert live(run)["status"] == 0
    assert_same(run, whole)


def test_a_start_with_a_full_disk_at_each_of_10_changes_to_files(
    live: Callable[..., Answer], whole: Path, tmp_path: Path
) -> None:
    """Oracle: one line of error each time; the same command works when there is space, in the same folder."""
    run = tmp_path / "run"
    tried: list[str] = []
    while not tried or not tried[-1].startswith("open metrics.jsonl"):
        answer = live(run, passed=tried, kind="ENOSPC")
        assert_one_line(answer, "no space left", str(run))
        tried.append(answer["operations"][-1])
    assert len(tried) >= 10
    answer = live(run)
    assert answer["status"] == 0, answer["stderr"]
    assert_same(run, whole)


@pytest.mark.parametrize("limit", [100, 3_000, 60_000, 1_000_000, 4_000_000])
def test_files_that_cannot_grow(
    limit: int, live: Callable[..., Answer], whole: Path, two_steps: Path, tmp_path: Path
) -> None:
    """Oracle: the kernel's own refusal (RLIMIT_FSIZE) amid a file: metrics, tokenizer, weights, optimizer. One line,
    and without the limit the run without a fault."""
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    assert_one_line(live(run, limit=limit), "file too large", str(run))
    assert rows(run)[:3] == rows(whole)[:3]
    assert live(run)["status"] == 0
    assert_same(run, whole)
