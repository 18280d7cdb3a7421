"""Waiting for servers. Oracle: a script of who is there at which look."""

import asyncio
import time

import pytest

pytest.importorskip("httpx2", reason="comes with the extra 'test'")
pytest.importorskip("tenacity", reason="comes with the extra 'test'")

from selfplay_fast.policies import patience
from selfplay_fast.policies.base import ServersGoneError
from selfplay_fast.policies.patience import Patience


class Scripted:
    """An endpoint that is there, or not, look by look, and stays as it was at the last."""

    def __init__(self, *looks: bool) -> None:
        self.looks = list(looks)

    async def is_there(self) -> bool:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(patience, "_PAUSE", 0.001)


def test_all_requests_of_the_time_without_servers_are_made_again():
    """Oracle: two requests failed while nobody was there, one fails later, when somebody is."""

    async def ask():
        waiting = Patience([Scripted(False, False, True), Scripted(False)], 60.0)
        began = time.monotonic()
        early = await asyncio.gather(waiting.waited(began), waiting.waited(began))
        return early, await waiting.waited(time.monotonic())

    assert asyncio.run(ask()) == ([True, True], False)


def test_somebody_is_enough_and_nobody_may_be_waited_for():
    """Oracle: one of two servers answers; patience of 0."""
    assert asyncio.run(Patience([Scripted(False), Scripted(True)], 60.0).waited(0.0)) is False
    assert asyncio.run(Patience([Scripted(False)], 0.0).waited(0.0)) is False


def test_the_end_of_patience_is_that_of_all_and_begins_anew():
    """Oracle: every request gets the error; servers that come back and go again are waited for again."""

    async def ask():
        server = Scripted(False)
        waiting = Patience([server], 0.2)
        ends = await asyncio.gather(*(waiting.waited(0.0) for _ in range(3)), return_exceptions=True)
        server.looks = [True]
        assert await waiting.waited(0.0)
        server.looks, waiting.seconds = [False, True], 60.0
        return ends, await waiting.waited(time.monotonic())

    ends, again = asyncio.run(ask())
    assert [str(end) for end in ends] == ["no server has answered for 0.2 s"] * 3
    assert all(isinstance(end, ServersGoneError) for end in ends)
    assert again
