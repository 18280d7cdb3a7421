"""Many small experts as grouped matrix products: every token goes through k of E two-layer networks.

    hidden[t, j] = dropout(activation(x[t] @ w1[e].T + b1[e])),   e = expert_index[t, j]
    y[t]         = sum_j gate[t, j] (hidden[t, j] @ w2[e] + b2[e])

Chen et al. 2023, arXiv 2303.01610 (SMoE-Dropout), on a router's choice; with k = 1 it is a bank of networks, one of
which every row uses. Row n of w1[e] and row n of w2[e] belong to hidden unit n of expert e, so that the weights of a
dense network of width E h are those of E experts by ``view``.

Pairs of token and expert are sorted by expert (`expert_routing`), each expert's rows are cut into tiles, and a tile
finds its expert from the counts: rows of x are gathered by the product that reads them. What is kept for the backward
pass is the hidden layer in the dtype of x, for gelu and silu also what went into the activation. A token's k results
are added in the order of j and no sum uses atomics: equal inputs give equal bits, and a token's result depends neither
on other tokens nor on their order. Dropout depends on seed, token, expert and unit: splitmix64 (Steele et al. 2014),
nothing stored. Elsewhere PyTorch does the same expert by expert, where other tokens may change a last bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ._paths import HAS_TRITON, sum_dtype, without_autocast
from ._streams import STEP, mixed, signed
from .expert_routing import check_experts, route

if HAS_TRITON:
    from . import _grouped_products

ACTIVATIONS = ("relu", "tanh", "elu", "gelu", "silu")
_FROM_INPUT = ("gelu", "silu")  # the slopes of the others follow from what they gave
_DROPOUT_BITS = 24


def grouped_mlp_reference(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, expert_index: Tensor, gate: Tensor,
    activation: str = "relu", kept: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The formula, all experts on all tokens; kept [T, E, h] is 0 where dropped and 1 / (1 - dropout) elsewhere."""
    hidden = _activate(torch.einsum("td,ehd->teh", x, w1) + b1, activation)
    if kept is not None:
        hidden = hidden * kept
    out = torch.einsum("teh,eho->teo", hidden, w2) + b2
    chosen = out.gather(1, expert_index[:, :, None].expand(-1, -1, out.shape[2]))
    return (gate[:, :, None] * chosen).sum(1)


def _activate(value: Tensor, activation: str) -> Tensor:
    function: Any = getattr(torch.nn.functional, activation)
    return function(value)


def _slope(before: Tensor, after: Tensor, activation: str) -> Tensor:
    """The derivative of the activation, which made ``after`` of ``before``."""
    if activation == "relu":
        return after.sign()
    if activation == "tanh":
        return 1 - after * after
    if activation == "elu":
        return after.clamp(max=0) + 1
    if activation == "gelu":
        density = (-0.5 * before * before).exp() / math.sqrt(2 * math.pi)
        return 0.5 * (1 + (before / math.sqrt(2)).erf()) + before * density
    half = before.sigmoid()
    return half * (1 + before * (1 - half))


def _key(seed: Tensor) -> Tensor:
    return mixed(seed.reshape(1) + signed(STEP))


def _threshold(dropout: float) -> int:
    return round(dropout * (1 << _DROPOUT_BITS))


def _kept(key: Tensor, tokens: Tensor, expert: int, experts: int, width: int, dropout: float) -> Tensor:
    """bool [n, width]: which units of the expert stay, for n tokens."""
    counter = (tokens * experts + expert)[:, None] * width + torch.arange(width, device=tokens.device)
    drawn = mixed(counter.mul_(signed(STEP)).add_(key)) >> (64 - _DROPOUT_BITS)
    return (drawn & ((1 << _DROPOUT_BITS) - 1)) >= _threshold(dropout)


def _fits_triton(x: Tensor) -> bool:
    return HAS_TRITON and x.is_cuda and x.dtype != torch.float64 and len(x) > 0


def _rows_of_experts(
    order: Tensor, offsets: Tensor, tokens: int, top: int
) -> Iterator[tuple[int, slice, Any, Any]]:
    """Expert, slots, pairs and tokens of every expert that has any; all tokens, in order, are a slice."""
    bounds = offsets.tolist()
    everyone = torch.arange(tokens, device=order.device)
    for expert, (first, stop) in enumerate(itertools.pairwise(bounds)):
        if first == stop:
            continue
        pairs = order[first:stop]
        own = pairs // top
        yield expert, slice(first, stop), pairs, slice(None) if torch.equal(own, everyone) else own


def _add_rows(total: Tensor, rows: Any, values: Tensor) -> None:
    if isinstance(rows, slice):
        total += values
    else:
        total.index_add_(0, rows, values)


def _put_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _forward_experts(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gate: Tensor, order: Tensor, offsets: Tensor,
    key: Tensor, activation: str, dropout: float, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As `_grouped_products.forward`, expert by expert, half precision widened."""
    wide, (experts, units, _) = sum_dtype(x.dtype), w1.shape
    keep_before = keep and activation in _FROM_INPUT
    y = torch.zeros(len(x), w2.shape[2], dtype=wide, device=x.device)
    hidden = x.new_empty(len(order) if keep else 0, units)
    before = x.new_empty(len(order) if keep_before else 0, units)
    gates = gate.flatten().to(wide)
    every = torch.arange(len(x), device=x.device)
    for expert, slots, pairs, rows in _rows_of_experts(order, offsets, len(x), gate.shape[1]):
        into = torch.addmm(b1[expert].to(wide), x[rows].to(wide), w1[expert].to(wide).T)
        after = _activate(into, activation)
        if dropout:
            after = after * _kept(key, every[rows], expert, experts, units, dropout) / (1 - dropout)
        if keep:
            hidden[slots] = after
        if keep_before:
            before[slots] = into
        out = torch.addmm(b2[expert].to(wide), after, w2[expert].to(wide))
        _add_rows(y, rows, out.mul_(gates[pairs, None]))
    return y.to(x.dtype), hidden, before


def _backward_experts(
    grad: Tensor, x: Tensor, w1: Tensor, w2: Tensor, b2: Tensor, gate: Tensor, order: Tensor, offsets: Tensor,
    hidden: Tensor, before: Tensor, key: Tensor, activation: str, dropout: float, need_x: bool, need_weights: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:  # fmt: skip
    """As `_grouped_products.backward`."""
    wide, (experts, units, _) = sum_dtype(x.dtype), w1.shape
    grad_x = torch.zeros_like(x, dtype=wide) if need_x else x.new_empty(0)
    shapes = (w1.shape, w1.shape[:2], w2.shape, b2.shape)
    weights = [x.new_empty(shape if need_weights else (0,)) for shape in shapes]
    if need_weights:
        idle = offsets.diff() == 0
        for tensor in weights:
            tensor[idle] = 0
    gates = gate.flatten().to(wide)
    gate_grad = torch.empty_like(gates)
    every = torch.arange(len(x), device=x.device)
    for expert, slots, pairs, rows in _rows_of_experts(order, offsets, len(x), gate.shape[1]):
        up, after = grad[rows].to(wide), hidden[slots].to(wide)
        down = up @ w2[expert].to(wide).T
        gate_grad[pairs] = (down * after).sum(1) + (up * b2[expert].to(wide)).sum(1)
        if need_weights:
            gated = up * gates[pairs, None]
            _put_product(weights[2][expert], after.T, gated)
            weights[3][expert] = gated.sum(0)
        if dropout:
            after = after * (1 - dropout)
            down *= _kept(key, every[rows], expert, experts, units, dropout) / (1 - dropout)
        into = before[slots].to(wide) if activation in _FROM_INPUT else after
        down.mul_(_slope(into, after, activation)).mul_(gates[pairs, None])
        if need_weights:
            _put_product(weights[0][expert], down.T, x[rows].to(wide))
            weights[1][expert] = down.sum(0)
        if need_x:
            _add_rows(grad_x, rows, down @ w1[expert].to(wide))
    return grad_x.to(x.dtype), weights, gate_grad


@torch.library.custom_op("selfplay_fast::grouped_mlp", mutates_args=())
@without_autocast
def _grouped_mlp(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, expert_index: Tensor, gate: Tensor, seed: Tensor,
    activation: str, dropout: float, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, and for the backward pass hidden, before, order and offsets."""
    x, w1, b1, w2, b2, gate = (t.contiguous() for t in (x, w1, b1, w2, b2, gate))
    order, offsets = route(expert_index, len(w1), check=False)
    key = _key(seed)
    tensors = (x, w1, b1, w2, b2, gate, order, offsets, key)
    if _fits_triton(x):
        scale = 1 / (1 - dropout)
        kept = _grouped_products.forward(*tensors, activation, _threshold(dropout), scale, keep)
    else:
        kept = _forward_experts(*tensors, activation, dropout, keep)
    return *kept, order, offsets


@_grouped_mlp.register_fake
def _(x, w1, b1, w2, b2, expert_index, gate, seed, activation, dropout, keep):
    pairs = expert_index.numel()
    return (
        x.new_empty(len(x), w2.shape[2]),
        x.new_empty(pairs if keep else 0, w1.shape[1]),
        x.new_empty(pairs if keep and activation in _FROM_INPUT else 0, w1.shape[1]),
        expert_index.new_empty(pairs),
        expert_index.new_empty(len(w1) + 1),
    )


@torch.library.custom_op("selfplay_fast::grouped_mlp_backward", mutates_args=())
@without_autocast
def _grouped_mlp_backward(
    grad: Tensor, x: Tensor, w1: Tensor, w2: Tensor, b2: Tensor, expert_index: Tensor, gate: Tensor, seed: Tensor,
    hidden: Tensor, before: Tensor, order: Tensor, offsets: Tensor,
    activation: str, dropout: float, need_x: bool, need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, w1, b1, w2, b2 and gate; empty where they are not needed."""
    grad, x, w1, w2, b2, gate = (t.contiguous() for t in (grad, x, w1, w2, b2, gate))
    tensors = (grad, x, w1, w2, b2, gate, order, offsets, hidden, before, _key(seed))
    if _fits_triton(x):
        scale, threshold = 1 / (1 - dropout), _threshold(dropout)
        grad_x, weights, gate_grad = _grouped_products.backward(
            *tensors, activation, threshold, scale, need_x, need_weights
        )
    else:
        grad_x, weights, gate_grad = _backward_experts(*tensors, activation, dropout, need_x, need_weights)
    w1_grad, b1_grad, w2_grad, b2_grad = weights
    return grad_x, w1_grad, b1_grad, w2_grad, b2_grad, gate_grad.view_as(gate).to(gate.dtype)


@_grouped_mlp_backward.register_fake
def _(
    grad, x, w1, w2, b2, expert_index, gate, seed, hidden, before, order, offsets,
    activation, dropout, need_x, need_weights,
):  # fmt: skip
    shapes = (w1.shape, w1.shape[:2], w2.shape, b2.shape)
    weights = (x.new_empty(shape if need_weights else (0,)) for shape in shapes)
    return (x.new_empty(x.shape if need_x else (0,)), *weights, gate.new_empty(gate.shape))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, w1, _, w2, b2, expert_index, gate, seed, ctx.activation, ctx.dropout, keep = inputs
    ctx.kept = keep
    ctx.save_for_backward(x, w1, w2, b2, expert_index, gate, seed, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    if not ctx.kept:
        raise RuntimeError("grouped_mlp: called without keep, so there is nothing to differentiate with")
    need_x, *need_weights = ctx.needs_input_grad[:5]
    grads = torch.ops.selfplay_fast.grouped_mlp_backward(
        grad, *ctx.saved_tensors, ctx.activation, ctx.dropout, need_x, any(need_weights)
    )
    needs = (*ctx.needs_input_grad[:5], ctx.needs_input_grad[6])
    some = [one if needed else None for one, needed in zip(grads, needs, strict=True)]
    return *some[:5], None, some[5], None, None, None, None


_grouped_mlp.register_autograd(_differentiate, setup_context=_save)


def _refuse(what: str) -> None:
    raise ValueError(f"grouped_mlp: {what}")


def _check(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, expert_index: Tensor, gate: Tensor,
    activation: str, dropout: float,
) -> None:  # fmt: skip
    """All that shapes, dtypes and devices tell."""
    if x.ndim != 2 or x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        _refuse(f"x must be floating point [T, d], got {x.dtype} {tuple(x.shape)}")
    if w1.ndim != 3 or w1.shape[2] != x.shape[1] or 0 in w1.shape:
        _refuse(f"w1 must be [E, h, {x.shape[1]}], nothing of it 0, got {tuple(w1.shape)}")
    experts, units, _ = w1.shape
    if w2.ndim != 3 or w2.shape[:2] != w1.shape[:2] or 0 in w2.shape:
        _refuse(f"w2 must be [{experts}, {units}, o], nothing of it 0, got {tuple(w2.shape)}")
    for name, bias, weight_shape in (("b1", b1, (experts, units)), ("b2", b2, (experts, w2.shape[2]))):
        if bias.shape != weight_shape:
            _refuse(f"{name} must be {list(weight_shape)}, got {tuple(bias.shape)}")
    for name, tensor in (("w1", w1), ("b1", b1), ("w2", w2), ("b2", b2)):
        if tensor.dtype != x.dtype:
            _refuse(f"{name} must be {x.dtype} as x is, got {tensor.dtype}")
    if expert_index.ndim != 2 or len(expert_index) != len(x) or expert_index.dtype != torch.int64:
        _refuse(
            f"expert_index must be int64 [{len(x)}, k], got {expert_index.dtype} {tuple(expert_index.shape)}"
        )
    if not 1 <= expert_index.shape[1] <= experts:
        _refuse(f"expert_index must have 1 to {experts} columns, got {expert_index.shape[1]}")
    if gate.shape != expert_index.shape or gate.dtype not in (x.dtype, torch.float32):
        _refuse(
            f"gate must be {x.dtype} or float32 {list(expert_index.shape)}, got {gate.dtype} {tuple(gate.shape)}"
        )
    others = {"w1": w1, "b1": b1, "w2": w2, "b2": b2, "expert_index": expert_index, "gate": gate}
    for name, tensor in others.items():
        if tensor.device != x.device:
            _refuse(f"{name} must be on {x.device} as x is, got {tensor.device}")
    if activation not in ACTIVATIONS:
        _refuse(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if not 0 <= dropout < 1:
        _refuse(f"dropout must be at least 0 and less than 1, got {dropout}")


def grouped_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    expert_index: Tensor,
    gate: Tensor,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    seed: int | Tensor = 0,
    check: bool = True,
) -> Tensor:
    """x [T, d], w1 [E, h, d], b1 [E, h], w2 [E, h, o], b2 [E, o], expert_index and gate [T, k] -> y [T, o].

    x, weights and biases share one of bfloat16, float16, float32 and (in PyTorch, without Triton) float64; so does y,
    whose sums are in float32 at least. expert_index is int64, gate has the dtype of x or float32. 1 <= k <= E; an
    expert may be chosen twice, and T may be 0. activation: relu, tanh, elu, gelu (by erf) or silu. dropout is the
    probability of a hidden unit to be 0; which ones follows from seed, a number or an int64 tensor [] on the device
    of x, and from token, expert and unit. Differentiable, once, in x, gate, weights and biases. ``check=False``
    leaves out the check of the range of expert_index, which waits for a GPU and cannot be captured in a CUDA graph.
    Raises ValueError on a shape, dtype, device or range mismatch.
    """
    _check(x, w1, b1, w2, b2, expert_index, gate, activation, dropout)
    if isinstance(seed, Tensor):
        if seed.numel() != 1 or seed.dtype != torch.int64 or seed.device != x.device:
            _refuse(
                f"seed must be one int64 on {x.device}, got {seed.dtype} {tuple(seed.shape)} on {seed.device}"
            )
    else:
        if not -(1 << 63) <= seed < 1 << 63:
            _refuse(f"seed must fit into 64 bits with a sign, got {seed}")
        seed = torch.full((), seed, dtype=torch.int64, device=x.device)
    if check:
        expert_index = check_experts("grouped_mlp", expert_index, len(w1))
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w1, b1, w2, b2, gate))
    y, *_ = torch.ops.selfplay_fast.grouped_mlp(
        x, w1, b1, w2, b2, expert_index, gate, seed, activation, float(dropout), keep
    )
    return y
