"""What any policy says, in the tokens of a language model: demonstrations to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.records import Ask, FloatArray, Reply


class Demonstrator:
    """Answers as ``player`` does, in the tokens and contexts of ``policy``; log-probs are 0."""

    def __init__(self, player: Policy, policy: LanguageModel) -> None:
        self.player = player
        self.policy = policy

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply of the player for every sample asked for."""
        samples = [(ask, prompt) for ask, prompt in zip(asks, self.policy.prompts(asks), strict=True)]
        samples = [sample for sample in samples for _ in range(sample[0].n)]
        replies = []
        for (ask, prompt), said in zip(samples, self.player.generate(asks), strict=True):
            tokens = self.policy.choice_tokens(said.text)
            replies.append(
                replace(
                    said,
                    tokens=tokens,
                    logprobs=np.zeros(len(tokens), np.float32),
                    train_mask=np.ones(len(tokens), bool),
                    context=np.concatenate([prompt, tokens]),
                    history=ask.followed_by(said.text),
                )
            )
        return replies

    def score(self, asks: Sequence[Ask]) -> Sequence[FloatArray]:
        """The player's scores."""
        return self.player.score(asks)
