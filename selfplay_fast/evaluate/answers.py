r"""Answers in ``\boxed{}``: where they are in a reply, and whether they are right. Replies are untrusted text."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selfplay_fast.arguments import shown
from selfplay_fast.records import Episode

_INNER = r"(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*"  # up to two levels of braces inside the box
_BOXED = re.compile(r"\\boxed\{(" + _INNER + r")\}")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")
_REMEMBERED = 1 << 16  # pairs
_LONGEST = 1000  # characters of an answer
_START_SECONDS = 120.0
_MEMORY = 4 << 30  # bytes of the process that compares
_LOG = logging.getLogger(__name__)


def first_boxed(reply: str) -> tuple[str, str] | None:
    r"""(answer, reasoning): what the first ``\boxed{}`` holds and all text before it; None where there is none."""
    found = _BOXED.search(reply)
    return None if found is None else (found[1], reply[: found.start()])


def answer_metrics(episodes: Sequence[Episode], prefix: str = "") -> dict[str, float]:
    """How many answers are right, with a standard error, and how long replies are.

    Of episodes whose first turn is the answer; they have kept ``right``, ``boxed`` and ``characters`` (of reasoning).
    """
    kept = [episode.kept for episode in episodes]
    right = np.array([bool(k.get("right")) for k in kept], np.float64)
    return {
        f"{prefix}accuracy": float(right.mean()),
        f"{prefix}accuracy_error": float(right.std() / max(1, len(right) - 1) ** 0.5),
        f"{prefix}boxed_share": float(np.mean([bool(k.get("boxed")) for k in kept])),
        f"{prefix}reasoning_characters": float(np.mean([k.get("characters", 0) for k in kept])),
        f"{prefix}reply_tokens": float(np.mean([len(e.turns[0].reply.tokens) for e in episodes])),
    }


def paid_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """`answer_metrics`, ``reward`` and ``reward_std`` and, where it was graded, the mean ``effort``."""
    rewards = np.array([episode.returns["solver"] for episode in episodes])
    metrics = answer_metrics(episodes) | {"reward": rewards.mean(), "reward_std": rewards.std()}
    grades = [grade for episode in episodes if (grade := episode.kept.get("effort")) is not None]
    return metrics | ({"effort": float(np.mean(grades))} if grades else {})


def answered(note: Callable[[str], None], played: Sequence[Episode]) -> list[Episode]:
    """The episodes that can be learned from, and a line for what is unusual. ValueError where there are none."""
    episodes = [episode for episode in played if len(episode.turns[0].reply.tokens)]
    if not episodes:
        raise ValueError("problems: none leaves room for a reply; use a model with a longer context")
    if left := len(played) - len(episodes):
        note(f"{left} problems leave no room for a reply and are left out")
    if failed := sum(episode.kept.get("effort", 0.0) is None for episode in episodes):
        note(f"{failed} replies have no grade of their effort, which counts as 0.5")
    if len({episode.returns["solver"] for episode in episodes}) == 1:
        note("all rewards are equal; only penalty and critic tell replies apart")
    return episodes


class AnswerVerifier:
    """Is an answer equal to the right one?

    Equal texts and plain numbers (1,000 = 1000 = 2000/2) are compared here, exactly. ``rule="math"`` asks the library
    math-verify about all else, in a process that is killed after ``timeout`` seconds: then the answer is wrong, which
    `timeouts` counts. ``rule="exact"`` calls all else wrong. Close it, or use it as a context.

    ValueError where math-verify is not installed.
    """

    def __init__(self, rule: Literal["math", "exact"] = "math", *, timeout: float = 5.0) -> None:
        if rule not in ("math", "exact"):
            raise ValueError(f"rule: must be 'math' or 'exact', got {rule!r}")
        if not timeout > 0:
            raise ValueError(f"timeout: must be above 0 seconds, got {timeout}")
        if rule == "math" and importlib.util.find_spec("math_verify") is None:
            raise ValueError(
                "rule: 'math' needs math-verify; pip install 'selfplay-fast[verify]', or use 'exact'"
            )
        self.rule = rule
        self.timeout = timeout
        self.timeouts = 0
        self._known: dict[
            tuple[str, str], bool
        ] = {}  # or many equal answers that hang would each take their time
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, gold: str, answer: str) -> bool:
        """Never raises, and takes ``timeout`` seconds at most, besides the start of the process."""
        gold, answer = gold.strip(), answer.strip()
        if gold == answer:
            return True
        numbers = _number(gold), _number(answer)
        if None not in numbers:
            return numbers[0] == numbers[1]
        if self.rule == "exact" or not answer or max(len(gold), len(answer)) > _LONGEST:
            return False
        if (gold, answer) not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[gold, answer] = self._ask(gold, answer)
        return self._known[gold, answer]

    def _ask(self, gold: str, answer: str) -> bool:
        line = json.dumps([gold, answer]).encode() + b"\n"
        try:
            process = self._started()
            process.stdin.write(line)  # type: ignore[union-attr]
            said = self._line(self.timeout)
        except OSError:  # it has died of an earlier one, or of this one
            said = None
        if said is None:
            self.timeouts += 1
            _LOG.warning(
                "answer: comparing %s took over %g s or too much memory; it is wrong",
                shown(answer),
                self.timeout,
            )
            self.close()
        return said == b"true"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            script = Path(__file__).with_name("_answer_process.py")
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(_MEMORY)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
            if self._line(_START_SECONDS) != b"ready":
                self.close()
                raise OSError("the process that compares answers does not start")
        return self._process

    def _line(self, seconds: float) -> bytes | None:
        """What the process says within so many seconds."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return (self._process.stdout.readline().strip() or None) if ready else None

    def close(self) -> None:
        """End the process; the next answer starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def __enter__(self) -> AnswerVerifier:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _number(text: str) -> Fraction | None:
    """A plain number, exactly."""
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        return None
    try:
        whole, _, divisor = text.replace(",", "").partition("/")
        return Fraction(whole) / Fraction(divisor or "1")
    except ZeroDivisionError:
        return None
