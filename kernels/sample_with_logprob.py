"""One token per row of logits, and its log-probability under the distribution that it was drawn from.

    p[v]    = e^(logits[v] / temperature) / Z                           over kept: what top_k, top_p and min_p leave
    token   = the first v with p[0] + ... + p[v] > u                    u uniform in [0, 1)
    logprob = log p[token]

The filters and their order are those of transformers: the k largest; of what is left the most probable tokens up to a
mass of top_p, the one that crosses it included (Holtzman et al. 2020, arXiv 1904.09751); probabilities of at least
min_p times the largest (Nguyen et al. 2024, arXiv 2407.01082). All three keep what is not below some logit, so tokens
of equal logits stay or go together. u is number ``counter`` of the stream of the row's seed (splitmix64), so no other
row changes a draw.

The least logit that a filter keeps is the least one above which there are less than k tokens, or less than top_p of
the mass. Triton finds it by halving an interval; PyTorch sorts the largest logits, and more of them only in rows
where those do not suffice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ._head_arguments import check_tensor
from ._paths import HAS_TRITON
from ._streams import STEP, mixed, mixed_number, signed

if HAS_TRITON:
    from . import _sample_triton

_PART = 512  # tokens whose mass PyTorch adds up first
_LARGEST = 256  # logits that PyTorch sorts first
_BLOCK_ENTRIES = 1 << 20  # logits that PyTorch works on at a time
_COLDEST = 1e-30  # a temperature in float32 whose reciprocal is finite
_MOST = 1 << 24  # tokens that float32 can count


def sample_with_logprob_reference(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor
) -> Tensor:
    """Log-probabilities of all tokens [R, V], -inf for those that were taken out; temperature > 0; all else [R]."""
    rows = []
    for z, k, p, least in zip(logits / temperature[:, None], top_k, top_p, min_p, strict=True):
        if 0 < k < len(z):
            z = z.masked_fill(z < z.topk(int(k)).values[-1], -math.inf)
        above = (z.softmax(-1) * (z[None, :] > z[:, None])).sum(1)  # the mass of what is more probable
        z = z.masked_fill(above >= p, -math.inf) if p < 1 else z
        z = z.masked_fill(z.softmax(-1) < least * z.softmax(-1).max(), -math.inf)
        rows.append(z.log_softmax(-1))
    return torch.stack(rows)


def _fits_triton(logits: Tensor) -> bool:
    return HAS_TRITON and logits.is_cuda


def _uniforms(seeds: Tensor, counter: int) -> Tensor:
    """Number ``counter`` of each stream, float64 [R] in [0, 1), of 53 bits."""
    bits = mixed((seeds ^ mixed_number(counter + STEP)) + signed(STEP))
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def _least_logits(x: Tensor, top: Tensor, inverse: Tensor, top_k: Tensor, top_p: Tensor, most: int) -> Tensor:
    """The least logit that top_k and top_p keep [R]: from the ``most`` largest or, where those do not do, from more."""
    vocabulary = x.shape[1]
    ordered = x.topk(most).values if most < vocabulary else x.sort(1, descending=True).values
    k = torch.where((top_k > 0) & (top_k < vocabulary), top_k, vocabulary)
    least = torch.where(k < vocabulary, ordered.gather(1, k.clamp_max(most)[:, None] - 1)[:, 0], -math.inf)
    found = (k <= most) | (k == vocabulary)
    if bool((top_p < 1).any()):
        mass = ((x - top) * inverse).exp_().masked_fill_(x < least[:, None], 0)
        target = top_p[:, None] * mass.sum(1, keepdim=True, dtype=torch.float64)
        mass = ((ordered - top) * inverse).double().exp_()
        inside = (mass.cumsum(1) - mass < target) & (ordered >= least[:, None])
        count = inside.sum(1).clamp_min(1)
        found &= (top_p >= 1) | (count < most) | (k <= most)
        least = torch.where(top_p < 1, ordered.gather(1, count[:, None] - 1)[:, 0], least)
    if most < vocabulary and not bool(found.all()):
        more = 12 * most if 24 * most < vocabulary else vocabulary
        some = ~found
        least[some] = _least_logits(x[some], top[some], inverse[some], top_k[some], top_p[some], more)
    return least


def _at(masses: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where the sum of masses [R, n] from the left first exceeds target [R, 1], and what is left of target there."""
    sums = masses.cumsum(1, dtype=torch.float64)
    place = ((sums <= target) & (sums < sums[:, -1:])).sum(1, keepdim=True)
    return place, target - torch.where(place > 0, sums.gather(1, (place - 1).clamp_min(0)), 0.0)


def _sample_rows(
    logits: Tensor, u: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, reach: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, vocabulary = logits.shape
    x, warm = logits.float(), temperature > 0
    top = x.amax(1, keepdim=True)
    if not bool(warm.any()):
        tokens = torch.where(top.isfinite(), x.argmax(1, keepdim=True), -1)[:, 0]
        return torch.zeros_like(temperature), torch.zeros_like(temperature), tokens, top[:, 0].clone()
    inverse = temperature.clamp_min(_COLDEST).reciprocal()[:, None]
    least = top[:, 0] + reach
    if bool(((top_k > 0) | (top_p < 1)).any()):
        kept = _least_logits(x, top, inverse, top_k, top_p, min(_LARGEST, vocabulary))
        least = torch.maximum(least, kept)
    least = torch.where(warm, least, top[:, 0])
    parts = x.new_zeros(rows, -(-vocabulary // _PART), min(_PART, vocabulary))
    mass = parts.flatten(1)[:, :vocabulary]
    torch.sub(x, top, out=mass).mul_(inverse).exp_().masked_fill_(x < least[:, None], 0)
    sums = parts.sum(2, dtype=torch.float64)
    total = sums.sum(1, keepdim=True)
    chosen, rest = _at(sums, torch.where(warm, u, 0.0)[:, None] * total)
    place, _ = _at(parts.gather(1, chosen[:, :, None].expand(-1, -1, parts.shape[2]))[:, 0], rest)
    tokens = chosen * _PART + place
    log_mass = total.log().float()
    logprobs = torch.where(warm, (((x.gather(1, tokens) - top) * inverse) - log_mass)[:, 0], 0.0)
    tokens = torch.where(top[:, 0].isfinite(), tokens[:, 0], -1)
    return logprobs, log_mass[:, 0], tokens, least


def _sample_pytorch(
    logits: Tensor,
    seeds: Tensor,
    counter: int,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    reach: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    u = _uniforms(seeds, counter)
    size = max(1, _BLOCK_ENTRIES // logits.shape[1])
    columns = (logits, u, temperature, top_k, top_p, reach)
    parts = [
        _sample_rows(*(x[start : start + size] for x in columns))
        for start in range(0, max(1, len(logits)), size)
    ]
    logprobs, log_masses, tokens, least = map(torch.cat, zip(*parts, strict=True))
    return logprobs, log_masses, tokens, least


@torch.library.custom_op("selfplay_fast::sample_with_logprob", mutates_args=())
def _sample(
    logits: Tensor,
    seeds: Tensor,
    counter: int,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logprobs; of what is kept the log of the mass relative to the largest; tokens; the least logits kept; all [R]."""
    on_host = not logits.is_cuda
    if on_host and len(logits):
        _check_numbers(temperature, top_k, top_p, min_p)
    reach = torch.where(min_p > 0, temperature * min_p.log(), -math.inf)  # of min_p, below the largest logit
    run = _sample_triton.sample if _fits_triton(logits) else _sample_pytorch
    results = run(logits, seeds, counter, temperature, top_k, top_p, reach)
    if on_host and bool((results[2] < 0).any()):
        row = int((results[2] < 0).nonzero()[0, 0])
        raise ValueError(
            f"sample_with_logprob: logits must be below +inf, and one of them finite, in every row, "
            f"unlike those of row {row}"
        )
    return results


@_sample.register_fake
def _(logits: Tensor, seeds: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logprobs, log_masses, least = (seeds.new_empty(seeds.shape, dtype=torch.float32) for _ in range(3))
    return logprobs, log_masses, torch.empty_like(seeds), least


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, _, _, temperature = inputs[:4]
    _, log_masses, tokens, least = output
    ctx.mark_non_differentiable(log_masses, tokens, least)
    ctx.save_for_backward(logits, temperature, tokens, log_masses, least)


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    logits, temperature, tokens, log_masses, least = ctx.saved_tensors
    x = logits.float()
    inverse = temperature.clamp_min(_COLDEST).reciprocal()
    up = torch.where(temperature > 0, grads[0] * inverse, 0.0)[:, None]
    probability = ((x - x.amax(1, keepdim=True)) * inverse[:, None] - log_masses[:, None]).exp()
    grad = torch.where(x >= least[:, None], probability, 0.0) * -up
    return grad.scatter_add(1, tokens.clamp_min(0)[:, None], up).to(logits.dtype), *[None] * 6


_sample.register_autograd(_backward, setup_context=_save)


def _check_numbers(temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> None:
    """Looks at the numbers, where that costs nothing."""
    tiny, huge = torch.finfo(torch.float32).smallest_normal, torch.finfo(torch.float32).max
    for name, column, least, most, what in (
        ("temperature", temperature, 0, huge, "at least 0 and finite"),
        ("top_k", top_k, 0, math.inf, "at least 0"),
        ("top_p", top_p, tiny, 1, "above 0 and at most 1"),
        ("min_p", min_p, 0, 1, "from 0 to 1"),
    ):
        low, high = column.aminmax()
        if not (low.item() >= least and high.item() <= most):  # neither is NaN
            raise ValueError(f"sample_with_logprob: {name} must be {what} in every row")


def sample_with_logprob(
    logits: Tensor,
    seeds: int | Tensor,
    *,
    counter: int = 0,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor]:
    """logits [R, V] of any float type, seeds int64 [R] or one number -> tokens [R] int64, logprobs [R] float32.

    Each row has its own stream, that of its seed, or of one seed and the row's index, of which it takes number
    ``counter``: its draw depends on its logits, its settings and these numbers alone. Count up, or change seeds, at
    every token, or the same number is drawn again. ``temperature`` (0: the largest, the first of equal ones, with
    log-probability 0), ``top_k`` (0: all), ``top_p`` (1: all) and ``min_p`` (0: all) are one number or one per row [R].
    -inf takes a token out. All is computed in float32. Log-probabilities are at the given temperature, under the
    distribution after all filters, and differentiable in logits once.

    Raises ValueError on a shape, dtype, device or range mismatch, and for a row of logits that is all -inf or has NaN
    or +inf. On a GPU, which would have to be waited for, numbers in tensors are not looked at, and such a row has
    token -1 and log-probability NaN.
    """
    check_tensor("sample_with_logprob", "logits", logits)
    if logits.ndim != 2 or not logits.is_floating_point() or not 0 < logits.shape[1] <= _MOST:
        raise ValueError(
            f"sample_with_logprob: logits must be floats [R, V], V from 1 to {_MOST}, "
            f"got {logits.dtype} {tuple(logits.shape)}"
        )
    numbers = [counter, *([] if isinstance(seeds, Tensor) else [seeds])]
    if any(not isinstance(x, int) or not -(2**63) <= x < 2**63 for x in numbers):
        raise ValueError(
            f"sample_with_logprob: seeds and counter must be whole numbers of 64 bits, got {numbers}"
        )
    rows = logits.shape[:1]
    if not isinstance(seeds, Tensor):
        seeds = mixed(torch.arange(len(logits), device=logits.device) ^ mixed_number(seeds + STEP))
    if seeds.shape != rows or seeds.dtype != torch.int64 or seeds.device != logits.device:
        raise ValueError(
            f"sample_with_logprob: seeds must be one number or int64 [{rows[0]}] on {logits.device}, "
            f"got {seeds.dtype} {tuple(seeds.shape)} on {seeds.device}"
        )
    if not isinstance(temperature, Tensor) and not 0 <= temperature < math.inf:
        raise ValueError(f"sample_with_logprob: temperature must be at least 0 and finite, got {temperature}")
    if not isinstance(top_k, Tensor) and not (isinstance(top_k, int) and 0 <= top_k < 2**63):
        raise ValueError(f"sample_with_logprob: top_k must be a whole number of at least 0, got {top_k}")
    if not isinstance(top_p, Tensor) and not 0 < top_p <= 1:
        raise ValueError(f"sample_with_logprob: top_p must be above 0 and at most 1, got {top_p}")
    if not isinstance(min_p, Tensor) and not 0 <= min_p <= 1:
        raise ValueError(f"sample_with_logprob: min_p must be from 0 to 1, got {min_p}")
    settings = [
        _per_row(name, x, logits, torch.int64 if name == "top_k" else torch.float32)
        for name, x in (("temperature", temperature), ("top_k", top_k), ("top_p", top_p), ("min_p", min_p))
    ]
    logprobs, _, tokens, _ = _sample(logits, seeds, counter, *settings)
    return tokens, logprobs


def _per_row(name: str, x: float | Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
    rows = logits.shape[:1]
    if not isinstance(x, Tensor):
        return torch.full(rows, x, dtype=dtype, device=logits.device)
    whole = dtype == torch.int64
    right = x.dtype in (torch.int32, dtype) if whole else x.is_floating_point()
    if x.shape != rows or x.device != logits.device or not right:
        raise ValueError(
            f"sample_with_logprob: {name} must be one number or {'int64' if whole else 'floats'} [{rows[0]}] on "
            f"{logits.device}, got {x.dtype} {tuple(x.shape)} on {x.device}"
        )
    return x.detach().to(dtype)
