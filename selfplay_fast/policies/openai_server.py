"""Any server with OpenAI's interface as a policy: vLLM, SGLang, llama.cpp, transformers serve, hosted models.

For roles that do not learn: judges, simulated users, opponents. Words go out and come back, no token ids and no
log-probs, so nothing can be trained on these replies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from selfplay_fast.arguments import shown
from selfplay_fast.policies.base import ReplyStream, answer_all
from selfplay_fast.policies.endpoint import Answer, Endpoint, Failure, Health, Limits, Request
from selfplay_fast.policies.remote_stream import RemoteStream
from selfplay_fast.policies.streams import UIntArray, sample_streams, stream_ids, uniforms
from selfplay_fast.policies.thinking import Tags, hidden_part
from selfplay_fast.records import Ask, FinishReason, FloatArray, IntArray, Key, Reply, Sampling

_Said = list[dict[str, str]] | str  # all messages so far, or plain text

PREFIX = "server:"
_BEYOND_OPENAI = ("top_k", "min_p")
_OURS = {"model", "messages", "prompt", "temperature", "top_p", "max_tokens", "max_completion_tokens"}
_OURS |= {"stop", "seed", "n", "stream", "echo", "logprobs"}
_NO_IDS = -1  # opens a context that holds no token ids
_LOG = logging.getLogger(__name__)


class _Written(NamedTuple):
    text: str
    finish_reason: FinishReason
    reasoning: str = ""  # where the server tells it apart


class OpenAIServer:
    """The model ``model`` of the server at ``url``, which ends where /chat/completions begins.

    Asks with chat messages go to /chat/completions, plain text to /completions. Each of the ``n`` samples is a request
    of its own with a seed from its key (``seeds=False`` leaves seeds out), so that samples are as repeatable as the
    server makes them. A reply's ``context`` holds the conversation and serves as that of the next ask, for this class
    only.

    api_key_env: the environment variable with the key, sent where it is set. accepts: sampling options beyond OpenAI's
    that the server knows, of ``"top_k"`` and ``"min_p"``; others are a ValueError. length_field: what it calls the
    limit of tokens. think_budget_field: what it calls the limit of reasoning, if it has one (vLLM:
    ``"thinking_token_budget"``); without it an ask with ``max_think_tokens`` is a ValueError. think_tags: the tags
    around reasoning that the server leaves in the text. Reasoning that it tells apart is hidden as well, and is no
    part of the conversation. extra: further fields of every request. limits: concurrency, times and attempts.
    end_of_turn: the text of the token that ends a reply, needed to score choices.

    A reply that does not come, after all attempts, has ``finish_reason="forfeit"`` and no text; ``forfeits`` counts the
    reasons and a warning is logged. A request that the server refuses (HTTP 4xx) is a ValueError as long as it has
    answered nothing, afterwards a forfeit.

        judge = OpenAIServer("http://127.0.0.1:8000/v1", "Qwen/Qwen3-8B", limits=Limits(concurrency=64))
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        accepts: Collection[str] = (),
        length_field: str = "max_tokens",
        think_budget_field: str | None = None,
        think_tags: Tags = ("<think>", "</think>"),
        seeds: bool = True,
        extra: Mapping[str, Any] | None = None,
        end_of_turn: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        if not model:
            raise ValueError("model: name the model that the server shall use, got an empty name")
        if unknown := set(accepts) - set(_BEYOND_OPENAI):
            raise ValueError(
                f"accepts: only {' and '.join(_BEYOND_OPENAI)} are known, got {sorted(unknown)[0]!r}"
            )
        if length_field not in ("max_tokens", "max_completion_tokens"):
            raise ValueError(
                f"length_field: must be 'max_tokens' or 'max_completion_tokens', got {length_field!r}"
            )
        if clash := (_OURS | {think_budget_field or "model"}) & set(extra or {}):
            raise ValueError(f"extra: {sorted(clash)[0]!r} is set by the ask or the policy; leave it out")
        self.model = model
        self.accepts = frozenset(accepts)
        self.length_field = length_field
        self.think_budget_field = think_budget_field
        self.think_tags = think_tags
        self.seeds = seeds
        self.extra = dict(extra or {})
        self.end_of_turn = end_of_turn
        self.endpoint = Endpoint(url, api_key_env=api_key_env, limits=limits or Limits())
        self.forfeits: Counter[str] = Counter()
        self._has_answered = False

    @classmethod
    def from_name(cls, name: str, **options: Any) -> OpenAIServer:
        """From ``server:URL#MODEL``, as command lines and configurations have it."""
        url, mark, model = name.removeprefix(PREFIX).partition("#")
        if not name.startswith(PREFIX) or not mark:
            raise ValueError(f"{name!r} must look like server:http://127.0.0.1:8000/v1#MODEL")
        return cls(url, model, **options)

    @classmethod
    def opponents(cls, names: Sequence[str]) -> dict[str, OpenAIServer]:
        """Several of them by their labels, each checked; two of one label are a ValueError."""
        servers = [cls.from_name(name) for name in names]
        labels = [server.label for server in servers]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"opponents: two of them are called {label!r}")
        for server in servers:
            server.check()
        return dict(zip(labels, servers, strict=True))

    @property
    def label(self) -> str:
        """The model's name as a word of a metric."""
        return re.sub(r"[^\w.-]+", "-", self.model).strip("-")

    def check(self) -> None:
        """Ask for a word; ValueError with one line when none comes."""
        ask = Ask(
            role="check",
            append=[{"role": "user", "content": "Say yes."}],
            key=Key(0, 0, 0),
            sampling=Sampling(max_tokens=16),
        )
        (result,) = self.endpoint.post_all([self._request(ask, 0)], _written)
        if isinstance(result, Failure):
            raise ValueError(self._complaint(result))
        self._has_answered = True

    # -- generate ------------------------------------------------------------------------------------------------

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answer all asks, ``limits.concurrency`` at a time. Asks with choices are scored and drawn here."""
        return answer_all(self.stream(), asks)

    def stream(self) -> ReplyStream:
        """Replies one by one, as they come, to asks that come at any time; faults as of `generate`."""
        slots = asyncio.Semaphore(self.endpoint.limits.concurrency)
        health = Health(max(8, self.endpoint.limits.concurrency))
        forfeits: Counter[str] = Counter()
        heard = [0]
        refused: list[Failure] = []

        async def speak(client: Any, exchange: _Exchange) -> list[Answer[Any] | Failure]:
            async def post(request: Request) -> Answer[Any] | Failure:
                async with slots:
                    return await self.endpoint.post(client, request, exchange.read, health)

            return await asyncio.gather(*(post(request) for request in exchange.requests))

        def finish(ask: Ask, exchange: _Exchange, results: list[Answer[Any] | Failure]) -> list[Reply]:
            if ask.choices is not None:
                scores = np.array(
                    [self._total(*pair) for pair in zip(exchange.echoes, results, strict=True)], np.float32
                )
                chosen = [_choose(ask, scores, float(u)) for u in uniforms(exchange.streams, 0)]
                return [_reply(ask, written, self.think_tags) for written in chosen]
            failures = self._failures(results)
            forfeits.update(failure.reason for failure in failures)
            refused.extend(failure for failure in failures if failure.refused)
            heard[0] += len(results)
            return [_reply(ask, r.value if isinstance(r, Answer) else None, self.think_tags) for r in results]

        def ended() -> None:
            if refused and not self._has_answered:
                raise ValueError(self._complaint(refused[0]))
            if forfeits:
                reason, count = forfeits.most_common(1)[0]
                _LOG.warning(
                    "%s: %d of %d replies forfeited, %d because: %s",
                    self.model, forfeits.total(), heard[0], count, reason,
                )  # fmt: skip
            forfeits.clear()
            refused.clear()
            heard[0] = 0
            health.broken = 0  # it may have come back by the time of the next request

        return RemoteStream(
            prepare=lambda asks: [self._exchange(ask) for ask in asks],
            connect=self.endpoint.client,
            speak=speak,
            finish=finish,
            ended=ended,
        )

    def _exchange(self, ask: Ask) -> _Exchange:
        """All that is sent for an ask."""
        streams = sample_streams(np.repeat(stream_ids([ask.key]), ask.n), np.arange(ask.n))
        if ask.choices is not None:
            echoes = self._echoes(ask)
            return _Exchange(streams, [echo.request for echo in echoes], _echoed, echoes)
        requests = [self._request(ask, int(stream >> np.uint64(33))) for stream in streams]
        return _Exchange(streams, requests, _written, [])

    def _request(self, ask: Ask, seed: int) -> Request:
        said = _said(ask)
        chat = not isinstance(said, str)
        if chat and ask.forced_prefix:
            raise ValueError(
                f"forced_prefix: a chat's reply cannot be begun for the server (role {ask.role!r})"
            )
        body: dict[str, Any] = {
            "model": self.model,
            "messages" if chat else "prompt": said if chat else f"{said}{ask.forced_prefix}",
            **self._options(ask.sampling),
            **self.extra,
        }
        if self.seeds:
            body["seed"] = seed
        return Request("chat/completions" if chat else "completions", body)

    def _options(self, sampling: Sampling) -> dict[str, Any]:
        options: dict[str, Any] = {
            "temperature": sampling.temperature,
            self.length_field: sampling.max_tokens,
        }
        if sampling.top_p < 1:
            options["top_p"] = sampling.top_p
        if sampling.stop:
            options["stop"] = list(sampling.stop)
        if sampling.max_think_tokens is not None:
            if self.think_budget_field is None:
                raise ValueError(
                    "sampling: max_think_tokens is not in OpenAI's interface; if this server has a field for it, "
                    "make the policy with think_budget_field (vLLM: 'thinking_token_budget')"
                )
            options[self.think_budget_field] = sampling.max_think_tokens
        for name in _BEYOND_OPENAI:
            if value := getattr(sampling, name):
                if name not in self.accepts:
                    raise ValueError(
                        f"sampling: {name} is not in OpenAI's interface; if this server knows it, "
                        f"make the policy with accepts=({name!r},)"
                    )
                options[name] = value
        return options

    def _failures(self, results: Sequence[Answer[Any] | Failure]) -> list[Failure]:
        """Those among the results, counted."""
        failures = [result for result in results if isinstance(result, Failure)]
        self._has_answered |= len(failures) < len(results)
        self.forfeits.update(failure.reason for failure in failures)
        return failures

    def _complaint(self, failure: Failure) -> str:
        hint = "; does the address end in /v1?" if failure.reason.startswith("HTTP 404") else ""
        if failure.reason.startswith(("HTTP 401", "HTTP 403")):
            hint = f"; is the right key in {self.endpoint.api_key_env}?"
        return f"model {self.model!r} at {self.endpoint.url} does not answer: {failure.reason}{hint}"

    # -- score ---------------------------------------------------------------------------------------------------

    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        """Log-prob of each choice as the whole reply, ``end_of_turn`` included, for asks with plain text.

        The server must return the log-probs of a prompt (``echo`` with ``logprobs`` on /completions, as vLLM does).
        ValueError where it does not, for chats (their template is the server's), and for temperatures other than 1.
        """
        echoes = [echo for ask in asks for echo in self._echoes(ask)]
        results = self.endpoint.post_all([echo.request for echo in echoes], _echoed)
        totals = [self._total(echo, result) for echo, result in zip(echoes, results, strict=True)]
        splits = np.cumsum([len(ask.choices or ()) for ask in asks])[:-1]
        return [part.astype(np.float32) for part in np.split(np.array(totals), splits)] if asks else []

    def _echoes(self, ask: Ask) -> list[_Echo]:
        said = _said(ask)
        if not ask.choices:
            raise ValueError(f"score: the ask for role {ask.role!r} has no choices")
        if not isinstance(said, str):
            raise ValueError(
                f"choices: a server does not tell the log-probs of a chat's replies (role {ask.role!r}); "
                "ask with plain text, or take a local model"
            )
        if self.end_of_turn is None:
            raise ValueError(
                "choices: make the policy with end_of_turn, the text of the token that ends a reply"
            )
        if ask.sampling.temperature not in (0, 1):
            raise ValueError(
                f"choices: a server scores at temperature 1, not {ask.sampling.temperature} (role {ask.role!r})"
            )
        fixed = {"model": self.model, "max_tokens": 1, "echo": True, "logprobs": 1, **self.extra}
        return [
            _Echo(Request("completions", {"prompt": f"{said}{choice}{self.end_of_turn}", **fixed}), len(said))
            for choice in ask.choices
        ]

    def _total(self, echo: _Echo, result: Answer[_Scored | None] | Failure) -> float:
        """The sum of the log-probs of the prompt from ``echo.start`` on."""
        if isinstance(result, Failure):
            raise ValueError(self._complaint(result))
        if result.value is None:
            raise ValueError(
                f"choices: the server at {self.endpoint.url} returns no log-probs of a prompt (echo with logprobs)"
            )
        assert isinstance(echo.request.body, dict)
        end = len(echo.request.body["prompt"])
        inside = [(at, logp) for at, logp in zip(*result.value, strict=True) if echo.start <= at < end]
        total = float(sum(logp for _, logp in inside))
        if not inside or inside[0][0] != echo.start or total != total:
            raise ValueError("choices: the server's tokens do not begin where the choice begins")
        return total


class _Exchange(NamedTuple):
    """What is sent for one ask, and how its answers are read: of each sample, or of each choice."""

    streams: UIntArray
    requests: list[Request]
    read: Callable[[Any], Any]
    echoes: list[_Echo]


class _Echo(NamedTuple):
    request: Request
    start: int  # of the choice, in characters


class _Scored(NamedTuple):
    offsets: list[int]
    logprobs: list[float]


def _written(answer: Any) -> _Written:
    """The reply in an answer of either path."""
    choice = answer["choices"][0]
    message = choice.get("message", {})
    text = _text(message["content"] if "message" in choice else choice["text"])
    reasoning = _text(message.get("reasoning") or message.get("reasoning_content"))  # vLLM has had both
    return _Written(text, "length" if choice.get("finish_reason") == "length" else "stop", reasoning)


def _text(value: Any) -> str:
    """What JSON holds as text; nothing was said where it is null, as when all tokens went into thinking."""
    if not isinstance(value, str | None):
        raise ValueError(f"the text is {shown(value)}")
    return (value or "").encode(errors="replace").decode()  # JSON may hold halves of characters


def _echoed(answer: Any) -> _Scored | None:
    """Where the tokens of a prompt begin and their log-probs (the first has none), None from a server without them."""
    choice = answer["choices"][0]
    told = choice.get("logprobs")
    if not told or not told.get("token_logprobs"):
        return None
    offsets = [int(at) for at in told["text_offset"]]
    logprobs = [float("nan") if logp is None else float(logp) for logp in told["token_logprobs"]]
    if len(offsets) != len(logprobs):
        raise ValueError("text_offset and token_logprobs are not of one length")
    return _Scored(offsets, logprobs)


def _said(ask: Ask) -> _Said:
    """What the reply comes after: all messages so far, or plain text."""
    if isinstance(ask.append, np.ndarray):
        raise ValueError(f"append: a server takes messages or text, not token ids (role {ask.role!r})")
    new: _Said = ask.append if isinstance(ask.append, str) else [dict(message) for message in ask.append]
    if not isinstance(new, str) and (ask.context is None or ask.history):
        return [*map(dict, ask.history), *new]
    if ask.context is None:
        return new
    if not len(ask.context) or ask.context[0] != _NO_IDS:
        raise ValueError(
            f"context: a server takes those of its own replies, not token ids (role {ask.role!r}); "
            "or give all messages in append"
        )
    before: _Said = json.loads(ask.context[1:].astype(np.uint8).tobytes())
    if isinstance(before, str) != isinstance(new, str):
        raise ValueError(
            f"append: go on with {'text' if isinstance(before, str) else 'messages'} (role {ask.role!r})"
        )
    return before + new  # type: ignore[operator]


def _packed(said: _Said) -> IntArray:
    """A conversation as a context: its JSON, byte by byte."""
    return np.array([_NO_IDS, *json.dumps(said).encode()], np.int32)


def _reply(ask: Ask, written: _Written | None, tags: Tags) -> Reply:
    said = _said(ask)
    if written is None:
        return Reply(text="", context=_packed(said), finish_reason="forfeit")
    text = f"{ask.forced_prefix}{written.text}"
    opened = isinstance(said, str) and ask.choices is None and said.rstrip().endswith(tags[0])
    hidden, unclosed = hidden_part(text, tags, opened)
    block = ""
    if written.reasoning:
        unclosed |= not text
        block = f"{tags[0]}\n{written.reasoning}\n" + ("" if unclosed else f"{tags[1]}\n\n")
    answer = {"role": "assistant", "content": "" if unclosed else text}
    after = said + text if isinstance(said, str) else [*said, answer]
    return Reply(
        text=block + text,
        context=_packed(after),
        finish_reason=written.finish_reason,
        hidden=len(block) + hidden,
        unclosed=unclosed,
        history=() if isinstance(after, str) else tuple(after),
    )


def _choose(ask: Ask, scores: FloatArray, u: float) -> _Written:
    """Draw a choice by its score, the best at temperature 0."""
    assert ask.choices is not None
    cumulative = np.cumsum(np.exp(scores.astype(np.float64) - scores.max()))
    drawn = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return _Written(ask.choices[int(scores.argmax()) if ask.sampling.temperature == 0 else drawn], "stop")
