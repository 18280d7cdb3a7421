"""Clusters and what is remembered of them: growth in both modes, order of turns, files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfplay_fast.play.document_rules import TASKS, Question
from selfplay_fast.play.documents import Cluster, Memory, read_clusters, read_questions
from selfplay_fast.records import Episode


def cluster(documents: int, task: Any = "general") -> Cluster:
    return Cluster(name="c", task=task, documents=tuple(f"d{i}" for i in range(documents)))


def after(memory: Memory, clusters: list[Cluster], success: float | None) -> tuple[Memory, Any]:
    """One reading, and the memory after a question of that success."""
    (reading,) = memory.readings(clusters, 1, seed=1)
    question = Question(text=f"q{reading.index}", answer="a")
    kept = {"reading": reading, "question": question} | ({} if success is None else {"success": success})
    episode = Episode(game="g", index=0, seed=0, group=0, turns=(), returns={}, kept=kept)
    return memory.after([episode]), reading


@pytest.mark.parametrize(
    ("mode", "sizes"), [("paper", [5, 10, 15, 20, 20, 20]), ("code", [5, 10, 15, 20, 25, 30])]
)
def test_what_the_questioner_is_shown_grows(mode: Any, sizes: list[int]) -> None:
    """Oracle: the specification: at most 3 * 5 + 5 documents by the paper, the whole cluster by the code."""
    memory, clusters = Memory(mode=mode), [cluster(30)]
    shown = []
    for _ in range(6):
        memory, reading = after(memory, clusters, 0.5)
        shown.append(len(reading.shown))
        assert len(set(reading.shown)) == len(reading.shown)
        assert len(reading.new) == 5 or mode == "code"
        assert len(reading.examples) == min(3, reading.index)
    assert shown == sizes
    memory, reading = after(memory, clusters, 0.5)
    assert len(reading.shown) == (30 if mode == "code" else 20)
    assert [past.question for past in memory.past[0]] == ["q4", "q5", "q6"]  # the first are forgotten first


@pytest.mark.parametrize(
    ("success", "paper", "code"),
    [(0.0, 0, 0), (0.005, 1, 0), (0.01, 1, 1), (0.5, 1, 1), (1.0, 0, 1), (None, 0, 0)],
)
def test_which_questions_are_remembered(success: float | None, paper: int, code: int) -> None:
    """Oracle: the specification: 0 < p < 1 by the paper, 0.01 <= p <= 1 by the code, never one that was not asked."""
    for mode, count in (("paper", paper), ("code", code)):
        memory, _ = after(Memory(mode=mode), [cluster(8)], success)  # type: ignore[arg-type]
        assert len(memory.past.get(0, ())) == count
        assert memory.drawn == 1


def test_no_history_shows_new_documents_only() -> None:
    """By hand: length 0 remembers nothing."""
    memory = Memory(length=0)
    for _ in range(3):
        memory, reading = after(memory, [cluster(20)], 0.5)
        assert (len(reading.shown), reading.examples) == (5, ())


def test_tasks_come_by_turns_and_clusters_once_in_a_pass() -> None:
    """By hand: one of each task in three readings, all clusters of a task before any comes again, in another order."""
    clusters = [cluster(6, TASKS[i % 3]) for i in range(12)]
    readings = Memory().readings(clusters, 24, seed=4)
    assert [r.cluster.task for r in readings] == list(TASKS) * 8
    assert Counter(r.number for r in readings) == dict.fromkeys(range(12), 2)
    assert sorted(r.number for r in readings[:12]) == list(range(12))
    assert [r.number for r in readings[:12]] != [r.number for r in readings[12:]]


def test_readings_do_not_depend_on_how_many_are_drawn_at_a_time() -> None:
    """Oracle: all of them at once."""
    clusters = [cluster(9, TASKS[i % 2]) for i in range(5)]
    whole = Memory().readings(clusters, 12, seed=4, verify_right=0.5)
    parts = [
        r
        for first in range(0, 12, 3)
        for r in Memory(drawn=first).readings(clusters, 3, seed=4, verify_right=0.5)
    ]
    assert parts == whole
    assert {r.verify_right for r in whole} == {True, False}


def test_a_memory_goes_through_json() -> None:
    """Oracle: the memory that it was written of."""
    memory = Memory()
    for _ in range(5):
        memory, _ = after(memory, [cluster(9), cluster(4)], 0.5)
    assert Memory().with_state(json.loads(json.dumps(memory.state()))) == memory


def test_files_of_clusters_and_questions(tmp_path: Path) -> None:
    """By hand: clusters without documents are counted and left out; a line that is wrong is named."""
    rows: list[dict[str, Any]] = [
        {"question_id": "x", "data_source": "numeric", "paragraphs": ["a", " ", "b"], "extra_info": {}},
        {"paragraphs": [], "task": "general"},
        {"paragraphs": ["c"], "task": "choice"},
    ]
    file = tmp_path / "clusters.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    clusters, empty = read_clusters(file)
    assert ([c.documents for c in clusters], clusters[0].name, empty) == ([("a", "b"), ("c",)], "x", 1)
    file.write_text("\n".join(map(json.dumps, [*rows, {"paragraphs": ["c"], "task": "poems"}])))
    with pytest.raises(
        ValueError, match=r"clusters: line 4 of .*task must be one of numeric, general, choice"
    ):
        read_clusters(file)
    file.write_text(json.dumps(rows[1]))
    with pytest.raises(ValueError, match="no cluster with documents"):
        read_clusters(file)
    asked = rows[0] | {"question": "how many?", "answer": "4"}
    file.write_text(json.dumps(asked))
    ((own, question),) = read_questions(file)
    assert (own.documents, question.answer) == (("a", "b"), "4")
    file.write_text(json.dumps(asked | {"answer": "many"}))
    with pytest.raises(ValueError, match=r"eval_questions: line 1 of .*must have a question and an answer"):
        read_questions(file)
