"""Servers wherever a command line names a player. Oracles: what a scripted server says and saw, and the words shown."""

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("httpx2", reason="comes with the extra 'test'")
pytest.importorskip("tenacity", reason="comes with the extra 'test'")

from selfplay_fast.cli import main


@pytest.fixture
def caller(scripted_server):
    """The name of a server that never bets and never folds at Kuhn poker, as MODEL ``org/caller``."""

    async def script(body, attempt, headers):
        asked = body["messages"][-1]["content"]
        yield server.reply("\\boxed{call}" if "[call]" in asked else "\\boxed{check}")

    server = scripted_server(script)
    return f"server:{server.url}#org/caller"


def test_evaluate(caller, capsys):
    """Oracle: a caller's replies are all legal; there is no NashConv, because nothing is scored."""
    assert main(["evaluate", caller, "--games", "kuhn_poker", "--episodes", "4", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["kuhn_poker/legal_rate"] == 1.0
    assert {"kuhn_poker/score_vs_random", "kuhn_poker/score_vs_equilibrium"} <= set(metrics)
    assert "kuhn_poker/nash_conv" not in metrics


def test_evaluate_against_a_server(caller, capsys):
    """Oracle: two callers check and call only, so that each wins half of what the other loses."""
    line = ["evaluate", caller, "--games", "kuhn_poker", "--episodes", "4", "--json", "--opponents", caller]
    assert main(line) == 0
    metrics = json.loads(capsys.readouterr().out)
    first, second = (metrics[f"kuhn_poker/score_vs_org-caller_{seat}"] for seat in ("first", "second"))
    assert {abs(first), abs(second)} <= {0.0, 0.5, 1.0}
    assert metrics["kuhn_poker/not_lost_vs_org-caller_first"] == (first + 1) / 2


def test_arena(caller, capsys):
    """Oracle: the ranking holds all; the server's games end with legal replies."""
    assert main(["arena", "kuhn_poker", caller, "random", "--episodes", "4", "--json"]) == 0
    ranking = {s["player"]: s for s in json.loads(capsys.readouterr().out)["ranking"]}
    assert ranking[caller]["legal_rate"] == 1.0
    assert ranking["random"]["wins"] + ranking[caller]["wins"] == 8


def test_play(caller, capsys, monkeypatch):
    """Oracle: the caller calls, so that a bet is shown down for two chips."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("bet\n"))
    assert main(["play", "kuhn_poker", "--opponent", caller, "--seed", "1"]) == 0
    shown = capsys.readouterr().out
    assert "(you) +2" in shown or "(you) -2" in shown


def test_spiral_evaluates_against_a_server(caller, tmp_path):
    """Oracle: the curve is in the first and the last row of the run and in its report."""
    line = "--games kuhn_poker --steps 1 --warmup-steps 1 --eval-episodes 2 --samples-per-step 8"
    run = tmp_path / "run"
    assert main(["train", "spiral", *line.split(), "--run-dir", str(run), "--eval-opponents", caller]) == 0
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(-2 <= row["kuhn_poker/score_vs_org-caller"] <= 2 for row in rows)
    assert "score vs org-caller" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate server:http://a/v1", "must look like server:http://127.0.0.1:8000/v1#MODEL"),
        ("evaluate server:a#m", "url: must look like http://127.0.0.1:8000/v1, got 'a'"),
        (
            "evaluate {down} --games kuhn_poker",
            "model 'm' at http://127.0.0.1:9/v1 does not answer: ConnectError",
        ),
        ("evaluate {down} --step 3", "--step: server:http://127.0.0.1:9/v1#m is not a run folder"),
        ("evaluate model --opponents nobody", "--opponents: 'nobody' must look like server:"),
        ("evaluate model --opponents {down} {down}", "--opponents: opponents: two of them are called 'm'"),
        ("arena kuhn_poker random {down}@2", "model 'm@2' at http://127.0.0.1:9/v1 does not answer"),
        ("play kuhn_poker --opponent {down}", "model 'm' at http://127.0.0.1:9/v1 does not answer"),
        ("train spiral --eval-opponents nobody", "--eval-opponents: 'nobody' must look like server:"),
    ],
)
def test_wrong_servers_are_one_line(line, words, capsys, tmp_path, monkeypatch):
    """Oracle: what is wrong is named, before any game and any folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(asyncio, "sleep", _no_sleep)  # of the waits between attempts
    assert main(line.format(down="server:http://127.0.0.1:9/v1#m").split()) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert not Path("runs").exists()


async def _no_sleep(seconds: float) -> None:
    pass
