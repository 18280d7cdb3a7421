"""What is refused before a recipe is imported. Oracles: the words of the error, and command lines that are right."""

import pytest

from selfplay_fast.command_line import UsageError
from selfplay_fast.commands import early_checks
from selfplay_fast.commands.early_checks import check_early


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a run and a model folder in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("run/config.yaml", "model/config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--games kuhn_poker tic_tac_to", "--games: unknown game 'tic_tac_to'"),
        ("--games=nope", "--games: unknown game 'nope'"),
        ("--games kuhn_poker(rounds=0)", "--games: .*rounds"),
        ("--steps 3 --games", "--games: name at least one"),
        ("--held-out nope --games kuhn_poker", "--held-out: unknown game 'nope'"),
        ("--device gpu", "--device: must be cpu, cuda .* got 'gpu'"),
        ("--model ./nowhere", "--model: there is no folder './nowhere'"),
        ("--model run", "--model: 'run' is a run; .* selfplay-fast export run FOLDER"),
        ("--model model --lora-rank 8", "--lora-rank: the package peft is not installed"),
        ("--model model --lora_rank=8", "--lora-rank: the package peft is not installed"),
        ("--steps 1 --run-dir run", "--run-dir: run holds a run: continue it with --resume run"),
    ],
)
def test_wrong_lines(here, line, words, monkeypatch):
    """Oracle: the option, what is wrong with it and what would be right."""
    monkeypatch.setattr(early_checks, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=words):
        check_early(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--help",
        "--games kuhn_poker(rounds=5) tic_tac_toe --steps 3 --device cuda:1",
        "--model model --lora-rank 0 --run-dir new",
        "--model Qwen/Qwen3-4B-Base --lora-rank many --device",
        "--held-out --model nano stray",
    ],
)
def test_other_lines_are_the_recipe_s_business(here, line, monkeypatch):
    """Oracle: nothing is said, also of what only the recipe can judge."""
    monkeypatch.setattr(early_checks, "find_spec", lambda name: None)
    check_early(line.split())
