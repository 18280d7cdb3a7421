"""Which way an operation takes: Triton where there is one, and in which precision it sums."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Op = TypeVar("_Op", bound=Callable[..., Any])

HAS_TRITON = importlib.util.find_spec("triton") is not None


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What is summed in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def without_autocast(op: _Op) -> _Op:
    """The body of an op, in the dtypes that it says: autocast would round its products to half precision."""

    @functools.wraps(op)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return op(*args, **kwargs)

    run.__signature__ = inspect.signature(op, eval_str=True)  # type: ignore[attr-defined]
    return run  # type: ignore[return-value]
