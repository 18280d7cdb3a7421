"""What recipes share, on a GPU that is told and not there. Oracles: what was said before anything was loaded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from selfplay_fast import training
from selfplay_fast.learn import RoleBaseline
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.recipes import spiral
from selfplay_fast.run import Run


class Loading(Exception):
    """The model would be loaded now."""


@pytest.fixture
def start_on(
    toy_policy: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Starts a run of a model folder without weights on a card of so many bytes; what it has noted."""
    toy_policy.model.config.save_pretrained(tmp_path / "model")

    def start(card: float, **options: Any) -> list[str]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        properties = SimpleNamespace(total_memory=card)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        settings = {"model": str(tmp_path / "model"), "max_batch_tokens": 512} | options
        config = replace(spiral.PRESETS["qwen3-4b"], **settings)
        run = Run.create("spiral", config, tmp_path / "run")
        notes: list[str] = []
        monkeypatch.setattr(run, "note", notes.append)
        with pytest.raises(Loading):
            training.start(
                config, run, build=_load, optimizer_of=_load, evaluate=_load, baseline=RoleBaseline()
            )
        return notes

    return start


def _load(*_: Any) -> Any:
    raise Loading


def test_the_budget_is_shown_before_the_model_is_loaded(start_on: Callable[..., list[str]]) -> None:
    (table,) = start_on(80e9)
    assert "G parameters, bfloat16 passes: GB on one card" in table


def test_a_run_that_does_not_fit_ends_before_the_model_is_loaded(start_on: Callable[..., list[str]]) -> None:
    with pytest.raises(
        ValueError, match=r"^max_cache_tokens: a rollout takes .* the largest that fits is \d+$"
    ):
        start_on(4e8)


@pytest.mark.parametrize("options", [{"device": "cpu"}, {"model": "nano"}])
def test_a_cpu_and_nano_are_not_counted(start_on: Callable[..., list[str]], options: dict[str, str]) -> None:
    assert start_on(1, **options) == []


def test_a_model_that_cannot_be_counted_is_loaded(
    start_on: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise NotImplementedError("aten::nonzero: not without data\nmore")

    monkeypatch.setattr(training, "budget", fail)
    assert start_on(1) == ["memory is not counted before the run: aten::nonzero: not without data"]


def test_notes_of_a_step_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the line."""
    run = Run.create("spiral", spiral.PRESETS["nano"], tmp_path / "run")
    notes: list[str] = []
    monkeypatch.setattr(run, "note", notes.append)
    training.notes_of(run, 3)("all rewards are equal")
    assert notes == ["step 3: all rewards are equal"]
