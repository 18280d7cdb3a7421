"""A language model that answers other processes: token ids in, token ids and log-probabilities out, over HTTP.

The wire format is that of OpenAI's /v1/completions with vLLM's additions (``prompt`` as token ids,
``return_token_ids``), and four of ours: ``key`` is the ask's sampling stream, so that a reply is the one the same
weights give in the process of whoever asks; ``forced_prefix`` is the end of the prompt that is the reply's already;
``policy_version`` and ``instance`` say whose reply it is. uvicorn carries the bytes, Starlette the paths, pydantic
checks what comes in. Nothing is pickled, everything has a size limit.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import logging
import math
import re
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from selfplay_fast.arguments import shown
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.model_thread import ModelFailed, ModelThread
from selfplay_fast.records import Ask, Key, Reply, Sampling

try:
    import uvicorn
    from pydantic import BaseModel, ConfigDict, Field, ValidationError
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise ModuleNotFoundError(
        f"serving a model needs uvicorn, starlette and pydantic ({error}): "
        "pip install -c constraints.txt -e '.[serve]'",
        name=error.name,
    ) from error

T = TypeVar("T")

_MAX_BODY = 8 << 20  # bytes of a request for a reply
_LAST_WORDS = 10  # seconds
_LOG = logging.getLogger(__name__)
_INT64 = 2**63
_Word = Annotated[str, Field(max_length=1 << 16)]
_Any64 = Annotated[int, Field(ge=-_INT64, lt=2 * _INT64)]
_Id = Annotated[int, Field(ge=0, lt=2**31)]


class CompletionRequest(BaseModel):
    """The body of /v1/completions. Fields of OpenAI and vLLM that are not here change nothing and are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    prompt: list[_Id]
    forced_prefix: _Word = ""
    key: Annotated[list[_Any64], Field(min_length=3, max_length=3)] | None = None
    seed: _Any64 = 0  # where there is no key
    n: int = Field(1, ge=1, le=1024)
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = Field(16, lt=2**31)
    max_think_tokens: int | None = None
    stop: Annotated[list[_Word], Field(max_length=64)] = []
    stop_in_thinking: bool = False
    stop_token_ids: list[_Id] | None = None
    choices: Annotated[list[_Word], Field(min_length=1, max_length=1 << 16)] | None = None

    def ask(self, forced: int) -> Ask:
        """What the policy is asked, where so many tokens at the end of the prompt are ``forced_prefix``."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(Sampling)}
        return Ask(
            role="client",
            append=np.array(self.prompt[: len(self.prompt) - forced], np.int32),
            forced_prefix=self.forced_prefix,
            key=Key(*self.key) if self.key else Key(self.seed, 0, 0),
            choices=None if self.choices is None else tuple(self.choices),
            n=self.n,
            sampling=Sampling(**options | {"stop": tuple(self.stop)}),
        )


class ModelServer:
    """``policy`` as an ASGI application, `app`: /v1/completions, /v1/weights, /health.

    token: the password that every request but /health must bring as ``Authorization: Bearer``. weights_folder: where
    weights may be read from, None for nowhere. max_waiting: asks beyond are told to come back (HTTP 503).
    """

    def __init__(
        self,
        policy: LanguageModel,
        *,
        name: str = "model",
        token: str | None = None,
        weights_folder: Path | None = None,
        max_waiting: int = 4096,
    ) -> None:
        if max_waiting < 1:
            raise ValueError(f"max_waiting: must be at least 1, got {max_waiting}")
        self.name = name
        self.instance = secrets.token_hex(8)  # another one after a restart, whose weights nobody vouches for
        self._policy = policy
        self._speaker = policy.speaker()
        self._token = token
        self._folder = None if weights_folder is None else weights_folder.resolve()
        self._max_waiting = max_waiting
        self._waiting = 0
        self._vocabulary = int(policy.model.get_input_embeddings().weight.shape[0])
        self._shapes = {key: tuple(value.shape) for key, value in policy.model.named_parameters()}
        self._model = ModelThread(policy)
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/weights", self._weights, methods=["POST"]),
            ],
            exception_handlers={ValueError: _refused, ModelFailed: _failed, ClientDisconnect: _nobody},
        )

    def close(self) -> None:
        """Stop answering."""
        self._model.close()

    async def _health(self, request: Request) -> Response:
        return JSONResponse(
            {"model": self.name, "policy_version": self._policy.version, "instance": self.instance}
            | {"waiting": self._waiting}
        )

    async def _completions(self, request: Request) -> Response:
        if refusal := self._stranger(request):
            return refusal
        try:
            wanted = CompletionRequest.model_validate_json(await _body(request))
            self._check(wanted)
            forced = self._forced(wanted)
            ask = wanted.ask(forced)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{where or 'body'}: {first['msg']}") from None
        if self._waiting >= self._max_waiting:
            return JSONResponse({"error": "too many requests wait"}, 503, {"Retry-After": "1"})
        self._waiting += 1
        try:
            replies = await _while_there(request, self._model.ask(ask))
        finally:
            self._waiting -= 1
        return JSONResponse(self._answer(replies, forced))

    def _check(self, wanted: CompletionRequest) -> None:
        ends = self._policy.end_tokens
        if wanted.stop_token_ids is not None and set(wanted.stop_token_ids) != ends:
            raise ValueError(f"stop_token_ids: this model's are {sorted(ends)}; is it another tokenizer?")
        if wanted.prompt and max(wanted.prompt) >= self._vocabulary:
            raise ValueError(f"prompt: token ids must be below {self._vocabulary}, got {max(wanted.prompt)}")

    def _forced(self, wanted: CompletionRequest) -> int:
        """How many tokens at the end of the prompt are the forced prefix."""
        tokens = self._speaker.encode([wanted.forced_prefix])[0].tolist()
        if wanted.prompt[len(wanted.prompt) - len(tokens) :] != tokens or (tokens and wanted.choices):
            raise ValueError("forced_prefix: the prompt must end with its tokens; choices have none")
        return len(tokens)

    def _answer(self, replies: Sequence[Reply], forced: int) -> dict[str, Any]:
        """What was said after so many forced tokens."""
        return {
            "object": "text_completion",
            "model": self.name,
            "policy_version": replies[0].policy_version,
            "instance": self.instance,
            "choices": [
                {
                    "index": k,
                    "text": reply.text,
                    "finish_reason": reply.finish_reason,
                    "token_ids": reply.tokens[forced:].tolist(),
                    "train_mask": reply.train_mask[forced:].tolist(),
                    "logprobs": {"token_logprobs": reply.logprobs[forced:].tolist()},
                }
                for k, reply in enumerate(replies)
            ],
        }

    async def _weights(self, request: Request) -> Response:
        """``?version=3`` with a safetensors file as the body, or ``&folder=…`` and none."""
        if refusal := self._stranger(request):
            return refusal
        version = request.query_params.get("version", "")
        if not re.fullmatch("[0-9]{1,18}", version):
            raise ValueError(f"version: must be a whole number, got {shown(version)}")
        if folder := request.query_params.get("folder"):
            tensors = await asyncio.to_thread(self._read, self._files(folder))
        else:
            with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
                limit = 8 * sum(math.prod(shape) for shape in self._shapes.values()) + (1 << 20)
                async for part in _parts(request, limit):
                    file.write(part)
                file.flush()
                tensors = await asyncio.to_thread(self._read, [Path(file.name)])
        await _while_there(request, self._model.replace(tensors, int(version)))
        return JSONResponse({"policy_version": int(version), "instance": self.instance})

    def _files(self, folder: str) -> list[Path]:
        path = Path(folder).resolve()
        if self._folder is None or not path.is_relative_to(self._folder):
            raise ValueError(
                "folder: this server reads no weights from there; start it with --weights-folder"
            )
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise ValueError(f"folder: there is no .safetensors file in {shown(folder)}")
        return files

    def _read(self, files: Sequence[Path]) -> dict[str, torch.Tensor]:
        """All parameters of the model, checked before any is put in."""
        tensors: dict[str, torch.Tensor] = {}
        try:
            for file in files:
                tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"weights: not a whole safetensors file: {error}") from None
        for name, shape in self._shapes.items():
            if name not in tensors:
                raise ValueError(f"weights: {name} is missing")
            if tuple(tensors[name].shape) != shape or not tensors[name].is_floating_point():
                got = f"{tensors[name].dtype} {list(tensors[name].shape)}"
                raise ValueError(f"weights: {name} must be floats {list(shape)}, got {got}")
            if not bool(tensors[name].isfinite().all()):
                raise ValueError(f"weights: {name} holds numbers that are not finite")
        return tensors

    def _stranger(self, request: Request) -> Response | None:
        """A refusal for whoever does not know the password."""
        if self._token is None:
            return None
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), self._token.encode()):
            return None
        return JSONResponse({"error": "authorization: the server's password is needed"}, 401)


class _TooLong(ValueError):
    """What comes in has more bytes than it may have."""


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse(
        {"error": " ".join(str(error).split())[:600]}, 413 if isinstance(error, _TooLong) else 400
    )


async def _failed(request: Request, error: Exception) -> Response:
    _LOG.error("%s", error, exc_info=error)
    return JSONResponse({"error": " ".join(str(error).split())[:600]}, 500)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it: the client has left


async def _while_there(request: Request, future: Future[T]) -> T:
    """Its result. It is cancelled, and ClientDisconnect raised, when the client leaves, whose body has been read."""
    result: asyncio.Future[Any] = asyncio.wrap_future(future)
    leaving: asyncio.Future[Any] = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({result, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return cast(T, result.result())
    finally:
        leaving.cancel()
        result.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    return b"".join([part async for part in _parts(request, _MAX_BODY)])


async def _parts(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it comes; _TooLong when it is longer than it may be."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _TooLong(f"body: must be at most {limit} bytes")
        yield part


def run(server: ModelServer, listening: socket.socket) -> None:
    """Serve at this socket until the process is told to end; replies under way are finished, for a while."""
    config = uvicorn.Config(
        server.app, log_level="warning", lifespan="off", timeout_graceful_shutdown=_LAST_WORDS
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        server.close()
