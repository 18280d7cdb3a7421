"""Triton's part of `sample_with_logprob`: a program per row, no sort.

Either threshold is the least logit above which there is less than some number of tokens, or mass. The interval that it
lies in is halved, and its ends are drawn in to logits that occur: on the way past the vocabulary that counts, the
nearest ones on both sides are found, too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _WARPS = 8192, 16  # logits that a program reads at a time, and its warps; not measured on a GPU
_COLDEST = tl.constexpr(1e-30)  # a temperature in float32 whose reciprocal is finite


@triton.jit
def _uniform(seed, counter):
    """As `_uniforms` of the PyTorch code: the same stream."""
    z = counter.to(tl.uint64) + 0x9E3779B97F4A7C15
    for draw in tl.static_range(2):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB
        z = z ^ (z >> 31)
        if draw == 0:
            z = (z ^ seed.to(tl.uint64)) + 0x9E3779B97F4A7C15
    return (z >> 11).to(tl.float64) * (1.0 / (1 << 53))


@triton.jit
def _read(row_ptr, start, vocabulary, BLOCK: tl.constexpr):
    token = start + tl.arange(0, BLOCK)
    return tl.load(row_ptr + token, mask=token < vocabulary, other=-float("inf")).to(tl.float32)


@triton.jit
def _middle(low, high):
    """From low to below high; far apart, halfway in the order of their bit patterns."""
    middle = 0.5 * low + 0.5 * high
    if 0.5 * high - 0.5 * low > 32:
        a = low.to(tl.int32, bitcast=True)
        b = high.to(tl.int32, bitcast=True)
        a = a ^ ((a >> 31) & 0x7FFFFFFF)
        b = b ^ ((b >> 31) & 0x7FFFFFFF)
        key = (a >> 1) + (b >> 1)
        middle = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.where(middle < high, tl.maximum(middle, low), low)


@triton.jit
def _least(row_ptr, vocabulary, low, high, target, top, inverse, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """The least logit above which there are less than target tokens, or mass; low and high, between which it is,
    occur."""
    while low < high:
        middle = _middle(low, high)
        above = tl.zeros([BLOCK], tl.float32)
        below = tl.full([BLOCK], -float("inf"), tl.float32)
        beyond = tl.full([BLOCK], float("inf"), tl.float32)
        for start in tl.range(0, vocabulary, BLOCK):
            x = _read(row_ptr, start, vocabulary, BLOCK)
            over = x > middle
            above += tl.where(over, 1.0 if COUNT else tl.exp((x - top) * inverse), 0.0)
            below = tl.where(over, below, tl.maximum(below, x))
            beyond = tl.where(over, tl.minimum(beyond, x), beyond)
        there = tl.sum(above, 0)
        lower = tl.max(below, 0)
        upper = tl.min(beyond, 0)
        one = 1.0 if COUNT else tl.exp((upper - top) * inverse)
        found = there - one < target  # above upper there is so much at most
        high = tl.where(there < target, tl.maximum(lower, low), tl.where(found, upper, high))
        low = tl.where(there < target, low, tl.minimum(upper, high))
    return low


@triton.jit
def _at(masses, target):
    """Where the sum of masses from the left first exceeds target, and what is left of target there."""
    sums = tl.cumsum(masses, 0)
    total = tl.max(sums, 0)
    place = tl.sum(((sums <= target) & (sums < total)).to(tl.int32), 0)
    before = tl.max(tl.where(sums <= target, tl.where(sums < total, sums, 0.0), 0.0), 0)
    return place, target - before


@triton.jit(do_not_specialize=["counter"])
def _sample_kernel(
    logits_ptr, seeds_ptr, temperature_ptr, top_k_ptr, top_p_ptr, reach_ptr,
    tokens_ptr, logprobs_ptr, log_masses_ptr, least_ptr, vocabulary, stride, counter,
    BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride
    largest = tl.full([BLOCK], -float("inf"), tl.float32)
    smallest = tl.full([BLOCK], float("inf"), tl.float32)
    finite = tl.full([BLOCK], 1, tl.int32)
    for start in tl.range(0, vocabulary, BLOCK):
        x = _read(row_ptr, start, vocabulary, BLOCK)
        finite = tl.where(x < float("inf"), finite, 0)  # neither is NaN
        largest = tl.maximum(largest, x)
        smallest = tl.where(x > -float("inf"), tl.minimum(smallest, x), smallest)
    top = tl.max(largest, 0)
    if (tl.min(finite, 0) == 0) | (top == -float("inf")):
        tl.store(tokens_ptr + row, -1)
        tl.store(logprobs_ptr + row, float("nan"))
        tl.store(log_masses_ptr + row, float("nan"))
        tl.store(least_ptr + row, float("nan"))
        return
    temperature = tl.load(temperature_ptr + row)
    inverse = 1.0 / tl.maximum(temperature, _COLDEST)
    least = tl.where(temperature > 0, tl.min(smallest, 0), top)
    k = tl.load(top_k_ptr + row)
    end = tl.where((k > 0) & (k < vocabulary), top, least)
    least = _least(row_ptr, vocabulary, least, end, k.to(tl.float32), top, inverse, True, BLOCK)
    p = tl.load(top_p_ptr + row)
    if (p < 1) & (least < top):
        masses = tl.zeros([BLOCK], tl.float32)
        for start in tl.range(0, vocabulary, BLOCK):
            x = _read(row_ptr, start, vocabulary, BLOCK)
            masses += tl.where(x >= least, tl.exp((x - top) * inverse), 0.0)
        target = p * tl.sum(masses, 0)
        least = _least(row_ptr, vocabulary, least, top, target, top, inverse, False, BLOCK)
    least = tl.maximum(least, top + tl.load(reach_ptr + row))

    block = tl.arange(0, BLOCKS)
    sums = tl.zeros([BLOCKS], tl.float64)
    for start in tl.range(0, vocabulary, BLOCK):
        x = _read(row_ptr, start, vocabulary, BLOCK)
        mass = tl.where(x >= least, tl.exp((x - top) * inverse), 0.0).to(tl.float64)
        sums = tl.where(block == start // BLOCK, tl.sum(mass, 0), sums)
    total = tl.sum(sums, 0)
    u = tl.where(temperature > 0, _uniform(tl.load(seeds_ptr + row), counter), 0.0)
    chosen, rest = _at(sums, u * total)
    x = _read(row_ptr, chosen * BLOCK, vocabulary, BLOCK)
    place, _ = _at(tl.where(x >= least, tl.exp((x - top) * inverse), 0.0).to(tl.float64), rest)
    own = tl.sum(tl.where(tl.arange(0, BLOCK) == place, x, 0.0), 0)
    log_mass = tl.log(total.to(tl.float32))
    tl.store(tokens_ptr + row, (chosen * BLOCK + place).to(tl.int64))
    tl.store(logprobs_ptr + row, tl.where(temperature > 0, (own - top) * inverse - log_mass, 0.0))
    tl.store(log_masses_ptr + row, log_mass)
    tl.store(least_ptr + row, least)


def sample(
    logits: Tensor,
    seeds: Tensor,
    counter: int,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    reach: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs, log_masses, least = (torch.empty_like(temperature) for _ in range(3))
    logits = logits.float() if logits.dtype == torch.float64 else logits
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    block = min(_BLOCK, triton.next_power_of_2(vocabulary))
    if rows > 0:
        _sample_kernel[(rows,)](
            logits,
            seeds.contiguous(),
            temperature.contiguous(),
            top_k.contiguous(),
            top_p.contiguous(),
            reach,
            tokens,
            logprobs,
            log_masses,
            least,
            vocabulary,
            logits.stride(0),
            counter,
            BLOCKS=triton.next_power_of_2(triton.cdiv(vocabulary, block)),
            BLOCK=block,
            num_warps=_WARPS,
        )
    return logprobs, log_masses, tokens, least
