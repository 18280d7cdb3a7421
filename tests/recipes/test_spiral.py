"""SPIRAL from the command line on the nano model: it resumes exactly, learns, and stops where it must."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from selfplay_fast.cli import main
from selfplay_fast.config import config_to_dict
from selfplay_fast.learn.checkpoint import list_checkpoints, load_checkpoint
from selfplay_fast.policies.base import ServersGoneError
from selfplay_fast.recipes import spiral
from selfplay_fast.records import Episode, Reply, legal_rate

# All that a step depends on changes from step to step: legal replies, evaluation games, the falling rate, moments.
RUN = (
    "train spiral --games kuhn_poker --steps 6 --samples-per-step 40 --learning-rate 5e-5 --inner-epochs 2 --magnet"
    " --warmup-steps 25 --warmup-learning-rate 1e-2 --eval-every 3 --eval-episodes 8 --checkpoint-every 2"
    " --threads 1 --device cpu --run-dir"
)

# A run that kills itself at the wanted moment by a signal that nobody handles, so nothing can be flushed, closed or
# cleaned up: by SIGKILL, or soon after row 1, counted in its own processor time, by SIGPROF.
VICTIM = """
import os, signal, sys
from selfplay_fast import cli, run
from selfplay_fast.learn import checkpoint

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def half_a_checkpoint(tensors, path, save=checkpoint.save_file):
    save(tensors, path)
    if "step-000004" in str(path):
        die()

def half_a_row(self, line, append=run.Run._append):
    if '"step": 5' in line:
        with (self.directory / "metrics.jsonl").open("a") as file:
            file.write(line[: len(line) // 2])
        die()
    append(self, line)

def row_1_and_a_moment(self, line, append=run.Run._append):
    append(self, line)
    if '"step": 1,' in line:
        signal.setitimer(signal.ITIMER_PROF, 0.05)

if sys.argv[1] == "any time after row 1":
    run.Run._append = row_1_and_a_moment
if sys.argv[1] == "half a checkpoint":
    checkpoint.save_file = half_a_checkpoint
if sys.argv[1] == "half a row":
    run.Run._append = half_a_row
cli.main(sys.argv[2:])
"""


def read_rows(run: Path) -> list[dict[str, float]]:
    """The whole rows of a run's metrics, without times, speeds and memory."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [
        {key: value for key, value in json.loads(line).items() if not key.endswith(("_s", "_mib"))}
        for line in lines
    ]


def files(run: Path) -> dict[str, bytes]:
    """Weights, optimizer and state of the newest checkpoint, and all transcripts."""
    newest = list_checkpoints(run / "checkpoints")[-1]
    chosen = [newest / name for name in ("model/model.safetensors", "optimizer.safetensors", "state.json")]
    return {
        str(path.relative_to(run)): path.read_bytes() for path in [*chosen, *(run / "episodes").iterdir()]
    }


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = (load_checkpoint(path)[0].model.state_dict() for path in (a, b))
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("spiral") / "run"
    assert main([*RUN.split(), str(run)]) == 0
    return run


def killed(run: Path, moment: str) -> None:
    """Start the run, or go on with it, in a process of its own that is killed at the moment."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    arguments = ["train", "--resume", str(run)] if run.exists() else [*RUN.split(), str(run)]
    command = [sys.executable, "-c", VICTIM, moment, *arguments]
    ended = subprocess.run(
        command,
        cwd=run.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=600,
    )
    by = signal.SIGPROF if moment == "any time after row 1" else signal.SIGKILL
    assert ended.returncode == -by, ended.stderr.decode()


def test_a_run_killed_three_times_goes_on_to_the_same_digits(uninterrupted: Path, tmp_path: Path) -> None:
    """Oracle: the uninterrupted run. One run has four lives; after each its rows are those of the whole run, and at
    the end every metric but timings is equal digit for digit, every transcript and the last checkpoint (weights,
    optimizer, baselines) byte for byte."""
    run = tmp_path / "run"
    whole = read_rows(uninterrupted)
    for moment in ("any time after row 1", "half a checkpoint", "half a row"):
        killed(run, moment)
        before = read_rows(run)
        saved = [path.name for path in list_checkpoints(run / "checkpoints")]
        assert before == whole[: len(before)]
        if moment == "any time after row 1":
            assert 2 <= len(before) < 5
        if moment == "half a checkpoint":
            assert (len(before), saved) == (5, ["step-000000", "step-000002"])
            assert (run / "checkpoints" / ".step-000004.partial").is_dir()
        if moment == "half a row":
            assert (len(before), saved) == (5, ["step-000000", "step-000002", "step-000004"])
    assert main(["train", "--resume", str(run)]) == 0
    rows = read_rows(run)
    assert rows == whole
    assert [row["step"] for row in rows] == list(range(7))
    assert files(run) == files(uninterrupted)


def test_what_is_compared_is_not_constant(uninterrupted: Path) -> None:
    """Oracle: a run worth comparing plays legal moves, changes its weights and logs other numbers at every step."""
    rows = read_rows(uninterrupted)
    assert rows[0]["kuhn_poker/legal_rate"] > 0.5
    assert len({row["loss"] for row in rows[1:]}) == len({row["magnet_kl"] for row in rows[1:]}) == 6
    evaluated = [row["step"] for row in rows if "kuhn_poker/nash_conv" in row]
    assert evaluated == [0, 3, 6]
    first, *_, last = list_checkpoints(uninterrupted / "checkpoints")
    assert not same_weights(first, last)


def test_not_a_number_stops_the_run(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: one line and exit code 2 at step 5, rows 0 to 4, the checkpoint of step 4 as in the run without the
    fault, and after resuming the same last row as that run."""
    losses: list[int] = []

    def poisoned(clip: float, real: Callable = spiral.ppo_clip_loss) -> Callable:
        losses.append(len(losses) + 1)
        factor = float("nan") if losses[-1] == 5 else 1.0
        return lambda *vectors: real(clip)(*vectors) * factor

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(spiral, "ppo_clip_loss", poisoned)
        assert main([*RUN.split(), str(run)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("selfplay-fast: error: loss nan")
    assert f"the last good checkpoint is {run}/checkpoints/step-000004 (the step began with it" in last
    assert read_rows(run) == read_rows(uninterrupted)[:5]
    newest = list_checkpoints(run / "checkpoints")[-1]
    assert (newest.name, load_checkpoint(newest)[2].step) == ("step-000004", 4)
    assert "FloatingPointError" in (run / "error.txt").read_text()
    assert main(["train", "--resume", str(run)]) == 0
    assert read_rows(run) == read_rows(uninterrupted)
    assert not (run / "error.txt").exists()


def test_an_absurd_learning_rate_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: weights of 1e37 overflow in the next step: one line, exit code 2, and step 0 still loads."""
    settings = (
        "--learning-rate 1e37 --no-magnet --steps 4 --warmup-steps 0 --checkpoint-every 9 --eval-every 9"
    )
    run = tmp_path / "run"
    assert main([*RUN.split(), str(run), *settings.split()]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "not finite" in last
    assert f"the last good checkpoint is {run}/checkpoints/step-000000" in last
    (saved,) = list_checkpoints(run / "checkpoints")
    weights = load_checkpoint(saved)[0].model.state_dict()
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_an_exploding_loss_stops_the_run(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the same run stops at the first step whose logged loss is beyond the limit, its size and the last good
    checkpoint named, and the rows before are the same."""
    losses = [abs(row["loss"]) for row in read_rows(uninterrupted)[1:]]
    limit = sorted(losses)[-1] * 0.999
    run = tmp_path / "run"
    assert main([*RUN.split(), str(run), "--max-loss", str(limit)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "has exploded" in last
    assert "the last good checkpoint is" in last
    stopped = losses.index(max(losses)) + 1
    assert read_rows(run) == read_rows(uninterrupted)[:stopped]


def test_a_damaged_checkpoint_is_passed_over(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the uninterrupted run. One bit of the newest checkpoint's weights is flipped: the run says so, keeps the
    folder under another name, and goes on from the one before to the same digits. Without any good one nothing changes.
    """
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    weights = run / "checkpoints" / "step-000006" / "model" / "model.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-1000] ^= 1
    weights.write_bytes(flipped)
    assert main(["train", "--resume", str(run)]) == 0
    shown = capsys.readouterr().err
    assert "step-000006 is damaged or incomplete: model/model.safetensors is not what was written" in shown
    assert "goes on from step-000004" in shown
    assert (run / "checkpoints" / "step-000006.damaged").is_dir()
    assert read_rows(run) == read_rows(uninterrupted)
    assert files(run) == files(uninterrupted)
    for checkpoint in list_checkpoints(run / "checkpoints"):
        (checkpoint / "state.json").write_text("{")
    before = sorted(run.rglob("*"))
    assert main(["train", "--resume", str(run)]) == 2
    assert "no earlier checkpoint can be read either" in capsys.readouterr().err.splitlines()[-1]
    assert [path for path in sorted(run.rglob("*")) if path.name != "error.txt"] == before


def test_a_server_that_died_is_no_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a run in which every other game's last reply never came: they are counted, and in nothing else: neither
    in the samples nor among the illegal replies nor in the transcripts."""
    collect, played = spiral.Rollouts.collect, []

    def cut(episode: Episode) -> Episode:
        *before, last = episode.turns
        lost = Reply(text="", finish_reason="forfeit")
        return replace(episode, turns=(*before, replace(last, reply=lost, refusal=lost.failure)))

    def collect_some(self: spiral.Rollouts) -> list[Episode]:
        episodes = collect(self)
        played.append(episodes[1::2])
        return [cut(e) if i % 2 == 0 else e for i, e in enumerate(episodes)]

    monkeypatch.setattr(spiral.Rollouts, "collect", collect_some)
    monkeypatch.setattr(spiral, "_evaluate", lambda *_, **__: {})
    run = tmp_path / "run"
    assert main([*RUN.split(), str(run), "--steps", "1", "--warmup-steps", "2"]) == 0
    row = read_rows(run)[1]
    (whole,) = played
    assert 0 <= row["forfeits"] - len(whole) <= 1
    games = {episode.game for episode in whole}
    assert {game: row[f"{game}/legal_rate"] for game in games} == pytest.approx(
        {game: legal_rate(t for e in whole if e.game == game for t in e.turns) for game in games}
    )
    said = [line for path in (run / "episodes").iterdir() for line in path.read_text().splitlines()]
    assert said
    assert not any('"no reply"' in line for line in said)


def test_where_servers_are_gone_the_last_finished_step_is_saved(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the uninterrupted run. Nobody answers in step 6, between two checkpoints: one line, exit code 2, step 5
    is saved, and from there on every digit is the same."""
    collect, calls = spiral.Rollouts.collect, []

    def nobody(self: spiral.Rollouts) -> list[Episode]:
        calls.append(None)
        if len(calls) == 6:
            raise ServersGoneError("no server has answered for 5 s")
        return collect(self)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(spiral.Rollouts, "collect", nobody)
        assert main([*RUN.split(), str(run)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "selfplay-fast: error: no server has answered for 5 s; step 5 is saved: "
        f"selfplay-fast train --resume {run}"
    )
    assert [path.name for path in list_checkpoints(run / "checkpoints")][-1] == "step-000005"
    assert read_rows(run) == read_rows(uninterrupted)[:6]
    assert main(["train", "--resume", str(run)]) == 0
    assert read_rows(run) == read_rows(uninterrupted)
    assert files(run) == files(uninterrupted)


def test_a_run_goes_on_with_other_passes(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the same run: how the work is cut into passes changes nothing but the last digits."""
    update, passes = spiral.update, []

    def listening(policy, optimizer, batch, settings, **more):  # type: ignore[no-untyped-def]
        passes.append((policy.max_batch_tokens, policy.max_cache_tokens, settings.max_batch_tokens))
        return update(policy, optimizer, batch, settings, **more)

    monkeypatch.setattr(spiral, "update", listening)
    run, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(uninterrupted, run)
    shutil.copytree(uninterrupted, whole)
    other = "--max-batch-tokens 64 --max-cache-tokens 4000 --gradient-checkpointing --dtype float32"
    assert main(["train", "--resume", str(run), "--steps", "7", *other.split()]) == 0
    assert main(["train", "--resume", str(whole), "--steps", "7"]) == 0
    ours, theirs = read_rows(run)[-1], read_rows(whole)[-1]
    assert passes == [(64, 4000, 64), (16384, 262144, 16384)]
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    changed = yaml.safe_load((run / "config.yaml").read_text())["changes"]
    assert {(change["from_step"], change["option"]) for change in changed} == {
        (7, name)
        for name in ("steps", "max_batch_tokens", "max_cache_tokens", "gradient_checkpointing", "dtype")
    }


def test_importance_changes_what_is_learned(uninterrupted: Path, tmp_path: Path) -> None:
    """Oracle: a limit far below every ratio scales the loss of the first step by exactly that; the default is the run
    without it."""
    run = tmp_path / "run"
    assert main([*RUN.split(), str(run), "--max-importance", "0.5", "--steps", "1", "--no-magnet"]) == 0
    plain = tmp_path / "plain"
    assert main([*RUN.split(), str(plain), "--steps", "1", "--no-magnet"]) == 0
    halved, full = read_rows(run)[1], read_rows(plain)[1]
    assert halved["loss"] == pytest.approx(full["loss"] / 2, rel=1e-5)
    assert full["sampler_outside_share"] == 0
    assert 0.9 < full["sampler_ratio/p1"] <= full["sampler_ratio/p50"] <= full["sampler_ratio/p99"] < 1.1


LEARN = (
    "train spiral --games kuhn_poker --steps 14 --samples-per-step 160 --learning-rate 5e-5 --inner-epochs 2"
    " --magnet --magnet-weight 1 --warmup-steps 50 --warmup-learning-rate 6e-3 --eval-every 14 --eval-episodes 8"
    " --checkpoint-every 14 --threads 1 --device cpu"
)


def test_it_learns_to_look_at_its_card(tmp_path: Path) -> None:
    """Oracle: 2/3, the least NashConv of any Kuhn player that ignores its card (see the next test); the run starts
    near random play (11/12) and must end well below 2/3, with its replies still legal.

    With a learning rate of 0 the same run stays exactly where it started.
    """
    assert main([*LEARN.split(), "--run-dir", str(tmp_path / "run")]) == 0
    before, *_, after = read_rows(tmp_path / "run")
    assert before["kuhn_poker/nash_conv"] > 0.75
    assert after["kuhn_poker/nash_conv"] < 0.6
    assert after["kuhn_poker/least_scored_mass"] > 0.9

    still = tmp_path / "still"
    assert main([*LEARN.split(), "--learning-rate", "0", "--steps", "2", "--run-dir", str(still)]) == 0
    rows = read_rows(still)
    assert rows[0] == before
    assert rows[-1]["kuhn_poker/nash_conv"] == before["kuhn_poker/nash_conv"]
    first, last = list_checkpoints(still / "checkpoints")
    assert same_weights(first, last)


def test_two_thirds_is_the_least_of_a_player_that_ignores_its_card() -> None:
    """Oracle: a grid over the four probabilities such a player has, each by exact best responses."""
    from itertools import product

    import numpy as np

    from selfplay_fast import solvers

    keys = [state.key for state in solvers.information_states("kuhn_poker")]
    places = sorted({key[1:] for key in keys})
    least = min(
        solvers.nash_conv(
            "kuhn_poker",
            {key: np.array([1 - p[places.index(key[1:])], p[places.index(key[1:])]]) for key in keys},
        )
        for p in product(np.linspace(0, 1, 7), repeat=len(places))
    )
    assert least == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("options", "steps", "learning_rate"),
    [
        ({}, 150, 5e-5),
        ({"games": ("kuhn_poker",)}, 600, 6e-6),
        ({"games": ("kuhn_poker",), "magnet": True}, 600, 6e-6),
        ({"games": ("tic_tac_toe",), "magnet": True}, 450, 3e-4),
        ({"games": ("tic_tac_toe",), "steps": 7, "learning_rate": 1.0}, 7, 1.0),
        ({"model": "some/model"}, 150, 1e-6),
    ],
)
def test_defaults_that_depend_on_other_settings_are_written_out(
    options: dict, steps: int, learning_rate: float
) -> None:
    """Oracle: the help texts of the two options. A run keeps the numbers, whatever a later version's defaults are."""
    resolved = spiral.Config(**options).resolved()
    assert (resolved.steps, resolved.learning_rate) == (steps, learning_rate)
    unset = [name for name, value in config_to_dict(resolved).items() if value is None]
    assert unset == ["max_cache_tokens", "max_think_tokens", "max_importance"]  # None is their value
    assert resolved.warmup_steps == (150 if resolved.model == "nano" else 0)


def test_the_paper_preset_is_the_papers() -> None:
    """Oracle: hyper-parameters published with SPIRAL (arXiv 2506.24119, Section 4 and appendix; released scripts)."""
    paper = spiral.PRESETS["paper"]
    published = {
        "model": "Qwen/Qwen3-4B-Base",
        "steps": 400,
        "samples_per_step": 128,
        "learning_rate": 1e-6,
        "learning_rate_decay": "constant",
        "advantage": "role_conditioned",
        "baseline_decay": 0.95,
        "baseline_order": "post",
        "discount": 1.0,
        "temperature": 1.0,
        "max_tokens": 8192,
        "loss_length": 8192,
        "clip": 0.2,
        "inner_epochs": 2,
        "max_grad_norm": 1.0,
        "invalid_reward": -1.5,
        "invalid_other": 0.5,
        "max_turns": 50,
        "magnet": False,
        "warmup_steps": 0,
        "style": "spiral",
        "eval_every": 16,
        "eval_episodes": 512,
        "eval_episodes_between": 16,
        "parse_mode": "strict",
        "eval_temperature": 0.6,
        "eval_top_p": 0.95,
    }
    assert {name: getattr(paper, name) for name in published} == published
    assert [game.split("(")[0] for game in paper.games] == ["kuhn_poker", "tic_tac_toe", "negotiation"]
    optimizer = spiral._optimizer(paper, _OneWeight())  # type: ignore[arg-type]
    (group,) = optimizer.param_groups
    assert (type(optimizer), group["betas"], group["weight_decay"]) == (torch.optim.AdamW, (0.9, 0.95), 0.0)


class _OneWeight:
    model = torch.nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("--samples-per-step 0", "samples_per_step"),
        ("--steps -1", "steps"),
        ("--max-tokens 0", "max_tokens"),
        ("--loss-length 0", "loss_length"),
        ("--inner-epochs 0", "inner_epochs"),
        ("--eval-every 0", "eval_every"),
        ("--eval-episodes 0", "eval_episodes"),
        ("--eval-episodes-between 0", "eval_episodes_between"),
        ("--model /some/model", "/some/model"),
        ("--model some/model --warmup-steps 1", "warmup_steps"),
        ("--server-patience -1", "server_patience"),
        ("--checkpoint-every 0", "checkpoint_every"),
        ("--threads 0", "threads"),
        ("--warmup-steps -1", "warmup_steps"),
        ("--learning-rate nan", "learning_rate"),
        ("--learning-rate -1e-5", "learning_rate"),
        ("--temperature 0", "temperature"),
        ("--clip 0", "clip"),
        ("--max-grad-norm 0", "max_grad_norm"),
        ("--max-importance 0", "max_importance"),
        ("--max-loss -1", "max_loss"),
        ("--rollout-timeout 0", "rollout_timeout"),
        ("--rollout-concurrency 0", "rollout_concurrency"),
        ("--baseline-decay 1.5", "baseline_decay"),
        ("--discount 2", "discount"),
        ("--learning-rate inf", "learning_rate"),
        ("--eval-top-p 0", "eval_top_p"),
        ("--eval-temperature -1", "eval_temperature"),
        ("--advantage grpo", "advantage"),
        ("--style breif", "'brief'"),
        ("--games kuhn_poker(rounds=0)", "rounds"),
        ("--rollout-servers http://127.0.0.1:9/v1", "nobody answers at http://127.0.0.1:9/v1"),
    ],
)
def test_wrong_settings_are_one_line(
    setting: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: exit code 2, one line of error that names the setting, and no run folder left behind."""
    arguments = ["train", "spiral", *setting.split(), "--device", "cpu", "--run-dir", str(tmp_path / "run")]
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfplay-fast:")]
    assert len(lines) == 1
    assert word in lines[0].replace("-", "_") or word in lines[0]
    assert not (tmp_path / "run").exists()
