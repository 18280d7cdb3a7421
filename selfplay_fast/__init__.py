"""Self-play reinforcement learning of language models: C++ games, batched rollouts, prefix-tree training.

Submodules are loaded on first use, so ``import selfplay_fast as spf; spf.games.names()`` needs only numpy.
"""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

__version__ = "0.1.0"

_SUBMODULES = (
    "evaluate",
    "games",
    "kernels",
    "learn",
    "play",
    "policies",
    "records",
    "report",
    "search",
    "solvers",
)

__all__ = ["__version__", *_SUBMODULES]


def __getattr__(name: str) -> _ModuleType:
    if name in _SUBMODULES:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
