"""What SPELL reads and pays, against its specification's numbers and by hand."""

import json
import math

import pytest

from selfplay_fast.play.document_rules import (
    Question,
    answer_reward,
    extracted_answer,
    is_unfinished,
    majority,
    question_reward,
    read_number,
    read_question,
    read_vote,
    rule_score,
    vote_rewards,
)


def test_gaussian_reward_at_eighths() -> None:
    """Oracle: the specification's table for G = 8 and sigma = 0.5 / 3, four digits, symmetric; 0 at both ends."""
    paid = [question_reward(k / 8) for k in range(9)]
    assert paid[:5] == pytest.approx([0, 0.0796, 0.3247, 0.7548, 1], abs=5e-5)
    assert paid == pytest.approx(paid[::-1])


@pytest.mark.parametrize(
    ("difficulty", "paid"),
    [("reverse", [0, 0.75, 0.5, 0.25, 0]), ("rzero", [0, 0.5, 1, 0.5, 0])],
)
def test_other_rewards_of_difficulty(difficulty: str, paid: list[float]) -> None:
    """Oracle: 1 - p and 1 - 2 |p - 0.5|, and nothing where all answers are right or wrong."""
    assert [question_reward(k / 4, difficulty) for k in range(5)] == pytest.approx(paid)  # type: ignore[arg-type]


def test_a_wider_gaussian_pays_more_off_the_middle() -> None:
    """Oracle: the formula at p = 1/4 for the widths of the paper's ablation."""
    for width in (0.5 / 6, 0.5 / 3, 0.5 / 2):
        assert question_reward(0.25, width=width) == pytest.approx(math.exp(-0.0625 / (2 * width**2)))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 42.", "42"),
        ("The answer is 1. No: Therefore, the Answer is: Red River.\nThat is all.", "Red River"),
        ("the answer is **7%**.", "7%"),
        ("answer is 3.5", "3.5"),
        ("42", None),
        ("the answer is", None),
        ("", None),
    ],
)
def test_extracted_answers(text: str, answer: str | None) -> None:
    """By hand: what follows the last "answer is", on its line, without the full stop."""
    assert extracted_answer(text) == answer


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        ("Red River", "the red river", 1),
        ("Red River", "It is the Red River, of course", 1),
        ("The Red River", "red   river!", 1),
        ("Red River", "red", 0),
        ("U.S.", "us", 1),
        ("the", "the", 0),
        ("Red River", None, 0),
    ],
)
def test_general_answers_hold_the_reference(gold: str, answer: str | None, score: float) -> None:
    """By hand: normalised (lower case, no punctuation, no articles) and a part; articles alone fit nothing."""
    assert rule_score("general", Question(text="?", answer=gold), answer) == score


@pytest.mark.parametrize(
    ("answer", "score"),
    [("B", 1), ("(B) blue", 1), ("B. blue", 1), ("A, not B", 0), ("blue", 0), ("b", 0), ("ABB", 0)],
)
def test_choices_are_letters(answer: str, score: float) -> None:
    """By hand: the first letter that stands alone."""
    assert rule_score("choice", Question(text="?", answer="B"), answer) == score


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        ("1000", "1001.5", 1),  # 0.15 % exactly
        ("1000", "1001.6", 0),
        ("1000", "998.5", 1),
        ("1000", "998.4", 0),
        ("0.05", "5%", 1),  # times 100
        ("5", "0.05", 1),
        ("2.5", "2,500", 1),  # thousands, with a comma
        ("2500000", "2.5", 1),
        ("2.5e9", "2.5", 1),
        ("2.5", "250000", 0),  # 10^5 is no scale
        ("2.5", "25", 0),
        ("-5", "5", 0),
        ("-5", "-5.001", 1),
        ("0.0004", "0.0001", 1),  # both are 0.001, rounded up to 3 decimals
        ("0.0004", "0.0011", 0),
        ("0.0004", "-0.0001", 0),
        ("12", "about $12 million", 1),
        ("12", "twelve", 0),
        ("12", "1" * 400, 0),
    ],
)
def test_numeric_answers(gold: str, answer: str, score: float) -> None:
    """By hand: 0.15 %, the scales 100, 10^3, 10^6 and 10^9 either way, equal after rounding up to 3 decimals."""
    assert rule_score("numeric", Question(text="?", answer=gold), answer) == score


def test_numbers_are_finite() -> None:
    """By hand: an exponent beyond floats is no number, long digits do not raise."""
    assert read_number("1e999") is None
    assert read_number("1e307") is None  # its thousandfold is not finite
    assert read_number("9" * 5000) is not None


GENERAL = {"question": "who?", "answer": "Ada"}
CHOICE = {"question": "which?", "options": dict.fromkeys("ABCD", "x"), "answer": "C"}


def block(value: object) -> str:
    return f"```json\n{json.dumps(value)}\n```"


@pytest.mark.parametrize(
    ("text", "task", "answer"),
    [
        (block(GENERAL), "general", "Ada"),
        (
            block({"question": "a", "answer": "first"}) + " and " + block(GENERAL),
            "general",
            "Ada",
        ),  # the last
        (block(GENERAL) + " ```json\n{broken\n```", "general", "Ada"),  # the last valid
        (json.dumps(GENERAL), "general", "Ada"),  # no block: all of it
        ("hm " + json.dumps(GENERAL), "general", None),
        (
            '```json\n{"question": "two\nlines\x07", "answer": "Ada"}\n```',
            "general",
            "Ada",
        ),  # control characters
        (block({"question": "how many?", "answer": 12.5}), "numeric", "12.5"),
        (block({"question": "how many?", "answer": True}), "numeric", None),
        (block({"question": "how many?", "answer": "many"}), "numeric", None),
        (block({"question": " ", "answer": "Ada"}), "general", None),
        (block({"question": "who?"}), "general", None),
        (block([GENERAL]), "general", None),
        (block(CHOICE), "choice", "C"),
        (block(CHOICE | {"answer": "E"}), "choice", None),
        (block(CHOICE | {"answer": "AB"}), "choice", None),
        (block(CHOICE | {"options": dict.fromkeys("ABC", "x")}), "choice", None),
        (block(CHOICE | {"options": dict.fromkeys("ABCD", 1)}), "choice", None),
        (block(GENERAL), "choice", None),
        ("[" * 100000, "general", None),
        ("", "general", None),
    ],
)
def test_questions_are_read_or_not(text: str, task: str, answer: str | None) -> None:
    """By hand: the last valid block, else the whole text; keys and values as the task asks for."""
    found = read_question(text, task)  # type: ignore[arg-type]
    assert (None if found is None else found.answer) == answer


def test_reasoning_that_does_not_end() -> None:
    """By hand."""
    assert is_unfinished("<think> and so on " + block(GENERAL))
    assert not is_unfinished("<think> hm </think>" + block(GENERAL))
    assert not is_unfinished(block(GENERAL))


@pytest.mark.parametrize(
    ("text", "vote"),
    [("Decision: [[YES]]", 1), ("[[YES]] no: [[NO]]", 0), ("[[no]]", -1), ("YES", -1), ("", -1)],
)
def test_votes_are_read(text: str, vote: int) -> None:
    """By hand: the last decision in double brackets, none is -1."""
    assert read_vote(text) == vote


@pytest.mark.parametrize(
    ("votes", "most", "paid"),
    [
        ([1, 1, 0, 1], 1, [1, 1, 0, 1]),
        ([0, 1, 0, -1], 0, [1, 0, 1, -1]),
        ([-1, -1, 1, -1], -1, [-1, -1, 0, -1]),
        ([1, 0, 0, 1], 1, [1, 0, 0, 1]),  # of equally many, the first
        ([0, 1, 1, 0], 0, [1, 0, 0, 1]),
    ],
)
def test_majorities_and_what_votes_are_paid(votes: list[int], most: int, paid: list[float]) -> None:
    """By hand: 1 for the majority, 0 against it, -1 for no decision, also where that is the majority."""
    assert majority(votes) == most
    assert vote_rewards(votes) == paid


@pytest.mark.parametrize(
    ("rule", "judged", "paid"),
    [(0, 1, 1), (1, 0, 1), (0, 0, 0), (1, 1, 1), (0, -1, 0), (1, -1, 1), (0, None, 0)],
)
def test_answers_are_paid_the_larger_score(rule: float, judged: int | None, paid: float) -> None:
    """By hand: the rule alone where no majority decides."""
    assert answer_reward(rule, judged) == paid


def test_half_a_surrogate_is_no_question() -> None:
    """Oracle: what a tokenizer takes. Text that cannot be encoded would end the run when it is asked."""
    whole = r'{"question": "What is \ud83d\ude00?", "answer": "x"}'
    assert read_question(whole, "general") is not None
    assert read_question(whole.replace(r"\ude00", ""), "general") is None
