"""Prompts from tasks and files. Oracle: by hand."""

import json
from pathlib import Path

import pytest

from selfplay_fast.play.prompt_sets import prompt_set, read_prompts


def test_steps_and_what_is_held_out(tmp_path: Path) -> None:
    """Oracle: sets: held out is the same for every seed and never learned from; steps go through all others once."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"p{i}", "id": i}) for i in range(10)) + "\n\n")
    first, second = (prompt_set(str(path), 4, seed) for seed in (0, 1))
    assert first.held_out == second.held_out
    assert len(first.held_out) == 4
    assert first.train != second.train
    steps = [first.of_step(step, 3) for step in (1, 2, 3)]
    assert sorted([*steps[0], *steps[1], *first.held_out]) == sorted(f"p{i}" for i in range(10))
    assert steps[2] == steps[0], "from the beginning again"
    assert first.of_step(1, 7) == [*first.train, first.train[0]]
    with pytest.raises(ValueError, match="held_out_prompts: 10 of 10 prompts leave none"):
        prompt_set(str(path), 10, 0)
    words = prompt_set("words", 200, 0)
    assert (len(words.held_out), len(words.train)) == (200, 794)
    assert words.read is not None
    assert words.read(words.train[0]).prompt == words.train[0]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "line 2 of .* is not JSON"),
        (b"\xff", "line 2 of .* is not UTF-8"),
        (b"[1]", "line 2 of .* is no JSON object"),
        (b'{"prompt": " "}', "line 2 of .* prompt must be a text"),
        (b'{"prompt": 3}', "line 2 of .* prompt must be a text"),
        (b'{"prompt": "\\ud800"}', "line 2 of .* half a character"),
        (b"[" * 100_000, "line 2 of .* is nested too deeply"),
    ],
)
def test_lines_that_are_no_prompts(line: bytes, problem: str, tmp_path: Path) -> None:
    """Oracle: one line that names the place."""
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' + line)
    with pytest.raises(ValueError, match=problem):
        read_prompts(path)
    with pytest.raises(ValueError, match=r"prompts: there is no file .*words"):
        read_prompts(tmp_path / "none.jsonl")
    path.write_text("\n \n")
    with pytest.raises(ValueError, match=r"^prompts: there is no prompt in "):
        prompt_set(str(path), 1, 0)
