"""Phases on a GPU, which stands here as a counter of bytes."""

import pytest
import torch

from selfplay_fast.phases import Phases


class Card:
    """The calls of torch.cuda that phases make."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.peak = 0
        self.waited = 0
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(torch.cuda, "synchronize", self.wait)

    def take(self, mib: int) -> None:
        self.now += mib * 2**20
        self.peak = max(self.peak, self.now)

    def reset(self) -> None:
        self.peak = self.now

    def wait(self) -> None:
        self.waited += 1


def test_memory_is_told_by_phase_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what was taken and given back, by hand."""
    card, phases = Card(monkeypatch), Phases()
    card.take(100)  # the weights
    with phases.phase("rollout"):
        card.take(50)
        card.take(-50)
    with phases.phase("update"):
        card.take(20)
        card.take(-20)
    row = phases.row()
    assert (row["rollout_gpu_peak_memory_mib"], row["update_gpu_peak_memory_mib"]) == (150, 120)
    assert row["gpu_peak_memory_mib"] == 150
    assert card.waited == 2
    phases.clear()
    with phases.phase("update"):
        card.take(5)
    row = phases.row()
    assert row["update_gpu_peak_memory_mib"] == 105
    assert "rollout_gpu_peak_memory_mib" not in row
    assert row["gpu_peak_memory_mib"] == 150  # the largest so far


def test_what_is_counted_belongs_to_its_phase() -> None:
    """Oracle: a counter that grows inside and outside."""
    phases, total = Phases(), 0
    phases.counts = lambda: {"apples": total}
    with phases.phase("rollout"):
        total += 3
    total += 10
    with phases.phase("rollout"):
        total += 4
    assert phases.counted("rollout", "apples") == 7
    assert phases.counted("update", "apples") == 0
    phases.clear()
    assert phases.counted("rollout", "apples") == 0
    assert phases.seconds("rollout") == 0
    assert not any(key.startswith("gpu") for key in phases.row())
