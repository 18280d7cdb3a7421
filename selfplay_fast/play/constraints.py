"""Prompts with constraints: a creator rewrites seed prompts so that an answer to them can fail.  Cheng et al. 2024,
*SPaR*, arXiv 2412.11605.

Each prompt gets one main constraint of 14 families, drawn evenly, and one to three further ones. Their names and groups
are the paper's, their meanings are in our own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfplay_fast.arguments import shown
from selfplay_fast.play.dialogue_table import DialogueTable, Outcome, Protocol
from selfplay_fast.play.refine_prompts import filled
from selfplay_fast.play.scheduler import play, self_play
from selfplay_fast.policies import Policy, ScriptedPolicy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask, Reply, Sampling
from selfplay_fast.refine_search import END, START, read_refinement

Group = Literal["format", "content", "general"]
Fate = Literal["evolved", "unsuitable", "malformed", "unanswered"]

MOST_FURTHER = 3  # constraints beside the main one
CREATION = Sampling(temperature=0.7, max_tokens=2048)


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Constraints of one kind, for example `length` of the group `format`; ``meaning`` is what a creator reads."""

    name: str
    group: Group
    meaning: str


_MEANINGS: Mapping[Group, Mapping[str, str]] = {
    "format": {
        "length": "how many words, sentences or paragraphs the answer has, exactly or within bounds",
        "text format": "how the answer is laid out: a list, a table, headings, marked words, JSON",
        "character format": "how letters are written: all capitals, no capitals, a capital for each word",
        "template": "a frame that the answer fills in: given first or last words, named parts in a given order",
        "punctuation": "marks that must or must not be used, or that must end each line or sentence",
        "numeric": "how many items, examples, steps or figures the answer gives",
    },
    "content": {
        "keyword": "words that must occur, how often, or that must not",
        "symbol": "signs or pictographs that must occur, where, or that must not",
        "sentence": "a given sentence that must occur as it stands, or what the first or last sentence does",
        "genre": "what kind of text the answer is: a letter, a news report, a dialogue, a poem",
    },
    "general": {
        "language": "the language of the answer, or how simple or learned it is",
        "situation": "who speaks to whom, where, and what they know or want",
        "style": "the manner of writing: formal, terse, playful, that of a trade or a time",
        "sentiment": "the feeling that speaks from the answer: hopeful, angry, calm",
    },
}
FAMILIES = tuple(
    Family(name=name, group=group, meaning=meaning)
    for group, meanings in _MEANINGS.items()
    for name, meaning in meanings.items()
)

# What is constant comes first: it is computed once for all prompts.
INSTRUCTION = f"""You write prompts that show whether an assistant does exactly as it is told.
Below stand a seed prompt and a list of kinds of constraints. Rewrite the seed prompt as one prompt that asks for the \
same and sets one constraint of each kind in the list. The first is the main one: give it the most weight.
Make each constraint so definite that whoever reads an answer can decide whether it is met. Constraints must not \
contradict each other or the task, and must read as part of the prompt. Do not answer the prompt.
Write the new prompt, and nothing else, between these marks:
{START}
the new prompt
{END}
If the seed prompt asks for mathematics or for a program, write None between the marks.

Kinds of constraints:
{{constraints}}

Seed prompt:
“{{prompt}}”"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evolved:
    """A seed prompt, the families drawn for it, what became of it, and the new prompt if there is one.

    `unsuitable`: the creator says that it asks for mathematics or code. `malformed`: there is no new prompt between the
    marks. `unanswered`: there is no reply.
    """

    seed_prompt: str
    main: Family
    further: tuple[Family, ...]
    fate: Fate
    prompt: str | None = None


def draw_families(
    seed: int, index: int, families: Sequence[Family] = FAMILIES
) -> tuple[Family, tuple[Family, ...]]:
    """The main family of prompt number ``index``, and one to three others; they depend on nothing else.

    Raises ValueError where there are not enough to draw from.
    """
    if len(families) <= MOST_FURTHER or len({family.name for family in families}) < len(families):
        raise ValueError(
            f"families must be at least {MOST_FURTHER + 1} of different names, got {len(families)}"
        )
    rng = np.random.default_rng(derive_seed(seed, index))
    further = int(rng.integers(1, MOST_FURTHER + 1))
    main, *others = rng.choice(len(families), 1 + further, replace=False)
    return families[main], tuple(families[other] for other in others)


def evolve(
    creator: Policy | Callable[[str], str],
    prompts: Sequence[str],
    *,
    seed: int,
    sampling: Sampling = CREATION,
    families: Sequence[Family] = FAMILIES,
    instruction: str = INSTRUCTION,
) -> list[Evolved]:
    """Have all prompts rewritten at once; what became of each, in their order.

    creator: a policy, or a function from what it reads to what it writes. It reads ``instruction``, in which
    {constraints} and {prompt} stand for these texts and all else for itself; it must be told to write between [[start]]
    and [[end]]. Raises ValueError for a prompt that is no text or empty, and for an instruction without those words.
    """
    for part in ("{constraints}", "{prompt}", START, END):
        if part not in instruction:
            raise ValueError(f"instruction must contain {part}, got {shown(instruction)}")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"prompts: number {index} must be a text that is not empty, got {shown(prompt)}")

    def rewrite(item: tuple[str, Family, tuple[Family, ...]]) -> Protocol:
        prompt, main, further = item
        kinds = "\n".join(f"- {family.name}: {family.meaning}" for family in (main, *further))
        asked = filled(instruction, constraints=kinds, prompt=prompt)
        message = {"role": "user", "content": asked}
        reply: Reply = yield Ask(role="creator", append=[message], sampling=sampling)
        fate, text = _read(reply, prompt)
        evolved = Evolved(seed_prompt=prompt, main=main, further=further, fate=fate, prompt=text)
        return Outcome(returns={}, kept={"evolved": evolved})

    items = [(prompt, *draw_families(seed, index, families)) for index, prompt in enumerate(prompts)]
    policy: Policy = ScriptedPolicy(_speaking(creator)) if callable(creator) else creator
    table = DialogueTable(rewrite, items, seed=seed, name="evolve")
    return [episode.kept["evolved"] for episode in play(self_play(policy), [table])]


def _speaking(creator: Callable[[str], str]) -> Callable[[Ask, int], str]:
    return lambda ask, sample: creator(ask.prompt_text)


def _read(reply: Reply, seed_prompt: str) -> tuple[Fate, str | None]:
    """A seed prompt that comes back as it was is no new prompt."""
    if reply.lost:
        return "unanswered", None
    text = read_refinement(reply.public)
    said = reply.public.strip() if text is None else text
    if re.fullmatch(r"none\W*", said, re.IGNORECASE):
        return "unsuitable", None
    if text is None or text == seed_prompt.strip():
        return "malformed", None
    return "evolved", text
