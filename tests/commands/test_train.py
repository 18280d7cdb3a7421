"""`train --budget`. Oracles: the budget of the same settings in Python; wrong use is one line."""

from dataclasses import replace
from pathlib import Path

import pytest

from selfplay_fast.cli import main
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.recipes import spiral
from selfplay_fast.training import memory_budget


@pytest.fixture
def folder(toy_policy: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    toy_policy.model.config.save_pretrained(tmp_path / "model")  # no weights
    monkeypatch.chdir(tmp_path)
    return "model"


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_budget_is_printed_and_nothing_else_is_done(
    folder: str, ranks: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    preset = ["train", "spiral", "--preset", "qwen3-4b", "--model", folder, "--max-batch-tokens", "512"]
    assert main([*preset, "--budget", "--card-memory", "141"]) == 0
    config = replace(spiral.PRESETS["qwen3-4b"], model=folder, max_batch_tokens=512)
    assert capsys.readouterr().out == memory_budget(config, ranks=ranks).table() + "\n"
    assert [path.name for path in Path.cwd().iterdir()] == ["model"]


def test_passes_on_a_card_are_in_bfloat16(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: what `dtype` "auto" means on a GPU, also where there is none."""
    assert main(f"train spiral --model {folder} --warmup-steps 0 --budget --card-memory 141".split()) == 0
    assert "bfloat16 passes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--model model --warmup-steps 0 --card-memory 0.6", "max_cache_tokens: a rollout takes"),
        ("--model nowhere --warmup-steps 0", "model 'nowhere': no configuration can be read"),
        ("", "--budget: nano fits everywhere"),
        ("--resume run", "--budget: is of a new run"),
        ("--model model --warmup-steps 0 --card-memory nothing", "expected a number"),
    ],
)
def test_what_is_wrong_is_one_line(
    folder: str, line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "spiral", "--budget", *line.split()]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert words in said
