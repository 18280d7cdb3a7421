"""A table of dialogues: a protocol written as a generator that reads like its paper.

    def protocol(prompt):
        attack = yield Ask(role="attacker", append=[{"role": "user", "content": prompt}])
        told = [{"role": "user", "content": attack.public}]
        answers = yield [Ask(role="defender", append=told) for _ in range(3)]
        return Outcome(returns={"attacker": ..., "defender": ...})

Thousands of generators run at the same time; the scheduler batches whatever they have pending. What one role tells
another is ``reply.public``: ``reply.text`` includes its reasoning.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfplay_fast.play.outstanding import Outstanding
from selfplay_fast.play.scheduler import Cast, play
from selfplay_fast.records import Ask, Episode, Key, Reply, Turn

Protocol = Generator["Ask | Sequence[Ask]", Any, "Outcome"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a dialogue is worth: ``returns`` by role, ``rewards`` by turn index if any, ``kept`` for the record."""

    returns: Mapping[str, float]
    rewards: Mapping[int, float] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)


class _Dialogue:
    """One running generator: what it waits for and what has been said. ``name`` is what errors call it."""

    def __init__(self, generator: Protocol, name: str) -> None:
        if not isinstance(generator, Generator):
            raise TypeError(f"{name}: must be a generator, which yields asks, got {type(generator).__name__}")
        self.generator = generator
        self.name = name
        self.turns: list[tuple[Ask, Reply]] = []
        self.single = True
        self.pending: list[Ask] = []
        self.replies: dict[Key, list[Reply]] = {}  # to some of what is pending
        self.outcome: Outcome | None = None

    def advance(self, value: Any, key: Callable[[int], Key]) -> None:
        try:
            wanted = self.generator.send(value)
        except StopIteration as stop:
            if not isinstance(stop.value, Outcome):
                got = type(stop.value).__name__
                raise TypeError(f"{self.name}: must return an Outcome, got {got}") from None
            self.outcome, self.pending = stop.value, []
            return
        except Exception as error:
            if sys.version_info >= (3, 11):
                error.add_note(f"in {self.name}")
            raise
        self.single = isinstance(wanted, Ask)
        asks = list(wanted) if isinstance(wanted, Sequence) else [wanted]
        for ask in asks:
            self._check(ask)
        first = len(self.turns)
        self.pending = [dataclasses.replace(ask, key=key(first + i)) for i, ask in enumerate(asks)]

    def _check(self, ask: Any) -> None:
        if not isinstance(ask, Ask):
            raise TypeError(f"{self.name}: must yield an Ask or a sequence of Asks, got {type(ask).__name__}")
        if not isinstance(ask.append, (str, np.ndarray)) and not _are_messages(ask.append):
            raise TypeError(
                f"{self.name}, role {ask.role!r}: append must be a list of messages "
                "{'role': …, 'content': …}, a text or token ids, "
                f"got {type(ask.append).__name__}"
            )

    def receive(self) -> Any:
        """Record the replies; what the generator is sent: a Reply, a list for n > 1, a list of those for many asks."""
        groups: list[Any] = []
        for ask in self.pending:
            part = self.replies.pop(ask.key)
            self.turns += [(ask, reply) for reply in part]
            groups.append(part[0] if ask.n == 1 else part)
        return groups[0] if self.single else groups


def _are_messages(append: Any) -> bool:
    return isinstance(append, Sequence) and all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in append
    )


class DialogueTable:
    """Runs ``protocol(item)`` for every item; the episode of item i has index i, or ``indices[i]``, which names
    its draws.

    The protocol is a generator: it yields one Ask, or several at once, is sent their replies and returns an `Outcome`.
    TypeError, with the name of the protocol and the number of the item, where it does something else; what it raises
    itself carries them as a note.

        def guess(word):
            hint = yield Ask(role="speaker", append=[{"role": "user", "content": f"Describe {word}."}])
            said = yield Ask(role="guesser", append=[{"role": "user", "content": hint.public}])
            right = float(word in said.public)
            return Outcome(returns={"speaker": right, "guesser": right})

        episodes = play(self_play(policy), [DialogueTable(guess, ["apple", "river"], seed=0)])
    """

    def __init__(
        self,
        protocol: Callable[[Any], Protocol],
        items: Sequence[Any],
        *,
        seed: int,
        name: str = "",
        indices: Sequence[int] | None = None,
    ) -> None:
        if indices is not None and (len(indices) != len(items) or len(set(indices)) != len(indices)):
            raise ValueError(f"indices: must be {len(items)} different numbers, one per item")
        self.name = name or getattr(protocol, "__name__", "dialogue")
        self.seed = seed
        self._finished: list[Episode] = []
        self._new: list[Ask] = []
        self._outstanding = Outstanding()
        self._running: dict[int, _Dialogue] = {}
        for index, item in zip(range(len(items)) if indices is None else indices, items, strict=True):
            self._running[index] = _Dialogue(protocol(item), f"protocol {self.name!r}, item {index}")
            self._advance(index, None)

    def _advance(self, index: int, value: Any) -> None:
        dialogue = self._running[index]
        dialogue.advance(value, lambda turn: Key(self.seed, index, turn))
        while dialogue.outcome is None and not dialogue.pending:  # an empty list of asks is answered at once
            dialogue.advance([], lambda turn: Key(self.seed, index, turn))
        if dialogue.outcome is not None:
            del self._running[index]
            self._finished.append(self._episode(index, dialogue, dialogue.outcome))
        self._new += dialogue.pending

    def _episode(self, index: int, dialogue: _Dialogue, outcome: Outcome) -> Episode:
        return Episode(
            game=self.name,
            index=index,
            seed=self.seed,
            group=index,
            turns=tuple(
                Turn(ask=ask, reply=reply, reward=outcome.rewards.get(k, 0.0))
                for k, (ask, reply) in enumerate(dialogue.turns)
            ),
            returns=outcome.returns,
            kept=outcome.kept,
        )

    def asks(self) -> Sequence[Ask]:
        """What dialogues have begun to wait for since the last call."""
        asks, self._new = self._new, []
        return self._outstanding.add(asks)

    def answer(self, replies: Sequence[Reply], asks: Sequence[Ask] | None = None) -> None:
        """Send each dialogue its replies, once it has all that it waits for."""
        for ask, part in self._outstanding.take(replies, asks):
            index = ask.key.episode
            dialogue = self._running[index]
            dialogue.replies[ask.key] = part
            if len(dialogue.replies) == len(dialogue.pending):
                self._advance(index, dialogue.receive())

    def finished(self) -> Sequence[Episode]:
        """Episodes that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished


def play_dialogues(
    cast: Cast,
    protocol: Callable[[Any], Protocol],
    items: Sequence[Any],
    *,
    seed: int,
    name: str = "",
    share: tuple[int, int] = (0, 1),
) -> list[Episode]:
    """Play a dialogue about every item to its end. ``share`` = (i, n): of those whose number is i modulo n."""
    mine = range(share[0], len(items), share[1])
    return play(cast, [DialogueTable(protocol, [items[i] for i in mine], seed=seed, name=name, indices=mine)])
