"""Decoding of many prompts together. Oracles: plain forward passes sequence by sequence, and each ask alone."""

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicLayer

from selfplay_fast.policies.decode import _RoomyLayer
from selfplay_fast.policies.parts import split_parts
from selfplay_fast.policies.prefix_forward import prefix_groups
from selfplay_fast.records import Ask, Key, Sampling


def plain_logprobs(policy, context, count):
    """Log-probs of the last ``count`` tokens of one context, by a forward pass of its own."""
    ids = torch.as_tensor(context.astype(np.int64))[None]
    with torch.no_grad():
        logp = torch.log_softmax(policy.model(ids, use_cache=False).logits[0, :-1], -1)
    return logp.gather(-1, ids[0, 1:, None])[-count:, 0].numpy()


def random_prompts(rng):
    """Two families with long common starts and unlike lengths, a prompt inside another, strangers, a single token."""
    words = [rng.integers(3, 300, size).astype(np.int32) for size in (170, 130, 9, 9, 40, 25, 60)]
    long, short, a, b, c, alone, stranger = words
    return [
        np.concatenate([long, a]),
        np.concatenate([long, b, c]),
        np.concatenate([long, a, c]),
        np.concatenate([short, a]),
        np.concatenate([short, c]),
        short,
        alone,
        stranger,
        stranger[:1],
    ]


@pytest.mark.parametrize("max_batch_tokens", [16384, 48])
def test_replies_are_those_of_plain_forward_passes(toy_policy, max_batch_tokens):
    """Log-probs equal plain ones to 1e-4 and tokens those of the ask alone, whatever is decoded beside it.

    Replies outgrow the cache's first room, groups of unlike lengths and mixed room share a part; a small batch cuts
    groups and single prompts. One ask is restricted, one has no room.
    """
    prompts = random_prompts(np.random.default_rng(0))
    assert len(prefix_groups(prompts)) > 1
    toy_policy.end_tokens = frozenset()
    toy_policy.context_limit = 250
    rooms = [90, 5, 12, 8, 20, 90, 12, 30, 8]
    asks = [
        Ask(role="a", append=prompt, key=Key(0, i, 0), n=1 + i % 2, sampling=Sampling(max_tokens=room))
        for i, (prompt, room) in enumerate(zip(prompts, rooms, strict=True))
    ]
    asks.append(Ask(role="a", append=prompts[0], key=Key(1, 0, 0), choices=("\\boxed{1}", "You"), n=2))
    asks.append(Ask(role="a", append=np.resize(prompts[0], 250), key=Key(1, 1, 0)))
    toy_policy.max_batch_tokens, toy_policy.max_cache_tokens = max_batch_tokens, 16 * max_batch_tokens
    together = iter(toy_policy.generate(asks))
    toy_policy.max_batch_tokens, toy_policy.max_cache_tokens = 16384, 1 << 18
    for i, ask in enumerate(asks):
        replies = [next(together) for _ in range(ask.n)]
        if i < len(prompts):
            for reply in replies:
                assert len(reply.tokens) == min(rooms[i], 250 - len(prompts[i]))
                want = plain_logprobs(toy_policy, reply.context, len(reply.tokens))
                assert reply.logprobs == pytest.approx(want, abs=1e-4)
        for reply, alone in zip(replies, toy_policy.generate([ask]), strict=True):
            assert reply.tokens.tolist() == alone.tokens.tolist()
            assert reply.finish_reason == alone.finish_reason


def test_samples_part_after_the_cache_has_grown(toy_policy):
    """Oracle: plain forward passes; the samples agree for 70 tokens, further than the first room, by forced logits."""
    toy_policy.end_tokens = frozenset()
    prompt = np.arange(5, 25, dtype=np.int32)
    length = len(prompt)

    def agree(module, args, kwargs, output):
        if kwargs["position_ids"].max() < length + 69:
            output.logits[..., 7] += 1e4
        return output

    handle = toy_policy.model.register_forward_hook(agree, with_kwargs=True)
    ask = Ask(role="a", append=prompt, key=Key(0, 0, 0), n=3, sampling=Sampling(max_tokens=90))
    replies = toy_policy.generate([ask])
    handle.remove()
    assert len({reply.tokens.tobytes() for reply in replies}) == 3
    for reply in replies:
        assert (reply.tokens[:70] == 7).all()
        want = plain_logprobs(toy_policy, reply.context, 20)
        assert reply.logprobs[-20:] == pytest.approx(want, abs=1e-4)


def test_forward_passes_are_bounded(toy_policy):
    """Oracle: the sizes of every pass over more than one token per row; each fits or has a single row."""
    sizes = []

    def note(module, args, kwargs):
        rows, width = kwargs["input_ids"].shape
        cache = kwargs["past_key_values"]
        length = cache.get_seq_length() if cache is not None else 0
        if width > 1:
            sizes.append((rows, rows * (length + width)))

    toy_policy.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    toy_policy.max_batch_tokens = 600
    prompts = random_prompts(np.random.default_rng(1))
    asks = [
        Ask(role="a", append=p, key=Key(0, i, 0), sampling=Sampling(max_tokens=2))
        for i, p in enumerate(prompts)
    ]
    toy_policy.generate(asks)
    passes = len(sizes)
    toy_policy.sequence_logprobs(prompts[:6], [len(p) - 1 for p in prompts[:6]], [1.0] * 6)
    assert passes > 3
    assert len(sizes) > passes
    assert any(rows > 1 for rows, _ in sizes)
    assert all(rows == 1 or slots <= 600 for rows, slots in sizes)


def test_parts_are_bounded_and_complete():
    """Oracle: the documented bounds, on random groups: size, padding, and every row exactly once."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = int(rng.integers(1, 12))
        longest = rng.integers(1, 120, count).tolist()
        ends = np.cumsum(rng.integers(1, 20, count))
        rows = [
            list(range(start, end))
            for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
        ]
        cuts = np.flatnonzero(rng.random(count - 1) < 0.4) + 1
        groups = [group.tolist() for group in np.split(rng.permutation(count), cuts)]
        limit = int(rng.integers(20, 600))
        parts = split_parts(groups, longest, rows, limit)
        said = []
        for part in parts:
            entries = [entry for group in part for entry in group]
            lengths = [longest[p] for p, members in entries for _ in members]
            slots = len(lengths) * max(lengths)
            assert slots <= limit or len(lengths) == 1
            assert slots <= 2 * sum(lengths)
            assert all(members for _, members in entries)
            assert all(
                {p for p, _ in group} <= set(next(g for g in groups if group[0][0] in g)) for group in part
            )
            said += [(p, r) for p, members in entries for r in members]
        assert sorted(said) == [(p, r) for p in range(count) for r in rows[p]]


@pytest.mark.parametrize("change", ["select", "reorder", "repeat", "crop", "reset"])
def test_roomy_cache_equals_the_plain_one(change):
    """Oracle: transformers' own DynamicLayer through the same calls, before and after growth."""
    generator = torch.Generator().manual_seed(0)
    index = torch.tensor([2, 0, 0])
    calls = {
        "select": lambda layer: layer.batch_select_indices(index),
        "reorder": lambda layer: layer.reorder_cache(index),
        "repeat": lambda layer: layer.batch_repeat_interleave(2),
        "crop": lambda layer: layer.crop(-3),
        "reset": lambda layer: layer.reset(),
    }
    layers = [DynamicLayer(), _RoomyLayer()]
    rows = 3
    for length in (5, 1, 63, 1, 80, 1):
        new = torch.randn(2, rows, 2, length, 4, generator=generator)
        keys, values = ([layer.update(*new)[side].clone() for layer in layers] for side in (0, 1))
        assert torch.equal(*keys)
        assert torch.equal(*values)
        for layer in layers:
            calls[change](layer)
        rows *= 2 if change == "repeat" else 1


def first_stop(policy, tokens, stop):
    """How many tokens are said when the stop string is complete; None if it never is."""
    if stop not in policy.tokenizer.decode(tokens.tolist()):
        return None
    said = (n for n in range(1, len(tokens) + 1) if stop in policy.tokenizer.decode(tokens[:n].tolist()))
    return next(said)


def test_stop_strings(toy_policy, toy_texts):
    """A reply ends with the token that completes the stop. Oracle: the free reply, decoded token by token.

    Short stops, one of more than 64 tokens and a special token; of two samples one says the stop; an ask without one.
    """
    toy_policy.end_tokens = frozenset()

    def asks(*stop):
        sampling = Sampling(max_tokens=90, stop=stop)
        free = Ask(role="a", append=toy_texts[1], key=Key(0, 1, 0), sampling=Sampling(max_tokens=90))
        return [Ask(role="a", append=toy_texts[0], key=Key(0, 0, 0), n=2, sampling=sampling), free]

    free = toy_policy.generate(asks())
    tokens = free[0].tokens

    def text(start, stop):
        return toy_policy.tokenizer.decode(tokens[start:stop].tolist()).strip("\ufffd")

    special = [t.content for t in toy_policy.tokenizer.added_tokens_decoder.values() if t.special]
    said = [s for s in special if any(first_stop(toy_policy, r.tokens, s) for r in free[:2])]
    assert said
    for stop in (text(8, 12), text(10, 80), said[0]):
        replies = toy_policy.generate(asks(stop))
        for reply, whole in zip(replies[:2], free, strict=False):
            count = first_stop(toy_policy, whole.tokens, stop)
            assert reply.tokens.tolist() == whole.tokens[:count].tolist()
            assert reply.finish_reason == ("length" if count is None else "stop")
        assert replies[2].tokens.tolist() == free[2].tokens.tolist()
        if stop == text(10, 80):
            assert [reply.finish_reason for reply in replies[:2]] == ["stop", "length"]


def test_no_asks_no_replies(toy_policy):
    """Oracle: the contract, one reply per sample asked for."""
    assert toy_policy.generate([]) == []
