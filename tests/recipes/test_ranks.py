"""SPIRAL over several processes, in which the games, the gradients, the weights and the files are shared."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from selfplay_fast import cli
from selfplay_fast.learn import update as updates
from selfplay_fast.learn.checkpoint import load_policy
from selfplay_fast.learn.packing import pack
from selfplay_fast.recipes import spiral

OnRanks = Callable[..., tuple[list[int], list[str]]]
SETTINGS = (
    "--games kuhn_poker kuhn_poker(rounds=2) --samples-per-step 24 --learning-rate 1e-3 --inner-epochs 2"
    " --baseline-decay 0.5 --max-tokens 3 --warmup-steps 0 --eval-every 9 --eval-episodes 1 --checkpoint-every 1"
    " --device cpu"
)


def settings(base: Path, run: Path, steps: int, *more: str) -> list[str]:
    return [
        "train",
        "spiral",
        "--model",
        str(base),
        *SETTINGS.split(),
        "--steps",
        str(steps),
        "--run-dir",
        str(run),
        *more,
    ]


def curves(run: Path) -> list[dict[str, float]]:
    """What a run has learned, by step; how much was shared depends on who computed what."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = ("loss", "grad_norm", "entropy", "ratio", "magnet_kl", "trained_tokens")
    return [
        {key: value for key, value in row.items() if key in own or key.startswith("kuhn_poker")}
        for row in rows
    ]


def said_in(run: Path) -> list[list[str]]:
    """The replies of every transcript."""
    lines = [line for path in sorted((run / "episodes").iterdir()) for line in path.read_text().splitlines()]
    return [[turn["reply"] for turn in json.loads(line)["turns"]] for line in lines]


def assert_same_curves(one: Path, other: Path) -> None:
    ours, theirs = curves(one), curves(other)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, abs=1e-5, nan_ok=True)


def test_two_processes_learn_what_one_does(on_ranks: OnRanks, base: Path, tmp_path: Path) -> None:
    """Oracle: the single process: its curves to 1e-5, and what was said word for word. What both ranks ran over is
    counted: the trees of the update, once for each of two epochs."""
    assert cli.main(settings(base, tmp_path / "one", 2)) == 0
    codes, said = on_ranks(2, *settings(base, tmp_path / "two", 2))
    assert codes == [0, 0], said
    assert_same_curves(tmp_path / "two", tmp_path / "one")
    first, second = (row["loss"] for row in curves(tmp_path / "one")[1:])
    assert abs(first - second) > 1e-3  # so the comparison can tell
    assert said_in(tmp_path / "two") == said_in(tmp_path / "one")
    shards = (tmp_path / "two" / "checkpoints").rglob("shard-*.safetensors")
    assert len(list(shards)) == 4  # of two ranks, after steps 1 and 2
    for row in map(json.loads, (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[1:]):
        assert row["update_tokens_per_s"] * row["update_s"] == pytest.approx(
            2 * row["computed_tokens"], rel=0.01
        )


def test_a_rank_without_samples(
    on_ranks: OnRanks, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the single process that learns from the same one sample, to 1e-5; one of two ranks has none."""

    def packed(*arguments, **options):  # type: ignore[no-untyped-def]
        return pack(*arguments, **options).take(np.arange(1))

    monkeypatch.setattr(spiral, "pack", packed)
    few = ("--samples-per-step", "4", "--magnet")
    assert cli.main(settings(base, tmp_path / "one", 1, *few)) == 0
    codes, said = on_ranks(2, *settings(base, tmp_path / "two", 1, *few))
    assert codes == [0, 0], said
    assert_same_curves(tmp_path / "two", tmp_path / "one")
    assert curves(tmp_path / "one")[-1]["trained_tokens"] > 0


@pytest.mark.long
@pytest.mark.parametrize(
    "more", [("--magnet",), ("--magnet", "--lora-rank", "4"), ("--gradient-checkpointing",)]
)
def test_another_number_of_processes_goes_on(
    on_ranks: OnRanks, base: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Oracle: a single process that was never stopped; two are stopped and one goes on, and the other way round."""
    if "--lora-rank" in more:
        pytest.importorskip("peft", reason="comes with the extra 'test'")
    assert cli.main(settings(base, tmp_path / "one", 2, *more)) == 0
    assert on_ranks(2, *settings(base, tmp_path / "two", 2, *more))[0] == [0, 0]
    shutil.copytree(tmp_path / "one", tmp_path / "one then two")
    for run in ("one", "two"):
        assert cli.main(["train", "--resume", str(tmp_path / run), "--steps", "3"]) == 0
    assert on_ranks(2, "train", "--resume", str(tmp_path / "one then two"), "--steps", "3")[0] == [0, 0]
    assert_same_curves(tmp_path / "two", tmp_path / "one")
    assert_same_curves(tmp_path / "one then two", tmp_path / "one")
    a, b = (
        load_policy(tmp_path / run / "checkpoints" / "step-000003").model.state_dict()
        for run in ("one", "two")
    )
    assert all((a[key] - b[key]).abs().max() < 1e-4 for key in a)


@pytest.mark.long
def test_a_fault_on_one_rank_stops_all(
    on_ranks: OnRanks, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a loss that is NaN on the second rank only, and a network there that fails: all end, with one line."""
    plain = updates._Pass.visit

    def poisoned(self, *arguments):  # type: ignore[no-untyped-def]
        loss = plain(self, *arguments)
        return loss * float("nan") if updates.distributed.share()[0] == 1 else loss

    monkeypatch.setattr(updates._Pass, "visit", poisoned)
    codes, said = on_ranks(2, *settings(base, tmp_path / "nan", 2))
    assert codes == [2, 2]
    assert "not finite; the step was not taken; the last good checkpoint is" in said[0]
    assert "error" not in said[1]

    def failing(self, *arguments):  # type: ignore[no-untyped-def]
        if updates.distributed.share()[0] == 1:
            raise ValueError("this rank has no electricity")
        return plain(self, *arguments)

    monkeypatch.setattr(updates._Pass, "visit", failing)
    codes, said = on_ranks(2, *settings(base, tmp_path / "failed", 2))
    assert codes == [2, 2]
    assert all("this rank has no electricity" in text for text in said)
    assert "rank 1: this rank has no electricity" in said[0]


@pytest.mark.long
def test_torchrun(base: Path, tmp_path: Path) -> None:
    """Oracle: the single process; a run that torchrun itself starts writes its curves to 1e-5."""
    assert cli.main(settings(base, tmp_path / "one", 1)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "selfplay_fast", *settings(base, tmp_path / "two", 1)],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert_same_curves(tmp_path / "two", tmp_path / "one")


@pytest.mark.long
def test_more_ranks_than_games(on_ranks: OnRanks, base: Path, tmp_path: Path) -> None:
    """Oracle: the message names the setting and both ways out, once, and no folder is left."""
    codes, said = on_ranks(3, *settings(base, tmp_path / "run", 1, "--samples-per-step", "2"))
    assert all(codes)
    assert (
        "samples_per_step: 2 games a step are fewer than the 3 ranks; play more, or start 2 ranks" in said[0]
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_weights_in_float32_behind_passes_in_bfloat16(on_ranks: OnRanks, base: Path, tmp_path: Path) -> None:
    """Oracle: a learning rate whose steps bfloat16 rounds away still moves the saved weights."""
    more = ("--dtype", "bfloat16", "--learning-rate", "1e-6")
    assert on_ranks(1, *settings(base, tmp_path / "run", 1, *more))[0] == [0]
    before, after = (
        load_policy(tmp_path / "run" / "checkpoints" / f"step-00000{step}").model.state_dict()
        for step in (0, 1)
    )
    assert all(weight.dtype == torch.float32 for weight in after.values())
    moved = torch.cat([(after[key] - before[key]).abs().flatten() for key in after])
    assert 1e-7 < moved.max() < 1e-5
    assert all(torch.equal(after[key].bfloat16(), before[key].bfloat16()) for key in after if "q_norm" in key)
