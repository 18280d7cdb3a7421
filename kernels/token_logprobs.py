"""Log-probability and entropy of each token, without storing the logits.

    logits[t]  = hidden[t] @ weight.T / temperature[t]
    logprob[t] = logits[t, target[t]] - logsumexp(logits[t])
    entropy[t] = log S - sum_v e^z_v z_v / S,   z = logits[t] - max,  S = sum_v e^z_v      (shifted form)

Wijmans et al. 2024, arXiv 2411.09009, derive the memory-free form of the first. On a GPU, in bfloat16 or float16, one
Triton kernel multiplies and folds: a tile of logits never leaves the registers. The backward pass makes the gradient of
a slice of the vocabulary in the same way, and two matrix products of the vendor's library take it from there. Elsewhere
PyTorch does the same block by block. Tokens whose both upstream gradients are zero are left out of the backward pass.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor

    from ._blocks import LOG2_E, fold_logits, grouped_tile, matmul_tile

_BLOCK_ENTRIES = 1 << 22  # logits that PyTorch holds at a time on a CPU
_BLOCK_ENTRIES_GPU = 1 << 27  # a GPU needs larger products to be busy
_SLICE = 8192  # columns of the vocabulary whose gradients the Triton path holds at a time
# The fastest of the tiles tried on an NVIDIA H100 at widths 2560 and 4096.
_TILE = {"BLOCK_T": 128, "BLOCK_V": 256, "BLOCK_H": 64, "GROUP": 8}
_LAUNCH = {"num_warps": 8, "num_stages": 3}
_TILES = 8  # tiles of the vocabulary that one program of the forward pass folds


def token_logprobs_reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """The formula, whole: hidden [T, H], weight [V, H], targets [T] -> logprobs [T], entropy [T]."""
    scale = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    logp = torch.log_softmax(hidden @ weight.T / scale, dim=-1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


if HAS_TRITON:

    @triton.jit
    def _scores(
        hidden, weight, inverse_ptr, row, column, tokens, vocabulary, width,
        BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
    ):  # fmt: skip
        """A tile of logits in powers of two, very low beyond the vocabulary; its rows and columns."""
        rows = row + tl.arange(0, BLOCK_T)
        columns = column + tl.arange(0, BLOCK_V)
        scale = tl.load(inverse_ptr + rows, mask=rows < tokens, other=1.0) * LOG2_E
        logits = matmul_tile(hidden, weight, row, column, width, BLOCK_T, BLOCK_V, BLOCK_H)
        return tl.where((columns < vocabulary)[None, :], logits * scale[:, None], -1e30), rows, columns

    @triton.jit
    def _forward_kernel(
        hidden, weight, targets_ptr, inverse_ptr, parts_ptr, tokens, vocabulary, width, parts,
        TILES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr, GROUP: tl.constexpr,
    ):  # fmt: skip
        """parts[part] = (largest, total, weighted, target's), each [tokens], over TILES tiles of the vocabulary."""
        tile, part = grouped_tile(tl.program_id(0), tl.cdiv(tokens, BLOCK_T), parts, GROUP)
        own = tile * BLOCK_T + tl.arange(0, BLOCK_T)
        inside = own < tokens
        target = tl.load(targets_ptr + own, mask=inside, other=0).to(tl.int32)
        largest = tl.full([BLOCK_T], -1e30, tl.float32)
        total = tl.zeros([BLOCK_T], tl.float32)
        weighted = tl.zeros([BLOCK_T], tl.float32)
        chosen = tl.zeros([BLOCK_T], tl.float32)
        first = part * TILES
        for i in tl.range(first, tl.minimum(first + TILES, tl.cdiv(vocabulary, BLOCK_V))):
            scores, _, columns = _scores(
                hidden, weight, inverse_ptr, tile * BLOCK_T, i * BLOCK_V, tokens, vocabulary, width,
                BLOCK_T, BLOCK_V, BLOCK_H,
            )  # fmt: skip
            chosen += tl.sum(tl.where(columns[None, :] == target[:, None], scores, 0.0), 1)
            largest, total, weighted = fold_logits(scores, largest, total, weighted)
        to = parts_ptr + part.to(tl.int64) * 4 * tokens + own
        tl.store(to, largest, mask=inside)
        tl.store(to + tokens, total, mask=inside)
        tl.store(to + 2 * tokens, weighted, mask=inside)
        tl.store(to + 3 * tokens, chosen, mask=inside)

    @triton.jit
    def _backward_kernel(
        hidden, weight, targets_ptr, inverse_ptr, log_sum_ptr, entropy_ptr, grad_logprob_ptr, grad_entropy_ptr, out_ptr,
        tokens, vocabulary, width, first, columns_out,
        BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr, GROUP: tl.constexpr,
    ):  # fmt: skip
        """out [tokens, columns_out] = the gradient of the logits before the temperature, columns from first on."""
        tile, slot = grouped_tile(
            tl.program_id(0), tl.cdiv(tokens, BLOCK_T), tl.cdiv(columns_out, BLOCK_V), GROUP
        )
        scores, rows, columns = _scores(
            hidden, weight, inverse_ptr, tile * BLOCK_T, first + slot * BLOCK_V, tokens, vocabulary, width,
            BLOCK_T, BLOCK_V, BLOCK_H,
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
        grad = (
            tl.where(columns[None, :] == target[:, None], up[:, None], 0.0) - tl.exp2(logp * LOG2_E) * slope
        )
        to = out_ptr + rows.to(tl.int64)[:, None] * columns_out + (columns - first)[None, :]
        tl.store(
            to,
            grad.to(out_ptr.dtype.element_ty),
            mask=inside[:, None] & (columns < first + columns_out)[None, :],
        )


def _fits_triton(hidden: Tensor, weight: Tensor) -> bool:
    return (
        HAS_TRITON
        and hidden.is_cuda
        and hidden.dtype in (torch.bfloat16, torch.float16)
        and hidden.shape[1] % 8 == 0  # rows of 16 bytes, which the copy engine asks for
        and len(hidden) > 0
    )


def _forward_triton(
    hidden: Tensor, weight: Tensor, targets: Tensor, inverse_temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """logprobs, entropy and log_sum, each float32 [T]; log_sum in powers of two."""
    (tokens, width), vocabulary = hidden.shape, len(weight)
    parts = triton.cdiv(vocabulary, _TILE["BLOCK_V"] * _TILES)
    folded = torch.empty(parts, 4, tokens, dtype=torch.float32, device=hidden.device)
    _forward_kernel[(triton.cdiv(tokens, _TILE["BLOCK_T"]) * parts,)](
        _tiled(hidden, "BLOCK_T"),
        _tiled(weight, "BLOCK_V"),
        targets,
        inverse_temperature,
        folded,
        tokens,
        vocabulary,
        width,
        parts,
        TILES=_TILES,
        **_TILE,
        **_LAUNCH,
    )
    largest, total, weighted, chosen = folded.unbind(1)
    top = largest.amax(0)
    down = largest - top
    shrink = down.exp2()
    all_weighted = (shrink * (weighted + total * down)).sum(0)
    all_total = (shrink * total).sum(0)
    log_total = all_total.log2()
    log_sum = top + log_total
    ln_2 = math.log(2.0)
    return (chosen.sum(0) - log_sum) * ln_2, (log_total - all_weighted / all_total) * ln_2, log_sum


def _backward_triton(
    grad_logprobs: Tensor,
    grad_entropy: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    inverse_temperature: Tensor,
    log_sum: Tensor,
    entropy: Tensor,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    (tokens, width), vocabulary = hidden.shape, len(weight)
    size = min(_SLICE, -(-vocabulary // 8) * 8)
    block = torch.empty(tokens * size, dtype=hidden.dtype, device=hidden.device)
    grad_hidden = (
        torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if need_hidden else None
    )
    grad_weight = torch.empty_like(weight) if need_weight else None
    for first in range(0, vocabulary, size):
        last = min(first + size, vocabulary)
        padded = -(-(last - first) // 8) * 8  # the matrix products are fast where rows begin at 16 bytes
        grad = block[: tokens * padded].view(tokens, padded)
        blocks = triton.cdiv(tokens, _TILE["BLOCK_T"]) * triton.cdiv(padded, _TILE["BLOCK_V"])
        _backward_kernel[(blocks,)](
            _tiled(hidden, "BLOCK_T"),
            _tiled(weight, "BLOCK_V"),
            targets,
            inverse_temperature,
            log_sum,
            entropy,
            grad_logprobs,
            grad_entropy,
            grad,
            tokens,
            vocabulary,
            width,
            first,
            padded,
            **_TILE,
            **_LAUNCH,
        )
        grad = grad[:, : last - first]
        if grad_hidden is not None:
            _add_product(grad_hidden, grad, weight[first:last])
        if grad_weight is not None:
            torch.mm(grad.T, hidden, out=grad_weight[first:last])
    return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in float32."""
    if total.is_cuda:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


def _tiled(matrix: Tensor, rows: str) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(matrix, [_TILE[rows], _TILE["BLOCK_H"]])


def _forward_blocks(
    hidden: Tensor, weight: Tensor, targets: Tensor, inverse_temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """logprobs, entropy and log_sum, each float32 [T]."""
    logprobs, entropy, log_sum = torch.empty(
        3, len(hidden), dtype=torch.float32, device=hidden.device
    ).unbind()
    for rows in _blocks(hidden, weight):
        logits = _logits(hidden[rows], weight, inverse_temperature[rows])
        top = logits.amax(-1, keepdim=True)
        target = logits.gather(-1, targets[rows, None])[:, 0]
        shifted = logits.sub_(top)
        exp = shifted.exp()
        total = exp.sum(-1)
        log_total = total.log()
        log_sum[rows] = top[:, 0] + log_total
        logprobs[rows] = target - log_sum[rows]
        entropy[rows] = log_total - exp.mul_(shifted).sum(-1) / total
    return logprobs, entropy, log_sum


def _backward_blocks(
    grad_logprobs: Tensor,
    grad_entropy: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    inverse_temperature: Tensor,
    log_sum: Tensor,
    entropy: Tensor,
    need_hidden: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    grad_hidden = torch.empty_like(hidden) if need_hidden else None
    grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
    use_entropy = bool(grad_entropy.any())
    wide = weight.float() if len(hidden) > 0 else weight
    for rows in _blocks(hidden, weight):
        logp = _logits(hidden[rows], weight, inverse_temperature[rows]).sub_(log_sum[rows, None])
        p = logp.exp()
        if use_entropy:  # d entropy / d logits = -p (log p + entropy)
            grad = logp.add_(entropy[rows, None]).mul_(grad_entropy[rows, None])
            grad = grad.add_(grad_logprobs[rows, None]).mul_(p).neg_()
        else:
            grad = p.mul_(-grad_logprobs[rows, None])
        # Target column: g (1 - p), formed in float32 (rounding p - 1 to bf16 loses everything near p = 1).
        grad.scatter_add_(-1, targets[rows, None], grad_logprobs[rows, None])
        grad.mul_(inverse_temperature[rows, None])
        if grad_hidden is not None:
            grad_hidden[rows] = (grad @ wide).to(hidden.dtype)
        if grad_weight is not None:
            grad_weight.addmm_(grad.T, hidden[rows].float())
    return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, inverse_temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        hidden, weight = hidden.contiguous(), weight.contiguous()
        run = _forward_triton if _fits_triton(hidden, weight) else _forward_blocks
        logprobs, entropy, log_sum = run(hidden, weight, targets, inverse_temperature)
        ctx.save_for_backward(hidden, weight, targets, inverse_temperature, log_sum, entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, *columns = ctx.saved_tensors  # the columns are numbers per token
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        wanted = ((grads[0] != 0) | (grads[1] != 0)).nonzero()[:, 0]
        run: Callable[..., tuple[Tensor | None, Tensor | None]] = _backward_blocks
        if _fits_triton(hidden, weight) and len(wanted) > 0:
            run = _backward_triton
        if len(wanted) == len(hidden):
            needed = run(
                *(grad.contiguous() for grad in grads), hidden, weight, *columns, need_hidden, need_weight
            )
            return *needed, None, None
        some, grad_weight = run(
            *(grad[wanted] for grad in grads),
            hidden[wanted],
            weight,
            *(column[wanted] for column in columns),
            need_hidden,
            need_weight,
        )
        grad_hidden = None
        if some is not None:
            grad_hidden = torch.zeros_like(hidden)
            grad_hidden[wanted] = some
        return grad_hidden, grad_weight, None, None


def _blocks(hidden: Tensor, weight: Tensor) -> list[slice]:
    tokens = hidden.shape[0]
    rows = max(1, (_BLOCK_ENTRIES_GPU if hidden.is_cuda else _BLOCK_ENTRIES) // weight.shape[0])
    return [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]


def _logits(hidden: Tensor, weight: Tensor, inverse_temperature: Tensor) -> Tensor:
    """In float32 whatever the inputs are: bfloat16 would round log-probabilities by a hundredth and more."""
    if hidden.dtype == torch.float32:
        logits = hidden @ weight.T
    elif hidden.is_cuda:
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:
        logits = hidden.float() @ weight.float().T
    return logits.mul_(inverse_temperature[:, None])


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    return_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """hidden [T, H], weight [V, H] of the same dtype, targets [T] int64 -> logprobs [T] float32 (, entropy [T]).

    ``temperature`` is one number or a float32 tensor [T]. Differentiable in hidden and weight through both
    outputs. Raises ValueError on a shape, dtype, device or range mismatch.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"token_logprobs: hidden [T, H] and weight [V, H] do not fit: {tuple(hidden.shape)}, {tuple(weight.shape)}"
        )
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"token_logprobs: targets must be int64 [{hidden.shape[0]}], got {targets.dtype} {tuple(targets.shape)}"
        )
    if hidden.dtype != weight.dtype or hidden.device != weight.device or hidden.device != targets.device:
        raise ValueError("token_logprobs: hidden and weight must share dtype, and all three their device")
    if len(targets) and not (targets.min() >= 0 and targets.max() < len(weight)):
        raise ValueError(f"token_logprobs: targets must be from 0 to {len(weight) - 1}")
    if isinstance(temperature, Tensor):
        if temperature.shape != targets.shape or not (temperature > 0).all():
            raise ValueError(
                f"token_logprobs: temperature must be > 0, a number or [{len(targets)}], got {tuple(temperature.shape)}"
            )
        inverse = temperature.to(hidden.device, torch.float32).reciprocal()
    else:
        if not temperature > 0:
            raise ValueError(f"token_logprobs: temperature must be > 0, got {temperature}")
        inverse = torch.full(targets.shape, 1.0 / temperature, dtype=torch.float32, device=hidden.device)
    logprobs, entropy = _TokenLogprobs.apply(hidden, weight, targets, inverse)
    return (logprobs, entropy) if return_entropy else logprobs
