"""Logits of a language model's head, block by block: what `token_logprobs` and its like are made of, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

# Logits of one product, which is slow with fewer rows than these; a GPU needs more to be busy.
_BLOCK_ENTRIES, _BLOCK_ENTRIES_GPU, _BLOCK_ROWS = 1 << 22, 1 << 27, 256
_LOWEST = -1e30  # of a logit: finite, so that its products with 0 are 0
_STRIP_ENTRIES = 1 << 18  # logits that the caches hold while they are folded


class Head(NamedTuple):
    """What makes scores of a product, in normal form: inverse_temperature float32 [T], bias [V] or None."""

    inverse_temperature: Tensor
    bias: Tensor | None = None
    softcap: float = 0.0
    inner: float = 1.0

    def at(self, rows: Any) -> Head:
        """The same for some of the tokens."""
        return self._replace(inverse_temperature=self.inverse_temperature[rows])

    def logits(self, product: Tensor) -> Tensor:
        """In place: a float32 product of the tokens and the whole weight becomes their logits."""
        if self.bias is not None:
            product.add_(self.bias)
        if self.softcap:
            product.mul_(self.inner).tanh_().mul_(self.softcap)
        logits = product.mul_(self.inverse_temperature[:, None])
        return logits if self.bias is None else logits.clamp_(min=_LOWEST)  # a bias may take words out

    def slope(self, logits: Tensor) -> Tensor:
        """d logits / d product."""
        inverse = self.inverse_temperature[:, None]
        if not self.softcap:
            return inverse
        capped = logits / (inverse * self.softcap)
        return capped.square_().neg_().add_(1).mul_(inverse * (self.inner * self.softcap))


class Side(NamedTuple):
    """One of two models of the same tokens: hidden [T, H], weight [V, H]."""

    hidden: Tensor
    weight: Tensor
    head: Head

    def at(self, rows: Tensor | None) -> Side:
        """The same for some of the tokens, or for all of them, in one piece of memory."""
        hidden, head = (self.hidden, self.head) if rows is None else (self.hidden[rows], self.head.at(rows))
        return Side(hidden.contiguous(), self.weight.contiguous(), head)


class Folded(NamedTuple):
    """Of each token, float32 [T]: log_sum is in powers of two where the Triton path made it; squares: log sum p^2."""

    logprobs: Tensor
    entropy: Tensor
    log_sum: Tensor
    top1: Tensor  # bool
    squares: Tensor | None

    @staticmethod
    def unfilled(hidden: Tensor, squares: bool) -> Folded:
        logprobs, entropy, log_sum, log_squares = (
            torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(4)
        )
        top1 = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        return Folded(logprobs, entropy, log_sum, top1, log_squares if squares else None)


class Needs(NamedTuple):
    hidden: bool
    weight: bool
    bias: bool


class Sums(NamedTuple):
    """The gradients that are needed, while they are summed: of hidden in its dtype, of weight and bias in float32."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @staticmethod
    def zeros(hidden: Tensor, weight: Tensor, needs: Needs) -> Sums:
        return Sums(
            torch.zeros_like(hidden) if needs.hidden else None,
            torch.zeros_like(weight, dtype=torch.float32) if needs.weight else None,
            torch.zeros(len(weight), dtype=torch.float32, device=hidden.device) if needs.bias else None,
        )

    def add(self, rows: Any, grad: Tensor, hidden: Tensor, wide: Tensor) -> None:
        """grad [R, V] is that of the product of hidden [R, H], which is at ``rows`` of all tokens, and the weight."""
        if self.hidden is not None:
            self.hidden[rows] = product(grad, wide).to(self.hidden.dtype)
        if self.weight is not None:
            add_product(self.weight, grad.T, hidden)
        if self.bias is not None:
            self.bias.add_(grad.sum(0, dtype=torch.float32))

    def rounded(self, dtype: torch.dtype) -> Gradients:
        return self.hidden, None if self.weight is None else self.weight.to(dtype), self.bias


Gradients = tuple["Tensor | None", "Tensor | None", "Tensor | None"]  # of hidden, weight, bias
# The derivatives of a loss by logprobs and entropy [R] of some rows, once these are known.
Derive = Callable[[Tensor, Tensor, slice], tuple[Tensor, Tensor]]


def forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    head: Head,
    squares: bool = False,
    deterministic: bool = False,
) -> Folded:
    if deterministic:
        return _forward_alike(hidden, weight, targets, head, squares)
    folded = Folded.unfilled(hidden, squares)
    for rows, block in products(hidden, widened(weight)):
        _fold(block, rows, targets, head, folded)
    return folded


def _forward_alike(hidden: Tensor, weight: Tensor, targets: Tensor, head: Head, squares: bool) -> Folded:
    """In blocks of one shape, the last one filled up: what a library's product does depends on the shape."""
    tokens, wide = len(hidden), widened(weight)
    spare = -tokens % _BLOCK_ROWS
    targets, inverse = (pad(column, (0, spare), value=1) for column in (targets, head.inverse_temperature))
    head, hidden = head._replace(inverse_temperature=inverse), pad(hidden, (0, 0, 0, spare))
    folded = Folded.unfilled(hidden, squares)
    for start in range(0, len(hidden), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        _fold(product(hidden[rows], wide.T), rows, targets, head, folded)
    columns: list[Any] = [None if column is None else column[:tokens] for column in folded]
    return Folded(*columns)


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
    sums, wide = Sums.zeros(hidden, weight, needs), widened(weight)
    for rows, block in products(hidden, wide):
        for strip, own in strips(block, rows):
            logits = head.at(own).logits(strip)
            slope_(
                logits, head.at(own), targets[own], log_sum[own], entropy[own], grads[0][own], grads[1][own]
            )
        sums.add(rows, block, hidden[rows], wide)
    return sums.rounded(weight.dtype)


def one_pass(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    head: Head,
    derive: Derive,
    needs: Needs,
    weight_grad: Tensor | None,
) -> tuple[Folded, Gradients]:
    """Forward and backward from the same products; tokens whose derivatives are zero are left out of the latter.

    ``weight_grad`` float32 [V, H], if given, is what the weight's gradient is added to.
    """
    folded, wide = Folded.unfilled(hidden, squares=False), widened(weight)
    sums = Sums.zeros(hidden, weight, needs._replace(weight=needs.weight and weight_grad is None))
    if needs.weight and weight_grad is not None:
        sums = sums._replace(weight=weight_grad)
    for rows, logits in products(hidden, wide):
        _fold(logits, rows, targets, head, folded)
        up, up_entropy = derive(folded.logprobs[rows], folded.entropy[rows], rows)
        wanted = ((up != 0) | (up_entropy != 0)).nonzero()[:, 0]
        if len(wanted) == 0 or not any(needs):
            continue
        place = wanted + rows.start
        if len(wanted) < len(logits):
            logits, up, up_entropy = logits[wanted], up[wanted], up_entropy[wanted]
        for strip, own in strips(logits, slice(0, len(logits))):
            at = place[own]
            log_sum, entropy = folded.log_sum[at], folded.entropy[at]
            slope_(strip, head.at(at), targets[at], log_sum, entropy, up[own], up_entropy[own])
        sums.add(place, logits, hidden[place], wide)
    if weight_grad is not None:
        sums = sums._replace(weight=None)
    return folded, sums.rounded(weight.dtype)


def products(hidden: Tensor, wide: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows, and their float32 product with the weight in memory that the next block overwrites."""
    entries = _BLOCK_ENTRIES_GPU if hidden.is_cuda else _BLOCK_ENTRIES
    size = max(_BLOCK_ROWS, entries // len(wide))
    room = torch.empty(min(size, len(hidden)), len(wide), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(hidden), size):
        rows = slice(start, min(start + size, len(hidden)))
        yield rows, product(hidden[rows], wide.T, room[: rows.stop - start])


def strips(block: Tensor, rows: slice) -> Iterator[tuple[Tensor, slice]]:
    """Parts of a block that are worked on at a time, and the rows of all tokens that they are."""
    size = len(block) if block.is_cuda else max(1, _STRIP_ENTRIES // block.shape[1])
    for start in range(0, len(block), size):
        strip = block[start : start + size]
        yield strip, slice(rows.start + start, rows.start + start + len(strip))


def widened(weight: Tensor) -> Tensor:
    """float32 on a CPU, which multiplies nothing else fast and exactly."""
    return weight if weight.is_cuda else weight.float()


def product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """In float32 whatever the inputs are: bfloat16 would round log-probabilities by a hundredth and more."""
    if left.is_cuda and left.dtype == right.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    return torch.mm(left.float(), right.float(), out=out)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in float32."""
    if left.is_cuda and left.dtype == right.dtype != torch.float32:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


def _fold(block: Tensor, rows: slice, targets: Tensor, head: Head, folded: Folded) -> None:
    """In place the products become logits, strip by strip; what is left of them goes into the rows of ``folded``."""
    for strip, own in strips(block, rows):
        logits = head.at(own).logits(strip)
        top = logits.amax(-1, keepdim=True)
        target = logits.gather(-1, targets[own, None])[:, 0]
        shifted = logits - top
        exp = shifted.exp()
        total = exp.sum(-1)
        log_total = total.log()
        log_sum = top[:, 0] + log_total
        folded.log_sum[own] = log_sum
        folded.logprobs[own] = target - log_sum
        folded.top1[own] = target >= top[:, 0]
        if folded.squares is not None:
            folded.squares[own] = torch.einsum("tv,tv->t", exp, exp).log() - 2 * log_total
        folded.entropy[own] = log_total - exp.mul_(shifted).sum(-1) / total


def slope_(
    logits: Tensor,
    head: Head,
    targets: Tensor,
    log_sum: Tensor,
    entropy: Tensor,
    up: Tensor,
    up_entropy: Tensor,
) -> None:
    """In place the logits [R, V] become the gradient of the product, all others being of these rows.

    d logprob / d logits = [target] - p, d entropy / d logits = -p (log p + entropy). All in float32: rounding p - 1 to
    bfloat16 loses everything near p = 1.
    """
    slope = head.slope(logits)
    logp = logits.sub_(log_sum[:, None])
    p = logp.exp()
    if up_entropy.any():
        grad = logp.add_(entropy[:, None]).mul_(up_entropy[:, None]).add_(up[:, None]).mul_(p).neg_()
    else:
        grad = torch.mul(p, -up[:, None], out=logits)
    grad.scatter_add_(-1, targets[:, None], up[:, None])
    grad.mul_(slope)
