"""Clusters of documents to ask about, and what was asked about them before.  Yang et al. 2025, arXiv 2509.23863.

Which cluster comes next, which of its documents are shown and what is remembered follow from seeds and numbers alone,
so that a killed run goes on with the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from selfplay_fast.arguments import json_lines
from selfplay_fast.arguments import shown as shortened
from selfplay_fast.play.document_rules import TASKS, Question, Task, read_question
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode

Mode = Literal["paper", "code"]
_LEAST_SUCCESS = 0.01  # of a question that the released code remembers


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Documents about one thing, and the kind of question that is asked about them."""

    name: str
    task: Task
    documents: tuple[str, ...]


def read_clusters(path: str | Path) -> tuple[list[Cluster], int]:
    """A file of JSON lines: ``paragraphs`` are the documents, ``task`` or else ``data_source`` is one of numeric,
    general and choice, ``question_id`` the name. Returns the clusters and how many more had no documents.

    ValueError with the line's number for one that is not like that, and where none is left.
    """
    read = [cluster for _, cluster in json_lines("clusters", Path(path), _cluster)]
    whole = [cluster for cluster in read if cluster.documents]
    if not whole:
        raise ValueError(f"clusters: {path} has no cluster with documents; give each line a list paragraphs")
    return whole, len(read) - len(whole)


def read_questions(path: str | Path) -> list[tuple[Cluster, Question]]:
    """A file of clusters, as for `read_clusters`, each with its ``question``, ``answer`` and, in multiple choice,
    ``options``. ValueError with the line's number for one that is not like that."""
    asked = [one for _, one in json_lines("eval_questions", Path(path), _asked)]
    if not asked:
        raise ValueError(f"eval_questions: there is none in {path}")
    return asked


def _asked(row: Mapping[str, Any]) -> tuple[Cluster, Question]:
    cluster = _cluster(row)
    question = read_question(json.dumps(row), cluster.task)
    if question is None:
        raise ValueError(f"must have a question and an answer, as the task {cluster.task} asks for")
    return cluster, question


def _cluster(row: Mapping[str, Any]) -> Cluster:
    paragraphs, task = row.get("paragraphs"), row.get("task", row.get("data_source"))
    if not (isinstance(paragraphs, list) and all(isinstance(p, str) for p in paragraphs)):
        raise ValueError(f"paragraphs must be a list of texts, got {shortened(paragraphs)}")
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {shortened(task)}")
    documents = tuple(p for p in paragraphs if p.strip())
    return Cluster(name=str(row.get("question_id", "")), task=task, documents=documents)


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """A question of before: numbers of the documents that it was about, its text and its answer."""

    documents: tuple[int, ...]
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Reading number ``index``, of the cluster with that ``number``: what the questioner is ``shown``, of which ``new``
    it has not seen, and ``examples``. ``verify_right``: answers that are right by the rule are judged too."""

    cluster: Cluster
    number: int = 0
    index: int = 0
    shown: tuple[int, ...]
    new: tuple[int, ...] = ()
    examples: tuple[Past, ...] = ()
    verify_right: bool = True

    @property
    def documents(self) -> list[str]:
        """The texts that the questioner is shown."""
        return [self.cluster.documents[i] for i in self.shown]


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """How many readings there were, and up to ``length`` past questions of each cluster, the oldest forgotten first.

    ``mode`` "paper" remembers a question whose success is between 0 and 1 with the documents that were new; "code" one
    whose success is 0.01 to 1 with all that were shown, so that what is shown grows to the whole cluster.
    """

    mode: Mode = "paper"
    length: int = 3
    drawn: int = 0
    past: Mapping[int, tuple[Past, ...]] = field(default_factory=dict)

    def readings(
        self,
        clusters: Sequence[Cluster],
        count: int,
        *,
        seed: int,
        shown: int = 5,
        verify_right: float = 1.0,
    ) -> list[Reading]:
        """The next ones: tasks by turns, in each task all clusters in a new order again and again.

        ``shown`` random documents, where something is remembered those of before and as many unseen ones.
        ``verify_right``: the share of readings with that.
        """
        tasks = [task for task in TASKS if any(c.task == task for c in clusters)]
        rows = {task: [i for i, c in enumerate(clusters) if c.task == task] for task in tasks}
        readings = []
        for index in range(self.drawn, self.drawn + count):
            own = rows[tasks[index % len(tasks)]]
            epoch, place = divmod(index // len(tasks), len(own))
            order = np.random.default_rng(derive_seed(seed, 0, index % len(tasks), epoch)).permutation(own)
            number = int(order[place])
            rng = np.random.default_rng(derive_seed(seed, 1, index))
            past = self.past.get(number, ())
            seen = tuple(dict.fromkeys(d for one in past for d in one.documents))
            unseen = [d for d in range(len(clusters[number].documents)) if d not in seen]
            new = tuple(rng.permutation(np.array(unseen, np.int64))[:shown].tolist())
            readings.append(
                Reading(
                    cluster=clusters[number],
                    number=number,
                    index=index,
                    shown=seen + new,
                    new=new,
                    examples=past,
                    verify_right=bool(rng.random() < verify_right),
                )
            )
        return readings

    def after(self, episodes: Sequence[Episode]) -> Memory:
        """With these readings and what is to be remembered of them, in their order."""
        past = dict(self.past)
        for episode in episodes:
            reading = cast(Reading, episode.kept["reading"])
            if not self.length or not self._is_kept(episode):
                continue
            question = episode.kept["question"]
            documents = reading.new if self.mode == "paper" else reading.shown
            one = Past(documents=documents, question=question.text, answer=question.answer)
            past[reading.number] = (*past.get(reading.number, ()), one)[-self.length :]
        return replace(self, drawn=self.drawn + len(episodes), past=past)

    def _is_kept(self, episode: Episode) -> bool:
        success = episode.kept.get("success")
        if success is None:
            return False
        return 0 < success < 1 if self.mode == "paper" else _LEAST_SUCCESS <= success <= 1

    def state(self) -> dict[str, Any]:
        """All of it but the settings, as JSON has it."""
        past = {
            str(k): [[list(p.documents), p.question, p.answer] for p in own] for k, own in self.past.items()
        }
        return {"drawn": self.drawn, "past": past}

    def with_state(self, state: Mapping[str, Any]) -> Memory:
        """The memory that `state` was taken of."""
        past = {
            int(number): tuple(Past(documents=tuple(d), question=q, answer=a) for d, q, a in own)
            for number, own in state["past"].items()
        }
        return replace(self, drawn=int(state["drawn"]), past=past)
