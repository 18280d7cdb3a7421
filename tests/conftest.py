"""Test-wide settings. They are made before any test module imports torch, triton or transformers."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import importlib.util
import json
import os
import random
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when @triton.jit decorates, so before kernels load

torch.set_num_threads(1)  # OpenMP barriers on busy cores cost more than the second thread brings

# The same examples every time, however long a busy machine takes over them.
hypothesis.settings.register_profile(
    "calm", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("calm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the legacy stream is what libraries under test draw from
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def rlsp() -> ModuleType:
    """tests/oracles/rlsp.py"""
    spec = importlib.util.spec_from_file_location("rlsp", Path(__file__).parent / "oracles" / "rlsp.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy_texts() -> list[str]:
    """Forty prompts with a long common start and different ends and lengths, some of them equal."""
    rules = "Two players take turns; put the final move in \\boxed{}. Three in a row win. " * 2
    return [f"{rules}You are {'OX'[i % 2]}. Free: {i % 9} {i % 5}" + " and more" * (i % 3) for i in range(40)]


@pytest.fixture
def toy_policy(toy_texts: list[str]):  # type: ignore[no-untyped-def]
    """A fresh untrained nano policy, peaked but smooth: float32 gradients of two computations can be compared."""
    from selfplay_fast.policies.language_model import LanguageModel
    from selfplay_fast.policies.nano import build_model, build_tokenizer

    tokenizer = build_tokenizer([*toy_texts, "user\n", "assistant\n"])
    model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed=0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("q_norm.weight"):
                parameter.fill_(1)
            elif parameter.ndim > 1:
                parameter.mul_(0.08 / model.config.initializer_range)
    return LanguageModel(model, tokenizer)


_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64}


def _unshared_model(kind: str, vocabulary: int) -> Any:
    import transformers as tf

    sizes = {**_TINY, "vocab_size": vocabulary}
    if kind == "window":
        return tf.MistralForCausalLM(tf.MistralConfig(**sizes, **_HEADS, sliding_window=4))
    if kind == "window in some layers":
        config = tf.Qwen2Config(
            **sizes, **_HEADS, sliding_window=4, use_sliding_window=True, max_window_layers=1
        )
        return tf.Qwen2ForCausalLM(config)
    if kind == "state space":
        return tf.MambaForCausalLM(tf.MambaConfig(**sizes, state_size=8))
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    linear = {
        f"linear_{name}": size
        for name, size in (
            ("num_key_heads", 2),
            ("num_value_heads", 4),
            ("key_head_dim", 8),
            ("value_head_dim", 8),
        )
    }
    layers = ["linear_attention", "full_attention"]
    config = tf.Qwen3NextConfig(
        **sizes, **_HEADS, **experts, **linear, shared_expert_intermediate_size=16, layer_types=layers
    )
    return tf.Qwen3NextForCausalLM(config)


@pytest.fixture(params=["window", "window in some layers", "state space", "linear and full layers"])
def unshared_policy(request: pytest.FixtureRequest, toy_policy: Any) -> Any:
    """A tiny random policy that no prefix tree can run: Mistral, Qwen2, Mamba and Qwen3-Next."""
    from selfplay_fast.policies.language_model import LanguageModel

    model = _unshared_model(request.param, len(toy_policy.tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    return LanguageModel(model, toy_policy.tokenizer)


class Watched(torch.optim.SGD):
    """Takes no step; ``gradients`` are those that it was given last, in the order of the parameters."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.0)
        self.gradients: list[torch.Tensor] = []

    def step(self, closure: Any = None) -> None:
        self.gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]


@pytest.fixture(scope="session")
def watched() -> type[Watched]:
    """An optimizer that keeps the gradients, which an update lets go."""
    return Watched


class ScriptedServer:
    """A web server on this machine that says, byte by byte, what a test wants.

    script: an async generator of (decoded body, number of the attempt from 0, headers) that yields bytes to send; the
    connection is closed when it ends. ``seen`` holds (path, headers, body) of every request.
    """

    def __init__(self, script: Callable[[Any, int, dict[str, str]], AsyncIterator[bytes]]) -> None:
        self.script = script
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self._attempts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._answer, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._converse(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        size = int(headers.get("content-length", 0))
        body = json.loads(await reader.readexactly(size)) if size else None
        self.seen.append((head[0].split()[1], headers, body))
        key = json.dumps(body)
        self._attempts[key] += 1
        async for part in self.script(body, self._attempts[key] - 1, headers):
            writer.write(part)
            await writer.drain()

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # transports close one step later

    def close(self) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @staticmethod
    def http(body: bytes, status: int = 200, **headers: object) -> bytes:
        """One whole answer; headers like ``retry_after=2``."""
        fields = {
            "content_type": "application/json",
            "content_length": len(body),
            "connection": "close",
        } | headers
        lines = [f"HTTP/1.1 {status} Said", *(f"{k.replace('_', '-')}: {v}" for k, v in fields.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    @classmethod
    def reply(cls, text: object, finish_reason: str = "stop") -> bytes:
        """A good answer of /chat/completions."""
        message = {"role": "assistant", "content": text}
        return cls.http(
            json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}]}).encode()
        )


@pytest.fixture
def scripted_server() -> Iterator[Callable[..., ScriptedServer]]:
    """Starts servers that follow a script, and stops them."""
    servers: list[ScriptedServer] = []

    def start(script: Callable[[Any, int, dict[str, str]], AsyncIterator[bytes]]) -> ScriptedServer:
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def hasten() -> Callable[[Any, Callable[[Any], bool]], list[Any]]:
    """Gives an endpoint's attempts at some bodies 0.2 s, so that what hangs there is over soon, and leaves all others
    their time, however busy the machine. Returns the bodies of all attempts, which are added as they begin."""

    def hasten(endpoint: Any, hangs: Callable[[Any], bool]) -> list[Any]:
        usual, hasty, begun = endpoint.attempt, copy.copy(endpoint), []
        hasty.limits = dataclasses.replace(endpoint.limits, timeout=0.2)

        async def attempt(client: Any, request: Any, read: Any) -> Any:
            begun.append(request.body)
            return await (hasty.attempt if hangs(request.body) else usual)(client, request, read)

        endpoint.attempt = attempt
        return begun

    return hasten


@pytest.fixture(scope="session")
def free_port() -> Iterator[Callable[[], int]]:
    """Ports of this machine at which nobody listens. Each is bound until the end, so that nobody else is given it; a
    server may be started at it, since servers reuse addresses."""
    with contextlib.ExitStack() as held:

        def port() -> int:
            one = held.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
            return int(one.getsockname()[1])

        yield port
