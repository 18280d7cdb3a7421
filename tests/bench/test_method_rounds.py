"""`bench/method_rounds.py`. Oracle: the longest chain of each game, counted from the lengths of its replies."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("method_rounds", BENCH / "method_rounds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "method_rounds", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def chains(rounds: Any, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Steps of all replies of each game that is played as a stream."""
    chains: dict[int, int] = {}

    class Watched(rounds.Streaming):
        def submit(self, asks: Any) -> None:
            super().submit(asks)
            for ask in asks:
                game = ask.key.episode
                chains[game] = chains.get(game, 0) + self._left[ask]

    monkeypatch.setattr(rounds, "Streaming", Watched)
    return chains


def test_a_rollout_takes_as_long_as_its_longest_game(rounds: Any, chains: dict[int, int]) -> None:
    """With 24 games: 60 requests; our steps are the longest sum of the replies of one game."""
    counts = rounds.self_redteam(24, 0)
    assert counts.requests == 24 * 2 + 12
    assert counts.calls == counts.phases == 3
    assert len(chains) == 24
    assert counts.ours == max(chains.values())
    assert counts.ours < counts.barriers < counts.sequential == sum(chains.values())


def test_a_reply_is_graded_when_it_is_whole(rounds: Any, chains: dict[int, int]) -> None:
    """RLSP with 24 problems: a reply and a grade each, a few asked for again; the longest chain is the rollout."""
    counts = rounds.rlsp(24, 0)
    assert 24 * 2 <= counts.requests <= 24 * 2 + 12
    assert 2 <= counts.calls <= 4
    assert len(chains) == 24
    assert counts.ours == max(chains.values())
    assert counts.ours < counts.barriers < counts.sequential == sum(chains.values())


def test_readings_take_as_long_as_the_longest_of_them(rounds: Any) -> None:
    """With 12 clusters: the same questions, answers and votes as the port's, which `spell` asserts; fewer steps than
    four phases, and fewer still, in three calls, where questions are answered and tried at the same time."""
    first, beside = rounds.spell(12, 0), rounds.spell(12, 0, ground_first=False)
    assert (first.calls, beside.calls, first.phases) == (4, 3, 4)
    assert first.requests == beside.requests > 12 * (1 + 8)
    assert beside.ours < first.ours < first.barriers < first.sequential
