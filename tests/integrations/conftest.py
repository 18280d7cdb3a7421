"""A game in which both players move at once, in plain Python: the contract of such games, two rounds long."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from selfplay_fast import games

ROUNDS = 2


class RockPaperScissors:
    """A batch of `selfplay_fast.games` as far as the integrations use one; 0 rock, 1 paper, 2 scissors."""

    def __init__(self, batch_size: int = 1, seed: int = 0, **_: Any) -> None:
        self.played: list[list[tuple[int, int]]] = [[] for _ in range(batch_size)]
        self.description = games.Description(
            name="rock_paper_scissors",
            num_players=2,
            num_actions=3,
            max_turns=ROUNDS,
            zero_sum=True,
            perfect_information=False,
            speech=False,
            simultaneous=True,
            styles=games.STYLES,
            options={},
            option_help={},
        )

    def __len__(self) -> int:
        return len(self.played)

    @property
    def terminated(self) -> np.ndarray:
        return np.array([len(rounds) == ROUNDS for rounds in self.played])

    @property
    def current_player(self) -> np.ndarray:
        return np.where(self.terminated, games.TERMINAL, -2).astype(np.int32)

    @property
    def legal_actions(self) -> np.ndarray:
        return np.broadcast_to(~self.terminated[:, None, None], (len(self), 2, 3))

    @property
    def returns(self) -> np.ndarray:
        won = [sum((0, 1, -1)[(a - b) % 3] for a, b in rounds) for rounds in self.played]
        first = np.where(self.terminated, won, 0)
        return np.stack([first, -first], axis=1).astype(np.float32)

    def step(self, actions: Any, rows: Any = None, texts: Any = None) -> None:
        pairs = np.asarray(actions)
        assert pairs.shape == (len(self) if rows is None else len(rows), 2)
        for row, pair in zip(range(len(self)) if rows is None else rows, pairs.tolist(), strict=True):
            if not all(0 <= action < 3 for action in pair):
                raise ValueError(f"rock_paper_scissors: actions {pair} are illegal in row {row}")
            self.played[row].append(tuple(pair))

    def reset(self, rows: Any = None, seeds: Any = None, repeat: int = 1) -> None:
        for row in range(len(self)) if rows is None else rows:
            self.played[row] = []

    def observation_tensor(self, rows: Any = None, player: int | None = None) -> np.ndarray:
        """[K, P, 12], of one player [K, 12]: the moves of each round, one-hot, the own first."""
        out = np.zeros((len(self), 2, ROUNDS, 2, 3), np.float32)
        for row, rounds in enumerate(self.played):
            for r, pair in enumerate(rounds):
                for p in range(2):
                    out[row, p, r, 0, pair[p]] = out[row, p, r, 1, pair[1 - p]] = 1
        out = out.reshape(len(self), 2, -1)
        out = out if rows is None else out[rows]
        return out if player is None else out[:, player]

    def messages_since(self, row: int, player: int) -> list[str]:
        return [f"You are player {player}.", f"So far: {self.played[row]}"]

    def information_state(self, row: int, player: int) -> str:
        return f"{player}:" + ",".join(f"{pair[player]}{pair[1 - player]}" for pair in self.played[row])

    def action_text(self, row: int, action: int) -> str:
        return ("[rock]", "[paper]", "[scissors]")[action]

    def history(self, row: int) -> list[int]:
        return [action for pair in self.played[row] for action in pair]

    def sample_actions(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 3, (len(self), 2))

    def copy(self) -> RockPaperScissors:
        return copy.deepcopy(self)


@pytest.fixture
def joint_game(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the game above, made by `games.make` like any other."""
    make, describe = games.make, games.describe
    name = "rock_paper_scissors"

    def make_any(game: str, batch_size: int, **arguments: Any) -> Any:
        if game.removesuffix("()") == name:
            return RockPaperScissors(batch_size, **arguments)
        return make(game, batch_size, **arguments)

    def describe_any(game: str, **options: Any) -> games.Description:
        return (
            RockPaperScissors().description if game.removesuffix("()") == name else describe(game, **options)
        )

    monkeypatch.setattr(games, "make", make_any)
    monkeypatch.setattr(games, "describe", describe_any)
    return name
