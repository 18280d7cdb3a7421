"""Triton's part of `grouped_mlp`: products of sorted rows with the weights of their expert, and their launches.

A slot is a place in the sorted order, a pair is token * k + choice (`expert_routing`).
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

# Triton's interpreter multiplies the bit patterns of bfloat16 numbers, so there they are widened first.
UPCAST = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
_FROM_INPUT = ("gelu", "silu")  # the slopes of the other activations follow from what they gave

# By how many rows an expert has on average. Chosen so that no register spills; not measured on a GPU.
_TILES = {
    16: {"BLOCK_T": 16, "BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3},
    64: {"BLOCK_T": 64, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3},
    128: {"BLOCK_T": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3},
}
_TILE_FLOAT32 = {"BLOCK_T": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3}
_HIDDEN_GRAD_COLUMNS = 64  # so much happens to a tile after its product that it must be narrower
_WEIGHT_TILE = {"BLOCK_T": 64, "BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3}
_BIAS_TILE = {"BLOCK_T": 64, "BLOCK_N": 64, "num_warps": 4}
_COMBINE_BLOCK = 1024


@triton.jit
def _expert_tile(tile, offsets_ptr, order_ptr, top, experts, EXPERTS: tl.constexpr, BLOCK_T: tl.constexpr):
    """The expert of a tile, its slots, which of them there are, and their pairs and tokens.

    Expert e has ceil(count / BLOCK_T) tiles. Beyond the last tile the expert is EXPERTS and there are no slots.
    """
    each = tl.arange(0, EXPERTS)
    inside = each < experts
    begin = tl.load(offsets_ptr + each, mask=inside, other=0)
    end = tl.load(offsets_ptr + each + 1, mask=inside, other=0)
    tiles = tl.where(inside, tl.cdiv(end - begin, BLOCK_T), 0)
    last = tl.cumsum(tiles, 0)
    expert = tl.sum((last <= tile).to(tl.int32), 0)
    own = each == expert
    first = tl.sum(tl.where(own, begin + (tile - last + tiles) * BLOCK_T, 0), 0)
    stop = tl.sum(tl.where(own, end, 0), 0)
    slots = first + tl.arange(0, BLOCK_T)
    inside = slots < stop
    pairs = tl.load(order_ptr + slots, mask=inside, other=0)
    return expert, slots, inside, pairs, pairs // top


@triton.jit
def _product(
    left_ptr, rows, inside, width, right_ptr, columns, last,
    TRANSPOSED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """float32 [BLOCK_T, BLOCK_N] = left[rows, :width] @ right; right is [width, last], or [last, width] transposed."""
    total = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    there = columns < last
    for k in tl.range(0, width, BLOCK_K):
        inner = k + tl.arange(0, BLOCK_K)
        own = inner < width
        a = tl.load(
            left_ptr + rows[:, None] * width + inner[None, :],
            mask=inside[:, None] & own[None, :],
            other=0.0,
        )
        at = (
            columns[None, :] * width + inner[:, None]
            if TRANSPOSED
            else inner[:, None] * last + columns[None, :]
        )
        b = tl.load(right_ptr + at, mask=own[:, None] & there[None, :], other=0.0)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit
def _activated(value, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        result = tl.where(value < 0, 0.0, value)  # what is no number stays so
    elif ACTIVATION == "tanh":
        result = 2 * tl.sigmoid(2 * value) - 1
    elif ACTIVATION == "elu":
        result = tl.where(value > 0, value, tl.exp(tl.where(value > 0, 0.0, value)) - 1)
    elif ACTIVATION == "gelu":
        result = 0.5 * value * (1 + tl.erf(value * 0.7071067811865476))
    else:
        result = value * tl.sigmoid(value)
    return result


@triton.jit
def _slope_of(value, ACTIVATION: tl.constexpr):
    """As `_slope`, from what went into gelu and silu and from what came out of the others."""
    if ACTIVATION == "relu":
        slope = tl.where(value > 0, 1.0, 0.0)
    elif ACTIVATION == "tanh":
        slope = 1 - value * value
    elif ACTIVATION == "elu":
        slope = tl.minimum(value, 0.0) + 1
    elif ACTIVATION == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * value * value)
        slope = 0.5 * (1 + tl.erf(value * 0.7071067811865476)) + value * density
    else:
        half = tl.sigmoid(value)
        slope = half * (1 + value * (1 - half))
    return slope


@triton.jit
def _kept_units(key_ptr, tokens, expert, experts, columns, width, threshold):
    """As `_kept`: the same stream."""
    counter = (tokens * experts + expert)[:, None] * width + columns[None, :]
    z = counter.to(tl.uint64) * 0x9E3779B97F4A7C15 + tl.load(key_ptr).to(tl.uint64)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return ((z ^ (z >> 31)) >> 40).to(tl.int32) >= threshold


@triton.jit
def _up_kernel(
    x_ptr, weight_ptr, bias_ptr, order_ptr, offsets_ptr, key_ptr, hidden_ptr, before_ptr,
    top, experts, width, units, threshold, scale,
    ACTIVATION: tl.constexpr, DROPOUT: tl.constexpr, KEEP_BEFORE: tl.constexpr,
    EXPERTS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """hidden [slots, units] = dropout(activation(x[token] @ weight[e].T + bias[e])), weight [experts, units, width]."""
    parts = tl.cdiv(units, BLOCK_N)
    expert, slots, inside, _, tokens = _expert_tile(
        tl.program_id(0) // parts, offsets_ptr, order_ptr, top, experts, EXPERTS, BLOCK_T
    )
    if expert < experts:
        columns = tl.program_id(0) % parts * BLOCK_N + tl.arange(0, BLOCK_N)
        there = columns < units
        weight = weight_ptr + expert.to(tl.int64) * units * width
        total = _product(
            x_ptr, tokens, inside, width, weight, columns, units, True, BLOCK_T, BLOCK_N, BLOCK_K
        )
        bias = tl.load(bias_ptr + expert.to(tl.int64) * units + columns, mask=there, other=0.0)
        total += bias.to(tl.float32)[None, :]
        to = slots[:, None] * units + columns[None, :]
        stored = inside[:, None] & there[None, :]
        if KEEP_BEFORE:
            tl.store(before_ptr + to, total.to(before_ptr.dtype.element_ty), mask=stored)
        hidden = _activated(total, ACTIVATION)
        if DROPOUT:
            kept = _kept_units(key_ptr, tokens, expert, experts, columns, units, threshold)
            hidden = tl.where(kept, hidden * scale, 0.0)
        tl.store(hidden_ptr + to, hidden.to(hidden_ptr.dtype.element_ty), mask=stored)


@triton.jit
def _down_kernel(
    rows_ptr, weight_ptr, bias_ptr, gate_ptr, order_ptr, offsets_ptr, out_ptr, top, experts, width, last,
    GATED: tl.constexpr,
    EXPERTS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out [pairs, last] = rows[slot] @ weight[e], if GATED gate (that + bias[e]); weight [experts, width, last]."""
    parts = tl.cdiv(last, BLOCK_N)
    expert, slots, inside, pairs, _ = _expert_tile(
        tl.program_id(0) // parts, offsets_ptr, order_ptr, top, experts, EXPERTS, BLOCK_T
    )
    if expert < experts:
        columns = tl.program_id(0) % parts * BLOCK_N + tl.arange(0, BLOCK_N)
        there = columns < last
        weight = weight_ptr + expert.to(tl.int64) * width * last
        total = _product(
            rows_ptr, slots, inside, width, weight, columns, last, False, BLOCK_T, BLOCK_N, BLOCK_K
        )
        if GATED:
            bias = tl.load(bias_ptr + expert.to(tl.int64) * last + columns, mask=there, other=0.0)
            gate = tl.load(gate_ptr + pairs, mask=inside, other=0.0).to(tl.float32)
            total = (total + bias.to(tl.float32)[None, :]) * gate[:, None]
        to = out_ptr + pairs[:, None] * last + columns[None, :]
        tl.store(to, total.to(out_ptr.dtype.element_ty), mask=inside[:, None] & there[None, :])


@triton.jit
def _combine_kernel(pairs_ptr, out_ptr, top, count, width, BLOCK: tl.constexpr):
    """out [count / width, width] = the sum of a token's top rows of pairs, first to last."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    first = at // width * top * width + at % width
    total = tl.zeros([BLOCK], tl.float32)
    for j in tl.range(0, top):
        total += tl.load(pairs_ptr + first + j * width, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _hidden_grad_kernel(
    grad_ptr, weight_ptr, bias_ptr, gate_ptr, order_ptr, offsets_ptr, key_ptr, hidden_ptr, before_ptr,
    out_ptr, gate_grad_ptr,
    pairs_count, top, experts, width, units, threshold, scale,
    ACTIVATION: tl.constexpr, DROPOUT: tl.constexpr, KEEP_BEFORE: tl.constexpr,
    EXPERTS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out [slots, units] = the gradient before the activation; gate_grad = each tile's part of that of the gate.

    grad [tokens, width], weight [experts, units, width], bias [experts, width], gate_grad [tiles of units, pairs].
    """
    parts = tl.cdiv(units, BLOCK_N)
    part = tl.program_id(0) % parts
    expert, slots, inside, pairs, tokens = _expert_tile(
        tl.program_id(0) // parts, offsets_ptr, order_ptr, top, experts, EXPERTS, BLOCK_T
    )
    if expert < experts:
        columns = part * BLOCK_N + tl.arange(0, BLOCK_N)
        there = columns < units
        weight = weight_ptr + expert.to(tl.int64) * units * width
        total = _product(
            grad_ptr, tokens, inside, width, weight, columns, units, True, BLOCK_T, BLOCK_N, BLOCK_K
        )
        at = slots[:, None] * units + columns[None, :]
        stored = inside[:, None] & there[None, :]
        hidden = tl.load(hidden_ptr + at, mask=stored, other=0.0).to(tl.float32)
        to = gate_grad_ptr + part.to(tl.int64) * pairs_count + pairs
        share = tl.sum(total * hidden, 1)
        if part == 0:
            for k in tl.range(0, width, BLOCK_K):
                inner = k + tl.arange(0, BLOCK_K)
                own = inner < width
                bias = tl.load(bias_ptr + expert.to(tl.int64) * width + inner, mask=own, other=0.0)
                rows = grad_ptr + tokens[:, None] * width + inner[None, :]
                up = tl.load(rows, mask=inside[:, None] & own[None, :], other=0.0)
                share += tl.sum(up.to(tl.float32) * bias.to(tl.float32)[None, :], 1)
        tl.store(to, share, mask=inside)
        gate = tl.load(gate_ptr + pairs, mask=inside, other=0.0).to(tl.float32)
        total *= gate[:, None]
        value = (
            tl.load(before_ptr + at, mask=stored, other=0.0).to(tl.float32) if KEEP_BEFORE else hidden / scale
        )
        total *= _slope_of(value, ACTIVATION)
        if DROPOUT:
            kept = _kept_units(key_ptr, tokens, expert, experts, columns, units, threshold)
            total = tl.where(kept, total * scale, 0.0)
        tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=stored)


@triton.jit
def _weight_grad_kernel(
    left_ptr, right_ptr, gate_ptr, order_ptr, offsets_ptr, out_ptr, top, units, width,
    GATED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out [experts, units, width] = sum over an expert's pairs of left[slot] (times gate) outer right[token]."""
    parts = tl.cdiv(width, BLOCK_N)
    tiles = tl.cdiv(units, BLOCK_M) * parts
    expert = tl.program_id(0) // tiles
    place = tl.program_id(0) % tiles
    rows = place // parts * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = place % parts * BLOCK_N + tl.arange(0, BLOCK_N)
    there = columns < width
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    stop = tl.load(offsets_ptr + expert + 1)
    for first in tl.range(tl.load(offsets_ptr + expert), stop, BLOCK_T):
        slots = first + tl.arange(0, BLOCK_T)
        inside = slots < stop
        pairs = tl.load(order_ptr + slots, mask=inside, other=0)
        a = tl.load(
            left_ptr + slots[None, :] * units + rows[:, None],
            mask=inside[None, :] & (rows < units)[:, None],
            other=0.0,
        )
        b = tl.load(
            right_ptr + (pairs // top)[:, None] * width + columns[None, :],
            mask=inside[:, None] & there[None, :],
            other=0.0,
        )
        if GATED:
            gate = tl.load(gate_ptr + pairs, mask=inside, other=0.0).to(tl.float32)
            a = (a.to(tl.float32) * gate[None, :]).to(left_ptr.dtype.element_ty)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="ieee")
    to = out_ptr + (expert.to(tl.int64) * units + rows[:, None]) * width + columns[None, :]
    tl.store(to, total.to(out_ptr.dtype.element_ty), mask=(rows < units)[:, None] & there[None, :])


@triton.jit
def _bias_grad_kernel(
    rows_ptr, gate_ptr, order_ptr, offsets_ptr, out_ptr, top, width,
    GATED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out [experts, width] = sum over an expert's pairs of rows[slot], if GATED of gate rows[token]."""
    parts = tl.cdiv(width, BLOCK_N)
    expert = tl.program_id(0) // parts
    columns = tl.program_id(0) % parts * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_N], tl.float32)
    stop = tl.load(offsets_ptr + expert + 1)
    for first in tl.range(tl.load(offsets_ptr + expert), stop, BLOCK_T):
        slots = first + tl.arange(0, BLOCK_T)
        inside = slots < stop
        at = slots
        weight = inside.to(tl.float32)
        if GATED:
            pairs = tl.load(order_ptr + slots, mask=inside, other=0)
            at = pairs // top
            weight = tl.load(gate_ptr + pairs, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(
            rows_ptr + at[:, None] * width + columns[None, :],
            mask=inside[:, None] & (columns < width)[None, :],
            other=0.0,
        )
        total += tl.sum(value.to(tl.float32) * weight[:, None], 0)
    to = out_ptr + expert.to(tl.int64) * width + columns
    tl.store(to, total.to(out_ptr.dtype.element_ty), mask=columns < width)


def _tile(x: Tensor, pairs: int, experts: int) -> dict[str, int]:
    if x.dtype == torch.float32:
        return _TILE_FLOAT32
    return _TILES[next((rows for rows in _TILES if pairs <= rows * experts), max(_TILES))]


def _combined(pairs: Tensor, tokens: int) -> Tensor:
    """[tokens * k, width] -> [tokens, width]."""
    top = len(pairs) // tokens
    if top == 1:
        return pairs
    out = pairs.new_empty(tokens, pairs.shape[1])
    _combine_kernel[(triton.cdiv(out.numel(), _COMBINE_BLOCK),)](
        pairs, out, top, out.numel(), pairs.shape[1], BLOCK=_COMBINE_BLOCK
    )
    return out


def forward(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gate: Tensor, order: Tensor, offsets: Tensor,
    key: Tensor, activation: str, threshold: int, scale: float, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y [T, o], hidden [slots, h] and what went into the activation, which is empty where nobody needs it."""
    (experts, units, width), last = w1.shape, w2.shape[2]
    pairs, top = len(order), gate.shape[1]
    tile, lanes = _tile(x, pairs, experts), triton.next_power_of_2(experts)
    rows = triton.cdiv(pairs, tile["BLOCK_T"]) + experts
    keep_before = keep and activation in _FROM_INPUT
    hidden = x.new_empty(pairs, units)
    before = torch.empty_like(hidden) if keep_before else x.new_empty(0, units)
    _up_kernel[(rows * triton.cdiv(units, tile["BLOCK_N"]),)](
        x, w1, b1, order, offsets, key, hidden, before, top, experts, width, units, threshold, scale,
        ACTIVATION=activation, DROPOUT=threshold > 0, KEEP_BEFORE=keep_before, EXPERTS=lanes, **tile,
    )  # fmt: skip
    out = x.new_empty(pairs, last)
    _down_kernel[(rows * triton.cdiv(last, tile["BLOCK_N"]),)](
        hidden, w2, b2, gate, order, offsets, out, top, experts, units, last,
        GATED=True, EXPERTS=lanes, **tile,
    )  # fmt: skip
    return _combined(out, len(x)), hidden if keep else x.new_empty(0, units), before


def backward(
    grad: Tensor, x: Tensor, w1: Tensor, w2: Tensor, b2: Tensor, gate: Tensor, order: Tensor, offsets: Tensor,
    hidden: Tensor, before: Tensor, key: Tensor, activation: str, threshold: int, scale: float,
    need_x: bool, need_weights: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:  # fmt: skip
    """The gradients of x, of [w1, b1, w2, b2] and of gate, float32 [T * k].

    The first two are empty where they are not needed.
    """
    (experts, units, width), last = w1.shape, w2.shape[2]
    pairs, top = len(order), gate.shape[1]
    tile, lanes = _tile(x, pairs, experts), triton.next_power_of_2(experts)
    rows = triton.cdiv(pairs, tile["BLOCK_T"]) + experts
    narrow = {**tile, "BLOCK_N": _HIDDEN_GRAD_COLUMNS}
    parts = triton.cdiv(units, _HIDDEN_GRAD_COLUMNS)
    down = torch.empty_like(hidden)
    gate_grads = torch.empty(parts, pairs, dtype=torch.float32, device=x.device)
    _hidden_grad_kernel[(rows * parts,)](
        grad, w2, b2, gate, order, offsets, key, hidden, before, down, gate_grads,
        pairs, top, experts, last, units, threshold, scale,
        ACTIVATION=activation, DROPOUT=threshold > 0, KEEP_BEFORE=activation in _FROM_INPUT, EXPERTS=lanes, **narrow,
    )  # fmt: skip
    grad_x = x.new_empty(0)
    if need_x:
        out = x.new_empty(pairs, width)
        _down_kernel[(rows * triton.cdiv(width, tile["BLOCK_N"]),)](
            down, w1, b2, gate, order, offsets, out, top, experts, units, width,
            GATED=False, EXPERTS=lanes, **tile,
        )  # fmt: skip
        grad_x = _combined(out, len(x))
    weights = [x.new_empty(0) for _ in range(4)]
    if need_weights:
        weights = [
            torch.empty_like(w1),
            w1.new_empty(experts, units),
            torch.empty_like(w2),
            torch.empty_like(b2),
        ]
        for left, right, gated, out in ((down, x, False, weights[0]), (hidden, grad, True, weights[2])):
            tiles = triton.cdiv(units, _WEIGHT_TILE["BLOCK_M"]) * triton.cdiv(
                out.shape[2], _WEIGHT_TILE["BLOCK_N"]
            )
            _weight_grad_kernel[(experts * tiles,)](
                left, right, gate, order, offsets, out, top, units, out.shape[2], GATED=gated, **_WEIGHT_TILE
            )
        for values, gated, out in ((down, False, weights[1]), (grad, True, weights[3])):
            _bias_grad_kernel[(experts * triton.cdiv(out.shape[1], _BIAS_TILE["BLOCK_N"]),)](
                values, gate, order, offsets, out, top, out.shape[1], GATED=gated, **_BIAS_TILE
            )
    return grad_x, weights, gate_grads.sum(0)
