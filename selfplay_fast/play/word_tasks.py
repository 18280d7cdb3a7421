"""Writing tasks that a rule can judge, in words that a tiny model can spell: SPaR's learning is shown on them.

A task is a prompt and a rule: ``task.broken(response)`` names the constraints that a response breaks. `WordTask` asks
for words under constraints of length, keyword, case and ending, as verifiable instructions do; `LetterTask` is the
character sequence study of SPaR (Cheng et al. 2024, arXiv 2412.11605, section 4.4). `rule_judge` judges by the rule and
says what is broken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, Literal, Protocol

from selfplay_fast.arguments import shown
from selfplay_fast.play.refine_prompts import RefinePrompts
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.records import Ask
from selfplay_fast.refine_search import END, START, VERDICT

VOCABULARY = (
    *("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"),
    *("jay", "lynx", "mole", "newt", "owl", "pig", "rat", "yak"),
)
LENGTHS = range(2, 6)
ENDINGS = (".", "!", "?")
CASES = {"capitals": str.upper, "small": str.lower}
LETTERS = "abcdefgh"
COUNTS = range(2, 7)

PROMPTS = RefinePrompts(  # few words: each is a token or two of a tiny model
    judge=f"{{prompt}}\n{{response}}\n{VERDICT}?",
    refine=f"{START}{END}",
)


class Task(Protocol):
    """A prompt and its rule."""

    @property
    def prompt(self) -> str: ...

    def broken(self, response: str) -> list[str]:
        """What a critique says of each constraint that the response breaks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WordTask:
    """Some words: so many, one of them, in this case, with this sign at the end. None: as you like."""

    length: int | None = None
    keyword: str | None = None
    case: Literal["capitals", "small"] | None = None
    ending: str | None = None

    @property
    def prompt(self) -> str:
        """The constraints in a fixed order, which `read_word_task` reads again."""
        said = (self.length and f"{self.length} words", self.keyword, self.case, self.ending)
        return " ".join(part for part in said if part)

    @property
    def constraints(self) -> list[str]:
        """The names of those that there are."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def broken(self, response: str) -> list[str]:
        """The names of the constraints that the response breaks."""
        words = words_of(response)
        held = {
            "length": len(words) == self.length,
            "keyword": self.keyword in [word.lower() for word in words],
            "case": bool(words) and self.case is not None and CASES[self.case](response) == response,
            "ending": self.ending is not None and response.endswith(self.ending),
        }
        return [name for name in self.constraints if not held[name]]


_WORD_TASK = re.compile(
    rf"(?:(?P<length>\d+) words)?(?: ?(?P<keyword>{'|'.join(VOCABULARY)}))?(?: ?(?P<case>{'|'.join(CASES)}))?"
    r"(?: ?(?P<ending>[.!?]))?"
)


def read_word_task(prompt: str) -> WordTask:
    """The task that says this prompt; ValueError where there is none."""
    found = _WORD_TASK.fullmatch(prompt)
    values: dict[str, Any] = found.groupdict() if found else {}
    length = values.pop("length", None)
    task = WordTask(length=int(length) if length else None, **values)
    if not found or task.prompt != prompt:
        raise ValueError(f"prompt: no word task says {shown(prompt)}; take those of word_tasks()")
    return task


def words_of(response: str) -> list[str]:
    """Runs of letters."""
    return re.findall(r"[A-Za-z]+", response)


def word_tasks() -> list[WordTask]:
    """All tasks with at least two constraints."""
    everything = product((None, *LENGTHS), (None, *VOCABULARY), (None, *CASES), (None, *ENDINGS))
    tasks = [WordTask(length=n, keyword=k, case=c, ending=e) for n, k, c, e in everything]  # type: ignore[arg-type]
    return [task for task in tasks if len(task.constraints) >= 2]


@dataclass(frozen=True, kw_only=True, slots=True)
class LetterTask:
    """A small letter so many times, its case left open."""

    letter: str
    count: int

    @property
    def prompt(self) -> str:
        """The task in words, which `read_letter_task` reads again."""
        return f"Write {self.count} times {self.letter}"

    def broken(self, response: str) -> list[str]:
        """``letter`` where there is anything but it and spaces, ``count`` where it is not there so often."""
        said = response.replace(" ", "")
        held = {
            "letter": set(said.lower()) <= {self.letter},
            "count": said.lower().count(self.letter) == self.count,
        }
        return [name for name in held if not held[name]]


def read_letter_task(prompt: str) -> LetterTask:
    """The task that says this prompt; ValueError where there is none."""
    found = re.fullmatch(r"Write (\d+) times ([a-z])", prompt)
    if not found:
        raise ValueError(f"prompt: no letter task says {shown(prompt)}; take those of letter_tasks()")
    return LetterTask(letter=found[2], count=int(found[1]))


def letter_tasks() -> list[LetterTask]:
    """Every letter of LETTERS in every number of COUNTS."""
    return [LetterTask(letter=letter, count=count) for letter, count in product(LETTERS, COUNTS)]


def critique(task: Task, response: str) -> str:
    """What is broken, by name, and the verdict."""
    broken = task.broken(response)
    return f"{', '.join(broken) or 'all met'}. {VERDICT}: {'No' if broken else 'Yes'}"


def rule_judge(read: Callable[[str], Task], prompts: RefinePrompts = PROMPTS) -> ScriptedPolicy:
    """A policy that judges by the rule of the task that the prompt names, and says what is broken.

    read: prompt -> task. prompts: how the judge is asked; prompt and response are read out of that.
    """
    parts = re.split(r"\{(prompt|response)\}", prompts.judge)
    if parts[1::2] != ["prompt", "response"]:
        raise ValueError("prompts: a rule reads {prompt} and then {response}, once each, from the judge's")
    before, between, after = map(re.escape, parts[::2])
    asked = re.compile(f"{before}(.*?){between}(.*){after}", re.DOTALL)

    def judged(ask: Ask, sample: int) -> str:
        found = asked.fullmatch(ask.prompt_text)
        if found is None:
            raise ValueError(f"prompts: a judge is asked otherwise here: {shown(ask.prompt_text)}")
        return critique(read(found[1]), found[2])

    return ScriptedPolicy(judged)
