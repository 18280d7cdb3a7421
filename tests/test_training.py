"""What is checked of a model before it is loaded."""

import pytest

from selfplay_fast.cli import main
from selfplay_fast.policies import adapters
from selfplay_fast.policies.language_model import LanguageModel


@pytest.fixture
def base(toy_policy, tmp_path):
    """A folder without a chat template."""
    toy_policy.tokenizer.chat_template = None
    toy_policy.save(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--style spiral", "has no chat template"),
        ("--max-tokens 100000", "--max-tokens: 100000 leave no room|max_tokens: 100000 leave no room"),
        ("--lora-rank 8", "the package peft is not installed"),
    ],
)
@pytest.mark.parametrize("recipe", ["spiral", "mars"])
def test_a_model_that_cannot_play_so_is_not_loaded(
    recipe, options, words, base, tmp_path, monkeypatch, capsys
):
    """Oracle: one line of error, exit code 2, no run folder; loading it at all would be another error."""
    monkeypatch.setattr(LanguageModel, "load", None)
    monkeypatch.setattr(adapters, "_is_installed", lambda: False)
    line = f"train {recipe} --model {base} --device cpu {options} --run-dir {tmp_path / 'run'}"
    assert main(line.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert any(word in said for word in words.split("|"))
    assert not (tmp_path / "run").exists()
