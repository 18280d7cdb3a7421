"""The command line: what is asked for is done, and wrong input is one clear line with exit code 2.

Oracles: the files a command leaves, and for errors the wrong word and the right one nearest to it.
"""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import selfplay_fast.recipes
from selfplay_fast import solvers
from selfplay_fast.cli import COMMANDS, main
from selfplay_fast.config import CHANGEABLE, load_recipe, option_types, recipe_names

TOY_RECIPE = '''
"""TOY: a recipe for tests.  Nobody et al.

More about it.
"""
from dataclasses import dataclass
from typing import Literal
from selfplay_fast.config import RecipeConfig

@dataclass(frozen=True, kw_only=True)
class Config(RecipeConfig):
    """Settings of the toy."""

    games: tuple[str, ...] = ("kuhn_poker",)
    """what to play"""
    steps: int = 3
    """how long"""
    learning_rate: float = 1e-3
    """how fast"""
    threads: int = 1
    """with how many"""
    magnet: bool = False
    """a switch"""
    order: Literal["post", "pre"] = "post"
    """which first"""
    fail: str = ""
    """what to raise"""

PRESETS = {"nano": Config(), "paper": Config(steps=5, learning_rate=1e-6)}

def train(config, run):
    run.status("starting")
    done = 0
    if config.fail == "early":
        raise ValueError("model: no such thing")
    metrics = run.directory / "metrics.jsonl"
    if metrics.exists():
        done = len(metrics.read_text().splitlines()) - 1
    else:
        run.log(0, {"kuhn_poker/legal_rate": 0.5})
    for step in run.steps(config.steps, start=done):
        run.log(step, {"loss": 1 / step, "kuhn_poker/legal_rate": 1.0})
        if step == 2 and config.fail:
            raise {"nan": FloatingPointError("loss is NaN at step 2"), "bug": KeyError("oops\\nline"),
                   "stop": KeyboardInterrupt()}[config.fail]
'''


@pytest.fixture(autouse=True)
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A recipe `toy`, found by its file name, and an empty working folder."""
    folder = tmp_path / "more_recipes"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY_RECIPE)
    monkeypatch.setattr(selfplay_fast.recipes, "__path__", [*selfplay_fast.recipes.__path__, str(folder)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPF_DEBUG", raising=False)
    yield
    sys.modules.pop("selfplay_fast.recipes.toy", None)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a wrong command line and return its only line on stderr."""

    def run(*arguments: str, code: int = 2) -> str:
        assert main(arguments) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("selfplay-fast: ")
        return lines[0].removeprefix("selfplay-fast: ")

    return run


def test_train_writes_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the options given, read back from the run folder; the preset's for the rest."""
    arguments = "train toy --preset paper --games tic_tac_toe kuhn_poker(rounds=5) --magnet --run-dir r"
    assert main(arguments.split()) == 0
    config = yaml.safe_load(Path("r/config.yaml").read_text())["config"]
    assert config["games"] == ["tic_tac_toe", "kuhn_poker(rounds=5)"]
    assert (config["steps"], config["learning_rate"], config["magnet"]) == (5, 1e-6, True)
    rows = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert Path("r/report.html").is_file()
    assert "r/report.html" in capsys.readouterr().out


def test_train_stopped_and_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: exit code 130 and the command to go on, which then goes on, and may lengthen the run."""
    assert main(["train", "toy", "--fail", "stop", "--run-dir", "r"]) == 130
    assert "train --resume r" in capsys.readouterr().err
    content = Path("r/config.yaml").read_text().replace("fail: stop", "fail: ''")
    Path("r/config.yaml").write_text(content)
    assert main(["train", "--resume", "r", "--steps", "4"]) == 0
    rows = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert yaml.safe_load(Path("r/config.yaml").read_text())["config"]["steps"] == 4
    assert main(["train", "toy", "--resume=r"]) == 0


def test_where_and_how_a_resumed_run_computes_may_change() -> None:
    """Oracle: the options given, read back with the step from which they hold; the toy ran to step 3."""
    assert main(["train", "toy", "--run-dir", "r"]) == 0
    assert "changes" not in yaml.safe_load(Path("r/config.yaml").read_text())
    assert main(["train", "--resume", "r", "--threads", "2", "--steps", "4"]) == 0
    content = yaml.safe_load(Path("r/config.yaml").read_text())
    assert (content["config"]["threads"], content["config"]["steps"]) == (2, 4)
    assert {change["option"]: (change["before"], change["after"]) for change in content["changes"]} == {
        "threads": (1, 2),
        "steps": (3, 4),
    }


def test_train_fails_in_one_line_and_keeps_the_run(refused: Callable[..., str], capsys) -> None:
    """Oracle: the recipe's own message as the last line, the traceback in error.txt, the rows kept."""
    assert main(["train", "toy", "--fail", "nan", "--run-dir", "r"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "selfplay-fast: error: loss is NaN at step 2; there is no checkpoint in r yet"
    )
    assert "FloatingPointError" in Path("r/error.txt").read_text()
    assert len(Path("r/metrics.jsonl").read_text().splitlines()) == 3
    assert main(["train", "toy", "--fail", "bug", "--run-dir", "r2"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("selfplay-fast: internal error: KeyError: ")
    with pytest.raises(FloatingPointError):
        main(["train", "toy", "--fail", "nan", "--run-dir", "r3", "--debug"])


def test_a_refused_start_leaves_no_folder() -> None:
    """Oracle: the folder is not there after a model that does not exist, and can be used then."""
    assert main(["train", "toy", "--fail", "early", "--run-dir", "r"]) == 2
    assert not Path("r").exists()
    assert main(["train", "toy", "--run-dir", "r"]) == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian toy", ["'trian'", "'train'"]),
        ("train tyo", ["'tyo'", "'toy'"]),
        ("train toy --preset papr", ["'papr'", "'paper'"]),
        ("train toy --preset", ["--preset", "missing value"]),
        ("train toy --stepz 3", ["--stepz", "'--steps'"]),
        ("train toy --learning-rte 3", ["--learning-rte", "'--learning-rate'"]),
        ("train toy --no-steps", ["--no-steps"]),
        ("train toy --steps abc", ["--steps", "whole number", "'abc'"]),
        ("train toy --steps 1.5", ["--steps", "whole number", "'1.5'"]),
        ("train toy --learning-rate fast", ["--learning-rate", "number", "'fast'"]),
        ("train toy --steps", ["--steps", "missing value"]),
        ("train toy --order psot", ["--order", "'psot'", "post, pre", "'post'"]),
        ("train toy extra", ["unexpected 'extra'"]),
        ("train toy --games kuhn_pokr", ["--games: unknown game 'kuhn_pokr'", "'kuhn_poker'"]),
        ("train toy --games kuhn_poker(round=5)", ["round", "'rounds'"]),
        ("train toy --games", ["--games", "at least one"]),
        ("train toy --games kuhn_poker,tic_tac_toe", ["--games", "spaces: kuhn_poker tic_tac_toe"]),
        ("train toy --games kuhn_poker kuhn_poker", ["--games", "kuhn_poker is named twice"]),
        ("train spiral --temperature 0", ["--temperature: must be above 0"]),
        ("train spiral --eval-every 0", ["--eval-every: must be at least 1"]),
        ("train spiral --device nowhere", ["--device: must be cpu, cuda", "'nowhere'"]),
        ("train spiral --invalid-reward nan", ["--invalid-reward: must be a number, got nan"]),
        ("train spiral --model nanoo", ["--model: 'nanoo'", "did you mean 'nano'"]),
        ("train spiral --model a/model --warmup-steps 5", ["--model: 'a/model'", "leave warmup_steps out"]),
        ("train mars --model a/model --warmup-steps 5", ["--model: 'a/model'", "leave warmup_steps out"]),
        ("train toy --out x", ["unknown option --out; see"]),
        ("train", ["name a recipe", "toy"]),
        ("train --steps 3", ["name a recipe", "toy"]),
        ("train --resume nowhere", ["no run at nowhere"]),
        ("train toy --run-dir /proc/spf", ["cannot write", "/proc/spf", "--run-dir"]),
        ("evaluate", ["RUN_OR_MODEL", "missing"]),
        ("evaluate ./nowhere", ["./nowhere"]),
        ("evaluate model --episodes 0", ["--episodes"]),
        ("evaluate model --temperature -1", ["--temperature: must be 0 or >= 0.0001, got -1"]),
        ("evaluate model --top-p 2", ["--top-p: must be in (0, 1], got 2"]),
        ("evaluate model --exact-states -1", ["--exact-states: must be at least 0, got -1"]),
        ("evaluate model --step 3", ["--step", "not a run"]),
        ("evaluate model --games tictactoe", ["tictactoe", "'tic_tac_toe'"]),
        ("arena", ["GAME", "missing"]),
        ("arena kuhn_poker random", ["PLAYER", "two at least", "1"]),
        ("arena kuhn_poker random random", ["PLAYER", "random is named twice"]),
        ("arena kuhn_poker random optimall", ["'optimall'", "'optimal'"]),
        ("arena kuhn_pokr random optimal", ["kuhn_pokr", "'kuhn_poker'"]),
        ("arena kuhn_poker random ./nowhere", ["./nowhere"]),
        ("arena kuhn_poker random optimal --episodes 0", ["--episodes: must be at least 1, got 0"]),
        ("arena kuhn_poker random optimal --top-p 2", ["--top-p: must be in (0, 1], got 2"]),
        ("arena hanabi(players=3) random optimal", ["too large to solve"]),
        ("report nowhere", ["no run at nowhere"]),
        ("report", ["RUN", "missing"]),
        ("games --jsn", ["--jsn", "'--json'"]),
        ("export nowhere out", ["no run at nowhere"]),
        ("export nowhere", ["OUT", "missing"]),
    ],
)
def test_wrong_input_is_one_line(line: str, words: list[str], refused: Callable[..., str]) -> None:
    """Oracle: every wrong word is named, with the right one where one is near; no folder is made."""
    message = refused(*line.split())
    for word in words:
        assert word in message
    assert not Path("runs").exists()


def test_a_resumed_run_keeps_its_settings(refused: Callable[..., str], capsys) -> None:
    """Oracle: the option that may not change is named; another recipe and another folder are refused."""
    assert main(["train", "toy", "--run-dir", "r"]) == 0
    capsys.readouterr()
    message = refused("train", "--resume", "r", "--threads", "2", "--learning-rate", "1")
    assert "--learning-rate: a resumed run keeps its settings; only --steps, --threads and --prof" in message
    assert yaml.safe_load(Path("r/config.yaml").read_text())["config"]["threads"] == 1
    assert "is a run of 'toy'" in refused("train", "spiral", "--resume", "r")
    assert "--run-dir" in refused("train", "--resume", "r", "--run-dir", "q")
    assert "--preset" in refused("train", "--resume", "r", "--preset", "paper")
    assert "--tensorboard" in refused("train", "--resume", "r", "--tensorboard")
    assert "--wandb" in refused("train", "--resume", "r", "--wandb")
    assert "holds a run: continue it with --resume r" in refused("train", "toy", "--run-dir", "r")
    Path("r/config.yaml").write_text(Path("r/config.yaml").read_text().replace("steps:", "stebs:"))
    assert "did you mean 'steps'" in refused("train", "--resume", "r")


@pytest.fixture(scope="module")
def nano_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of the real recipe on one game."""
    run = tmp_path_factory.mktemp("nano") / "run"
    settings = (
        "--games kuhn_poker --steps 1 --warmup-steps 1 --eval-episodes 2 --samples-per-step 8 --threads 1"
    )
    assert main(["train", "spiral", *settings.split(), "--run-dir", str(run)]) == 0
    return run


def test_evaluate_a_run_and_its_export(
    nano_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the exact NashConv of the run's last row, again from its checkpoint and from the exported folder."""
    rows = [json.loads(line) for line in (nano_run / "metrics.jsonl").read_text().splitlines()]
    assert main(["export", str(nano_run), str(tmp_path / "model")]) == 0
    capsys.readouterr()
    for target, more in (
        (nano_run, []),
        (tmp_path / "model", ["--games", "kuhn_poker", "--max-tokens", "16", "--style", "brief"]),
    ):
        assert main(["evaluate", str(target), "--episodes", "2", "--json", *more]) == 0
        metrics = json.loads(capsys.readouterr().out)
        assert metrics["kuhn_poker/nash_conv"] == pytest.approx(rows[-1]["kuhn_poker/nash_conv"], abs=1e-6)
    assert main(["evaluate", str(nano_run), "--episodes", "2", "--step", "0"]) == 0
    assert f"{rows[0]['kuhn_poker/nash_conv']:.3f}" in capsys.readouterr().out


def test_arena_of_checkpoints_and_solvers(nano_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the names given, each with its games, returns that add up to 0, and equal output for equal seeds."""
    names = ["optimal", f"{nano_run}@0", str(nano_run)]
    printed = []
    for _ in range(2):
        assert main(["arena", "kuhn_poker", *names, "--episodes", "4", "--json"]) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["players"] == names
    for standing in printed[0]["ranking"]:
        assert standing["wins"] + standing["draws"] + standing["losses"] == 2 * 2 * 4
        assert standing["low"] < standing["rating"] < standing["high"]
    assert sum(standing["mean_return"] for standing in printed[0]["ranking"]) == pytest.approx(0, abs=1e-9)


def test_arena_of_saved_policies(capsys: pytest.CaptureFixture[str], refused: Callable[..., str]) -> None:
    """Oracle: always betting wins one chip a deal of always passing; a file of another game is refused."""
    states = solvers.information_states("kuhn_poker")
    for name, row in (("bold", [0.0, 1.0]), ("timid", [1.0, 0.0])):
        solvers.save_policy(f"{name}.json", "kuhn_poker", {state.key: row for state in states})
    assert main(["arena", "kuhn_poker", "timid.json", "bold.json", "--episodes", "4", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [s["player"] for s in printed["ranking"]] == ["bold.json", "timid.json"]
    assert [s["mean_return"] for s in printed["ranking"]] == [1, -1]
    assert main(["arena", "kuhn_poker", "timid.json", "random"]) == 0
    assert "timid.json" in capsys.readouterr().out
    assert "bold.json: the policy is for kuhn_poker" in refused("arena", "leduc_poker", "bold.json", "random")
    assert "there is no policy file nowhere.json" in refused("arena", "leduc_poker", "nowhere.json", "random")


def test_play_against_a_run(
    nano_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: contract. The person reads plain words whatever the run's own style, and the game comes to an end."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("check\nfold\n"))
    assert main(["play", "kuhn_poker", "--opponent", str(nano_run), "--seed", "1"]) == 0
    shown = capsys.readouterr().out
    assert "You are player 0. Your card:" in shown
    assert "Returns: player 0 (you)" in shown.splitlines()[-1]


def test_export_is_an_ordinary_folder(nano_run: Path, tmp_path: Path) -> None:
    """Oracle: transformers' own loader."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "model"
    assert main(["export", str(nano_run), str(out), "--step", "0"]) == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    assert tokenizer.decode(tokenizer("check").input_ids, skip_special_tokens=True) == "check"


def test_a_damaged_run_is_refused(
    nano_run: Path, tmp_path: Path, refused: Callable[..., str], capsys
) -> None:
    """Oracle: a weights file cut in half, a step that is not there, a used folder; each named in one line."""
    copy = tmp_path / "copy"
    shutil.copytree(nano_run, copy)
    assert "no checkpoint of step 7; there are: 0, 1" in refused("export", str(copy), "out", "--step", "7")
    assert "already exists" in refused("export", str(copy), str(nano_run))
    assert "already done: 1" in refused("train", "--resume", str(copy), "--steps", "0")
    weights = copy / "checkpoints" / "step-000001" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    for command in (["export", str(copy), "out"], ["evaluate", str(copy)]):
        assert "step-000001 is damaged" in refused(*command)
        assert not Path("out").exists()
    initial = copy / "checkpoints" / "step-000000" / "state.json"
    good = initial.read_text()
    initial.write_text("{")
    assert main(["train", "--resume", str(copy)]) == 2
    assert "step-000001 is damaged" in capsys.readouterr().err.splitlines()[-1]
    assert (copy / "metrics.jsonl").read_text() == (nano_run / "metrics.jsonl").read_text()
    initial.write_text(good)
    assert main(["train", "--resume", str(copy)]) == 0
    assert "step-000001 is damaged" in capsys.readouterr().err
    shutil.rmtree(copy / "checkpoints")
    assert "has no checkpoint yet" in refused("export", str(copy), "out")


def test_report_of_a_run_in_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a half-written last line is left out, and the page and table hold the rest."""
    assert main(["train", "toy", "--run-dir", "r"]) == 0
    with Path("r/metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    Path("r/report.html").unlink()
    assert main(["report", "r"]) == 0
    assert "50.0 %" in capsys.readouterr().out
    assert Path("r/report.html").is_file()


def test_games_lists_all_with_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the engine's own list."""
    from selfplay_fast import games

    assert main(["games", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == games.names()
    assert listed["kuhn_poker"]["options"]["rounds"] == 1
    assert main(["games"]) == 0
    shown = capsys.readouterr().out
    for name in games.names():
        assert name in shown


def test_help_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the commands, the recipe's docstring and its fields with their help."""
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main(["train", "--help"]) == 0
    assert "TOY: a recipe for tests." in capsys.readouterr().out
    assert main(["train", "toy", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("--learning-rate", "how fast", "--resume", "--magnet", "a switch"))
    assert main(["--version"]) == 0
    assert main([]) == 2


def test_help_is_quick(tmp_path: Path) -> None:
    """Oracle: a fresh process that shows help has not imported torch, transformers or the engine."""
    code = """
import sys
from selfplay_fast.cli import main
for line in ("--help", "train --help", "report --help", "play --help", "play", "train spira"):
    main(line.split())
print([name for name in ("torch", "transformers", "selfplay_fast._native") if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("recipe", [*recipe_names(), "toy"])
def test_options_are_known_without_the_recipe(recipe: str) -> None:
    """Oracle: the fields of the imported recipe, and which of them are switches."""
    types = option_types(recipe)
    fields = dataclasses.fields(load_recipe(recipe).Config)
    assert types.keys() == {field.name for field in fields}
    switches = {field.name for field in fields if field.type in (bool, "bool")}
    assert {name for name, kind in types.items() if kind is bool} == switches


def test_what_may_change_are_options() -> None:
    """Oracle: the options of the recipe that has all of them."""
    assert set(CHANGEABLE) <= option_types("spiral").keys()


def test_usual_mistakes_are_known_at_once(tmp_path: Path) -> None:
    """Oracle: a fresh process that refuses each of them, by its option, has not imported torch."""
    (tmp_path / "empty").mkdir()
    lines = {
        "train spiral --stepz 3": "unknown option --stepz (did you mean '--steps'?)",
        "train mars --no-chats": "unknown option --no-chats",
        "train spiral --games nope": "--games: unknown game 'nope'",
        "train mars --held-out nope": "--held-out: unknown game 'nope'",
        "train spiral --device cdua": "--device: must be cpu",
        "train spiral --model ./nope": "--model: there is no folder './nope'",
        "train spiral --model empty --steps 3": "--model: 'empty' is no model folder",
        "train --resume nope": "no run at nope",
    }
    code = """
import sys
from selfplay_fast.cli import main
print([main(line.split()) for line in sys.argv[1:]], "torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, *lines]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[2, 2, 2, 2, 2, 2, 2, 2] False"
    for line, words in zip(done.stderr.splitlines(), lines.values(), strict=True):
        assert words in line
