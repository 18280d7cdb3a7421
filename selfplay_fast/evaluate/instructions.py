"""Does a policy follow instructions that a program can check?  IFEval, Zhou et al. 2023, arXiv 2311.07911.

The checks are lm-eval's and need the extra `tasks`. Prompts come from a file, replies from any policy. Strict: as the
reply is. Loose: or without its first line, its last line, its asterisks.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    # It looks for NLTK's data, downloads what is missing, and talks of it; `read_instructions` says what is.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    from langdetect import DetectorFactory
except ModuleNotFoundError as missing:
    package = (missing.name or "").partition(".")[0]
    if package not in ("lm_eval", "langdetect", "immutabledict", "nltk"):
        raise
    raise ModuleNotFoundError(
        f"--instructions: {package} is not installed: pip install -c constraints.txt -e '.[tasks]', or leave the "
        "option out",
        name="lm_eval",
    ) from None

from selfplay_fast.arguments import json_lines, shown
from selfplay_fast.play import DialogueTable, Outcome, play, self_play
from selfplay_fast.play.dialogue_table import Protocol
from selfplay_fast.policies import Policy
from selfplay_fast.records import Ask, Reply, Sampling

GREEDY = Sampling(temperature=0.0, max_tokens=1280)  # as lm-eval asks
DetectorFactory.seed = 0  # else a text in two languages is of one today and of the other tomorrow
# They repeat what is in no language.
logging.getLogger("lm_eval.tasks.ifeval").setLevel(logging.CRITICAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instructed:
    """A prompt, the names of the instructions in it (`length_constraints:number_words`), and their checkers."""

    prompt: str
    names: tuple[str, ...]
    checkers: tuple[Any, ...]

    def check(self, response: str) -> Followed:
        """Which of the instructions a response follows; an empty one follows none."""
        variants = _variants(response)
        loose = [any(_follows(checker, text) for text in variants) for checker in self.checkers]
        strict = [_follows(checker, response) for checker in self.checkers]
        return Followed(strict=tuple(strict), loose=tuple(loose))


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """Of each instruction of a prompt: was it followed, strictly and loosely?"""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def read_instructions(path: Path) -> list[Instructed]:
    """A JSONL file in IFEval's public format: `prompt`, `instruction_id_list` and `kwargs`, one object for each name.

    Arguments that are null are left out. Raises ValueError with the number of a line that cannot be read or checked, or
    that needs data of NLTK's which is not there.
    """
    return [prompt for _, prompt in json_lines("--instructions", path, _instructed)]


def follow(
    policy: Policy, prompts: Sequence[Instructed], *, sampling: Sampling = GREEDY, seed: int = 0
) -> list[Followed | None]:
    """Ask all prompts at once; what of each the reply followed, None where nobody answered.

    Only `reply.public` is checked: reasoning is nobody's business, and a reply without an end of it follows nothing.
    """

    def answer(item: Instructed) -> Protocol:
        message = {"role": "user", "content": item.prompt}
        reply: Reply = yield Ask(role="assistant", append=[message], sampling=sampling)
        return Outcome(returns={}, kept={"followed": None if reply.lost else item.check(reply.public)})

    table = DialogueTable(answer, prompts, seed=seed, name="instructions")
    return [episode.kept["followed"] for episode in play(self_play(policy), [table])]


def instruction_rows(task: str, found: Sequence[Followed | None]) -> list[dict[str, Any]]:
    """Four rows like those of `evaluate.benchmarks`: accuracy over prompts and over instructions, strict and loose.

    Prompts that nobody answered count in `unanswered` only. `error` is the standard error; over instructions that of a
    ratio of sums over prompts, because those of one prompt stand or fall together. ValueError where nobody answered.
    """
    answered = [one for one in found if one is not None]
    if not answered:
        raise ValueError("--instructions: nobody answered any of the prompts; is the server there?")
    common = {
        "task": task,
        "higher_is_better": True,
        "unanswered": len(found) - len(answered),
        "few_shot": 0,
        "chat_template": True,
        "lm_eval": version("lm_eval"),
    }
    sizes = np.array([len(one.strict) for one in answered])
    ones = np.ones_like(sizes)
    rows = []
    for kind in ("strict", "loose"):
        right = np.array([sum(getattr(one, kind)) for one in answered])
        for level, hits, counts in (
            ("prompt", (right == sizes).astype(int), ones),
            ("instruction", right, sizes),
        ):
            value, error = _ratio(hits, counts)
            measure = {"measure": f"{level} {kind}", "value": value, "error": error}
            rows.append(common | measure | {"questions": int(counts.sum())})
    return rows


def _ratio(hits: NDArray[Any], counts: NDArray[Any]) -> tuple[float, float | None]:
    """hits, counts [prompts] -> sum / sum and its standard error (Cochran 1977, *Sampling Techniques*, chapter 6)."""
    n = len(hits)
    value = hits.sum() / counts.sum()
    if n < 2:
        return float(value), None
    residuals = hits - value * counts
    return float(value), float(np.sqrt(n / (n - 1) * (residuals**2).sum()) / counts.sum())


def _instructed(row: Mapping[str, Any]) -> Instructed:
    prompt, names, arguments = (row.get(name) for name in ("prompt", "instruction_id_list", "kwargs"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError('it has no "prompt"')
    if not isinstance(names, list) or not names:
        raise ValueError('its "instruction_id_list" must be a list of names')
    if not isinstance(arguments, list) or len(arguments) != len(names):
        raise ValueError(f'its "kwargs" must be a list of {len(names)} objects, one for each instruction')
    checkers = [_checker(name, given) for name, given in zip(names, arguments, strict=True)]
    return Instructed(prompt=prompt, names=tuple(names), checkers=tuple(checkers))


def _checker(name: Any, given: Any) -> Any:
    """lm-eval's checker with these arguments, after a try, so that none fails once replies are there."""
    if not isinstance(name, str) or name not in INSTRUCTION_DICT:
        raise ValueError(f"there is no check for instruction {shown(name)}")
    if not isinstance(given, Mapping):
        raise ValueError(f"the arguments of {name} must be an object, got {shown(given)}")
    arguments = {key: value for key, value in given.items() if value is not None}
    checker = INSTRUCTION_DICT[name](name)
    absent = [key for key in checker.get_instruction_args_keys() if key not in arguments]
    if absent:
        raise ValueError(f"{name} needs {', '.join(absent)}")  # or the checker would draw them
    words = [word for value in arguments.values() for word in (value if isinstance(value, list) else [value])]
    before = random.getstate()
    try:
        random.seed(0)  # a letter that is none is drawn anew: the same one every time
        checker.build_description(**arguments)
        for text in ("One. Two.", " ".join(map(str, words))):
            checker.check_following(text)
    except Exception as error:  # checkers take what they are given
        if type(error) is LookupError:  # how NLTK misses its data
            fix = "python -m nltk.downloader punkt_tab"
            raise ValueError(f"{name} needs data of NLTK's that is not here: {fix}") from None
        raise ValueError(f"{name} does not take {shown(arguments)}: {shown(str(error))}") from None
    finally:
        random.setstate(before)
    return checker


def _variants(response: str) -> list[str]:
    """What the loose check reads: eight texts, the response first."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def _follows(checker: Any, text: str) -> bool:
    try:
        return bool(text.strip()) and bool(checker.check_following(text))
    except RecursionError:  # JSON nested too deeply is none
        return False
