"""`preference_update`: `update` for pairs of completions.

The pairs run as prefix trees, the prompt that two completions share once. A preference loss joins all tokens of a pair,
which may lie in different micro-batches: so the log-probs come first, without gradients; the slope of the loss in each
of them is then the advantage of its tokens, and minus advantage times log-prob has the gradient of the loss. That costs
one forward pass more than the loss alone and needs the memory of a micro-batch, however long completions are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from selfplay_fast.learn.losses import reinforce_loss
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.learn.preferences import Completions, PreferenceLoss
from selfplay_fast.learn.update import Update, update
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.records import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairBatch:
    """P pairs: prompt and completion of each side, completions beginning at ``first`` [P].

    ``reference_logprobs`` [2, P]: summed log-probs of the chosen and the rejected completions under the policy that
    the loss compares with; None for losses that compare with none.
    """

    chosen: Sequence[IntArray]
    rejected: Sequence[IntArray]
    first: NDArray[np.int64]
    reference_logprobs: FloatArray | None = None

    @property
    def num_pairs(self) -> int:
        return len(self.first)

    def take(self, pairs: NDArray[np.int64]) -> PairBatch:
        """Some of the pairs."""
        reference = self.reference_logprobs
        return PairBatch(
            chosen=[self.chosen[i] for i in pairs.tolist()],
            rejected=[self.rejected[i] for i in pairs.tolist()],
            first=self.first[pairs],
            reference_logprobs=None if reference is None else reference[:, pairs],
        )

    def compared_with(self, policy: LanguageModel) -> PairBatch:
        """The same with the log-probs of a policy as it is now, as the reference."""
        return replace(self, reference_logprobs=_logprobs(policy, self))


def preference_update(
    policy: LanguageModel,
    optimizer: torch.optim.Optimizer,
    pairs: PairBatch,
    loss: PreferenceLoss,
    *,
    minibatch: int | None = None,
    epochs: int = 1,
    rates: Sequence[float] = (),
    max_grad_norm: float = 1.0,
    max_batch_tokens: int = 16384,
) -> dict[str, float]:
    """An optimizer step for each ``minibatch`` pairs in their order, or for all of them; returns means over the steps.

    ``rates`` are the learning rates of the steps, the last for all after it; none: the optimizer's own. Metrics:
    ``loss`` and ``grad_norm``, ``accuracy`` (how often the chosen completion has the larger log-ratio to the reference,
    without one the larger log-prob) and the mean ``margin`` of these, all before the step they are of; ``sharing``.
    ValueError where the loss needs a reference and the pairs have none, FloatingPointError where a loss or gradient is
    not finite; that step is not taken.
    """
    if not pairs.num_pairs:
        raise ValueError("pairs: there are none, and nothing to learn")
    size = pairs.num_pairs if minibatch is None else minibatch
    if size < 1:
        raise ValueError(f"minibatch: must be at least 1, got {size}; None takes all pairs")
    policy.forget()  # its memory is needed
    starts = [start for _ in range(epochs) for start in range(0, pairs.num_pairs, size)]
    rows = []
    for step, start in enumerate(starts):
        part = pairs.take(np.arange(start, min(start + size, pairs.num_pairs)))
        settings = Update(
            loss=reinforce_loss,
            rates=rates[min(step, len(rates) - 1) :][:1],
            max_grad_norm=max_grad_norm,
            max_batch_tokens=max_batch_tokens,
        )
        batch, metrics = _with_slopes(part, _logprobs(policy, part), loss)
        done = update(policy, optimizer, batch, settings)
        rows.append(metrics | {name: done[name] for name in ("grad_norm", "sharing")})
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _logprobs(policy: LanguageModel, pairs: PairBatch) -> FloatArray:
    """Summed log-probs [2, P]."""
    sequences, first = [*pairs.chosen, *pairs.rejected], [*pairs.first.tolist()] * 2
    return policy.sequence_logprobs(sequences, first, [1.0] * len(sequences)).reshape(2, -1)


def _with_slopes(
    pairs: PairBatch, logprobs: FloatArray, loss: PreferenceLoss
) -> tuple[TokenBatch, dict[str, float]]:
    """The pairs as samples, each token with minus the slope of the mean loss in its completion's log-prob."""
    sequences = [*pairs.chosen, *pairs.rejected]
    lengths = np.array([len(sequence) for sequence in sequences], np.int64) - np.tile(pairs.first, 2)
    at = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    counts = torch.as_tensor(lengths.reshape(2, -1), dtype=torch.float64)
    known = None if pairs.reference_logprobs is None else torch.as_tensor(pairs.reference_logprobs).double()
    sides = [Completions(at[k], counts[k], None if known is None else known[k]) for k in range(2)]
    value = loss(*sides).mean()
    (slopes,) = torch.autograd.grad(value, at)
    if not (value.isfinite() and slopes.isfinite().all()):
        raise FloatingPointError(f"preference loss {value.item():g} is not finite; the step was not taken")
    margin = (at[0] - at[1] if known is None else sides[0].log_ratio - sides[1].log_ratio).detach()
    batch = TokenBatch(
        sequences=sequences,
        first=np.tile(pairs.first, 2),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        advantages=np.repeat(-slopes.flatten().numpy(), lengths).astype(np.float32),
        weights=np.ones(lengths.sum(), np.float32),
        sampler_logprobs=np.zeros(lengths.sum(), np.float32),
        temperature=1.0,
    )
    metrics = {"loss": value, "accuracy": (margin > 0).double().mean(), "margin": margin.mean()}
    return batch, {name: number.item() for name, number in metrics.items()}
