"""Keys and values kept between calls. Oracles: a set of all prefixes put in; the policy that keeps nothing."""

import numpy as np
import pytest
import torch

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.prefix_store import PrefixStore
from selfplay_fast.records import Ask, Key, Sampling

HEADS, DIM = 2, 3


def keys_of(context):
    """Keys and values in which every token's entry names it and all before it."""
    names = [float(hash(context[: j + 1].tobytes()) % 9973) for j in range(len(context))]
    keys = torch.tensor(names)[None, :, None].expand(HEADS, -1, DIM)
    return keys, -keys


def put(store, contexts, rng):
    """With gaps between the tokens of a row, as decoding leaves them."""
    width = max(map(len, contexts)) + 3
    columns = [np.sort(rng.permutation(width)[: len(c)]) for c in contexts]
    cache = []
    for _ in range(2):
        keys, values = (torch.full((len(contexts), HEADS, width, DIM), float("nan")) for _ in range(2))
        for row, (context, at) in enumerate(zip(contexts, columns, strict=True)):
            keys[row, :, at], values[row, :, at] = keys_of(context)
        cache.append((keys, values))
    store.put(contexts, cache, np.arange(len(contexts)), columns)


def check(store, contexts):
    """What is found of each context is really its own; returns how much that is."""
    found = [store.match(context) for context in contexts]
    if max(map(len, found)):
        for keys, values in store.gather(found):
            for row, (context, slots) in enumerate(zip(contexts, found, strict=True)):
                if len(slots):
                    want = keys_of(context[: len(slots)])
                    assert torch.equal(keys[row, :, -len(slots) :], want[0])
                    assert torch.equal(values[row, :, -len(slots) :], want[1])
    return [len(slots) for slots in found]


def test_longest_stored_prefix():
    """Oracle: the set of all prefixes of what was put in; few tokens, so that contexts part everywhere."""
    rng = np.random.default_rng(0)
    store, known = PrefixStore(1 << 20), set()
    for _ in range(40):
        contexts = [rng.integers(0, 3, rng.integers(1, 12)).astype(np.int32) for _ in range(5)]
        lengths = [[j for j in range(1, len(c) + 1) if c[:j].tobytes() in known] for c in contexts]
        want = [max(some, default=0) for some in lengths]
        assert check(store, contexts) == want
        put(store, contexts, rng)
        known |= {c[:j].tobytes() for c in contexts for j in range(1, len(c) + 1)}
        assert check(store, contexts) == [len(c) for c in contexts]
    assert store.tokens == len(known)


@pytest.mark.parametrize("room", [1, 7, 40])
def test_room_is_bounded(room):
    """Oracle: the number of tokens; what is still found is right, and a context put in alone as far as it fits."""
    rng = np.random.default_rng(1)
    store = PrefixStore(room)
    for _ in range(60):
        contexts = [rng.integers(0, 3, rng.integers(1, 15)).astype(np.int32) for _ in range(3)]
        put(store, contexts, rng)
        assert store.tokens <= room
        assert any(check(store, contexts))
    put(store, contexts[:1], rng)
    assert check(store, contexts[:1]) == [min(len(contexts[0]), room)]


def turns(policy, contexts, turn, new=7):
    """One more message in each dialogue; replies of different lengths."""
    rng = np.random.default_rng(turn)
    asks = [
        Ask(
            role="a",
            append=np.concatenate([context, rng.integers(5, 300, new)]).astype(np.int32),
            key=Key(0, i, turn),
            sampling=Sampling(max_tokens=3 + i),
        )
        for i, context in enumerate(contexts)
    ]
    return policy.generate(asks)


def test_a_turn_computes_what_is_new(toy_policy):
    """Oracle: the policy that keeps nothing, reply by reply; and the number of tokens that are new.

    The last token of a reply was never fed to the model, so it is computed with the next turn's.
    """
    forgetful = LanguageModel(toy_policy.model, toy_policy.tokenizer, keep_contexts=False)
    toy_policy.end_tokens = forgetful.end_tokens = frozenset()
    contexts = [np.append(np.arange(5, 45), 50 + i).astype(np.int32) for i in range(6)]
    for turn in range(4):
        before = toy_policy.computed_tokens
        replies = turns(toy_policy, contexts, turn)
        assert toy_policy.computed_tokens - before == 6 * 8 + (40 if turn == 0 else 0)
        for reply, alone in zip(replies, turns(forgetful, contexts, turn), strict=True):
            assert reply.tokens.tolist() == alone.tokens.tolist()
            assert reply.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        contexts = [reply.context for reply in replies]
    assert forgetful.computed_tokens > 3 * toy_policy.computed_tokens


def test_little_room(toy_policy):
    """Oracle: the policy that keeps nothing; contexts drive each other out."""
    toy_policy.max_cache_tokens = 130
    forgetful = LanguageModel(toy_policy.model, toy_policy.tokenizer, keep_contexts=False)
    contexts = [np.append(np.arange(5, 45), 50 + i).astype(np.int32) for i in range(6)]
    for turn in range(3):
        replies = turns(toy_policy, contexts, turn)
        for reply, alone in zip(replies, turns(forgetful, contexts, turn), strict=True):
            assert reply.tokens.tolist() == alone.tokens.tolist()
        contexts = [reply.context for reply in replies]


def test_new_weights_forget(toy_policy):
    """Oracle: a policy that has just begun with these weights, whoever changed them."""
    contexts = [np.arange(5, 45, dtype=np.int32)]
    turns(toy_policy, contexts, 0)
    optimizer = torch.optim.SGD(toy_policy.model.parameters(), lr=1.0)
    for weight in toy_policy.model.parameters():
        weight.grad = weight.detach() / 10
    optimizer.step()
    fresh = LanguageModel(toy_policy.model, toy_policy.tokenizer)
    for a, b in zip(turns(toy_policy, contexts, 0), turns(fresh, contexts, 0), strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        assert np.array_equal(a.logprobs, b.logprobs)


def test_nothing_is_kept_where_told(toy_policy):
    """Oracle: the number of stored tokens."""
    toy_policy.keep_contexts = False
    turns(toy_policy, [np.arange(5, 45, dtype=np.int32)] * 2, 0)
    assert toy_policy._store.tokens == 0


def test_nothing_that_a_final_reply_says_is_kept(toy_policy):
    """Oracles: the number of stored tokens; whoever goes on all the same gets the reply of the policy that keeps
    nothing."""
    toy_policy.end_tokens = frozenset()
    prompt = np.arange(5, 45, dtype=np.int32)
    sampling = Sampling(max_tokens=7)
    stored = []
    for final in (True, False):
        ask = Ask(role="a", append=prompt, key=Key(0, 0, 0), final=final, sampling=sampling)
        (reply,) = toy_policy.generate([ask])
        stored.append(toy_policy._store.tokens)
        forgetful = LanguageModel(toy_policy.model, toy_policy.tokenizer, keep_contexts=False)
        forgetful.end_tokens = frozenset()
        (further,), (alone,) = (turns(policy, [reply.context], 1) for policy in (toy_policy, forgetful))
        assert further.tokens.tolist() == alone.tokens.tolist()
        toy_policy.forget()
    assert stored == [len(prompt), len(prompt) + 6]  # the last token has no keys yet
