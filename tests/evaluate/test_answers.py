"""Boxed answers. Oracles: counting braces (tests/oracles/rlsp.py), fractions, algebra."""

import subprocess
import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay_fast.evaluate import answers
from selfplay_fast.evaluate.answers import AnswerVerifier, first_boxed

PARTS = ["\\boxed{", "{", "}", "\\frac", "1", "so ", "\\", "\n"]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (r"half, so \boxed{\frac{1}{2}}.", (r"\frac{1}{2}", "half, so ")),
        (r"\boxed{\frac{\sqrt{3}}{2}}", (r"\frac{\sqrt{3}}{2}", "")),
        (r"a \boxed{1} b \boxed{2}", ("1", "a ")),
        (r"\boxed{}", ("", "")),
        (r"\boxed{1", None),
        (r"\boxed {1}", None),
        ("no box", None),
        (r"\boxed{{{{1}}}}", None),
    ],
)
def test_the_first_box_counts(reply: str, found: tuple[str, str] | None) -> None:
    """Oracle: by hand."""
    assert first_boxed(reply) == found


@given(reply=st.lists(st.sampled_from(PARTS), max_size=12).map("".join))
def test_boxes_are_found_as_by_counting_braces(rlsp: ModuleType, reply: str) -> None:
    """Oracle: a scan that counts braces."""
    assert first_boxed(reply) == rlsp.boxed(reply)


def test_a_long_reply_without_an_end_is_read_at_once() -> None:
    """Oracle: no box; a reader that tried all ends of all boxes would not return."""
    for part in ("\\boxed{", "\\boxed{{a}", "\\boxed{{{"):
        assert first_boxed(part * 20_000) is None


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("3", "3", True),
        ("3", " 3 ", True),
        ("1000", "1,000", True),
        ("0.5", "1/2", True),
        ("0.5", "2/4", True),
        ("-2", "+2", False),
        ("3", "4", False),
        ("3", "3/0", False),
        ("3/0", "3/0", True),
        ("3", "3" * 5000, False),
        ("x", "y", False),
        ("3", "", False),
    ],
)
def test_texts_and_plain_numbers_are_compared_exactly(gold: str, answer: str, equal: bool) -> None:
    """Oracle: rational numbers."""
    assert AnswerVerifier("exact").equal(gold, answer) is equal


@pytest.mark.parametrize(("rule", "timeout", "problem"), [("sympy", 5.0, "rule"), ("exact", 0.0, "timeout")])
def test_settings_that_make_no_sense(rule: str, timeout: float, problem: str) -> None:
    """Oracle: one line that names the argument."""
    with pytest.raises(ValueError, match=f"^{problem}: must be"):
        AnswerVerifier(rule, timeout=timeout)  # type: ignore[arg-type]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the extra that brings it."""
    monkeypatch.setattr(answers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"selfplay-fast\[verify\]"):
        AnswerVerifier("math")


def test_mathematics_decides() -> None:
    """Oracle: algebra. What is not mathematics is wrong, and nothing is raised."""
    pytest.importorskip("math_verify", reason="comes with the extra 'test'")
    with AnswerVerifier("math", timeout=60.0) as verifier:
        for gold, answer, equal in [
            ("1/2", r"\frac{1}{2}", True),
            ("0.5", r"\frac12", True),
            ("x+1", "1+x", True),
            (r"2\sqrt{2}", r"\sqrt{8}", True),
            ("(1,2)", "(2,1)", False),
            ("3", r"\text{three}", False),
            ("2", "]{}\n\x00\udc80", False),
        ]:
            assert verifier.equal(gold, answer) is equal, answer
        assert verifier.timeouts == 0


def test_an_answer_that_takes_for_ever_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    """Oracle: the next answer is compared as if nothing had been; one line is logged. The process that compares is one
    that never answers the first question, as C code that no signal interrupts."""
    script = (
        "import sys, time; print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    time.sleep(600) if 'slow' in line else print('true', flush=True)"
    )
    started = []

    class Slow(AnswerVerifier):
        def __init__(self) -> None:
            super().__init__("exact", timeout=0.5)
            self.rule = "math"

    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen:  # type: ignore[type-arg]
        started.append(command)
        return real([sys.executable, "-c", script], **options)  # type: ignore[call-overload]

    answers.subprocess.Popen, kept = popen, answers.subprocess.Popen  # type: ignore[misc,assignment]
    try:
        with Slow() as verifier:
            assert verifier.equal("a", "slow") is False
            assert verifier.equal("a", "slow") is False  # known by now
            assert verifier.timeouts == 1
            verifier.timeout = 60.0
            assert verifier.equal("a", "b") is True
    finally:
        answers.subprocess.Popen = kept  # type: ignore[misc]
    assert len(started) == 2
    assert [record.message for record in caplog.records] == [
        "answer: comparing 'slow' took over 0.5 s or too much memory; it is wrong"
    ]
