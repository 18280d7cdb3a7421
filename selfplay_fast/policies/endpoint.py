"""JSON posted over HTTP to a server that may be slow, broken or hostile.

httpx2 carries the bytes (openai and huggingface_hub use it too), tenacity repeats what may be repeated. The time of an
attempt, the time of a request with all its attempts, and the size of an answer are bounded, whatever the server does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, Generic, TypeVar

try:
    import httpx2
    import tenacity
except ImportError as error:
    raise ModuleNotFoundError(
        f"a server as a policy needs Python 3.11 and httpx2 and tenacity ({error}): "
        "pip install -c constraints.txt -e '.[server]'",
        name=error.name,
    ) from error

T = TypeVar("T")

MAX_ANSWER = 8 << 20  # bytes, unless more was asked for
_BYTES = "application/octet-stream"
_LOOK = 10.0  # seconds within which somebody who is there answers
_NOBODY_BEHIND = frozenset({502, 503, 504})
_MAX_WAIT = 30.0  # seconds between attempts, unless the server asks for more
_ODD = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
)  # what reading an odd answer may raise
_MAY_PASS = frozenset({408, 425, 429})  # refusals that are over after a while; so is everything from 500 on


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Times in seconds. A batch on a dead server ends within two deadlines (more if ``concurrency`` is under 8)."""

    concurrency: int = 32
    """requests under way"""
    timeout: float = 120.0
    """of one attempt, from connecting to the last byte"""
    deadline: float = 600.0
    """of one request: all attempts and the waits between them"""
    attempts: int = 5
    """at most so many, while the server cannot be reached, is overloaded or answers garbage"""
    backoff: float = 0.5
    """waits are drawn from 0 to this, then to twice, four times … this, to 30; ``Retry-After`` is a least wait"""

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"limits: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("timeout", "deadline"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"limits: {name} must be a positive number of seconds, got {getattr(self, name)}"
                )
        if not 0 <= self.backoff < float("inf"):
            raise ValueError(f"limits: backoff must be a number of seconds, got {self.backoff}")


@dataclass(frozen=True, slots=True)
class Request:
    """``body`` goes to ``path`` below the endpoint's address: JSON, an open file as it is, or nothing (GET)."""

    path: str
    body: Mapping[str, Any] | BinaryIO | None
    longest: int = MAX_ANSWER
    """bytes of its answer, at most"""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was read from the server's answer."""

    value: T


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer, in one line; ``refused``: the server said no, and would again."""

    reason: str
    refused: bool = False


class Broken(Exception):
    """No usable answer this time."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Refused(Exception):
    """The server has understood and does not want to."""


class Endpoint:
    """An address, and the name of the environment variable with its key. The key is read when needed and never kept,
    and it is cut out of whatever the server says."""

    def __init__(self, url: str, *, api_key_env: str, limits: Limits) -> None:
        try:
            parts = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise ValueError(f"url: {url!r} is none: {error}") from None
        if parts.userinfo:
            raise ValueError(f"url: leave the password out and put the key into {api_key_env}")
        if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
            raise ValueError(f"url: must look like http://127.0.0.1:8000/v1, got {url!r}")
        self.url = url.rstrip("/")
        self.api_key_env = api_key_env
        self.limits = limits
        self._tls = httpx2.create_ssl_context() if parts.scheme == "https" else False

    def post_all(self, requests: Sequence[Request], read: Callable[[Any], T]) -> list[Answer[T] | Failure]:
        """One answer or failure per request, in order.

        read: takes the decoded JSON; what it raises at one of another form counts as a broken answer.
        """
        if not requests:
            return []
        return _run(self._post_all(requests, read))

    async def _post_all(
        self, requests: Sequence[Request], read: Callable[[Any], T]
    ) -> list[Answer[T] | Failure]:
        count = self.limits.concurrency
        slots, health = asyncio.Semaphore(count), Health(max(8, count))
        async with self.client() as client:

            async def post(request: Request) -> Answer[T] | Failure:
                async with slots:
                    return await self.post(client, request, read, health)

            return await asyncio.gather(*(post(request) for request in requests))

    def client(self) -> httpx2.AsyncClient:
        """Connections to this server, for the loop that runs now."""
        count = self.limits.concurrency
        return httpx2.AsyncClient(
            headers=self._headers(),
            timeout=None,
            limits=httpx2.Limits(max_connections=count, max_keepalive_connections=count),
            verify=self._tls,
        )

    async def post(
        self, client: httpx2.AsyncClient, request: Request, read: Callable[[Any], T], health: Health
    ) -> Answer[T] | Failure:
        """One answer, after as many attempts as it takes; no attempt on a server that is not alive."""
        if not health.alive:
            return Failure("not sent, because the requests before it failed")
        return health.note(await retried(self.limits, lambda: self.attempt(client, request, read)))

    def _headers(self) -> dict[str, str]:
        key = self._key()
        if not key.isascii() or not key.isprintable():
            raise ValueError(f"{self.api_key_env}: the key in it has characters that no key has")
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "").strip()

    async def attempt(self, client: httpx2.AsyncClient, request: Request, read: Callable[[Any], T]) -> T:
        """What one attempt brings; Broken or Refused where that is nothing."""
        try:
            async with asyncio.timeout(self.limits.timeout):
                answer = await self._exchange(client, request)
        except TimeoutError:
            raise Broken(f"no whole answer within {self.limits.timeout:g} s") from None
        try:
            return read(answer)
        except _ODD as error:
            raise Broken(f"the answer is not of the expected form: {self._line(str(error))}") from None

    async def is_there(self) -> bool:
        """Does anybody answer at this address, whatever it says? A proxy that finds nobody behind it does not."""
        try:
            async with (
                asyncio.timeout(min(_LOOK, self.limits.timeout)),
                self.client() as client,
                client.stream("GET", self.url) as response,
            ):
                return response.status_code not in _NOBODY_BEHIND
        except (TimeoutError, httpx2.RequestError, OSError):
            return False

    async def _exchange(self, client: httpx2.AsyncClient, request: Request) -> Any:
        body_sent: dict[str, Any] = {}
        if isinstance(request.body, Mapping):  # ASCII, whatever the texts hold
            body_sent = {"content": json.dumps(request.body).encode()}
        elif request.body is not None:
            body_sent = {"content": _parts(request.body), "headers": {"Content-Type": _BYTES}}
        method = "POST" if body_sent else "GET"
        try:
            async with client.stream(method, f"{self.url}/{request.path}", **body_sent) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > request.longest:
                        raise Broken(f"the answer is longer than {request.longest >> 20} MiB")
        except (httpx2.RequestError, OSError) as error:
            raise Broken(self._line(f"{type(error).__name__} {error}")) from None
        status = response.status_code
        if status >= 300:
            said = self._line(body[:2000].decode(errors="replace"))
            reason = f"HTTP {status} from {self.url}/{request.path}: {said}"
            if status >= 500 or status in _MAY_PASS:
                raise Broken(reason, _seconds(response.headers.get("retry-after")))
            raise Refused(reason)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            kind = self._line(response.headers.get("content-type", "of no type"))
            raise Broken(f"the answer is not JSON but {len(body)} bytes, {kind}") from None

    def _line(self, text: str) -> str:
        """What a stranger wrote, fit for one line of a log."""
        key = self._key()
        line = " ".join((text.replace(key, "(key)") if key else text).split())
        return "".join(c if c.isprintable() else "?" for c in line[:200])


async def retried(limits: Limits, attempt: Callable[[], Coroutine[Any, Any, T]]) -> Answer[T] | Failure:
    """What ``attempt`` brings, made again within the limits, after a wait, where it is Broken."""
    backoff = tenacity.wait_random_exponential(multiplier=limits.backoff, max=_MAX_WAIT)

    async def once() -> T:  # tenacity awaits only what is declared so
        return await attempt()

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        return max(backoff(state), getattr(state.outcome.exception(), "retry_after", 0.0))

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(Broken),
        wait=wait,
        stop=tenacity.stop_after_attempt(limits.attempts) | tenacity.stop_before_delay(limits.deadline),
        reraise=True,
    )
    try:
        async with asyncio.timeout(limits.deadline):
            return Answer(await retrying(once))
    except TimeoutError:
        return Failure(f"no answer within {limits.deadline:g} s")
    except Broken as error:
        return Failure(str(error))
    except Refused as error:
        return Failure(str(error), refused=True)


class Health:
    """Alive until ``patience`` requests in a row were broken."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.broken = 0

    @property
    def alive(self) -> bool:
        return self.broken < self.patience

    def note(self, result: Answer[T] | Failure) -> Answer[T] | Failure:
        self.broken = self.broken + 1 if isinstance(result, Failure) and not result.refused else 0
        return result


async def _parts(file: BinaryIO) -> AsyncIterator[bytes]:
    """A file, a piece at a time."""
    while part := file.read(1 << 20):
        yield part


def _seconds(retry_after: str | None) -> float:
    """The header as a wait: a number of seconds, or a date; 0 where it says neither."""
    if not retry_after:
        return 0.0
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, wait) if wait == wait else 0.0


def _run(work: Coroutine[Any, Any, T]) -> T:
    """From beginning to end, also where a loop is running already (a notebook)."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log a line per request
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
