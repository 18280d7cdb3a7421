"""Fused operations; sources live in the repository's top-level kernels/ (no __init__.py there, on purpose)."""

from pathlib import Path as _Path

_source = _Path(__file__).resolve().parents[2] / "kernels"  # running from a source checkout
if (_source.parent / "pyproject.toml").is_file() and str(_source) not in __path__:
    __path__.append(str(_source))
