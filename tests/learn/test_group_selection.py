"""Which samples are learned from: counts of SPELL's specification, and by hand."""

import numpy as np
import pytest

from selfplay_fast.learn.group_selection import drawn, is_consistent, matched_negatives


def test_draws_keep_their_order_and_follow_from_the_seed() -> None:
    """By hand: no candidate twice, all where too many are asked for; other seeds draw others."""
    one = drawn(range(100), 16, 3)
    assert len(set(one.tolist())) == 16
    assert one.tolist() == sorted(one.tolist()) == drawn(range(100), 16, 3).tolist()
    assert one.tolist() != drawn(range(100), 16, 4).tolist()
    assert drawn([7, 5], 3, 0).tolist() == [7, 5]
    assert drawn([], 3, 0).tolist() == []


@pytest.mark.parametrize(
    ("negatives", "ratio", "taken"),
    [
        ({"a": 9, "b": 9, "c": 9}, 1, {"a": 4, "b": 2, "c": 3}),
        ({"a": 1, "b": 9, "c": 9}, 1, {"a": 1, "b": 5, "c": 3}),  # 3 that a lacks come from b
        ({"a": 1, "b": 4, "c": 9}, 1, {"a": 1, "b": 4, "c": 4}),  # and what b lacks from c
        ({"a": 9, "b": 9, "c": 1}, 1, {"a": 4, "b": 2, "c": 1}),  # what the last lacks is lacking
        ({"a": 0, "b": 0, "c": 9}, 1, {"c": 9}),
        ({"a": 9, "b": 9, "c": 9}, 0.5, {"a": 2, "b": 1, "c": 1}),
        ({"a": 9, "b": 9, "c": 9}, 0, {}),
    ],
)
def test_negatives_match_positives_task_by_task(
    negatives: dict[str, int], ratio: float, taken: dict[str, int]
) -> None:
    """Oracle: the specification's carry-over, counted by hand for 4, 2 and 3 positives."""
    positives = ["a"] * 4 + ["b"] * 2 + ["c"] * 3
    own = [task for task, count in negatives.items() for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(own))
    own = [own[i] for i in order]
    chosen = matched_negatives(positives, own, "abc", ratio=ratio, seed=5)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert {t: c for t in "abc" if (c := sum(own[i] == t for i in chosen))} == taken


@pytest.mark.parametrize(
    ("votes", "majority", "rule", "kept"),
    [
        ([1, 1, 1, 1, 1, 1, 1, 0], 1, 1, True),
        ([1, 1, 1, 1, 1, 1, 1, 0], 1, 0, False),  # the rule says otherwise
        ([1, 1, 1, 1, 1, 1, 1, 1], 1, 1, False),  # unanimous
        ([1, 1, 1, 1, 1, 1, 1, -1], 1, 1, False),  # unanimous among those that are valid
        ([0, 0, 0, 0, 0, 1, 1, -1], 0, 0, True),
        ([1, 0, 1, 0, 1, 0, 1, 0], 1, 1, False),  # a half is below 0.51
        ([1, 1, 1, 0, -1, -1, -1, -1], -1, 0, False),  # the majority is no decision
        ([-1] * 8, -1, 0, False),
    ],
)
def test_votes_that_nearly_agree_with_the_rule(
    votes: list[int], majority: int, rule: float, kept: bool
) -> None:
    """Oracle: the specification: agreement of valid votes within 0.51 and 0.99, and the majority is the rule's."""
    assert is_consistent([votes], [majority], [rule]).tolist() == [kept]
