"""A thread that owns a language model: many ask it, one stream of replies answers, weights change in between."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.model_stream import ModelStream
from selfplay_fast.records import Ask, Reply


class ModelFailed(Exception):
    """The model did not do what it was asked for, and that is not the fault of whoever asked."""


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    ask: Ask
    done: Future[list[Reply]] = field(default_factory=Future)


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    weights: Mapping[str, torch.Tensor]
    version: int
    done: Future[None] = field(default_factory=Future)


class ModelThread:
    """Asks join the stream of ``policy`` whenever they come. Nobody else may use the policy meanwhile.

    New weights are put in when all replies under way are finished; asks that come after them wait. So a reply is all of
    one version. Of weights that wait, the newest are put in and the others fail. A future that is cancelled takes with
    it whatever it waits for. Errors: ValueError for an ask that cannot be answered; `ModelFailed` for all whose replies
    are under way when the model fails.
    """

    def __init__(self, policy: LanguageModel) -> None:
        self.policy = policy
        self._jobs: queue.SimpleQueue[_Question | _Change | None] = queue.SimpleQueue()
        self._stream: ModelStream = policy.stream()
        self._asked: dict[Ask, _Question] = {}
        self._change: _Change | None = None
        self._held: list[_Question] = []  # until the change is made
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="selfplay-fast model", daemon=True)
        self._thread.start()

    def ask(self, ask: Ask) -> Future[list[Reply]]:
        """Its ``n`` replies, in future."""
        question = _Question(ask)
        self._put(question)
        return question.done

    def replace(self, weights: Mapping[str, torch.Tensor], version: int) -> Future[None]:
        """Put these weights in, which must fit the model's parameters by name and shape."""
        change = _Change(weights, version)
        self._put(change)
        return change.done

    def _put(self, job: _Question | _Change) -> None:
        """Hand it to the thread, once more when it is cancelled."""
        self._jobs.put(job)
        job.done.add_done_callback(lambda done: self._jobs.put(job) if done.cancelled() else None)

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
                self._go_on()
        for job in (*self._asked.values(), *self._held, self._change):
            if job is not None:
                job.done.cancel()

    def _take(self) -> None:
        """Whatever has come; waits where there is nothing else to do."""
        while not self._closed:
            try:
                job = self._jobs.get(block=not self._asked and self._change is None)
            except queue.Empty:
                return
            if job is None:
                self._closed = True
            elif job.done.cancelled():
                self._drop(job)
            elif isinstance(job, _Change):
                if self._change is not None:
                    _give(
                        self._change.done,
                        ModelFailed("weights: newer ones have come before these were put in"),
                    )
                self._change = job
            elif self._change is not None:
                self._held.append(job)
            else:
                self._submit(job)

    def _drop(self, job: _Question | _Change) -> None:
        """Nobody waits for it any more."""
        if job is self._change:
            self._go_on()
        elif isinstance(job, _Question):
            self._held = [held for held in self._held if held is not job]
            if self._asked.pop(job.ask, None) is not None:
                self._stream.cancel([job.ask])

    def _go_on(self) -> None:
        """Nothing is to be changed any more."""
        self._change = None
        held, self._held = self._held, []
        for question in held:
            self._submit(question)

    def _submit(self, question: _Question) -> None:
        try:
            self._stream.submit([question.ask])
        except Exception as error:  # it concerns who asked
            _give(question.done, error)
        else:
            self._asked[question.ask] = question

    def _step(self) -> None:
        try:
            answers = self._stream.step()
        except Exception as error:  # out of memory, say: those who asked are told, others may ask
            asked, self._asked = self._asked, {}
            self._stream = self.policy.stream()
            self.policy.release()
            for question in asked.values():
                _give(question.done, _failed(error))
            return
        for ask, replies in answers:
            _give(self._asked.pop(ask).done, replies)

    def _put_in(self, change: _Change) -> None:
        try:
            with torch.no_grad():
                for name, parameter in self.policy.model.named_parameters():
                    parameter.copy_(change.weights[name])
            self.policy.version = change.version
            self.policy.forget()
        except Exception as error:
            _give(change.done, _failed(error))
        else:
            _give(change.done, None)


def _failed(error: Exception) -> ModelFailed:
    failure = ModelFailed(f"the model failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _give(future: Future[Any], result: Any) -> None:
    """A result or an error, unless nobody waits any more."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
