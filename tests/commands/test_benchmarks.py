"""`evaluate --tasks`: real lm-eval on a run's checkpoints, with tasks that the test writes.

Oracles: log-probabilities by plain transformers, the files that are left, and for errors the word to put right.
"""

import importlib.util
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from selfplay_fast.cli import main
from selfplay_fast.learn import RoleBaseline
from selfplay_fast.learn.checkpoint import TrainState, load_policy, save_checkpoint
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="comes with the extra 'tasks'"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and what it imports

QUESTIONS = [
    {"question": f"player {p}: {said}, what now?", "choices": ["check", "bet", "fold"], "gold": (p + i) % 3}
    for p in range(2)
    for i, said in enumerate(("check", "bet", "check bet", "fold"))
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with checkpoints of steps 0 and 4, whose weights differ."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("recipe: spiral\nconfig:\n  games: [kuhn_poker]\n")
    for step in (0, 4):
        policy = LanguageModel(*build_nano(["kuhn_poker"], step))
        with torch.no_grad():
            policy.model.get_input_embeddings().weight.mul_(30)  # so that it prefers one answer clearly
        optimizer = torch.optim.SGD(policy.model.parameters())
        save_checkpoint(
            folder / "checkpoints",
            policy,
            optimizer,
            TrainState(step=step, baseline=RoleBaseline(decay=0.5)),
        )
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one task in which an answer is chosen, and one in which it is written."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}},
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "{{question}}",
        "metadata": {"version": 1.0},
    }
    chosen = {"task": "poker_chosen", "output_type": "multiple_choice"}
    chosen |= {"doc_to_choice": "choices", "doc_to_target": "gold"}
    written = {
        "task": "poker_written",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    }
    for task, metric in ((chosen, "acc"), (written, "exact_match")):
        text = yaml.safe_dump(common | task | {"metric_list": [{"metric": metric}]})
        (folder / f"{task['task']}.yaml").write_text(text)
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail, and give its one line of error."""

    def run_it(*arguments: str) -> str:
        assert main(["evaluate", *arguments]) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("selfplay-fast:")]
        return line

    return run_it


def right_answers(policy: LanguageModel) -> list[float]:
    """1 for every question whose right answer has the largest log-probability, each after the whole question."""
    found = []
    for item in QUESTIONS:
        scores = []
        for choice in item["choices"]:
            prompt = policy.tokenizer(item["question"], add_special_tokens=False).input_ids
            whole = policy.tokenizer(f"{item['question']} {choice}", add_special_tokens=False).input_ids
            assert whole[: len(prompt)] == prompt
            with torch.no_grad():
                logp = policy.model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(float(logp[k - 1, whole[k]]) for k in range(len(prompt), len(whole))))
        found.append(float(max(range(3), key=scores.__getitem__) == item["gold"]))
    return found


@needs_lm_eval
def test_scores_of_both_ends_of_a_run(run: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: plain transformers on both checkpoints: accuracy, sqrt(variance / n), and their difference, in the
    JSON, in the run folder and on its page; a second call with a limit and examples asks as many and no more."""
    command = ["evaluate", str(run), "--task-path", str(tasks), "--batch-size", "3"]
    assert main([*command, "--tasks", "poker_chosen,poker_written", "--base", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["step"], row["task"]) for row in rows] == [
        (step, task) for step in (0, 4) for task in ("poker_chosen", "poker_written")
    ]
    expected = {}
    for row in rows:
        assert (row["questions"], row["few_shot"], row["chat_template"]) == (8, 0, False)
        if row["task"] == "poker_chosen":
            right = right_answers(load_policy(run / "checkpoints" / f"step-{row['step']:06d}"))
            expected[row["step"]] = statistics.mean(right), statistics.stdev(right) / math.sqrt(8)
            assert (row["value"], row["error"]) == pytest.approx(expected[row["step"]])
    assert expected[0][0] != expected[4][0]
    kept = [json.loads(line) for line in (run / "benchmarks.jsonl").read_text().splitlines()]
    assert kept == rows
    difference = f"{expected[4][0] - expected[0][0]:+.3f}".replace("-", "−")
    assert (
        f"{difference} ± {math.hypot(expected[0][1], expected[4][1]):.3f}"
        in (run / "report.html").read_text()
    )

    few = ["--tasks", "poker_*", "--limit", "5", "--few-shot", "2", "--chat-template", "--json"]
    assert main([*command, *few]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {(r["step"], r["questions"], r["few_shot"], r["chat_template"]) for r in again} == {
        (4, 5, 2, True)
    }
    assert main([*command, "--tasks", "poker_written", "--step", "0", "--limit", "2"]) == 0
    assert "poker_written" in capsys.readouterr().out


@needs_lm_eval
def test_what_cannot_be_asked_is_one_line(run: Path, tasks: Path, refused: Callable[..., str]) -> None:
    """Oracle: the nearest name; a dataset that is on no disk and cannot be fetched; a task that fails; nothing is
    left behind."""
    before = sorted(run.rglob("*"))
    given = (str(run), "--task-path", str(tasks), "--tasks")
    broken = yaml.safe_load((tasks / "poker_chosen.yaml").read_text())
    far = broken | {"task": "poker_far", "dataset_path": "nobody/nothing", "dataset_kwargs": {}}
    (tasks / "far.yaml").write_text(yaml.safe_dump(far))
    wrong = broken | {"task": "poker_wrong", "doc_to_choice": "{{nothing_of_the_kind.x}}"}
    (tasks / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    try:
        assert "--tasks: no data: " in refused(*given, "poker_far")
        assert "--tasks: lm-eval stopped: " in refused(*given, "poker_wrong")
    finally:
        (tasks / "far.yaml").unlink()
        (tasks / "wrong.yaml").unlink()
    assert "--task-path: there is no folder /nowhere" in refused(
        str(run), "--tasks", "poker_chosen", "--task-path", "/nowhere"
    )
    assert sorted(run.rglob("*")) == before


@needs_lm_eval
@pytest.mark.long  # lm-eval reads the names of all its tasks
def test_an_unknown_task_has_a_nearest_name(run: Path, tasks: Path, refused: Callable[..., str]) -> None:
    """Oracle: the name in the folder and one of lm-eval's own that are nearest."""
    assert "no task 'poker_chosn' (did you mean 'poker_chosen'?)" in refused(
        str(run), "--task-path", str(tasks), "--tasks", "poker_chosn"
    )
    assert "(did you mean 'gsm8k'?)" in refused(str(run), "--tasks", "gsm8kk")


def test_without_lm_eval_it_says_what_to_install(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the extra's name, in one line."""
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "selfplay_fast.evaluate.benchmarks", raising=False)
    line = refused(str(run), "--tasks", "gsm8k")
    assert "lm-eval is not installed" in line
    assert ".[tasks]" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--limit 3", "--limit: needs benchmarks"),
        ("--base", "--base: needs benchmarks"),
        ("--tasks gsm8k --limit 0", "--limit: must be at least 1, got 0"),
        ("--tasks gsm8k --few-shot -1", "--few-shot: must be at least 0"),
        ("--tasks gsm8k --games nim", "--games: benchmarks play no games"),
        ("--tasks ,", "--tasks: name at least one"),
        ("--tasks gsm8k --step 3", "has no checkpoint of step 3; there are: 0, 4"),
    ],
)
def test_wrong_options_are_one_line(options: str, words: str, run: Path, refused: Callable[..., str]) -> None:
    """Oracle: the option that is wrong, before lm-eval is imported."""
    assert words in refused(str(run), *options.split())


def test_only_runs_have_a_base(run: Path, refused: Callable[..., str]) -> None:
    """Oracle: the option, for a plain model folder and for a server."""
    model = run / "checkpoints" / "step-000000" / "model"
    assert "--base: " in refused(str(model), "--tasks", "gsm8k", "--base")
    assert "lm-eval needs the model itself" in refused("server:http://127.0.0.1:1/v1#m", "--tasks", "gsm8k")
