"""`ModelStream.cancel`. Oracle: the same asks in a stream that never had the others."""

import numpy as np
import pytest

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.records import Ask, Key, Sampling


def ask(index, **changes):
    settings = {"role": "a", "append": f"number {index}", "key": Key(0, index, 0), "n": 2}
    return Ask(**(settings | {"sampling": Sampling(max_tokens=12)} | changes))


@pytest.mark.parametrize("steps", [0, 5])
def test_rows_that_leave_change_nothing_for_others(steps):
    """Oracle: the others alone; rows that are spoken, that wait, that choose, all of them. Nothing is kept."""
    others_go_on(LanguageModel(*build_nano(["kuhn_poker"], seed=0), max_cache_tokens=120), steps)


def test_rows_that_leave_a_model_without_trees(unshared_policy):
    """Oracle: the others alone."""
    others_go_on(unshared_policy, 5)


def others_go_on(policy, steps):
    policy.end_tokens = frozenset()
    asks = [ask(i) for i in range(6)] + [
        ask(6, choices=("bet", "pass")),
        ask(7, append=np.ones(5000, np.int32)),
    ]
    kept, gone = asks[::2], asks[1::2]
    alone = dict(zip(kept, np.split(np.array(policy.generate(kept), object), len(kept)), strict=True))
    stream = policy.stream()
    stream.submit(asks)
    heard = dict(answer for _ in range(steps) for answer in stream.step())
    stream.cancel([one for one in gone if one not in heard])
    while stream.pending:
        heard.update(stream.step())
    assert set(kept) <= set(heard)
    assert len(heard) < len(asks) - 1
    for one in kept:
        for ours, theirs in zip(heard[one], alone[one], strict=True):
            assert ours.text == theirs.text
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
    stream.submit(kept)
    stream.cancel(kept)
    assert (stream.pending, stream._owner, stream._decoder) == (0, {}, None)
