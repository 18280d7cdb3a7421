"""What `update` learns besides, means over tokens, log-probs of a batch. Oracle: plain autograd and float64 sums."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch

from selfplay_fast.learn import distributed
from selfplay_fast.learn.losses import ppo_clip_loss, reinforce_loss
from selfplay_fast.learn.packing import TokenBatch, only_roles
from selfplay_fast.learn.update import Beside, Update, batch_logprobs, update
from selfplay_fast.records import Ask, Episode, Reply, Turn


def batch_of(policy, texts, seed):
    rng = np.random.default_rng(seed)
    sequences = policy.encode(texts)
    first = np.array([len(sequence) - 5 for sequence in sequences], np.int64)
    return TokenBatch(
        sequences=sequences,
        first=first,
        offsets=np.arange(0, 5 * len(texts) + 1, 5),
        advantages=rng.normal(size=5 * len(texts)).astype(np.float32),
        weights=(rng.random(5 * len(texts)) < 0.8).astype(np.float32),
        sampler_logprobs=np.zeros(5 * len(texts), np.float32),
        temperature=1.0,
    )


def plain_logprobs(policy, batch):
    """[T], sequence by sequence."""
    parts = []
    for sequence, first in zip(batch.sequences, batch.first.tolist(), strict=True):
        ids = torch.as_tensor(sequence.astype(np.int64))[None]
        logp = torch.log_softmax(policy.model(ids, use_cache=False).logits[0, first - 1 : -1], -1)
        parts.append(logp.gather(1, ids[0, first:, None])[:, 0])
    return torch.cat(parts)


def gradients(policy):
    return [parameter.grad.clone() for parameter in policy.model.parameters()]


def assert_close(got, want):
    scale = max(1e-3, *(gradient.abs().max() for gradient in want))
    for gradient, plain in zip(got, want, strict=True):
        assert (gradient - plain).abs().max() <= 1e-5 * scale


def test_log_probs_of_a_batch(toy_policy, toy_texts):
    """Oracle: one forward pass per sequence; another policy's are that one's."""
    batch = batch_of(toy_policy, toy_texts[:9], 0)
    settings = Update(loss=reinforce_loss)
    got = batch_logprobs(toy_policy, batch, settings)
    want = plain_logprobs(toy_policy, batch).detach()
    assert torch.allclose(got, want, atol=1e-5)
    assert torch.equal(batch_logprobs(toy_policy, batch, settings, reference=toy_policy), got)


def test_ranks_share_the_samples(toy_policy, toy_texts, monkeypatch):
    """Oracle: one process; each of three ranks computes every third sample, and all put them where they belong."""
    batch = batch_of(toy_policy, toy_texts[:7], 0)
    settings = Update(loss=reinforce_loss)
    want = batch_logprobs(toy_policy, batch, settings)
    everyone = []

    def gather(own):
        everyone.append(own)
        return everyone if len(everyone) == 3 else [torch.zeros(n) for n in (15, 10, 10)]

    monkeypatch.setattr(distributed, "gather", gather)
    monkeypatch.setattr(distributed, "together", nullcontext)
    for rank in range(3):
        monkeypatch.setattr(distributed, "share", lambda rank=rank: (rank, 3))
        got = batch_logprobs(toy_policy, batch, settings)
    assert [len(own) for own in everyone] == [15, 10, 10]
    assert torch.allclose(got, want, atol=1e-6)


def test_every_step_learns_from_a_batch_besides(toy_policy, toy_texts, watched):
    """Oracle: autograd of the sum of both losses; three optimizer steps take three batches."""
    batch, other = batch_of(toy_policy, toy_texts[:6], 0), batch_of(toy_policy, toy_texts[6:9], 1)
    batch = replace(batch, weights=batch.weights / batch.weights.sum())
    other = replace(other, weights=other.weights / other.weights.sum())
    toy_policy.model.zero_grad()
    logp = plain_logprobs(toy_policy, batch)
    own = (torch.tensor(batch.weights) * -torch.tensor(batch.advantages) * logp).sum()
    beside = -(torch.tensor(other.weights) * plain_logprobs(toy_policy, other)).sum()
    (own + 0.7 * beside).backward()
    want = gradients(toy_policy)
    settings = Update(loss=reinforce_loss, max_grad_norm=1e9)
    optimizer = watched(toy_policy.model.parameters())
    metrics = update(toy_policy, optimizer, batch, settings, beside=Beside(batches=repeat(other), weight=0.7))
    assert_close(optimizer.gradients, want)
    assert metrics["loss"] == pytest.approx(own.item(), abs=1e-5)
    assert metrics["beside_loss"] == pytest.approx(0.7 * beside.item(), rel=1e-5)
    few = iter([other] * 4)
    update(toy_policy, optimizer, batch, replace(settings, minibatch=2), beside=Beside(batches=few))
    assert len(list(few)) == 1


def test_what_is_learned_besides_knows_no_ratio(toy_policy, toy_texts, watched):
    """Oracle: the same gradients, whatever the old log-probs of the main batch and its magnet."""
    batch, other = batch_of(toy_policy, toy_texts[:4], 0), batch_of(toy_policy, toy_texts[6:9], 1)
    still = replace(batch, advantages=np.zeros_like(batch.advantages))
    found = []
    for settings in (
        Update(loss=ppo_clip_loss(), max_grad_norm=1e9),
        Update(loss=ppo_clip_loss(), max_grad_norm=1e9, old="sampler"),
        Update(loss=ppo_clip_loss(), max_grad_norm=1e9, max_importance=2.0),
    ):
        optimizer = watched(toy_policy.model.parameters())
        update(toy_policy, optimizer, still, settings, beside=Beside(batches=repeat(other)))
        found.append(optimizer.gradients)
    assert max(gradient.abs().max() for gradient in found[0]) > 1e-3
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])


def test_a_mean_over_the_tokens_of_each_step(toy_policy, toy_texts, watched):
    """Oracle: the gradient of the mean over the trained tokens of the last two samples alone."""
    batch = batch_of(toy_policy, toy_texts[:6], 0)
    toy_policy.model.zero_grad()
    last = batch.take(np.arange(4, 6))
    logp = plain_logprobs(toy_policy, last)
    weights = torch.tensor(last.weights)
    (weights * -torch.tensor(last.advantages) * logp).sum().div(weights.sum()).backward()
    want = gradients(toy_policy)
    settings = Update(loss=reinforce_loss, max_grad_norm=1e9, minibatch=2, token_mean=True)
    optimizer = watched(toy_policy.model.parameters())
    update(toy_policy, optimizer, batch, settings)
    assert_close(optimizer.gradients, want)
    nothing = replace(batch, weights=np.zeros_like(batch.weights))
    assert nothing.token_mean().weights.sum() == 0


def test_only_some_roles_learn():
    """By hand: a judge's turn is left out, and nothing else changes."""
    turns = tuple(
        Turn(ask=Ask(role=role, append="?"), reply=Reply(text=role), reward=k)
        for k, role in enumerate(("attacker", "defender", "judge"))
    )
    episode = Episode(game="g", index=0, seed=0, group=0, turns=turns, returns={"attacker": 1.0})
    (own,) = only_roles([episode], ("attacker", "defender"))
    assert own.turns == turns[:2]
    assert (own.index, own.returns) == (episode.index, episode.returns)
    assert only_roles([episode], ("nobody",))[0].turns == ()
