"""Replies from elsewhere. Oracle: scripts of what is heard."""

import time

import pytest

from selfplay_fast.policies.remote_stream import RemoteStream
from selfplay_fast.records import Ask, Key, Reply


class Connection:
    async def aclose(self):
        pass


class Resets:
    async def aclose(self):
        raise OSError("reset while closing")


async def speak(connection, sent):
    if sent == "broken":
        raise RuntimeError("said nothing")
    return sent


def finish(ask, sent, heard):
    if heard == "refused":
        raise ValueError("refused")
    return [Reply(text=heard)]


def stream_of(words, connect=Connection):
    """A stream that has been asked, and has heard everything."""
    stream = RemoteStream(prepare=lambda asks: words, connect=connect, speak=speak, finish=finish)
    stream.submit([Ask(role="a", append="x", key=Key(0, i, 0)) for i in range(len(words))])
    deadline = time.monotonic() + 60
    while len(stream._heard) < len(words):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return stream


def said(answers):
    return [replies[0].text for _, replies in answers]


@pytest.mark.parametrize(("bad", "error"), [("broken", RuntimeError), ("refused", ValueError)])
def test_an_error_loses_no_answer(bad, error):
    """Oracle: the order in which things are heard; what comes before an error is handed out, then it is raised."""
    stream = stream_of(["one", bad, "two"])
    assert (said(stream.step()), stream.pending) == (["one"], 2)
    with pytest.raises(error):
        stream.step()
    assert (said(stream.step()), stream.pending) == (["two"], 0)


def test_a_connection_that_cannot_be_closed_loses_no_answer():
    """Oracle: the answer, which has come before; the next ask opens another connection."""
    stream = stream_of(["one"], Resets)
    assert (said(stream.step()), stream.pending) == (["one"], 0)
    stream.submit([Ask(role="a", append="x", key=Key(0, 1, 0))])
    stream.wait(60)
    assert said(stream.step()) == ["one"]
