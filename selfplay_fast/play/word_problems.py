r"""Problems with one right answer each: from files, or made here, chains of small sums modulo a prime.

    modulo 3: 2 a+1 b*2 c-1        2a+1=0 0b*2=0 0c-1=2 \boxed{2}

A small model solves a chain on paper and not in its head. Each step on paper is a local thing: find the name in the
problem, copy its operation, apply it to the result before. Every operation is a bijection, so nothing but all of them
tells the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from selfplay_fast.arguments import json_lines, shown
from selfplay_fast.config import Nucleus, RecipeConfig, Share
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Message

Source = Callable[[int, int, int], "list[Problem]"]  # step 0, 1 …, count, seed -> the problems of a step
MADE = "chains"  # problems and demonstrations that are made here

SIGNS = "+-*"
_PRIMES = (3, 5, 7)  # one digit each
MOST_STEPS = len(ascii_lowercase)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is asked, the answer, and the steps that lead there where they are known."""

    question: str
    answer: str
    steps: tuple[str, ...] = ()

    def asked(self, prompt: str = "{question}") -> list[Message]:
        """The question as a chat, {question} in the prompt standing for it."""
        return [{"role": "user", "content": prompt.replace("{question}", self.question)}]

    def worked(self, shown: int | None = None) -> str:
        """A reply with the first ``shown`` steps, all unless given, and what they come to."""
        steps = self.steps[:shown]
        came_to = steps[-1].rpartition("=")[2] if steps else self.answer
        return " ".join([*steps, f"\\boxed{{{came_to}}}"])


def chains(steps: Sequence[int], modulus: int, seed: int, signs: str = SIGNS) -> list[Problem]:
    """A chain of so many steps of these operations for each entry of ``steps``; all follow from the seed.

    ValueError where none can be.
    """
    if modulus not in _PRIMES:
        raise ValueError(f"modulus: must be one of {', '.join(map(str, _PRIMES))}, got {modulus}")
    if not all(1 <= count <= MOST_STEPS for count in steps):
        raise ValueError(f"steps: must be between 1 and {MOST_STEPS}, got {sorted(set(steps))}")
    if not signs or set(signs) - set(SIGNS):
        raise ValueError(f"signs: must be some of {SIGNS}, got {signs!r}")
    rng = np.random.default_rng(seed)
    return [_chain(count, modulus, signs, rng) for count in steps]


def _chain(count: int, modulus: int, signs: str, rng: np.random.Generator) -> Problem:
    value = int(rng.integers(modulus))
    asked, steps = [str(value)], []
    drawn = rng.choice(list(signs), count).tolist()
    operands = rng.integers(1, modulus, count).tolist()
    for name, sign, operand in zip(ascii_lowercase, drawn, operands, strict=False):
        before = value
        value = {"+": value + operand, "-": value - operand, "*": value * operand}[sign] % modulus
        asked.append(f"{name}{sign}{operand}")
        steps.append(f"{before}{name}{sign}{operand}={value}")
    return Problem(question=f"modulo {modulus}: {' '.join(asked)}", answer=str(value), steps=tuple(steps))


def half_worked(
    problems: Sequence[Problem], stop: float, seed: int, prompt: str = "{question}"
) -> list[dict[str, list[Message]]]:
    """A dialogue about each problem, in TRL's format, by somebody careless, who stops after each step on paper with
    chance ``stop``, and takes what it came to for the answer. What is fully worked, as all is where ``stop`` is 0, is
    right."""
    counts = (
        np.random.default_rng(seed).geometric(stop, len(problems)) if stop else [MOST_STEPS] * len(problems)
    )
    return [
        {"messages": [*problem.asked(prompt), {"role": "assistant", "content": problem.worked(int(count))}]}
        for problem, count in zip(problems, counts, strict=True)
    ]


def read_problems(what: str, path: str | Path) -> list[Problem]:
    """Rows of a JSONL file with texts ``problem`` and ``answer``. ValueError that names ``what`` and the line."""
    problems = [problem for _, problem in json_lines(what, Path(path), _problem)]
    if not problems:
        raise ValueError(f"{what}: there is no problem in {path}")
    return problems


def _problem(row: Mapping[str, Any]) -> Problem:
    for key in ("problem", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ValueError(f"{key} must be a text, got {shown(row.get(key))}")
    return Problem(question=row["problem"], answer=row["answer"])


def made_here(steps: Sequence[int], modulus: int, signs: str = SIGNS) -> Source:
    """New chains in every step, of all these lengths, equally often."""
    return lambda step, count, seed: chains(
        [steps[i % len(steps)] for i in range(count)], modulus, derive_seed(seed, step), signs
    )


def listed(problems: Sequence[Problem]) -> Source:
    """Some of these in every step."""
    return lambda step, count, seed: [problems[i] for i in in_turn(len(problems), count, step, seed)]


@dataclass(frozen=True, kw_only=True)
class ChainSettings(RecipeConfig):
    """What can be set of chains, and of demonstrations about them."""

    chain_steps: tuple[int, ...] = (5,)
    """steps of the problems that are made here: the grades of their length, equally often"""
    chain_modulus: int = 3
    """what their sums are taken modulo: 3, 5 or 7"""
    chain_signs: str = "+"
    """their operations: some of `+-*`"""
    demonstration_careful: Share = 0.6
    """of those made here: the share of supervised steps that is fully worked, before careless ones"""
    demonstration_stop: Nucleus = 0.6
    """of careless ones: the chance to stop after a step on paper, and take what it came to for the answer"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.chain_steps:
            raise ValueError("chain_steps: name at least one length")
        try:
            chains(self.chain_steps, self.chain_modulus, 0, self.chain_signs)
        except ValueError as error:
            raise ValueError(f"chain_{error}") from None

    def chains(self) -> Source:
        """Problems that are made here."""
        return made_here(self.chain_steps, self.chain_modulus, self.chain_signs)

    def half_worked(
        self, count: int, steps: int, seed: int, prompt: str
    ) -> Callable[[int], list[dict[str, list[Message]]]]:
        """Of 0 … ``steps`` - 1 the dialogues about ``count`` chains: first fully worked, then `half_worked`."""
        source, careful = self.chains(), self.demonstration_careful * steps

        def of_step(step: int) -> list[dict[str, list[Message]]]:
            stop = 0.0 if step < careful else self.demonstration_stop
            return half_worked(source(step, count, seed), stop, derive_seed(seed, step, 1), prompt)

        return of_step


def texts_of(source: Source, prompt: str) -> tuple[list[str], list[str]]:
    """What is read and said about 300 problems: what nano's tokenizer is made of."""
    problems = source(0, 300, 0)
    return [problem.asked(prompt)[0]["content"] for problem in problems], [p.worked() for p in problems]


def in_turn(rows: int, count: int, step: int, seed: int) -> list[int]:
    """Whose turn it is in ``step`` = 0, 1 …: ``count`` of so many rows, in a new order whenever all have had theirs."""
    places = range(step * count, (step + 1) * count)
    orders = {
        epoch: np.random.default_rng(derive_seed(seed, epoch)).permutation(rows)
        for epoch in {place // rows for place in places}
    }
    return [int(orders[place // rows][place % rows]) for place in places]
