"""A short supervised warm-up on uniformly random legal play: it teaches the reply format and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from selfplay_fast.learn.losses import negative_log_likelihood
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.learn.update import Update, update
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import random_play_texts
from selfplay_fast.policies.streams import derive_seed


def warm_up(
    policy: LanguageModel,
    games: Sequence[str],
    *,
    steps: int,
    turns: int = 512,
    learning_rate: float,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> float:
    """Supervised steps on fresh random games; returns the last loss (nats per reply token).

    Each step trains on ``turns`` moves, drawn evenly over the games from random play that is made fresh every
    step. The learning rate falls linearly.
    """
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    settings = Update(loss=negative_log_likelihood)
    loss = float("nan")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        observations, replies = _random_turns(games, turns // len(games), derive_seed(seed, step))
        loss = update(policy, optimizer, demonstration_batch(policy, observations, replies), settings)["loss"]
        progress(f"warm-up on random legal play: step {step + 1}/{steps}, loss {loss:.3f}")
    return loss


def _random_turns(games: Sequence[str], turns: int, seed: int) -> tuple[list[str], list[str]]:
    """``turns`` moves of each game, drawn from about twice as many."""
    observations: list[str] = []
    replies: list[str] = []
    for g, game in enumerate(games):
        episodes = max(1, turns // 2)
        texts, answers = random_play_texts([game], episodes, derive_seed(seed, g))
        chosen = np.random.default_rng(derive_seed(seed, g, 1)).permutation(len(texts))[:turns]
        observations += [texts[i] for i in chosen]
        replies += [answers[i] for i in chosen]
    return observations, replies


def demonstration_batch(
    policy: LanguageModel, observations: Sequence[str], replies: Sequence[str]
) -> TokenBatch:
    """(observation, reply) pairs as a supervised batch; the loss is the mean over reply tokens."""
    prompts = policy.encode(
        [policy.render([{"role": "user", "content": text}], fresh=True) for text in observations]
    )
    answers = [policy.choice_tokens(reply) for reply in replies]
    lengths = np.array([len(answer) for answer in answers], np.int64)
    total = int(lengths.sum())
    return TokenBatch(
        sequences=[np.concatenate(pair) for pair in zip(prompts, answers, strict=True)],
        first=np.array([len(prompt) for prompt in prompts], np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        advantages=np.ones(total, np.float32),
        weights=np.full(total, 1 / total, np.float32),
        sampler_logprobs=np.zeros(total, np.float32),
        temperature=1.0,
    )
