"""The synchronous scheduler: whatever is pending at any table goes to its policy, until all is done.

Games at different players' turns, different games and different dialogues share a batch. A policy with a stream answers
one by one, and a game whose reply is there asks its next question while others still speak; whoever has none is asked
in rounds, when the streams have nothing more to say. Every admitted episode is finished and returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from selfplay_fast.games import ParseMode, Style, describe, make
from selfplay_fast.play.game_table import GameTable, InvalidRewards
from selfplay_fast.policies.base import Answer, Policy, ReplyStream, Rounds, StreamingPolicy, rest
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask, Episode, Reply, Sampling

Cast = Mapping[str, Policy]


class Table(Protocol):
    """Anything that has asks pending and accepts replies."""

    def asks(self) -> Sequence[Ask]:
        """Who must speak and has not been asked: each ask is handed out once, and its key tells it apart."""
        ...

    def answer(self, replies: Sequence[Reply], asks: Sequence[Ask] | None = None) -> None:
        """The replies to some asks, or to all that wait for one, in order; an ask with ``n`` samples has ``n``."""
        ...

    def finished(self) -> Sequence[Episode]:
        """Episodes that ended since the last call."""
        ...


class _Everyone(Mapping[str, Policy]):
    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __getitem__(self, role: str) -> Policy:
        return self.policy

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def self_play(policy: Policy) -> Cast:
    """The cast in which one policy plays every role."""
    return _Everyone(policy)


class Seats:
    """The streams of a cast's policies: each ask goes to that of its role."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self._streams: dict[int, ReplyStream] = {}  # by the policy's identity

    @property
    def pending(self) -> int:
        """How many asks have not been answered."""
        return sum(stream.pending for stream in self._streams.values())

    def submit(self, asks: Iterable[Ask]) -> None:
        """Take more asks; ValueError for a role that nobody plays."""
        queues: dict[int, list[Ask]] = {}
        for ask in asks:
            queues.setdefault(self._seat(ask.role), []).append(ask)
        for owner, queue in queues.items():
            self._streams[owner].submit(queue)

    def _seat(self, role: str) -> int:
        """Which stream answers a role; it is opened if there is none."""
        try:
            policy = self.cast[role]
        except KeyError:
            raise ValueError(f"cast: no policy for role {role!r}; it has {sorted(self.cast)}") from None
        if id(policy) not in self._streams:
            stream = policy.stream() if isinstance(policy, StreamingPolicy) else Rounds(policy)
            self._streams[id(policy)] = stream
        return id(policy)

    def step(self) -> list[Answer]:
        """One step of every stream with something to say; rounds begin when only they are left, with all who wait."""
        busy = [stream for stream in self._streams.values() if stream.pending]
        going = [stream for stream in busy if not isinstance(stream, Rounds)] or busy
        rest(going)
        return [answer for stream in going for answer in stream.step()]


def play(cast: Cast, tables: Sequence[Table]) -> list[Episode]:
    """Run every table to its end; episodes in the order (table, index), whatever order they ended in."""
    done: list[list[Episode]] = [[] for _ in tables]
    for t, episode in stream(cast, tables):
        done[t].append(episode)
    return [episode for episodes in done for episode in sorted(episodes, key=lambda e: e.index)]


def stream(cast: Cast, tables: Sequence[Table]) -> Iterator[tuple[int, Episode]]:
    """The same as they end, each with the number of its table; what has come is not lost with a policy that fails."""
    seats = Seats(cast)
    asker: dict[Ask, int] = {}
    asking: Iterable[int] = range(len(tables))
    while True:
        new = {ask: t for t in asking for ask in tables[t].asks()}
        asker |= new
        seats.submit(new)
        if not asker:
            break
        answers: dict[int, tuple[list[Ask], list[Reply]]] = {}
        for ask, replies in seats.step():
            asks, said = answers.setdefault(asker.pop(ask), ([], []))
            asks.append(ask)
            said += replies
        for t, (asks, said) in answers.items():
            tables[t].answer(said, asks)
            yield from ((t, episode) for episode in tables[t].finished())
        asking = sorted(answers)
    for t, table in enumerate(tables):
        yield from ((t, episode) for episode in table.finished())


def mean_turns(game: str, *, episodes: int = 512) -> float:
    """Turns per game under uniformly random play, both players together."""
    batch = make(game, episodes, seed=0)
    turns = 0
    while not batch.terminated.all():
        rows = np.flatnonzero(~batch.terminated)
        actions = batch.sample_actions(turns)[rows]
        batch.step(actions, rows=rows)
        turns += actions.size
    return turns / episodes


def play_games(cast: Cast, **settings: Any) -> list[Episode]:
    """Play the games of `game_tables` to their end."""
    return play(cast, game_tables(**settings))


def game_tables(
    *,
    games: Sequence[str],
    episodes: int | Sequence[int],
    seed: int,
    sampling: Sampling | None = None,
    invalid: InvalidRewards | None = None,
    max_turns: int | None = None,
    style: Style = "spiral",
    parse_mode: ParseMode = "lenient",
    rewards: str | None = None,
    share: tuple[int, int] = (0, 1),
    **options: Any,
) -> list[GameTable]:
    """A table of each game. ``episodes``: one number per game, or one spread evenly (the first get the remainder).

    ``rewards`` is the option of that name, for games that have it. ``share`` = (i, n): of all these games, numbered
    through, those whose number is i modulo n. The rest as in `GameTable`.
    """
    if isinstance(games, str):
        raise TypeError(f"games: give a list of names, [{games!r}], got one string")
    if not games:
        raise ValueError("games: name at least one game")
    if isinstance(episodes, int):
        counts = [episodes // len(games) + (g < episodes % len(games)) for g in range(len(games))]
    else:
        counts = list(episodes)
    if len(counts) != len(games) or min(counts) < 1:
        raise ValueError(f"episodes: {episodes} cannot cover {len(games)} games; use at least one each")
    mine, parts = share
    tables = []
    first = 0
    for g, (name, count) in enumerate(zip(games, counts, strict=True)):
        own = dict(options)
        if rewards is not None and "rewards" in describe(name).options:
            own["rewards"] = rewards
        tables.append(
            GameTable(
                name,
                episodes=count,
                seed=derive_seed(seed, g),
                rows=range((mine - first) % parts, count, parts),
                sampling=sampling,
                invalid=invalid,
                max_turns=max_turns,
                style=style,
                parse_mode=parse_mode,
                **own,
            )
        )
        first += count
    return tables
