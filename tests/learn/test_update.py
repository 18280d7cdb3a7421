"""Oracle: plain autograd with one forward pass per sequence."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from selfplay_fast.learn.losses import k3_kl, negative_log_likelihood, ppo_clip_loss
from selfplay_fast.learn.packing import TokenBatch, minibatches
from selfplay_fast.learn.update import Update, update
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.prefix_forward import prefix_groups
from selfplay_fast.records import Ask, Key, Sampling


def make_batch(policy, texts, seed=0):
    """Sampled replies to the texts (some twice, so that whole sequences repeat), with random advantages."""
    asks = [
        Ask(
            role="a",
            append=[{"role": "user", "content": text}],
            key=Key(0, i % 30, 0),
            sampling=Sampling(max_tokens=5),
        )
        for i, text in enumerate([*texts, *texts[:10]])
    ]
    asks += asks[:5]
    replies = policy.generate(asks)
    lengths = np.array([len(reply.tokens) for reply in replies])
    total = int(lengths.sum())
    rng = np.random.default_rng(seed)
    return TokenBatch(
        sequences=[reply.context for reply in replies],
        first=np.array([len(reply.context) - len(reply.tokens) for reply in replies]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        advantages=rng.normal(size=total).astype(np.float32),
        weights=rng.random(total).astype(np.float32) / total,
        sampler_logprobs=np.concatenate([reply.logprobs for reply in replies]),
        temperature=1.0,
    )


def plain_gradients(policy, batch):
    """Gradient of sum of weight * -A r at r = 1, sequence by sequence."""
    policy.model.zero_grad()
    for i, sequence in enumerate(batch.sequences):
        ids = torch.as_tensor(sequence.astype(np.int64))[None]
        first = int(batch.first[i])
        logp = torch.log_softmax(policy.model(ids, use_cache=False).logits[0, first - 1 : -1], -1)
        logp = logp.gather(-1, ids[0, first:, None])[:, 0]
        rows = slice(batch.offsets[i], batch.offsets[i + 1])
        (
            torch.as_tensor(-batch.advantages[rows] * batch.weights[rows]) * (logp - logp.detach()).exp()
        ).sum().backward()
    return [parameter.grad.clone() for parameter in policy.model.parameters()]


@pytest.mark.parametrize(("block_tokens", "max_batch_tokens"), [(16, 64), (128, 16384), (4096, 16384)])
def test_gradients_equal_independent_sequences(
    toy_policy, toy_texts, watched, block_tokens, max_batch_tokens
):
    """Prefix-tree gradients equal those of independent sequences to 1e-5, whatever the block and batch sizes."""
    batch = make_batch(toy_policy, toy_texts)
    want = plain_gradients(toy_policy, batch)
    settings = Update(
        loss=ppo_clip_loss(), max_grad_norm=1e9, block_tokens=block_tokens, max_batch_tokens=max_batch_tokens
    )
    optimizer = watched(toy_policy.model.parameters())
    metrics = update(toy_policy, optimizer, batch, settings)
    assert all(parameter.grad is None for parameter in toy_policy.model.parameters())
    for own, gradient in zip(optimizer.gradients, want, strict=True):
        assert (own - gradient).abs().max() <= 1e-5 * max(1e-3, gradient.abs().max())
    assert metrics["sampler_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["sharing"] > 3


def sequence_batch(sequences, first, seed):
    """Any sequences as a batch, with random advantages and weights, some of these 0."""
    lengths = np.array([len(s) - f for s, f in zip(sequences, first, strict=True)])
    total, rng = int(lengths.sum()), np.random.default_rng(seed)
    return TokenBatch(
        sequences=sequences,
        first=np.array(first),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        advantages=rng.normal(size=total).astype(np.float32),
        weights=(rng.random(total) * (rng.random(total) < 0.8)).astype(np.float32) / total,
        sampler_logprobs=np.zeros(total, np.float32),
        temperature=1.0,
    )


@pytest.fixture
def tree_gradients(watched):
    def of(policy, batch, **options):
        optimizer = watched(policy.model.parameters())
        update(policy, optimizer, batch, Update(loss=ppo_clip_loss(), max_grad_norm=1e9, **options))
        return optimizer.gradients

    return of


def assert_close(got, want):
    scale = max(1e-3, *(gradient.abs().max() for gradient in want))
    for gradient, plain in zip(got, want, strict=True):
        assert (gradient - plain).abs().max() <= 1e-5 * scale


@pytest.fixture
def small_policy(toy_policy):
    config = Qwen3Config(
        vocab_size=12,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.3,
    )
    toy_policy.model = Qwen3ForCausalLM(config).eval()
    return toy_policy


@st.composite
def trees(draw):
    """Sequences of three letters with a common start, so that much is shared, and where each begins to be trained."""
    stem = draw(st.lists(st.integers(0, 2), max_size=20))
    ends = draw(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=9), min_size=1, max_size=10))
    sequences = [np.array(stem + end, np.int32) for end in ends]
    return sequences, [draw(st.integers(1, len(sequence) - 1)) for sequence in sequences]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(trees(), st.sampled_from(["dense", "rows"]), st.integers(1, 30), st.sampled_from([1, 20, 1000]))
def test_gradients_of_random_trees(
    small_policy, tree_gradients, tree, attention, block_tokens, max_batch_tokens
):
    """Oracle: one forward pass per sequence; to 1e-5 of the largest gradient, whatever is shared or cut."""
    batch = sequence_batch(*tree, seed=len(tree[0]))
    small_policy.attention = attention
    got = tree_gradients(small_policy, batch, block_tokens=block_tokens, max_batch_tokens=max_batch_tokens)
    assert_close(got, plain_gradients(small_policy, batch))


def test_gradients_of_models_that_trees_cannot_run(unshared_policy, tree_gradients):
    """Windows, state spaces and linear layers. Oracle: one forward pass per sequence; sequences outgrow the window."""
    rng = np.random.default_rng(0)
    start = rng.integers(3, 300, 9).astype(np.int32)
    sequences = [np.concatenate([start, rng.integers(3, 6, 2 + i % 4).astype(np.int32)]) for i in range(9)]
    batch = sequence_batch(sequences, [9 + i % 2 for i in range(9)], seed=0)
    want = plain_gradients(unshared_policy, batch)
    for max_batch_tokens in (30, 16384):
        assert_close(tree_gradients(unshared_policy, batch, max_batch_tokens=max_batch_tokens), want)


@pytest.mark.parametrize("attention", ["dense", "rows"])
def test_gradients_do_not_depend_on_untrained_siblings(toy_policy, tree_gradients, attention):
    """Oracle: the same update before other tokens stood in a branch that weighs nothing; equal to the last bit."""
    toy_policy.attention = attention
    rng = np.random.default_rng(0)
    stem, a, b, c = (rng.integers(10, 300, size).astype(np.int32) for size in (20, 9, 9, 9))
    a[0], b[0], c[0] = 3, 5, 4  # c lies between them
    gradients = []
    for other in (c, np.concatenate([c[:1], rng.integers(10, 300, 8).astype(np.int32)])):
        batch = sequence_batch([np.concatenate([stem, end]) for end in (a, b, other)], [21] * 3, seed=0)
        batch.weights[batch.offsets[2] :] = 0
        gradients.append(tree_gradients(toy_policy, batch))
    for before, after in zip(*gradients, strict=True):
        assert torch.equal(before, after)
    batch.weights[batch.offsets[2] :] = 1
    assert not torch.allclose(tree_gradients(toy_policy, batch)[0], gradients[0][0], atol=1e-3)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, when it is loaded
def test_gradients_of_flex_attention(toy_policy, tree_gradients, toy_texts):
    """Oracle: the gradients of the same update by dense blocks, on the same GPU; in one micro-batch and in many."""
    dense = LanguageModel(toy_policy.model.cuda(), toy_policy.tokenizer, attention="dense")
    batch = make_batch(dense, toy_texts)
    want = tree_gradients(dense, batch)
    flex = LanguageModel(toy_policy.model, toy_policy.tokenizer, attention="flex")
    for max_batch_tokens in (200, 16384):
        got = tree_gradients(flex, batch, max_batch_tokens=max_batch_tokens)
        scale = max(gradient.abs().max() for gradient in want)
        for gradient, plain in zip(got, want, strict=True):
            assert (gradient - plain).abs().max() <= 1e-3 * scale


def test_other_games_in_the_batch_change_nothing(toy_policy, toy_texts, tree_gradients):
    """Sequences without a common prefix fall into groups of their own; gradients stay those of plain autograd."""
    others = ["A different game altogether, " * 5 + f"number {i}" for i in range(20)]
    batch = make_batch(toy_policy, [*toy_texts, *others])
    assert len(prefix_groups(batch.sequences)) > 1
    want = plain_gradients(toy_policy, batch)
    for own, gradient in zip(tree_gradients(toy_policy, batch), want, strict=True):
        assert (own - gradient).abs().max() <= 1e-5 * max(1e-3, gradient.abs().max())


def test_dropout_stays_off(toy_policy, toy_texts):
    """A GPT-2 with dropout 0.1: the loss is the plain negative log-likelihood, whatever torch's random state."""
    config = GPT2Config(
        vocab_size=len(toy_policy.tokenizer), n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    assert config.resid_pdrop == 0.1
    policy = LanguageModel(GPT2LMHeadModel(config), toy_policy.tokenizer)
    batch = make_batch(policy, toy_texts)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    losses = []
    for seed in range(2):
        policy.model.train()
        torch.manual_seed(seed)
        losses.append(update(policy, optimizer, batch, Update(loss=negative_log_likelihood))["loss"])
    assert losses[0] == losses[1]
    policy.model.eval()
    plain = 0.0
    for i, sequence in enumerate(batch.sequences):
        ids, first = torch.as_tensor(sequence.astype(np.int64)), int(batch.first[i])
        with torch.no_grad():
            logp = torch.log_softmax(policy.model(ids[None], use_cache=False).logits[0, first - 1 : -1], -1)
        logp = logp.gather(-1, ids[first:, None])[:, 0].numpy()
        plain -= (batch.weights[batch.offsets[i] : batch.offsets[i + 1]] * logp).sum()
    assert losses[0] == pytest.approx(plain, rel=1e-5)


def test_groups_are_a_partition(toy_policy, toy_texts):
    """Every sequence is in exactly one group."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 3, size=rng.integers(1, 40)).astype(np.int32) for _ in range(200)]
    groups = prefix_groups(sequences)
    assert sorted(np.concatenate(groups).tolist()) == list(range(200))


def test_second_epoch_uses_the_first_one_as_denominator(toy_policy, toy_texts):
    """With two epochs the second step's ratio differs from 1, and the first step's loss is -mean A (ratio 1)."""
    batch = make_batch(toy_policy, toy_texts)
    optimizer = torch.optim.SGD(toy_policy.model.parameters(), lr=0.5)
    metrics = update(toy_policy, optimizer, batch, Update(loss=ppo_clip_loss(), epochs=2))
    assert metrics["loss"] == pytest.approx(-(batch.advantages * batch.weights).sum(), abs=1e-5)
    assert metrics["ratio"] != 1
    assert toy_policy.version == 2


def test_steps_towards_good_replies(toy_policy, toy_texts):
    """Replies with positive advantage become likelier, the others less likely: scored before and after."""
    asks = [
        Ask(role="a", append=toy_texts[0], key=Key(0, i, 0), sampling=Sampling(max_tokens=4))
        for i in range(8)
    ]
    replies = toy_policy.generate(asks)
    good = np.arange(8) < 4
    lengths = np.array([len(reply.tokens) for reply in replies])
    sequences, first = [r.context for r in replies], [len(r.context) - len(r.tokens) for r in replies]
    batch = TokenBatch(
        sequences=sequences,
        first=np.array(first),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        advantages=np.repeat(np.where(good, 1.0, -1.0), lengths).astype(np.float32),
        weights=np.full(lengths.sum(), 1 / lengths.sum(), np.float32),
        sampler_logprobs=np.concatenate([r.logprobs for r in replies]),
        temperature=1.0,
    )
    before = toy_policy.sequence_logprobs(sequences, first, [1.0] * 8)
    update(
        toy_policy,
        torch.optim.Adam(toy_policy.model.parameters(), lr=1e-3),
        batch,
        Update(loss=ppo_clip_loss()),
    )
    change = toy_policy.sequence_logprobs(sequences, first, [1.0] * 8) - before
    assert change[good].mean() > 0 > change[~good].mean()


def test_not_finite_is_refused_and_weights_stay(toy_policy, toy_texts):
    """A NaN advantage raises FloatingPointError and leaves every weight as it was."""
    batch = make_batch(toy_policy, toy_texts)
    batch.advantages[0] = np.nan
    before = [parameter.detach().clone() for parameter in toy_policy.model.parameters()]
    optimizer = torch.optim.SGD(toy_policy.model.parameters(), lr=1.0)
    with pytest.raises(FloatingPointError, match="not finite"):
        update(toy_policy, optimizer, batch, Update(loss=ppo_clip_loss()))
    for parameter, value in zip(toy_policy.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


@pytest.mark.parametrize("old", ["learner", "sampler"])
def test_the_mismatch_of_sampler_and_learner(toy_policy, toy_texts, old):
    """Oracle: numpy on gaps put in by hand: k3, percentiles by rank, and the share outside 0.9 … 1.1."""
    batch = make_batch(toy_policy, toy_texts)
    exact = batch.sampler_logprobs.copy()
    gaps = np.random.default_rng(0).normal(scale=0.1, size=len(exact)).astype(np.float32)
    batch.sampler_logprobs[:] = exact - gaps
    batch.weights[::7] = 0
    optimizer = torch.optim.SGD(toy_policy.model.parameters(), lr=0.0)
    metrics = update(toy_policy, optimizer, batch, Update(loss=ppo_clip_loss(), old=old))
    ratio = np.exp(gaps[batch.weights > 0])
    assert metrics["sampler_kl"] == pytest.approx((ratio - np.log(ratio) - 1).mean(), rel=1e-3)
    for percent in (1, 50, 99):
        wanted = np.percentile(ratio, percent, method="nearest")
        assert metrics[f"sampler_ratio/p{percent}"] == pytest.approx(wanted, abs=1e-4)
    assert metrics["sampler_outside_share"] == pytest.approx(((ratio < 0.9) | (ratio > 1.1)).mean(), abs=0.02)
    assert metrics["sampler_outside_share"] > 0.2


@pytest.mark.parametrize("limit", [0.7, 1.2, 100.0])
def test_truncated_importance_weighs_every_token(toy_policy, toy_texts, tree_gradients, limit):
    """Oracle: the gradient of plain autograd with min(p_old / p_sampler, limit) times the advantages."""
    batch = make_batch(toy_policy, toy_texts)
    gaps = np.random.default_rng(0).normal(scale=0.5, size=len(batch.weights)).astype(np.float32)
    batch.sampler_logprobs[:] -= gaps
    plain = replace(batch, advantages=batch.advantages * np.minimum(np.exp(gaps), limit))
    want = plain_gradients(toy_policy, plain)
    for own, gradient in zip(tree_gradients(toy_policy, batch, max_importance=limit), want, strict=True):
        assert (own - gradient).abs().max() <= 2e-5 * max(1e-3, gradient.abs().max())


def test_an_exploded_loss_is_refused_and_weights_stay(toy_policy, toy_texts):
    """Oracle: advantages of 1e9 give a finite loss beyond the limit: its size is named and no weight changes."""
    batch = make_batch(toy_policy, toy_texts)
    batch.advantages[:] = 1e9
    before = [parameter.detach().clone() for parameter in toy_policy.model.parameters()]
    with pytest.raises(FloatingPointError, match=r"loss -\d.*e\+0\d has exploded.*max_loss 1e\+06"):
        update(
            toy_policy,
            torch.optim.SGD(toy_policy.model.parameters(), lr=1.0),
            batch,
            Update(loss=ppo_clip_loss()),
        )
    for parameter, value in zip(toy_policy.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_magnet_pulls_towards_the_reference(toy_policy, toy_texts):
    """Without advantages, steps on the magnet alone bring log-probs nearer to the reference's."""
    reference = LanguageModel(type(toy_policy.model)(toy_policy.model.config).eval(), toy_policy.tokenizer)
    batch = make_batch(toy_policy, toy_texts)
    batch.advantages[:] = 0
    batch.weights[:] = 1 / len(batch.weights)
    settings = Update(loss=ppo_clip_loss(), magnet=1.0, max_grad_norm=1e9)
    optimizer = torch.optim.Adam(toy_policy.model.parameters(), lr=1e-3)
    pulls = [
        update(toy_policy, optimizer, batch, settings, reference=reference)["magnet_kl"] for _ in range(6)
    ]
    assert pulls[-1] < 0.9 * pulls[0]
    with pytest.raises(ValueError, match="reference"):
        update(toy_policy, optimizer, batch, settings)


def plain_step(policy, batch, old, reference, rate):
    """One step of plain gradient descent on MARS's loss: clips 0.2 and 1.4, 0.3 k3 at most 10, sequence by sequence."""
    policy.model.zero_grad()
    for i, sequence in enumerate(batch.sequences):
        rows = slice(batch.offsets[i], batch.offsets[i + 1])
        logp = plain_logprobs(policy, batch, i)
        own = torch.as_tensor(batch.advantages[rows])
        terms = ppo_clip_loss(0.2, dual_clip=1.4)(logp, old[rows], own)
        gap = reference[rows] - logp
        terms = terms + 0.3 * (gap.exp() - gap - 1).clamp(-10, 10)
        (torch.as_tensor(batch.weights[rows]) * terms).sum().backward()
        assert len(sequence) > 0
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter -= rate * parameter.grad


def plain_logprobs(policy, batch, i):
    """Of sequence i from its first completion on."""
    ids, first = torch.as_tensor(batch.sequences[i].astype(np.int64)), int(batch.first[i])
    logp = torch.log_softmax(policy.model(ids[None], use_cache=False).logits[0, first - 1 : -1], -1)
    return logp.gather(-1, ids[first:, None])[:, 0]


@pytest.mark.parametrize("old", ["learner", "sampler"])
def test_minibatches_are_steps_towards_old_log_probs_and_a_reference(toy_policy, toy_texts, old):
    """Oracle: plain autograd and gradient descent, one step per minibatch, each at its own rate; the ratio is to the
    log-probs before the first step, or to those of the sampler, which here are others."""
    batch = make_batch(toy_policy, toy_texts[:6])
    batch.weights[:] *= 50
    batch.sampler_logprobs[:] -= 0.1
    reference = LanguageModel(copy.deepcopy(toy_policy.model), toy_policy.tokenizer)
    with torch.no_grad():
        for parameter in reference.model.parameters():
            parameter.mul_(1.02)
    twin = LanguageModel(copy.deepcopy(toy_policy.model), toy_policy.tokenizer)
    parts = minibatches(batch, 7)
    rates = [0.03, 0.01, 0.02]
    assert len(parts) == len(rates)
    with torch.no_grad():
        known = [
            [torch.cat([plain_logprobs(policy, part, i) for i in range(part.num_samples)]) for part in parts]
            for policy in (twin, reference)
        ]
    if old == "sampler":
        known[0] = [torch.as_tensor(part.sampler_logprobs) for part in parts]
    for part, before, pull, rate in zip(parts, *known, rates, strict=True):
        plain_step(twin, part, before, pull, rate)
    settings = Update(
        loss=ppo_clip_loss(0.2, dual_clip=1.4),
        minibatch=7,
        old=old,
        rates=rates,
        magnet=0.3,
        kl=partial(k3_kl, limit=10.0),
        max_grad_norm=1e9,
    )
    start = [parameter.detach().clone() for parameter in toy_policy.model.parameters()]
    optimizer = torch.optim.SGD(toy_policy.model.parameters(), lr=0.0)
    metrics = update(toy_policy, optimizer, batch, settings, reference=reference)
    for ours, theirs, before in zip(
        toy_policy.model.parameters(), twin.model.parameters(), start, strict=True
    ):
        moved = (theirs - before).abs().max()
        assert (ours - theirs).abs().max() <= 1e-3 * moved + 1e-7
    assert toy_policy.version == 3
    assert metrics["trained_tokens"] == (batch.weights > 0).sum()
    assert metrics["magnet_kl"] > 0


def test_wrong_minibatches_are_refused():
    """Oracle: the documented ValueErrors, which name the setting."""
    with pytest.raises(ValueError, match="minibatch: must be at least 1"):
        Update(loss=ppo_clip_loss(), minibatch=0)
    with pytest.raises(ValueError, match="old: must be"):
        Update(loss=ppo_clip_loss(), old="me")
    with pytest.raises(ValueError, match="max_importance: does nothing where old is 'sampler'"):
        Update(loss=ppo_clip_loss(), old="sampler", max_importance=2.0)
