"""One thread that owns a model. Oracles: the order of events; the weights that speak in the end."""

from concurrent.futures import CancelledError
from threading import Event

import pytest

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.model_thread import ModelFailed, ModelThread
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.records import Ask, Key, Sampling


@pytest.fixture(scope="module")
def nano():
    return build_nano(["kuhn_poker"], seed=0)


@pytest.fixture
def thread(nano):
    policy = LanguageModel(*nano)
    policy.end_tokens = frozenset()
    thread = ModelThread(policy)
    yield thread
    thread.close()


def ask(index, tokens=4):
    return Ask(role="a", append="x", key=Key(0, index, 0), sampling=Sampling(max_tokens=tokens))


def weights(thread):
    return {name: value.detach().clone() for name, value in thread.policy.model.named_parameters()}


def test_the_newest_weights_are_put_in(thread):
    """Oracle: the versions. Older ones that wait fail; those that nobody waits for are not put in, and hold up none."""
    go, step = Event(), thread._stream.step
    thread._stream.step = lambda: step() if go.is_set() else []
    slow = thread.ask(ask(0, 10**6))
    first, second, third = (thread.replace(weights(thread), version) for version in (1, 2, 3))
    for superseded in (first, second):
        with pytest.raises(ModelFailed, match="newer"):
            superseded.result(60)
    third.cancel()
    last = thread.ask(ask(1))
    slow.cancel()
    go.set()
    (reply,) = last.result(60)
    assert reply.policy_version == 0
    thread.replace(weights(thread), 4).result(60)
    assert thread.ask(ask(2)).result(60)[0].policy_version == 4


def test_what_is_cancelled_is_not_spoken(thread):
    """Oracle: the steps that are made, far fewer than the tokens that were asked for."""
    steps, begun, go = [], Event(), Event()
    step = thread._stream.step

    def gated():
        begun.set()
        return (steps.append(1) or step()) if len(steps) < 5 or go.is_set() else []

    thread._stream.step = gated
    long = [thread.ask(ask(i, 10**6)) for i in range(3)]
    assert begun.wait(60)
    for future in long:
        future.cancel()
    last = thread.ask(ask(10))
    go.set()
    assert last.result(60)
    assert thread._stream.pending == 0
    assert len(steps) < 20


def test_a_model_that_fails_is_nobodys_fault(thread):
    """Oracle: the error of the step, to all who wait; an ask that cannot be answered fails alone; others go on."""

    def fail():
        if thread._stream.pending < 2:
            return []
        raise ValueError("expected m1 and m2 to have the same dtype")

    wrong = Ask(role="a", append="x", key=Key(0, 0, 0), choices=())
    with pytest.raises(ValueError, match="no choices"):
        thread.ask(wrong).result(60)
    thread._stream.step = fail
    for future in [thread.ask(ask(i)) for i in range(2)]:
        with pytest.raises(ModelFailed, match="same dtype"):
            future.result(60)
    assert thread.ask(ask(5)).result(60)


def test_what_waits_at_the_end_is_cancelled(nano):
    """Oracle: the state of the futures."""
    policy = LanguageModel(*nano)
    policy.end_tokens = frozenset()
    thread = ModelThread(policy)
    thread._stream.step = list  # which answers nothing
    futures = [thread.ask(ask(0, 10**6)), thread.replace(weights(thread), 1), thread.ask(ask(1))]
    thread.close()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(60)
