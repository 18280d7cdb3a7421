"""Policies as JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfplay_fast import solvers

GAME = "kuhn_poker"


@pytest.mark.parametrize("game", [GAME, "kuhn_poker(cards=4)", "leduc_poker", "tic_tac_toe"])
def test_round_trip(game: str, tmp_path: Path) -> None:
    """Oracle: the same float64 bits come back."""
    policy = solvers.optimal_policy(game) if game == "tic_tac_toe" else solvers.cfr(game, 7)
    solvers.save_policy(tmp_path / "policy.json", game, policy)
    read = solvers.load_policy(tmp_path / "policy.json", game)
    assert set(read) == set(policy)
    assert all(np.array_equal(read[key], policy[key]) for key in policy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("game"), "this is no policy file"),
        (
            lambda file: file.update(game="leduc_poker"),
            "the policy is for leduc_poker .*, not for kuhn_poker",
        ),
        (lambda file: file["options"].update(cards=4), "'cards': 4.*, not for kuhn_poker with .*'cards': 3"),
        (lambda file: file["probabilities"].pop("1pb"), "no probabilities for information state '1pb'"),
        (
            lambda file: file["probabilities"].update(jack=[0, 1]),
            "the game has no information state 'jack'",
        ),
        (lambda file: file["probabilities"].update({"0": [0.5, 0.6]}), "'0' must sum to 1"),
        (lambda file: file["probabilities"].update({"0": [-1, 2]}), "'0' must be numbers >= 0"),
        (lambda file: file["probabilities"].update({"0": [float("nan"), 1]}), "'0' must be numbers >= 0"),
        (lambda file: file["probabilities"].update({"0": [1]}), r"'0' must have the shape \(2,\)"),
        (lambda file: file["probabilities"].update({"0": ["x", 1]}), "could not convert"),
        (lambda file: file["probabilities"].update({"0": None}), "'0' must have one dimension"),
        (lambda file: file.update(probabilities=[1]), "policy.json"),
    ],
)
def test_bad_files(change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    """Oracle: the documented refusals: one line that begins with the path."""
    path = tmp_path / "policy.json"
    solvers.save_policy(path, GAME, solvers.TabularPolicy.uniform(GAME))
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    with pytest.raises(ValueError, match=message) as caught:
        solvers.load_policy(path, GAME)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    """Oracle: the documented refusals; nothing is written of what is no policy."""
    path = tmp_path / "policy.json"
    for content in (b"no json", b"\xff\xfe", b"[]", b"3"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="this is no policy file"):
            solvers.load_policy(path, GAME)
    with pytest.raises(FileNotFoundError):
        solvers.load_policy(tmp_path / "none.json", GAME)
    with pytest.raises(ValueError, match="no probabilities for information state"):
        solvers.save_policy(tmp_path / "other.json", GAME, {})
    larger = solvers.TabularPolicy.uniform("kuhn_poker(cards=4)")  # knows all states of three cards too
    with pytest.raises(ValueError, match="the game has no information state '3'"):
        solvers.save_policy(tmp_path / "other.json", GAME, larger)
    assert not (tmp_path / "other.json").exists()
