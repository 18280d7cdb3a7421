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

from typing import Any

import torch
from torch import Tensor

from . import _head
from ._head import Head, Needs
from ._head_arguments import (
    Arguments,
    check_column,
    check_values,
    fake_gradients,
    head_arguments,
    kept_rows,
    returned,
    spread,
)
from ._paths import HAS_TRITON, without_autocast

if HAS_TRITON:
    from . import _head_triton

_NAME = "token_logprobs"


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


# ---- the ops ----


def path(hidden: Tensor, weight: Tensor) -> Any:
    """Whoever computes this: the Triton kernels, or PyTorch."""
    return _head_triton if HAS_TRITON and len(hidden) and _head_triton.fits(hidden, weight) else _head


@torch.library.custom_op("selfplay_fast::token_logprobs", mutates_args=())
@without_autocast
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
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logprobs, entropy, log_sum, top1 and log sum p^2 (empty unless squares), [T] each; 0 where masked."""
    rows, tokens = kept_rows(mask), len(hidden)
    head = Head(inverse_temperature, bias, softcap, inner)
    if rows is not None:
        hidden, targets, head = hidden[rows], targets[rows], head.at(rows)
    check_values(_NAME, targets, head.inverse_temperature, len(weight))
    hidden, weight = hidden.contiguous(), weight.contiguous()
    folded = path(hidden, weight).forward(hidden, weight, targets.contiguous(), head, squares, deterministic)
    logprobs, entropy, log_sum, top1 = (spread(value, rows, tokens) for value in folded[:4])
    log_squares = spread(folded.squares, rows, tokens) if squares else hidden.new_empty(0).float()
    return logprobs, entropy, log_sum, top1, log_squares


@_op.register_fake
def _(hidden: Tensor, *options: Any) -> tuple[Tensor, ...]:
    tokens, squares = hidden.shape[0], options[-2]
    numbers = [hidden.new_empty(count, dtype=torch.float32) for count in (tokens,) * 3 + (tokens * squares,)]
    return *numbers[:3], hidden.new_empty(tokens, dtype=torch.bool), numbers[3]


@torch.library.custom_op("selfplay_fast::token_logprobs_backward", mutates_args=())
@without_autocast
def backward_op(
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
    rows, tokens = kept_rows(wanted if mask is None else wanted & mask), len(hidden)
    head = Head(inverse_temperature, bias, softcap, inner)
    columns = (grad_logprobs, grad_entropy, targets, log_sum, entropy)
    if rows is not None:
        hidden, head = hidden[rows], head.at(rows)
    hidden, weight = hidden.contiguous(), weight.contiguous()
    grad_logprobs, grad_entropy, targets, log_sum, entropy = (
        (column if rows is None else column[rows]).contiguous() for column in columns
    )
    grads = path(hidden, weight).backward(
        (grad_logprobs, grad_entropy),
        hidden,
        weight,
        targets,
        head,
        log_sum,
        entropy,
        Needs(need_hidden, need_weight, need_bias),
    )
    return returned(grads, rows, tokens, weight, bias)


@backward_op.register_fake
def _(_: Tensor, _entropy: Tensor, hidden: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, ...]:
    return fake_gradients(hidden, weight, options[2], *options[-3:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, inverse_temperature, bias, mask, ctx.softcap, ctx.inner, *_ = inputs
    _, entropy, log_sum, top1, log_squares = output
    ctx.mark_non_differentiable(log_sum, top1, log_squares)
    ctx.save_for_backward(hidden, weight, targets, inverse_temperature, bias, mask, log_sum, entropy)


def _differentiate(
    ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor, *_: Any
) -> tuple[Tensor | None, ...]:
    needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[4])
    grads = backward_op(grad_logprobs, grad_entropy, *ctx.saved_tensors, ctx.softcap, ctx.inner, *needs)
    hidden, weight, bias = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return hidden, weight, None, None, bias, *[None] * 5


_op.register_autograd(_differentiate, setup_context=_save)


def normal_logprobs(
    hidden: Tensor, targets: Tensor, head: Arguments, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """logprobs and entropy [T] from checked arguments."""
    weight, bias, inverse, softcap, inner = head
    return _op(hidden, weight, targets, inverse, bias, mask, softcap, inner, False, False)[:2]


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
    deterministic: bool = False,
) -> Any:
    """hidden [T, H], weight [V, H] of the same dtype, targets [T] int64 -> logprobs [T] float32.

    temperature: one number or a float tensor [T], > 0. bias: [V] of a floating dtype. softcap: logits are held within
    +-softcap; None for none. logit_scale: > 0, before the cap. mask: bool [T]; where False nothing is computed, the
    results are 0, no gradient flows, and the target may be anything.
    With any of the ``return_`` flags the result is a tuple, in this order: logprobs; entropy [T] (nats) of the
    distribution that the log-prob is of; log_sum_sq [T], log sum_v p_v^2; top1 bool [T]: no logit is above the
    target's.
    deterministic: what is returned of a row is the same, bit for bit, whatever rows stand beside it and however many;
    on a GPU only in half precision.
    Differentiable in hidden, weight and bias through logprobs and entropy, with any upstream gradients. A weight that
    is a DTensor is gathered. Raises ValueError on a shape, dtype, device or range mismatch.
    """
    head = head_arguments(_NAME, hidden, weight, temperature, bias, softcap, logit_scale)
    check_column(_NAME, "targets", targets, len(hidden), hidden.device, torch.int64)
    if deterministic and hidden.is_cuda and path(hidden, head.weight) is _head:
        raise ValueError(
            f"{_NAME}: deterministic on a GPU needs half precision, Triton and a width that 8 divides"
        )
    if mask is not None:
        check_column(_NAME, "mask", mask, len(hidden), hidden.device, torch.bool)
    logprobs, entropy, _, top1, log_squares = _op(
        hidden,
        head.weight,
        targets,
        head.inverse_temperature,
        head.bias,
        mask,
        head.softcap,
        head.inner,
        return_log_sum_sq,
        deterministic,
    )
    asked = ((return_entropy, entropy), (return_log_sum_sq, log_squares), (return_top1, top1))
    more = [value for wanted, value in asked if wanted]
    return (logprobs, *more) if more else logprobs
