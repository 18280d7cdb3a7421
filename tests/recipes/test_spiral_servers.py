"""SPIRAL with games that go on while it learns: here, and on servers in processes of their own.

Oracles: the synchronous run; the bound of staleness; the rows of a run that lost a server.
"""

import json
import os
import subprocess
import sys
import time

import pytest

pytest.importorskip("httpx2", reason="comes with the extra 'test'")
pytest.importorskip("tenacity", reason="comes with the extra 'test'")
pytest.importorskip("uvicorn", reason="comes with the extra 'test'")
pytest.importorskip("starlette", reason="comes with the extra 'test'")

from selfplay_fast.cli import main
from selfplay_fast.learn.checkpoint import list_checkpoints, load_checkpoint

RUN = (
    "train spiral --games kuhn_poker --samples-per-step 24 --warmup-steps 25 --warmup-learning-rate 1e-2"
    " --eval-every 100 --eval-episodes 2 --eval-episodes-between 2 --threads 1 --device cpu --max-tokens 4"
)
MAIN = "import sys; from selfplay_fast.cli import main; sys.exit(main(sys.argv[1:]))"


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def numbers(row):
    return {key: value for key, value in row.items() if not key.endswith(("_s", "_mib"))}


def train(run, *options):
    assert main([*RUN.split(), "--run-dir", str(run), *options]) == 0
    return rows(run)


@pytest.mark.long
def test_late_games_are_learned_from_here_and_a_stopped_run_goes_on(tmp_path):
    """Oracle: the bound, finite losses, importance sampling switched on; a run that stops at a checkpoint with games
    under way makes all its steps."""
    run = tmp_path / "run"
    train(run, "--steps", "3", "--max-staleness", "2", "--checkpoint-every", "1")
    state = load_checkpoint(list_checkpoints(run / "checkpoints")[-2])[2]
    assert state.rollouts is not None
    assert state.rollouts["unfinished"]
    assert main(["train", "--resume", str(run), "--steps", "6"]) == 0
    done = rows(run)
    assert [row["step"] for row in done] == list(range(7))
    assert all(row["loss"] is not None and row["staleness_max"] <= 2 for row in done[1:])
    assert max(row["staleness_max"] for row in done[1:]) > 0
    assert "max_importance: 2.0" in (run / "config.yaml").read_text()


@pytest.fixture
def serving(tmp_path):
    """Starts server processes of a nano model; (process, address)."""
    processes = []
    source = tmp_path / "source"
    train(source, "--steps", "0")

    def start():
        command = [sys.executable, "-c", MAIN, "serve", str(source), "--port", "0"]
        log = (tmp_path / f"log{len(processes)}").open("w+")
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        processes.append((process, log))
        deadline = time.monotonic() + 120
        while True:
            log.seek(0)
            said = log.read()
            if " at http" in said:
                return process, said.split(" at ")[1].split()[0]
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    yield start
    for process, log in processes:
        process.kill()
        process.wait()
        log.close()


@pytest.mark.long
def test_a_run_learns_from_servers_and_survives_the_loss_of_one(serving, tmp_path, monkeypatch):
    """Oracle: the bound, finite losses, the sampler that is the learner where nothing is late, no forfeit: the server
    that is left has played all games. One of the two is killed after the second step."""
    from selfplay_fast.run import Run

    (first, url), (_, other) = serving(), serving()
    log = Run.log

    def log_and_kill(self, step, *arguments):
        log(self, step, *arguments)
        if step == 2:
            first.kill()

    monkeypatch.setattr(Run, "log", log_and_kill)
    run = tmp_path / "run"
    options = ("--steps", "6", "--max-staleness", "1", "--rollout-servers", url, other)
    done = train(run, *options)
    assert [row["step"] for row in done] == list(range(7))
    assert all(row["loss"] is not None and row["staleness_max"] <= 1 for row in done[1:])
    said = [
        json.loads(line) for path in (run / "episodes").iterdir() for line in path.read_text().splitlines()
    ]
    assert not any(turn["refusal"] == "no reply" for episode in said for turn in episode["turns"])
    assert done[1]["sampler_kl"] < 1e-6  # the weights of the start spoke


@pytest.mark.long
def test_a_run_whose_only_server_is_killed_is_saved_and_goes_on_with_another(
    serving, tmp_path, monkeypatch, capsys
):
    """Oracle: one line and exit code 2, the last row's step saved although no checkpoint was due, no game forfeited;
    with another server, named on resume, all steps are made. (test_spiral.py has the digits of such a resume.)"""
    from selfplay_fast.run import Run

    server, url = serving()
    log = Run.log

    def log_and_kill(self, step, *arguments):
        log(self, step, *arguments)
        if step == 2:
            server.kill()

    run = tmp_path / "run"
    options = ("--steps", "6", "--max-staleness", "1", "--rollout-servers", url, "--checkpoint-every", "50")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", log_and_kill)
        assert main([*RUN.split(), "--run-dir", str(run), *options, "--server-patience", "3"]) == 2
    last = rows(run)[-1]["step"]
    assert 2 <= last < 6
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"no server has answered for 3 s; step {last} is saved: selfplay-fast train --resume {run}" in said
    assert list_checkpoints(run / "checkpoints")[-1].name == f"step-{last:06d}"
    _, other = serving()
    assert main(["train", "--resume", str(run), "--rollout-servers", other]) == 0
    assert [row["step"] for row in rows(run)] == list(range(7))
    assert all(row["loss"] is not None and row.get("forfeit_rate", 0) == 0 for row in rows(run)[1:])
    assert f"from_step: {last + 1}" in (run / "config.yaml").read_text()


@pytest.mark.long
def test_a_server_is_the_policy_itself(serving, tmp_path):
    """Oracle: the run without servers. With nothing late every metric is the same but for rounding of other batches."""
    _, url = serving()
    here = train(tmp_path / "here", "--steps", "2")
    there = train(tmp_path / "there", "--steps", "2", "--rollout-servers", url)
    for a, b in zip(here, there, strict=True):
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-3, abs=1e-4)
