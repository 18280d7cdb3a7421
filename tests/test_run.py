"""Run directories: what is written is read back, a crash loses nothing, and errors name the way out.

The oracle of every test is what was put in, read back with plain `json` and `yaml`.
"""

import errno
import gzip
import json
import math
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import selfplay_fast.recipes
from selfplay_fast import phases
from selfplay_fast.config import config_from_dict, config_to_dict, load_recipe, nearest, write_atomic
from selfplay_fast.records import Ask, Episode, Key, Reply, Turn
from selfplay_fast.report import read_metrics
from selfplay_fast.run import TRANSCRIPTS_PER_GAME, Run

TOY_RECIPE = '''
"""A recipe for tests."""
from dataclasses import dataclass
from selfplay_fast.config import RecipeConfig

@dataclass(frozen=True, kw_only=True)
class Config(RecipeConfig):
    model: str = "nano"
    games: tuple[str, ...] = ("kuhn_poker",)
    steps: int = 3
    learning_rate: float = 1e-3
    magnet: bool = False
    warmup: int | None = None
    order: str = "post"

PRESETS = {"nano": Config()}
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The module of a recipe `toy`, found by its file name like any other."""
    folder = tmp_path / "more_recipes"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY_RECIPE)
    monkeypatch.setattr(selfplay_fast.recipes, "__path__", [*selfplay_fast.recipes.__path__, str(folder)])
    yield load_recipe("toy")
    sys.modules.pop("selfplay_fast.recipes.toy", None)


@pytest.fixture
def run(toy, tmp_path: Path) -> Run:
    return Run.create("toy", toy.Config(), tmp_path / "run")


def make_episode(game: str = "kuhn_poker", seed: int = 0, reply: str = "\\boxed{bet}") -> Episode:
    ask = Ask(role="player_0", append=[{"role": "user", "content": "Your card: K."}], key=Key(0, seed, 0))
    turn = Turn(ask=ask, reply=Reply(text=reply), action=1, action_text="[bet]", reward=1.0)
    returns = {"player_0": 1.0, "player_1": -1.0}
    return Episode(game=game, index=seed, seed=seed, group=0, turns=(turn,), returns=returns)


def rows_of(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]


def test_create_then_resume_gives_the_same_config(toy, tmp_path: Path) -> None:
    """Oracle: the configuration that went in, with a value of every kind changed."""
    config = toy.Config(
        games=("tic_tac_toe", "kuhn_poker(rounds=5)"), learning_rate=1e-6, magnet=True, warmup=7
    )
    created = Run.create("toy", config, tmp_path / "run")
    resumed = Run.resume(created.directory)
    assert resumed.config == config
    assert resumed.recipe == "toy"
    assert resumed.checkpoints.is_dir()
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["config"]["learning_rate"] == 1e-6


def test_default_directory_is_new_each_time(toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: two runs started within one second do not share a folder."""
    monkeypatch.chdir(tmp_path)
    first, second = Run.create("toy", toy.Config()), Run.create("toy", toy.Config())
    assert first.directory != second.directory
    assert first.directory.parent == Path("runs")
    assert first.directory.name.startswith("toy-")


def test_create_refuses_a_used_directory(run: Run, toy) -> None:
    """Oracle: the message says how to continue, and the old run is untouched."""
    before = (run.directory / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run: continue it with --resume"):
        Run.create("toy", toy.Config(steps=9), run.directory)
    assert (run.directory / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("place", ["file/run", "/proc/selfplay-run"])
def test_create_in_an_unwritable_place(toy, tmp_path: Path, place: str) -> None:
    """Oracle: one ValueError of one line naming the folder, whether below a file or in a read-only tree."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write the run folder") as caught:
        Run.create("toy", toy.Config(), tmp_path / place)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learning_rat", 1.0, "unknown key 'learning_rat' .did you mean 'learning_rate'"),
        ("steps", "many", "steps: expected int, got 'many'"),
        ("games", "kuhn_poker", "games: expected a list"),
        ("magnet", 1, "magnet: expected bool"),
        ("learning_rate", "fast", "learning_rate: expected a number"),
    ],
)
def test_resume_with_a_wrong_config(run: Run, key: str, value: object, message: str) -> None:
    """Oracle: the key that was broken by hand, named with the file."""
    path = run.directory / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["config"][key] = value
    if key == "learning_rat":
        del content["config"]["learning_rate"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message) as caught:
        Run.resume(run.directory)
    assert "config.yaml" in str(caught.value)


def test_resume_with_a_missing_key_and_a_missing_run(run: Run, tmp_path: Path) -> None:
    """Oracle: the key taken out, and the folder that is not there."""
    path = run.directory / "config.yaml"
    content = yaml.safe_load(path.read_text())
    del content["config"]["steps"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="missing key 'steps'"):
        Run.resume(run.directory)
    with pytest.raises(ValueError, match="no run at"):
        Run.resume(tmp_path / "nowhere")
    path.write_text("recipe: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        Run.resume(run.directory)


def test_a_number_edited_in_as_text_is_read(toy) -> None:
    """Oracle: YAML 1.1 reads 1e-6 as text; the config still gets the number."""
    values = config_to_dict(toy.Config()) | {"learning_rate": "1e-6"}
    assert config_from_dict(toy.Config, values).learning_rate == 1e-6


def test_unknown_recipe_suggests_the_nearest(toy) -> None:
    """Oracle: a one-letter slip of the installed name."""
    with pytest.raises(ValueError, match=r"unknown recipe 'toyy' .did you mean 'toy'"):
        load_recipe("toyy")
    assert nearest("qqqq", ["kuhn_poker"]) == ""


def test_log_round_trips_to_the_last_digit(run: Run) -> None:
    """Oracle: the numbers logged; null for what JSON cannot hold."""
    exact = 0.1 + 0.2
    run.log(0, {"loss": exact, "kuhn_poker/nash_conv": np.float32(0.25), "grad_norm": math.nan})
    run.log(1, {"loss": -math.inf, "tokens": 7})
    first, second = rows_of(run)
    assert (first["step"], first["loss"], first["grad_norm"]) == (0, exact, None)
    assert first["kuhn_poker/nash_conv"] == 0.25
    assert (second["loss"], second["tokens"]) == (None, 7)
    assert 0 <= first["time_s"] <= second["time_s"]


def test_log_writes_readable_transcripts(run: Run) -> None:
    """Oracle: the episodes logged; a few of every game, advantages at their turns, odd text survives."""
    episodes = [make_episode(seed=i) for i in range(10)]
    episodes += [make_episode("tic_tac_toe", seed=99, reply="a\ud800b\u2028\x00")]
    run.log(5, {}, episodes, advantages=[[0.5 * i] for i in range(11)])
    text = (run.directory / "episodes" / "step-000005.jsonl").read_text()
    written = [json.loads(line) for line in text.split("\n")[:-1]]
    assert sum(e["game"] == "kuhn_poker" for e in written) == TRANSCRIPTS_PER_GAME
    for episode in written[:-1]:
        assert episode["turns"][0]["advantage"] == 0.5 * episode["seed"]
        assert episode["turns"][0]["reply"] == "\\boxed{bet}"
    assert written[-1]["seed"] == 99
    assert written[-1]["turns"][0]["reply"] == "a?b\u2028\x00"
    with pytest.raises(ValueError, match="1 advantages for 2 episodes"):
        run.log(6, {}, episodes[:2], advantages=[[0.0]])


def test_truncate_forgets_later_steps(run: Run) -> None:
    """Oracle: rows and files of steps up to the given one, and a half-written last line gone."""
    for step in range(6):
        run.log(step, {"loss": step / 3}, [make_episode(seed=step)])
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "los')
    resumed = Run.resume(run.directory)
    resumed.truncate(3)
    assert [(row["step"], row["loss"]) for row in rows_of(resumed)] == [(step, step / 3) for step in range(4)]
    files = sorted(path.name for path in (run.directory / "episodes").iterdir())
    assert files == [f"step-{step:06d}.jsonl" for step in range(4)]
    resumed.log(4, {"loss": 1.0})
    assert rows_of(resumed)[-1]["time_s"] >= rows_of(resumed)[-2]["time_s"]


def test_truncate_removes_half_written_files(run: Run) -> None:
    """Oracle: the folder's listing. What a killed run was writing is gone, what it had written stays."""
    run.log(0, {"loss": 1.0})
    half = run.directory / "episodes" / ".step-000001.jsonl.abc.tmp"
    half.parent.mkdir(exist_ok=True)
    half.write_text("{")
    before = sorted(path for path in run.directory.rglob("*") if path != half)
    Run.resume(run.directory).truncate(0)
    assert sorted(run.directory.rglob("*")) == before


def test_truncate_before_anything_was_logged(run: Run) -> None:
    """Oracle: a run killed before its first row resumes with no rows."""
    (run.directory / "metrics.jsonl").unlink(missing_ok=True)
    run.truncate(0)
    assert rows_of(run) == []


def test_truncate_names_a_broken_line(run: Run) -> None:
    """Oracle: the number of the line that was broken by hand; nothing is rewritten."""
    path = run.directory / "metrics.jsonl"
    path.write_text('{"step": 0}\nbroken\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        run.truncate(1)
    assert path.read_text().count("\n") == 3


def test_full_disk_keeps_earlier_rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: an fsync that fails like a full disk; the file holds exactly the rows before."""
    run.log(1, {"loss": 1.0})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"no space left.*nothing logged so far is lost"):
            run.log(2, {"loss": 2.0})
    assert [row["step"] for row in rows_of(run)] == [1]
    run.log(2, {"loss": 2.0})
    assert [row["step"] for row in rows_of(run)] == [1, 2]


def test_write_atomic_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a replace that fails; the old text stays and no temporary file is left."""
    path = tmp_path / "config.yaml"
    write_atomic(path, "old")

    def broken(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="no"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_steps_count_from_start_and_survive_an_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: start+1 … total; after an error the traceback is kept and logging goes on."""
    seen = []
    run.status("building the model")
    error = RuntimeError("boom")
    with pytest.raises(RuntimeError):  # noqa: PT012 - the loop is what is tested
        for step in run.steps(5, start=2):
            run.log(step, {"loss": 0.5, "kuhn_poker/legal_rate": 0.9996})
            seen.append(step)
            if step == 4:
                raise error
    run.fail(error)
    assert seen == [3, 4]
    assert "RuntimeError: boom" in (run.directory / "error.txt").read_text()
    shown = capsys.readouterr().err
    assert "building the model" in shown
    assert "step 3/5" in shown
    assert "99.9 %" in shown  # never rounded up to 100
    assert "\x1b" not in shown  # stderr is not a terminal here
    run.log(4, {"loss": 0.5})


def test_finish_prints_the_table_and_writes_the_report(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: first and last values logged, found in the printed table beside the report's path."""
    run.log(
        0, {"kuhn_poker/legal_rate": 0.5, "kuhn_poker/nash_conv": 0.917, "kuhn_poker/return/player_0": -0.5}
    )
    run.log(1, {"kuhn_poker/legal_rate": 0.7})
    run.log(
        2, {"kuhn_poker/legal_rate": 1.0, "kuhn_poker/nash_conv": 0.25, "kuhn_poker/return/player_0": 0.1}
    )
    report = run.finish()
    out = capsys.readouterr().out
    assert report.is_file()
    assert str(report) in out
    line = next(line for line in out.splitlines() if "NashConv" in line)
    assert "0.917" in line
    assert "0.250" in line
    assert "50.0 %" in out
    assert "100.0 %" in out
    assert "return, player 0" in out


def test_tensorboard_holds_the_same_scalars(toy, tmp_path: Path) -> None:
    """Oracle: TensorBoard's own reader."""
    from tensorboard.backend.event_processing import event_accumulator as accumulator

    run = Run.create("toy", toy.Config(), tmp_path / "run", tensorboard=True)
    run.log(1, {"loss": 0.5, "kuhn_poker/nash_conv": 0.25})
    run.log(2, {"loss": 0.25})
    run.finish()
    events = accumulator.EventAccumulator(str(run.directory / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("kuhn_poker/nash_conv")] == [(1, 0.25)]
    assert Run.resume(run.directory)._tensorboard


def test_phases_are_timed_and_memory_is_seen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a clock that is put on twice in one phase; the next row starts at nothing. Memory: the kernel's mark."""
    now = 0.0
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now)
    for seconds in (1.5, 0.25):
        with run.phase("rollout"):
            now += seconds
        now += 8
    assert run.seconds("rollout", "update") == run.seconds("rollout") == 1.75
    run.log(1, {"loss": 1.0})
    with run.phase("update"):
        pass
    run.log(2, {})
    first, second = rows_of(run)
    assert first["rollout_s"] == 1.75
    assert "rollout_s" not in second
    assert second["update_s"] == 0
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    assert first["peak_memory_mib"] == pytest.approx(peak, rel=0.05)


def test_a_trace_of_the_second_and_third_step(toy, tmp_path: Path) -> None:
    """Oracle: the files' own JSON: a product of matrices and the phase it was made in are in it, and no other step."""
    import torch

    run = Run.create("toy", toy.Config(), tmp_path / "run", profile=True)
    for step in run.steps(5):
        with run.phase("update"):
            torch.ones(8, 8) @ torch.ones(8, 8)
        run.log(step, {})
    traces = sorted((run.directory / "profile").iterdir())
    assert [path.name for path in traces] == ["step-000002.json.gz", "step-000003.json.gz"]
    events = {event["name"] for event in json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"]}
    assert {"update", "aten::mm"} <= events


def test_weights_and_biases_gets_every_row(toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what was logged, found in the files that wandb writes offline before and after the run is resumed; both
    parts carry one id."""
    wandb = pytest.importorskip("wandb", reason="comes with the extra 'test'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = Run.create("toy", toy.Config(), tmp_path / "run", wandb=True)
    run.log(1, {"loss": 0.123456})
    run.fail(KeyboardInterrupt())
    again = Run.resume(run.directory)
    again.log(2, {"loss": 0.654321})
    again.fail(KeyboardInterrupt())
    wandb.teardown()  # its own process writes
    run_id = yaml.safe_load((run.directory / "config.yaml").read_text())["wandb"]
    parts = [path.read_bytes() for path in run.directory.rglob(f"run-{run_id}.wandb")]
    assert len(parts) == 2
    for number in (b"0.123456", b"0.654321"):
        assert sum(number in part for part in parts) == 1
    assert all(b"learning_rate" in part for part in parts)


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed(
    toy, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: one line with the option and the extra; no folder is made."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"--{package}: .*not installed.*\[{package}\]"):
        Run.create("toy", toy.Config(), tmp_path / "run", **{package: True})
    assert not (tmp_path / "run").exists()


def test_files_cut_anywhere_are_whole_or_named(run: Run) -> None:
    """Oracle: the files before they were cut, at every byte. Of the metrics the whole rows are left; a config is read
    as it was or refused in one line that names it."""
    for step in range(3):
        run.log(step, {"loss": step / 3})
    metrics = run.directory / "metrics.jsonl"
    text, rows = metrics.read_bytes(), rows_of(run)
    for size in range(len(text)):
        metrics.write_bytes(text[:size])
        whole = text[:size].count(b"\n") + (text[size : size + 1] == b"\n")
        assert read_metrics(run.directory) == rows[:whole]
    config = run.directory / "config.yaml"
    text = config.read_bytes()
    for size in range(len(text)):
        config.write_bytes(text[:size])
        try:
            assert Run.resume(run.directory).config == run.config
        except ValueError as error:
            assert re.fullmatch(r".*config\.yaml.*", str(error))  # noqa: PT017


@pytest.mark.parametrize("line", [b'{"step": 1e999}', b"[" * 100_000, b'{"step": "x"}', b"\xff\xfe", b"3"])
def test_a_broken_row_is_named(run: Run, line: bytes) -> None:
    """Oracle: the number of the line that was put in."""
    run.log(0, {"loss": 1.0})
    with (run.directory / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: not a metrics row"):
        run.truncate(0)


def test_missing_rows_are_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the last row that is there, and the checkpoint's step."""
    run.log(2, {"loss": 1.0})
    run.truncate(4)
    assert "ends with step 2: rows up to step 4 are missing" in capsys.readouterr().err


def test_a_folder_in_which_a_start_failed_can_be_used(toy, tmp_path: Path) -> None:
    """Oracle: empty folders and what a killed process was writing do not count as a run."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / ".config.yaml.abc.tmp").write_text("rec")
    assert Run.create("toy", toy.Config(), tmp_path / "run").directory.is_dir()


def test_replace_config_is_written(run: Run) -> None:
    """Oracle: the longer run read back."""
    run.replace_config(replace(run.config, steps=9), from_step=1)
    assert Run.resume(run.directory).config.steps == 9


def test_changes_are_told_and_hold_from_the_step_that_is_made_first(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: three values in turn. What was changed from step 9 on holds from step 4 if step 3 is gone back to."""
    for steps, done in ((9, 4), (10, 8)):
        run = Run.resume(run.directory)
        run.replace_config(replace(run.config, steps=steps), from_step=done + 1)
        run.truncate(done)
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if "before" in line] == [
        "from step 5: steps 9, before 3",
        "from step 9: steps 10, before 9",
    ]
    Run.resume(run.directory).truncate(3)
    assert "from step 4: steps 9, before 3" in capsys.readouterr().err
    content = yaml.safe_load((run.directory / "config.yaml").read_text())
    assert [(c["from_step"], c["option"], c["before"], c["after"]) for c in content["changes"]] == [
        (4, "steps", 3, 9),
        (4, "steps", 9, 10),
    ]
    assert list(content)[-1] == "config"
    assert "from step 4" in run.finish().read_text()


def test_config_types_are_checked() -> None:
    """Oracle: one value of each annotation that recipes use, right and wrong."""
    from typing import Literal

    @dataclass(frozen=True, kw_only=True)
    class Kinds:
        order: Literal["post", "pre"] = "post"
        pair: tuple[int, float] = (1, 2.0)
        limit: float | None = None

    good = config_from_dict(Kinds, {"order": "pre", "pair": [3, 4], "limit": 5})
    assert good == Kinds(order="pre", pair=(3, 4.0), limit=5.0)
    for wrong, message in (
        ({"order": "pree"}, "did you mean 'pre'"),
        ({"pair": [1]}, "expected 2 values"),
        ({"pair": [True, 1]}, "expected int"),
        ({"limit": "x"}, "expected a number"),
    ):
        with pytest.raises(ValueError, match=message):
            config_from_dict(Kinds, config_to_dict(Kinds()) | wrong)
