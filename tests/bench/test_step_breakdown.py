"""bench/step_breakdown.py names functions by their places. Oracle: the modules."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def breakdown(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    spec = spec_from_file_location("step_breakdown", BENCH / "step_breakdown.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_is_where_it_is_said_to_be(breakdown: ModuleType) -> None:
    """A function that has moved would be charged to whoever calls it; with the clock around them all are found."""
    seconds = iter(range(10**6))
    with breakdown.watched(breakdown.Clock(lambda: float(next(seconds)))):
        from selfplay_fast.play.game_table import GameTable

        assert GameTable.asks.__name__ == "call"
    assert GameTable.asks.__name__ == "asks"
