"""Texts to imitate, for a tiny model that is to become a mediocre actor or refiner of `word_tasks`.

They stand for the supervised stage before SPaR: whoever imitates careless writing is right now and then, and what is
right can be learned from itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selfplay_fast.config import Count, Natural, NotNegative, Share, WarmedUp
from selfplay_fast.play.word_tasks import (
    CASES,
    ENDINGS,
    LENGTHS,
    PROMPTS,
    VOCABULARY,
    WordTask,
    critique,
    word_tasks,
    words_of,
)
from selfplay_fast.refine_search import END, START

Chat = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class WordSettings(WarmedUp):
    """What can be set of nano's warm-up on them."""

    nano_warmup = 120

    warmup_steps: Natural | None = None
    """supervised steps on careless demonstrations of both roles before all else, which stand for bootstrapping; None:
    120 for nano, 0 for other models"""
    warmup_dialogues: Count = 80
    """demonstrations of each of these steps"""
    warmup_rate: NotNegative = 3e-3
    """AdamW's peak in the warm-up"""
    warmup_care: Share = 0.65
    """probability that a demonstrated response thinks of a constraint"""
    warmup_skill: Share = 0.7
    """probability that a demonstrated refinement mends all that is broken"""


def _run(first: str, length: int) -> str:
    """Words as the vocabulary has them one after another, from its beginning again after its end."""
    start = VOCABULARY.index(first)
    return " ".join(VOCABULARY[(start + k) % len(VOCABULARY)] for k in range(length))


def written(task: WordTask, rng: np.random.Generator) -> str:
    """Words in alphabetical order that keep to the task, the keyword first: what follows a word is soon learned."""
    first = task.keyword or str(rng.choice(VOCABULARY))
    case = task.case or str(rng.choice(list(CASES)))
    words = _run(first, task.length or int(rng.choice(LENGTHS)))
    return CASES[case](words) + (task.ending or str(rng.choice(ENDINGS)))


def careless(task: WordTask, rng: np.random.Generator, care: float) -> str:
    """The same, but each constraint is thought of with probability ``care`` only."""
    forgotten = {name: None for name in task.constraints if rng.random() >= care}
    return written(replace(task, **forgotten), rng)


def mended(task: WordTask, response: str, rng: np.random.Generator) -> str:
    """The response with as little changed as the task demands of first word, length, case and ending."""
    words = words_of(response)
    known = [word.lower() for word in words if word.lower() in VOCABULARY]
    length = task.length or max(1, len(words))
    first = (known or [str(rng.choice(VOCABULARY))])[0]
    if task.keyword is not None and task.keyword not in _run(first, length).split():
        first = task.keyword
    kept = WordTask(
        length=length,
        keyword=first,
        case=task.case or ("capitals" if "".join(words).isupper() else "small"),
        ending=task.ending or (response[-1] if response.endswith(ENDINGS) else None),
    )
    return written(kept, rng)


def actor_chat(task: WordTask, rng: np.random.Generator, care: float) -> Chat:
    """A prompt and a careless response."""
    return [*map(dict, PROMPTS.actor_chat(task.prompt)), _said(careless(task, rng, care))]


def refiner_chat(task: WordTask, rng: np.random.Generator, care: float, skill: float) -> Chat:
    """The judgement of a careless response; where it is bad, a refinement too, good with probability ``skill``.

    Otherwise one of the broken constraints stays broken.
    """
    response = careless(task, rng, care)
    chat = [*map(dict, PROMPTS.judge_chat(task.prompt, response)), _said(critique(task, response))]
    if broken := task.broken(response):
        seen = task if rng.random() < skill else replace(task, **{str(rng.choice(broken)): None})
        chat += map(dict, PROMPTS.refine_more(task.prompt, response))
        chat.append(_said(f"{', '.join(broken)} {START}{mended(seen, response, rng)}{END}"))
    return chat


def demonstration_texts() -> tuple[list[str], list[str]]:
    """What is read and said in demonstrations of many tasks: what nano's tokenizer is made of."""
    rng = np.random.default_rng(0)
    chats = [
        chat
        for task in word_tasks()
        for chat in (actor_chat(task, rng, 0.5), refiner_chat(task, rng, 0.5, 0.5))
    ]
    messages = [message for chat in chats for message in chat]
    read, said = (
        [message["content"] for message in messages if message["role"] == role]
        for role in ("user", "assistant")
    )
    return read, said


def demonstrations(
    tasks: Sequence[WordTask], count: int, seed: int, *, care: float, skill: float
) -> list[dict[str, Any]]:
    """Dialogues about some of the tasks, the refiner's and the actor's by turns."""
    rng = np.random.default_rng(seed)
    chosen = [tasks[i] for i in rng.integers(len(tasks), size=count)]
    chats = [
        actor_chat(task, rng, care) if k % 2 else refiner_chat(task, rng, care, skill)
        for k, task in enumerate(chosen)
    ]
    return [{"messages": chat} for chat in chats]


def _said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
