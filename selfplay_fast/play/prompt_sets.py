"""Where prompts to practise and to be measured on come from: a task with a rule, or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfplay_fast.arguments import json_lines, shown
from selfplay_fast.play.word_tasks import Task, read_word_task, word_tasks
from selfplay_fast.refine_search import Refined

WORDS = "words"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSet:
    """Prompts to learn from in their order, and others to be measured on. ``read``: prompt -> its task and rule."""

    train: Sequence[str]
    held_out: Sequence[str]
    read: Callable[[str], Task] | None = None

    @property
    def name(self) -> str:
        """What metrics call them."""
        return "prompts" if self.read is None else WORDS

    def of_step(self, step: int, count: int) -> list[str]:
        """The prompts of step 1, 2, …: ``count`` after those of the step before; from the beginning after the last."""
        return [self.train[place % len(self.train)] for place in range((step - 1) * count, step * count)]

    def passes(self, tree: Refined) -> bool:
        """Is the result of this tree good: by the rule, or where there is none by the votes?"""
        if self.read is None or tree.result is None:
            return tree.accepted
        return not self.read(tree.draft.prompt).broken(tree.result.response)


def prompt_set(source: str, held_out: int, seed: int) -> PromptSet:
    """``"words"``: all `word_tasks`; or a file of JSON objects with a ``prompt``, one a line.

    The first ``held_out`` of an order that is always the same are held out, the others are in an order of the seed.
    ValueError naming the line that is no prompt, and where no prompts are left to learn from.
    """
    texts = [task.prompt for task in word_tasks()] if source == WORDS else read_prompts(Path(source))
    if len(texts) <= held_out:
        raise ValueError(
            f"held_out_prompts: {held_out} of {len(texts)} prompts leave none to learn from; hold out fewer"
        )
    fixed = np.random.default_rng(0).permutation(len(texts))
    order = np.random.default_rng(seed).permutation(fixed[held_out:])
    return PromptSet(
        train=[texts[i] for i in order],
        held_out=[texts[i] for i in fixed[:held_out]],
        read=read_word_task if source == WORDS else None,
    )


def read_prompts(path: Path) -> list[str]:
    """Those of a file, each once. ValueError where there is no such file or no prompt in it, and for a line that is
    none."""
    if not path.is_file():
        raise ValueError(
            f"prompts: there is no file {path}; name a JSONL file of objects with a prompt, or {WORDS}"
        )
    texts = dict.fromkeys(text for _, text in json_lines("prompts", path, _prompt))
    if not texts:
        raise ValueError(f"prompts: there is no prompt in {path}")
    return list(texts)


def _prompt(row: Mapping[str, Any]) -> str:
    text = row.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"prompt must be a text, got {shown(text)}")
    return text
