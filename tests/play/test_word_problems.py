"""Chains of sums and files of problems. Oracle: arithmetic, done again here from the words of the problem."""

import json
import re
from pathlib import Path

import pytest

from selfplay_fast.play.word_problems import (
    chains,
    half_worked,
    in_turn,
    listed,
    made_here,
    read_problems,
)


@pytest.mark.parametrize("modulus", [3, 5, 7])
def test_steps_lead_to_the_answer(modulus: int) -> None:
    """Oracle: Python's arithmetic on the question, step by step."""
    for problem in chains([1, 4, 26] * 20, modulus, seed=1):
        found = re.fullmatch(rf"modulo {modulus}: (\d)((?: [a-z][-+*]\d)+)", problem.question)
        assert found
        value, steps = int(found[1]), []
        for name, sign, operand in re.findall(r" ([a-z])([-+*])(\d)", found[2]):
            after = eval(f"({value}{sign}{operand}) % {modulus}")
            steps.append(f"{value}{name}{sign}{operand}={after}")
            value = after
        assert problem.steps == tuple(steps)
        assert problem.answer == str(value)
        assert problem.worked() == " ".join(steps) + f" \\boxed{{{value}}}"
        assert problem.worked(1) == f"{steps[0]} \\boxed{{{steps[0][-1]}}}"


def test_nothing_but_all_steps_tells_the_answer() -> None:
    """Oracle: among many chains every answer is about equally often right, whatever the start or any one step."""
    problems = chains([3] * 3000, 3, seed=2)
    for first in "012":
        told = [p.answer for p in problems if p.question[10] == first]
        for answer in "012":
            assert told.count(answer) / len(told) == pytest.approx(1 / 3, abs=0.06)


def test_demonstrations_stop_early() -> None:
    """Oracle: at least a step, on average 1 / stop of them where chains are long, and what the last of them came to."""
    problems = chains([20] * 2000, 3, seed=3)
    chats = [row["messages"] for row in half_worked(problems, 0.5, seed=4, prompt="Say {question}")]
    assert [chat[0]["content"] for chat in chats] == [f"Say {problem.question}" for problem in problems]
    replies = [chat[1]["content"] for chat in chats]
    careful = half_worked(problems[:9], 0.0, seed=4)
    assert [row["messages"][1]["content"] for row in careful] == [
        problem.worked() for problem in problems[:9]
    ]
    shown = [reply.count("=") for reply in replies]
    assert min(shown) == 1
    assert sum(shown) / len(shown) == pytest.approx(2, abs=0.15)
    for problem, reply, count in zip(problems, replies, shown, strict=True):
        assert reply == problem.worked(count)


def test_all_follows_from_the_seed() -> None:
    """Oracle: the same again, and otherwise with another seed or step."""
    source = made_here((2, 3), 5)
    assert source(0, 8, 1) == source(0, 8, 1)
    assert source(0, 8, 1) != source(1, 8, 1) != source(1, 8, 2)
    assert [len(problem.steps) for problem in source(0, 5, 1)] == [2, 3, 2, 3, 2]


def test_everyone_has_a_turn_before_anyone_has_two() -> None:
    """Oracle: the steps of three passes together hold every row three times, in an order of its own in each pass."""
    turns = [in_turn(7, 3, step, seed=5) for step in range(7)]
    flat = [row for turn in turns for row in turn]
    passes = [flat[:7], flat[7:14], flat[14:]]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert passes[0] != passes[1] != passes[2]
    problems = chains([1] * 7, 3, seed=0)
    assert listed(problems)(2, 3, 5) == [problems[row] for row in turns[2]]


@pytest.mark.parametrize(
    ("steps", "modulus", "problem"), [((2,), 4, "modulus"), ((0,), 3, "steps"), ((27,), 3, "steps")]
)
def test_chains_that_cannot_be(steps: tuple[int, ...], modulus: int, problem: str) -> None:
    """Oracle: one line that names the argument."""
    with pytest.raises(ValueError, match=f"^{problem}: must be"):
        chains(steps, modulus, 0)


def test_operations_can_be_chosen() -> None:
    """Oracle: the words of the problems; one line for an operation that there is not."""
    signs = {
        sign
        for problem in chains([9] * 9, 7, seed=0, signs="+*")
        for sign in problem.question
        if sign in "+-*"
    }
    assert signs == {"+", "*"}
    with pytest.raises(ValueError, match=r"^signs: must be some of"):
        chains([1], 3, seed=0, signs="+/")


def test_files_are_read(tmp_path: Path) -> None:
    """Oracle: the rows, and one line with file and line number for one that is no problem."""
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"problem": "1+1", "answer": "2"}) + "\n")
    (problem,) = read_problems("problems", path)
    assert (problem.question, problem.answer, problem.worked()) == ("1+1", "2", "\\boxed{2}")
    path.write_text('{"problem": "1+1", "answer": 2}\n')
    with pytest.raises(ValueError, match=r"^problems: line 1 of .*answer must be a text, got 2$"):
        read_problems("problems", path)
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"^problems: there is no problem in"):
        read_problems("problems", path)
