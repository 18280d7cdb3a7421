"""Where a model lives."""

from __future__ import annotations

import torch


def pick_device(name: str = "auto") -> str:
    """`name`, or for `auto` the GPU where there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
