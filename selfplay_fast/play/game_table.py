"""A table of games: rows of one C++ batch, one conversation turn per move of one player."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selfplay_fast import games
from selfplay_fast.play.outstanding import Outstanding
from selfplay_fast.play.stakes import earned, staked
from selfplay_fast.records import Ask, Episode, GameSeat, Key, Reply, Sampling, Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class InvalidRewards:
    """Returns when a reply is refused: the game ends. SPIRAL trains with -1.5 / +0.5 and evaluates with -1 / +1.

    With ``stake`` they come on top of what the game has paid so far, and an offender also loses what it has put in:
    MARS trains with -10 and the stake less / 0.
    """

    offender: float = -1.5
    others: float = 0.5
    stake: bool = False

    def returns(
        self, roles: Sequence[str], refused: Collection[str], batch: games.Batch | None = None, row: int = 0
    ) -> dict[str, float]:
        """By role, when the replies of some roles are refused; ``stake`` needs the game as it stands."""
        returns = {role: self.offender if role in refused else self.others for role in roles}
        if not self.stake:
            return returns
        if batch is None:
            raise ValueError("batch: a stake is read from a game; set stake=False elsewhere")
        paid = earned(batch, row)
        return {
            role: value + paid - (staked(batch, row, player) if role in refused else 0.0)
            for player, (role, value) in enumerate(returns.items())
        }


def read_of(reply: Reply, style: games.Style, parse_mode: games.ParseMode) -> str:
    """What a parser reads: the public part, or all of the reply where the format itself has reasoning in it.

    In the latter case with the tag that a prompt may have said for the reply.
    """
    if (style, parse_mode) != ("mars", "strict") or not reply.hidden or reply.unclosed:
        return reply.public
    return reply.text if reply.text.lstrip().startswith("<think>") else f"<think>{reply.text}"


class GameTable:
    """``episodes`` games of one kind, each turn a fresh one-message conversation with the observation (SPIRAL).

    With ``chat`` every seat has one conversation per game instead, which only grows: a turn appends what is new for
    that player (MARS). ``forced_prefix`` opens every reply.
    A turn's reward is what the game pays its player from there to its next turn; what comes before a player's first
    turn is nobody's doing and in no reward.
    Where all players move at once, all are asked before anybody's reply is played. A refused reply ends its game with
    `InvalidRewards` (several offenders are all punished); a game that reaches ``max_turns``, if given, ends with 0 for
    all.
    What is read, and told to others, is the public part of a reply; reasoning that does not end is a refused reply. In
    strict mode of style "mars" the format includes the reasoning, so there the whole reply is read.
    ``repeat`` games in a row share their deal and form a group. Roles are "player_0", "player_1", ….
    Only games ``rows`` are played here, all unless given: another process plays the others, and each of them goes the
    same wherever it is played.
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
        rows: Sequence[int] | None = None,
        parse_mode: games.ParseMode = "lenient",
        chat: bool = False,
        forced_prefix: str = "",
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
        self.chat = chat
        self.forced_prefix = forced_prefix
        self._style: games.Style = options.get("style", "spiral")
        self.batch = games.make(name, episodes, seed=seed, **options)
        if repeat > 1:
            self.batch.reset(repeat=repeat)
        if chat and self.batch.description.simultaneous:
            raise ValueError(f"chat: in {name} all players move at once; leave it off")
        self._turns: list[list[Turn]] = [[] for _ in range(episodes)]
        self._rewards: list[list[float]] = [[] for _ in range(episodes)]
        self._paid = [[0.0] * self.batch.description.num_players for _ in range(episodes)]
        self._open = np.full(episodes, rows is None)
        if rows is not None:
            self._open[list(rows)] = True
        self._finished: list[Episode] = []
        self._asked = np.zeros(episodes, bool)
        self._outstanding = Outstanding()
        # Where others must still speak:
        self._said: defaultdict[int, list[tuple[Ask, Reply]]] = defaultdict(list)

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
        movers = self.batch.current_player[rows].tolist() if view is None else [view] * len(rows)
        if self.chat:
            seats = zip(rows.tolist(), movers, strict=True)
            texts = ["\n".join(self.batch.messages_since(row, player)) for row, player in seats]
        else:
            texts = self.batch.observation(rows, view)
        asks = []
        for row, player, text in zip(rows.tolist(), movers, texts, strict=True):
            before = self._last_turn(row, player) if self.chat else None
            said = None if before is None else self._turns[row][before].reply
            asks.append(
                Ask(
                    role=f"player_{player}",
                    append=[{"role": "user", "content": text}],
                    context=None if said is None else said.context,
                    history=() if said is None else said.history,
                    forced_prefix=self.forced_prefix,
                    key=Key(self.seed, row, len(self._turns[row]) + (view or 0)),
                    final=not self.chat,
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
            [read_of(reply, self._style, self.parse_mode) for _, reply in said],
            rows,
            mode=self.parse_mode,
            player=view,
        )
        for i, (row, (ask, reply)) in enumerate(zip(rows.tolist(), said, strict=True)):
            refusal = reply.failure or refusals[i]
            if refusal is not None:
                actions[i] = games.INVALID
            action = int(actions[i])
            self._rewards[row].append(0.0)
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

    def _close(self, rows: np.ndarray, accepted: np.ndarray) -> None:
        over, returns = self.batch.terminated, self.batch.returns
        asked = len(self._views())
        for row, legal in zip(rows.tolist(), accepted.tolist(), strict=True):
            if not legal:
                refused = {turn.ask.role for turn in self._turns[row][-asked:] if turn.refusal is not None}
                self._finish(row, self.invalid.returns(self._roles(), refused, self.batch, row))
            elif over[row]:
                self._finish(row, dict(zip(self._roles(), returns[row].tolist(), strict=True)))
            elif self.max_turns is not None and len(self._turns[row]) >= self.max_turns:
                self._finish(row, dict.fromkeys(self._roles(), 0.0))
            elif so_far := earned(self.batch, row):
                self._pay(row, [so_far] * len(self._roles()))

    def _last_turn(self, row: int, player: int) -> int | None:
        """The number of a player's last turn, if it had one."""
        role = f"player_{player}"
        own = (k for k in reversed(range(len(self._turns[row]))) if self._turns[row][k].ask.role == role)
        return next(own, None)

    def _pay(self, row: int, returns: Sequence[float]) -> None:
        """What players have got since the last time is the reward of their last turns."""
        for player, value in enumerate(returns):
            turn = self._last_turn(row, player)
            if turn is not None:
                self._rewards[row][turn] += value - self._paid[row][player]
        self._paid[row] = list(returns)

    def _roles(self) -> list[str]:
        return [f"player_{p}" for p in range(self.batch.returns.shape[1])]

    def _finish(self, row: int, returns: Mapping[str, float]) -> None:
        self._open[row] = False
        self._pay(row, list(returns.values()))
        turns = zip(self._turns[row], self._rewards[row], strict=True)
        self._finished.append(
            Episode(
                game=self.name,
                index=row,
                seed=self.seed,
                group=row // self.repeat,
                turns=tuple(replace(turn, reward=reward) if reward else turn for turn, reward in turns),
                returns=returns,
                options=self.batch.options,
            )
        )

    def finished(self) -> Sequence[Episode]:
        """Episodes that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished
