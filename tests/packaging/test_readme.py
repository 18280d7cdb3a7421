"""What the README promises, run as written."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a bet of player 0 in every game, then random play: returns sum to zero; the rest must only run."""
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(compile(code[1], "README.md", "exec"), names)
    assert "Kuhn poker" in capsys.readouterr().out
    assert names["refused"] == [None] * 4096
    assert names["batch"].returns.sum() == 0  # type: ignore[attr-defined]
    assert len(names["episodes"]) == 16  # type: ignore[arg-type]


def test_the_small_games_are_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the value -0.0856 of Leduc poker; an equilibrium beats uniform play in the table and in the arena."""
    monkeypatch.chdir(tmp_path)
    section = README.split("## Small games, exactly")[1].split("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(compile(code[1], "README.md", "exec"), names)
    solvers, equilibrium = names["solvers"], names["equilibrium"]
    assert solvers.policy_value("leduc_poker", equilibrium)[0] == pytest.approx(-0.0856, abs=1e-3)
    assert dict(solvers.load_policy("leduc.json", "leduc_poker")).keys() == dict(equilibrium).keys()
    assert solvers.head_to_head("leduc_poker", equilibrium, names["uniform"]).mean > 0
    assert names["standings"].ranking[0].player == "equilibrium"
    assert "HeadToHead" in capsys.readouterr().out


def test_a_dialogue_of_ones_own_runs() -> None:
    """Oracle: three words, each described once and guessed at three times: twelve samples."""
    section = README.split("## Dialogues of your own")[1].split("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"policy": LanguageModel(*build_nano(["kuhn_poker"], seed=0))}
    exec(compile(code[1], "README.md", "exec"), names)
    dialogues = names["dialogues"]
    assert [dialogue.kept["word"] for dialogue in dialogues] == ["river", "cloud", "bridge"]
    assert [turn.ask.role for turn in dialogues[0].turns] == ["speaker", *["guesser"] * 3]
    assert names["batch"].num_samples == 12


def test_the_search_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: shapes, the number of simulations, and a move made in every game."""
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "search.mcts" in block
    ]
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["visits"].shape == (64, 7)
    assert (names["visits"].sum(axis=1) == 200).all()
    assert all(len(names["board"].history(row)) == 1 for row in range(64))
    assert capsys.readouterr().out.startswith("[")


@pytest.mark.parametrize("library", ["pettingzoo", "gymnasium", "openspiel", "textarena", "verl"])
def test_the_integrations_run(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: what the lines are about happened: a chip moved, 1024 games, a better policy, 16 games, two uids."""
    section = README.split("## Where users already are")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (code,) = [
        block for block in blocks if re.search(rf"selfplay_fast\.integrations(\.| import ){library}\b", block)
    ]
    pytest.importorskip(
        "pyspiel" if library == "openspiel" else library,
        exc_type=ImportError,
        reason="is not installed",
    )
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    if library == "pettingzoo":
        assert names["env"].agent_selection == "player_1"
    elif library == "gymnasium":
        assert names["rewards"].shape == (1024,)
    elif library == "openspiel":
        assert 0 < float(capsys.readouterr().out) < 1
    elif library == "verl":
        assert names["uids"].tolist() == [f"episode 1|kuhn%5Fpoker|player%5F{seat}" for seat in (0, 1)]
    else:
        assert len(names["episodes"]) == 16
        assert names["env"].api in ("0.6", "0.7")


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6.*:FutureWarning")
def test_trl_runs(tmp_path: Path) -> None:
    """Oracle: the lines train two steps of a random model, and the averages of both roles have moved."""
    trl = pytest.importorskip("trl", exc_type=ImportError, reason="comes with the extra 'test'")
    from datasets import Dataset
    from datasets.table import InMemoryTable

    from selfplay_fast.policies.nano import build_model, build_tokenizer

    tokenizer = build_tokenizer(["bet or check"] * 4)
    build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed=0).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    rows = {"prompt": ["bet", "check"], "role": ["player_0", "player_1"]}
    names: dict[str, Any] = {
        "model": str(tmp_path),
        "reward": lambda completions, **_: [float(len(text)) for text in completions],
        "args": trl.GRPOConfig(
            str(tmp_path), use_cpu=True, max_steps=2, max_completion_length=8, save_strategy="no"
        ),
        "dataset": Dataset(InMemoryTable.from_pydict(rows), fingerprint="two roles"),
    }
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "integrations.trl" in c]
    exec(compile(code, "README.md", "exec"), names)
    assert names["trainer"].state.global_step == 2
    assert {role for _, role in names["trainer"]._estimator.baseline.values} == {"player_0", "player_1"}


def test_the_tree_names_what_is_there() -> None:
    """Oracle: the file system; every folder of the README's tree exists."""
    tree = README.split("## Where things are")[1].split("```")[1]
    folders = [line.split()[0] for line in tree.strip().splitlines()]
    assert len(folders) > 5
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_the_links_lead_somewhere() -> None:
    """Oracle: the file system; every relative link of the documentation exists."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page.name


def test_the_tables_are_those_of_the_benches() -> None:
    """Oracle: the committed raw numbers, run through the script that writes the tables."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "bench" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for page in tables.PAGES:
        text = page.read_text()
        assert tables.BLOCK.search(text)
        assert tables.filled(text) == text, "run 'python bench/tables.py'"
