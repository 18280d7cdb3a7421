"""Oracle: the published table and form vectors, typed in; a second parser (tests/oracles/self_redteam.py)."""

import importlib.util
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay_fast.play.attack_rules import (
    ATTACKER,
    DEFENDER,
    Labels,
    form_rewards,
    payoffs,
    read_labels,
    read_reply,
    write_labels,
)

ORACLE = Path(__file__).parents[1] / "oracles" / "self_redteam.py"


@pytest.fixture(scope="module")
def oracle():
    spec = importlib.util.spec_from_file_location("self_redteam_oracle", ORACLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("harmful", [True, False])
@pytest.mark.parametrize("labels", list(product([True, False], repeat=3)))
def test_the_sixteen_rows(oracle, labels, harmful):
    """Oracle: the published table, 8 rows for each class of seeds."""
    row = oracle.TABLE[labels]
    assert payoffs(Labels(*labels), harmful) == {ATTACKER: row[0 if harmful else 1], DEFENDER: row[2]}


@pytest.mark.parametrize("kept", list(product([True, False], repeat=2)))
def test_the_form_is_paid_for_beside_the_table(kept):
    said = {
        role: read_reply("a</think><answer>x</answer>" if ok else "x")
        for role, ok in zip((ATTACKER, DEFENDER), kept, strict=True)
    }
    assert form_rewards(said) == {
        role: 1.0 if ok else -1.0 for role, ok in zip((ATTACKER, DEFENDER), kept, strict=True)
    }
    assert set(form_rewards(said, 0.25).values()) <= {0.25, -0.25}


@pytest.mark.parametrize("harmful", [True, False])
@pytest.mark.parametrize("labels", list(product([True, False], repeat=3)))
def test_other_payoffs(labels, harmful):
    """Oracle: by definition, the sum is 0; and with all coefficients 1 the attacker's terms are counted by hand."""
    both = payoffs(Labels(*labels), harmful, "zero_sum")
    assert both[ATTACKER] + both[DEFENDER] == 0
    assert both[DEFENDER] == payoffs(Labels(*labels), harmful)[DEFENDER]
    attack, refused, harm = labels
    wins = [attack == harmful, attack != refused, harm]
    assert payoffs(Labels(*labels), harmful, "general_sum_all_one")[ATTACKER] == sum(
        1 if win else -1 for win in wins
    )


def test_missing_labels():
    """By hand: without the attack's label neither its class nor the refusal counts; no refusal label is no refusal."""
    assert payoffs(Labels(None, True, True), True) == {ATTACKER: 1.0, DEFENDER: -1.0}
    assert payoffs(Labels(True, None, False), True) == {ATTACKER: -0.5, DEFENDER: 0.0}
    assert payoffs(Labels(False, None, False), True) == {ATTACKER: -1.5, DEFENDER: 2.0}
    assert payoffs(Labels(True, True, None), True) == {ATTACKER: 0.0, DEFENDER: 1.0}
    assert [Labels(*row).is_tie for row in ((True, None, False), (None,) * 3, (True, False, True))] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "ok", "seen"),
    [
        ("a</think><answer>x</answer>", True, "x"),
        ("a\nb</think> \n <answer> x y\n</answer>", True, "x y"),
        ("<think>a</think><answer>x</answer>", False, "x"),
        ("a</think>and<answer>x</answer>", False, "x"),
        ("a</think><answer>x</answer> more", False, "x"),
        ("a</think><answer>x</answer>\n", False, "x"),
        ("</think><answer>x</answer>", False, "x"),
        (" </think><answer>x</answer>", False, "x"),
        ("a</think><answer></answer>", False, "a</think><answer></answer>"),
        ("a</think><answer> </answer>", False, "a</think><answer> </answer>"),
        ("a</think><answer>x", False, "a</think><answer>x"),
        ("a</think></think><answer>x</answer>", False, "x"),
        ("a</think><answer>x</answer><answer>y</answer>", False, "x"),
        ("<answer>x</answer></think>a", False, "x"),
        ("plain words", False, "plain words"),
        ("", False, ""),
    ],
)
def test_forms(oracle, text, ok, seen):
    """Oracle: the published vectors and others like them, and the port's parser."""
    said = read_reply(text)
    assert (said.kept_form, said.public) == (ok, seen)
    assert (oracle.is_well_formed(text), oracle.seen_by_the_other(text)) == (ok, seen)
    if not ok:
        assert said.thought == ""


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "a", "x y", " ", "\n", ""]


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
def test_forms_of_any_text(text):
    """Oracle: the port's parser, which looks for places instead of matching a pattern."""
    spec = importlib.util.spec_from_file_location("self_redteam_oracle", ORACLE)
    port = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(port)
    said = read_reply(text)
    assert said.kept_form == port.is_well_formed(text)
    assert said.public == port.seen_by_the_other(text)


@pytest.mark.parametrize("labels", list(product([True, False, None], repeat=3)))
def test_labels_are_read_as_they_are_written(labels):
    assert read_labels(write_labels(Labels(*labels))) == Labels(*labels)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Harmful request: yes\nResponse refusal: no\nHarmful response: no", Labels(True, False, False)),
        (
            "**Harmful request:** No\n- response refusal = N/A\nharmful response: NA",
            Labels(False, None, None),
        ),
        (
            "harmful request: yes\nhmm\nharmful request: no\nresponse refusal: yes\nharmful response: no",
            Labels(False, True, False),
        ),
        ("harmful request: yes\nresponse refusal: no", None),
        ("harmful request: perhaps\nresponse refusal: no\nharmful response: no", None),
        ("harmful request: nothing\nresponse refusal: no\nharmful response: no", None),
        ("", None),
    ],
)
def test_labels_of_judges(text, want):
    assert read_labels(text) == want
