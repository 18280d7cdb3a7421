"""Which way an operation takes: Triton where there is one, and in which precision it sums."""

from __future__ import annotations

import importlib.util

import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What is summed in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
