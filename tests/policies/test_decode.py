"""Decoding of many prompts together. Oracles: plain forward passes sequence by sequence, and each ask alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.prefix_forward import prefix_groups
from selfplay_fast.policies.row_cache import RowCache
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


def asks_of(prompts, rooms, n=1, **sampling):
    return [
        Ask(role="a", append=prompt, key=Key(0, i, 0), n=n, sampling=Sampling(max_tokens=room, **sampling))
        for i, (prompt, room) in enumerate(zip(prompts, rooms, strict=True))
    ]


def by_ask(asks, replies):
    """Replies in a row as one list per ask."""
    rest = iter(replies)
    return {ask: [next(rest) for _ in range(ask.n)] for ask in asks}


def assert_same(got, want):
    for ask, replies in want.items():
        for one, other in zip(got[ask], replies, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
            assert one.finish_reason == other.finish_reason


@pytest.mark.parametrize("every", [1, 3, 40])
def test_asks_that_join_late_are_answered_as_together(toy_policy, every):
    """One ask joins every few steps, two samples each. Oracle: one call of generate, itself held to plain passes.

    Each is answered in the step in which its own last token is said.
    """
    toy_policy.end_tokens = frozenset()
    rooms = [30, 5, 12, 8, 20, 70, 12, 30, 8]
    asks = asks_of(random_prompts(np.random.default_rng(2)), rooms, n=2)
    want = by_ask(asks, toy_policy.generate(asks))
    toy_policy.forget()
    stream = toy_policy.stream()
    answers, waiting, steps = {}, list(asks), 0
    while waiting or stream.pending:
        if waiting and steps % every == 0:
            stream.submit([waiting.pop(0)])
        for ask, replies in stream.step():
            answers[ask] = replies
        steps += 1
    assert_same(answers, want)
    if every == 40:
        assert list(answers)[:5] == asks[:5]
        assert list(answers).index(asks[6]) < list(answers).index(asks[5])  # the longest is overtaken


def test_rows_that_outgrow_the_cache_lose_nothing(toy_policy):
    """Oracle: the same asks with room enough; the bound on slots holds for every pass over one token per row."""
    toy_policy.end_tokens = frozenset()
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 300, size).astype(np.int32) for size in (20, 9, 31, 20, 12, 25)]
    rooms = [150, 90, 150, 120, 7, 150]
    asks = asks_of(prompts, rooms, n=2)
    want = by_ask(asks, toy_policy.generate(asks))
    toy_policy.forget()
    slots, rows = [], []

    def note(module, args, kwargs):
        if kwargs["attention_mask"].ndim == 4:  # a step of decoding
            slots.append(kwargs["attention_mask"].numel())
            rows.append(len(kwargs["input_ids"]))

    toy_policy.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    toy_policy.max_cache_tokens = 900
    before = toy_policy.computed_tokens
    assert_same(by_ask(asks, toy_policy.generate(asks)), want)
    assert max(slots) <= 900
    assert 4 < max(rows) < 12  # some waited
    assert any(b < a for a, b in pairwise(rows))
    assert toy_policy.computed_tokens - before > sum(map(len, prompts))  # some came back


@pytest.mark.parametrize("static", [False, True])
def test_the_buffer_is_never_larger_than_the_bound(toy_policy, monkeypatch, static):
    """Oracle: the bound, after every token; many short rows are followed by few long ones, and then by many again."""
    toy_policy.end_tokens = frozenset()
    toy_policy.static_shapes = static
    prompts = [np.array([5, 6, 7, 8 + i], np.int32) for i in range(40)]
    asks = asks_of(prompts, [9] * 20 + [270] * 2 + [9] * 18)
    toy_policy.max_cache_tokens = 4096 if static else 900
    shapes = []
    extend = RowCache.extend

    def noting(cache, tokens):
        logits = extend(cache, tokens)
        shapes.append(cache.layers()[0][0].shape[::2])
        return logits

    monkeypatch.setattr(RowCache, "extend", noting)
    replies = toy_policy.generate(asks)
    assert [len(reply.tokens) for reply in replies] == [ask.sampling.max_tokens for ask in asks]
    assert all(rows * width <= toy_policy.max_cache_tokens for rows, width in shapes)
    assert max(rows for rows, _ in shapes) > 10
    assert max(width for _, width in shapes) > 270


def test_a_row_larger_than_the_cache_is_alone(toy_policy):
    """Oracle: the reply with room enough; nothing waits for ever."""
    toy_policy.end_tokens = frozenset()
    prompts = random_prompts(np.random.default_rng(4))[:3]
    asks = asks_of(prompts, [9, 9, 9])
    want = by_ask(asks, toy_policy.generate(asks))
    toy_policy.max_cache_tokens = 50
    assert_same(by_ask(asks, toy_policy.generate(asks)), want)


def test_static_steps_equal_those_of_the_rows_there_are(toy_policy):
    """Oracle: steps of exact shape; padded ones, as a CUDA graph records them, say the same to 1e-4 in log-probs."""
    toy_policy.end_tokens = frozenset()
    asks = asks_of(random_prompts(np.random.default_rng(5)), [30, 5, 12, 8, 20, 110, 12, 30, 8], n=2)
    want = by_ask(asks, toy_policy.generate(asks))
    toy_policy.forget()
    shapes = set()

    def note(module, args, kwargs):
        mask = kwargs["attention_mask"]
        if mask.ndim == 4:  # a step of decoding
            shapes.add((mask.shape[0], mask.shape[-1]))

    toy_policy.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    toy_policy.static_shapes = True
    assert_same(by_ask(asks, toy_policy.generate(asks)), want)
    assert shapes <= {(r, w) for r in (8, 16, 32) for w in (256, 512)}
    assert len(shapes) > 2


@pytest.mark.gpu
def test_captured_steps_equal_those_that_are_launched(toy_policy):
    """Oracle: the same shapes, launched kernel by kernel; before and after the weights change in place, and with the
    graphs of an earlier call replayed."""
    policy = LanguageModel(toy_policy.model.cuda(), toy_policy.tokenizer)
    assert policy.cuda_graphs
    policy.end_tokens = frozenset()
    prompts = random_prompts(np.random.default_rng(5))
    rooms = [30, 5, 12, 8, 20, 110, 12, 30, 8]
    for change in range(3):
        asks = asks_of(prompts, rooms, n=2 + change)
        policy.cuda_graphs, policy.static_shapes = False, True
        want = by_ask(asks, policy.generate(asks))
        policy.forget()
        policy.cuda_graphs = True
        for _ in range(2):
            assert_same(by_ask(asks, policy.generate(asks)), want)
        room = policy.take_room()
        assert any(step.graph is not None for step in room._steps.values())
        policy.give_room(room)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(1.02)


def test_rows_are_arranged_as_told(toy_policy):
    """Oracle: the same rows copied one by one in numpy, over random splits, holes and joins."""
    rng = np.random.default_rng(6)
    cache = RowCache(toy_policy.model, 1 << 16)
    truth = []

    def join(count):
        lengths = rng.integers(1, 40, count)
        columns = [np.sort(rng.choice(50, length, replace=False)) for length in lengths]
        keys, values = torch.randn(2, count, 2, 50, 4)
        cache.add([(keys, values)], columns)
        truth.extend(keys[r][:, own].numpy() for r, own in enumerate(columns))

    join(5)
    for step in range(60):
        parents = np.sort(rng.integers(0, len(truth), int(rng.integers(1, 9))))
        place = cache.arrange(parents)
        assert sorted(place) == list(range(len(parents)))
        moved = [truth[parent] for parent in parents]
        truth = [moved[i] for i in np.argsort(place)]
        if step % 3 == 0:
            join(int(rng.integers(1, 4)))
        keys = cache.layers()[0][0].numpy()
        for row, (own, length) in enumerate(zip(truth, cache.lengths, strict=True)):
            assert np.array_equal(keys[row][:, :length], own)


def test_a_bad_ask_leaves_the_stream_as_it_was(toy_policy):
    """Oracle: the contract; the asks beside it are not taken, those before it are answered."""
    stream = toy_policy.stream()
    good = asks_of([np.arange(5, 9, dtype=np.int32)], [3])
    stream.submit(good)
    for bad, message in (({"append": ""}, "empty prompt"), ({"append": "?", "choices": ()}, "no choices")):
        with pytest.raises(ValueError, match=message):
            stream.submit(
                [*asks_of([np.arange(5, 9, dtype=np.int32)], [3]), Ask(role="a", key=Key(0, 1, 0), **bad)]
            )
    assert stream.pending == 1
    answered = []
    while stream.pending:
        answered += [ask for ask, _ in stream.step()]
    assert answered == good


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
