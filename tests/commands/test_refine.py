"""`selfplay-fast refine`. Oracles: the trees that `search.refine` grows with the same words, and the files' lines."""

import asyncio
import json

import pytest

pytest.importorskip("httpx2", reason="comes with the extra 'test'")
pytest.importorskip("tenacity", reason="comes with the extra 'test'")

from selfplay_fast import search
from selfplay_fast.cli import main
from selfplay_fast.play.refine_data import tree_from_json
from selfplay_fast.search import Draft


def say(chat):
    """Responses grow by an x with each refinement and pass with three; they do not depend on the sample."""
    asked = chat[-1]["content"]
    if "Now improve the output" in asked:
        output = chat[0]["content"].split("Output:\n“")[1].split("”")[0]
        return f"More. [[start]]{output}x[[end]]"
    if "Verification" in asked:
        return f"Counted. Final Judgement: {'Yes' if 'xxx' in asked else 'No'}"
    return "x"


def expected(draft):
    """The tree by `search.refine`."""
    words = {"judge": lambda w: f"Counted. Final Judgement: {'Yes' if 'xxx' in w.response else 'No'}"}
    words |= {"refine": lambda w: f"More. [[start]]{w.response}x[[end]]", "respond": lambda w: "x"}
    options = search.RefineOptions(branch=2, judgements=1)
    (tree,) = search.refine([draft], lambda wants: [[words[w.kind](w)] * w.samples for w in wants], options)
    return tree


@pytest.fixture
def served(scripted_server, monkeypatch):
    """served(dies_after) -> (name of the server, the server): it answers so many requests, then HTTP 500."""

    async def no_sleep(seconds):
        pass

    monkeypatch.setattr(asyncio, "sleep", no_sleep)  # of the waits between attempts

    def start(dies_after=10**9):
        async def script(body, attempt, headers):
            alive = len(server.seen) <= dies_after
            yield server.reply(say(body["messages"])) if alive else server.http(b"gone", 500)

        server = scripted_server(script)
        return f"server:{server.url}#judge", server

    return start


SMALL = ["--branch", "2", "--judgements", "1"]
PROMPTS = [
    {"prompt": "three x", "response": "x", "critique": "two are missing", "id": "a"},
    {"prompt": "three x", "response": "xxx"},
    {"prompt": "three x"},
    {"prompt": "three x", "response": "o", "id": 7},
]


def write(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_trees_of_a_file(served, tmp_path, capsys):
    """Oracle: `search.refine` for every draft; a second command finds nothing to do."""
    name, server = served()
    out = tmp_path / "out.jsonl"
    line = [
        "refine",
        "--prompts",
        write(tmp_path / "in.jsonl", PROMPTS),
        "--policy",
        name,
        "--out",
        str(out),
        *SMALL,
    ]
    assert main(line) == 0
    rows = sorted((json.loads(row) for row in out.read_text().splitlines()), key=lambda row: row["line"])
    assert [row["id"] for row in rows] == ["a", None, None, 7]
    for given, row in zip(PROMPTS, rows, strict=True):
        draft = Draft(**{key: value for key, value in given.items() if key != "id"})
        tree = tree_from_json(row)
        assert tree == expected(draft)
        assert (row["response"], row["value"]) == (tree.result.response, tree.result.value)
    assert [row["accepted"] for row in rows] == [True, True, True, True]
    assert [row["rounds"] for row in rows] == [4, 1, 6, 7]
    seen, text = len(server.seen), out.read_text()
    assert "4 of 4 passed" in capsys.readouterr().err
    assert main(line) == 0
    assert "4 prompts, 4 of them done" in capsys.readouterr().err
    assert (len(server.seen), out.read_text()) == (seen, text)


def test_a_dying_server_loses_no_finished_tree(served, tmp_path, capsys):
    """Oracle: what a whole run writes; trees that ended before are there, the others after the same command again."""
    prompts = write(tmp_path / "in.jsonl", PROMPTS)
    out = tmp_path / "out.jsonl"
    name, server = served(dies_after=8)
    line = ["refine", "--prompts", prompts, "--policy", name, "--out", str(out), *SMALL]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert "trees were given up (line " in error
    assert "run the same command again" in error
    first = out.read_text().splitlines()
    assert 1 <= len(first) < 4

    async def well(body, attempt, headers):
        yield server.reply(say(body["messages"]))

    server.script = well
    with out.open("a") as file:
        file.write('{"line": 3, "cut o')  # as a killed process leaves it
    assert main(line) == 0
    rows = out.read_text().splitlines()
    assert rows[: len(first)] == first
    assert sorted(json.loads(row)["line"] for row in rows) == [1, 2, 3, 4]
    for row in map(json.loads, rows):
        given = {key: value for key, value in PROMPTS[row["line"] - 1].items() if key != "id"}
        assert tree_from_json(row) == expected(Draft(**given))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("not json\n", "it is not JSON"),
        ('["a"]\n', "it is no JSON object"),
        ('{"prompt": null}\n', 'it has no "prompt"'),
        ('{"prompt": 5}\n', "prompt must be a string, got 5"),
        ('{"prompt": " "}\n', "its prompt is empty"),
        ('{"prompt": "a", "critique": "b"}\n', "critique goes with the response"),
        ('{"prompt": "a\\ud800"}\n', "half a character"),
        ("[" * 100_000 + "\n", "nested too deeply"),
    ],
)
def test_malformed_lines(row, words, served, tmp_path, capsys):
    """Oracle: the number of the line, and what is wrong with it; nothing is asked and nothing written."""
    name, server = served()
    out = tmp_path / "out.jsonl"
    prompts = write(tmp_path / "in.jsonl", [PROMPTS[0], "\n", row, PROMPTS[1]])
    line = ["refine", "--prompts", prompts, "--policy", name, "--out", str(out), *SMALL]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert f"line 3 of {prompts}: " in error
    assert words in error
    assert len(error.splitlines()) == 1
    assert not out.exists()
    assert server.seen == []


def test_skipped_lines(served, tmp_path, capsys):
    """Oracle: their numbers and what is wrong with them; the other lines' trees are there."""
    name, _ = served()
    out = tmp_path / "out.jsonl"
    prompts = write(tmp_path / "in.jsonl", [PROMPTS[0], "\n", "not json\n", PROMPTS[1], '{"prompt": 5}'])
    assert (
        main(
            [
                "refine",
                "--prompts",
                prompts,
                "--policy",
                name,
                "--out",
                str(out),
                "--malformed",
                "skip",
                *SMALL,
            ]
        )
        == 0
    )
    shown = capsys.readouterr().err
    assert "line 3 skipped: it is not JSON" in shown
    assert "line 5 skipped: prompt must be a string, got 5" in shown
    assert sorted(json.loads(row)["line"] for row in out.read_text().splitlines()) == [1, 4]


def test_refusals(served, tmp_path, capsys):
    """Oracle: one line that names the option, before anything is asked."""
    name, server = served()
    prompts = write(tmp_path / "in.jsonl", PROMPTS)
    other = write(tmp_path / "other.jsonl", ['{"key": "another"}\n'])
    empty = write(tmp_path / "empty.jsonl", ["\n"])
    for arguments, words in (
        (["--prompts", "nowhere.jsonl", "--policy", name], "--prompts: there is no file nowhere.jsonl"),
        (["--prompts", empty, "--policy", name], "holds no prompt"),
        (["--prompts", prompts, "--policy", name, "--out", prompts], "holds the prompts; name another file"),
        (["--prompts", prompts, "--policy", name, "--out", other], "--out: line 1 of"),
        (["--prompts", prompts, "--policy", name, "--branch", "0"], "--branch must be at least 1, got 0"),
        (["--prompts", prompts, "--policy", name, "--depth", "99"], "--branch and depth: "),
        (["--prompts", prompts, "--policy", name, "--max-tokens", "0"], "--max-tokens: must be at least 1"),
        (["--prompts", prompts], "--policy"),
    ):
        assert main(["refine", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    assert server.seen == []
