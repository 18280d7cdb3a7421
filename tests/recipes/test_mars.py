"""MARS from the command line on the nano model: it resumes exactly, learns, and refuses what makes no sense."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from selfplay_fast.cli import main
from selfplay_fast.learn.checkpoint import list_checkpoints
from selfplay_fast.play import GameTable, scheduler
from selfplay_fast.recipes import mars

# All that a step depends on changes from step to step: rates, moments, baselines, the distance from the reference.
RUN = (
    "train mars --games kuhn_poker --held-out --steps 3 --games-per-step 12 --sequences-per-update 8"
    " --kl 0.1 --old-logprobs learner --advantage role_conditioned --warmup-steps 10 --warmup-games 6"
    " --max-tokens 5 --eval-every 3 --eval-episodes 2 --eval-episodes-between 2 --checkpoint-every 1 --threads 1"
    " --device cpu --run-dir"
)


def test_a_run_goes_on_from_a_checkpoint_to_the_same_digits(
    whole: Path, tmp_path: Path, rows: Callable[..., Any]
) -> None:
    """Oracle: the uninterrupted run. Every metric but timings is equal digit for digit, the last checkpoint byte for
    byte; and no two steps are alike."""
    run, again = whole, tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "step-000003")
    assert main(["train", "--resume", str(again)]) == 0
    assert rows(again) == rows(run)
    assert [row["step"] for row in rows(run)] == [0, 1, 2, 3]
    assert (
        len({row["loss"] for row in rows(run)[1:]}) == len({row["magnet_kl"] for row in rows(run)[1:]}) == 3
    )
    for name in ("model/model.safetensors", "optimizer.safetensors", "state.json"):
        ours, theirs = (list_checkpoints(path / "checkpoints")[-1] / name for path in (run, again))
        assert ours.read_bytes() == theirs.read_bytes()
    scores = {key.split("score_vs_")[1] for key in rows(run)[0] if "/score_vs_" in key}
    assert {"random", "equilibrium"} < scores
    assert (run / "report.html").is_file()
    episode = json.loads((run / "episodes" / "step-000001.jsonl").read_text().splitlines()[0])
    assert len(episode["turns"][0]["prompt"]) > 10


def test_commands_speak_to_it_in_conversations(
    whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: what the tables of `evaluate` and `arena` are made with; no NashConv, which is of states alone; and one
    line where somebody else at the table learned without conversations."""
    made = []

    class Watched(GameTable):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.append((options["chat"], options["legal_list"], options["style"]))
            super().__init__(*arguments, **options)

    monkeypatch.setattr(scheduler, "GameTable", Watched)
    monkeypatch.setattr(sys.modules["selfplay_fast.evaluate.arena"], "GameTable", Watched)
    assert main(["evaluate", str(whole), "--episodes", "2", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert "kuhn_poker/score_vs_equilibrium" in metrics
    assert not any("nash_conv" in name for name in metrics)
    evaluated = len(made)
    assert main(["arena", "kuhn_poker", str(whole), "random", "--episodes", "2"]) == 0
    assert len(made) > evaluated > 1
    assert set(made) == {(True, False, "brief")}
    other = whole.parent / "other"
    shutil.copytree(whole, other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("chat: true", "chat: false"))
    assert main(["arena", "kuhn_poker", str(whole), str(other), "--episodes", "2"]) == 2
    assert "cannot sit at one table" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mini_hanabi_is_learned(seed: int, tmp_path: Path, rows: Callable[..., Any]) -> None:
    """Oracle: 1.44, the mean of random play: above it by ten standard errors of the last evaluation."""
    settings = f"--held-out --steps 25 --seed {seed} --threads 1 --device cpu --run-dir {tmp_path / 'run'}"
    assert main(["train", "mars", "--games", mars.MINI_HANABI, *settings.split()]) == 0
    last = rows(tmp_path / "run")[-1]
    key = f"{mars.MINI_HANABI}/score_vs_itself"
    assert last[key] > 1.44 + 10 * last[f"{key}_error"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"games": ()}, "games: name"),
        ({"games_per_step": 2}, "games_per_step: 2 cannot cover 3"),
        ({"games_per_step": 0}, "games_per_step: must be at least 1"),
        ({"sequences_per_update": 0}, "sequences_per_update: must be"),
        ({"dual_clip": 1.0}, "dual_clip: must be above 1"),
        ({"top_p": 1.5}, "top_p: must be at most 1"),
        ({"temperature": 0.0}, "temperature: must be above 0"),
        ({"temperature": 0.6}, "old_logprobs: .* set it to learner"),
        ({"top_k": 5}, "old_logprobs"),
        ({"kl": -1.0}, "kl: must be"),
        ({"invalid_reward": float("nan")}, "invalid_reward: must be"),
        ({"estimator": "released", "pool": "batch"}, "estimator: the released"),
        ({"model": "path/to/model", "warmup_steps": 1}, "model: .* is not nano"),
        ({"lora_rank": 8}, "lora_rank: nano"),
        ({"long_reply": 11}, "long_reply: must be at least 12"),
    ],
)
def test_settings_that_make_no_sense(change: dict, problem: str) -> None:
    """Oracle: one line that names the setting."""
    with pytest.raises(ValueError, match=problem):
        replace(mars.Config(), **change)


def test_only_nano_is_warmed_up() -> None:
    """Oracle: the option's help text."""
    assert mars.Config().resolved().warmup_steps == 160
    assert mars.Config(model="path/to/model").resolved().warmup_steps == 0
    assert mars.Config(warmup_steps=3).resolved().warmup_steps == 3


def test_the_paper_s_preset_is_the_published_configuration() -> None:
    """Oracle: the published hyper-parameters, by name; and every setting is explained."""
    paper = mars.PRESETS["paper"]
    published = {
        "steps": 200,
        "games_per_step": 384 / 2,
        "sequences_per_update": 8,
        "learning_rate": 1e-6,
        "learning_rate_warmup": 10,
        "weight_decay": 0.05,
        "temperature": 0.6,
        "top_p": 0.99,
        "top_k": 100,
        "logprob_temperature": 1.0,
        "old_logprobs": "learner",
        "max_tokens": 4096,
        "clip": 0.2,
        "dual_clip": 1.4,
        "kl": 0.2,
        "format_reward": 0.05,
        "invalid_reward": -10.0,
        "long_reply": 2048,
        "forced_prefix": "<think>\n",
        "parse_mode": "strict",
        "style": "mars",
        "max_turns": 50,
    }
    assert {name: getattr(paper, name) for name in published} == published
    assert {field.name for field in fields(paper)} >= set(published)
    assert list(mars.opponents("tic_tac_toe")) == ["random", "mcts 100", "mcts 1000"]
    assert list(mars.opponents("connect_four")) == ["random", "mcts 10", "mcts 100"]
    assert list(mars.opponents("leduc_poker")) == ["random", "equilibrium"]
    assert mars.opponents(mars.SIMPLE_HANABI) == {}
