"""`selfplay-fast serve`: what it refuses. What it serves is in tests/policies/test_token_servers.py.

Oracle: exit code 2 and the option's name, before any model is loaded.
"""

import socket

import pytest

pytest.importorskip("uvicorn", reason="comes with the extra 'test'")

from selfplay_fast.cli import main


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "--host: 0.0.0.0 is open to others"),
        (["--port", "70000"], "--port: must be 0 to 65535"),
        (["--threads", "0"], "--threads: must be at least 1"),
        (["--max-waiting", "0"], "--max-waiting: must be at least 1"),
        (["--step", "3"], "is not a run folder"),
    ],
)
def test_wrong_options_are_named(options, words, tmp_path, capsys, monkeypatch):
    """Oracle: the line on stderr."""
    monkeypatch.delenv("SELFPLAY_FAST_SERVER_KEY", raising=False)
    (tmp_path / "config.json").write_text("{}")
    assert main(["serve", str(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_server_and_a_taken_port_are_no_places(tmp_path, capsys):
    """Oracle: the line on stderr; the port is held by this test."""
    assert main(["serve", "server:http://127.0.0.1:1/v1#m"]) == 2
    assert "that is a server already" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "--port: cannot listen" in capsys.readouterr().err
