"""Counter-based random bits: splitmix64 (Steele et al. 2014) on int64 tensors, the same on every device."""

from __future__ import annotations

from torch import Tensor

STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def signed(number: int) -> int:
    """The int64 of the same 64 bits; number may lie beyond them."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def mixed(z: Tensor) -> Tensor:
    """The output function on int64, whose products wrap and whose shifts must forget the sign."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * signed(_FIRST)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * signed(_SECOND)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def mixed_number(number: int) -> int:
    """`mixed` of one number."""
    z = number % (1 << 64)
    z = (z ^ (z >> 30)) * _FIRST % (1 << 64)
    z = (z ^ (z >> 27)) * _SECOND % (1 << 64)
    return signed(z ^ (z >> 31))
