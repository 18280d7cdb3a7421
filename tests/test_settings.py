"""Settings that recipes share. Oracles: the bounds by hand; the help, which is written where a setting is."""

import io
import re
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from typing import Annotated, Any

import pytest

from selfplay_fast.config import (
    Bound,
    Count,
    Natural,
    NotNegative,
    Nucleus,
    Number,
    Positive,
    RecipeConfig,
    Share,
    Temperature,
    WarmedUp,
    above,
    config_from_dict,
    config_to_dict,
    least,
    load_recipe,
    recipe_names,
    same_named,
)
from selfplay_fast.settings import GameConfig, ModelConfig, ServerConfig

NAN, INFINITE = float("nan"), float("inf")


@dataclass(frozen=True, kw_only=True)
class Bounded(RecipeConfig):
    count: Count = 1
    natural: Natural = 0
    positive: Positive = 1.0
    temperature: Temperature = 1.0
    not_negative: NotNegative = 0.0
    number: Number = 0.0
    share: Share = 0.5
    nucleus: Nucleus = 1.0
    twelve: Annotated[int, least(12)] = 12
    clipped: Annotated[float, above(1)] = 1.5
    optional: Count | None = None


@pytest.mark.parametrize(
    ("setting", "good", "bad", "words"),
    [
        ("count", [1, 5], [0, -1], "at least 1"),
        ("natural", [0], [-1], "at least 0"),
        ("positive", [1e-9, INFINITE], [0.0, -1.0, NAN], "above 0"),
        ("temperature", [0.1], [INFINITE], "a number"),
        ("temperature", [2.0], [0.0, NAN], "above 0"),
        ("not_negative", [0.0, 3.0], [-1e-9, NAN, INFINITE], "a number and not negative"),
        ("number", [-5.0], [NAN, INFINITE, -INFINITE], "a number"),
        ("share", [0.0, 1.0], [-0.1, 1.1, NAN], "between 0 and 1"),
        ("nucleus", [0.5, 1.0], [1.5], "at most 1"),
        ("nucleus", [0.01], [0.0], "above 0"),
        ("twelve", [12], [11], "at least 12"),
        ("clipped", [1.1], [1.0], "above 1"),
        ("optional", [None, 1], [0], "at least 1"),
    ],
)
def test_settings_are_within_their_bounds(setting: str, good: list[Any], bad: list[Any], words: str) -> None:
    for value in good:
        assert getattr(Bounded(**{setting: value}), setting) is value
    for value in bad:
        with pytest.raises(ValueError, match=rf"^{setting}: must be {words}, got {value}$"):
            Bounded(**{setting: value})


@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        (GameConfig, {"model": "path", "warmup_steps": 1}, "model: .* leave warmup_steps out"),
        (GameConfig, {"model": "nanoo", "warmup_steps": 1}, "did you mean 'nano'"),
        (ModelConfig, {"lora_rank": 4}, "lora_rank: nano"),
        (ModelConfig, {"attn_implementation": "flash_attention_2"}, "attn_implementation: .* set lora_rank"),
        (GameConfig, {"max_think_tokens": 4}, "max_think_tokens: nano does not think"),
        (
            GameConfig,
            {"model": "path", "max_think_tokens": 16},
            "max_think_tokens: must be below max_tokens, 16",
        ),
        (GameConfig, {"games": ()}, "games: name at least one"),
        (GameConfig, {"threads": 0}, "threads: must be at least 1"),
        (ServerConfig, {"eval_opponents": ("server:nowhere",)}, "^eval_opponents: "),
        (ServerConfig, {"rollout_servers": ("nowhere",)}, "^rollout_servers: "),
    ],
)
def test_settings_that_make_no_sense_together(kind: type, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        kind(**change)


def test_bounds_do_not_show_in_files() -> None:
    """Oracle: the values and types of a configuration that was written and read."""
    config = Bounded(count=7, optional=3, share=1)
    assert config_from_dict(Bounded, config_to_dict(config)) == config
    with pytest.raises(ValueError, match="count: expected int, got 'many'"):
        config_from_dict(Bounded, config_to_dict(config) | {"count": "many"})


def test_bounds_are_found_in_every_part_of_a_type() -> None:
    from selfplay_fast.config import _bounds

    assert [bound.words for bound in _bounds(Nucleus)] == ["above 0", "at most 1"]
    assert all(isinstance(bound, Bound) for bound in _bounds(Count | None))


@dataclass(frozen=True, kw_only=True)
class Warm(WarmedUp):
    nano_warmup = 7
    model: str = "nano"
    warmup_steps: Natural | None = None


@pytest.mark.parametrize(
    ("model", "given", "steps"), [("nano", None, 7), ("nano", 3, 3), ("nano", 0, 0), ("a/b", None, 0)]
)
def test_only_nano_is_warmed_up(model: str, given: int | None, steps: int) -> None:
    assert Warm(model=model, warmup_steps=given).resolved().warmup_steps == steps
    with pytest.raises(ValueError, match="leave warmup_steps out"):
        Warm(model="a/b", warmup_steps=1)


def test_a_dataclass_takes_what_it_shares_with_a_configuration() -> None:
    """Oracle: by hand: what has the same name, but for what is given; defaults for the rest."""

    @dataclass(frozen=True)
    class Part:
        count: int
        natural: int
        other: str = "default"

    assert same_named(Part, Bounded(count=5, natural=3)) == Part(5, 3)
    assert same_named(Part, Bounded(count=5), natural=9, other="given") == Part(5, 9, "given")


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_setting_is_explained(recipe: str) -> None:
    """Oracle: the help. An inherited setting with another default keeps its words."""
    from selfplay_fast.cli import main

    with redirect_stdout(io.StringIO()) as said:
        assert main(["train", recipe, "--help"]) == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
    entries = re.split(r"\n\W+(?=--[a-z])", plain)
    explained = {
        entry.split()[0].strip(","): re.sub(r"\(default:.*", "", entry, flags=re.S) for entry in entries
    }
    for field in fields(load_recipe(recipe).Config):
        text = explained[f"--{field.name.replace('_', '-')}"]
        assert any(word.islower() for word in text.split()[1:]), text
