"""A policy behind HTTP, against a scripted server that fails in every way the docstrings name.

Oracles: what the script says and what it saw; the waits that are begun.
"""

import asyncio
import email.utils
import gzip
import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("httpx2", reason="comes with the extra 'test'")
pytest.importorskip("tenacity", reason="comes with the extra 'test'")

from selfplay_fast.play import DialogueTable, GameTable, Outcome, play
from selfplay_fast.policies import RandomPolicy, endpoint
from selfplay_fast.policies.endpoint import Limits
from selfplay_fast.policies.openai_server import OpenAIServer
from selfplay_fast.records import Ask, Key, Sampling

FAST = Limits(concurrency=8, attempts=3, backoff=0.02)
SECRET = "sk-0123456789"


def chat(text, index=0, **changes):
    return Ask(
        **{"role": "judge", "append": [{"role": "user", "content": text}], "key": Key(0, index, 0)} | changes
    )


def asked(body):
    return body["messages"][-1]["content"]


@pytest.fixture
def echo(scripted_server):
    """A server that repeats the last message."""

    async def script(body, attempt, headers):
        yield server.reply(f"heard {asked(body)}")

    server = scripted_server(script)
    return server


@pytest.fixture
def failing(scripted_server):
    """Starts a server that fails at messages "fault" as told and repeats all others; a policy of it."""

    def start(fault, limits=FAST):
        async def script(body, attempt, headers):
            if asked(body) == "fault":
                async for part in fault(server, attempt):
                    yield part
            else:
                yield server.reply(f"heard {asked(body)}")

        server = scripted_server(script)
        return server, OpenAIServer(server.url, "m", limits=limits)

    return start


@pytest.fixture
def waits(monkeypatch):
    """Waits are over at once; how long they were to be."""
    begun = []

    async def sleep(seconds):
        begun.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return begun


# -- what is sent and what comes back -------------------------------------------------------------------------------


def test_messages_options_and_replies(echo):
    """Oracle: OpenAI's interface. Fields of the body, a request per sample with a seed of its own, replies in order."""
    policy = OpenAIServer(echo.url + "/", "m", accepts=("top_k",), extra={"user": "me"})
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=7, max_tokens=5, stop=("\n", "end"))
    system = {"role": "system", "content": "be brief"}
    asks = [
        chat("a", 0, n=2, sampling=sampling, append=[system, {"role": "user", "content": "a"}]),
        chat("b", 1),
    ]
    replies = policy.generate(asks)
    assert [reply.text for reply in replies] == ["heard a", "heard a", "heard b"]
    assert {reply.finish_reason for reply in replies} == {"stop"}
    assert all(len(reply.tokens) == len(reply.logprobs) == 0 for reply in replies)
    bodies = sorted((body for _, _, body in echo.seen), key=asked)
    assert {path for path, _, _ in echo.seen} == {"/v1/chat/completions"}
    seeds = [body.pop("seed") for body in bodies]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert bodies[0] == bodies[1] == {
        "model": "m", "user": "me", "messages": [system, {"role": "user", "content": "a"}],
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "max_tokens": 5, "stop": ["\n", "end"],
    }  # fmt: skip
    assert set(bodies[2]) == {"model", "user", "messages", "temperature", "max_tokens"}
    policy.generate(asks)
    assert sorted(body["seed"] for _, _, body in echo.seen[3:]) == sorted(seeds)
    OpenAIServer(echo.url, "m", seeds=False, length_field="max_completion_tokens").generate([chat("c")])
    assert set(echo.seen[-1][2]) == {"model", "messages", "temperature", "max_completion_tokens"}
    assert policy.generate([]) == []


def test_contexts_are_conversations(echo):
    """Oracle: the messages the server saw: those of the first turn, its reply, those of the second."""

    def protocol(item):
        first = yield chat(
            item, append=[{"role": "system", "content": "s"}, {"role": "user", "content": item}]
        )
        second = yield chat("more", context=first.context)
        third = yield chat("again", context=second.context)
        return Outcome(returns={"judge": 1.0}, kept={"said": third.text})

    policy = OpenAIServer(echo.url, "m")
    episodes = play({"judge": policy}, [DialogueTable(protocol, ["ä", "b"], seed=0)])
    assert [episode.kept["said"] for episode in episodes] == ["heard again"] * 2
    longest = [body["messages"] for _, _, body in echo.seen if asked(body) == "again"]
    assert [message["content"] for message in sorted(longest, key=str)[1]] == [
        "s", "ä", "heard ä", "more", "heard more", "again",
    ]  # fmt: skip
    assert [message["role"] for message in longest[0]] == ["system", *["user", "assistant"] * 2, "user"]


def test_plain_text_goes_to_completions(scripted_server):
    """Oracle: the request; forced text is part of the prompt and of the reply, the context goes on from both."""

    async def script(body, attempt, headers):
        yield server.http(json.dumps({"choices": [{"text": " world", "finish_reason": "length"}]}).encode())

    server = scripted_server(script)
    policy = OpenAIServer(server.url, "m")
    first = policy.generate([chat("", append="Hello", forced_prefix=" new")])[0]
    assert (first.text, first.finish_reason) == (" new world", "length")
    policy.generate([chat("", append="!", context=first.context)])
    assert [(path, body["prompt"]) for path, _, body in server.seen] == [
        ("/v1/completions", "Hello new"),
        ("/v1/completions", "Hello new world!"),
    ]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (chat("", append=np.zeros(3, np.int32)), "append: .* not token ids .*'judge'"),
        (chat("a", context=np.arange(3, dtype=np.int32)), "context: .* not token ids .*'judge'"),
        (chat("a", forced_prefix="x"), "forced_prefix: .*'judge'"),
        (chat("a", choices=("x", "y")), "choices: .*chat.*'judge'.*local model"),
        (chat("a", sampling=Sampling(top_k=3)), r"sampling: top_k .*accepts=\('top_k',\)"),
        (chat("a", sampling=Sampling(min_p=0.1)), r"sampling: min_p .*accepts=\('min_p',\)"),
    ],
)
def test_asks_it_cannot_pass_on_are_refused_by_name(echo, ask, words):
    """Oracle: the documented ValueErrors, before anything is sent."""
    with pytest.raises(ValueError, match=words):
        OpenAIServer(echo.url, "m").generate([chat("fine"), ask])
    assert echo.seen == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": "127.0.0.1:80"}, "url: must look like"),
        ({"url": "ftp://a/v1"}, "url: must look like"),
        ({"url": "http://me:word@a/v1"}, "url: leave the password out and put the key into OPENAI_API_KEY"),
        ({"url": "http://a:port/v1"}, "url: 'http://a:port/v1' is none"),
        ({"model": ""}, "model: name"),
        ({"accepts": ["top_q"]}, "accepts: .*'top_q'"),
        ({"length_field": "length"}, "length_field: .*'length'"),
        ({"extra": {"seed": 3}}, "extra: 'seed'"),
    ],
)
def test_wrong_arguments(arguments, words):
    """Oracle: one line that names the argument."""
    with pytest.raises(ValueError, match=words):
        OpenAIServer(**{"url": "http://a/v1", "model": "m"} | arguments)


@pytest.mark.parametrize("name", ["concurrency", "timeout", "deadline", "attempts", "backoff"])
def test_wrong_limits(name):
    """Oracle: one line that names the limit."""
    for value in (-1, float("nan")):
        if value == value or name in ("timeout", "deadline", "backoff"):
            with pytest.raises(ValueError, match=f"limits: {name} must be"):
                Limits(**{name: value})


def test_names_for_command_lines():
    """Oracle: the parts of the name; a wrong one is shown the right form."""
    policy = OpenAIServer.from_name("server:http://a:1/v1#org/model-2:free")
    assert (policy.endpoint.url, policy.model, policy.label) == (
        "http://a:1/v1",
        "org/model-2:free",
        "org-model-2-free",
    )
    for wrong in ("server:http://a:1/v1", "http://a:1/v1#m", "server:#m", "server:http://a/v1#"):
        with pytest.raises(ValueError, match=r"must look like|name the model"):
            OpenAIServer.from_name(wrong)


# -- faults: each is repeated, and then answered or a recorded forfeit ----------------------------------------------


async def slow(server, attempt):
    for byte in server.reply("never whole"):
        yield bytes([byte])
        await asyncio.sleep(0.05)


async def slow_head(server, attempt):
    yield b"HTTP/1.1 200 OK\r\n"
    for k in range(1000):
        yield b"x-%d: y\r\n" % k
        await asyncio.sleep(0.05)


async def hang(server, attempt):
    await asyncio.sleep(60)
    yield b""


def always(say):
    async def fault(server, attempt):
        yield say(server)

    return fault


BOMB = gzip.compress(bytes(64 << 20))
BROKEN = {
    "500": (always(lambda s: s.http(b"oops", 500)), "HTTP 500 .*oops"),
    "503 page": (always(lambda s: s.http(b"<html>\nbusy", 503, content_type="text/html")), "HTTP 503 .*busy"),
    "429": (always(lambda s: s.http(b"{}", 429)), "HTTP 429"),
    "429 never": (always(lambda s: s.http(b"{}", 429, retry_after=f"Mon, 01 Jan {9**20} 00:00:00 GMT")), "HTTP 429"),
    "hang": (hang, "no whole answer within 0.2 s"),
    "slow drip": (slow, "no whole answer within 0.2 s"),
    "slow head": (slow_head, "no whole answer within 0.2 s"),
    "truncated JSON": (always(lambda s: s.http(b'{"choices": [{"mess')), "not JSON but 19 bytes"),
    "half an answer": (always(lambda s: s.reply("whole")[:-9]), "RemoteProtocolError"),
    "no answer": (always(lambda s: b""), "RemoteProtocolError"),
    "no HTTP": (always(lambda s: b"SSH-2.0-OpenSSH\r\n\r\n"), "RemoteProtocolError"),
    "wrong type": (always(lambda s: s.http(b"<p>log in", content_type="text/html")), "not JSON .*text/html"),
    "wrong form": (always(lambda s: s.http(b'{"choices": []}')), "expected form"),
    "lists": (always(lambda s: s.http(b'{"choices": [["message"]]}')), "expected form"),
    "a number": (always(lambda s: s.http(b"7")), "expected form"),
    "text is a list": (always(lambda s: s.reply(["a"])), "expected form.*the text is"),
    "deep": (always(lambda s: s.http(b"[" * 200_000)), "not JSON"),
    "bad gzip": (always(lambda s: s.http(b"no gzip", content_encoding="gzip")), "DecodingError"),
    "giant": (always(lambda s: s.reply("x" * (9 << 20))), "longer than 8 MiB"),
    "gzip bomb": (always(lambda s: s.http(BOMB, content_encoding="gzip")), "longer than 8 MiB"),
}  # fmt: skip


SILENT = ("hang", "slow drip", "slow head")  # a busy server may see less of such attempts than are made


def at_fault(body):
    return asked(body) == "fault"


@pytest.mark.parametrize("name", BROKEN)
def test_what_stays_broken_is_a_recorded_forfeit(failing, hasten, caplog, name):
    """Oracle: the script. Three attempts, then a forfeit with its reason; the other replies come, in their places."""
    fault, reason = BROKEN[name]
    server, policy = failing(fault)
    attempts = hasten(policy.endpoint, lambda body: name in SILENT and at_fault(body))
    asks = [chat(text, i) for i, text in enumerate(["a", "fault", *"bcdefghij"])]
    replies = policy.generate(asks)
    want = [
        "" if asks[i].prompt_text == "fault" else f"heard {asks[i].prompt_text}" for i in range(len(asks))
    ]
    assert [reply.text for reply in replies] == want
    assert [i for i, reply in enumerate(replies) if reply.finish_reason == "forfeit"] == [1]
    assert sum(map(at_fault, attempts)) == 3
    assert len(attempts) == len(asks) + 2
    assert name in SILENT or len(server.seen) == len(asks) + 2
    assert sum(policy.forfeits.values()) == 1
    (record,) = [record for record in caplog.records if record.name.startswith("selfplay_fast")]
    assert "m: 1 of 11 replies forfeited" in record.getMessage()
    assert len(record.getMessage().splitlines()) == 1
    assert re.search(reason, next(iter(policy.forfeits)))
    follow = policy.generate([chat("still", context=replies[1].context)])[0]
    assert follow.text == "heard still"


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_twice_is_repeated(failing, hasten, name):
    """Oracle: the script, which answers at the third attempt; nothing is forfeited."""

    def early():
        return sum(map(at_fault, attempts)) <= 2

    async def fault(server, attempt):
        say = BROKEN[name][0] if early() else always(lambda s: s.reply("at last"))
        async for part in say(server, attempt):
            yield part

    server, policy = failing(fault)
    attempts = hasten(policy.endpoint, lambda body: name in SILENT and at_fault(body) and early())
    assert [reply.text for reply in policy.generate([chat("fault"), chat("b", 1)])] == ["at last", "heard b"]
    assert len(attempts) == 4
    assert name in SILENT or len(server.seen) == 4
    assert not policy.forfeits


def test_connection_refused(free_port):
    """Oracle: a port where nobody listens. All replies are forfeits, few of which were tried; `check` says so in one
    line."""
    policy = OpenAIServer(f"http://127.0.0.1:{free_port()}/v1", "m", limits=FAST)
    replies = policy.generate([chat(str(i), i) for i in range(2000)])
    assert {reply.finish_reason for reply in replies} == {"forfeit"}
    assert len(replies) == sum(policy.forfeits.values()) == 2000
    assert policy.forfeits["not sent, because the requests before it failed"] > 1900
    assert any(reason.startswith("ConnectError") for reason in policy.forfeits)
    with pytest.raises(ValueError, match=r"model 'm' at http://127.0.0.1:.* does not answer: ConnectError"):
        policy.check()


@pytest.mark.parametrize(
    ("after", "least"), [(1, 1.0), (email.utils.formatdate(1002, usegmt=True), 1.75)], ids=["seconds", "date"]
)
def test_retry_after_is_a_least_wait(failing, waits, monkeypatch, after, least):
    """Oracle: the header, read at 1000.25 s."""

    async def fault(server, attempt):
        yield server.reply("now") if attempt else server.http(b"{}", 429, retry_after=after)

    monkeypatch.setattr(endpoint, "time", SimpleNamespace(time=lambda: 1000.25))
    _, policy = failing(fault)
    assert policy.generate([chat("fault")])[0].text == "now"
    assert waits == [least]


def test_a_wait_beyond_the_deadline_is_not_begun(failing, waits):
    """Oracle: an hour's Retry-After is a forfeit at once."""
    server, policy = failing(always(lambda s: s.http(b"{}", 429, retry_after=3600)))
    assert policy.generate([chat("fault")])[0].finish_reason == "forfeit"
    assert len(server.seen) == 1
    assert waits == []


def test_the_deadline_ends_a_request(failing):
    """Oracle: the reason; an attempt that hangs for long ends with the deadline, in its middle."""
    _, policy = failing(hang, Limits(deadline=0.5))
    assert policy.generate([chat("fault")])[0].finish_reason == "forfeit"
    assert list(policy.forfeits) == ["no answer within 0.5 s"]


def test_concurrency_is_limited_and_used(scripted_server):
    """Oracle: counts of attempts under way here; and a server that answers when ten wait, or never."""
    under_way, counts, waiting = 0, [], []

    async def script(body, attempt, headers):
        enough = asyncio.Event()
        waiting.append(enough)
        if len(waiting) == 10:
            for one in waiting:
                one.set()
            waiting.clear()
        await enough.wait()
        yield server.reply(asked(body))

    async def counted(*arguments):
        nonlocal under_way
        under_way += 1
        counts.append(under_way)
        try:
            return await attempt(*arguments)
        finally:
            under_way -= 1

    server = scripted_server(script)
    policy = OpenAIServer(server.url, "m", limits=Limits(concurrency=10))
    attempt, policy.endpoint.attempt = policy.endpoint.attempt, counted
    replies = policy.generate([chat(str(i), i) for i in range(40)])
    assert [reply.text for reply in replies] == [str(i) for i in range(40)]
    assert (len(counts), max(counts)) == (40, 10)


def test_a_refusal_is_an_error_before_the_first_answer_and_a_forfeit_after_it(failing, monkeypatch):
    """Oracle: the documented rule; a refusal is not repeated, and the key is cut out of what the server says."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server, policy = failing(always(lambda s: s.http(f"no key {SECRET}\nhere".encode(), 401)))
    with pytest.raises(
        ValueError, match=r"HTTP 401 .*no key .key. here; is the right key in OPENAI_API_KEY"
    ) as error:
        policy.generate([chat("fault"), chat("fault", 1)])
    assert SECRET not in str(error.value)
    assert len(server.seen) == 2
    assert [reply.finish_reason for reply in policy.generate([chat("fault"), chat("b")])] == [
        "forfeit",
        "stop",
    ]
    assert policy.generate([chat("fault")])[0].finish_reason == "forfeit"
    assert SECRET not in str(policy.forfeits)


def test_a_wrong_address_is_hinted_at(failing):
    """Oracle: contract."""
    _, policy = failing(always(lambda s: s.http(b"{}", 404)))
    with pytest.raises(ValueError, match=r"HTTP 404 .*does the address end in /v1"):
        policy.generate([chat("fault")])


def test_the_key_is_sent_and_told_nobody(echo, monkeypatch, caplog):
    """Oracle: the header the server saw; no log line and no attribute holds it; where there is none, none is sent."""
    caplog.set_level(logging.DEBUG)
    policy = OpenAIServer(echo.url, "m", api_key_env="MY_KEY")
    policy.generate([chat("a")])
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    policy.generate([chat("b")])
    assert [headers.get("authorization") for _, headers, _ in echo.seen] == [None, f"Bearer {SECRET}"]
    assert SECRET not in caplog.text + repr(vars(policy)) + repr(vars(policy.endpoint))
    monkeypatch.setenv("MY_KEY", "sk\n0")
    with pytest.raises(ValueError, match="MY_KEY: the key in it has characters"):
        policy.generate([chat("c")])


@pytest.mark.parametrize(
    ("content", "text", "reason", "finish"),
    [
        (None, "", "length", "length"),
        ("\ud800 half", "? half", "stop", "stop"),
        ("<script>\x00", "<script>\x00", "content_filter", "stop"),
        ("", "", None, "stop"),
    ],
)
def test_odd_but_valid_replies(scripted_server, content, text, reason, finish):
    """Oracle: the record's contract: a text that can be written as UTF-8, and one of three reasons."""

    async def script(body, attempt, headers):
        yield server.reply(content, reason)

    server = scripted_server(script)
    (reply,) = OpenAIServer(server.url, "m").generate([chat("a")])
    assert (reply.text, reply.finish_reason) == (text, finish)


@pytest.mark.parametrize(
    ("message", "public", "unclosed"),
    [
        ({"content": "b", "reasoning_content": "SECRET"}, "b", False),
        ({"content": "b", "reasoning": "SECRET"}, "b", False),
        ({"content": "b", "reasoning": "SECRET </think> on", "reasoning_content": None}, "b", False),
        ({"content": "<think>SECRET</think>\n\nb"}, "b", False),
        ({"content": "SECRET</think>b"}, "b", False),
        ({"content": "b", "reasoning": ""}, "b", False),
        ({"content": None, "reasoning_content": "SECRET"}, "", True),
        ({"content": "<think>SECRET"}, "", True),
    ],
)
def test_reasoning_of_servers_is_hidden(scripted_server, message, public, unclosed):
    """Oracle: this table, and the second request, in which there is no reasoning that the server had told apart."""

    async def script(body, attempt, headers):
        yield server.http(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())

    server = scripted_server(script)
    policy = OpenAIServer(server.url, "m")
    (reply,) = policy.generate([chat("a")])
    assert (reply.public, reply.unclosed, reply.finish_reason) == (public, unclosed, "stop")
    assert reply.reasoning + reply.public == reply.text
    assert ("SECRET" in reply.reasoning) == ("SECRET" in str(message))
    policy.generate([chat("c", context=reply.context), chat("c", history=reply.history)])
    said = "" if unclosed else message["content"]
    for _, _, body in server.seen[1:]:
        assert [m["content"] for m in body["messages"]] == ["a", said, "c"]


def test_a_prompt_may_open_the_reasoning(scripted_server):
    """Oracle: contract. Plain text that ends with the tag: nothing is public until the reasoning is closed."""

    async def script(body, attempt, headers):
        text = "SECRET" if "cut" in body["prompt"] else "SECRET</think> b"
        yield server.http(json.dumps({"choices": [{"text": text, "finish_reason": "length"}]}).encode())

    server = scripted_server(script)
    asks = [chat("", append=f"{word} <think>\n") for word in ("cut", "whole")]
    cut, whole = OpenAIServer(server.url, "m").generate(asks)
    assert (cut.public, cut.unclosed) == ("", True)
    assert (whole.public, whole.unclosed) == ("b", False)


def test_a_budget_goes_where_the_server_has_a_field(echo):
    """Oracle: the body of the request; one line that names the argument where no field is known."""
    ask = chat("a", sampling=Sampling(max_tokens=9, max_think_tokens=4))
    OpenAIServer(echo.url, "m", think_budget_field="thinking_token_budget").generate([ask])
    assert echo.seen[0][2]["thinking_token_budget"] == 4
    with pytest.raises(
        ValueError, match=r"max_think_tokens is not in OpenAI's interface.*think_budget_field"
    ):
        OpenAIServer(echo.url, "m").generate([ask])
    with pytest.raises(ValueError, match="extra: 'b' is set by the ask"):
        OpenAIServer(echo.url, "m", think_budget_field="b", extra={"b": 1})


def test_any_text_can_be_asked(echo):
    """Oracle: the message the server saw, half a character and all."""
    (reply,) = OpenAIServer(echo.url, "m").generate([chat("\ud800 \x00 ü")])
    assert asked(echo.seen[0][2]) == "\ud800 \x00 ü"
    assert reply.text == "heard ? \x00 ü"


def test_inside_a_running_loop(echo):
    """Oracle: the same replies as outside, as in a notebook."""

    async def notebook():
        return OpenAIServer(echo.url, "m").generate([chat("a")])

    assert asyncio.run(notebook())[0].text == "heard a"


def test_a_forfeit_ends_its_game_only(scripted_server):
    """Oracle: the script, which fails in one game of four; its turn is recorded as refused, others play on."""

    async def script(body, attempt, headers):
        yield server.http(b"", 500) if "Your card: K" in asked(body) else server.reply("\\boxed{check}")

    server = scripted_server(script)
    cast = {"player_0": OpenAIServer(server.url, "m", limits=FAST), "player_1": RandomPolicy()}
    episodes = play(cast, [GameTable("kuhn_poker", episodes=12, seed=0, style="plain")])
    lost = [e for e in episodes if e.turns[-1].reply.finish_reason == "forfeit"]
    assert 0 < len(lost) < 12
    for episode in lost:
        assert episode.turns[-1].refusal == "no reply"
        assert dict(episode.returns) == {"player_0": -1.5, "player_1": 0.5}
    others = [turn.reply.finish_reason for e in episodes if e not in lost for turn in e.turns]
    assert set(others) == {"stop"}


# -- scores ---------------------------------------------------------------------------------------------------------


ENDLESS = b'{"choices": [{"logprobs": {"token_logprobs": [1], "text_offset": [Infinity]}}]}'


def echoing(server, tokens, logprobs):
    """An answer of /completions with the log-probs of a prompt, as vLLM gives them."""
    offsets = np.cumsum([0, *map(len, tokens)])[:-1].tolist()
    told = {"tokens": tokens, "text_offset": offsets, "token_logprobs": logprobs}
    return server.http(json.dumps({"choices": [{"text": "".join(tokens), "logprobs": told}]}).encode())


@pytest.fixture
def scoring(scripted_server):
    """A server that says "yes" with probability 3/4 and "no" with 1/4, one token per word."""

    async def script(body, attempt, headers):
        assert body["echo"]
        assert body["max_tokens"] == 1
        choice = body["prompt"].removeprefix("Well?").removesuffix("<end>")
        p = {"yes": 0.75, "no": 0.25}[choice]
        yield echoing(
            server, ["We", "ll?", choice, "<end>", "junk"], [None, -1.0, float(np.log(p)), 0.0, -9.0]
        )

    server = scripted_server(script)
    return OpenAIServer(server.url, "m", end_of_turn="<end>")


def test_scores_where_the_server_tells_them(scoring):
    """Oracle: the script's probabilities, of the choice and its end alone; draws follow them within five errors."""
    ask = chat("", append="Well?", choices=("no", "yes"))
    assert np.exp(scoring.score([ask, ask])) == pytest.approx(np.array([[0.25, 0.75]] * 2))
    n = 1000
    replies = scoring.generate([chat("", append="Well?", choices=("no", "yes"), n=n)])
    share = np.mean([reply.text == "yes" for reply in replies])
    assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / n)
    greedy = chat("", append="Well?", choices=("no", "yes"), sampling=Sampling(temperature=0))
    assert scoring.generate([greedy])[0].text == "yes"
    assert scoring.score([]) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            lambda s: s.http(b'{"choices": [{"text": "x", "logprobs": null}]}'),
            "returns no log-probs of a prompt",
        ),
        (lambda s: echoing(s, ["Well?y", "es<end>"], [None, -1.0]), "do not begin where the choice begins"),
        (lambda s: s.http(b"{}", 500), "does not answer: HTTP 500"),
        (lambda s: s.http(b'{"choices": [[]]}'), "not of the expected form"),
        (lambda s: s.http(ENDLESS), "not of the expected form"),
    ],
)
def test_scores_that_cannot_be_had(scripted_server, answer, words):
    """Oracle: one line that says what the server did."""

    async def script(body, attempt, headers):
        yield answer(server)

    server = scripted_server(script)
    policy = OpenAIServer(server.url, "m", end_of_turn="<end>", limits=FAST)
    with pytest.raises(ValueError, match=words):
        policy.score([chat("", append="Well?", choices=("yes",))])


def test_scores_of_other_asks_are_refused_by_name(scoring):
    """Oracle: the documented ValueErrors."""
    refused = [
        (chat("a", choices=("yes",)), "choices: .*chat"),
        (chat("", append="Well?"), "no choices"),
        (
            chat("", append="Well?", choices=("yes",), sampling=Sampling(temperature=0.5)),
            "temperature 1, not 0.5",
        ),
    ]
    for ask, words in refused:
        with pytest.raises(ValueError, match=words):
            scoring.score([ask])
    with pytest.raises(ValueError, match="end_of_turn"):
        OpenAIServer("http://a/v1", "m").score([chat("", append="Well?", choices=("yes",))])
