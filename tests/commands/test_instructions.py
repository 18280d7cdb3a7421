"""`evaluate --instructions`. Oracles: what a scripted server says, the file's lines, what is left in a run."""

import importlib.util
import json
import sys

import pytest
import torch

from selfplay_fast.cli import main
from selfplay_fast.learn import RoleBaseline
from selfplay_fast.learn.checkpoint import TrainState, save_checkpoint
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano

needs_checks = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None for name in ("lm_eval", "langdetect", "immutabledict", "nltk")
    ),
    reason="comes with the extra 'tasks'",
)
pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and what it imports

ROWS = [
    {"key": 1, "prompt": "A", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {
        "key": 2,
        "prompt": "B",
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{}, {}],
    },
]


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    """A file of two prompts and an empty line, and no network."""
    if importlib.util.find_spec("nltk") is not None:
        monkeypatch.setattr("nltk.download", lambda *names, **options: False)
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1]) + "\n")
    return path


@pytest.fixture
def refused(capsys):
    """Run a command that must fail, and give its one line of error."""

    def run_it(*arguments):
        assert main(["evaluate", *map(str, arguments)]) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("selfplay-fast:")]
        return line

    return run_it


def by_measure(rows):
    return {row["measure"]: (row["value"], row["questions"]) for row in rows}


@needs_checks
def test_a_server_is_asked(scripted_server, prompts, capsys):
    """Oracle: a courtesy with a comma in the first line breaks the strict check, not the loose one."""
    pytest.importorskip("httpx2", reason="comes with the extra 'test'")
    pytest.importorskip("tenacity", reason="comes with the extra 'test'")

    async def script(body, attempt, headers):
        yield server.reply('Well, here:\n"So it is."')

    server = scripted_server(script)
    line = ["evaluate", f"server:{server.url}#m", "--instructions", str(prompts), "--json"]
    assert main(line) == 0
    rows = json.loads(capsys.readouterr().out)
    assert by_measure(rows) == {
        "prompt strict": (0.0, 2),
        "instruction strict": (0.0, 3),
        "prompt loose": (1.0, 2),
        "instruction loose": (1.0, 3),
    }
    assert {(row["task"], row["temperature"], row["max_tokens"]) for row in rows} == {("two", 0.0, 1280)}
    assert {"A", "B"} <= {body["messages"][-1]["content"] for _, _, body in server.seen}

    assert main([*line[:-1], "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "prompt strict" in shown
    assert "instruction loose" in shown


@needs_checks
def test_a_server_that_answers_one_of_two(scripted_server, prompts, capsys):
    """Oracle: the other prompt counts nowhere, and is told of; where none is answered, that is the error."""
    pytest.importorskip("httpx2", reason="comes with the extra 'test'")
    pytest.importorskip("tenacity", reason="comes with the extra 'test'")
    refuses = {"B"}

    async def script(body, attempt, headers):
        refused = body["messages"][-1]["content"] in refuses
        yield server.http(b"{}", 400) if refused else server.reply("So it is.")

    server = scripted_server(script)
    line = ["evaluate", f"server:{server.url}#m", "--instructions", str(prompts), "--json"]
    assert main(line) == 0
    shown = capsys.readouterr()
    assert by_measure(json.loads(shown.out))["instruction strict"] == (1.0, 1)
    assert "1 of 2 prompts got no answer" in shown.err
    refuses.add("A")
    assert main(line) == 2
    assert "nobody answered" in capsys.readouterr().err


@needs_checks
def test_both_ends_of_a_run(prompts, tmp_path, capsys):
    """Oracle: eight rows, which are those of `benchmarks.jsonl`, and the name of the file on the run's page."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("recipe: spiral\nconfig:\n  games: [kuhn_poker]\n")
    for step in (0, 4):
        policy = LanguageModel(*build_nano(["kuhn_poker"], step))
        state = TrainState(step=step, baseline=RoleBaseline(decay=0.5))
        save_checkpoint(run / "checkpoints", policy, torch.optim.SGD(policy.model.parameters()), state)
    line = ["evaluate", str(run), "--instructions", str(prompts), "--base", "--max-tokens", "4", "--json"]
    assert main(line) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == [0] * 4 + [4] * 4
    assert [json.loads(line) for line in (run / "benchmarks.jsonl").read_text().splitlines()] == rows
    assert "instruction strict" in (run / "report.html").read_text()


@needs_checks
def test_a_line_that_is_no_prompt(prompts, refused):
    """Oracle: its number, before any model is loaded."""
    prompts.write_text(prompts.read_text() + '{"prompt": "C"}\n')
    line = refused("nobody/nothing", "--instructions", prompts)
    assert f"--instructions: line 4 of {prompts}: its " in line
    prompts.write_text("\n")
    assert "holds no prompt" in refused("nobody/nothing", "--instructions", prompts)


@pytest.mark.parametrize("package", ["lm_eval.tasks.ifeval.instructions_registry", "langdetect"])
def test_without_the_checks_it_says_what_to_install(package, prompts, refused, monkeypatch):
    """Oracle: the extra's name, in one line."""
    for name in ("lm_eval", package):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "selfplay_fast.evaluate.instructions", raising=False)
    line = refused("nobody/nothing", "--instructions", prompts)
    assert "is not installed" in line
    assert ".[tasks]" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--instructions nowhere.jsonl", "--instructions: there is no file nowhere.jsonl"),
        ("--instructions {} --tasks gsm8k", "--instructions: they are asked by themselves"),
        ("--instructions {} --games nim", "--games: benchmarks play no games"),
        ("--instructions {} --few-shot 2", "--few-shot: needs benchmarks"),
        ("--instructions {} --limit 0", "--limit: must be at least 1, got 0"),
        ("--instructions {} --temperature -1", "--temperature: must be"),
        ("--instructions {} --max-tokens 0", "--max-tokens: must be"),
        ("--instructions {} --base", "--base: nobody/nothing is not a run folder"),
    ],
)
def test_wrong_options_are_one_line(options, words, prompts, refused):
    """Oracle: the option that is wrong."""
    assert words in refused("nobody/nothing", *options.format(prompts).split())
