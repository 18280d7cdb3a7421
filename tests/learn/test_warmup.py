"""The warm-up teaches the reply format and no preference between legal moves."""

import numpy as np
import pytest
import torch

from selfplay_fast.evaluate import episode_metrics, tabular_view
from selfplay_fast.learn.warmup import demonstration_batch, warm_up
from selfplay_fast.play import play_games, self_play
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.records import Sampling

GAME, STYLE = "kuhn_poker", "brief"


def fresh() -> LanguageModel:
    return LanguageModel(*build_nano([GAME], 0, style=STYLE))


def warmed(**settings) -> LanguageModel:
    policy = fresh()
    warm_up(policy, [GAME], **({"learning_rate": 6e-3, "style": STYLE, "seed": 0} | settings))
    return policy


def legal_rate(policy: LanguageModel) -> float:
    episodes = play_games(
        self_play(policy), games=[GAME], episodes=128, seed=5, sampling=Sampling(max_tokens=16), style=STYLE
    )
    return episode_metrics(episodes)[f"{GAME}/legal_rate"]


def test_replies_become_legal_and_stay_undecided() -> None:
    """Oracle: legal replies in at least 90 % of turns (untrained: under 10 %), and at every information state an
    entropy between the two actions of at least 0.9 log 2. The loss nears log 2 per reply, the least there can be."""
    policy = fresh()
    assert legal_rate(policy) < 0.1
    told: list[str] = []
    loss = warm_up(policy, [GAME], steps=60, learning_rate=6e-3, style=STYLE, seed=0, progress=told.append)
    assert len(told) == 60
    assert f"step 60/60, loss {loss:.3f}" in told[-1]
    lengths = {len(policy.choice_tokens(f"\\boxed{{[{word}]}}")) for word in ("check", "bet", "call", "fold")}
    assert len(lengths) == 1
    assert 0.95 * np.log(2) < loss * lengths.pop() < 2 * np.log(2)
    assert legal_rate(policy) >= 0.9
    view = tabular_view(policy, GAME, style=STYLE)
    assert view.least_scored_mass > 0.9
    for key, p in view.table.items():
        assert -(p * np.log(p)).sum() >= 0.9 * np.log(2), (key, p)


def test_layers_can_be_left_alone() -> None:
    """Oracle: with ``layer_rate=0`` the layers are bit-equal to the start and the embeddings are not."""
    start = dict(fresh().model.named_parameters())
    for name, value in warmed(steps=2, layer_rate=0.0).model.named_parameters():
        assert torch.equal(value, start[name]) == ("embed_tokens" not in name), name
    assert not torch.equal(
        warmed(steps=2).model.model.layers[0].mlp.up_proj.weight,
        start["model.layers.0.mlp.up_proj.weight"],
    )


def test_the_seed_decides_everything() -> None:
    """Oracle: two warm-ups of one seed are bit-equal, another seed gives other weights."""
    weights = [warmed(steps=2, seed=seed).model.get_input_embeddings().weight for seed in (3, 3, 4)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_demonstrations_are_whole_replies_after_whole_prompts() -> None:
    """Oracle: the text of every sequence, cut at ``first``, is the chat prompt, then the reply and its end token;
    every reply token weighs the same and all of them 1."""
    policy = fresh()
    observations, replies = ["You hold J.", "You hold K. bet"], ["\\boxed{[bet]}", "\\boxed{[fold] }"]
    batch = demonstration_batch(policy, observations, replies)
    tokenizer = policy.tokenizer
    for n, sequence in enumerate(batch.sequences):
        prompt, reply = sequence[: batch.first[n]], sequence[batch.first[n] :]
        chat = [{"role": "user", "content": observations[n]}]
        assert tokenizer.decode(prompt) == tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
        assert tokenizer.decode(reply) == replies[n] + tokenizer.eos_token
        assert batch.offsets[n + 1] - batch.offsets[n] == len(reply)
    total = int(batch.offsets[-1])
    assert batch.weights == pytest.approx(np.full(total, 1 / total))
    assert batch.advantages.tolist() == [1.0] * total
    assert batch.temperature == 1.0
