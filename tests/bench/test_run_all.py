"""`bench/run_all.py`: what ends well, what fails and what hangs. Oracle: three small benches whose ends are known."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"

ROWS = """
import json, pathlib
row = dict(case="[bold] case", unit="steps/s", ours=3e6, peer=2e6, ratio=1.5, ours_spread=0.1, peer_spread=0.2)
with (pathlib.Path(__file__).parent / "results" / "works.jsonl").open("a") as file:
    file.write(json.dumps(row) + chr(10))
"""
HANGS = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; time.sleep(10**6)"])
"""


@pytest.fixture
def run_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with a folder of three benches instead of its own."""
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("run_all", BENCH / "run_all.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in (("works", ROWS), ("fails", "raise ValueError('no luck')"), ("hangs", HANGS)):
        (tmp_path / f"{name}.py").write_text(f'"""The bench that {name}."""\n{text}')
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "works.jsonl").write_text('{"case": "an older row"}\n')
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("COLUMNS", "200")
    return module


def test_one_failure_stops_nothing(
    run_all: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Oracle: the three benches: a row of ratio 1.5, a ValueError, and a child that sleeps for days, which alone is
    given no time."""
    run = run_all.run
    monkeypatch.setattr(run_all, "run", lambda name, minutes: run(name, 0.02 if name == "hangs" else minutes))
    monkeypatch.setattr(sys, "argv", ["run_all.py"])
    with pytest.raises(SystemExit) as end:
        run_all.main()
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert "works: ok, 1 rows" in said
    assert "fails: failed (1): ValueError: no luck" in said
    assert "hangs: stopped after 0.02 minutes" in said
    assert "[bold] case" in said
    assert "1.50" in said
    (raw,) = (tmp_path / "results").glob("all-*.jsonl")
    facts, row = map(json.loads, raw.read_text().splitlines())
    assert facts["torch"] != "not installed"
    assert (row["bench"], row["ratio"]) == ("works", 1.5)


def test_a_wrong_name_runs_nothing(
    run_all: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Oracle: the names in the folder; nothing is written."""
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--only", "work"])
    with pytest.raises(SystemExit):
        run_all.main()
    assert "works" in capsys.readouterr().err
    assert not list((tmp_path / "results").glob("all-*"))
