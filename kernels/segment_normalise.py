"""Samples relative to their segment: advantages of groups, roles and batches.

    centred[i] = values[i] - mean of its segment            leave_one_out: the mean of the others
    out[i]     = centred[i] / (std + eps)                   eps_inside: / sqrt(variance + eps); scale None: / 1

Means and variances are over samples times their weights W = sum w; the unbiased variance divides by W - 1. Groups with
standard deviation: Shao et al. 2024, arXiv 2402.03300; means alone: Liu et al. 2025, arXiv 2503.20783; leave one out:
Ahmadian et al. 2024, arXiv 2402.14740. On a GPU each Triton program compares its samples with all others, so a key may
be any number and one launch does; more samples than that is good for, and the CPU, go through PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ._paths import HAS_TRITON, sum_dtype

if HAS_TRITON:
    import triton
    import triton.language as tl

_MOST = 1 << 15  # samples that are compared pair by pair
_BLOCK, _OTHERS = 16, 256  # samples of a program; others that it looks at at a time


def segment_normalise_reference(
    values: Tensor,
    segments: Tensor,
    weights: Tensor | None = None,
    scale: str | None = "unbiased",
    eps: float = 1e-6,
    eps_inside: bool = False,
    leave_one_out: bool = False,
    keep_singletons: bool = False,
) -> Tensor:
    """The formula, segment by segment: values [N], segments [N], weights [N] -> [N]."""
    weights = torch.ones_like(values) if weights is None else weights
    out = torch.zeros_like(values)
    for key in segments.unique():
        own = (segments == key) & (weights > 0)
        x, w = values[own], weights[own]
        alone = len(x) == 1
        mean = (w * x).sum() / w.sum()
        degrees = w.sum() - int(scale == "unbiased")
        centred = x - (w.sum() * mean - w * x) / (w.sum() - w) if leave_one_out and not alone else x - mean
        if alone:
            centred = x if keep_singletons else torch.zeros_like(x)
        variance = (w * (x - mean) ** 2).sum() / degrees if not alone and degrees > 0 else x.new_ones(())
        spread = (variance + eps).sqrt() if eps_inside else variance.sqrt() + eps
        out[own] = centred if scale is None else torch.where(spread > 0, centred / spread, 0.0)
    return out


if HAS_TRITON:

    @triton.jit
    def _normalise_kernel(
        values_ptr, segments_ptr, weights_ptr, out_ptr, samples, eps,
        SEGMENTS: tl.constexpr, WEIGHTS: tl.constexpr, SCALE: tl.constexpr, UNBIASED: tl.constexpr,
        EPS_INSIDE: tl.constexpr, LEAVE_ONE_OUT: tl.constexpr, KEEP: tl.constexpr,
        BLOCK: tl.constexpr, OTHERS: tl.constexpr,
    ):  # fmt: skip
        """Deviations are taken from a sample's own value: where all are equal there is nothing to round."""
        own = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = own < samples
        value = tl.load(values_ptr + own, mask=inside, other=0.0).to(tl.float32)
        key = own * 0
        if SEGMENTS:
            key = tl.load(segments_ptr + own, mask=inside, other=0)
        weight = tl.full([BLOCK], 1.0, tl.float32)
        if WEIGHTS:
            weight = tl.load(weights_ptr + own, mask=inside, other=0.0).to(tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        apart = tl.zeros([BLOCK], tl.float32)
        count = tl.zeros([BLOCK], tl.int32)
        squares = tl.zeros([BLOCK], tl.float32)
        for square in tl.static_range(2 if SCALE else 1):
            # The first time around the mean, the second time squares about it.
            mean = apart / tl.where(total > 0, total, 1.0)
            for start in tl.range(0, samples, OTHERS):
                other = start + tl.arange(0, OTHERS)
                there = other < samples
                its = tl.load(values_ptr + other, mask=there, other=0.0).to(tl.float32)
                same = there[None, :] & (own[:, None] >= 0)
                if SEGMENTS:
                    same &= tl.load(segments_ptr + other, mask=there, other=0)[None, :] == key[:, None]
                w = tl.full([OTHERS], 1.0, tl.float32)
                if WEIGHTS:
                    w = tl.load(weights_ptr + other, mask=there, other=0.0).to(tl.float32)
                same &= (w > 0)[None, :]
                share = tl.where(same, w[None, :], 0.0)
                away = tl.where(same, its[None, :] - value[:, None], 0.0)
                if square == 0:
                    total += tl.sum(share, 1)
                    apart += tl.sum(share * away, 1)
                    count += tl.sum(same.to(tl.int32), 1)
                else:
                    away = tl.where(same, away - mean[:, None], 0.0)
                    squares += tl.sum(share * away * away, 1)
        centred = -apart / tl.where(total > 0, total, 1.0)
        alone = count == 1
        if LEAVE_ONE_OUT:
            centred *= total / tl.where(count > 1, total - weight, 1.0)
        centred = tl.where(alone, value if KEEP else 0.0, centred)
        if SCALE:
            degrees = total - (1.0 if UNBIASED else 0.0)
            ruled = (count > 1) & (degrees > 0)
            variance = tl.where(ruled, squares / tl.where(ruled, degrees, 1.0), 1.0)
            spread = tl.sqrt(variance + eps) if EPS_INSIDE else tl.sqrt(variance) + eps
            centred = tl.where(spread > 0, centred / tl.where(spread > 0, spread, 1.0), 0.0)
        tl.store(out_ptr + own, tl.where(weight > 0, centred, 0.0), mask=inside)


def _fits_triton(values: Tensor) -> bool:
    return HAS_TRITON and values.is_cuda and values.dtype != torch.float64 and len(values) <= _MOST


def _normalise_triton(
    values: Tensor,
    segments: Tensor | None,
    weights: Tensor | None,
    scale: str,
    eps: float,
    eps_inside: bool,
    leave_one_out: bool,
    keep_singletons: bool,
) -> Tensor:
    out = torch.empty(values.shape, dtype=torch.float32, device=values.device)
    if out.numel() == 0:
        return out
    values = values.contiguous()
    _normalise_kernel[(triton.cdiv(len(values), _BLOCK),)](
        values,
        values if segments is None else segments.contiguous(),  # one that is not there is not read
        values if weights is None else weights.contiguous(),
        out,
        len(values),
        eps,
        SEGMENTS=segments is not None,
        WEIGHTS=weights is not None,
        SCALE=scale != "",
        UNBIASED=scale == "unbiased",
        EPS_INSIDE=eps_inside,
        LEAVE_ONE_OUT=leave_one_out,
        KEEP=keep_singletons,
        BLOCK=_BLOCK,
        OTHERS=_OTHERS,
        num_warps=4,
    )
    return out


def _moments(
    values: Tensor, segments: Tensor | None, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """float64: deviations from the mean [N], weights [N]; per sample of its segment: number, weight, sum of squares."""
    x = values.double()
    w = torch.ones_like(x) if weights is None else weights.double()
    if segments is None:
        index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        size = 1
    else:
        keys, index = segments.unique(return_inverse=True)
        size = len(keys)

    def sums(of: Tensor) -> Tensor:
        return x.new_zeros(size).index_add_(0, index, of)[index]

    # Deviations from the least value first: where all are equal there is nothing to round.
    counts = w > 0
    least = x.new_full((size,), math.inf).scatter_reduce_(0, index, torch.where(counts, x, math.inf), "amin")
    away = torch.where(counts, x - least[index], 0.0)
    total = sums(w)
    centred = torch.where(counts, away - sums(w * away) / total.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
    return centred, w, sums(counts.double()), total, sums(w * centred.square())


def _factors(
    moments: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    scale: str,
    eps: float,
    eps_inside: bool,
    leave_one_out: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per sample: what its deviation is multiplied by to leave it out, spread, deviation of the segment, degrees."""
    _, w, count, total, squares = moments
    out = torch.where(count > 1, total / torch.where(count > 1, total - w, 1.0), 1.0)
    out = out if leave_one_out else torch.ones_like(out)
    degrees = total - 1 if scale == "unbiased" else total
    ruled = (count > 1) & (degrees > 0)
    variance = torch.where(ruled, squares / torch.where(ruled, degrees, 1.0), 1.0)
    if scale == "":
        return out, torch.ones_like(out), torch.zeros_like(out), degrees
    spread = (variance + eps).sqrt() if eps_inside else variance.sqrt() + eps
    return out, spread, torch.where(ruled, spread if eps_inside else variance.sqrt(), 0.0), degrees


def _normalise_pytorch(
    values: Tensor,
    segments: Tensor | None,
    weights: Tensor | None,
    scale: str,
    eps: float,
    eps_inside: bool,
    leave_one_out: bool,
    keep_singletons: bool,
) -> Tensor:
    moments = _moments(values, segments, weights)
    centred, w, count = moments[:3]
    out, spread, *_ = _factors(moments, scale, eps, eps_inside, leave_one_out)
    alone = values.double() if keep_singletons else torch.zeros_like(centred)
    centred = torch.where(count == 1, torch.where(w > 0, alone, 0.0), centred * out)
    done = torch.where(spread > 0, centred / torch.where(spread > 0, spread, 1.0), 0.0)
    return done.to(sum_dtype(values.dtype))


@torch.library.custom_op("selfplay_fast::segment_normalise", mutates_args=())
def _segment_normalise(
    values: Tensor,
    segments: Tensor | None,
    weights: Tensor | None,
    scale: str,
    eps: float,
    eps_inside: bool,
    leave_one_out: bool,
    keep_singletons: bool,
) -> Tensor:
    if weights is not None and not weights.is_cuda and not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError("segment_normalise: weights must be finite and at least 0")
    run = _normalise_triton if _fits_triton(values) else _normalise_pytorch
    return run(values, segments, weights, scale, eps, eps_inside, leave_one_out, keep_singletons)


@_segment_normalise.register_fake
def _(values: Tensor, *_: Any) -> Tensor:
    return torch.empty(values.shape, dtype=sum_dtype(values.dtype), device=values.device)


@torch.library.custom_op("selfplay_fast::segment_normalise_backward", mutates_args=())
def _gradient(
    grad: Tensor,
    values: Tensor,
    segments: Tensor | None,
    weights: Tensor | None,
    scale: str,
    eps: float,
    eps_inside: bool,
    leave_one_out: bool,
    keep_singletons: bool,
) -> Tensor:
    moments = _moments(values, segments, weights)
    centred, w, count, total, _ = moments
    out, spread, deviation, degrees = _factors(moments, scale, eps, eps_inside, leave_one_out)
    index = None if segments is None else segments.unique(return_inverse=True)[1]

    def sums(of: Tensor) -> Tensor:
        if index is None:
            return of.sum().expand_as(of)
        return of.new_zeros(len(of)).index_add_(0, index, of)[index]

    # With q = grad times the derivative by the deviation, less what the mean and the spread move.
    q = torch.where(w > 0, grad.double() * out, 0.0) / torch.where(spread > 0, spread, 1.0)
    change = q - w * sums(q) / total.clamp_min(1e-300)
    lever = torch.where((deviation > 0) & (spread > 0), degrees * deviation * spread, 1.0)
    change -= torch.where(deviation > 0, w * centred * sums(q * centred) / lever, 0.0)
    change = torch.where(count == 1, q if keep_singletons else torch.zeros_like(q), change)
    return torch.where((w > 0) & (spread > 0), change, 0.0).to(values.dtype)


@_gradient.register_fake
def _(grad: Tensor, values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, segments, weights, *ctx.options = inputs
    ctx.save_for_backward(values, segments, weights)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradient(grad, *ctx.saved_tensors, *ctx.options), *[None] * 7


_segment_normalise.register_autograd(_backward, setup_context=_save)


def segment_normalise(
    values: Tensor,
    segments: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    scale: str | None = "unbiased",
    eps: float = 1e-6,
    eps_inside: bool = False,
    leave_one_out: bool = False,
    keep_singletons: bool = False,
) -> Tensor:
    """values of any shape -> advantages of the same shape, float32 (float64 for float64).

    ``segments`` int32 or int64, shaped like values: samples with equal numbers, wherever they are, belong together; by
    default all do. ``weights`` shaped like values, at least 0: tokens per sequence, or a mask; a sample of weight 0 is
    not used and has advantage 0. ``scale``: "unbiased" or "biased" standard deviation, or None for means alone. A
    sample alone in its segment has advantage 0, or, with ``keep_singletons``, mean 0 and deviation 1, as in verl. A
    segment without spread has advantages 0. Samples of one segment whose weights sum to 1 or less have no unbiased
    deviation; theirs is 1.

    Differentiable in values once. Raises ValueError on a shape, dtype, device or range mismatch; weights are not looked
    at on a GPU, which would wait for it.
    """
    if not values.is_floating_point():
        raise ValueError(f"segment_normalise: values must be floats, got {values.dtype}")
    if scale not in (None, "biased", "unbiased"):
        raise ValueError(f"segment_normalise: scale must be 'biased', 'unbiased' or None, got {scale!r}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"segment_normalise: eps must be at least 0, got {eps}")
    for name, x in (("segments", segments), ("weights", weights)):
        if x is not None and (x.shape != values.shape or x.device != values.device):
            raise ValueError(
                f"segment_normalise: {name} must be {list(values.shape)} on {values.device}, "
                f"got {tuple(x.shape)} on {x.device}"
            )
    if segments is not None and segments.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"segment_normalise: segments must be int32 or int64, got {segments.dtype}")
    if weights is not None:
        weights = weights.detach().to(sum_dtype(values.dtype)).reshape(-1)
    flat = None if segments is None else segments.reshape(-1)
    out = _segment_normalise(
        values.reshape(-1), flat, weights, scale or "", float(eps), eps_inside, leave_one_out, keep_singletons
    )
    return out.view(values.shape)
