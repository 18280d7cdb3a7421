"""Triton's part of `token_logprobs`: one kernel multiplies and folds, one makes a slice of the logits' gradient."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ._blocks import LOG2_E, fold_logits, grouped_tile, matmul_tile, tanh
from ._head import Folded, Gradients, Head, Needs

_SLICE = 8192  # columns of the vocabulary whose gradients are held at a time
# The fastest of the tiles tried on an NVIDIA H100 at widths 2560 and 4096.
_TILE = {"BLOCK_T": 128, "BLOCK_V": 256, "BLOCK_H": 64, "GROUP": 8}
_LAUNCH = {"num_warps": 8, "num_stages": 3}
_TILES = 8  # tiles of the vocabulary that one program of the forward pass folds


@triton.jit
def _scores(
    hidden, weight, inverse_ptr, bias_ptr, row, column, tokens, vocabulary, width, softcap, inner,
    HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """A tile of logits in powers of two, very low beyond the vocabulary; its rows and columns."""
    rows = row + tl.arange(0, BLOCK_T)
    columns = column + tl.arange(0, BLOCK_V)
    scale = tl.load(inverse_ptr + rows, mask=rows < tokens, other=1.0) * LOG2_E
    logits = matmul_tile(hidden, weight, row, column, width, BLOCK_T, BLOCK_V, BLOCK_H)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + columns, mask=columns < vocabulary, other=0.0)
        logits += bias.to(tl.float32)[None, :]
    if CAPPED:
        logits = softcap * tanh(logits * inner)
    return tl.where((columns < vocabulary)[None, :], logits * scale[:, None], -1e30), rows, columns


@triton.jit
def _forward_kernel(
    hidden, weight, targets_ptr, inverse_ptr, bias_ptr, parts_ptr,
    tokens, vocabulary, width, parts, softcap, inner,
    HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr, SQUARES: tl.constexpr,
    TILES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """parts[part] = (largest, total, weighted, target's (, squares)), each [tokens], over TILES tiles of the
    vocabulary."""
    tile, part = grouped_tile(tl.program_id(0), tl.cdiv(tokens, BLOCK_T), parts, GROUP)
    own = tile * BLOCK_T + tl.arange(0, BLOCK_T)
    inside = own < tokens
    target = tl.load(targets_ptr + own, mask=inside, other=0).to(tl.int32)
    largest = tl.full([BLOCK_T], -1e30, tl.float32)
    total = tl.zeros([BLOCK_T], tl.float32)
    weighted = tl.zeros([BLOCK_T], tl.float32)
    chosen = tl.zeros([BLOCK_T], tl.float32)
    squares = tl.zeros([BLOCK_T], tl.float32)
    first = part * TILES
    for i in tl.range(first, tl.minimum(first + TILES, tl.cdiv(vocabulary, BLOCK_V))):
        scores, _, columns = _scores(
            hidden, weight, inverse_ptr, bias_ptr, tile * BLOCK_T, i * BLOCK_V, tokens, vocabulary, width,
            softcap, inner, HAS_BIAS, CAPPED, BLOCK_T, BLOCK_V, BLOCK_H,
        )  # fmt: skip
        chosen += tl.sum(tl.where(columns[None, :] == target[:, None], scores, 0.0), 1)
        if SQUARES:
            top = tl.maximum(largest, tl.max(scores, 1))
            squares = squares * tl.exp2(2 * (largest - top)) + tl.sum(tl.exp2(2 * (scores - top[:, None])), 1)
        largest, total, weighted = fold_logits(scores, largest, total, weighted)
    to = parts_ptr + part.to(tl.int64) * (5 if SQUARES else 4) * tokens + own
    tl.store(to, largest, mask=inside)
    tl.store(to + tokens, total, mask=inside)
    tl.store(to + 2 * tokens, weighted, mask=inside)
    tl.store(to + 3 * tokens, chosen, mask=inside)
    if SQUARES:
        tl.store(to + 4 * tokens, squares, mask=inside)


@triton.jit
def _backward_kernel(
    hidden, weight, targets_ptr, inverse_ptr, bias_ptr, log_sum_ptr, entropy_ptr, grad_logprob_ptr,
    grad_entropy_ptr, out_ptr, tokens, vocabulary, width, first, columns_out, softcap, inner,
    HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out [tokens, columns_out] = the gradient of the product of hidden and weight, columns from first on."""
    tile, slot = grouped_tile(
        tl.program_id(0), tl.cdiv(tokens, BLOCK_T), tl.cdiv(columns_out, BLOCK_V), GROUP
    )
    scores, rows, columns = _scores(
        hidden, weight, inverse_ptr, bias_ptr, tile * BLOCK_T, first + slot * BLOCK_V, tokens, vocabulary, width,
        softcap, inner, HAS_BIAS, CAPPED, BLOCK_T, BLOCK_V, BLOCK_H,
    )  # fmt: skip
    inside = rows < tokens
    logp = (scores - tl.load(log_sum_ptr + rows, mask=inside, other=0.0)[:, None]) / LOG2_E
    target = tl.load(targets_ptr + rows, mask=inside, other=0).to(tl.int32)
    inverse = tl.load(inverse_ptr + rows, mask=inside, other=1.0)
    entropy = tl.load(entropy_ptr + rows, mask=inside, other=0.0)
    up = tl.load(grad_logprob_ptr + rows, mask=inside, other=0.0) * inverse
    up_entropy = tl.load(grad_entropy_ptr + rows, mask=inside, other=0.0) * inverse
    # d logprob = [target] - p and d entropy = -p (log p + entropy), in float32: p - 1 in bfloat16 loses all near 1.
    slope = up[:, None] + up_entropy[:, None] * (logp + entropy[:, None])
    grad = tl.where(columns[None, :] == target[:, None], up[:, None], 0.0) - tl.exp2(logp * LOG2_E) * slope
    if CAPPED:
        capped = (
            tl.where((columns < vocabulary)[None, :], scores, 0.0) / (inverse * LOG2_E * softcap)[:, None]
        )
        grad *= (1 - capped * capped) * (softcap * inner)
    to = out_ptr + rows.to(tl.int64)[:, None] * columns_out + (columns - first)[None, :]
    tl.store(
        to,
        grad.to(out_ptr.dtype.element_ty),
        mask=inside[:, None] & (columns < first + columns_out)[None, :],
    )


def fits(hidden: Tensor, weight: Tensor) -> bool:
    return (
        hidden.is_cuda
        and hidden.dtype in (torch.bfloat16, torch.float16)
        and hidden.shape[1] % 8 == 0  # rows of 16 bytes, which the copy engine asks for
    )


def forward(hidden: Tensor, weight: Tensor, targets: Tensor, head: Head, squares: bool) -> Folded:
    (tokens, width), vocabulary = hidden.shape, len(weight)
    parts = triton.cdiv(vocabulary, _TILE["BLOCK_V"] * _TILES)
    folded = torch.empty(parts, 5 if squares else 4, tokens, dtype=torch.float32, device=hidden.device)
    _forward_kernel[(triton.cdiv(tokens, _TILE["BLOCK_T"]) * parts,)](
        _tiled(hidden, _TILE["BLOCK_T"]),
        _tiled(weight, _TILE["BLOCK_V"]),
        targets,
        head.inverse_temperature,
        head.bias,
        folded,
        tokens,
        vocabulary,
        width,
        parts,
        head.softcap,
        head.inner,
        SQUARES=squares,
        TILES=_TILES,
        **_switches(head),
        **_TILE,
        **_LAUNCH,
    )
    largest, total, weighted, chosen = folded[:, :4].unbind(1)
    top = largest.amax(0)
    down = largest - top
    shrink = down.exp2()
    all_weighted = (shrink * (weighted + total * down)).sum(0)
    all_total = (shrink * total).sum(0)
    log_total = all_total.log2()
    log_sum = top + log_total
    ln_2 = math.log(2.0)
    target = chosen.sum(0)
    return Folded(
        logprobs=(target - log_sum) * ln_2,
        entropy=(log_total - all_weighted / all_total) * ln_2,
        log_sum=log_sum,
        top1=target >= top,
        squares=((shrink.square() * folded[:, 4]).sum(0).log2() - 2 * log_total) * ln_2 if squares else None,
    )


def backward(
    grads: tuple[Tensor, Tensor],
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    head: Head,
    log_sum: Tensor,
    entropy: Tensor,
    needs: Needs,
) -> Gradients:
    (tokens, width), vocabulary = hidden.shape, len(weight)
    tile = _tile_backward(head)
    size = min(_SLICE, -(-vocabulary // 8) * 8)
    block = torch.empty(tokens * size, dtype=hidden.dtype, device=hidden.device)
    grad_hidden = (
        torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if needs.hidden else None
    )
    grad_weight = torch.empty_like(weight) if needs.weight else None
    grad_bias = torch.empty(vocabulary, dtype=torch.float32, device=hidden.device) if needs.bias else None
    for first in range(0, vocabulary, size):
        last = min(first + size, vocabulary)
        padded = -(-(last - first) // 8) * 8  # the matrix products are fast where rows begin at 16 bytes
        grad = block[: tokens * padded].view(tokens, padded)
        blocks = triton.cdiv(tokens, tile["BLOCK_T"]) * triton.cdiv(padded, tile["BLOCK_V"])
        _backward_kernel[(blocks,)](
            _tiled(hidden, tile["BLOCK_T"]),
            _tiled(weight, tile["BLOCK_V"]),
            targets,
            head.inverse_temperature,
            head.bias,
            log_sum,
            entropy,
            *grads,
            grad,
            tokens,
            vocabulary,
            width,
            first,
            padded,
            head.softcap,
            head.inner,
            **_switches(head),
            **tile,
            **_LAUNCH,
        )
        grad = grad[:, : last - first]
        if grad_hidden is not None:
            _add_product(grad_hidden, grad, weight[first:last])
        if grad_weight is not None:
            torch.mm(grad.T, hidden, out=grad_weight[first:last])
        if grad_bias is not None:
            torch.sum(grad, 0, dtype=torch.float32, out=grad_bias[first:last])
    return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight, grad_bias


def _tile_backward(head: Head) -> dict[str, int]:
    """A cap takes registers: its tile is half as wide."""
    return {**_TILE, "BLOCK_V": _TILE["BLOCK_V"] // 2} if head.softcap else _TILE


def _switches(head: Head) -> dict[str, bool]:
    return {"HAS_BIAS": head.bias is not None, "CAPPED": head.softcap > 0}


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in float32."""
    if total.is_cuda:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


def _tiled(matrix: Tensor, rows: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(matrix, [rows, _TILE["BLOCK_H"]])
