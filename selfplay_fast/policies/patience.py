"""Waiting for servers of which none is there any more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from selfplay_fast.policies.base import ServersGoneError
from selfplay_fast.policies.endpoint import Endpoint

_PAUSE = 2.0  # seconds between two looks
_LOG = logging.getLogger(__name__)


class Patience:
    """Waits up to ``seconds`` until one of the servers is there again; 0: not at all. One loop at a time may ask."""

    def __init__(self, endpoints: Sequence[Endpoint], seconds: float) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"patience: must be a number of seconds and not negative, got {seconds}")
        self.endpoints = endpoints
        self.seconds = seconds
        self._one_looks = asyncio.Lock()
        self._gone_since: float | None = None
        self._back_at = 0.0

    async def waited(self, since: float) -> bool:
        """For a request that began at ``since`` (`time.monotonic`) and failed: is it worth another one?

        True once somebody is there again after nobody was; False, at once, where somebody has been there all the time,
        or nobody is waited for. ServersGoneError when the time is over.
        """
        if not self.seconds:
            return False
        async with self._one_looks:
            while not await self._anybody():
                if self._gone_since is None:
                    self._gone_since = time.monotonic()
                    _LOG.warning("no server answers; they are waited for up to %g s", self.seconds)
                if time.monotonic() - self._gone_since >= self.seconds:
                    raise ServersGoneError(f"no server has answered for {self.seconds:g} s")
                await asyncio.sleep(min(_PAUSE, self.seconds))
            if self._gone_since is not None:
                self._gone_since, self._back_at = None, time.monotonic()
            return self._back_at > since

    async def _anybody(self) -> bool:
        return any(await asyncio.gather(*(endpoint.is_there() for endpoint in self.endpoints)))
