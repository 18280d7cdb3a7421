"""Device helpers that several kernels share."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)  # kernels count in powers of two: exp2 is what the hardware has


@triton.jit
def grouped_tile(program, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Which (row, column) tile a program works on: GROUP row tiles at a time share the columns they read."""
    span = GROUP * column_tiles
    first = program // span * GROUP
    rows = tl.minimum(row_tiles - first, GROUP)
    return first + program % span % rows, program % span // rows


@triton.jit
def matmul_tile(left, right, row, column, width, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """float32[BM, BN] = left[row:, :width] @ right[column:, :width].T; left and right are tensor descriptors."""
    total = tl.zeros([BM, BN], tl.float32)
    for k in tl.range(0, width, BK):
        a = left.load([row, k])
        b = right.load([column, k])
        total = tl.dot(a, b.T, total, input_precision="ieee")
    return total


@triton.jit
def tanh(x):
    return 1 - 2 / (1 + tl.exp2(x * (2 * LOG2_E)))


@triton.jit
def fold_logits(scores, largest, total, weighted):
    """One more block of scores (in powers of two) of the same rows, with m their largest so far:

    total = sum 2^(score - m) and weighted = sum 2^(score - m) (score - m). All three start at -1e30, 0, 0.
    """
    top = tl.maximum(largest, tl.max(scores, 1))
    below = scores - top[:, None]
    power = tl.exp2(below)
    down = largest - top
    shrink = tl.exp2(down)
    weighted = shrink * (weighted + total * down) + tl.sum(power * below, 1)
    return top, shrink * total + tl.sum(power, 1), weighted
