"""Models that no prefix tree can run. Oracle: one plain forward pass per sequence, by the model itself."""

import numpy as np
import pytest
import torch

from selfplay_fast.records import Ask, Key, Sampling


def plain_logprobs(policy, context, count, temperature=1.0):
    """Log-probs of the last ``count`` tokens of one context."""
    ids = torch.as_tensor(context.astype(np.int64))[None]
    with torch.no_grad():
        logp = torch.log_softmax(
            policy.model(input_ids=ids, use_cache=False).logits[0, :-1] / temperature, -1
        )
    return logp.gather(-1, ids[0, 1:, None])[-count:, 0].numpy()


def random_prompts():
    """Two of equal length and a common start, further than any window; others shorter, one a single token."""
    rng = np.random.default_rng(0)
    start, a, b = (rng.integers(3, 300, size).astype(np.int32) for size in (12, 5, 5))
    return [np.concatenate([start, a]), np.concatenate([start, b]), start, start[:3], start[:1]]


def asks(policy, **options):
    policy.end_tokens = frozenset()
    return [
        Ask(
            role="a",
            append=prompt,
            key=Key(0, i, 0),
            n=1 + i % 2,
            sampling=Sampling(max_tokens=5 + i, **options),
        )
        for i, prompt in enumerate(random_prompts())
    ]


@pytest.mark.parametrize("max_batch_tokens", [16384, 20])
def test_replies_are_those_of_plain_forward_passes(unshared_policy, max_batch_tokens):
    """Log-probs equal plain ones to 1e-4, lengths are as asked, and a reply is that of its ask alone."""
    assert unshared_policy.attention == "rows"
    unshared_policy.max_batch_tokens = max_batch_tokens
    wanted = asks(unshared_policy, temperature=0.7)
    replies = iter(unshared_policy.generate(wanted))
    tokens = set()
    for ask in wanted:
        for alone in unshared_policy.generate([ask]):
            reply = next(replies)
            assert reply.tokens.tolist() == alone.tokens.tolist()
            assert len(reply.tokens) == ask.sampling.max_tokens
            want = plain_logprobs(unshared_policy, reply.context, len(reply.tokens), 0.7)
            assert reply.logprobs == pytest.approx(want, abs=1e-4)
            tokens.add(reply.tokens.tobytes())
    assert len(tokens) == sum(ask.n for ask in wanted)


@pytest.mark.parametrize("unshared_policy", ["window"], indirect=True)
def test_groups_fit_the_cache(unshared_policy):
    """Oracle: the bound, row by row counted in the passes of the model; replies with room enough; rows go together."""
    wanted = asks(unshared_policy, temperature=0.7)
    want = [reply.tokens.tolist() for reply in unshared_policy.generate(wanted)]
    rows = []

    def note(module, args, kwargs):
        if kwargs["input_ids"].shape[1] > 1:  # prompts
            rows.append(kwargs["input_ids"].shape)

    unshared_policy.max_cache_tokens = 50  # 2 rows of 17 + 6 tokens, or of 12 + 7
    unshared_policy.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    assert [reply.tokens.tolist() for reply in unshared_policy.generate(wanted)] == want
    assert all(count * (length + 5) <= 50 for count, length in rows)
    assert max(count for count, _ in rows) == 2
    unshared_policy.max_cache_tokens = 10
    assert [reply.tokens.tolist() for reply in unshared_policy.generate(wanted)] == want


def test_ends_stops_and_choices(unshared_policy):
    """Oracle: the free reply: it is cut after the first end token, and by a stop; choices score as plain sums."""
    wanted = asks(unshared_policy)
    free = unshared_policy.generate(wanted)
    end = int(free[0].tokens[2])
    unshared_policy.end_tokens = frozenset([end])
    for reply, whole in zip(unshared_policy.generate(wanted), free, strict=True):
        said = whole.tokens.tolist()
        assert reply.tokens.tolist() == (said[: said.index(end) + 1] if end in said else said)
        assert reply.finish_reason == ("stop" if end in said else "length")
    unshared_policy.end_tokens = frozenset()
    text = unshared_policy.tokenizer.decode([end])
    stopped = unshared_policy.generate(
        [
            Ask(
                role="a",
                append=wanted[0].append,
                key=wanted[0].key,
                sampling=Sampling(max_tokens=5, stop=(text,)),
            )
        ]
    )[0]
    assert text in unshared_policy.tokenizer.decode(stopped.tokens.tolist())
    assert len(stopped.tokens) <= 3
    assert stopped.finish_reason == "stop"
    ask = Ask(role="a", append=wanted[0].append, key=wanted[0].key, choices=("You are X", "Free: 3"))
    for choice, score in zip(ask.choices, unshared_policy.score([ask])[0], strict=True):
        ids = unshared_policy.choice_tokens(choice)
        want = plain_logprobs(unshared_policy, np.concatenate([ask.append, ids]), len(ids)).sum()
        assert score == pytest.approx(want, abs=1e-4)
