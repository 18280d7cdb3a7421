"""Sums that are graded. Oracle: cases by hand."""

import numpy as np
import pytest

from selfplay_fast.play.graded_sums import (
    LONGER,
    MOST_TERMS,
    SHORTER,
    SWAPPED,
    demonstrations,
    difficulty,
    mutated,
    reward,
    rule_creator,
    solution,
    sums,
    terms_of,
)
from selfplay_fast.records import Ask, Key


@pytest.mark.parametrize(
    ("response", "paid"),
    [
        ("2 2 4", 1.0),
        (" 2  2 4\n", 1.0),
        ("2 2 3", 2 / 3),
        ("2 4 2", 1 / 3),
        ("2 2", 2 / 3),  # what is missing is wrong
        ("2 2 4 1", 3 / 4),  # and so is what is too much
        ("2, 2 4", 2 / 3),
        ("no", 0.0),
        ("", 0.0),
    ],
)
def test_the_reward_is_the_share_of_right_terms(response: str, paid: float) -> None:
    assert reward("3+4 1+1 4+0", response) == pytest.approx(paid)


@pytest.mark.parametrize("prompt", ["", "3+4 ", "3+4  1+1", "3+5", "3-4", "3+4 no", "longer 3+4"])
def test_what_is_no_sum_has_no_reward(prompt: str) -> None:
    assert reward(prompt, "2") is None
    assert terms_of(prompt) == []


def test_mutations_are_a_term_more_or_less_or_swapped() -> None:
    assert mutated("3+4 1+2", SHORTER, 0) == "3+4"
    assert mutated("3+4", SHORTER, 0) == "3+4"
    assert mutated("3+4 1+2", SWAPPED, 0) == "4+3 2+1"
    longer = mutated("3+4", LONGER, 0)
    assert longer.startswith("3+4 ")
    assert difficulty(longer) == 2
    assert len({mutated("3+4", LONGER, seed) for seed in range(40)}) > 10
    longest = " ".join(["1+1"] * MOST_TERMS)
    assert mutated(longest, LONGER, 0) == longest
    assert solution("4+3 2+1") == solution("3+4 1+2") == "2 3"


def test_the_rule_does_what_it_is_told_and_repeats_it() -> None:
    asks = [Ask(role="creator", append=f"{LONGER} 3+4", key=Key(1, i, 0)) for i in (0, 0, 1, 2, 3)]
    said = [reply.text for reply in rule_creator().generate(asks)]
    assert said[0] == said[1]
    assert len(set(said)) > 1
    assert all(difficulty(text) == 2 for text in said)


def test_sums_are_as_long_as_asked_and_their_topic_says_so() -> None:
    found = sums([1, 3, 8], seed=5)
    assert [difficulty(one.text) for one in found] == [int(one.topic) for one in found] == [1, 3, 8]
    assert found == sums([1, 3, 8], seed=5) != sums([1, 3, 8], seed=6)
    with pytest.raises(ValueError, match="terms: must be from 1 to 8, got \\[0, 9\\]"):
        sums([9, 0], seed=0)


def test_demonstrations_are_right_as_often_as_careful() -> None:
    """Oracle: three of four are short and right; of the terms of others 0.6, and one of five of the rest by luck."""
    prompts, replies = demonstrations(2000, 0, careful_terms=3, care=0.6)
    rights: dict[bool, list[bool]] = {True: [], False: []}
    for prompt, said in zip(prompts, replies, strict=True):
        pairs = zip(solution(prompt).split(), said.split(), strict=True)
        rights[difficulty(prompt) <= 3] += [a == b for a, b in pairs]
    assert all(rights[True])
    assert np.mean(rights[False]) == pytest.approx(0.68, abs=0.03)
    counts = [sum(difficulty(prompt) == n for prompt in prompts) for n in range(1, MOST_TERMS + 1)]
    assert sum(counts[:3]) == pytest.approx(1500, abs=60)
    assert min(counts[:3]) > 430
    assert min(counts[3:]) > 70


def test_creators_demonstrations_are_done_as_told() -> None:
    prompts, replies = demonstrations(80, 0, careful_terms=3, care=0.5, creator=True)
    for prompt, said in zip(prompts[1::2], replies[1::2], strict=True):
        method, _, given = prompt.partition(" ")
        grown = {LONGER: 1, SHORTER: -1, SWAPPED: 0}[method]
        assert difficulty(said) == min(MOST_TERMS, max(1, difficulty(given) + grown))
