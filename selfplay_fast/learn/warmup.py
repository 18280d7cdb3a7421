"""A short supervised warm-up on uniformly random legal play: it teaches the reply format and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from selfplay_fast.games import Style
from selfplay_fast.learn import distributed
from selfplay_fast.learn.losses import negative_log_likelihood
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.learn.update import Update, update
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import random_play_texts
from selfplay_fast.policies.streams import derive_seed

_RISE = 10  # steps over which the learning rate rises


def warm_up(
    policy: LanguageModel,
    games: Sequence[str],
    *,
    steps: int,
    turns: int = 384,
    learning_rate: float,
    layer_rate: float = 0.05,
    style: Style = "spiral",
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> float:
    """Supervised steps on uniformly random legal play; returns the last loss (nats per reply token).

    Each step trains on ``turns`` moves, drawn evenly over the games from random play that is made fresh every step.
    """

    def batch_of(step: int) -> TokenBatch:
        observations, replies = _random_turns(games, turns // len(games), style, derive_seed(seed, step))
        return demonstration_batch(policy, observations, replies)

    return imitate(
        policy, batch_of, steps=steps, learning_rate=learning_rate, layer_rate=layer_rate, progress=progress
    )


def imitate(
    policy: LanguageModel,
    batch_of: Callable[[int], TokenBatch],
    *,
    steps: int,
    learning_rate: float,
    layer_rate: float = 0.05,
    progress: Callable[[str], None] = lambda text: None,
) -> float:
    """One supervised step on each ``batch_of(step)``; returns the last loss.

    The learning rate rises over ten steps, then falls linearly; the layers learn at ``layer_rate`` times that of the
    embeddings and the head, so that they stay as sensitive to the state as they were (see `policies.nano`).
    """
    model = policy.model
    with distributed.sharded(model):
        outer = {
            id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings())
        }
        parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) in outer], "rate": 1.0},
        {"params": [p for p in parameters if id(p) not in outer], "rate": layer_rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    settings = Update(loss=negative_log_likelihood)
    loss = float("nan")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"] * min(1, (step + 1) / _RISE) * (1 - step / steps)
        loss = update(policy, optimizer, batch_of(step), settings)["loss"]
        progress(f"warm-up: step {step + 1}/{steps}, loss {loss:.3f}")
    return loss


def _random_turns(games: Sequence[str], turns: int, style: Style, seed: int) -> tuple[list[str], list[str]]:
    """``turns`` moves of each game, drawn from about twice as many."""
    observations: list[str] = []
    replies: list[str] = []
    for g, game in enumerate(games):
        texts, answers = random_play_texts([game], max(1, turns // 2), derive_seed(seed, g), style=style)
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
