"""What SPELL reads from replies and pays for them, exactly.  Yang et al. 2025, arXiv 2509.23863, and its released code.

Replies are untrusted text: whatever is written, a question is read or None, an answer is right or wrong, a vote is YES,
NO or none. Nothing here asks a policy.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Task = Literal["numeric", "general", "choice"]
TASKS: tuple[Task, ...] = ("numeric", "general", "choice")
QUESTIONER, RESPONDER, VERIFIER = "questioner", "responder", "verifier"
Difficulty = Literal["gaussian", "reverse", "rzero"]
LETTERS = "ABCD"

_BLOCK = re.compile(r"```json(.*?)```", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ANSWER_IS = re.compile(r"answer is", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?(?:[eE][-+]?\d{1,3})?")
_LETTER = re.compile(rf"\b([{LETTERS}])\b")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DECISION = re.compile(r"\[\[(YES|NO)\]\]")
_LARGEST = 1e300  # of numbers that are compared, scaled and rounded
_TOLERANCE = 0.0015
_SCALES = (1, 100, 1e3, 1e6, 1e9)  # per cent, thousands, millions, billions
_DECIMALS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked and the questioner's own answer; ``options`` by letter where one is to be chosen.

    ``measured`` are numbers that a language of our own knows of its questions, such as hops.
    """

    text: str
    answer: str
    options: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)


def read_question(text: str, task: Task) -> Question | None:
    """The last valid ```json block, or else all of the text as JSON; None where keys or values are not as asked for.

    ``question`` and ``answer``, in multiple choice four ``options`` A to D and a letter as answer; a numeric answer is
    a number. Control characters are taken for blanks.
    """
    found = _last_object(text)
    if found is None:
        return None
    asked, answer, options = found.get("question"), found.get("answer"), found.get("options")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not (isinstance(asked, str) and asked.strip() and isinstance(answer, str) and answer.strip()):
        return None
    if task == "choice":
        if not (isinstance(options, dict) and sorted(options) == list(LETTERS) and answer.strip() in options):
            return None
        if not all(isinstance(option, str) and option.strip() for option in options.values()):
            return None
    elif task == "numeric" and read_number(answer) is None:
        return None
    told = {letter: str(option) for letter, option in options.items()} if isinstance(options, dict) else {}
    return Question(text=asked.strip(), answer=answer.strip(), options=told if task == "choice" else {})


def _last_object(text: str) -> dict[str, Any] | None:
    clean = _CONTROL.sub(" ", text)
    for part in (*reversed(_BLOCK.findall(clean)), clean):
        try:
            found = json.loads(part)
            json.dumps(found, ensure_ascii=False).encode()  # half a surrogate is no text
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return None


def is_unfinished(text: str) -> bool:
    """Does reasoning begin and not end?"""
    return "<think>" in text and "</think>" not in text


def extracted_answer(text: str) -> str | None:
    """What follows the last "answer is", on the same line; None where nothing does."""
    parts = _ANSWER_IS.split(text)
    if len(parts) == 1:
        return None
    line = parts[-1].strip().split("\n", 1)[0].strip(" :*\t").removesuffix(".").strip(" *")
    return line or None


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and more than single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def read_number(text: str) -> float | None:
    """The first number of a text, with commas or without, as 1,250.5 or 3e-4; None where there is none, or none that
    can be scaled."""
    found = _NUMBER.search(text)
    if found is None:
        return None
    number = float(found[0].replace(",", ""))
    return number if abs(number) < _LARGEST else None


def same_number(answer: float, reference: float) -> bool:
    """Within 0.15 %, one of them times 1, 100, 10^3, 10^6 or 10^9, or equal once both are rounded up to 3 decimals."""
    small, large = sorted((answer, reference), key=abs)
    if any(abs(small * scale - large) <= _TOLERANCE * abs(large) for scale in _SCALES):
        return True
    return math.ceil(answer * _DECIMALS) == math.ceil(reference * _DECIMALS)


def rule_score(task: Task, question: Question, answer: str | None) -> float:
    """1 where the extracted answer is right by the rule of its task, else 0.

    general: the normalised reference is part of the normalised answer; choice: the first letter is the reference's;
    numeric: `same_number`.
    """
    if answer is None:
        return 0.0
    if task == "choice":
        letter = _LETTER.search(answer)
        return float(letter is not None and letter[1] == question.answer)
    if task == "numeric":
        number, reference = read_number(answer), read_number(question.answer)
        return float(number is not None and reference is not None and same_number(number, reference))
    reference_text = normalised(question.answer)
    return float(bool(reference_text) and reference_text in normalised(answer))


def read_vote(text: str) -> int:
    """1 for YES, 0 for NO, as the last decision in double brackets has it, -1 where there is none."""
    decisions = _DECISION.findall(text)
    return -1 if not decisions else int(decisions[-1] == "YES")


def majority(votes: Sequence[int]) -> int:
    """What most of the votes 1, 0, -1 say; of equally many, what was said first."""
    return Counter(votes).most_common(1)[0][0]


def vote_rewards(votes: Sequence[int]) -> list[float]:
    """1 for agreeing with the majority, 0 for not, -1 for no decision."""
    most = majority(votes)
    return [-1.0 if vote == -1 else float(vote == most) for vote in votes]


def answer_reward(rule: float, judged: int | None) -> float:
    """max(rule, majority); the rule alone where the majority is -1 or nobody was asked (None)."""
    return rule if judged in (None, -1) else max(rule, float(judged))


def question_reward(success: float, difficulty: Difficulty = "gaussian", width: float = 0.5 / 3) -> float:
    """What a question is worth by the share p of right answers; 0 where p is 0 or 1.

    gaussian: exp(-(p - 0.5)^2 / (2 width^2)); reverse: 1 - p (Zhao et al. 2025, arXiv 2505.03335); rzero:
    1 - 2 |p - 0.5| (Huang et al. 2025, arXiv 2508.05004).
    """
    if not 0 < success < 1:
        return 0.0
    if difficulty == "reverse":
        return 1 - success
    if difficulty == "rzero":
        return 1 - 2 * abs(success - 0.5)
    return math.exp(-((success - 0.5) ** 2) / (2 * width**2))
