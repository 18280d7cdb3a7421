"""Counter-based uniform numbers: a draw depends on its key alone, never on the batch it is made in.

The mixing function is SplitMix64 (Steele, Lea & Flood 2014), applied once per component of the key.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selfplay_fast.records import Key

UIntArray = NDArray[np.uint64]
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: UIntArray) -> UIntArray:
    x = x + _GAMMA
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream_ids(keys: Sequence[Key]) -> UIntArray:
    """[N] keys -> [N] uint64, one stream per key; each part counts modulo 2**64."""
    parts = [int(part) % 2**64 for key in keys for part in key]
    columns = np.array(parts, np.uint64).reshape(len(keys), 3)
    return _mix(_mix(_mix(columns[:, 0]) ^ columns[:, 1]) ^ columns[:, 2])


def sample_streams(streams: UIntArray, sample: NDArray[np.int64]) -> UIntArray:
    """The stream of sample number ``sample`` of an ask with ``n > 1``; sample 0 keeps the ask's own stream."""
    return np.where(sample == 0, streams, _mix(streams ^ sample.astype(np.uint64)))


def uniforms(streams: UIntArray, counter: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Draw number ``counter``, or ``counter[i]``, of every stream: float64 [N] in [0, 1)."""
    bits = _mix(streams ^ _mix(np.atleast_1d(np.asarray(counter)).astype(np.uint64)))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several integers, for example (run seed, step); each counts modulo 2**64."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _mix(state ^ np.array([part % 2**64], np.uint64))
    return int(state[0] >> np.uint64(1))
