"""The replies of a language model as a stream: asks become rows of a `Decoder`, rows become replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from selfplay_fast.policies.base import Answer
from selfplay_fast.policies.decode import Decoder, Row, TreeDecoder
from selfplay_fast.policies.decode_rows import RowDecoder
from selfplay_fast.policies.streams import sample_streams, stream_ids, uniforms
from selfplay_fast.policies.thinking import Thought, think_budget
from selfplay_fast.records import (
    NO_LOGPROBS,
    NO_TOKENS,
    Ask,
    FinishReason,
    FloatArray,
    IntArray,
    Reply,
    Sampling,
)

if TYPE_CHECKING:
    from selfplay_fast.policies.language_model import LanguageModel


class Said(NamedTuple):
    """What was sampled: token ids [T], their log-probs, whether each was drawn and not forced, and why it ended."""

    tokens: IntArray
    logprobs: FloatArray
    trained: NDArray[np.bool_]
    finish_reason: FinishReason


@dataclass(kw_only=True, slots=True, eq=False)
class _Asked:
    """An ask, the samples it wants and how many of them are still spoken."""

    ask: Ask
    prompt: IntArray
    forced: IntArray  # the start of the reply
    rows: list[Row] = field(default_factory=list)
    missing: int = 0


class ModelStream:
    """Asks join the rows that are being extended as soon as there is room; with nothing pending, nothing is kept here.

    All weights are those of the step. Asks with choices are answered by the next step.
    """

    def __init__(self, policy: LanguageModel) -> None:
        self.policy = policy
        self.pending = 0
        self._decoder: Decoder | None = None
        self._owner: dict[Row, _Asked] = {}
        self._ready: list[_Asked] = []  # need no token, or no more
        self._choosing: list[_Asked] = []

    def submit(self, asks: Sequence[Ask]) -> None:
        """Take more asks. ValueError for an empty prompt, or choices of which there are none."""
        policy = self.policy
        taken = []
        forced = policy.encode([ask.forced_prefix for ask in asks])
        for ask, prompt, extra in zip(asks, policy.prompts(asks), forced, strict=True):
            if not len(prompt) + len(extra):
                raise ValueError(f"generate: the ask for role {ask.role!r} has an empty prompt")
            if ask.choices is not None and not ask.choices:
                raise ValueError(f"generate: the ask for role {ask.role!r} has no choices")
            taken.append(_Asked(ask=ask, prompt=prompt, forced=extra))
        counts = np.array([ask.n for ask in asks], np.int64)
        of_ask = np.repeat(np.arange(len(asks)), counts)
        sample = np.arange(len(of_ask)) - (counts.cumsum() - counts)[of_ask]
        streams = iter(sample_streams(stream_ids([ask.key for ask in asks])[of_ask], sample))
        for asked in taken:
            asked.rows = self._rows(asked, list(islice(streams, asked.ask.n)))
        self.pending += len(taken)
        speaking = []
        for asked in taken:
            if asked.rows[0].room < 1:
                self._ready.append(asked)
            elif asked.ask.choices is not None:
                self._choosing.append(asked)
            else:
                asked.missing = len(asked.rows)
                self._owner.update(dict.fromkeys(asked.rows, asked))
                speaking += asked.rows
        if speaking:
            self._running().submit(speaking)

    def cancel(self, asks: Collection[Ask]) -> None:
        """Forget these of the pending asks: nobody wants their replies any more."""
        gone = {row: asked for row, asked in self._owner.items() if asked.ask in asks}
        kept = [
            [asked for asked in several if asked.ask not in asks] for several in (self._ready, self._choosing)
        ]
        self.pending -= len(set(gone.values())) + len(self._ready) + len(self._choosing) - sum(map(len, kept))
        self._ready, self._choosing = kept
        for row in gone:
            del self._owner[row]
        if self._decoder is not None:
            self._decoder.cancel(gone.keys())
        self._end()

    def _rows(self, asked: _Asked, streams: Sequence[np.uint64]) -> list[Row]:
        ask, start = asked.ask, asked.prompt
        if len(asked.forced):
            start = np.concatenate([start, asked.forced])
        room = self._room(asked)
        window = _stop_window(ask.sampling)
        return [
            Row(
                prompt=start,
                sampling=ask.sampling,
                stream=own,
                room=room,
                recent=deque(maxlen=window),
                thought=self._thought(asked, room),
                final=ask.final,
            )
            for own in streams
        ]

    def _room(self, asked: _Asked) -> int:
        """How many tokens may be said: none where the prompt, with the longest choice, is more than the context."""
        ask, rest = asked.ask, self.policy.context_limit - len(asked.prompt)
        if ask.choices is None:
            return min(ask.sampling.max_tokens, rest - len(asked.forced))
        longest = max(len(self.policy.choice_tokens(choice)) for choice in ask.choices)
        return longest if longest <= rest else 0

    def _thought(self, asked: _Asked, room: int) -> Thought | None:
        """What must be known of the reasoning in a reply, if anything."""
        tags, ask = self.policy.thinking, asked.ask
        budget = think_budget(tags, ask.sampling, room)
        if tags is None or (budget is None and (not ask.sampling.stop or ask.sampling.stop_in_thinking)):
            return None
        return Thought(tags, tags.inside(ask.forced_prefix, tags.opened_by(asked.prompt)), budget)

    def _running(self) -> Decoder:
        if self._decoder is None:
            if self.policy.model.training:
                self.policy.model.eval()
            self._decoder = self._new_decoder()
            self._decoder.passes = self.policy.forward_passes
        return self._decoder

    def _new_decoder(self) -> Decoder:
        policy = self.policy
        if policy.attention == "rows":
            return RowDecoder(
                policy.model,
                end_tokens=policy.end_tokens,
                max_batch_tokens=policy.max_batch_tokens,
                max_cache_tokens=policy.max_cache_tokens,
                stop_check=policy.has_stop,
            )
        return TreeDecoder(
            policy.model,
            policy.stored(),
            policy.take_room(),
            end_tokens=policy.end_tokens,
            max_batch_tokens=policy.max_batch_tokens,
            max_cache_tokens=policy.max_cache_tokens,
            stop_check=policy.has_stop,
        )

    @torch.no_grad()
    def step(self) -> list[Answer]:
        """One token more for every row there is room for; the asks all of whose samples are over."""
        ready, self._ready = self._ready, []
        if self._decoder is not None:
            before = self._decoder.computed
            for row in self._decoder.step():
                asked = self._owner.pop(row)
                asked.missing -= 1
                if not asked.missing:
                    ready.append(asked)
            self.policy.computed_tokens += self._decoder.computed - before
        answers = [(asked.ask, [self._reply(asked, row) for row in asked.rows]) for asked in ready]
        if self._choosing:
            answers += self._choose()
        self.pending -= len(answers)
        self._end()
        return answers

    def _end(self) -> None:
        """Keep nothing here where nothing is spoken."""
        if not self._owner and self._decoder is not None:
            if isinstance(self._decoder, TreeDecoder):
                self.policy.give_room(self._decoder.cache)
            self._decoder = None
            if not self.policy.keep_contexts:
                self.policy.forget()

    def _reply(self, asked: _Asked, row: Row) -> Reply:
        if row.room < 1:
            said = Said(NO_TOKENS, NO_LOGPROBS, np.zeros(0, bool), "forfeit")
        else:
            trained = np.ones(len(row.tokens), bool)
            if row.forced:
                trained[row.forced] = False
            said = Said(row.tokens, row.logprobs, trained, "stop" if row.stopped else "length")
        return worded(self.policy, asked.ask, asked.prompt, asked.forced, said, self.policy.version)

    def _choose(self) -> list[Answer]:
        """The asks with choices: one batch of scores, one draw for each sample."""
        asked, self._choosing = self._choosing, []
        answers = []
        for one, scores in zip(asked, self.policy.score([one.ask for one in asked]), strict=True):
            draws = uniforms(np.array([row.stream for row in one.rows], np.uint64), 0)
            answers.append((one.ask, [self._choice(one, scores, float(u)) for u in draws]))
        return answers

    def _choice(self, asked: _Asked, scores: FloatArray, u: float) -> Reply:
        """Draw a choice. The first token carries the log-prob of the choice among the choices, the others 0."""
        ask = asked.ask
        assert ask.choices is not None
        p = np.exp(scores.astype(np.float64) - scores.max())
        cumulative = np.cumsum(p)
        greedy = ask.sampling.temperature == 0
        pick = int(
            scores.argmax() if greedy else np.searchsorted(cumulative, u * cumulative[-1], side="right")
        )
        tokens = self.policy.choice_tokens(ask.choices[pick])
        logprobs = np.zeros(len(tokens), np.float32)
        logprobs[0] = 0.0 if greedy else np.log(p[pick] / cumulative[-1])
        return Reply(
            text=ask.choices[pick],
            tokens=tokens,
            logprobs=logprobs,
            train_mask=np.ones(len(tokens), bool),
            context=np.concatenate([asked.prompt, tokens]),
            policy_version=self.policy.version,
            history=ask.followed_by(ask.choices[pick]),
        )


def worded(
    policy: LanguageModel, ask: Ask, prompt: IntArray, forced: IntArray, said: Said, version: int
) -> Reply:
    """The reply to a prompt, which began with ``forced`` and went on with what weights of this version said."""
    if said.finish_reason == "forfeit":
        return Reply(text="", context=prompt, finish_reason="forfeit", policy_version=version, no_room=True)
    tokens, logprobs, trained = said.tokens, said.logprobs, said.trained
    if len(forced):
        tokens = np.concatenate([forced, tokens])
        logprobs = np.concatenate([np.zeros(len(forced), np.float32), logprobs])
        trained = np.concatenate([np.zeros(len(forced), bool), trained])
    text = policy.text(tokens)
    hidden, unclosed = policy.hidden(text, prompt)
    return Reply(
        text=text,
        tokens=tokens,
        logprobs=logprobs,
        train_mask=trained,
        context=np.concatenate([prompt, tokens]),
        finish_reason=said.finish_reason,
        policy_version=version,
        hidden=hidden,
        unclosed=unclosed,
        closed_by_force=not said.trained.all(),
        history=ask.followed_by("" if unclosed else text),
    )


def _stop_window(sampling: Sampling) -> int:
    """The last tokens that a stop string can lie in: one per byte, and a few for what is cut at their start."""
    return max((len(stop.encode()) for stop in sampling.stop), default=0) + 8
