"""Log-probability and entropy of each token, without storing the logits.

    logits[t]  = hidden[t] @ weight.T / temperature[t]
    logprob[t] = logits[t, target[t]] - logsumexp(logits[t])
    entropy[t] = log S - sum_v e^z_v z_v / S,   z = logits[t] - max,  S = sum_v e^z_v      (shifted form)

Wijmans et al. 2024, arXiv 2411.09009, derive the memory-free form of the first; both gradients are recomputed
block by block in the backward pass. A block of logits has at most 2**22 entries (2**27 on a GPU).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BLOCK_ENTRIES = 1 << 22  # logits held at a time on a CPU; a GPU needs larger products to be busy
_BLOCK_ENTRIES_GPU = 1 << 27


def token_logprobs_reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """The formula, whole: hidden [T, H], weight [V, H], targets [T] -> logprobs [T], entropy [T]."""
    scale = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    logp = torch.log_softmax(hidden @ weight.T / scale, dim=-1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, inverse_temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens = hidden.shape[0]
        logprobs, entropy, log_sum = (
            torch.empty(tokens, dtype=torch.float32, device=hidden.device) for _ in range(3)
        )
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
        ctx.save_for_backward(hidden, weight, targets, inverse_temperature, log_sum, entropy)
        ctx.mark_non_differentiable(log_sum)
        return logprobs, entropy, log_sum

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_logprobs, grad_entropy, _ = grads
        hidden, weight, targets, inverse_temperature, log_sum, entropy = ctx.saved_tensors
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        use_entropy = bool(grad_entropy.any())
        wide = weight.float()
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
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None


def _blocks(hidden: Tensor, weight: Tensor) -> list[slice]:
    tokens = hidden.shape[0]
    rows = max(1, (_BLOCK_ENTRIES_GPU if hidden.is_cuda else _BLOCK_ENTRIES) // weight.shape[0])
    return [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]


def _logits(hidden: Tensor, weight: Tensor, inverse_temperature: Tensor) -> Tensor:
    return (hidden @ weight.T).float().mul_(inverse_temperature[:, None])


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
    logprobs, entropy, _ = _TokenLogprobs.apply(hidden, weight, targets, inverse)
    return (logprobs, entropy) if return_entropy else logprobs
