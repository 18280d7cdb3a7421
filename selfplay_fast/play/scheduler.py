"""The synchronous scheduler: whatever is pending at any table goes to its policy in one batch, until all is done.

Games at different players' turns, different games and different dialogues share a batch; a round ends with its
longest reply. Every admitted episode is finished and returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from selfplay_fast.games import ParseMode, Style, describe, make
from selfplay_fast.play.game_table import GameTable, InvalidRewards
from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask, Episode, Reply, Sampling

Cast = Mapping[str, Policy]


class Table(Protocol):
    """Anything that has asks pending and accepts replies."""

    def asks(self) -> Sequence[Ask]:
        """Who must speak now; empty when nothing is pending."""
        ...

    def answer(self, replies: Sequence[Reply]) -> None:
        """The replies to the last `asks`, in order; an ask with ``n`` samples has ``n`` of them."""
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


def play(cast: Cast, tables: Sequence[Table]) -> list[Episode]:
    """Run every table to its end; episodes in the order (table, index), whatever order they ended in."""
    done: list[list[Episode]] = [[] for _ in tables]
    for t, episode in stream(cast, tables):
        done[t].append(episode)
    return [episode for episodes in done for episode in sorted(episodes, key=lambda e: e.index)]


def stream(cast: Cast, tables: Sequence[Table]) -> Iterator[tuple[int, Episode]]:
    """The same as they end, each with the number of its table; what has come is not lost with a policy that fails."""
    while True:
        pending = [(t, table.asks()) for t, table in enumerate(tables)]
        pending = [(t, asks) for t, asks in pending if asks]
        if not pending:
            break
        answers = _ask_policies(cast, [ask for _, asks in pending for ask in asks])
        start = 0
        for t, asks in pending:
            count = sum(ask.n for ask in asks)
            tables[t].answer(answers[start : start + count])
            start += count
            yield from ((t, episode) for episode in tables[t].finished())
    for t, table in enumerate(tables):
        yield from ((t, episode) for episode in table.finished())


def _ask_policies(cast: Cast, asks: Sequence[Ask]) -> list[Reply]:
    """Each policy gets all its asks of this round in one call."""
    owners: dict[int, Policy] = {}
    queues: dict[int, list[int]] = {}
    for i, ask in enumerate(asks):
        try:
            policy = cast[ask.role]
        except KeyError:
            raise ValueError(f"cast: no policy for role {ask.role!r}; it has {sorted(cast)}") from None
        owners[id(policy)] = policy
        queues.setdefault(id(policy), []).append(i)
    answers: list[list[Reply]] = [[] for _ in asks]
    for owner, queue in queues.items():
        replied = owners[owner].generate([asks[i] for i in queue])
        wanted = sum(asks[i].n for i in queue)
        if len(replied) != wanted:
            name = type(owners[owner]).__name__
            raise ValueError(f"policy: {name}.generate gave {len(replied)} replies, {wanted} were asked for")
        replies = iter(replied)
        for i in queue:
            answers[i] = [next(replies) for _ in range(asks[i].n)]
    return [reply for group in answers for reply in group]


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


def play_games(
    cast: Cast,
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
) -> list[Episode]:
    """Play ``episodes`` games, one number per game or one spread evenly (the first games get the remainder).

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
                **({"rewards": rewards} if rewards and "rewards" in describe(name).options else {}),
                **options,
            )
        )
        first += count
    return play(cast, tables)
