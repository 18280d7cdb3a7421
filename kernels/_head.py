"""Logits of a language model's head, block by block: what `token_logprobs` is made of, in PyTorch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_BLOCK_ENTRIES = 1 << 22  # logits that are held at a time on a CPU
_BLOCK_ENTRIES_GPU = 1 << 27  # a GPU needs larger products to be busy


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


class Folded(NamedTuple):
    """Of each token, float32 [T]: log_sum is in powers of two where the Triton path made it; squares: log sum p^2."""

    logprobs: Tensor
    entropy: Tensor
    log_sum: Tensor
    top1: Tensor  # bool
    squares: Tensor | None


class Needs(NamedTuple):
    hidden: bool
    weight: bool
    bias: bool


Gradients = tuple["Tensor | None", "Tensor | None", "Tensor | None"]  # of hidden, weight, bias


def forward(hidden: Tensor, weight: Tensor, targets: Tensor, head: Head, squares: bool) -> Folded:
    logprobs, entropy, log_sum, log_squares = (
        torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(4)
    )
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


def backward(
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
