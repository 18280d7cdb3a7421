"""A thread that owns a language model: many ask it, one stream of replies answers, weights change in between."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from selfplay_fast.policies.base import ReplyStream
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.records import Ask, Reply


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    ask: Ask
    replies: Future[list[Reply]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    weights: Mapping[str, torch.Tensor]
    version: int
    done: Future[None] = field(default_factory=Future)


class ModelThread:
    """Asks join the stream of ``policy`` whenever they come. Nobody else may use the policy meanwhile.

    New weights are put in when all replies under way are finished; asks that come after them wait. So a reply is all of
    one version.
    """

    def __init__(self, policy: LanguageModel) -> None:
        self.policy = policy
        self._jobs: queue.SimpleQueue[_Question | _Change | None] = queue.SimpleQueue()
        self._stream: ReplyStream = policy.stream()
        self._asked: dict[Ask, _Question] = {}
        self._change: _Change | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="selfplay-fast model", daemon=True)
        self._thread.start()

    def ask(self, ask: Ask) -> Future[list[Reply]]:
        """Its ``n`` replies, in future."""
        question = _Question(ask)
        self._jobs.put(question)
        return question.replies

    def replace(self, weights: Mapping[str, torch.Tensor], version: int) -> Future[None]:
        """Put these weights in, which must fit the model's parameters by name and shape."""
        change = _Change(weights, version)
        self._jobs.put(change)
        return change.done

    def close(self) -> None:
        """Stop; what has not been answered is cancelled."""
        self._jobs.put(None)
        self._thread.join()

    # -- in the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            self._take()
            if self._asked:
                self._step()
            elif self._change is not None:
                self._put_in(self._change)
                self._change = None
        for question in self._asked.values():
            question.replies.cancel()

    def _take(self) -> None:
        """Whatever has come, up to new weights; waits where there is nothing else to do."""
        while self._change is None and not self._closed:
            try:
                job = self._jobs.get(block=not self._asked)
            except queue.Empty:
                return
            if job is None:
                self._closed = True
            elif isinstance(job, _Change):
                self._change = job
            else:
                self._submit(job)

    def _submit(self, question: _Question) -> None:
        try:
            self._stream.submit([question.ask])
        except Exception as error:  # it concerns who asked
            question.replies.set_exception(error)
        else:
            self._asked[question.ask] = question

    def _step(self) -> None:
        try:
            answers = self._stream.step()
        except Exception as error:  # out of memory, say: those who asked are told, others may ask
            asked, self._asked = self._asked, {}
            self._stream = self.policy.stream()
            self.policy.forget()
            for question in asked.values():
                question.replies.set_exception(error)
            return
        for ask, replies in answers:
            _give(self._asked.pop(ask).replies, replies)

    def _put_in(self, change: _Change) -> None:
        try:
            with torch.no_grad():
                for name, parameter in self.policy.model.named_parameters():
                    parameter.copy_(change.weights[name])
            self.policy.version = change.version
            self.policy.forget()
        except Exception as error:
            change.done.set_exception(error)
        else:
            _give(change.done, None)


def _give(future: Future[Any], result: Any) -> None:
    """Unless nobody waits any more."""
    if future.set_running_or_notify_cancel():
        future.set_result(result)
