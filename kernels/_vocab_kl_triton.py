"""Triton's part of `vocab_kl`: one kernel multiplies both heads and folds, one makes a slice of the gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import _head_triton
from ._blocks import LOG2_E, grouped_tile
from ._head import Gradients, Needs, Side
from ._head_triton import by_slices, cap_slope, scores_tile

# Two products at once: narrower than the tile of one. Compiled for sm_90, not yet timed on a card.
_TILE = {"BLOCK_T": 128, "BLOCK_V": 128, "BLOCK_H": 64, "GROUP": 8}
_LAUNCH = {"num_warps": 8, "num_stages": 3}
_TILES = 16  # tiles of the vocabulary that one program of the forward pass folds


@triton.jit
def _forward_kernel(
    hidden, weight, inverse_ptr, bias_ptr, other_hidden, other_weight, other_inverse_ptr, other_bias_ptr, parts_ptr,
    tokens, vocabulary, width, other_width, parts, softcap, inner, other_softcap, other_inner,
    HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr, OTHER_HAS_BIAS: tl.constexpr, OTHER_CAPPED: tl.constexpr,
    TILES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """parts[part] = (largest, total, apart, other's largest, its total), each [tokens], over TILES tiles of the
    vocabulary: total = sum 2^below and apart = sum 2^below (below - other's), below a score less the largest."""
    tile, part = grouped_tile(tl.program_id(0), tl.cdiv(tokens, BLOCK_T), parts, GROUP)
    own = tile * BLOCK_T + tl.arange(0, BLOCK_T)
    largest = tl.full([BLOCK_T], -1e30, tl.float32)
    total = tl.zeros([BLOCK_T], tl.float32)
    apart = tl.zeros([BLOCK_T], tl.float32)
    other_largest = tl.full([BLOCK_T], -1e30, tl.float32)
    other_total = tl.zeros([BLOCK_T], tl.float32)
    first = part * TILES
    for i in tl.range(first, tl.minimum(first + TILES, tl.cdiv(vocabulary, BLOCK_V))):
        scores, _, _ = scores_tile(
            hidden, weight, inverse_ptr, bias_ptr, tile * BLOCK_T, i * BLOCK_V, tokens, vocabulary, width,
            softcap, inner, HAS_BIAS, CAPPED, BLOCK_T, BLOCK_V, BLOCK_H,
        )  # fmt: skip
        top = tl.maximum(largest, tl.max(scores, 1))
        below, down = scores - top[:, None], largest - top
        scores, _, _ = scores_tile(
            other_hidden, other_weight, other_inverse_ptr, other_bias_ptr, tile * BLOCK_T, i * BLOCK_V, tokens,
            vocabulary, other_width, other_softcap, other_inner, OTHER_HAS_BIAS, OTHER_CAPPED,
            BLOCK_T, BLOCK_V, BLOCK_H,
        )  # fmt: skip
        other_top = tl.maximum(other_largest, tl.max(scores, 1))
        other_below, other_down = scores - other_top[:, None], other_largest - other_top
        power, shrink = tl.exp2(below), tl.exp2(down)
        apart = shrink * (apart + total * (down - other_down)) + tl.sum(power * (below - other_below), 1)
        total = shrink * total + tl.sum(power, 1)
        other_total = tl.exp2(other_down) * other_total + tl.sum(tl.exp2(other_below), 1)
        largest, other_largest = top, other_top
    inside = own < tokens
    to = parts_ptr + part.to(tl.int64) * 5 * tokens + own
    tl.store(to, largest, mask=inside)
    tl.store(to + tokens, total, mask=inside)
    tl.store(to + 2 * tokens, apart, mask=inside)
    tl.store(to + 3 * tokens, other_largest, mask=inside)
    tl.store(to + 4 * tokens, other_total, mask=inside)


@triton.jit
def _backward_kernel(
    hidden, weight, inverse_ptr, bias_ptr, other_hidden, other_weight, other_inverse_ptr, other_bias_ptr,
    kl_ptr, log_sum_ptr, other_log_sum_ptr, up_ptr, out_ptr,
    tokens, vocabulary, width, other_width, first, columns_out, softcap, inner, other_softcap, other_inner,
    HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr, OTHER_HAS_BIAS: tl.constexpr, OTHER_CAPPED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out [tokens, columns_out] = the gradient of the product of hidden and weight, columns from first on."""
    tile, slot = grouped_tile(
        tl.program_id(0), tl.cdiv(tokens, BLOCK_T), tl.cdiv(columns_out, BLOCK_V), GROUP
    )
    row, column = tile * BLOCK_T, first + slot * BLOCK_V
    other_scores, _, _ = scores_tile(
        other_hidden, other_weight, other_inverse_ptr, other_bias_ptr, row, column, tokens, vocabulary, other_width,
        other_softcap, other_inner, OTHER_HAS_BIAS, OTHER_CAPPED, BLOCK_T, BLOCK_V, BLOCK_H,
    )  # fmt: skip
    scores, rows, columns = scores_tile(
        hidden, weight, inverse_ptr, bias_ptr, row, column, tokens, vocabulary, width,
        softcap, inner, HAS_BIAS, CAPPED, BLOCK_T, BLOCK_V, BLOCK_H,
    )  # fmt: skip
    inside = rows < tokens
    inverse = tl.load(inverse_ptr + rows, mask=inside, other=1.0)
    logp = scores - tl.load(log_sum_ptr + rows, mask=inside, other=0.0)[:, None]
    logq = other_scores - tl.load(other_log_sum_ptr + rows, mask=inside, other=0.0)[:, None]
    kl = tl.load(kl_ptr + rows, mask=inside, other=0.0)
    up = tl.load(up_ptr + rows, mask=inside, other=0.0) * inverse
    grad = tl.exp2(logp) * ((logp - logq) / LOG2_E - kl[:, None]) * up[:, None]
    if CAPPED:
        grad *= cap_slope(scores, inverse, columns, vocabulary, softcap, inner)
    to = out_ptr + rows.to(tl.int64)[:, None] * columns_out + (columns - first)[None, :]
    tl.store(
        to,
        grad.to(out_ptr.dtype.element_ty),
        mask=inside[:, None] & (columns < first + columns_out)[None, :],
    )


def fits(p: Side, q: Side) -> bool:
    return all(_head_triton.fits(side.hidden, side.weight) for side in (p, q))


def forward(p: Side, q: Side) -> tuple[Tensor, Tensor, Tensor]:
    """kl, and the log-sums of both in powers of two."""
    tokens, vocabulary = len(p.hidden), len(p.weight)
    parts = triton.cdiv(vocabulary, _TILE["BLOCK_V"] * _TILES)
    folded = torch.empty(parts, 5, tokens, dtype=torch.float32, device=p.hidden.device)
    _forward_kernel[(triton.cdiv(tokens, _TILE["BLOCK_T"]) * parts,)](
        **_named(p),
        **_named(q, "other_"),
        parts_ptr=folded,
        tokens=tokens,
        vocabulary=vocabulary,
        parts=parts,
        TILES=_TILES,
        **_TILE,
        **_LAUNCH,
    )
    largest, total, apart, other_largest, other_total = folded.unbind(1)
    top, other_top = largest.amax(0), other_largest.amax(0)
    down, other_down = largest - top, other_largest - other_top
    shrink = down.exp2()
    all_apart = (shrink * (apart + total * (down - other_down))).sum(0)
    all_total, all_other = (shrink * total).sum(0), (other_down.exp2() * other_total).sum(0)
    kl = (all_apart / all_total + (all_other / all_total).log2()) * math.log(2.0)
    return kl, top + all_total.log2(), other_top + all_other.log2()


def backward(
    up: Tensor, p: Side, q: Side, kl: Tensor, log_sum: Tensor, other_log_sum: Tensor, needs: Needs
) -> Gradients:
    tokens, vocabulary = len(p.hidden), len(p.weight)

    def slice_of(first: int, out: Tensor) -> None:
        blocks = triton.cdiv(tokens, _TILE["BLOCK_T"]) * triton.cdiv(out.shape[1], _TILE["BLOCK_V"])
        _backward_kernel[(blocks,)](
            **_named(p),
            **_named(q, "other_"),
            kl_ptr=kl,
            log_sum_ptr=log_sum,
            other_log_sum_ptr=other_log_sum,
            up_ptr=up,
            out_ptr=out,
            tokens=tokens,
            vocabulary=vocabulary,
            first=first,
            columns_out=out.shape[1],
            **_TILE,
            **_LAUNCH,
        )

    return by_slices(slice_of, p.hidden, p.weight, needs)


def _named(side: Side, other: str = "") -> dict[str, Any]:
    """One side's arguments of both kernels."""
    head = side.head
    tensors = {
        "hidden": TensorDescriptor.from_tensor(side.hidden, [_TILE["BLOCK_T"], _TILE["BLOCK_H"]]),
        "weight": TensorDescriptor.from_tensor(side.weight, [_TILE["BLOCK_V"], _TILE["BLOCK_H"]]),
        "inverse_ptr": head.inverse_temperature,
        "bias_ptr": head.bias,
    }
    numbers = {"width": side.hidden.shape[1], "softcap": head.softcap, "inner": head.inner}
    switches = {"HAS_BIAS": head.bias is not None, "CAPPED": head.softcap > 0}
    return {
        **{other + name: value for name, value in (tensors | numbers).items()},
        **{other.upper() + name: value for name, value in switches.items()},
    }
