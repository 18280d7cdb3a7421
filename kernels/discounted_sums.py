"""Discounted sums from the right, per row and segment: returns, generalised advantages, sums over turns.

    delta[t] = values[t] + discount[t] baseline[n] - baseline[t]           n: the next token that counts
    sums[t]  = delta[t] + discount[t] lambda_ sums[n]                      in the same segment, else 0
    sums[t]  = sums[n]                                                     where the mask is 0

With the baseline of a critic these are generalised advantages (Schulman et al. 2016, arXiv 1506.02438) in which tokens
of the environment take no part, as verl computes them; without one they are discounted returns. ``bootstrap`` is the
baseline after the last token. On a GPU one Triton program scans a row, or a part of it, block by block from the right;
elsewhere PyTorch doubles the reach of all tokens log2(T) times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._paths import HAS_TRITON, sum_dtype

if HAS_TRITON:
    import triton
    import triton.language as tl

_BLOCK = 1024  # tokens that a program scans at a time
_CHUNK = 8192  # tokens of a row of segments that one program answers for
_HALVES = (torch.bfloat16, torch.float16)


def discounted_sums_reference(
    values: Tensor,
    segments: Tensor | None = None,
    *,
    discount: float | Tensor = 1.0,
    lambda_: float = 1.0,
    baseline: Tensor | None = None,
    mask: Tensor | None = None,
    bootstrap: Tensor | None = None,
) -> Tensor:
    """The formula, token by token: values [B, T] and all else as `discounted_sums` takes it -> [B, T]."""
    rows, length = values.shape
    critic = torch.zeros_like(values) if baseline is None else baseline
    factors = torch.as_tensor(discount, dtype=values.dtype).expand(values.shape)
    after = values.new_zeros(rows) if bootstrap is None else bootstrap
    total, columns = values.new_zeros(rows), []
    for t in reversed(range(length)):
        if segments is not None and t + 1 < length:
            same = segments[:, t] == segments[:, t + 1]
            after, total = (torch.where(same, x, 0.0) for x in (after, total))
        delta = values[:, t] + factors[:, t] * after - critic[:, t]
        counts = torch.ones_like(total, dtype=torch.bool) if mask is None else mask[:, t] != 0
        total = torch.where(counts, delta + factors[:, t] * lambda_ * total, total)
        after = torch.where(counts, critic[:, t], after)
        columns.append(total)
    return torch.stack(columns[::-1], 1) if columns else torch.zeros_like(values)


if HAS_TRITON:

    @triton.jit
    def _then(factor, total, own_factor, own_total):
        """x -> factor x + total, and the token to the left of it on top. What is times 0 may be infinite."""
        return factor * own_factor, own_total + own_factor * tl.where(own_factor == 0, 0.0, total)

    @triton.jit
    def _nearest(there, value, own_there, own_value):
        return tl.maximum(there, own_there), tl.where(own_there != 0, own_value, value)

    @triton.jit
    def _end_of_segment(row_segments, stop, length, BLOCK: tl.constexpr):
        """Where the segment of the token before stop ends; stop itself if it ends there."""
        own = tl.load(row_segments + stop - 1)
        end = stop
        step = stop * 0 + BLOCK
        while step == BLOCK:
            t = end + tl.arange(0, BLOCK)
            same = (tl.load(row_segments + t, mask=t < length, other=0) == own) & (t < length)
            step = tl.min(tl.where(same, BLOCK, tl.arange(0, BLOCK)), 0)
            end += step
        return end

    @triton.jit
    def _scan_kernel(
        values_ptr, segments_ptr, mask_ptr, baseline_ptr, discounts_ptr, bootstrap_ptr, out_ptr,
        length, chunk, chunks, discount, lambda_,
        SEGMENTS: tl.constexpr, MASK: tl.constexpr, BASELINE: tl.constexpr, DISCOUNTS: tl.constexpr,
        BOOTSTRAP: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """out[row, start : start + chunk], from wherever the segment that leaves the chunk ends."""
        row = (tl.program_id(0) // chunks).to(tl.int64)
        start = tl.program_id(0) % chunks * chunk
        stop = tl.minimum(start + chunk, length)
        here = row * length
        end = stop
        if SEGMENTS:
            end = _end_of_segment(segments_ptr + here, stop, length, BLOCK)
        total = tl.zeros([], tl.float32)  # the sum of the token right of the block
        after = tl.zeros([], tl.float32)  # the baseline of the token that counts next
        if BOOTSTRAP:
            after = tl.load(bootstrap_ptr + row).to(tl.float32)
        first = tl.arange(0, BLOCK) == 0
        for i in tl.range(0, tl.cdiv(end - start, BLOCK)):
            t = end - (i + 1) * BLOCK + tl.arange(0, BLOCK)
            inside = t >= start
            follows = inside & (t + 1 < length)
            delta = tl.load(values_ptr + here + t, mask=inside, other=0.0).to(tl.float32)
            same = follows
            if SEGMENTS:
                own = tl.load(segments_ptr + here + t, mask=inside, other=0)
                same = follows & (tl.load(segments_ptr + here + t + 1, mask=follows, other=0) == own)
            gamma = tl.full([BLOCK], 1.0, tl.float32) * discount
            if DISCOUNTS:
                gamma = tl.load(discounts_ptr + here + t, mask=inside, other=0.0).to(tl.float32)
            if BASELINE or BOOTSTRAP:
                there = tl.where(same, 1, 0)
                critic = tl.zeros([BLOCK], tl.float32)
                if MASK:
                    there = there * (tl.load(mask_ptr + here + t + 1, mask=follows, other=0) != 0).to(
                        tl.int32
                    )
                if BASELINE:
                    critic = tl.load(baseline_ptr + here + t + 1, mask=follows, other=0.0).to(tl.float32)
                # A border is there, too, and what lies beyond is worth nothing.
                there = tl.where(follows & (same == 0), 1, there)
                critic = tl.where(same & (there != 0), critic, 0.0)
                there, critic = tl.associative_scan((there, critic), 0, _nearest, reverse=True)
                critic = tl.where(there != 0, critic, after)
                after = tl.sum(tl.where(first, critic, 0.0), 0)
                delta += gamma * tl.where(gamma == 0, 0.0, critic)
            if BASELINE:
                delta -= tl.load(baseline_ptr + here + t, mask=inside, other=0.0).to(tl.float32)
            factor = gamma * lambda_
            if MASK:
                counts = tl.load(mask_ptr + here + t, mask=inside, other=0) != 0
                factor = tl.where(counts, factor, 1.0)
                delta = tl.where(counts, delta, 0.0)
            factor = tl.where(same, factor, 0.0)
            factor, delta = tl.associative_scan((factor, delta), 0, _then, reverse=True)
            delta += factor * tl.where(factor == 0, 0.0, total)
            total = tl.sum(tl.where(first, delta, 0.0), 0)
            tl.store(out_ptr + here + t, delta, mask=inside & (t < stop))


def _fits_triton(values: Tensor) -> bool:
    return HAS_TRITON and values.is_cuda and values.dtype != torch.float64


def _scan_triton(
    values: Tensor,
    segments: Tensor | None,
    mask: Tensor | None,
    baseline: Tensor | None,
    discounts: Tensor | None,
    bootstrap: Tensor | None,
    discount: float,
    lambda_: float,
) -> Tensor:
    rows, length = values.shape
    out = torch.empty(values.shape, dtype=torch.float32, device=values.device)
    if out.numel() == 0:
        return out
    chunk = length if segments is None else min(length, _CHUNK)
    chunks = triton.cdiv(length, chunk)
    _scan_kernel[(rows * chunks,)](
        *(
            values if x is None else x.contiguous()  # one that is not there is not read
            for x in (values.contiguous(), segments, mask, baseline, discounts, bootstrap)
        ),
        out,
        length,
        chunk,
        chunks,
        discount,
        lambda_,
        SEGMENTS=segments is not None,
        MASK=mask is not None,
        BASELINE=baseline is not None,
        DISCOUNTS=discounts is not None,
        BOOTSTRAP=bootstrap is not None,
        BLOCK=max(16, min(_BLOCK, triton.next_power_of_2(length))),
        num_warps=4,
    )
    return out


def _same(values: Tensor, segments: Tensor | None) -> Tensor:
    """Whether the next token belongs to the same segment, bool [B, T]."""
    same = torch.ones(values.shape, dtype=torch.bool, device=values.device)
    same[:, -1:] = False
    if segments is not None:
        same[:, :-1] = segments[:, :-1] == segments[:, 1:]
    return same


def _factors(
    values: Tensor,
    segments: Tensor | None,
    mask: Tensor | None,
    discounts: Tensor | None,
    discount: float,
    lambda_: float,
) -> Tensor:
    """What a token's sum takes of the next one's [B, T]."""
    wide = values.to(sum_dtype(values.dtype))
    factors = wide.new_full(values.shape, discount) if discounts is None else discounts.to(wide.dtype)
    factors = factors * lambda_
    if mask is not None:
        factors = torch.where(mask != 0, factors, 1.0)
    return torch.where(_same(values, segments), factors, 0.0)


def _next_baseline(
    values: Tensor,
    segments: Tensor | None,
    mask: Tensor | None,
    baseline: Tensor | None,
    bootstrap: Tensor | None,
) -> Tensor:
    """The baseline of the next token that counts [B, T]."""
    rows, length = values.shape
    t = torch.arange(length, device=values.device).expand(rows, length)
    stops = ~_same(values, segments)
    stops[:, -1:] = False  # beyond the last token lies the bootstrap
    next_counts = torch.ones_like(stops) if mask is None else mask.roll(-1, 1) != 0
    next_counts[:, -1:] = False
    nearest = torch.where(stops | next_counts, t, length).flip(1).cummin(1).values.flip(1)
    critic = values.new_zeros(values.shape) if baseline is None else baseline.roll(-1, 1)
    critic = torch.where(stops, 0.0, critic)
    last = values.new_zeros(rows) if bootstrap is None else bootstrap
    return torch.cat((critic, last[:, None].to(critic.dtype)), 1).gather(1, nearest)


def _scan_pytorch(
    values: Tensor,
    segments: Tensor | None,
    mask: Tensor | None,
    baseline: Tensor | None,
    discounts: Tensor | None,
    bootstrap: Tensor | None,
    discount: float,
    lambda_: float,
) -> Tensor:
    total = values.to(sum_dtype(values.dtype))
    if values.numel() == 0:
        return torch.empty_like(total)
    if baseline is not None or bootstrap is not None:
        gamma = discount if discounts is None else discounts
        total = total + gamma * _next_baseline(total, segments, mask, baseline, bootstrap)
    if baseline is not None:
        total = total - baseline
    if mask is not None:
        total = torch.where(mask != 0, total, 0.0)
    factors = _factors(values, segments, mask, discounts, discount, lambda_)
    reach = 1
    while reach < values.shape[1]:
        near, far = factors[:, :-reach], factors[:, reach:]
        more = near * torch.where(near == 0, 0.0, total[:, reach:])  # what is times 0 may be infinite
        total = torch.cat((total[:, :-reach] + more, total[:, -reach:]), 1)
        factors = torch.cat((near * far, factors[:, -reach:]), 1)
        reach *= 2
    return total.clone() if total is values else total  # an operator must not hand back its input


@torch.library.custom_op("selfplay_fast::discounted_sums", mutates_args=())
def _discounted_sums(
    values: Tensor,
    segments: Tensor | None,
    mask: Tensor | None,
    baseline: Tensor | None,
    discounts: Tensor | None,
    bootstrap: Tensor | None,
    discount: float,
    lambda_: float,
) -> Tensor:
    if discounts is not None and not bool(((discounts >= 0) & (discounts <= 1)).all()):
        raise ValueError("discounted_sums: discount must be from 0 to 1 everywhere")
    run = _scan_triton if _fits_triton(values) else _scan_pytorch
    return run(values, segments, mask, baseline, discounts, bootstrap, discount, lambda_)


@_discounted_sums.register_fake
def _(values: Tensor, *_: Any) -> Tensor:
    return torch.empty(values.shape, dtype=sum_dtype(values.dtype), device=values.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, segments, mask, _, discounts, _, ctx.discount, ctx.lambda_ = inputs
    ctx.save_for_backward(values, segments, mask, discounts)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The transposed sum runs from the left: the same scan of everything reversed."""
    values, segments, mask, discounts = ctx.saved_tensors
    factors = _factors(values, segments, mask, discounts, ctx.discount, ctx.lambda_)
    back = torch.cat((factors[:, :-1].flip(1), torch.zeros_like(factors[:, -1:])), 1)
    turned = None if segments is None else segments.flip(1)
    sums = _discounted_sums(grad.flip(1), turned, None, None, back, None, 1.0, 1.0).flip(1)
    if mask is not None:
        sums = torch.where(mask != 0, sums, 0.0)
    return sums.to(values.dtype), None, None, None, None, None, None, None


_discounted_sums.register_autograd(_backward, setup_context=_save)


def discounted_sums(
    values: Tensor,
    segments: Tensor | None = None,
    *,
    discount: float | Tensor = 1.0,
    lambda_: float = 1.0,
    baseline: Tensor | None = None,
    mask: Tensor | None = None,
    bootstrap: Tensor | None = None,
) -> Tensor:
    """values [T] or [B, T] -> sums of the same shape, float32 (float64 for float64).

    ``segments`` int32 or int64, shaped like values: neighbours with equal numbers in a row belong together, by default
    all of a row. ``discount``: one number from 0 to 1, or one per token, by which what follows it counts: 1 inside a
    turn and less at its end discounts by turns. ``mask`` bool or number, shaped like values: where it is 0, values and
    baseline are not used and the sum of the next token is passed on. ``baseline``: shaped and typed like values.
    ``bootstrap`` [B] (one number for [T]): the baseline after the last token of unfinished rows, 0 for finished
    ones; with segments add ``discount * value`` to the last value of a segment instead, which is the same.

    Differentiable in values, of which the sums are linear; everything else is a constant. A discount per token is
    looked at on its device, which waits for a GPU. Raises ValueError on a shape, dtype, device or range mismatch.
    """
    shape = values.shape
    if values.ndim not in (1, 2) or not values.is_floating_point():
        raise ValueError(
            f"discounted_sums: values must be floats [T] or [B, T], got {values.dtype} {tuple(shape)}"
        )
    if not 0 <= lambda_ <= 1:
        raise ValueError(f"discounted_sums: lambda_ must be from 0 to 1, got {lambda_}")
    discounts = discount if isinstance(discount, Tensor) else None
    if not isinstance(discount, Tensor) and not 0 <= discount <= 1:
        raise ValueError(f"discounted_sums: discount must be from 0 to 1, got {discount}")
    if bootstrap is not None and segments is not None:
        raise ValueError(
            "discounted_sums: bootstrap goes with whole rows; with segments add discount * value to the last value"
        )
    _check("segments", segments, values, shape, (torch.int32, torch.int64))
    _check("mask", mask, values, shape)
    floats = (*_HALVES, torch.float32, torch.float64)
    _check("discount", discounts, values, shape, floats)
    _check("baseline", baseline, values, shape, (values.dtype,))
    _check("bootstrap", bootstrap, values, shape[:-1], (values.dtype,))
    rows = [
        None if x is None else x.reshape(1, -1) if values.ndim == 1 else x
        for x in (values, segments, None if mask is None else mask != 0, baseline, discounts)
    ]
    assert rows[0] is not None
    constants = [None if x is None else x.detach() for x in rows[1:]]
    after = None if bootstrap is None else bootstrap.detach().reshape(-1)
    number = 1.0 if isinstance(discount, Tensor) else float(discount)
    return _discounted_sums(rows[0], *constants, after, number, float(lambda_)).view(shape)


def _check(
    name: str, x: Tensor | None, values: Tensor, shape: torch.Size, dtypes: tuple[torch.dtype, ...] = ()
) -> None:
    if x is None:
        return
    if x.shape != shape or (dtypes and x.dtype not in dtypes):
        kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes) or "bool or number"
        raise ValueError(
            f"discounted_sums: {name} must be {kinds} {list(shape)}, got {x.dtype} {tuple(x.shape)}"
        )
    if x.device != values.device:
        raise ValueError(f"discounted_sums: {name} must be on {values.device}, got {x.device}")
