"""Metrics of document games, by hand."""

from typing import Any

import pytest

from selfplay_fast.evaluate.document_scores import answer_metrics, document_metrics
from selfplay_fast.play.document_rules import Question
from selfplay_fast.play.documents import Cluster, Past, Reading
from selfplay_fast.records import Episode

READING = Reading(
    cluster=Cluster(name="c", task="choice", documents=("a", "b")),
    shown=(0, 1),
    examples=(Past(documents=(0,), question="q", answer="a"),),
)


def episode(returns: dict[str, float], **kept: Any) -> Episode:
    return Episode(game="g", index=0, seed=0, group=0, turns=(), returns=returns, kept=kept)


def test_what_came_of_readings() -> None:
    """By hand: one question asked, one badly formed, two dropped."""
    asked = episode(
        {"questioner": 1.0, "responder": 0.5, "verifier": 0.75},
        reading=READING,
        status="asked",
        why=None,
        question=Question(text="q", answer="a", measured={"hops": 3}),
        success=0.5,
        rule=[0, 0],
        judged=[1, None],
        votes=[[1, 1, 0, -1], []],
    )
    other = {"reading": READING, "question": None}
    bad = episode({"questioner": -1.0}, status="bad_format", why=None, **other)
    dropped = episode({"questioner": 0.0}, status="dropped", why="zero", **other)
    found = document_metrics([asked, bad, dropped, dropped], "x")
    assert found == pytest.approx(
        {
            "x/asked_rate": 0.25,
            "x/bad_format_rate": 0.25,
            "x/dropped_rate": 0.5,
            "x/dropped/zero": 2,
            "x/success": 0.5,
            "x/success/choice": 0.5,
            "x/informative_rate": 1,
            "x/rule_rate": 0,
            "x/judged_rate": 0.5,
            "x/agreement": 0.5,
            "x/documents": 2,
            "x/examples": 1,
            "x/hops": 3,
            "x/return/questioner": 0,
            "x/return/responder": 0.5,
            "x/return/verifier": 0.75,
        }
    )
    assert document_metrics([]) == {}


def test_scores_of_answers() -> None:
    """By hand: averages 1/2 and 0, one of two questions with a right answer; the error of two numbers."""
    episodes = [
        episode({}, question=Question(text="q", answer="a", measured={"hops": h}), task="general", scores=s)
        for h, s in ((1, [1, 0]), (2, [0, 0]))
    ]
    assert answer_metrics(episodes, "x") == pytest.approx(
        {
            "x/average": 0.25,
            "x/average_error": 0.25,
            "x/any": 0.5,
            "x/general": 0.25,
            "x/hops1": 0.5,
            "x/hops2": 0,
        }
    )
