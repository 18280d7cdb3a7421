"""Texts to imitate, for a tiny model that is to become a mediocre actor or refiner of `word_tasks`.

They stand for the supervised stage before SPaR: whoever imitates careless writing is right now and then, and what is
right can be learned from itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

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


def written(task: WordTask, rng: np.random.Generator) -> str:
    """Random words that keep to the task, the keyword first."""
    length = task.length or int(rng.choice(LENGTHS))
    words = rng.choice(VOCABULARY, length).tolist()
    if task.keyword is not None:
        words[0] = task.keyword
    case = task.case or str(rng.choice(list(CASES)))
    return CASES[case](" ".join(words)) + (task.ending or str(rng.choice(ENDINGS)))


def careless(task: WordTask, rng: np.random.Generator, care: float) -> str:
    """The same, but each constraint is thought of with probability ``care`` only."""
    forgotten = {name: None for name in task.constraints if rng.random() >= care}
    return written(replace(task, **forgotten), rng)


def mended(task: WordTask, response: str, rng: np.random.Generator) -> str:
    """The response with as little changed as the task demands."""
    broken = task.broken(response)
    words = words_of(response) or [str(rng.choice(VOCABULARY))]
    if "length" in broken:
        assert task.length is not None
        while len(words) > task.length:
            others = [k for k, word in enumerate(words) if word.lower() != task.keyword]
            words.pop(int(rng.choice(others or len(words))))
        words += rng.choice(VOCABULARY, task.length - len(words)).tolist()
    if "keyword" in broken:
        assert task.keyword is not None
        words[0] = task.keyword
    case = task.case or ("capitals" if words[0].isupper() else "small")
    ending = task.ending or (response[-1] if response.endswith(ENDINGS) else "")
    return CASES[case](" ".join(words)) + ending


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


def _said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
