"""Episodes with advantages -> one flat batch of token sequences, each trained token with its role's advantage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfplay_fast.records import Episode, FloatArray, IntArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenBatch:
    """N samples. Per-token arrays cover the completion tokens of all samples, concatenated: [T].

    ``sequences[n]`` is prompt and completion; ``first[n]`` where the completion begins; ``offsets`` [N + 1] cuts
    the per-token arrays by sample. ``weights`` already hold the loss's normaliser.
    """

    sequences: Sequence[IntArray]
    first: NDArray[np.int64]
    offsets: NDArray[np.int64]
    advantages: FloatArray
    weights: FloatArray
    sampler_logprobs: FloatArray
    temperature: float

    @property
    def num_samples(self) -> int:
        return len(self.sequences)

    @property
    def num_tokens(self) -> int:
        """All tokens, prompts counted every time."""
        return sum(len(sequence) for sequence in self.sequences)

    def take(self, samples: NDArray[np.int64]) -> TokenBatch:
        """Some of the samples, with the weights that they have here."""
        lengths = np.diff(self.offsets)[samples]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][samples] - offsets[:-1], lengths)
        return TokenBatch(
            sequences=[self.sequences[i] for i in samples.tolist()],
            first=self.first[samples],
            offsets=offsets,
            advantages=self.advantages[tokens],
            weights=self.weights[tokens],
            sampler_logprobs=self.sampler_logprobs[tokens],
            temperature=self.temperature,
        )


def dealt(batch: TokenBatch, share: tuple[int, int]) -> TokenBatch:
    """The samples of part i of n, ``share`` = (i, n): runs of neighbours in the order of their content, about as long.

    Neighbours share prefixes, and what lies in two runs is computed twice. A part may be empty.
    """
    mine, parts = share
    if parts == 1:
        return batch
    order = np.array(
        sorted(range(batch.num_samples), key=lambda i: batch.sequences[i].astype(">u4").tobytes())
    )
    lengths = np.array([len(batch.sequences[i]) for i in order])
    middles = np.cumsum(lengths) - lengths / 2
    return batch.take(order[(middles * parts // lengths.sum()).astype(np.int64) == mine])


def pack(
    episodes: Sequence[Episode],
    advantages: Sequence[Sequence[float]],
    *,
    token_normaliser: float,
    skip_zero_advantages: bool = True,
) -> TokenBatch:
    """Every turn that a language model said is one sample: prompt masked, all sampled reply tokens trained.

    SPIRAL's objective is (1/N) sum over samples of (sum over tokens of the loss) / ``token_normaliser``, a
    constant (Dr. GRPO, arXiv 2503.20783), so each token's weight is 1 / (N token_normaliser). Samples whose
    advantage is exactly 0 are left out of the tokens but counted in N; keep them where the loss has a term without
    an advantage (a magnet). ValueError where nothing was said by a language model, or at different temperatures.
    """
    if not token_normaliser > 0:
        raise ValueError(f"token_normaliser: must be > 0, got {token_normaliser}")
    turns = [
        (turn, advantage)
        for episode, row in zip(episodes, advantages, strict=True)
        for turn, advantage in zip(episode.turns, row, strict=True)
        if len(turn.reply.tokens)
    ]
    if not turns:
        raise ValueError("episodes: none has a turn said by a language model, there is nothing to train on")
    temperatures = {turn.ask.sampling.temperature or 1.0 for turn, _ in turns}
    if len(temperatures) > 1:
        raise ValueError(
            f"episodes: sampled at different temperatures {sorted(temperatures)}; pack them apart"
        )
    kept = [(t, a) for t, a in turns if a != 0 or not skip_zero_advantages] or turns[:1]
    lengths = np.array([len(turn.reply.tokens) for turn, _ in kept], np.int64)
    mask = np.concatenate([turn.reply.train_mask for turn, _ in kept])
    return TokenBatch(
        sequences=[turn.reply.context for turn, _ in kept],
        first=np.array([len(t.reply.context) - len(t.reply.tokens) for t, _ in kept], np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        advantages=np.repeat(np.array([a for _, a in kept], np.float32), lengths),
        weights=(mask / (len(turns) * token_normaliser)).astype(np.float32),
        sampler_logprobs=np.concatenate([turn.reply.logprobs for turn, _ in kept]),
        temperature=temperatures.pop(),
    )
