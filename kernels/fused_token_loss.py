"""A loss of log-probabilities and entropies with its gradients, formed in one pass and without storing the logits.

    loss = sum_t weights[t] token_loss(logprob[t], entropy[t], per_token[t], ...)

with logprob and entropy as in `token_logprobs`. As soon as the logits of a block of tokens are known, so are the
derivatives of its losses, and the gradients are made from the same logits: three matrix products, two where the head is
frozen, and not the four of a backward pass that makes the logits again (the idea: Hsu et al. 2024, arXiv 2410.10989).
The weight's gradient is then summed over the blocks, in float32. In half precision on a GPU that sum would take more
memory than the logits of a block: unless the caller brings it (``weight_grad``), four products are made there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor

from . import _head
from ._head import Head, Needs
from ._head_arguments import (
    Arguments,
    check_column,
    check_tensor,
    check_values,
    fake_gradients,
    head_arguments,
    kept_rows,
    returned,
    spread,
)
from ._paths import without_autocast
from .token_logprobs import backward_op, normal_logprobs, path, token_logprobs_reference

TokenLoss = Callable[..., Tensor]  # (logprobs [T], entropy [T], *per_token) -> [T]

_NAME = "fused_token_loss"


def fused_token_loss_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    token_loss: TokenLoss,
    *per_token: Tensor | None,
    weights: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula, whole: -> loss, logprobs [T], entropy [T]; options as of `token_logprobs_reference`."""
    logprobs, entropy, _ = token_logprobs_reference(hidden, weight, targets, temperature, **options)
    return _weighted(token_loss(logprobs, entropy, *per_token), weights), logprobs, entropy


def _weighted(terms: Tensor, weights: Tensor | None) -> Tensor:
    return (terms if weights is None else terms * weights).sum()


# An op takes tensors and numbers: a number stands for the formula of a call while that lasts.
_FORMULAS: dict[int, TokenLoss] = {}
_NUMBERS = count()


@contextmanager
def _autograd(enabled: bool) -> Iterator[None]:
    """An op runs below autograd: here it works inside one, and keeps what it saves out of checkpoints around it."""
    include, exclude = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
        exclude = exclude.remove(key)
    plainly = torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved)
    with torch._C._ForceDispatchKeyGuard(include, exclude), torch.set_grad_enabled(enabled), plainly:
        yield


class _Loss:
    """The summed loss, block by block."""

    def __init__(
        self,
        token_loss: TokenLoss,
        per_token: list[Tensor | None],
        weights: Tensor | None,
        like: Tensor,
        training: bool,
    ) -> None:
        self.token_loss, self.training = token_loss, training
        # What was made in inference mode takes part in no other graph.
        self.per_token, self.weights = (
            [x.clone() if x is not None and x.is_inference() else x for x in columns]
            for columns in (per_token, [weights])
        )
        self.total = torch.zeros((), dtype=torch.float32, device=like.device)

    def derive(self, logprobs: Tensor, entropy: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        inputs = (logprobs.clone(), entropy.clone())
        per_token, (weights,) = (
            [None if x is None else x[rows] for x in columns] for columns in (self.per_token, self.weights)
        )
        with _autograd(self.training):
            if self.training:
                for column in inputs:
                    column.requires_grad_()
            terms = self.token_loss(*inputs, *per_token)
            if not isinstance(terms, Tensor) or terms.shape != logprobs.shape:
                got = tuple(terms.shape) if isinstance(terms, Tensor) else type(terms).__name__
                raise ValueError(f"{_NAME}: token_loss must return [{len(logprobs)}], got {got}")
            loss = _weighted(terms, weights)
            if loss.requires_grad:
                ups = torch.autograd.grad(loss, inputs, materialize_grads=True)
            else:  # nothing is trained, or the formula ignores both
                ups = (torch.zeros_like(logprobs), torch.zeros_like(entropy))
        self.total += loss.detach()
        return ups[0], ups[1]


@torch.library.custom_op("selfplay_fast::fused_token_loss", mutates_args=("weight_grad",))
@without_autocast
def _op(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    inverse_temperature: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    weights: Tensor | None,
    per_token: list[Tensor | None],
    weight_grad: Tensor | None,
    formula: int,
    softcap: float,
    inner: float,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss, logprobs, entropy; gradients of hidden, weight and bias: empty where not needed or already added."""
    rows, tokens = kept_rows(mask), len(hidden)
    head = Head(inverse_temperature, bias, softcap, inner)
    if rows is not None:
        hidden, targets, head = hidden[rows], targets[rows], head.at(rows)
        per_token = [None if column is None else column[rows] for column in per_token]
        weights = None if weights is None else weights[rows]
    check_values(_NAME, targets, head.inverse_temperature, len(weight))
    hidden, weight, targets = hidden.contiguous(), weight.contiguous(), targets.contiguous()
    needs, by = Needs(need_hidden, need_weight, need_bias), path(hidden, weight)
    loss = _Loss(_FORMULAS[formula], per_token, weights, hidden, training=any(needs))
    if needs.weight and weight_grad is None and by is not _head:
        folded = by.forward(hidden, weight, targets, head)
        ups = loss.derive(folded.logprobs, folded.entropy, slice(0, len(hidden)))
        fixed = (
            hidden,
            weight,
            targets,
            head.inverse_temperature,
            bias,
            None,
            folded.log_sum,
            folded.entropy,
        )
        grad_hidden, *others = backward_op(*ups, *fixed, softcap, inner, *needs)
        grads = (spread(grad_hidden, rows, tokens) if needs.hidden else grad_hidden, *others)
    else:
        folded, found = by.one_pass(hidden, weight, targets, head, loss.derive, needs, weight_grad)
        grads = returned(found, rows, tokens, weight, bias)
    return loss.total, spread(folded.logprobs, rows, tokens), spread(folded.entropy, rows, tokens), *grads


@_op.register_fake
def _(hidden: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, ...]:
    weight_grad, (need_hidden, need_weight, need_bias) = options[6], options[-3:]
    columns = [hidden.new_empty(hidden.shape[:1], dtype=torch.float32) for _ in range(2)]
    grads = fake_gradients(
        hidden, weight, options[2], need_hidden, need_weight and weight_grad is None, need_bias
    )
    return hidden.new_empty((), dtype=torch.float32), *columns, *grads


@torch.library.custom_op("selfplay_fast::with_gradients", mutates_args=())
def _with_gradients(
    loss: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, grads: list[Tensor]
) -> Tensor:
    """The loss, whose gradients are known already."""
    return loss.clone()


@_with_gradients.register_fake
def _(loss: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(loss)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[4])


def _differentiate(ctx: Any, up: Tensor) -> tuple[Any, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(f"{_NAME}: is differentiable once; take token_logprobs for second derivatives")
    grads = ctx.saved_tensors
    if type(up) is not Tensor or up != 1:  # a product with 1 would cost a copy of the weight's gradient
        grads = [grad * up for grad in grads]
    needed = ctx.needs_input_grad[1:4]
    return None, *(grad if need else None for grad, need in zip(grads, needed, strict=True)), [None] * 3


_with_gradients.register_autograd(_differentiate, setup_context=_save)


def fused_token_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    token_loss: TokenLoss,
    *per_token: Tensor | None,
    weights: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    mask: Tensor | None = None,
    weight_grad: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden [T, H], weight [V, H], targets [T] int64 -> loss, logprobs [T], entropy [T], all float32.

    ``token_loss(logprobs, entropy, *per_token)`` is plain PyTorch on some of the tokens, [R] -> [R]: hand tensors [T]
    to it as ``per_token``, do not close over them. What it says of a token must depend on that token alone, and no
    gradient flows into ``per_token`` (None, or [T] or [T, ...]) or ``weights`` (floating [T]; 1 unless given; what a
    weight of 0 stands before must still be finite). Differentiable in hidden, weight and bias, once, through the loss.
    Only what requires a gradient costs a matrix product, and tokens whose derivative is zero cost none. The other
    options are those of `token_logprobs`; where ``mask`` is False a token has no part in anything.

    ``weight_grad`` (float32 [V, H]): the gradient of weight is added to it at once, as a backward pass from a loss with
    gradient 1 would, and no longer returned; not for checkpointed or compiled code. Gradients are rounded to the
    inputs' dtype before they are multiplied by that of the loss: in float16 with a scaled loss take `token_logprobs`.
    In a graph of torch.compile four products are made. Raises ValueError on a shape, dtype, device or range mismatch.
    """
    head = head_arguments(_NAME, hidden, weight, temperature, bias, softcap, logit_scale)
    tokens, device = len(hidden), hidden.device
    check_column(_NAME, "targets", targets, tokens, device, torch.int64)
    if mask is not None:
        check_column(_NAME, "mask", mask, tokens, device, torch.bool)
    if weights is not None:
        check_column(_NAME, "weights", weights, tokens, device)
    if isinstance(token_loss, type) or not callable(token_loss):
        raise ValueError(f"{_NAME}: token_loss must be a function, got {type(token_loss).__name__}")
    for i, column in enumerate(per_token):
        if column is not None and not (
            isinstance(column, Tensor) and column.shape[:1] == targets.shape and column.device == device
        ):
            raise ValueError(f"{_NAME}: per_token {i} must be a tensor [{tokens}] on {device}, or None")
    if weight_grad is not None:
        check_tensor(_NAME, "weight_grad", weight_grad)
    if weight_grad is not None and not (
        weight_grad.shape == head.weight.shape
        and weight_grad.dtype == torch.float32
        and weight_grad.device == device
        and weight_grad.is_contiguous()
    ):
        raise ValueError(
            f"{_NAME}: weight_grad must be contiguous float32 {tuple(head.weight.shape)} on {device}"
        )
    if torch.compiler.is_compiling():
        return _compiled(hidden, targets, head, token_loss, per_token, weights, mask, weight_grad)
    if weight_grad is not None and torch._C._current_graph_task_id() != -1:
        raise ValueError(
            f"{_NAME}: weight_grad must not be added to in a backward pass, as checkpoints would"
        )
    training = torch.is_grad_enabled()
    inputs = (hidden, head.weight, head.bias)
    needs = [training and x is not None and x.requires_grad for x in inputs]
    needs[1] = needs[1] or (training and weight_grad is not None)
    formula = next(_NUMBERS)
    _FORMULAS[formula] = token_loss
    try:
        loss, logprobs, entropy, *grads = _op(
            hidden.detach(),
            head.weight.detach(),
            targets,
            head.inverse_temperature,
            None if head.bias is None else head.bias.detach(),
            mask,
            None if weights is None else weights.detach(),
            [None if column is None else column.detach() for column in per_token],
            weight_grad,
            formula,
            head.softcap,
            head.inner,
            *needs,
        )
    finally:
        del _FORMULAS[formula]
    held = head.weight if weight_grad is None else head.weight.detach()
    return _with_gradients(loss, hidden, held, head.bias, grads), logprobs, entropy


def _compiled(
    hidden: Tensor,
    targets: Tensor,
    head: Arguments,
    token_loss: TokenLoss,
    per_token: tuple[Tensor | None, ...],
    weights: Tensor | None,
    mask: Tensor | None,
    weight_grad: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """In a compiled graph the formula is traced, and a product more is made: a number could not stand for it there."""
    if weight_grad is not None:
        raise ValueError(f"{_NAME}: weight_grad is not for compiled graphs")
    logprobs, entropy = normal_logprobs(hidden, targets, head, mask)
    columns = [None if x is None else x.detach() for x in (*per_token, weights)]
    if mask is not None:  # what is masked may be anything
        columns = [
            None if x is None else torch.where(mask.view(-1, *[1] * (x.ndim - 1)), x, torch.zeros_like(x))
            for x in columns
        ]
    terms = token_loss(logprobs, entropy, *columns[:-1])
    if mask is not None:
        terms = torch.where(mask, terms, torch.zeros_like(terms))
    return _weighted(terms, columns[-1]).float(), logprobs.detach(), entropy.detach()
