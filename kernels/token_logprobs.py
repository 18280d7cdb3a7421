"""Log-probability and entropy of each token, without storing the logits.

    logits[t]  = cap(logit_scale (hidden[t] @ weight.T + bias)) / temperature[t],   cap(x) = softcap tanh(x / softcap)
    logprob[t] = logits[t, target[t]] - logsumexp(logits[t])
    entropy[t] = log S - sum_v e^z_v z_v / S,   z = logits[t] - max,  S = sum_v e^z_v      (shifted form)

Wijmans et al. 2024, arXiv 2411.09009, derive the memory-free form of the first. On a GPU, in bfloat16 or float16, one
Triton kernel multiplies and folds: a tile of logits never leaves the registers. The backward pass makes the gradient of
a slice of the vocabulary in the same way, and two matrix products of the vendor's library take it from there. Elsewhere
PyTorch does the same block by block. Masked tokens are left out of all products, and those whose upstream gradients
are zero of the backward ones.

Two custom ops carry it, so that `torch.compile` and `torch.library.opcheck` take it as a whole. Their inputs are in a
normal form: the inverse temperature of each token, with the logit scale in it where nothing is capped; ``softcap`` 0
for none; and ``inner``, the factor before the cap.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor

    from ._blocks import LOG2_E, fold_logits, grouped_tile, matmul_tile, tanh

_BLOCK_ENTRIES = 1 << 22  # logits that PyTorch holds at a time on a CPU
_BLOCK_ENTRIES_GPU = 1 << 27  # a GPU needs larger products to be busy
_SLICE = 8192  # columns of the vocabulary whose gradients the Triton path holds at a time
# The fastest of the tiles tried on an NVIDIA H100 at widths 2560 and 4096.
_TILE = {"BLOCK_T": 128, "BLOCK_V": 256, "BLOCK_H": 64, "GROUP": 8}
_LAUNCH = {"num_warps": 8, "num_stages": 3}
_TILES = 8  # tiles of the vocabulary that one program of the forward pass folds


class Head(NamedTuple):
    """What makes scores of a product, in normal form: inverse_temperature float32 [T], bias [V] or None."""

    inverse_temperature: Tensor
    bias: Tensor | None = None
    softcap: float = 0.0
    inner: float = 1.0

    def at(self, rows: Any) -> Head:
        """The same for some of the tokens."""
        return self._replace(inverse_temperature=self.inverse_temperature[rows])

    def logits(self, product: Tensor, rows: slice) -> Tensor:
        """In place: a float32 product of these rows and the whole weight becomes their logits."""
        if self.bias is not None:
            product.add_(self.bias)
        if self.softcap:
            product.mul_(self.inner).tanh_().mul_(self.softcap)
        return product.mul_(self.inverse_temperature[rows, None])

    def slope(self, logits: Tensor, rows: slice) -> Tensor:
        """d logits / d product."""
        inverse = self.inverse_temperature[rows, None]
        if not self.softcap:
            return inverse
        capped = logits / (inverse * self.softcap)
        return capped.square_().neg_().add_(1).mul_(inverse * (self.inner * self.softcap))


def token_logprobs_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula, whole: hidden [T, H], weight [V, H], targets [T] -> logprobs [T], entropy [T], log sum p^2 [T]."""
    logits = (hidden @ weight.T + (0 if bias is None else bias)) * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    scale = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    logp = torch.log_softmax(logits / scale, dim=-1)
    chosen = logp.gather(-1, targets[:, None])[:, 0]
    return chosen, -(logp.exp() * logp).sum(-1), torch.logsumexp(2 * logp, dim=-1)


if HAS_TRITON:

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
                squares = squares * tl.exp2(2 * (largest - top)) + tl.sum(
                    tl.exp2(2 * (scores - top[:, None])), 1
                )
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
        grad = (
            tl.where(columns[None, :] == target[:, None], up[:, None], 0.0) - tl.exp2(logp * LOG2_E) * slope
        )
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


def _fits_triton(hidden: Tensor, weight: Tensor) -> bool:
    return (
        HAS_TRITON
        and hidden.is_cuda
        and hidden.dtype in (torch.bfloat16, torch.float16)
        and hidden.shape[1] % 8 == 0  # rows of 16 bytes, which the copy engine asks for
    )


class Folded(NamedTuple):
    """Of each token, float32 [T]: log_sum is in powers of two where the Triton path made it; squares: log sum p^2."""

    logprobs: Tensor
    entropy: Tensor
    log_sum: Tensor
    top1: Tensor  # bool
    squares: Tensor | None


def _forward_triton(hidden: Tensor, weight: Tensor, targets: Tensor, head: Head, squares: bool) -> Folded:
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


class Needs(NamedTuple):
    hidden: bool
    weight: bool
    bias: bool


Gradients = tuple["Tensor | None", "Tensor | None", "Tensor | None"]  # of hidden, weight, bias


def _backward_triton(
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


def _forward_blocks(hidden: Tensor, weight: Tensor, targets: Tensor, head: Head, squares: bool) -> Folded:
    numbers = torch.empty(4, len(hidden), dtype=torch.float32, device=hidden.device)
    logprobs, entropy, log_sum, log_squares = numbers.unbind()
    top1 = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
    for rows in _blocks(hidden, weight):
        logits = head.logits(_product(hidden[rows], weight), rows)
        top = logits.amax(-1, keepdim=True)
        target = logits.gather(-1, targets[rows, None])[:, 0]
        shifted = logits.sub_(top)
        exp = shifted.exp()
        total = exp.sum(-1)
        log_total = total.log()
        log_sum[rows] = top[:, 0] + log_total
        logprobs[rows] = target - log_sum[rows]
        top1[rows] = target >= top[:, 0]
        if squares:
            log_squares[rows] = torch.einsum("tv,tv->t", exp, exp).log() - 2 * log_total
        entropy[rows] = log_total - exp.mul_(shifted).sum(-1) / total
    return Folded(logprobs, entropy, log_sum, top1, log_squares if squares else None)


def _backward_blocks(
    grads: tuple[Tensor, Tensor],
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    head: Head,
    log_sum: Tensor,
    entropy: Tensor,
    needs: Needs,
) -> Gradients:
    grad_logprobs, grad_entropy = grads
    grad_hidden = torch.empty_like(hidden) if needs.hidden else None
    grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs.weight else None
    grad_bias = torch.zeros(len(weight), dtype=torch.float32, device=hidden.device) if needs.bias else None
    use_entropy = bool(grad_entropy.any())
    wide = weight.float() if len(hidden) > 0 else weight
    for rows in _blocks(hidden, weight):
        logits = head.logits(_product(hidden[rows], weight), rows)
        slope = head.slope(logits, rows)
        logp = logits.sub_(log_sum[rows, None])
        p = logp.exp()
        if use_entropy:  # d entropy / d logits = -p (log p + entropy)
            grad = logp.add_(entropy[rows, None]).mul_(grad_entropy[rows, None])
            grad = grad.add_(grad_logprobs[rows, None]).mul_(p).neg_()
        else:
            grad = p.mul_(-grad_logprobs[rows, None])
        # Target column: g (1 - p), formed in float32 (rounding p - 1 to bf16 loses everything near p = 1).
        grad.scatter_add_(-1, targets[rows, None], grad_logprobs[rows, None])
        grad.mul_(slope)
        if grad_hidden is not None:
            grad_hidden[rows] = (grad @ wide).to(hidden.dtype)
        if grad_weight is not None:
            grad_weight.addmm_(grad.T, hidden[rows].float())
        if grad_bias is not None:
            grad_bias += grad.sum(0)
    return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), grad_bias


def _blocks(hidden: Tensor, weight: Tensor) -> list[slice]:
    tokens = hidden.shape[0]
    rows = max(1, (_BLOCK_ENTRIES_GPU if hidden.is_cuda else _BLOCK_ENTRIES) // weight.shape[0])
    return [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]


def _product(hidden: Tensor, weight: Tensor) -> Tensor:
    """In float32 whatever the inputs are: bfloat16 would round log-probabilities by a hundredth and more."""
    if hidden.dtype == torch.float32:
        return hidden @ weight.T
    if hidden.is_cuda:
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)
    return hidden.float() @ weight.float().T


# ---- the ops ----


def _some(mask: Tensor | None) -> Tensor | None:
    """The rows of a mask; None where all are meant."""
    if mask is None or bool(mask.all()):
        return None
    return mask.nonzero()[:, 0]


def _spread(values: Tensor, rows: Tensor | None, tokens: int) -> Tensor:
    """Values of some rows among zeros for the others."""
    if rows is None:
        return values
    return values.new_zeros(tokens, *values.shape[1:]).index_copy_(0, rows, values)


@torch.library.custom_op("selfplay_fast::token_logprobs", mutates_args=())
def _op(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    inverse_temperature: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    softcap: float,
    inner: float,
    squares: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logprobs, entropy, log_sum, top1 and log sum p^2 (empty unless squares), [T] each; 0 where masked."""
    rows, tokens = _some(mask), len(hidden)
    head = Head(inverse_temperature, bias, softcap, inner)
    if rows is not None:
        hidden, targets, head = hidden[rows], targets[rows], head.at(rows)
    _check_values(targets, head, len(weight))
    hidden, weight = hidden.contiguous(), weight.contiguous()
    run = _forward_triton if len(hidden) and _fits_triton(hidden, weight) else _forward_blocks
    folded = run(hidden, weight, targets.contiguous(), head, squares)
    log_squares = hidden.new_empty(0, dtype=torch.float32)
    if folded.squares is not None:
        log_squares = _spread(folded.squares.clone(), rows, tokens)
    first = (_spread(value, rows, tokens) for value in folded[:4])
    logprobs, entropy, log_sum, top1 = (value.clone() for value in first)  # an op's outputs share no memory
    return logprobs, entropy, log_sum, top1, log_squares


@_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    inverse_temperature: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    softcap: float,
    inner: float,
    squares: bool,
) -> tuple[Tensor, ...]:
    numbers = [hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(3)]
    top1 = hidden.new_empty(hidden.shape[0], dtype=torch.bool)
    return *numbers, top1, hidden.new_empty(hidden.shape[0] if squares else 0, dtype=torch.float32)


@torch.library.custom_op("selfplay_fast::token_logprobs_backward", mutates_args=())
def _backward_op(
    grad_logprobs: Tensor,
    grad_entropy: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    inverse_temperature: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    log_sum: Tensor,
    entropy: Tensor,
    softcap: float,
    inner: float,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias; empty where not needed."""
    wanted = (grad_logprobs != 0) | (grad_entropy != 0)
    rows = _some(wanted if mask is None else wanted & mask)
    head = Head(inverse_temperature, bias, softcap, inner)
    tokens, columns = len(hidden), (grad_logprobs, grad_entropy, targets, log_sum, entropy)
    if rows is not None:
        hidden, head = hidden[rows], head.at(rows)
    hidden, weight = hidden.contiguous(), weight.contiguous()
    grad_logprobs, grad_entropy, targets, log_sum, entropy = (
        (column if rows is None else column[rows]).contiguous() for column in columns
    )
    run = _backward_triton if len(hidden) and _fits_triton(hidden, weight) else _backward_blocks
    grad_hidden, grad_weight, grad_bias = run(
        (grad_logprobs, grad_entropy),
        hidden,
        weight,
        targets,
        head,
        log_sum,
        entropy,
        Needs(need_hidden, need_weight, need_bias),
    )
    return (
        hidden.new_empty(0) if grad_hidden is None else _spread(grad_hidden, rows, tokens),
        weight.new_empty(0) if grad_weight is None else grad_weight,
        weight.new_empty(0) if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )


@_backward_op.register_fake
def _(
    grad_logprobs: Tensor,
    grad_entropy: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    inverse_temperature: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    log_sum: Tensor,
    entropy: Tensor,
    softcap: float,
    inner: float,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, ...]:
    return (
        hidden.new_empty(hidden.shape if need_hidden else 0),
        weight.new_empty(weight.shape if need_weight else 0),
        weight.new_empty(0) if bias is None or not need_bias else bias.new_empty(bias.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, inverse_temperature, bias, mask, ctx.softcap, ctx.inner, _ = inputs
    _, entropy, log_sum, top1, log_squares = output
    ctx.mark_non_differentiable(log_sum, top1, log_squares)
    ctx.save_for_backward(hidden, weight, targets, inverse_temperature, bias, mask, log_sum, entropy)


def _differentiate(
    ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor, *_: Any
) -> tuple[Tensor | None, ...]:
    needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[4])
    grads = _backward_op(grad_logprobs, grad_entropy, *ctx.saved_tensors, ctx.softcap, ctx.inner, *needs)
    hidden, weight, bias = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return hidden, weight, None, None, bias, None, None, None, None


_op.register_autograd(_differentiate, setup_context=_save)


def _check_values(targets: Tensor, head: Head, vocabulary: int) -> None:
    """What only the numbers themselves can tell; a compiled graph does not look at them."""
    if len(targets) and not (targets.min() >= 0 and targets.max() < vocabulary):
        raise ValueError(f"token_logprobs: targets must be from 0 to {vocabulary - 1} where not masked")
    if not ((head.inverse_temperature > 0) & head.inverse_temperature.isfinite()).all():
        raise ValueError("token_logprobs: temperature must be > 0 for every token")


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    mask: Tensor | None = None,
    return_entropy: bool = False,
    return_log_sum_sq: bool = False,
    return_top1: bool = False,
) -> Any:
    """hidden [T, H], weight [V, H] of the same dtype, targets [T] int64 -> logprobs [T] float32.

    temperature: one number or a float tensor [T], > 0. bias: [V] of a floating dtype. softcap: logits are held within
    +-softcap; None for none. logit_scale: > 0, before the cap. mask: bool [T]; where False nothing is computed, the
    results are 0, no gradient flows, and the target may be anything.
    With any of the ``return_`` flags the result is a tuple, in this order: logprobs; entropy [T] (nats) of the
    distribution that the log-prob is of; log_sum_sq [T], log sum_v p_v^2; top1 bool [T]: no logit is above the
    target's.
    Differentiable in hidden, weight and bias through logprobs and entropy, with any upstream gradients. A weight that
    is a DTensor is gathered. Raises ValueError on a shape, dtype, device or range mismatch.
    """
    weight, bias = _whole(weight), None if bias is None else _whole(bias)
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"token_logprobs: hidden [T, H] and weight [V, H] do not fit: {tuple(hidden.shape)}, {tuple(weight.shape)}"
        )
    tokens, vocabulary = hidden.shape[0], weight.shape[0]
    if vocabulary == 0:
        raise ValueError("token_logprobs: weight must have at least one row")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"token_logprobs: targets must be int64 [{tokens}], got {targets.dtype} {tuple(targets.shape)}"
        )
    if hidden.dtype != weight.dtype or hidden.device != weight.device or hidden.device != targets.device:
        raise ValueError("token_logprobs: hidden and weight must share dtype, and all three their device")
    if hidden.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"token_logprobs: hidden must be float32, bfloat16 or float16, got {hidden.dtype}")
    if bias is not None and (
        bias.shape != weight.shape[:1] or not bias.is_floating_point() or bias.device != hidden.device
    ):
        raise ValueError(
            f"token_logprobs: bias must be floating [{vocabulary}] on {hidden.device}, got {bias.dtype} "
            f"{tuple(bias.shape)} on {bias.device}"
        )
    if mask is not None and (
        mask.shape != targets.shape or mask.dtype != torch.bool or mask.device != hidden.device
    ):
        raise ValueError(
            f"token_logprobs: mask must be bool [{tokens}] on {hidden.device}, got {mask.dtype} {tuple(mask.shape)} on "
            f"{mask.device}"
        )
    for name, value in (("softcap", softcap), ("logit_scale", logit_scale)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"token_logprobs: {name} must be > 0, got {value}")
    scale = logit_scale if softcap is None else 1.0
    if isinstance(temperature, Tensor):
        if temperature.shape != targets.shape or not temperature.is_floating_point():
            raise ValueError(
                f"token_logprobs: temperature must be a number or floating [{tokens}], got {temperature.dtype} "
                f"{tuple(temperature.shape)}"
            )
        inverse = scale / temperature.detach().to(hidden.device, torch.float32)
    else:
        if not 0 < temperature < math.inf:
            raise ValueError(f"token_logprobs: temperature must be > 0, got {temperature}")
        inverse = torch.full((tokens,), scale / temperature, dtype=torch.float32, device=hidden.device)
    inner = 1.0 if softcap is None else logit_scale / softcap
    logprobs, entropy, _, top1, log_squares = _op(
        hidden, weight, targets, inverse, bias, mask, softcap or 0.0, inner, return_log_sum_sq
    )
    asked = ((return_entropy, entropy), (return_log_sum_sq, log_squares), (return_top1, top1))
    more = [value for wanted, value in asked if wanted]
    return (logprobs, *more) if more else logprobs


def _whole(parameter: Tensor) -> Tensor:
    """A DTensor, as FSDP2 and tensor parallelism make of parameters, gathered; its gradient is scattered again."""
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
