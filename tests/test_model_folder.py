"""What a model's folder says. Oracles: files that transformers writes, and the model loaded from them."""

import json

import pytest

from selfplay_fast.cli import main
from selfplay_fast.model_folder import Facts, check_facts, folder_facts
from selfplay_fast.policies import adapters
from selfplay_fast.policies.language_model import LanguageModel


def test_facts_are_those_of_the_loaded_model(toy_policy, tmp_path):
    """Oracle: transformers itself, with a template and without."""
    toy_policy.save(tmp_path / "with")
    assert toy_policy.tokenizer.chat_template is not None
    assert folder_facts(str(tmp_path / "with")) == Facts(True, toy_policy.context_limit)
    toy_policy.tokenizer.chat_template = None
    toy_policy.save(tmp_path / "without")
    loaded = LanguageModel.load(tmp_path / "without")
    assert loaded.tokenizer.chat_template is None
    assert folder_facts(str(tmp_path / "without")) == Facts(False, loaded.context_limit)


def test_templates_and_lengths_may_stand_elsewhere(tmp_path):
    """Oracle: the forms that older tokenizers and models of text and images have."""
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 77}}))
    assert folder_facts(str(tmp_path)) == Facts(False, 77)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ x }}"}))
    assert folder_facts(str(tmp_path)).chat_template is True
    (tmp_path / "config.json").write_text("{}")
    assert folder_facts(str(tmp_path)).context_limit is None


def test_nothing_is_known_of_others(tmp_path):
    """Oracle: nano, a hub id, and a folder of adapters, whose model lies elsewhere."""
    (tmp_path / "adapter_config.json").write_text("{}")
    for model in ("nano", "Qwen/Qwen3-4B-Base", str(tmp_path)):
        assert folder_facts(model) == Facts(None, None)


def test_what_is_no_model(tmp_path, monkeypatch):
    """Oracle: one line for a path that is not there, an empty folder, a run, a file that is not JSON."""
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "run", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "config.yaml").write_text("recipe: spiral\n")
    (tmp_path / "broken" / "config.json").write_text("{")
    for model, words in (
        ("./nowhere", "model: there is no folder './nowhere'"),
        ("empty", "model: 'empty' is no model folder: it has no config.json"),
        ("run", "model: 'run' is a run; first write its model with selfplay-fast export run FOLDER"),
        ("broken", "model: broken/config.json cannot be read"),
    ):
        with pytest.raises(ValueError, match=words):
            folder_facts(model)


@pytest.mark.parametrize(
    ("facts", "style", "max_tokens", "words"),
    [
        (Facts(False, 100), "spiral", 5, "model: 'm' has no chat template"),
        (Facts(False, 100), "mars", 5, "--style brief"),
        (Facts(True, 100), "spiral", 100, "max_tokens: 100 leave no room .* of 100 tokens"),
    ],
)
def test_how_a_model_cannot_play(facts, style, max_tokens, words):
    """Oracle: one fact wrong at a time."""
    with pytest.raises(ValueError, match=words):
        check_facts("m", facts, style=style, max_tokens=max_tokens)


@pytest.mark.parametrize("facts", [Facts(), Facts(True, 100), Facts(None, 100)])
def test_how_it_can(facts):
    """Oracle: nothing is said where nothing is wrong, or nothing known."""
    check_facts("m", facts, style="spiral", max_tokens=99)
    check_facts("m", Facts(False, 100), style="brief", max_tokens=99)


def test_a_model_with_nano_s_settings_is_remarked(toy_policy, tmp_path, capsys):
    """Oracle: one line with the other presets, and none where a preset is named."""
    toy_policy.save(tmp_path / "base")
    line = f"train mars --model {tmp_path / 'base'} --steps 0 --games kuhn_poker --held-out --eval-episodes 1"
    line += " --games-per-step 1 --max-tokens 2 --device cpu --threads 1"
    for more, remarks in (("", 1), ("--preset paper --style brief", 0)):
        assert main([*line.split(), "--run-dir", str(tmp_path / f"run{remarks}"), *more.split()]) == 0
        assert capsys.readouterr().err.count("note: what is not given is as preset nano has it") == remarks


@pytest.fixture
def no_template(toy_policy, tmp_path):
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
    recipe, options, words, no_template, tmp_path, monkeypatch, capsys
):
    """Oracle: one line of error, exit code 2, no run folder; loading it at all would be another error."""
    monkeypatch.setattr(LanguageModel, "load", None)
    monkeypatch.setattr(adapters, "_is_installed", lambda: False)
    line = f"train {recipe} --model {no_template} --device cpu {options} --run-dir {tmp_path / 'run'}"
    assert main(line.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert any(word in said for word in words.split("|"))
    assert not (tmp_path / "run").exists()
