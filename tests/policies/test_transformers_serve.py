"""A policy behind `transformers serve`, started here on a nano model.

Oracles: the same model as a local policy, and what the server is documented to leave out.
"""

import os
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("httpx2", reason="comes with the extra 'test'")
pytest.importorskip("tenacity", reason="comes with the extra 'test'")
pytest.importorskip("uvicorn", reason="comes with the extra 'test'")
pytest.importorskip("fastapi", reason="comes with the extra 'test'")

from selfplay_fast.cli import main
from selfplay_fast.play import play_games
from selfplay_fast.policies import RandomPolicy
from selfplay_fast.policies.endpoint import Limits
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.policies.openai_server import OpenAIServer
from selfplay_fast.records import Ask, Key, Sampling

SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A nano model in a folder; its generation config samples, or the server would always be greedy."""
    folder = tmp_path_factory.mktemp("model")
    policy = LanguageModel(*build_nano(["kuhn_poker"], seed=0))
    policy.model.generation_config.do_sample = True
    policy.save(folder)
    return folder, policy


@pytest.fixture(scope="module")
def url(local, tmp_path_factory, free_port):
    """The address of a server of that folder."""
    port = str(free_port())
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-P", "-c", SERVE, "serve", str(local[0]), "--device", "cpu"]
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port],
            stdout=out,
            stderr=out,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": ""},
        )
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def policy(local, url):
    return OpenAIServer(url, str(local[0]), limits=Limits(concurrency=4, attempts=2))


def ask(text, index=0, **changes):
    defaults = {"role": "a", "append": [{"role": "user", "content": text}], "key": Key(0, index, 0)}
    return Ask(**(defaults | {"sampling": Sampling(temperature=0, max_tokens=8)} | changes))


def plain(text):
    """In a chat this server strips blanks around a reply and spells special tokens out."""
    return text.replace("<|im_start|>", "").replace("<|pad|>", "").strip()


def test_greedy_replies_are_those_of_the_model(policy, local):
    """Oracle: the local policy, text for text and reason for reason: chats of one and of two turns, and plain text."""
    asks = [ask(f"Card {card}.", i) for i, card in enumerate("JQKA29")]
    asks += [ask("", append=f"Card {card}.", index=9) for card in "JQ"]
    served, expected = policy.generate(asks), local[1].generate(asks)
    assert [(plain(r.text), r.finish_reason) for r in served] == [
        (plain(r.text), r.finish_reason) for r in expected
    ]
    assert len({reply.text for reply in served}) > 2
    first = ask(
        "Bet?", append=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Bet?"}]
    )
    context = policy.generate([first])[0].context
    said = [*first.append, {"role": "assistant", "content": local[1].generate([first])[0].text.strip()}]
    whole = local[1].generate([ask("", append=[*said, {"role": "user", "content": "Why?"}])])[0]
    assert plain(policy.generate([ask("Why?", context=context)])[0].text) == plain(whole.text)


def test_samples_follow_their_seeds(local, url):
    """Oracle: equal keys, equal samples, one request at a time; three samples of one ask and other keys differ."""
    policy = OpenAIServer(url, str(local[0]), limits=Limits(concurrency=1))
    sampling = Sampling(temperature=1.0, max_tokens=8)
    asks = [ask("Card K.", i, sampling=sampling, n=3) for i in range(2)]
    first, second = policy.generate(asks), policy.generate(asks)
    assert [reply.text for reply in first] == [reply.text for reply in second]
    assert len({reply.text for reply in first}) > 3


def test_what_this_server_does_not_know(policy):
    """Oracle: its documented list. Other options are refused by it with HTTP 422, log-probs of a prompt by us."""
    policy.check()
    policy.end_of_turn = "<|im_end|>"
    with pytest.raises(ValueError, match="returns no log-probs of a prompt"):
        policy.score([ask("", append="Well?", choices=("yes",), sampling=Sampling())])
    other = OpenAIServer(policy.endpoint.url, policy.model, accepts=("min_p",))
    with pytest.raises(ValueError, match=r"does not answer: HTTP 422 .*min_p"):
        other.generate([ask("a", sampling=Sampling(min_p=0.1, max_tokens=2))])
    with pytest.raises(ValueError, match=r"does not answer: HTTP 400 .*pinned to"):
        OpenAIServer(policy.endpoint.url, "another").check()


def test_games_and_the_command_line(policy, local, url, capsys):
    """Oracle: all games end, as at any table; the words of the commands."""
    cast = {"player_0": policy, "player_1": RandomPolicy()}
    played = play_games(cast, games=["kuhn_poker"], episodes=4, seed=0, sampling=Sampling(max_tokens=4))
    assert len(played) == 4
    assert not policy.forfeits
    name = f"server:{url}#{local[0]}"
    assert main(["arena", "kuhn_poker", name, "random", "--episodes", "1", "--max-tokens", "4"]) == 0
    assert name[:20] in capsys.readouterr().out
