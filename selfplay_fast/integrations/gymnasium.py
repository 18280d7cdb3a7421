"""Gymnasium environments: one seat of a game against a fixed opponent.

    envs = GameVectorEnv("tic_tac_toe", 1024, opponent="random", seat=0)
    observations, infos = envs.reset(seed=1)
    observations, rewards, terminations, truncations, infos = envs.step(actions)  # infos["action_mask"]

All sub-environments are rows of one C++ batch: a step is one call for them all, then the opponent moves wherever it
is to move until the seat's turn has come everywhere. Rewards are 0 until a game is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from selfplay_fast import arguments as check
from selfplay_fast import games
from selfplay_fast.integrations._batches import make_batch
from selfplay_fast.integrations._spaces import Observations, choose_observations, observation_space
from selfplay_fast.policies import RandomPolicy, TabularPlayer
from selfplay_fast.policies.streams import derive_seed, stream_ids, uniforms
from selfplay_fast.records import Key

IntArray = NDArray[np.int64]
Chooser: TypeAlias = Callable[[games.Batch, IntArray], ArrayLike]
Opponent: TypeAlias = str | Mapping[str, ArrayLike] | RandomPolicy | TabularPlayer | Chooser

_GIVE_UP_AFTER = 1000  # games in a row that end before the seat has a turn
_MOVED, _BEGUN = 0, 1  # when in a call the opponent moves: after the seat, in a new game


class GameVectorEnv(VectorEnv[Any, IntArray, NDArray[Any]]):
    """``num_envs`` games, one seat of each to be played.

    opponent: who plays the other seats. ``"random"``: uniform; a table of action probabilities by information state,
        such as `solvers.TabularPolicy`, or a `policies.TabularPlayer`; or a function of the batch and of the rows
        int64[K] in which another player is to move that gives their actions int64[K].
    autoreset_mode: when an ended game is followed by the next: Gymnasium's "NextStep", "SameStep" or "Disabled".
    observations: "tensor" or "text", None for the tensor of a game that has one. After the end: the seat's tensor, or
        the words that are new since its last turn.
    arguments: the game's options and those of `games.make`, such as ``style`` and ``threads``.

    ``infos["action_mask"]`` int8[num_envs, A] is all 0 where a game is over. Deals and the opponent's draws are
    functions of the seed given to `reset`, the row and the call, so a row does not depend on how many there are. A
    game that ends before the seat has a turn is passed over.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        *,
        opponent: Opponent = "random",
        seat: int = 0,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        observations: Observations | None = None,
        **arguments: Any,
    ) -> None:
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": ["ansi"]}
        self._make = lambda seed: make_batch(game, num_envs, seed, arguments)
        self._batch = self._make(0)
        about = self._batch.description
        if self._batch.legal_actions.ndim != 2:
            raise ValueError(f"{game}: all players move at once; a single seat needs a game of turns")
        if not 0 <= check.whole("seat", seat) < about.num_players:
            raise ValueError(f"seat: {about.name} has seats 0 to {about.num_players - 1}, got {seat}")
        if isinstance(opponent, RandomPolicy):
            opponent = "random"
        elif isinstance(opponent, TabularPlayer):
            opponent = opponent.table
        if not (opponent == "random" or isinstance(opponent, Mapping) or callable(opponent)):
            raise ValueError(f"opponent must be 'random', a table or a function, got {opponent!r}")
        if isinstance(opponent, Mapping):
            for key in opponent:
                _cumulative(opponent, key)
        self.seat = seat
        self._opponent = opponent
        self._observations = choose_observations(self._batch, observations)
        self.single_observation_space = observation_space(self._batch, self._observations)
        self.single_action_space = spaces.Discrete(about.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = np.ones(num_envs, bool)  # nothing is dealt before the first reset
        self._seed: int | None = None
        self._calls = 0  # of reset and step since the seed was given

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new games everywhere, or where ``options["reset_mask"]`` bool[num_envs] says so.

        Equal seeds give equal games, those included that are begun later without a seed.
        """
        seed = check.optional("seed", seed, low=0)
        super().reset(seed=seed)
        self._calls += 1
        rows = np.arange(self.num_envs)
        if options is not None and "reset_mask" in options:
            rows = _rows_of(options["reset_mask"], self.num_envs)
        if self._seed is None or (seed is not None and len(rows) == self.num_envs):
            self._seed = int(self.np_random.integers(2**63)) if seed is None else seed
            self._batch, self._calls = self._make(self._seed), 0
        elif seed is None:
            self._batch.reset(rows)
        else:
            self._batch.reset(rows, seeds=[derive_seed(seed, row) for row in rows.tolist()])
        self._begin(rows)
        return self._observe(), self._infos()

    def step(
        self, actions: ArrayLike
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play one action per sub-environment; in mode NextStep those of ended games are ignored.

        Raises ValueError, and nothing has changed, if an action is illegal (naming row and action) or a game that
        must be reset is not; RuntimeError, until all games are reset in which that is so, if the opponent failed in an
        earlier call and the seat is not to move.
        """
        moves = np.asarray(actions)
        if moves.shape != (self.num_envs,):
            raise ValueError(f"actions must have the shape ({self.num_envs},), got {moves.shape}")
        if self._seed is None or (self._over.any() and self.autoreset_mode != AutoresetMode.NEXT_STEP):
            raise ValueError(f"game {int(np.argmax(self._over))} is over or was never begun; call reset")
        rows, renewed = np.flatnonzero(~self._over), np.flatnonzero(self._over)
        stuck = rows[self._batch.current_player[rows] != self.seat]
        if len(stuck) > 0:
            raise RuntimeError(
                f"game {stuck[0]}: seat {self.seat} is not to move, since the opponent failed in an earlier call; "
                "call reset"
            )
        self._batch.step(moves[rows], rows=rows)
        self._calls += 1
        self._move_opponents(rows, _MOVED)
        terminations = self._batch.terminated & ~self._over
        rewards = np.where(terminations, self._batch.returns[:, self.seat], 0).astype(np.float64)
        self._over = terminations.copy()
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and terminations.any():
            infos = self._final_infos(terminations)
            renewed = np.flatnonzero(terminations)
        if len(renewed) > 0:
            self._batch.reset(renewed)
            self._begin(renewed)
        truncations = np.zeros(self.num_envs, bool)
        return self._observe(), rewards, terminations, truncations, infos | self._infos()

    def render(self) -> tuple[str, ...]:
        """What the seat may read in every game."""
        return self._words()

    def _begin(self, rows: IntArray) -> None:
        """Let the opponent move first in new games where it does, until the seat has a turn in all of them."""
        self._over[rows] = False
        for attempt in range(_GIVE_UP_AFTER):
            self._move_opponents(rows, _BEGUN + attempt)
            rows = rows[self._batch.terminated[rows]]
            if len(rows) == 0:
                return
            self._batch.reset(rows)
        raise ValueError(
            f"{self._batch.name}: seat {self.seat} had no turn in {_GIVE_UP_AFTER} games one after the other"
        )

    def _move_opponents(self, rows: IntArray, phase: int) -> None:
        for turn in range(self._batch.description.max_turns + 1):
            players = self._batch.current_player[rows]
            rows = rows[(players >= 0) & (players != self.seat)]
            if len(rows) == 0:
                return
            assert self._seed is not None
            draw = derive_seed(self._seed, self._calls, phase, turn)
            self._batch.step(self._choose(rows, draw), rows=rows)

    def _choose(self, rows: IntArray, draw: int) -> ArrayLike:
        """The opponent's actions; what is drawn is a function of ``draw`` and the row."""
        if isinstance(self._opponent, Mapping):
            return _draw_from_table(self._opponent, self._batch, rows, draw)
        if callable(self._opponent):
            return self._opponent(self._batch, rows)
        return self._batch.sample_actions(draw)[rows]

    def _observe(self) -> Any:
        return (
            self._words()
            if self._observations == "text"
            else self._batch.observation_tensor(player=self.seat)
        )

    def _words(self) -> tuple[str, ...]:
        texts = self._batch.observation()
        for row in np.flatnonzero(self._batch.terminated).tolist():
            texts[row] = "\n".join(self._batch.messages_since(row, self.seat))
        return tuple(texts)

    def _infos(self) -> dict[str, Any]:
        return {
            "action_mask": self._batch.legal_actions.astype(np.int8),
            "_action_mask": np.ones(self.num_envs, bool),
        }

    def _final_infos(self, ended: NDArray[np.bool_]) -> dict[str, Any]:
        """Observation and info of the games that are about to be replaced, as Gymnasium lays them out."""
        final = np.full(self.num_envs, None, object)
        seen = self._observe()
        for row in np.flatnonzero(ended).tolist():
            final[row] = seen[row]
        mask = np.zeros((self.num_envs, self._batch.description.num_actions), np.int8)
        return {
            "final_obs": final,
            "_final_obs": ended.copy(),
            "final_info": {"action_mask": mask, "_action_mask": ended.copy()},
            "_final_info": ended.copy(),
        }


class GameEnv(gymnasium.Env[Any, Any]):
    """A single game of `GameVectorEnv`, which documents the arguments."""

    def __init__(
        self,
        game: str,
        *,
        opponent: Opponent = "random",
        seat: int = 0,
        observations: Observations | None = None,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        self.metadata = {"render_modes": ["ansi"], "render_fps": 1}
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be ansi or None, got {render_mode!r}")
        self.render_mode = render_mode
        self._games = GameVectorEnv(
            game,
            1,
            opponent=opponent,
            seat=seat,
            autoreset_mode=AutoresetMode.DISABLED,
            observations=observations,
            **arguments,
        )
        self.observation_space = self._games.single_observation_space
        self.action_space = self._games.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a new game; without a seed the next one."""
        seed = check.optional("seed", seed, low=0)
        super().reset(seed=seed)
        observations, infos = self._games.reset(seed=seed)
        return observations[0], {"action_mask": infos["action_mask"][0]}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play an action; ValueError if it is illegal or the game is over."""
        observations, rewards, terminations, _, infos = self._games.step([check.whole("action", action)])
        info = {"action_mask": infos["action_mask"][0]}
        return observations[0], float(rewards[0]), bool(terminations[0]), False, info

    def render(self) -> str | None:
        """What the seat may read, in mode ansi."""
        return self._games.render()[0] if self.render_mode == "ansi" else None


def _rows_of(mask: Any, num_envs: int) -> IntArray:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_envs,):
        raise ValueError(f"reset_mask must be bool[{num_envs}]")
    if not mask.any():
        raise ValueError("reset_mask must name at least one game")
    return np.flatnonzero(mask)


def _draw_from_table(
    table: Mapping[str, ArrayLike], batch: games.Batch, rows: IntArray, draw: int
) -> IntArray:
    actions = np.empty(len(rows), np.int64)
    chances = uniforms(stream_ids([Key(draw, row, 0) for row in rows.tolist()]), 0)
    for k, (row, player) in enumerate(zip(rows.tolist(), batch.current_player[rows].tolist(), strict=True)):
        key = batch.information_state(row, player)
        if key not in table:
            raise ValueError(f"opponent: the table has no information state {key!r} of player {player}")
        cumulative = _cumulative(table, key)
        actions[k] = np.searchsorted(cumulative, chances[k] * cumulative[-1], side="right")
    return actions


def _cumulative(table: Mapping[str, ArrayLike], key: str) -> NDArray[np.float64]:
    """The sums of the probabilities, which need not add up to 1; ValueError if they are none."""
    row = np.asarray(table[key], np.float64)
    if row.ndim != 1 or row.size == 0 or not (row.min() >= 0 and 0 < row.sum() < np.inf):
        raise ValueError(
            f"opponent: the table needs numbers of 0 or more, not all 0, for {key!r}, got {check.shown(row.tolist())}"
        )
    return np.cumsum(row)
