"""Replies that come from elsewhere, as a stream: requests run on a loop in a thread of their own.

Whoever asks never waits for a server in `RemoteStream.step`, so a slow one does not hold up what else is played.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

from selfplay_fast.policies.base import Answer
from selfplay_fast.records import Ask, Reply

T = TypeVar("T")
Sent = TypeVar("Sent")
Result = TypeVar("Result")


class Connection(Protocol):
    """What requests go over."""

    async def aclose(self) -> None: ...


Open = TypeVar("Open", bound=Connection)


class RemoteStream(Generic[Sent, Open, Result]):
    """Asks and their answers, in the order in which these come.

    prepare: what is sent for each ask; it may raise ValueError for one that cannot be. connect: what requests go over,
    opened when something is pending and closed when nothing is. speak: from what is sent to what is heard, on the loop.
    finish: from there to the replies, in the thread that calls `step`; ``ended`` is called there when nothing is
    pending any more.
    """

    def __init__(
        self,
        *,
        prepare: Callable[[Sequence[Ask]], Sequence[Sent]],
        connect: Callable[[], Open],
        speak: Callable[[Open, Sent], Awaitable[Result]],
        finish: Callable[[Ask, Sent, Result], list[Reply]],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._prepare, self._connect, self._speak = prepare, connect, speak
        self._finish, self._ended = finish, ended
        self.pending = 0
        self._new: deque[tuple[Ask, Sent]] = deque()
        self._heard: deque[tuple[Ask, Sent, Result | Exception]] = deque()
        self._arrived = threading.Condition()
        self._connection: Open | None = None  # this and the rest belong to the loop
        self._open = 0  # requests
        self._speaking: set[asyncio.Task[None]] = set()

    def submit(self, asks: Sequence[Ask]) -> None:
        """Send more asks; none of them if one cannot be sent."""
        if not asks:
            return
        self._new.extend(zip(asks, self._prepare(asks), strict=True))
        self.pending += len(asks)
        background().call_soon_threadsafe(self._begin)

    def step(self) -> list[Answer]:
        """What has come since the last step; at once, whether or not that is anything.

        An error in place of an answer is raised once the answers before it have been handed out.
        """
        answers: list[Answer] = []
        while self._heard:
            ask, sent, result = self._heard.popleft()
            try:
                if isinstance(result, Exception):
                    raise result
                answers.append((ask, self._finish(ask, sent, result)))
            except Exception as error:
                if answers:
                    self._heard.appendleft((ask, sent, error))
                    break
                self.pending -= 1
                raise
            self.pending -= 1
        if answers and not self.pending:
            self._ended()
        return answers

    def wait(self, seconds: float) -> None:
        """Until something has come, or so long."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._heard, seconds)

    # -- on the loop ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        while self._new:
            self._open += 1
            task = asyncio.ensure_future(self._hear(*self._new.popleft()))
            self._speaking.add(task)
            task.add_done_callback(self._speaking.discard)

    async def _hear(self, ask: Ask, sent: Sent) -> None:
        result: Result | Exception
        try:
            if self._connection is None:
                self._connection = self._connect()
            result = await self._speak(self._connection, sent)
        except Exception as error:  # it is raised where the answer is awaited
            result = error
        self._open -= 1
        with self._arrived:
            self._heard.append((ask, sent, result))
            self._arrived.notify()
        if not self._open and not self._new and self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(Exception):  # all that went over it has come
                await connection.aclose()


@cache
def background() -> asyncio.AbstractEventLoop:
    """The loop of all streams, in a thread that ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="selfplay-fast streams", daemon=True).start()
    return loop


def run_there(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on that loop and wait for what it brings."""
    return asyncio.run_coroutine_threadsafe(work, background()).result()
