"""Episodes with advantages -> one flat batch of token sequences, each trained token with its role's advantage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from selfplay_fast.records import Episode, FloatArray, IntArray, Turn


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenBatch:
    """N samples. Per-token arrays cover the tokens of all samples from their first completion on, concatenated: [T].

    ``sequences[n]`` is prompt and completion, in a chat with more of both after them; ``first[n]`` where the first
    completion begins; ``offsets`` [N + 1] cuts the per-token arrays by sample. ``weights`` already hold the loss's
    normaliser, and are 0 for prompts.
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

    def token_mean(self) -> TokenBatch:
        """The same with weights that sum to 1; where none is trained, as it is."""
        total = self.weights.sum()
        return replace(self, weights=self.weights / total) if total > 0 else self

    def shuffled(self, seed: int) -> TokenBatch:
        """The samples in an order that follows from the seed."""
        return self.take(np.random.default_rng(seed).permutation(self.num_samples))


def minibatches(batch: TokenBatch, size: int) -> list[TokenBatch]:
    """``size`` samples each, as they come, the last with the rest; weights are those of a batch of so many."""
    parts = []
    for begin in range(0, batch.num_samples, size):
        samples = np.arange(begin, min(begin + size, batch.num_samples))
        part = batch.take(samples)
        share = np.float32(batch.num_samples / len(samples))
        parts.append(replace(part, weights=part.weights * share))
    return parts


def dealt(batch: TokenBatch, share: tuple[int, int]) -> TokenBatch:
    """The samples of part i of n, ``share`` = (i, n): runs of neighbours in the order of their content, about as long.

    Neighbours share prefixes, and what lies in two runs is computed twice. A part is empty only where there are fewer
    samples than parts.
    """
    mine, parts = share
    if parts == 1:
        return batch
    order = np.array(
        sorted(range(batch.num_samples), key=lambda i: batch.sequences[i].astype(">u4").tobytes())
    )
    lengths = np.array([len(batch.sequences[i]) for i in order])
    middles = np.cumsum(lengths) - lengths / 2
    part = np.arange(parts)
    starts = np.searchsorted(middles * parts // lengths.sum(), part)
    starts = np.maximum.accumulate(starts - part) + part  # behind at least one sample of each part before it
    most = np.maximum(len(order) - parts + part, 0)  # one sample is left to each part after it
    starts = np.minimum(starts, most)
    ends = np.append(starts[1:], len(order))
    return batch.take(order[starts[mine] : ends[mine]])


def only_roles(episodes: Sequence[Episode], roles: Sequence[str]) -> list[Episode]:
    """The episodes with the turns of these roles alone: what others said, a judge say, is not learned."""
    return [
        replace(episode, turns=tuple(turn for turn in episode.turns if turn.ask.role in roles))
        for episode in episodes
    ]


def only_turns(episodes: Sequence[Episode], chosen: Sequence[Sequence[int]]) -> list[Episode]:
    """The episodes with the turns of these numbers alone."""
    return [
        replace(episode, turns=tuple(episode.turns[k] for k in own))
        for episode, own in zip(episodes, chosen, strict=True)
    ]


def pack_replies(
    episodes: Sequence[Episode], advantages: Sequence[Sequence[float]] | None = None
) -> TokenBatch | None:
    """`pack` for a mean over tokens: all samples, each token with weight 1 / N; None where a model said nothing.

    Without ``advantages`` the reward of a turn stands in their place.
    """
    if not any(len(turn.reply.tokens) for episode in episodes for turn in episode.turns):
        return None
    if advantages is None:
        advantages = [[turn.reward for turn in episode.turns] for episode in episodes]
    return pack(episodes, advantages, token_normaliser=1, skip_zero_advantages=False)


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


def pack_chats(
    episodes: Sequence[Episode],
    advantages: Sequence[Sequence[float]],
    *,
    logprob_temperature: float = 1.0,
) -> TokenBatch:
    """Every conversation is one sample, trained on all that its role said, each turn with its own advantage.

    MARS's objective (Yuan et al. 2025, arXiv 2510.15414): the mean over samples of their mean over trained tokens, so a
    token weighs 1 / (N tokens of its sample). Log-probs are taken at ``logprob_temperature``, whatever was sampled at.
    Where the next prompt of a role does not begin with all that it has read and said, a new sample begins. ValueError
    where nothing was said by a language model.
    """
    if not logprob_temperature > 0:
        raise ValueError(f"logprob_temperature: must be > 0, got {logprob_temperature}")
    chats = [chat for episode, row in zip(episodes, advantages, strict=True) for chat in _chats(episode, row)]
    if not chats:
        raise ValueError("episodes: none has a turn said by a language model, there is nothing to train on")
    sequences = [chat[-1][0].reply.context for chat in chats]
    first = np.array([_said(chat[0][0]).start for chat in chats], np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences] - first)])
    own, sampler, weights = (np.zeros(offsets[-1], np.float32) for _ in range(3))
    for chat, begin, offset, end in zip(chats, first, offsets, offsets[1:], strict=False):
        for turn, advantage in chat:
            said = _said(turn)
            place = slice(said.start - begin + offset, said.stop - begin + offset)
            own[place] = advantage
            sampler[place] = turn.reply.logprobs
            weights[place] = turn.reply.train_mask
        weights[offset:end] /= max(weights[offset:end].sum(), 1) * len(chats)
    return TokenBatch(
        sequences=sequences,
        first=first,
        offsets=offsets,
        advantages=own,
        weights=weights,
        sampler_logprobs=sampler,
        temperature=logprob_temperature,
    )


def _chats(episode: Episode, advantages: Sequence[float]) -> list[list[tuple[Turn, float]]]:
    """The conversations of an episode, role by role, each as the turns that a language model said in it."""
    chats: dict[str, list[list[tuple[Turn, float]]]] = {}
    for turn, advantage in zip(episode.turns, advantages, strict=True):
        if not len(turn.reply.tokens):
            continue
        mine = chats.setdefault(turn.ask.role, [])
        if not mine or not _begins(turn.reply.context, mine[-1][-1][0].reply.context):
            mine.append([])
        mine[-1].append((turn, advantage))
    return [chat for mine in chats.values() for chat in mine]


def _begins(context: IntArray, earlier: IntArray) -> bool:
    return len(context) > len(earlier) and bool((context[: len(earlier)] == earlier).all())


def _said(turn: Turn) -> slice:
    """Where the reply of a turn lies in its context."""
    end = len(turn.reply.context)
    return slice(end - len(turn.reply.tokens), end)
