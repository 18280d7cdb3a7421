"""Arithmetic whose difficulty is its length: eva's curriculum is shown on it with a tiny model.

    3+4 1+1 4+0        2 2 4        each sum modulo 5

The reward is exact and graded: the share of the terms that are right. A creator makes a prompt longer or shorter by a
term, or swaps the operands, which changes nothing but the words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from selfplay_fast.config import Count, Natural, NotNegative, Share, WarmedUp
from selfplay_fast.play.evolve_prompts import EvolvePrompts
from selfplay_fast.play.evolving import Prompt, Rules, Setting, function_reward
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask

MOST_TERMS = 8
MODULUS = 5  # operands are below it too: 25 terms are soon learned
LONGER, SHORTER, SWAPPED = "longer", "shorter", "swapped"
PROMPTS = EvolvePrompts(
    methods={name: name for name in (LONGER, SHORTER, SWAPPED)}, rewrite="{method} {prompt}"
)

_SHORT = 0.75  # of demonstrations
_TERM = re.compile(r"([0-4])\+([0-4])")


@dataclass(frozen=True, kw_only=True)
class SumSettings(WarmedUp):
    """What can be set of nano's warm-up."""

    nano_warmup = 150

    warmup_steps: Natural | None = None
    """supervised steps on sums before all else: what stands for a pretrained model in nano; None: 150 for nano, 0 for
    other models"""
    warmup_rows: Count = 64
    """responses of each of these steps"""
    warmup_terms: Count = 3
    """sums of so many terms are right in all of them"""
    warmup_care: Share = 0.5
    """chance that a term of a longer one is right on purpose"""
    warmup_learning_rate: NotNegative = 3e-3
    """of the warm-up"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_terms >= MOST_TERMS:
            raise ValueError(f"warmup_terms: must be below {MOST_TERMS}, got {self.warmup_terms}")


def rules(common: Rules) -> Rules:
    """With the words of this language."""
    return replace(common, prompts=PROMPTS, topic_of=topic_of)


def setting(*, prompts: int, eval_prompts: int, mastered: int, seed: int) -> Setting:
    """So many sums to begin with, of up to one term more than are ``mastered``, and held-out sums of all lengths."""
    lengths = [1 + i % (1 + mastered) for i in range(prompts)]
    every = [1 + i % MOST_TERMS for i in range(eval_prompts)]
    return Setting(
        prompts=sums(lengths, derive_seed(seed, 0, 2)),
        eval_prompts=sums(every, 0),
        reward_model=function_reward(reward),
    )


def terms_of(prompt: str) -> list[tuple[int, int]]:
    """The operands of each term; none where it is no such prompt."""
    found = [_TERM.fullmatch(word) for word in prompt.split(" ")]
    return [(int(term[1]), int(term[2])) for term in found if term] if all(found) else []


def solution(prompt: str) -> str:
    """The right response."""
    return " ".join(str((a + b) % MODULUS) for a, b in terms_of(prompt))


def reward(prompt: str, response: str) -> float | None:
    """The share of right terms, place by place, of as many as the longer of both has; None for no such prompt."""
    right, said = solution(prompt).split(), response.split()
    if not right:
        return None
    return sum(a == b for a, b in zip(right, said, strict=False)) / max(len(right), len(said))


def difficulty(prompt: str) -> int:
    """Terms of a prompt."""
    return len(terms_of(prompt))


def topic_of(prompt: str) -> str:
    """Its difficulty in words."""
    return str(difficulty(prompt))


def sums(counts: Sequence[int], seed: int) -> list[Prompt]:
    """A prompt of so many terms for each of ``counts``; its topic is its difficulty. ValueError where none can be."""
    if not all(1 <= count <= MOST_TERMS for count in counts):
        raise ValueError(f"terms: must be from 1 to {MOST_TERMS}, got {sorted(set(counts))}")
    rng = np.random.default_rng(seed)
    return [_written(rng.integers(MODULUS, size=(count, 2)).tolist()) for count in counts]


def _written(terms: Sequence[Sequence[int]]) -> Prompt:
    return Prompt(text=" ".join(f"{a}+{b}" for a, b in terms), topic=str(len(terms)))


def mutated(prompt: str, method: str, seed: int) -> str:
    """The prompt by the method of this name, a new term drawn by ``seed``; the same where that cannot be."""
    terms = terms_of(prompt)
    if method == LONGER and len(terms) < MOST_TERMS:
        a, b = np.random.default_rng(seed).integers(MODULUS, size=2).tolist()
        terms.append((a, b))
    elif method == SHORTER and len(terms) > 1:
        terms.pop()
    elif method == SWAPPED:
        terms = [(b, a) for a, b in terms]
    return _written(terms).text


def rule_creator() -> ScriptedPolicy:
    """A creator that does what it is told."""

    def say(ask: Ask, sample: int) -> str:
        method, _, prompt = ask.prompt_text.partition(" ")
        return mutated(prompt, method, derive_seed(*ask.key, sample))

    return ScriptedPolicy(say)


def demonstrations(
    count: int, seed: int, *, careful_terms: int, care: float, creator: bool = False
) -> tuple[list[str], list[str]]:
    """Prompts and responses. Three of four are short, up to ``careful_terms``, and right; of the others, of all other
    lengths, each term is right with chance ``care``, else any number. With ``creator`` every second one is a creator's
    task, done as told."""
    rng = np.random.default_rng(seed)
    prompts, replies = [], []
    for number in range(count):
        short = careful_terms and rng.random() < _SHORT
        lengths = range(1, careful_terms + 1) if short else range(careful_terms + 1, MOST_TERMS + 1)
        terms = int(rng.choice(lengths))
        prompt = _written(rng.integers(MODULUS, size=(terms, 2)).tolist()).text
        if creator and number % 2:
            method = (LONGER, SHORTER, SWAPPED)[rng.integers(3)]
            replies.append(mutated(prompt, method, int(rng.integers(2**62))))
            prompt = f"{method} {prompt}"
        else:
            careless = (rng.random(terms) >= care) & (terms > careful_terms)
            drawn = rng.integers(MODULUS, size=terms)
            right = solution(prompt).split()
            said = [str(d) if c else word for word, c, d in zip(right, careless, drawn, strict=True)]
            replies.append(" ".join(said))
        prompts.append(prompt)
    return prompts, replies


def texts() -> tuple[list[str], list[str]]:
    """What is read and said of sums and of a creator's tasks: what nano's tokenizer is made of."""
    return demonstrations(2000, 0, careful_terms=0, care=0.0, creator=True)
