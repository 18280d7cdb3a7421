"""Triton's part of the head: one kernel multiplies and folds, one makes a slice of the logits' gradient.

Where a loss is known with the log-probs (`one_pass`), the vendor's library multiplies a block of tokens with the whole
weight; one kernel folds the rows of the product, another makes the gradient from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ._blocks import LOG2_E, fold_logits, grouped_tile, matmul_tile, tanh
from ._head import Derive, Folded, Gradients, Head, Needs, Sums, add_product, product

_SLICE = 8192  # columns of the vocabulary whose gradients are held at a time
# The fastest of the tiles tried on an NVIDIA H100 at widths 2560 and 4096.
_TILE = {"BLOCK_T": 128, "BLOCK_V": 256, "BLOCK_H": 64, "GROUP": 8}
_LAUNCH = {"num_warps": 8, "num_stages": 3}
_TILES = 8  # tiles of the vocabulary that one program of the forward pass folds
_COMBINED = 32  # rows whose parts one program combines
# Of one pass: logits of a block of tokens, more where the weight's sum is read and written once a block; columns of a
# row that a program works on.
_BLOCK_ENTRIES, _BLOCK_ENTRIES_WEIGHT = 1 << 26, 1 << 28
_FOLD = {"BLOCK": 4096, "num_warps": 8}
_GRADIENT = {"BLOCK": 1024, "num_warps": 4}


@triton.jit
def _score(
    product, inverse, bias_ptr, columns, vocabulary, softcap, inner, HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr
):  # fmt: skip
    """Products [R, C] -> logits in powers of two, very low beyond the vocabulary; inverse [R], columns [C]."""
    inside = columns < vocabulary
    if HAS_BIAS:
        product += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    if CAPPED:
        product = softcap * tanh(product * inner)
    return tl.where(inside[None, :], tl.maximum(product * (inverse * LOG2_E)[:, None], -1e30), -1e30)


@triton.jit
def cap_slope(scores, inverse, columns, vocabulary, softcap, inner):
    """d capped logit / d product where it does not divide by the temperature, of scores [R, C]."""
    inside = tl.where((columns < vocabulary)[None, :], scores, 0.0)
    capped = inside / (inverse * LOG2_E * softcap)[:, None]
    return (1 - capped * capped) * (softcap * inner)


@triton.jit
def _gradient(
    scores, inverse, target, log_sum, entropy, up, up_entropy, columns, vocabulary, softcap, inner,
    CAPPED: tl.constexpr,
):  # fmt: skip
    """Scores [R, C], numbers of their rows [R] and columns [C] -> the gradient of the products."""
    # d logprob = [target] - p and d entropy = -p (log p + entropy), in float32: p - 1 in bfloat16 loses all near 1.
    logp = (scores - log_sum[:, None]) / LOG2_E
    up *= inverse
    slope = up[:, None] + (up_entropy * inverse)[:, None] * (logp + entropy[:, None])
    grad = tl.where(columns[None, :] == target[:, None], up[:, None], 0.0) - tl.exp2(logp * LOG2_E) * slope
    if CAPPED:
        grad *= cap_slope(scores, inverse, columns, vocabulary, softcap, inner)
    return grad


@triton.jit
def scores_tile(
    hidden, weight, inverse_ptr, bias_ptr, row, column, tokens, vocabulary, width, softcap, inner,
    HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """A tile of logits in powers of two, very low beyond the vocabulary; its rows and columns."""
    rows = row + tl.arange(0, BLOCK_T)
    columns = column + tl.arange(0, BLOCK_V)
    inverse = tl.load(inverse_ptr + rows, mask=rows < tokens, other=1.0)
    product = matmul_tile(hidden, weight, row, column, width, BLOCK_T, BLOCK_V, BLOCK_H)
    scores = _score(product, inverse, bias_ptr, columns, vocabulary, softcap, inner, HAS_BIAS, CAPPED)
    return scores, rows, columns


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
        scores, _, columns = scores_tile(
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
def _combine_kernel(
    parts_ptr, logprobs_ptr, entropy_ptr, log_sum_ptr, top1_ptr, squares_ptr, tokens, parts,
    SQUARES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The parts of the forward pass, in their order, so that a row's results depend on nothing but the row."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < tokens
    largest = tl.full([BLOCK], -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    weighted = tl.zeros([BLOCK], tl.float32)
    chosen = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    of = parts_ptr + rows
    for _ in tl.range(0, parts):
        next_largest = tl.load(of, mask=inside, other=0.0)
        next_total = tl.load(of + tokens, mask=inside, other=1.0)
        next_weighted = tl.load(of + 2 * tokens, mask=inside, other=0.0)
        chosen += tl.load(of + 3 * tokens, mask=inside, other=0.0)
        top = tl.maximum(largest, next_largest)
        down, next_down = largest - top, next_largest - top
        shrink, next_shrink = tl.exp2(down), tl.exp2(next_down)
        weighted = shrink * (weighted + total * down) + next_shrink * (next_weighted + next_total * next_down)
        total = shrink * total + next_shrink * next_total
        if SQUARES:
            next_squares = tl.load(of + 4 * tokens, mask=inside, other=1.0)
            squares = shrink * shrink * squares + next_shrink * next_shrink * next_squares
        largest = top
        of += (5 if SQUARES else 4) * tokens
    log_total = tl.log2(total)
    tl.store(logprobs_ptr + rows, (chosen - largest - log_total) / LOG2_E, mask=inside)
    tl.store(entropy_ptr + rows, (log_total - weighted / total) / LOG2_E, mask=inside)
    tl.store(log_sum_ptr + rows, largest + log_total, mask=inside)
    tl.store(top1_ptr + rows, chosen >= largest, mask=inside)
    if SQUARES:
        tl.store(squares_ptr + rows, (tl.log2(squares) - 2 * log_total) / LOG2_E, mask=inside)


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
    scores, rows, columns = scores_tile(
        hidden, weight, inverse_ptr, bias_ptr, tile * BLOCK_T, first + slot * BLOCK_V, tokens, vocabulary, width,
        softcap, inner, HAS_BIAS, CAPPED, BLOCK_T, BLOCK_V, BLOCK_H,
    )  # fmt: skip
    inside = rows < tokens
    grad = _gradient(
        scores,
        tl.load(inverse_ptr + rows, mask=inside, other=1.0),
        tl.load(targets_ptr + rows, mask=inside, other=0).to(tl.int32),
        tl.load(log_sum_ptr + rows, mask=inside, other=0.0),
        tl.load(entropy_ptr + rows, mask=inside, other=0.0),
        tl.load(grad_logprob_ptr + rows, mask=inside, other=0.0),
        tl.load(grad_entropy_ptr + rows, mask=inside, other=0.0),
        columns, vocabulary, softcap, inner, CAPPED,
    )  # fmt: skip
    to = out_ptr + rows.to(tl.int64)[:, None] * columns_out + (columns - first)[None, :]
    tl.store(
        to,
        grad.to(out_ptr.dtype.element_ty),
        mask=inside[:, None] & (columns < first + columns_out)[None, :],
    )


@triton.jit
def _fold_kernel(
    products_ptr, targets_ptr, inverse_ptr, bias_ptr, logprobs_ptr, entropy_ptr, log_sum_ptr, vocabulary,
    softcap, inner, HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of products [R, vocabulary] -> its logprob, entropy and log_sum."""
    row = tl.program_id(0).to(tl.int64) + tl.zeros([1], tl.int64)
    inverse = tl.load(inverse_ptr + row)
    target = tl.load(targets_ptr + row).to(tl.int32)
    largest = tl.full([1], -1e30, tl.float32)
    total = tl.zeros([1], tl.float32)
    weighted = tl.zeros([1], tl.float32)
    chosen = tl.zeros([1], tl.float32)
    for first in tl.range(0, vocabulary, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        product = tl.load(
            products_ptr + row[:, None] * vocabulary + columns[None, :], mask=(columns < vocabulary)[None, :], other=0.0
        )  # fmt: skip
        scores = _score(product, inverse, bias_ptr, columns, vocabulary, softcap, inner, HAS_BIAS, CAPPED)
        chosen += tl.sum(tl.where(columns[None, :] == target[:, None], scores, 0.0), 1)
        largest, total, weighted = fold_logits(scores, largest, total, weighted)
    log_total = tl.log2(total)
    tl.store(logprobs_ptr + row, (chosen - largest - log_total) / LOG2_E)
    tl.store(entropy_ptr + row, (log_total - weighted / total) / LOG2_E)
    tl.store(log_sum_ptr + row, largest + log_total)


@triton.jit
def _gradient_kernel(
    products_ptr, rows_ptr, targets_ptr, inverse_ptr, bias_ptr, log_sum_ptr, entropy_ptr, up_ptr, up_entropy_ptr,
    out_ptr, vocabulary, columns_out, softcap, inner,
    HAS_BIAS: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[i, :columns_out] = the gradient of row rows[i] of the products [R, vocabulary], 0 beyond these."""
    place = tl.program_id(0).to(tl.int64) + tl.zeros([1], tl.int64)
    row = tl.load(rows_ptr + place)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inverse = tl.load(inverse_ptr + row)
    product = tl.load(
        products_ptr + row[:, None] * vocabulary + columns[None, :], mask=(columns < vocabulary)[None, :], other=0.0
    )  # fmt: skip
    scores = _score(product, inverse, bias_ptr, columns, vocabulary, softcap, inner, HAS_BIAS, CAPPED)
    grad = _gradient(
        scores, inverse, tl.load(targets_ptr + row).to(tl.int32), tl.load(log_sum_ptr + row),
        tl.load(entropy_ptr + row), tl.load(up_ptr + row), tl.load(up_entropy_ptr + row),
        columns, vocabulary, softcap, inner, CAPPED,
    )  # fmt: skip
    to = out_ptr + place[:, None] * columns_out + columns[None, :]
    tl.store(to, grad.to(out_ptr.dtype.element_ty), mask=(columns < columns_out)[None, :])


def fits(hidden: Tensor, weight: Tensor) -> bool:
    return (
        hidden.is_cuda
        and hidden.dtype in (torch.bfloat16, torch.float16)
        # Rows that begin at 16 bytes, which the copy engine asks for.
        and hidden.shape[1] % 8 == 0
        and all(matrix.data_ptr() % 16 == 0 for matrix in (hidden, weight))
    )


def forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    head: Head,
    squares: bool = False,
    deterministic: bool = False,
) -> Folded:
    """The rows of a tile are summed alike whatever they hold: always deterministic."""
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
    result = Folded.unfilled(hidden, squares)
    _combine_kernel[(triton.cdiv(tokens, _COMBINED),)](
        folded, *result, tokens, parts, SQUARES=squares, BLOCK=_COMBINED, num_warps=1
    )
    return result


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

    def slice_of(first: int, out: Tensor) -> None:
        blocks = triton.cdiv(tokens, tile["BLOCK_T"]) * triton.cdiv(out.shape[1], tile["BLOCK_V"])
        _backward_kernel[(blocks,)](
            _tiled(hidden, tile["BLOCK_T"]),
            _tiled(weight, tile["BLOCK_V"]),
            targets,
            head.inverse_temperature,
            head.bias,
            log_sum,
            entropy,
            *grads,
            out,
            tokens,
            vocabulary,
            width,
            first,
            out.shape[1],
            head.softcap,
            head.inner,
            **_switches(head),
            **tile,
            **_LAUNCH,
        )

    return by_slices(slice_of, hidden, weight, needs)


def by_slices(
    slice_of: Callable[[int, Tensor], None], hidden: Tensor, weight: Tensor, needs: Needs
) -> Gradients:
    """The gradients that are needed, from those of the product: slice_of(first, out [T, N]) writes its columns from
    ``first`` on, of which those beyond the vocabulary are not used."""
    tokens, vocabulary = len(hidden), len(weight)
    size = min(_SLICE, -(-vocabulary // 8) * 8)
    block = torch.empty(tokens * size, dtype=hidden.dtype, device=hidden.device)
    grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if needs.hidden else None
    grad_weight = torch.empty_like(weight) if needs.weight else None
    grad_bias = torch.empty(vocabulary, dtype=torch.float32, device=hidden.device) if needs.bias else None
    for first in range(0, vocabulary, size):
        last = min(first + size, vocabulary)
        padded = -(-(last - first) // 8) * 8  # the matrix products are fast where rows begin at 16 bytes
        whole = block[: tokens * padded].view(tokens, padded)
        slice_of(first, whole)
        grad = whole[:, : last - first]
        if grad_hidden is not None:
            add_product(grad_hidden, grad, weight[first:last])
        if grad_weight is not None:
            torch.mm(grad.T, hidden, out=grad_weight[first:last])
        if grad_bias is not None:
            torch.sum(grad, 0, dtype=torch.float32, out=grad_bias[first:last])
    return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight, grad_bias


def one_pass(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    head: Head,
    derive: Derive,
    needs: Needs,
    weight_grad: Tensor | None,
) -> tuple[Folded, Gradients]:
    """As of `_head.one_pass`; where the weight's gradient is needed, ``weight_grad`` is given."""
    tokens, vocabulary = len(hidden), len(weight)
    folded = Folded.unfilled(hidden, squares=False)
    sums = Sums.zeros(hidden, weight, needs._replace(weight=False))._replace(weight=weight_grad)
    entries = _BLOCK_ENTRIES_WEIGHT if needs.weight else _BLOCK_ENTRIES
    size = max(128, entries // vocabulary // 128 * 128)  # whole tiles of the matrix products
    padded = -(-vocabulary // 8) * 8  # they are fast where rows begin at 16 bytes
    room = torch.empty(min(size, tokens), vocabulary, dtype=torch.float32, device=hidden.device)
    room_grad = torch.empty(min(size, tokens), padded, dtype=hidden.dtype, device=hidden.device)
    for start in range(0, tokens, size):
        rows = slice(start, min(start + size, tokens))
        own, of = head.at(rows), targets[rows]
        products = product(hidden[rows], weight.T, room[: len(of)])
        inputs = (products, of, own.inverse_temperature, head.bias)
        results = (folded.logprobs[rows], folded.entropy[rows], folded.log_sum[rows])
        _fold_kernel[(len(of),)](
            *inputs, *results, vocabulary, head.softcap, head.inner, **_switches(head), **_FOLD
        )
        up, up_entropy = derive(folded.logprobs[rows], folded.entropy[rows], rows)
        wanted = ((up != 0) | (up_entropy != 0)).nonzero()[:, 0]
        if len(wanted) == 0 or not any(needs):
            continue
        grad = room_grad[: len(wanted)]
        _gradient_kernel[(len(wanted), triton.cdiv(padded, _GRADIENT["BLOCK"]))](
            products,
            wanted,
            *inputs[1:],
            folded.log_sum[rows],
            folded.entropy[rows],
            up.contiguous(),
            up_entropy.contiguous(),
            grad,
            vocabulary,
            padded,
            head.softcap,
            head.inner,
            **_switches(head),
            **_GRADIENT,
        )
        sums.add(rows.start + wanted, grad[:, :vocabulary], hidden[rows][wanted], weight)
    return folded, sums._replace(weight=None).rounded(weight.dtype)


def _tile_backward(head: Head) -> dict[str, int]:
    """A cap takes registers: its tile is half as wide."""
    return {**_TILE, "BLOCK_V": _TILE["BLOCK_V"] // 2} if head.softcap else _TILE


def _switches(head: Head) -> dict[str, bool]:
    return {"HAS_BIAS": head.bias is not None, "CAPPED": head.softcap > 0}


def _tiled(matrix: Tensor, rows: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(matrix, [rows, _TILE["BLOCK_H"]])
