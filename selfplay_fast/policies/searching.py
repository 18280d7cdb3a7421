"""Players that search before they move, a language model as the evaluator of a search, and a pool of past selves."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from selfplay_fast import search
from selfplay_fast.games import Batch
from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.simple import acted, seat_of
from selfplay_fast.policies.streams import derive_seed, sample_streams, stream_ids, uniforms
from selfplay_fast.records import Ask, Episode, FloatArray, Key, Reply, Sampling


class SearchPlayer:
    """Plays what a search finds; all asks of a batch are searched in one call, each by the stream of its own key.

    kind: ``"mcts"``, or ``"ismcts"`` for games that hide information; the options are those of the function of that
    name in `search`. MARS's opponents are ``SearchPlayer("mcts", simulations=100, c=2.0, rollouts=10)`` and the like.
    """

    def __init__(self, kind: Literal["mcts", "ismcts"] = "mcts", **options: Any) -> None:
        if kind not in ("mcts", "ismcts"):
            raise ValueError(f"kind must be 'mcts' or 'ismcts', got {kind!r}")
        self.kind = kind
        self.options = options
        search.check_options(
            {k: v for k, v in options.items() if k not in ("evaluator", "observers", "threads")}
        )

    def _search(self, asks: Sequence[Ask], streams: NDArray[np.uint64]) -> list[tuple[np.ndarray, int]]:
        """Visits int64[A] and the action for every ask, one search per batch of games."""
        seats = [seat_of(ask) for ask in asks]
        batches = {id(seat.batch): seat.batch for seat in seats}
        found: list[tuple[np.ndarray, int]] = [(np.zeros(0), 0)] * len(asks)
        run: Callable[..., search.Found] = search.mcts if self.kind == "mcts" else search.ismcts
        for owner, batch in batches.items():
            mine = [i for i, seat in enumerate(seats) if id(seat.batch) == owner]
            rows = np.array([seats[i].row for i in mine])
            result = run(batch, rows=rows, seed=streams[mine], **self.options)
            for i, visits, action in zip(mine, result.visits, result.action.tolist(), strict=True):
                found[i] = visits, action
        return found

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """The canonical reply of the action that the search of each sample plays."""
        samples = [ask for ask in asks for _ in range(ask.n)]
        numbers = np.array([k for ask in asks for k in range(ask.n)], np.int64)
        streams = sample_streams(stream_ids([ask.key for ask in samples]), numbers)
        replies = []
        for ask, (_, action) in zip(samples, self._search(samples, streams), strict=True):
            replies.append(acted(seat_of(ask), action))
        return replies

    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        """The log of the share of visits of every choice."""
        scores = []
        for ask, (visits, _) in zip(
            asks, self._search(asks, stream_ids([ask.key for ask in asks])), strict=True
        ):
            seat = seat_of(ask)
            shares = {
                seat.batch.reply_text(seat.row, int(a), seat.player): np.log(visits[a] / visits.sum())
                for a in np.flatnonzero(visits)
            }
            scores.append(np.array([shares.get(text, -np.inf) for text in ask.choices or ()], np.float32))
        return scores


class ModelEvaluator:
    """A policy as the evaluator of a search: priors are its scores of all legal replies, in one batch.

    Values are the mean of ``rollouts`` random playouts per leaf, by a stream of the position and ``seed``: whatever
    else is asked, a position is worth the same. temperature: of the scoring.
    """

    def __init__(self, policy: Policy, *, rollouts: int = 1, temperature: float = 1.0, seed: int = 0) -> None:
        if rollouts < 1:
            raise ValueError(f"rollouts must be at least 1, got {rollouts}")
        self.policy = policy
        self.rollouts = rollouts
        self.sampling = Sampling(temperature=temperature)
        self.seed = seed

    def __call__(self, leaves: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        legal, observations = leaves.legal_actions, leaves.observation()
        asks = [
            Ask(
                role=f"player_{leaves.current_player[row]}",
                append=[{"role": "user", "content": text}],
                key=Key(0, row, 0),
                choices=tuple(leaves.reply_text(row, int(a)) for a in np.flatnonzero(legal[row])),
                sampling=self.sampling,
            )
            for row, text in enumerate(observations)
        ]
        priors = np.zeros(legal.shape, np.float32)
        for row, scores in enumerate(self.policy.score(asks)):
            priors[row, legal[row]] = np.exp(scores)
        return priors, np.stack([self._value(leaves, row, text) for row, text in enumerate(observations)])

    def _value(self, leaves: Batch, row: int, text: str) -> NDArray[np.float32]:
        stream = derive_seed(self.seed, zlib.crc32(f"{leaves.current_player[row]} {text}".encode()))
        ends = leaves.resample([row] * self.rollouts, seed=stream)
        ends.random_playouts()
        mean: NDArray[np.float32] = ends.returns.mean(axis=0)
        return mean


class OpponentPool:
    """Past selves as one opponent: every episode meets one member, the same from its first turn to its last.

    choose: ``"uniform"``, ``"latest"`` (the newest member), or ``"prioritised"``: by ``(1 - share of games won against
    it) ** 2`` of what ``record`` has seen (Vinyals et al. 2019), so that one meets those one loses to.
    """

    def __init__(
        self,
        members: Mapping[str, Policy],
        *,
        choose: Literal["uniform", "latest", "prioritised"] = "uniform",
        seed: int = 0,
    ) -> None:
        if choose not in ("uniform", "latest", "prioritised"):
            raise ValueError(f"choose must be 'uniform', 'latest' or 'prioritised', got {choose!r}")
        self.members = dict(members)
        self.choose = choose
        self.seed = seed
        self.won: dict[str, float] = {}
        self.met: dict[str, int] = {}
        self._chosen: dict[tuple[int, int], str] = {}

    def add(self, name: str, policy: Policy) -> None:
        """One more member; episodes under way keep theirs."""
        if name in self.members:
            raise ValueError(f"members: there is a {name!r} already")
        self.members[name] = policy

    def member_of(self, key: Key) -> str:
        """Who plays the episode of this key."""
        if not self.members:
            raise ValueError("members: the pool is empty")
        episode = (key.seed, key.episode)
        if episode not in self._chosen:
            self._chosen[episode] = self._draw(derive_seed(self.seed, *episode))
        return self._chosen[episode]

    def _draw(self, stream: int) -> str:
        names = list(self.members)
        if self.choose == "latest":
            return names[-1]
        weights = np.ones(len(names))
        if self.choose == "prioritised":
            losses = np.array([1 - self.won.get(n, 0.0) / max(self.met.get(n, 0), 1) for n in names])
            weights = losses**2 + 1e-3  # nobody is forgotten
        cumulative = np.cumsum(weights)
        u = float(uniforms(np.array([stream], np.uint64), 0)[0])
        return names[int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))]

    def record(self, episodes: Sequence[Episode], role: str) -> None:
        """Count ended episodes in which ``role`` was ours; a draw is half a win. Their choices are forgotten."""
        for episode in episodes:
            name = self._chosen.pop((episode.seed, episode.index), None)
            if name is None:
                continue
            others = max(value for other, value in episode.returns.items() if other != role)
            own = episode.returns[role]
            self.met[name] = self.met.get(name, 0) + 1
            self.won[name] = self.won.get(name, 0.0) + (
                1.0 if own > others else 0.5 if own == others else 0.0
            )

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """Each member answers its asks in one batch."""
        return self._each(asks, lambda policy, mine: policy.generate(mine), lambda ask: ask.n)

    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        """Each member scores its asks in one batch."""
        return self._each(asks, lambda policy, mine: policy.score(mine), lambda ask: 1)

    def _each(
        self,
        asks: Sequence[Ask],
        answer: Callable[[Policy, list[Ask]], Sequence[Any]],
        count: Callable[[Ask], int],
    ) -> list[Any]:
        owners = [self.member_of(ask.key) for ask in asks]
        answers: list[list[Any]] = [[] for _ in asks]
        for name in dict.fromkeys(owners):
            mine = [i for i, owner in enumerate(owners) if owner == name]
            replies = iter(answer(self.members[name], [asks[i] for i in mine]))
            for i in mine:
                answers[i] = [next(replies) for _ in range(count(asks[i]))]
        return [reply for group in answers for reply in group]
