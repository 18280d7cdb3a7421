"""What a run measures of the phases of a step: seconds, what is counted meanwhile, the largest memory of the GPU."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Phases:
    """Sums by phase since `clear`. ``counts`` is asked for running totals, by name, before and after each phase."""

    def __init__(self) -> None:
        self.counts: Callable[[], Mapping[str, float]] = dict
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._counted: defaultdict[tuple[str, str], float] = defaultdict(float)  # by phase and total
        self._gpu: dict[str, float] = {}
        self._largest = 0.0  # of a GPU's memory, in phases that are over

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done inside. A GPU's work belongs to the phase that it was given in."""
        self._largest = max(self._largest, _gpu_peak())
        _reset_gpu_peak()
        before, began = self.counts(), time.perf_counter()
        yield
        _finish_gpu_work()
        self._seconds[name] += time.perf_counter() - began
        for key, total in self.counts().items():
            self._counted[name, key] += total - before.get(key, 0)
        self._gpu[name] = max(self._gpu.get(name, 0.0), _gpu_peak())

    def seconds(self, *names: str) -> float:
        """How long these phases took."""
        return sum(self._seconds.get(name, 0.0) for name in names)

    def counted(self, name: str, count: str) -> float:
        """By how much a running total grew in a phase."""
        return self._counted.get((name, count), 0)

    def row(self) -> dict[str, float]:
        """Seconds of each phase, and memory: the process's and the GPU's largest so far, the GPU's largest by phase."""
        unit = 1 if sys.platform == "darwin" else 1024
        row = {f"{name}_s": round(seconds, 4) for name, seconds in self._seconds.items()}
        row["peak_memory_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
        if largest := max(self._largest, _gpu_peak()):
            row["gpu_peak_memory_mib"] = round(largest, 1)
            row |= {f"{name}_gpu_peak_memory_mib": round(peak, 1) for name, peak in self._gpu.items()}
        return row

    def clear(self) -> None:
        """Begin anew; the largest memory so far stays."""
        self._seconds.clear()
        self._counted.clear()
        self._gpu.clear()


def _gpu_peak() -> float:
    """MiB of tensors at most since the last reset; 0 where no GPU is in use."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else 0.0


def _reset_gpu_peak() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _finish_gpu_work() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
