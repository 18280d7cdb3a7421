from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from selfplay_fast import _native


@pytest.fixture(scope="session")
def pack() -> Callable[..., _native.TokenTree]:
    """pack(sequences, first_scored, max_nodes) -> TokenTree, from lists of lists."""

    def build(sequences: list[list[int]], first_scored: list[int], max_nodes: int) -> _native.TokenTree:
        tokens = np.array([token for sequence in sequences for token in sequence], np.int64)
        offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
        return _native.TokenTree(tokens, offsets, np.array(first_scored, np.int64), max_nodes)

    return build
