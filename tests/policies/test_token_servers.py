"""A model served by token ids, and its servers as a policy: over real connections, within this process.

Oracles: the same weights asked directly, bit for bit; scripts of servers that fail; the documented refusals.
"""

import asyncio
import dataclasses
import http.client
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

pytest.importorskip("httpx2", reason="comes with the extra 'test'")
pytest.importorskip("tenacity", reason="comes with the extra 'test'")
pytest.importorskip("uvicorn", reason="comes with the extra 'test'")
pytest.importorskip("starlette", reason="comes with the extra 'test'")

import uvicorn
from safetensors.torch import save as safetensors_of
from safetensors.torch import save_file

from selfplay_fast.play import game_tables, play
from selfplay_fast.policies.base import ServersGoneError
from selfplay_fast.policies.endpoint import Endpoint, Limits, Request
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.model_server import ModelServer
from selfplay_fast.policies.nano import build_model, build_nano
from selfplay_fast.policies.remote_stream import run_there
from selfplay_fast.policies.token_servers import API_KEY_ENV, TokenServers, check_somebody
from selfplay_fast.records import Ask, Key, Sampling

FAST = Limits(concurrency=8, attempts=4, backoff=0.01)


@pytest.fixture(scope="module")
def nano():
    return build_nano(["kuhn_poker"], seed=0)


def policy_of(nano, seed, **options):
    """The same tokenizer, other weights."""
    tokenizer = nano[1]
    model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed)
    return LanguageModel(model, tokenizer, **options)


@pytest.fixture
def serve(nano):
    """Starts servers of weights by a seed; (server, address)."""
    running = []

    def start(seed=1, policy=None, **options):
        server = ModelServer(policy or policy_of(nano, seed), **options)
        web = uvicorn.Server(uvicorn.Config(server.app, log_level="warning", lifespan="off"))
        listening = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, web, thread, listening))
        return server, f"http://127.0.0.1:{listening.getsockname()[1]}/v1"

    yield start
    for server, web, thread, listening in running:
        web.should_exit = True
        thread.join()
        server.close()
        listening.close()


@pytest.fixture
def learner(nano):
    return policy_of(nano, 0)


def ask(index=0, **changes):
    defaults = {
        "role": "a",
        "append": [{"role": "user", "content": f"number {index}"}],
        "key": Key(5, index, 2),
    }
    return Ask(**(defaults | {"sampling": Sampling(max_tokens=6)} | changes))


@pytest.fixture
def nowhere(free_port):
    """Addresses where nobody listens."""
    return lambda: f"http://127.0.0.1:{free_port()}/v1"


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a.text, a.finish_reason, a.history) == (b.text, b.finish_reason, b.history)
        for name in ("tokens", "logprobs", "train_mask", "context"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
            assert getattr(a, name).dtype == getattr(b, name).dtype


def post(url, body=None, data=None, **headers):
    """Status and decoded answer."""
    request = urllib.request.Request(url, data if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


SAMPLINGS = {
    "plain": {},
    "samples": {"n": 3},
    "greedy": {"sampling": Sampling(temperature=0, max_tokens=4)},
    "truncated": {
        "sampling": Sampling(temperature=0.7, top_p=0.8, top_k=30, min_p=0.01, max_tokens=5),
        "n": 2,
    },
    "stop": {"sampling": Sampling(max_tokens=40, stop=("e", "a"))},
    "forced": {"forced_prefix": "I say "},
    "choices": {"choices": ("bet", "pass", "fold"), "n": 4},
    "text": {"append": "once upon"},
    "full": {"append": np.ones(5000, np.int32)},
}


def test_replies_are_those_of_the_same_weights_here(serve, learner):
    """Oracle: the learner asked the same directly, bit for bit, one ask at a time; contexts go on."""
    _, url = serve()
    servers = TokenServers(learner, [url], limits=FAST)
    learner.version = 3
    servers.hand_over()
    for changes in SAMPLINGS.values():
        theirs = servers.generate([ask(**changes)])
        same(theirs, learner.generate([ask(**changes)]))
        assert {reply.policy_version for reply in theirs} == {3}
    (first,) = learner.generate([ask()])
    more = ask(1, context=first.context, history=first.history)
    same(servers.generate([more]), learner.generate([more]))
    assert not servers.forfeits


@pytest.mark.parametrize("prefix", ["<think>so", "<think>so</think>", "well"])
def test_reasoning_may_begin_in_a_forced_prefix(serve, nano, prefix):
    """Oracle: a thinking model asked directly, bit for bit: where its reasoning is closed by force, and where stop
    strings count."""
    here, there = (policy_of(nano, 1, think_tags=("<think>", "</think>")) for _ in range(2))
    here.end_tokens = there.end_tokens = frozenset()
    _, url = serve(policy=there)
    servers = TokenServers(here, [url], limits=FAST)
    for sampling in (
        Sampling(max_tokens=40, max_think_tokens=5),
        Sampling(max_tokens=40, max_think_tokens=25, stop=("e", "a")),
    ):
        wanted = ask(forced_prefix=prefix, sampling=sampling)
        ours = here.generate([wanted])
        same(servers.generate([wanted]), ours)
    begins_inside = prefix.startswith("<think>") and not prefix.endswith("</think>")
    forced = len(here.encode([prefix])[0])
    assert begins_inside == any(not reply.train_mask[forced:].all() for reply in ours)
    status, said = post(f"{url}/completions", {"prompt": [1], "forced_prefix": "well"})
    assert (status, "forced_prefix" in said["error"]) == (400, True)


def test_many_asks_share_the_engine(serve, learner):
    """Oracle: the learner's own games; token for token, and as nearly as other batches allow in their log-probs."""
    _, url = serve(seed=0)
    servers = TokenServers(learner, [url], limits=FAST)
    settings = {"games": ["kuhn_poker"], "episodes": 12, "seed": 1, "style": "brief"}
    sampling = Sampling(max_tokens=4)
    ours, theirs = (
        play({"player_0": p, "player_1": learner}, game_tables(sampling=sampling, **settings))
        for p in (servers, learner)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert [turn.reply.text for turn in a.turns] == [turn.reply.text for turn in b.turns]
        for x, y in zip(a.turns, b.turns, strict=True):
            np.testing.assert_allclose(x.reply.logprobs, y.reply.logprobs, atol=1e-4)


def test_weights_that_do_not_fit_change_nothing(serve, learner, tmp_path):
    """Oracle: the version and the reply before; the refusal names what is wrong."""
    _, url = serve(weights_folder=tmp_path)
    good = {name: p.detach() for name, p in learner.model.named_parameters()}
    first = next(iter(good))
    wrong = {
        "missing": ({k: v for k, v in good.items() if k != first}, f"{first} is missing"),
        "shape": (good | {first: good[first][:-1].contiguous()}, f"{first} must be floats"),
        "nan": (good | {first: torch.full_like(good[first], float("nan"))}, "not finite"),
    }
    (before,) = TokenServers(learner, [url], limits=FAST).generate([ask()])
    for tensors, words in wrong.values():
        save_file(tensors, tmp_path / "w.safetensors")
        status, said = post(f"{url}/weights?version=9", data=(tmp_path / "w.safetensors").read_bytes())
        assert (status, words in said["error"]) == (400, True), said
    for query, data, words in (
        ("version=9", b"garbage", "safetensors"),
        ("version=x", b"", "version"),
        ("version=9", b"x" * (8 * sum(v.numel() for v in good.values()) + (2 << 20)), "at most"),
        ("version=9&folder=/etc", b"", "--weights-folder"),
    ):
        status, said = post(f"{url}/weights?{query}", data=data)
        assert (status, words in said["error"]) == (413 if words == "at most" else 400, True), said
    assert post(f"{url[:-3]}/health", None)[1]["policy_version"] == 0
    (after,) = TokenServers(learner, [url], limits=FAST).generate([ask()])
    assert after.text == before.text
    save_file(good, tmp_path / "w.safetensors")
    assert post(f"{url}/weights?version=9&folder={tmp_path}", data=b"")[1]["policy_version"] == 9
    (reply,) = TokenServers(learner, [url], limits=FAST).generate([ask()])
    same([reply], learner.generate([ask()]))
    assert reply.policy_version == 9


def test_what_a_server_refuses(serve, learner):
    """Oracle: the documented limits; a refused request is a ValueError of whoever asks."""
    _, url = serve(token="secret")
    status, said = post(f"{url}/completions", {"prompt": [1], "max_tokens": 1})
    assert (status, "password" in said["error"]) == (401, True)
    with pytest.raises(ValueError, match="password"):
        TokenServers(learner, [url], limits=FAST).generate([ask()])
    bearer = {"Authorization": "Bearer secret"}
    good = {"prompt": [1, 2], "key": [0, 0, 0], "max_tokens": 1}
    assert post(f"{url}/completions", good, **bearer)[0] == 200
    for change, words in (
        ({"prompt": [1, 10**6]}, "prompt: token ids must be below"),
        ({"prompt": "words"}, "prompt"),
        ({"prompt": []}, "empty prompt"),
        ({"n": 0}, "n: "),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_token_ids": [0]}, "stop_token_ids"),
        ({"key": [0, 0]}, "key"),
        ({"choices": []}, "choices"),
    ):
        status, said = post(f"{url}/completions", good | change, **bearer)
        assert (status, words in said["error"]) == (400, True), (change, said)
    status, said = post(f"{url}/completions", data=b"x" * (9 << 20), **bearer)
    assert (status, "at most" in said["error"]) == (413, True)


def test_a_bad_request_is_its_own_fault(serve, learner):
    """Oracle: the documented limits, before anybody's step; a model that fails is a 500 to all."""
    server, url = serve()
    good = {"prompt": [1, 2], "max_tokens": 2}
    for change, words in (
        ({"top_k": 2**70}, "top_k"),
        ({"temperature": float("nan"), "choices": ["a"]}, "temperature"),
        ({"temperature": 1e-320, "choices": ["a"]}, "temperature"),
        ({"top_p": float("nan")}, "top_p"),
        ({"min_p": float("nan")}, "min_p"),
    ):
        status, said = post(f"{url}/completions", good | change)
        assert (status, words in said["error"]) == (400, True), (change, said)

    def fail():
        raise ValueError("the model's own")

    server._model._stream.step = fail
    status, said = post(f"{url}/completions", good)
    assert (status, "the model's own" in said["error"]) == (500, True)
    assert post(f"{url}/completions", good)[0] == 200


def test_who_leaves_is_not_spoken_to(serve, learner):
    """Oracle: the server's own counts of asks and of weights that wait, while its model does not say a word."""
    server, url = serve()
    model, step = server._model, server._model._stream.step
    model._stream.step = lambda: time.sleep(0.005) or []
    asks = json.dumps({"prompt": [5, 6, 7], "max_tokens": 10**6, "n": 8}).encode()
    weights = safetensors_of({name: p.detach().clone() for name, p in learner.model.named_parameters()})

    def comes(path, data):
        client = http.client.HTTPConnection(url.split("/")[2])
        client.request("POST", f"/v1/{path}", data)
        return client

    def until(reached):
        deadline = time.monotonic() + 60
        while not reached():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    stays, *leave = [comes("completions", asks) for _ in range(3)]
    until(lambda: len(model._asked) == 3)
    for one in leave:
        one.close()
    until(lambda: server._waiting == len(model._asked) == model._stream.pending == 1)
    for version in (7, 8):  # they wait for the reply to who stays
        newer = comes(f"weights?version={version}", weights)
        until(lambda: model._change is not None)
        late = comes("completions", asks)  # and these for them
        until(lambda: model._held)
        late.close()
        until(lambda: not model._held)
        newer.close()
        until(lambda: model._change is None)
    stays.close()
    until(lambda: server._waiting == len(model._asked) == model._stream.pending == 0)
    model._stream.step = step
    assert post(f"{url}/completions", {"prompt": [1], "max_tokens": 1})[1]["policy_version"] == 0


def test_a_dead_server_is_left_out(serve, learner, nowhere):
    """Oracle: a port where nobody listens, beside a server that answers everything."""
    _, url = serve()
    servers = TokenServers(learner, [nowhere(), url], limits=FAST)
    learner.version = 1
    servers.hand_over()
    replies = servers.generate([ask(i) for i in range(20)])
    assert {reply.policy_version for reply in replies} == {1}
    assert {reply.finish_reason for reply in replies} <= {"stop", "length"}
    assert not servers.forfeits
    lost = TokenServers(learner, [nowhere()], limits=FAST)
    with pytest.raises(ConnectionError, match="no server takes the weights of version 1"):
        lost.hand_over()


def test_a_server_of_another_model_is_said(serve, learner):
    """Oracle: a model with one layer more, which is not there to be waited for."""
    model = build_model(512, 0, 1, seed=1)
    _, url = serve(policy=LanguageModel(model, learner.tokenizer))
    servers = TokenServers(learner, [url], limits=FAST, patience=60.0)
    with pytest.raises(ConnectionError, match=r"weights: .* must be floats .*; serve the same model"):
        servers.hand_over()


def test_a_server_started_again_gets_the_weights_again(serve, learner):
    """Oracle: the learner. The server has forgotten everything and has other weights under the same version."""
    server, url = serve()
    servers = TokenServers(learner, [url], limits=FAST)
    servers.hand_over()
    with torch.no_grad():
        for parameter in server._policy.model.parameters():
            parameter.mul_(0.5)
    server.instance = "another"
    same(servers.generate([ask()]), learner.generate([ask()]))


def test_servers_that_are_all_gone_are_waited_for(learner, nano, free_port, caplog):
    """Oracle: the learner. Its server is gone before the weights and the asks come, and is started after the first
    look; nothing is forfeited, and the weights are the newest."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    running = []

    def start():
        server = ModelServer(policy_of(nano, 3))
        web = uvicorn.Server(uvicorn.Config(server.app, log_level="warning", lifespan="off"))
        listening = socket.create_server(("127.0.0.1", port))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, web, thread, listening))

    def stop():
        server, web, thread, listening = running.pop()
        web.should_exit = True
        thread.join()
        server.close()
        listening.close()

    start()
    servers = TokenServers(learner, [url], limits=FAST, patience=60.0)
    try:
        servers.hand_over()
        stop()
        with torch.no_grad():
            next(learner.model.parameters()).add_(0.01)
        learner.version = 1
        servers.hand_over()  # is kept for whoever comes back
        look = servers._patience._anybody

        async def looked():
            there = await look()
            if not running:
                start()
            return there

        servers._patience._anybody = looked
        asks = [ask(i) for i in range(5)]
        for there, here in zip(servers.generate(asks), learner.generate(asks), strict=True):
            assert np.array_equal(there.tokens, here.tokens)
            assert np.allclose(there.logprobs, here.logprobs, atol=1e-4)
            assert there.policy_version == 1
        assert not servers.forfeits
        assert "no server answers; they are waited for up to 60 s" in caplog.text
    finally:
        if running:
            stop()


def test_servers_that_stay_away_end_it(learner, nowhere):
    """Oracle: one error for all asks, and none of them a forfeit; without patience they are."""
    patient = TokenServers(learner, [nowhere(), nowhere()], limits=FAST, patience=0.05)
    with pytest.raises(ServersGoneError, match=r"no server has answered for 0.05 s"):
        patient.generate([ask(i) for i in range(20)])
    assert not patient.forfeits
    (reply,) = TokenServers(learner, [nowhere()], limits=FAST).generate([ask()])
    assert reply.lost
    with pytest.raises(ValueError, match="patience: must be a number of seconds"):
        TokenServers(learner, [nowhere()], patience=-1.0)


@pytest.mark.parametrize(
    ("status", "there"), [(200, True), (404, True), (500, True), (502, False), (503, False)]
)
def test_somebody_is_there(scripted_server, status, there):
    """Oracle: a proxy's own words for nobody behind it, and what a server says of an address it does not know."""

    async def say(body, attempt, headers):
        yield scripted.http(b"{}", status)

    scripted = scripted_server(say)
    endpoint = Endpoint(scripted.url, api_key_env=API_KEY_ENV, limits=FAST)
    assert run_there(endpoint.is_there()) is there


def test_nobody_is_there(scripted_server, nowhere):
    """Oracle: a port where nobody listens, and a server that takes a connection and says nothing."""

    async def hang(body, attempt, headers):
        await asyncio.sleep(60)
        yield b""

    hanging = scripted_server(hang).url
    short = dataclasses.replace(FAST, timeout=0.2)
    for url in (nowhere(), hanging):
        assert run_there(Endpoint(url, api_key_env=API_KEY_ENV, limits=short).is_there()) is False
    with pytest.raises(ConnectionError, match="nobody answers at http"):
        check_somebody([nowhere()])


def test_newer_weights_may_come_while_these_are_sent(serve, learner):
    """Oracle: the learner. The file is gone by the time that the connection stands."""
    _, url = serve()
    servers = TokenServers(learner, [url], limits=FAST)
    endpoint = servers._servers[0].endpoint
    attempt = endpoint.attempt

    async def late(client, request, read):
        servers._weights.file.unlink(missing_ok=True)
        return await attempt(client, request, read)

    endpoint.attempt = late
    servers.hand_over()
    same(servers.generate([ask()]), learner.generate([ask()]))


def test_a_file_that_cannot_be_read_is_a_failed_attempt(serve):
    """Oracle: the error's own words."""

    class Lost(io.BytesIO):
        def read(self, size=-1):
            raise OSError("stale file handle")

    _, url = serve()
    endpoint = Endpoint(url, api_key_env=API_KEY_ENV, limits=FAST)
    (failure,) = endpoint.post_all([Request("weights?version=1", Lost())], lambda answer: answer)
    assert "stale file handle" in failure.reason


def test_as_many_bytes_come_as_were_asked_for(scripted_server, learner):
    """Oracle: the script, whose answer of 32 replies has 16 MiB; one of 1 reply may not have so many."""
    (choice,) = answer(text="x" * (1 << 19))["choices"]

    async def script(body, attempt, headers):
        many = {
            "choices": [choice | {"index": i} for i in range(32)][: body["n"]],
            "padding": "x" * (9 << 20),
        }
        yield server.http(json.dumps(many).encode())

    server = scripted_server(script)
    learner.context_limit = 8192
    servers = TokenServers(learner, [server.url], limits=dataclasses.replace(FAST, attempts=1))
    long = Sampling(max_tokens=8000)
    replies = servers.generate([ask(n=32, sampling=long), ask(1)])
    assert [reply.finish_reason for reply in replies] == ["stop"] * 32 + ["forfeit"]
    assert list(servers.forfeits) == ["the answer is longer than 8 MiB"]


def answer(**changes):
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "token_ids": [5, 2],
        "logprobs": {"token_logprobs": [-1.0, -0.5]},
    }
    return {"choices": [choice | changes]}


GARBAGE = {
    "not JSON": b"<html>",
    "nothing": {},
    "no samples": {"choices": []},
    "two samples": {"choices": answer()["choices"] * 2},
    "no token ids": answer(token_ids=None),
    "words": answer(token_ids=["a"]),
    "too few log-probs": answer(logprobs={"token_logprobs": [-1.0]}),
    "impossible log-probs": answer(logprobs={"token_logprobs": [1.0, -1.0]}),
    "no numbers": answer(logprobs={"token_logprobs": [float("nan"), -1.0]}),
    "too many tokens": answer(token_ids=[5] * 7, logprobs={"token_logprobs": [-1.0] * 7}),
    "negative": answer(token_ids=[-5, 2]),
    "huge": answer(token_ids=[2**40, 2]),
    "aborted": answer(finish_reason="abort"),
}


def test_garbage_is_a_recorded_forfeit(scripted_server, learner, caplog):
    """Oracle: the script. Each is tried again as often as allowed, then forfeited with its reason; the others come."""

    async def script(body, attempt, headers):
        said = GARBAGE[names[body["key"][1]]] if body["key"][1] < len(names) else answer()
        yield server.http(said if isinstance(said, bytes) else json.dumps(said).encode())

    server, names = scripted_server(script), list(GARBAGE)
    servers = TokenServers(learner, [server.url], limits=dataclasses.replace(FAST, attempts=2))
    replies = servers.generate([ask(i) for i in range(len(names) + 2)])
    assert [r.finish_reason for r in replies] == ["forfeit"] * len(names) + ["stop"] * 2
    assert len(server.seen) == 2 * len(names) + 2
    assert sum(servers.forfeits.values()) == len(names)
    assert replies[-1].tokens.tolist() == [5, 2]


def test_what_vllm_is_sent_and_says(scripted_server, learner):
    """Oracle: vLLM's documents: fields of the request, and an answer without version, instance or mask."""

    async def script(body, attempt, headers):
        yield server.http(json.dumps(answer(stop_reason=None, prompt_token_ids=None)).encode())

    server = scripted_server(script)
    learner.version = 4
    servers = TokenServers(learner, [server.url], model="m", accepts_weights=False, limits=FAST)
    (reply,) = servers.generate([ask()])
    assert (reply.policy_version, reply.logprobs.tolist(), reply.train_mask.all()) == (4, [-1.0, -0.5], True)
    ((path, _, body),) = server.seen
    assert path == "/v1/completions"
    assert body["prompt"] == learner.prompts([ask()])[0].tolist()
    assert (body["model"], body["return_token_ids"], body["logprobs"]) == ("m", True, 0)
    assert 0 <= body["seed"] < 2**63
    assert body["stop_token_ids"] == sorted(learner.end_tokens)
    with pytest.raises(ValueError, match="accepts_weights"):
        servers.hand_over()


def test_a_slow_server_does_not_hold_up_a_stream_here(scripted_server, learner):
    """Oracle: the order of events. The games against oneself end while the server has not said a word."""
    let_go = threading.Event()

    async def script(body, attempt, headers):
        import asyncio

        while not let_go.is_set():
            await asyncio.sleep(0.005)
        yield server.http(json.dumps(answer()).encode())

    server = scripted_server(script)
    remote = TokenServers(learner, [server.url], limits=FAST).stream()
    remote.submit([ask()])
    here = learner.stream()
    here.submit([ask(i) for i in range(4)])
    heard = []
    while here.pending:
        heard += here.step()
        assert remote.step() == []
    assert (len(heard), remote.pending) == (4, 1)
    let_go.set()
    remote.wait(60)
    assert [replies[0].finish_reason for _, replies in remote.step()] == ["stop"]


@pytest.mark.parametrize("urls", ["http://a/v1", [], ["http://a/v1"] * 2, ["ftp://a"]])
def test_wrong_addresses_are_named(learner, urls):
    """Oracle: the argument's name."""
    with pytest.raises(ValueError, match="url"):
        TokenServers(learner, urls)
