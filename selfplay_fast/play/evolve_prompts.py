"""What a creator is told: ways to make another prompt out of one, and how a reward model on a server is asked.

In depth a prompt becomes harder, in breadth it becomes another one: the kinds are those of evol-instruct (Xu et al.
2023, arXiv 2304.12244) and of the template that eva's authors published later; the words are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfplay_fast.records import Message

IN_DEPTH: Mapping[str, str] = {
    "constraints": "Add one or two requirements that a good answer must also meet.",
    "deepening": "Ask further into the matter: about causes, limits or consequences that it only touches.",
    "concretizing": "Put specific names, numbers or circumstances in place of what is general.",
    "reasoning": "Change it so that an answer needs several steps of reasoning one after another.",
    "expansion": "Widen it by a closely related question that has to be answered together with it.",
}
IN_BREADTH: Mapping[str, str] = {
    "persona": "Ask what a person of another trade, age or place would ask about the same matter.",
    "shift_in": "Ask about a narrower neighbour of the matter, within the same field.",
    "shift_out": "Ask about a matter of another field that calls for the same skill.",
    "mix": "Join the matter with one from elsewhere, so that an answer needs both.",
    "abstract": "Ask the general question of which this one is a case.",
}
METHODS: Mapping[str, str] = {**IN_DEPTH, **IN_BREADTH}

_REWRITE = """You rewrite prompts that people give to an assistant. {method}
The new prompt should be harder than the given one, about as long, possible to answer, and sound as if a person had \
written it. Write the new prompt and nothing else, no answer and no remark.

Given prompt:
{prompt}

New prompt:"""
_GRADE = """How good is the assistant's response to the prompt? Think of whether it is right, complete, clear and to \
the point. End with a line "Score: N", where N is from 0 (useless) to 10 (could not be better).

Prompt:
{prompt}

Response:
{response}"""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_SCORE = re.compile(rf"score\W{{1,6}}?({_NUMBER})", re.IGNORECASE)
_LABEL = re.compile(r"\s*(?:new|rewritten) prompt\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvolvePrompts:
    """``methods`` by name; {method} and {prompt} in ``rewrite`` stand for the method's words and the given prompt.

    ``grade``: how a reward model that reads words is asked, of {prompt} and {response}; None: it gets both as a
    conversation of a user and an assistant, as sequence classifiers and functions read it.
    """

    methods: Mapping[str, str] = field(default_factory=lambda: METHODS)
    rewrite: str = _REWRITE
    grade: str | None = None

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("methods: name at least one way to evolve a prompt")
        if "{prompt}" not in self.rewrite:
            raise ValueError("rewrite: must hold {prompt}, which stands for the given prompt")

    def creator_chat(self, prompt: str, method: str) -> list[Message]:
        """The creator's task: evolve the prompt by the method of this name."""
        return [_user(_filled(self.rewrite, method=self.methods[method], prompt=prompt))]

    def score_chat(self, prompt: str, response: str) -> list[Message]:
        """The reward model's."""
        if self.grade is not None:
            return [_user(_filled(self.grade, prompt=prompt, response=response))]
        return [_user(prompt), {"role": "assistant", "content": response}]


GRADED = EvolvePrompts(grade=_GRADE)


def chosen_methods(names: Sequence[str]) -> dict[str, str]:
    """Some of `METHODS`. ValueError for another name, and for none."""
    if unknown := [name for name in names if name not in METHODS]:
        raise ValueError(f"evolve_methods: {unknown[0]!r} is none of {', '.join(METHODS)}")
    if not names:
        raise ValueError("evolve_methods: name at least one")
    return {name: METHODS[name] for name in names}


def read_evolved(said: str, given: str) -> str | None:
    """The new prompt in a creator's reply; None where there is none, or it is the given one."""
    text = _LABEL.sub("", said, count=1) if _LABEL.match(said) else said
    text = text.strip()
    return text if text and text != given.strip() else None


def read_score(said: str) -> float | None:
    """A reward model's number: all that it says, or the last after the word "score"; None for anything else."""
    text = said.strip()
    try:
        number = float(text if re.fullmatch(_NUMBER, text) else _SCORE.findall(text)[-1])
    except (IndexError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _filled(template: str, **texts: str) -> str:
    """The template with each {name} replaced at once, so that texts may hold braces."""
    return re.sub(r"\{(\w+)\}", lambda match: texts.get(match[1], match[0]), template)


def _user(content: str) -> Message:
    return {"role": "user", "content": content}
