"""A table of games: rows of one C++ batch, one conversation turn per move of one player."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfplay_fast import games
from selfplay_fast.play.outstanding import Outstanding
from selfplay_fast.records import Ask, Episode, GameSeat, Key, Reply, Sampling, Turn, rewarded


@dataclass(frozen=True, kw_only=True, slots=True)
class InvalidRewards:
    """Returns when a reply is refused: the game ends. SPIRAL trains with -1.5 / +0.5 and evaluates with -1 / +1."""

    offender: float = -1.5
    others: float = 0.5

    def returns(self, roles: Sequence[str], refused: Collection[str]) -> dict[str, float]:
        """By role, when the replies of some roles are refused."""
        return {role: self.offender if role in refused else self.others for role in roles}


class GameTable:
    """``episodes`` games of one kind, each turn a fresh one-message conversation with the observation (SPIRAL).

    Where all players move at once, all are asked before anybody's reply is played. A refused reply ends its game with
    `InvalidRewards` (several offenders are all punished); a game that reaches ``max_turns``, if given, ends with 0 for
    all.
    What is read, and told to others, is the public part of a reply; reasoning that does not end is a refused reply. In
    strict mode of style "mars" the format includes the reasoning, so there the whole reply is read.
    ``repeat`` games in a row share their deal and form a group. Roles are "player_0", "player_1", ….
    """

    def __init__(
        self,
        name: str,
        *,
        episodes: int,
        seed: int,
        sampling: Sampling | None = None,
        invalid: InvalidRewards | None = None,
        max_turns: int | None = None,
        repeat: int = 1,
        parse_mode: games.ParseMode = "lenient",
        **options: Any,
    ) -> None:
        if episodes < 1:
            raise ValueError(f"episodes: must be at least 1, got {episodes}")
        if repeat < 1 or episodes % repeat:
            raise ValueError(f"repeat: must divide episodes={episodes}, got {repeat}")
        if max_turns is not None and max_turns < 1:
            raise ValueError(f"max_turns: must be at least 1, got {max_turns}")
        if parse_mode not in ("lenient", "strict"):
            raise ValueError(f"parse_mode: must be 'lenient' or 'strict', got {parse_mode!r}")
        if options.get("chance", "sampled") != "sampled":
            raise ValueError("chance: a table has no seat for nature; leave it 'sampled'")
        self.name = name
        self.seed = seed
        self.sampling = sampling or Sampling()
        self.invalid = invalid or InvalidRewards()
        self.max_turns = max_turns
        self.repeat = repeat
        self.parse_mode = parse_mode
        self._reads_reasoning = parse_mode == "strict" and options.get("style") == "mars"
        self.batch = games.make(name, episodes, seed=seed, **options)
        if repeat > 1:
            self.batch.reset(repeat=repeat)
        self._turns: list[list[Turn]] = [[] for _ in range(episodes)]
        self._open = np.ones(episodes, bool)
        self._finished: list[Episode] = []
        self._asked = np.zeros(episodes, bool)
        self._outstanding = Outstanding()
        self._said: defaultdict[int, list[tuple[Ask, Reply]]] = defaultdict(
            list
        )  # where others must still speak

    def asks(self) -> Sequence[Ask]:
        """One ask per running game for the player to move, or one per player where all move at once, each once."""
        rows = np.flatnonzero(self._open & ~self._asked)
        self._asked[rows] = True
        return self._outstanding.add([ask for view in self._views() for ask in self._asks_of(rows, view)])

    def _views(self) -> Sequence[int | None]:
        """Who is asked in every game: None stands for the player to move, whoever it is."""
        about = self.batch.description
        return range(about.num_players) if about.simultaneous else (None,)

    def _asks_of(self, rows: np.ndarray, view: int | None) -> list[Ask]:
        if len(rows) == 0:
            return []
        movers = self.batch.current_player
        asks = []
        for row, text in zip(rows.tolist(), self.batch.observation(rows, view), strict=True):
            player = int(movers[row]) if view is None else view
            asks.append(
                Ask(
                    role=f"player_{player}",
                    append=[{"role": "user", "content": text}],
                    key=Key(self.seed, row, len(self._turns[row]) + (view or 0)),
                    sampling=self.sampling,
                    seat=GameSeat(self.batch, row, player),
                )
            )
        return asks

    def answer(self, replies: Sequence[Reply], asks: Sequence[Ask] | None = None) -> None:
        """Read, check and play the replies in bulk, in every game that now has those of all who were asked."""
        views = self._views()
        answered = set()
        for ask, (reply,) in self._outstanding.take(replies, asks):
            row = ask.key.episode
            self._said[row].append((ask, reply))
            if len(self._said[row]) == len(views):
                answered.add(row)
        rows = np.array(sorted(answered), np.int64)
        if not len(rows):
            return
        said = [sorted(self._said.pop(row), key=lambda said: said[0].key.turn) for row in rows.tolist()]
        actions = np.empty((len(rows), len(views)), np.int64)
        for v, view in enumerate(views):
            actions[:, v] = self._read(rows, view, [turns[v] for turns in said])
        accepted = (actions != games.INVALID).all(axis=1)
        if self.batch.description.simultaneous:
            self.batch.step(actions[accepted], rows=rows[accepted])
        else:
            texts = [turns[0][1].public for turns, legal in zip(said, accepted, strict=True) if legal]
            self.batch.step(actions[accepted, 0], rows=rows[accepted], texts=texts)
        self._asked[rows] = False
        self._close(rows, accepted)

    def _read(self, rows: np.ndarray, view: int | None, said: Sequence[tuple[Ask, Reply]]) -> np.ndarray:
        """One turn more in every row; its action, or INVALID."""
        actions, refusals = self.batch.parse(
            [self._read_of(reply) for _, reply in said], rows, mode=self.parse_mode, player=view
        )
        for i, (row, (ask, reply)) in enumerate(zip(rows.tolist(), said, strict=True)):
            refusal = reply.failure or refusals[i]
            if refusal is not None:
                actions[i] = games.INVALID
            action = int(actions[i])
            self._turns[row].append(
                Turn(
                    ask=ask,
                    reply=reply,
                    action=action if refusal is None else None,
                    action_text=self.batch.action_text(row, action, view) if refusal is None else None,
                    refusal=refusal,
                )
            )
        return actions

    def _read_of(self, reply: Reply) -> str:
        """What the parser reads of a reply, with the tag that its prompt may have opened for it."""
        if not self._reads_reasoning or not reply.hidden:
            return reply.public
        return reply.text if reply.text.lstrip().startswith("<think>") else f"<think>{reply.text}"

    def _close(self, rows: np.ndarray, accepted: np.ndarray) -> None:
        over, returns = self.batch.terminated, self.batch.returns
        asked = len(self._views())
        for row, legal in zip(rows.tolist(), accepted.tolist(), strict=True):
            if not legal:
                refused = {turn.ask.role for turn in self._turns[row][-asked:] if turn.refusal is not None}
                self._finish(row, self.invalid.returns(self._roles(), refused))
            elif over[row]:
                self._finish(row, dict(zip(self._roles(), returns[row].tolist(), strict=True)))
            elif self.max_turns is not None and len(self._turns[row]) >= self.max_turns:
                self._finish(row, dict.fromkeys(self._roles(), 0.0))

    def _roles(self) -> list[str]:
        return [f"player_{p}" for p in range(self.batch.returns.shape[1])]

    def _finish(self, row: int, returns: Mapping[str, float]) -> None:
        self._open[row] = False
        self._finished.append(
            Episode(
                game=self.name,
                index=row,
                seed=self.seed,
                group=row // self.repeat,
                turns=rewarded(self._turns[row], returns),
                returns=returns,
                options=self.batch.options,
            )
        )

    def finished(self) -> Sequence[Episode]:
        """Episodes that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished
