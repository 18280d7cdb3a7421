"""tree_mask against ancestors taken from the tokens themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay_fast import _native


def slow_mask(exits: np.ndarray, offsets: list[int], shared: int, width: int) -> np.ndarray:
    """The definition: j <= i < exit[j], element by element."""
    mask = np.zeros((len(offsets) - 1, width, shared + width), bool)
    for row, (begin, end) in enumerate(itertools.pairwise(offsets)):
        for i in range(width):
            mask[row, i, shared + i] = True
            if i < end - begin:
                mask[row, i, :shared] = True
                for j in range(i):
                    mask[row, i, shared + j] = i < exits[begin + j]
    return mask


@settings(max_examples=200)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=7), min_size=1, max_size=12),
    st.integers(1, 20),
    st.integers(0, 3),
    st.data(),
)
def test_mask_is_its_definition(pack: Callable, sequences: list, max_nodes: int, extra: int, data) -> None:
    """Oracle: three nested Python loops, for any run of blocks and any padding."""
    tree = pack(sequences, [len(sequence) - 1 for sequence in sequences], max_nodes)
    blocks = len(tree.block_offsets) - 1
    first = data.draw(st.integers(0, blocks - 1))
    offsets = tree.block_offsets[first : data.draw(st.integers(first + 1, blocks)) + 1]
    width = int(np.diff(offsets).max()) + extra
    mask = _native.tree_mask(tree.node_exit, offsets, len(tree.shared), width)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, slow_mask(tree.node_exit, offsets.tolist(), len(tree.shared), width))
    if extra == 0:
        np.testing.assert_array_equal(mask, _native.tree_mask(tree.node_exit, offsets, len(tree.shared)))


@pytest.mark.parametrize(
    ("exits", "offsets", "shared", "width", "message"),
    [
        ([1], [0], 0, None, "at least two"),
        ([1], [0, 2], 0, None, "length of node_exit"),
        ([1], [-1, 1], 0, None, "length of node_exit"),
        ([1, 1], [1, 0, 2], 0, None, "must not decrease"),
        ([0], [0, 1], 0, None, "depth-first order in block 0"),
        ([2], [0, 1], 0, None, "depth-first order in block 0"),
        ([1, 4, 3], [0, 1, 3], 0, None, "depth-first order in block 1"),
        ([2, 3, 3], [0, 3], 0, None, "depth-first order in block 0"),
        ([1], [0, 1], -1, None, "shared_length"),
        ([2, 2], [0, 2], 0, 1, "width must be at least the largest block, 2"),
    ],
)
def test_bad_input(exits: list, offsets: list, shared: int, width: int | None, message: str) -> None:
    """Oracle: the documented refusals."""
    with pytest.raises(ValueError, match=message):
        _native.tree_mask(np.array(exits, np.int32), np.array(offsets, np.int64), shared, width)
