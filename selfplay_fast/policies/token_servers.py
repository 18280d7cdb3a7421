"""Servers of a model as the sampler of one that learns: token ids go out, token ids and log-probabilities come back.

For `selfplay-fast serve`, and for vLLM's OpenAI server as its documents describe it (not tested with vLLM).
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import save_file

from selfplay_fast.policies.base import ReplyStream, answer_all
from selfplay_fast.policies.endpoint import (
    MAX_ANSWER,
    Answer,
    Broken,
    Endpoint,
    Failure,
    Limits,
    Request,
    retried,
)
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.model_stream import Said, worded
from selfplay_fast.policies.patience import Patience
from selfplay_fast.policies.remote_stream import RemoteStream, run_there
from selfplay_fast.policies.streams import stream_ids
from selfplay_fast.records import NO_LOGPROBS, NO_TOKENS, Ask, FinishReason, FloatArray, IntArray, Reply

API_KEY_ENV = "SELFPLAY_FAST_SERVER_KEY"
_LONGEST_REST = 30.0  # seconds that a server which fails is left alone
_TOKEN_BYTES = 128  # of an answer, for each token: its id, text, log-prob and what servers add
_LOG = logging.getLogger(__name__)
_NO_ROOM = Said(NO_TOKENS, NO_LOGPROBS, np.zeros(0, bool), "forfeit")


@dataclass(slots=True, eq=False)
class _Server:
    """One of the servers, as far as is known. Everything here belongs to the loop."""

    endpoint: Endpoint
    slots: asyncio.Semaphore
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    open: int = 0  # requests under way or waiting for a slot
    broken: int = 0  # failures in a row
    rests_until: float = 0.0
    version: int | None = None  # of the weights it was given last
    instance: str | None = None  # that took them; after a restart it is another one

    def preference(self) -> tuple[float, bool, int]:
        """The least is asked first: whoever does not rest; who failed last is asked one thing at a time."""
        rest = max(0.0, self.rests_until - time.monotonic())
        return rest, self.broken > 0 and self.open > 0, self.open

    def failed(self) -> None:
        self.broken += 1
        backoff = self.endpoint.limits.backoff
        self.rests_until = time.monotonic() + min(_LONGEST_REST, backoff * 2.0 ** min(self.broken, 10))

    def has_answered(self) -> None:
        self.broken, self.rests_until = 0, 0.0


class _Sent(NamedTuple):
    prompt: IntArray
    forced: IntArray
    room: int
    body: dict[str, Any]

    @property
    def longest(self) -> int:
        """Bytes of the answer, at most."""
        return MAX_ANSWER + self.body["n"] * self.room * _TOKEN_BYTES


class _Heard(NamedTuple):
    said: list[Said]
    version: int | None
    instance: str | None


class _Weights(NamedTuple):
    file: Path
    version: int


class TokenServers:
    """Answers with the weights that the servers at ``urls`` have; trained is ``learner``, an ordinary `LanguageModel`.

    Every url ends in /v1. Texts become tokens here, with the learner's tokenizer, so the servers must have the same.
    An ask goes to the least busy server. One that fails rests for a while, longer each time, and its asks go to others;
    a reply that does not come after all attempts is a forfeit: ``forfeits`` counts the reasons, a warning is logged.
    A request that is refused (HTTP 4xx) is a ValueError.

    After `hand_over` a reply of other weights is none: a server that has been started again, or missed an update, is
    given the weights of the last one first. Before it servers have what they were started with.

    From `selfplay-fast serve` a reply is the one that the learner would give, with the same weights and key. vLLM draws
    from a seed of its own, has no ``choices`` and takes no weights this way; start it with
    ``--logprobs-mode processed_logprobs``.

    model: its name, for servers that have several. accepts_weights: False for vLLM. limits: ``concurrency`` is of each
    server. patience: seconds that all of them may be gone; until then asks wait and new weights are kept for them,
    after that it is a `ServersGoneError`. With 0 their asks are forfeits.

        servers = TokenServers(policy, ["http://10.0.0.2:8000/v1", "http://10.0.0.3:8000/v1"])
        servers.hand_over()
        episodes = play_games(self_play(servers), games=["kuhn_poker"], episodes=512, seed=step)
    """

    def __init__(
        self,
        learner: LanguageModel,
        urls: Sequence[str],
        *,
        model: str = "model",
        api_key_env: str = API_KEY_ENV,
        accepts_weights: bool = True,
        limits: Limits | None = None,
        patience: float = 0.0,
    ) -> None:
        check_addresses(urls)
        self.learner = learner
        self.model = model
        self.limits = limits or Limits()
        self.accepts_weights = accepts_weights
        self.forfeits: Counter[str] = Counter()
        self._speaker = learner.speaker()
        self._servers = [
            _Server(
                Endpoint(url, api_key_env=api_key_env, limits=self.limits),
                asyncio.Semaphore(self.limits.concurrency),
            )
            for url in urls
        ]
        self._patience = Patience([server.endpoint for server in self._servers], patience)
        self._folder: Path | None = None
        self._weights: _Weights | None = None

    # -- weights -------------------------------------------------------------------------------------------------

    def hand_over(self) -> None:
        """Give all servers the learner's weights as they are now. Those that cannot be reached get them when they can.

        ConnectionError when none takes them: the first ones, or without patience any.
        """
        if not self.accepts_weights:
            raise ValueError("hand_over: these servers take no weights (accepts_weights=False)")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="selfplay-fast-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        old, version = self._weights, self.learner.version
        file = self._folder / f"{time.monotonic_ns()}.safetensors"
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.learner.model.named_parameters()}
        save_file(tensors, file)
        self._weights = _Weights(file, version)
        failures = run_there(self._tell_all())
        if old is not None:
            old.file.unlink()
        wanted = old is None or not self._patience.seconds
        if wanted and all(server.version != version for server in self._servers):
            same = "; serve the same model, with adapters of the same rank" if failures[0].refused else ""
            raise ConnectionError(
                f"no server takes the weights of version {version}: {failures[0].reason}{same}"
            )
        for failure in failures:
            _LOG.warning("a server has not got the weights of version %d: %s", version, failure.reason)

    async def _tell_all(self) -> list[Failure]:
        """Why some have not got them. One that failed before is not waited for: it is told before it is asked."""
        async with _Connections(self._servers) as connections:

            async def tell(server: _Server) -> Answer[None] | Failure:
                return await retried(self.limits, partial(self._tell, connections, server))

            well = [server for server in self._servers if not server.broken] or self._servers
            told = await asyncio.gather(*(tell(server) for server in well))
        return [result for result in told if isinstance(result, Failure)]

    async def _tell(self, connections: _Connections, server: _Server) -> None:
        """Give a server the newest weights, unless it has them."""
        async with server.telling:
            weights = self._weights
            assert weights is not None
            if server.version == weights.version:
                return
            try:
                with weights.file.open("rb") as file:  # before anybody else runs: newer weights unlink it
                    request = Request(f"weights?version={weights.version}", file)
                    instance = await server.endpoint.attempt(connections[server], request, _instance)
            except Broken:
                server.failed()
                raise
            server.version, server.instance = weights.version, instance
            server.has_answered()

    # -- replies -------------------------------------------------------------------------------------------------

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answer all asks."""
        return answer_all(self.stream(), asks)

    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        """The learner's exact log-probs of every choice, with its weights as they are."""
        return self.learner.score(asks)

    def stream(self) -> ReplyStream:
        """Replies one by one, as they come, to asks that come at any time."""
        return RemoteStream(
            prepare=self._prepare,
            connect=lambda: _Connections(self._servers),
            speak=self._speak,
            finish=self._finish,
        )

    def _prepare(self, asks: Sequence[Ask]) -> list[_Sent]:
        words = self._speaker
        forced = words.encode([ask.forced_prefix for ask in asks])
        sent = []
        for ask, prompt, extra in zip(asks, words.prompts(asks), forced, strict=True):
            start = np.concatenate([prompt, extra])
            if not len(start):
                raise ValueError(f"generate: the ask for role {ask.role!r} has an empty prompt")
            room = min(ask.sampling.max_tokens, words.context_limit - len(start))
            body = {
                "model": self.model,
                "prompt": start.tolist(),
                "n": ask.n,
                "forced_prefix": ask.forced_prefix,  # which the prompt ends with: reasoning may begin in it
                **asdict(ask.sampling),
                "max_tokens": room,
                "stop_token_ids": sorted(words.end_tokens),
                "key": list(ask.key),
                "seed": int(stream_ids([ask.key])[0] >> np.uint64(1)),
                "logprobs": 0,  # of the sampled token alone
                "return_token_ids": True,
                "skip_special_tokens": False,
            }
            if ask.choices is not None:
                body |= {"choices": list(ask.choices), "prompt": prompt.tolist(), "forced_prefix": ""}
                extra = NO_TOKENS
            sent.append(_Sent(prompt, extra, room, body))
        return sent

    async def _speak(self, connections: _Connections, sent: _Sent) -> Answer[_Heard] | Failure:
        if sent.room < 1:
            return Answer(_Heard([_NO_ROOM] * sent.body["n"], None, None))
        while True:
            began = time.monotonic()
            wanted = self._weights  # replies of older ones are not taken
            result = await retried(self.limits, partial(self._attempt, connections, sent, wanted))
            there = isinstance(result, Answer) or result.refused
            if there or not await self._patience.waited(began):
                return result

    async def _attempt(self, connections: _Connections, sent: _Sent, wanted: _Weights | None) -> _Heard:
        """One attempt at the server that seems best."""
        server = min(self._servers, key=_Server.preference)
        server.open += 1
        try:
            async with server.slots:
                if self._weights is not None and server.version != self._weights.version:
                    await self._tell(connections, server)
                request = Request("completions", sent.body, sent.longest)
                heard = await server.endpoint.attempt(connections[server], request, partial(_heard, sent))
        except Broken:
            server.failed()
            raise
        finally:
            server.open -= 1
        server.has_answered()
        if wanted is not None and (
            heard.instance != server.instance or (heard.version or 0) < wanted.version
        ):
            server.version = None  # it is told before it is asked again
            raise Broken("the reply is of other weights than were handed over")
        return heard

    def _finish(self, ask: Ask, sent: _Sent, result: Answer[_Heard] | Failure) -> list[Reply]:
        if isinstance(result, Failure):
            if result.refused:
                raise ValueError(f"servers: a request was refused: {result.reason}")
            if result.reason not in self.forfeits:
                _LOG.warning("a reply is forfeited, and perhaps more, because: %s", result.reason)
            self.forfeits[result.reason] += ask.n
            lost = Reply(
                text="",
                context=sent.prompt,
                finish_reason="forfeit",
                policy_version=self.learner.version,
            )
            return [lost] * ask.n
        heard = result.value
        version = self.learner.version if heard.version is None else heard.version
        return [worded(self._speaker, ask, sent.prompt, sent.forced, said, version) for said in heard.said]


def check_addresses(urls: Sequence[str]) -> None:
    """ValueError unless these are addresses of servers, each once."""
    if isinstance(urls, str) or not urls:
        raise ValueError(f"urls: must be a list of addresses that end in /v1, got {urls!r}")
    if len(set(urls)) < len(urls):
        raise ValueError("urls: one address stands there twice")
    for url in urls:
        Endpoint(url, api_key_env=API_KEY_ENV, limits=Limits())


def check_somebody(urls: Sequence[str]) -> None:
    """ConnectionError unless somebody answers at one of these addresses."""
    endpoints = [Endpoint(url, api_key_env=API_KEY_ENV, limits=Limits()) for url in urls]

    async def look() -> bool:
        return any(await asyncio.gather(*(endpoint.is_there() for endpoint in endpoints)))

    if not run_there(look()):
        raise ConnectionError(f"nobody answers at {' or '.join(urls)}; start selfplay-fast serve there first")


class _Connections:
    """To all servers."""

    def __init__(self, servers: Sequence[_Server]) -> None:
        self._clients = {server: server.endpoint.client() for server in servers}

    def __getitem__(self, server: _Server) -> Any:
        return self._clients[server]

    async def aclose(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))

    async def __aenter__(self) -> _Connections:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _instance(answer: Any) -> str:
    return str(answer["instance"])


def _heard(sent: _Sent, answer: Any) -> _Heard:
    """All samples of an answer; ValueError where they cannot be what was asked for."""
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    if [choice["index"] for choice in choices] != list(range(sent.body["n"])):
        raise ValueError(f"{sent.body['n']} samples were asked for, {len(choices)} came")
    version, instance = answer.get("policy_version"), answer.get("instance")
    return _Heard(
        [_said(sent, choice) for choice in choices],
        None if version is None else int(version),
        None if instance is None else str(instance),
    )


def _said(sent: _Sent, choice: Any) -> Said:
    reason: FinishReason = choice["finish_reason"]
    if reason == "forfeit":
        return _NO_ROOM
    if reason not in ("stop", "length"):
        raise ValueError(f"finish_reason is {reason!r}")
    tokens = np.array(choice["token_ids"], np.int32)
    greedy = sent.body["temperature"] == 0
    told = [0.0] * len(tokens) if greedy else choice["logprobs"]["token_logprobs"]
    logprobs = np.array(told, np.float32)
    mask = choice.get("train_mask")
    trained = np.ones(len(tokens), bool) if mask is None else np.array(mask, bool)
    if tokens.ndim != 1 or not len(tokens) or not tokens.shape == logprobs.shape == trained.shape:
        raise ValueError(f"{tokens.shape} tokens, {logprobs.shape} log-probs, {trained.shape} in the mask")
    if "choices" not in sent.body and len(tokens) > sent.room:
        raise ValueError(f"{len(tokens)} tokens, at most {sent.room} were asked for")
    if tokens.min() < 0 or not (logprobs <= 1e-3).all():
        raise ValueError("token ids or log-probs that cannot be")
    return Said(tokens, logprobs, trained, reason)
