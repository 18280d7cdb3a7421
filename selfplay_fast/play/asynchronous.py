"""Games that go on while others are learned from.

A number of games is always under way; whichever ends makes room for the next of a fixed order, and `Rollouts.collect`
hands out whole ones as soon as there are enough. How old they may be is bounded: an episode's staleness is the number
of updates between the oldest weights that spoke in it and those that learn from it.

    A game begun after u updates must be in batch u + max_staleness, counted from 0, or before. When b batches have been
    handed out, no more games are under way or waiting than fit into batches b … u + max_staleness, and a batch is
    handed out only if what is left, in the order of these deadlines, fits into those after it. Games at the bound are
    thus waited for.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

from selfplay_fast.play.scheduler import Cast, Seats, Table
from selfplay_fast.records import Ask, Episode, Reply


class Place(NamedTuple):
    """Which game it is; the order in which games are begun."""

    wave: int
    table: int
    episode: int


class Rollouts:
    """Episodes for one update after another.

    tables: makes the tables of wave ``first``, …, ``last``; all of them together hold ``episodes`` games per wave.
    max_staleness: 0 plays one wave after the other, exactly as `play` does. live: games under way, ``episodes`` unless
    given. version: of the policy that learns; turns of replies with token ids are taken for its own. beside: play in a
    thread, while the caller learns; the cast must not share what it computes with (servers do not). Otherwise games
    stand still between two calls of `collect`, between two replies. state: that of a checkpoint, see `state`.

        with Rollouts(self_play(policy), tables_of, episodes=512, last=100, max_staleness=1) as rollouts:
            for step in range(100):
                episodes = rollouts.collect()
                update(policy, …)
                rollouts.updated(policy.version)
    """

    def __init__(
        self,
        cast: Cast,
        tables: Callable[[int], Sequence[Table]],
        *,
        episodes: int,
        last: int,
        first: int = 1,
        max_staleness: int = 0,
        live: int | None = None,
        version: int = 0,
        beside: bool = False,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value, least in (
            ("episodes", episodes, 1),
            ("max_staleness", max_staleness, 0),
            ("live", live, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        self.episodes, self.max_staleness = episodes, max_staleness
        self.live = episodes if live is None else live
        self._seats = Seats(cast)
        self._make, self._last = tables, last
        self._next_wave = first if state is None else int(state["next_wave"])
        self._again = [] if state is None else [Place(*place) for place in state["unfinished"]]
        self._versions = [version]  # after each update
        self._batches = 0  # handed out; the learner is at the last one while this is more than the updates
        self._tables: dict[tuple[int, int], Table] = {}
        self._unused: Counter[int] = Counter()  # games of a wave that have not been handed out
        self._asker: dict[Ask, Place] = {}
        self._new: dict[Place, None] = {}  # not begun
        self._held: list[Ask] = []  # of games that are not begun
        self._ready: list[Ask] = []  # to be submitted
        self._deadline: dict[Place, int] = {}  # of games begun and not handed out
        self._done: dict[Place, Episode] = {}
        self._early: dict[Place, Episode] = {}  # of games in which nobody need be asked
        self._state = self._unfinished()
        # Of the episodes last collected, updates since the oldest weights that spoke:
        self.staleness: list[int] = []
        self._looked = 0  # how many were done when a choice was last tried
        self._thread: threading.Thread | None = None
        self._wanted, self._wake, self._closing = False, threading.Event(), False
        self._handed: SimpleQueue[list[Episode] | BaseException] = SimpleQueue()
        self._failure: BaseException | None = None  # what has ended the thread
        if beside:
            self._thread = threading.Thread(target=self._work, name="selfplay-fast rollouts", daemon=True)

    def __enter__(self) -> Rollouts:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; games under way are given up."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def collect(self) -> list[Episode]:
        """The episodes of the next update, in the fixed order; each is handed out once.

        An error that has ended the games of a thread is raised at this and every later call.
        """
        if self._thread is None:
            while (places := self._choice()) is None:
                if not self._turn():
                    raise ValueError(self._nothing_left())
            while self._seats.pending:  # so that every reply is of one version
                self._step()
            return self._take(places)
        alive = self._thread.is_alive()  # asked first: what ends it is known by then
        if self._failure is not None:
            raise self._failure
        if not alive:
            raise ValueError("collect: with beside=True games are played inside `with Rollouts(…)` only")
        self._wanted = True
        self._wake.set()
        handed = self._handed.get()
        if isinstance(handed, BaseException):
            raise handed
        return handed

    def metrics(self) -> dict[str, float]:
        """``staleness_mean`` and ``staleness_max`` of the last `collect`."""
        ages = self.staleness
        return {"staleness_mean": sum(ages) / len(ages), "staleness_max": float(max(ages))}

    def _nothing_left(self) -> str:
        if self._next_wave > self._last:
            return f"collect: all {self._last} waves have been played"
        return "collect: call updated() once the episodes handed out have been learned from, or raise max_staleness"

    def updated(self, version: int) -> None:
        """The policy has learned, and whoever is asked from now on has the weights of this version."""
        self._versions.append(version)
        self._wake.set()

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as of the last `collect`: which games were not handed out then.

        They are begun again by whoever goes on from there; nothing half-played is kept, so nothing but time is lost.
        """
        return self._state

    @property
    def _updates(self) -> int:
        return len(self._versions) - 1

    # -- the games -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._closing:
                wanted = self._wanted  # the caller waits, so nothing it does comes after this
                if wanted and (places := self._choice()) is not None:
                    self._wanted = wanted = False
                    self._handed.put(self._take(places))
                if not self._turn():
                    if wanted:
                        self._wanted = False
                        self._handed.put(ValueError(self._nothing_left()))
                    self._wake.wait(1.0)
                    self._wake.clear()
        except BaseException as error:
            self._failure = error
            self._handed.put(error)

    def _turn(self) -> bool:
        """Begin what may begin, and one step of all that is under way; False where nothing is."""
        self._begin()
        ready, self._ready = self._ready, []
        self._seats.submit(ready)
        if not self._seats.pending:
            return False
        self._step()
        return True

    def _begin(self) -> None:
        """Begin the next games of the order, as many as there is room for."""
        room = min(
            self.live - (len(self._deadline) - len(self._done)),
            self.episodes * (self._updates + self.max_staleness + 1 - self._batches) - len(self._deadline),
        )
        began = False
        while room > 0 and (self._new or self._open()):
            while room > 0 and self._new:
                place = next(iter(self._new))
                del self._new[place]
                self._deadline[place] = self._updates + self.max_staleness
                if place in self._early:
                    self._done[place] = self._early.pop(place)
                room -= 1
                began = True
        if began:
            held, self._held = self._held, []
            for ask in held:
                (self._ready if self._asker[ask] in self._deadline else self._held).append(ask)

    def _open(self) -> bool:
        """Make the tables of the next wave; False where there is none."""
        if self._again:
            wave = self._again[0].wave
            wanted = {place for place in self._again if place.wave == wave}
            self._again = [place for place in self._again if place.wave != wave]
        elif self._next_wave <= self._last:
            wave, wanted = self._next_wave, None
            self._next_wave += 1
        else:
            return False
        for t, table in enumerate(self._make(wave)):
            self._tables[wave, t] = table
            asks = [(Place(wave, t, ask.key.episode), ask) for ask in table.asks()]
            asks = [(place, ask) for place, ask in asks if wanted is None or place in wanted]
            over = {Place(wave, t, episode.index): episode for episode in table.finished()}
            over = {place: episode for place, episode in over.items() if wanted is None or place in wanted}
            self._early |= over
            places = sorted({place for place, _ in asks} | set(over))
            self._unused[wave] += len(places)
            self._new.update(dict.fromkeys(places))
            self._asker.update((ask, place) for place, ask in asks)
            self._held += [ask for _, ask in asks]
        return True

    def _step(self) -> None:
        """Hand the answers that have come to their tables, and listen to what these say."""
        answers: dict[tuple[int, int], tuple[list[Ask], list[Reply]]] = {}
        for ask, replies in self._seats.step():
            asks, said = answers.setdefault(self._asker.pop(ask)[:2], ([], []))
            asks.append(ask)
            said += replies
        for (wave, t), (asks, said) in sorted(answers.items()):
            table = self._tables[wave, t]
            table.answer(said, asks)
            for ask in table.asks():
                self._asker[ask] = Place(wave, t, ask.key.episode)
                self._ready.append(ask)
            self._done.update((Place(wave, t, episode.index), episode) for episode in table.finished())

    def _choice(self) -> list[Place] | None:
        """The episodes of the next update, those with the nearest deadlines; None if it is too early to tell."""
        if len(self._done) < self.episodes or len(self._done) == self._looked:
            return None
        self._looked = len(self._done)
        chosen = sorted(self._done, key=lambda place: (self._deadline[place], place))[: self.episodes]
        left = Counter(self._deadline.values()) - Counter(self._deadline[place] for place in chosen)
        due = 0
        for deadline in sorted(left):
            due += left[deadline]
            if due > self.episodes * (deadline - self._batches):
                return None
        return sorted(chosen)

    def _take(self, places: Sequence[Place]) -> list[Episode]:
        episodes = [self._done.pop(place) for place in places]
        self._looked = 0
        for place in places:
            del self._deadline[place]
            self._unused[place.wave] -= 1
            if not self._unused[place.wave]:
                del self._unused[place.wave]
                for key in [key for key in self._tables if key[0] == place.wave]:
                    del self._tables[key]
        self.staleness = [self._staleness(episode) for episode in episodes]
        self._batches += 1
        self._state = self._unfinished()
        return episodes

    def _unfinished(self) -> dict[str, Any]:
        left = sorted([*self._deadline, *self._new, *self._again])
        return {"next_wave": self._next_wave, "unfinished": [list(place) for place in left]}

    def _staleness(self, episode: Episode) -> int:
        spoke = [turn.reply.policy_version for turn in episode.turns if len(turn.reply.tokens)]
        oldest = bisect_right(self._versions, min(spoke, default=self._versions[-1])) - 1
        return self._batches - max(oldest, 0)
