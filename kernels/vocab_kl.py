"""The exact divergence of two policies at each token, over the whole vocabulary, without storing the logits.

    kl[t] = sum_v p_v (log p_v - log q_v),   p = softmax(z),  q = softmax(y)
    z     = cap(logit_scale (hidden[t] @ weight.T + bias)) / temperature[t],   cap(x) = softcap tanh(x / softcap)
    y     = the same of the other hidden states and head, at the same temperature

Kullback and Leibler 1951. It is taken from sums of one pass: with z and y each less its maximum,
kl = sum_v e^z_v (z_v - y_v) / sum e^z + log(sum e^y / sum e^z), in which equal policies cancel before anything is
rounded. Backwards d kl / d z_v = p_v (log p_v - log q_v - kl). On a GPU, in bfloat16 or float16, one Triton kernel
multiplies both heads and folds; the backward pass makes the gradient of a slice of the vocabulary in the same way.
Elsewhere PyTorch does it block by block. Masked tokens are left out of all products, and those whose upstream gradient
is zero of the backward ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import _head
from ._head import Gradients, Head, Needs, Side, Sums
from ._head_arguments import (
    check_column,
    check_tensor,
    check_values,
    fake_gradients,
    head_arguments,
    kept_rows,
    returned,
    spread,
)
from ._paths import HAS_TRITON, without_autocast

if HAS_TRITON:
    from . import _vocab_kl_triton

_NAME = "vocab_kl"


def vocab_kl_reference(
    hidden: Tensor,
    weight: Tensor,
    other_hidden: Tensor,
    other_weight: Tensor,
    temperature: float | Tensor = 1.0,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    other_bias: Tensor | None = None,
    other_softcap: float | None = None,
    other_logit_scale: float = 1.0,
) -> Tensor:
    """The formula, whole: hidden [T, H], weight [V, H], other_hidden [T, G], other_weight [V, G] -> kl [T]."""
    scale = temperature[:, None] if isinstance(temperature, Tensor) else temperature

    def log_softmax(x: Tensor, w: Tensor, b: Tensor | None, cap: float | None, factor: float) -> Tensor:
        logits = (x @ w.T + (0 if b is None else b)) * factor
        capped = logits if cap is None else cap * torch.tanh(logits / cap)
        return torch.log_softmax(capped / scale, dim=-1)

    logp = log_softmax(hidden, weight, bias, softcap, logit_scale)
    logq = log_softmax(other_hidden, other_weight, other_bias, other_softcap, other_logit_scale)
    return (logp.exp() * (logp - logq)).sum(-1)


# ---- in PyTorch ----


def _products(p: Side, q: Side, wide: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of rows and the products of both sides, ``wide`` being p's weight."""
    others = _head.products(q.hidden, _head.widened(q.weight))
    for (rows, block), (_, other) in zip(_head.products(p.hidden, wide), others, strict=True):
        yield rows, block, other


def _strips(rows: slice, block: Tensor, other: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    for (strip, own), (beside, _) in zip(_head.strips(block, rows), _head.strips(other, rows), strict=True):
        yield own, strip, beside


def _forward(p: Side, q: Side) -> tuple[Tensor, Tensor, Tensor]:
    """kl, and the log-sums of both."""
    kl, log_sum, other_log_sum = (torch.empty_like(p.head.inverse_temperature) for _ in range(3))
    for block in _products(p, q, _head.widened(p.weight)):
        for own, strip, beside in _strips(*block):
            below, top = _below_(p.head.at(own).logits(strip))
            other_below, other_top = _below_(q.head.at(own).logits(beside))
            exp = below.exp()
            total = exp.sum(-1)
            apart = exp.mul_(below.sub_(other_below)).sum(-1)
            other_total = other_below.exp_().sum(-1)
            kl[own] = apart / total + (other_total / total).log()
            log_sum[own] = top + total.log()
            other_log_sum[own] = other_top + other_total.log()
    return kl, log_sum, other_log_sum


def _below_(logits: Tensor) -> tuple[Tensor, Tensor]:
    """In place less the largest of each row, which comes with them."""
    top = logits.amax(-1, keepdim=True)
    return logits.sub_(top), top[:, 0]


def _backward(
    up: Tensor, p: Side, q: Side, kl: Tensor, log_sum: Tensor, other_log_sum: Tensor, needs: Needs
) -> Gradients:
    sums, wide = Sums.zeros(p.hidden, p.weight, needs), _head.widened(p.weight)
    for rows, block, other in _products(p, q, wide):
        for own, strip, beside in _strips(rows, block, other):
            head = p.head.at(own)
            slope = head.slope(head.logits(strip)) * up[own, None]
            logp = strip.sub_(log_sum[own, None])
            logq = q.head.at(own).logits(beside).sub_(other_log_sum[own, None])
            gap = torch.sub(logp, logq, out=logq).sub_(kl[own, None])
            logp.exp_().mul_(gap).mul_(slope)
        sums.add(rows, block, p.hidden[rows], wide)
    return sums.rounded(p.weight.dtype)


# ---- the ops ----


def _with_triton(p: Side, q: Side) -> bool:
    return HAS_TRITON and len(p.hidden) > 0 and _vocab_kl_triton.fits(p, q)


@torch.library.custom_op("selfplay_fast::vocab_kl", mutates_args=())
@without_autocast
def _op(
    hidden: Tensor,
    weight: Tensor,
    inverse_temperature: Tensor,
    bias: Tensor | None,
    other_hidden: Tensor,
    other_weight: Tensor,
    other_inverse: Tensor,
    other_bias: Tensor | None,
    mask: Tensor | None,
    softcap: float,
    inner: float,
    other_softcap: float,
    other_inner: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """kl, and the log-sums of both sides (in the unit of whoever computed them), [T] each; 0 where masked."""
    rows = kept_rows(mask)
    p = Side(hidden, weight, Head(inverse_temperature, bias, softcap, inner)).at(rows)
    q = Side(other_hidden, other_weight, Head(other_inverse, other_bias, other_softcap, other_inner)).at(rows)
    check_values(_NAME, None, p.head.inverse_temperature, len(weight))
    found = (_vocab_kl_triton.forward if _with_triton(p, q) else _forward)(p, q)
    kl, log_sum, other_log_sum = (spread(column, rows, len(hidden)) for column in found)
    return kl, log_sum, other_log_sum


@_op.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    kl, log_sum, other_log_sum = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(3))
    return kl, log_sum, other_log_sum


@torch.library.custom_op("selfplay_fast::vocab_kl_backward", mutates_args=())
@without_autocast
def _backward_op(
    up: Tensor,
    hidden: Tensor,
    weight: Tensor,
    inverse_temperature: Tensor,
    bias: Tensor | None,
    other_hidden: Tensor,
    other_weight: Tensor,
    other_inverse: Tensor,
    other_bias: Tensor | None,
    mask: Tensor | None,
    kl: Tensor,
    log_sum: Tensor,
    other_log_sum: Tensor,
    softcap: float,
    inner: float,
    other_softcap: float,
    other_inner: float,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias; empty where not needed."""
    wanted = up != 0
    rows = kept_rows(wanted if mask is None else wanted & mask)
    p = Side(hidden, weight, Head(inverse_temperature, bias, softcap, inner)).at(rows)
    q = Side(other_hidden, other_weight, Head(other_inverse, other_bias, other_softcap, other_inner)).at(rows)
    up, kl, log_sum, other_log_sum = (
        (column if rows is None else column[rows]).contiguous() for column in (up, kl, log_sum, other_log_sum)
    )
    run = _vocab_kl_triton.backward if _with_triton(p, q) else _backward
    needs = Needs(need_hidden, need_weight, need_bias)
    grads = run(up, p, q, kl, log_sum, other_log_sum, needs)
    return returned(grads, rows, len(hidden), weight, bias)


@_backward_op.register_fake
def _(_: Tensor, hidden: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, ...]:
    return fake_gradients(hidden, weight, options[1], *options[-3:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, softcap, inner, other_softcap, other_inner = inputs
    ctx.numbers = (softcap, inner, other_softcap, other_inner)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, up: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3])
    grads = _backward_op(up, *ctx.saved_tensors, *ctx.numbers, *needs)
    hidden, weight, bias = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return hidden, weight, None, bias, *[None] * 9


_op.register_autograd(_differentiate, setup_context=_save)


def vocab_kl(
    hidden: Tensor,
    weight: Tensor,
    other_hidden: Tensor,
    other_weight: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    other_bias: Tensor | None = None,
    other_softcap: float | None = None,
    other_logit_scale: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """hidden [T, H], weight [V, H] of p, other_hidden [T, G], other_weight [V, G] of q -> KL(p || q) [T] float32, nats.

    The two of a side share their dtype, and all four the device. temperature: one number or a float tensor [T], > 0,
    for both sides. bias: [V] of a floating dtype. softcap: logits are held within +-softcap; None for none.
    logit_scale: > 0, before the cap. mask: bool [T]; where False nothing is computed, the result is 0 and no gradient
    flows.
    Differentiable in hidden, weight and bias, with any upstream gradients; q is a reference, and no gradient flows into
    anything of it. A weight that is a DTensor is gathered. Raises ValueError on a shape, dtype, device or range
    mismatch.
    """
    p = head_arguments(_NAME, hidden, weight, temperature, bias, softcap, logit_scale)
    check_tensor(_NAME, "other_hidden", other_hidden)
    check_tensor(_NAME, "other_weight", other_weight)
    if other_hidden.shape[:1] != hidden.shape[:1] or other_weight.shape[:1] != weight.shape[:1]:
        raise ValueError(
            f"{_NAME}: other_hidden and other_weight must be [{len(hidden)}, G] and [{len(weight)}, G], "
            f"got {tuple(other_hidden.shape)} and {tuple(other_weight.shape)}"
        )
    if other_hidden.device != hidden.device:
        raise ValueError(f"{_NAME}: other_hidden must be on {hidden.device}, got {other_hidden.device}")
    other_hidden, other_weight = other_hidden.detach(), other_weight.detach()
    other_bias = None if other_bias is None else other_bias.detach()
    q = head_arguments(
        _NAME, other_hidden, other_weight, temperature, other_bias, other_softcap, other_logit_scale, "other_"
    )
    if mask is not None:
        check_column(_NAME, "mask", mask, len(hidden), hidden.device, torch.bool)
    kl, _, _ = _op(
        hidden,
        p.weight,
        p.inverse_temperature,
        p.bias,
        other_hidden,
        q.weight,
        q.inverse_temperature,
        q.bias,
        mask,
        p.softcap,
        p.inner,
        q.softcap,
        q.inner,
    )
    return kl
