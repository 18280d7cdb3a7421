"""Our games under OpenSpiel's interface, for the algorithms of ``open_spiel.python``.

    game = load_game("kuhn_poker")
    solver = cfr.CFRSolver(game)  # of open_spiel.python.algorithms
    solver.evaluate_and_update_policy()
    exploitability.nash_conv(game, solver.average_policy())

`Game` and `State` answer what a ``pyspiel.Game`` and a ``pyspiel.State`` answer; algorithms that are C++ inside
(``exploitability.exploitability``, ``pyspiel.TabularBestResponse``) want the real ones: `selfplay_fast.solvers` has
their counterparts. Nature is explicit, and sampled where all players move at once; numbers of players and actions are
OpenSpiel's where both have the game.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyspiel

from selfplay_fast import arguments, games, solvers
from selfplay_fast.policies.streams import derive_seed

_LARGEST_WALK = 20_000  # nodes or positions of a game whose returns are looked up one by one
_PROBES = 64  # random games that show whether nature ever moves


def load_game(game: str, *, seed: int | None = None, **options: int | str) -> Game:
    """A game by its name, with options as in `selfplay_fast.games.make`.

    seed: of the deals where nature is sampled, that is, where all players move at once; None: others every time.
    """
    return Game(game, seed=seed, **options)


class Game:
    """What ``pyspiel.Game`` answers."""

    def __init__(self, game: str, *, seed: int | None = None, **options: Any) -> None:
        self._about = games.describe(game, **options)
        self._seed = secrets.randbits(63) if seed is None else arguments.seed_bits("seed", seed)
        self._deals = 0  # dealt so far, where nature is sampled

    def __repr__(self) -> str:
        return _full_name(self._about)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Game) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def new_initial_state(self) -> State:
        """The start of the game; where nature is sampled, each time the next deal."""
        if not self._about.simultaneous:
            return State(self, games.make(repr(self), 1, chance="explicit", style="plain"))
        self._deals += 1
        return self._dealt(derive_seed(self._seed, self._deals))

    def _dealt(self, deal: int) -> State:
        return State(self, games.make(repr(self), 1, seed=deal, style="plain"), deal)

    def new_initial_states(self) -> list[State]:
        """All starts: one."""
        return [self.new_initial_state()]

    def deserialize_state(self, text: str) -> State:
        """The state that said ``text`` when it was serialized."""
        first, *rest = text.split() or [""]
        dealt = first.startswith("deal=")
        state = self._dealt(int(first[len("deal=") :])) if dealt else self.new_initial_state()
        for line in rest if dealt else text.split():
            moves = [int(number) for number in line.split(",")]
            state.apply_actions(moves) if len(moves) > 1 else state.apply_action(moves[0])
        return state

    def num_players(self) -> int:
        return self._about.num_players

    def num_distinct_actions(self) -> int:
        """Enumerable actions of the players; a game may take richer ones beside them."""
        return self._about.num_actions

    def policy_tensor_shape(self) -> list[int]:
        return [self._about.num_actions]

    def max_game_length(self) -> int:
        """The players' turns, nature's not counted."""
        return self._about.max_turns

    def min_utility(self) -> float:
        """The least return of any player: exact for small games, else minus infinity, which is a bound too."""
        return _utilities(repr(self))[0]

    def max_utility(self) -> float:
        """The greatest return of any player: exact for small games, else infinity."""
        return _utilities(repr(self))[1]

    def utility_sum(self) -> float | None:
        """What the returns add up to: 0, or None where they need not add up."""
        return 0.0 if self._about.zero_sum else None

    def get_parameters(self) -> dict[str, int | str]:
        """The options."""
        return dict(self._about.options)

    def observation_tensor_shape(self) -> list[int]:
        """ValueError if the game has none."""
        return list(games.make(repr(self), 1).observation_tensor(player=0).shape[1:])

    def observation_tensor_size(self) -> int:
        """ValueError if the game has none."""
        return math.prod(self.observation_tensor_shape())

    def get_type(self) -> pyspiel.GameType:
        """OpenSpiel's description of what kind of game this is."""
        kind = pyspiel.GameType
        simultaneous, chance, tensor = _traits(repr(self))
        about = self._about
        return kind(
            short_name=about.name,
            long_name=about.name.replace("_", " ").title(),
            dynamics=kind.Dynamics.SIMULTANEOUS if simultaneous else kind.Dynamics.SEQUENTIAL,
            chance_mode=kind.ChanceMode.DETERMINISTIC
            if not chance
            else kind.ChanceMode.SAMPLED_STOCHASTIC
            if simultaneous
            else kind.ChanceMode.EXPLICIT_STOCHASTIC,
            information=kind.Information.PERFECT_INFORMATION
            if about.perfect_information
            else kind.Information.IMPERFECT_INFORMATION,
            utility=kind.Utility.ZERO_SUM if about.zero_sum else kind.Utility.GENERAL_SUM,
            reward_model=kind.RewardModel.TERMINAL,
            max_num_players=about.num_players,
            min_num_players=about.num_players,
            provides_information_state_string=True,
            provides_information_state_tensor=False,
            provides_observation_string=True,
            provides_observation_tensor=tensor,
        )


class State:
    """What ``pyspiel.State`` answers."""

    def __init__(self, game: Game, batch: games.Batch, deal: int | None = None) -> None:
        self._game = game
        self._batch = batch
        self._deal = deal  # where nature is sampled

    def __str__(self) -> str:
        """What all players know together; it tells states apart as far as it matters for what follows."""
        known = (self._batch.information_state(0, player) for player in range(self.num_players()))
        return f"{self.current_player()}|" + "|".join(known)

    def __repr__(self) -> str:
        return f"<{self._game!r} after [{self.history_str()}]>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Game.deserialize_state, (self._game, self.serialize())

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        return self.clone()

    def clone(self) -> State:
        """An independent copy."""
        return State(self._game, self._batch.copy(), self._deal)

    def child(self, action: int) -> State:
        """A copy in which ``action`` is played."""
        state = self.clone()
        state.apply_action(action)
        return state

    def get_game(self) -> Game:
        return self._game

    def num_players(self) -> int:
        return self._game.num_players()

    def num_distinct_actions(self) -> int:
        return self._game.num_distinct_actions()

    def current_player(self) -> int:
        """Who is to move: a player, -1 nature, -2 all at once, -4 nobody."""
        return int(self._batch.current_player[0])

    def is_terminal(self) -> bool:
        return self.current_player() == games.TERMINAL

    def is_chance_node(self) -> bool:
        return self.current_player() == games.CHANCE

    def is_simultaneous_node(self) -> bool:
        return self.current_player() == games.SIMULTANEOUS

    def is_player_node(self) -> bool:
        return self.current_player() >= 0

    def is_mean_field_node(self) -> bool:
        return False

    def is_initial_state(self) -> bool:
        return not self.history()

    def legal_actions(self, player: int | None = None) -> list[int]:
        """What ``player`` may do, by default who is to move; empty for one who is not."""
        mover = self.current_player()
        if mover == games.CHANCE:
            wanted = player in (None, games.CHANCE)
            return [action for action, _ in self._batch.chance_outcomes(0)] if wanted else []
        if mover == games.SIMULTANEOUS and player is not None:
            return np.flatnonzero(self._batch.legal_actions[0, player]).tolist()
        if mover < 0 or player not in (None, mover):
            return []
        return np.flatnonzero(self._batch.legal_actions[0]).tolist()

    def legal_actions_mask(self, player: int | None = None) -> list[int]:
        """0 or 1 per distinct action (per outcome at a chance node)."""
        legal = self.legal_actions(player)
        length = legal[-1] + 1 if self.is_chance_node() and legal else self.num_distinct_actions()
        return [int(action in legal) for action in range(length)]

    def chance_outcomes(self) -> list[tuple[int, float]]:
        """(action, probability) of what nature may do."""
        return self._batch.chance_outcomes(0)

    def apply_action(self, action: int) -> None:
        """Play an action of whoever is to move; ValueError if it is illegal."""
        self._batch.step([arguments.whole("action", action)])

    def apply_actions(self, actions: Sequence[int]) -> None:
        """Play one action per player, where all move at once."""
        self._batch.step([[arguments.whole("actions", action) for action in actions]])

    def returns(self) -> list[float]:
        """By player, 0 until the game is over."""
        return self._batch.returns[0].tolist()

    def rewards(self) -> list[float]:
        """Those of the last move: all rewards come at the end."""
        return self.returns()

    def player_return(self, player: int) -> float:
        return float(self._batch.returns[0, player])

    def player_reward(self, player: int) -> float:
        return self.player_return(player)

    def information_state_string(self, player: int | None = None) -> str:
        """The key of all that ``player``, by default who is to move, knows."""
        return self._batch.information_state(0, self._observer(player))

    def observation_string(self, player: int | None = None) -> str:
        """What the player to move reads; ValueError for another one."""
        return self._batch.observation(player=self._mover(player))[0]

    def observation_tensor(self, player: int | None = None) -> list[float]:
        """The tensor of the player to move, flat; ValueError for another one, or if the game has none."""
        return self._batch.observation_tensor(player=self._mover(player))[0].ravel().tolist()

    def information_state_tensor(self, player: int | None = None) -> list[float]:
        """ValueError: no game has one; `information_state_string` says the same."""
        raise ValueError(f"{self._game!r}: has no information state tensor, use information_state_string")

    def action_to_string(self, player: int, action: int | None = None) -> str:
        """A legal action in words; the player may be left out where one is to move."""
        number = arguments.whole("action", player if action is None else action)
        if self.is_chance_node():
            return f"outcome {number}"
        return self._batch.action_text(0, number, player if self.is_simultaneous_node() else None)

    def string_to_action(self, player: int | str, text: str | None = None) -> int:
        """The action of a reply in words; the player may be left out where one is to move.

        ValueError with the reason if it is none.
        """
        together = self.is_simultaneous_node() and text is not None
        mover = arguments.whole("player", player) if together else None
        (action,), (refusal,) = self._batch.parse([str(player) if text is None else text], player=mover)
        if refusal is not None:
            raise ValueError(f"{self._game!r}: {refusal}")
        return int(action)

    def history(self) -> list[int]:
        """All actions so far, nature's included."""
        return self._batch.history(0)

    def history_str(self) -> str:
        """The same as text."""
        return ", ".join(map(str, self.history()))

    def move_number(self) -> int:
        return len(self.history())

    def serialize(self) -> str:
        """The history, for `Game.deserialize_state`."""
        per_line = self.num_players() if _traits(repr(self._game))[0] else 1
        numbers = [str(action) for action in self.history()]
        lines = [numbers[i : i + per_line] for i in range(0, len(numbers), per_line)]
        dealt = [] if self._deal is None else [[f"deal={self._deal}"]]
        return "\n".join(",".join(line) for line in dealt + lines)

    def _observer(self, player: int | None) -> int:
        observer = self.current_player() if player is None else arguments.whole("player", player)
        if not 0 <= observer < self.num_players():
            raise ValueError(
                f"{self._game!r}: no player {observer} to ask; there are 0 to {self.num_players() - 1}"
            )
        return observer

    def _mover(self, player: int | None) -> int:
        mover = self._observer(player)
        if mover != self.current_player() and not self.is_simultaneous_node():
            raise ValueError(
                f"{self._game!r}: only the player to move has an observation, not player {player}"
            )
        return mover


def _full_name(about: games.Description) -> str:
    options = ",".join(f"{name}={value}" for name, value in about.options.items())
    return f"{about.name}({options})"


@lru_cache(maxsize=64)
def _traits(game: str) -> tuple[bool, bool, bool]:
    """Whether all players move at once, whether nature moves (in 64 random games), whether there is a tensor."""
    simultaneous = games.describe(game).simultaneous
    batch = games.make(game, _PROBES, chance="sampled" if simultaneous else "explicit")
    chance = False
    step = 0
    while not batch.terminated.all():
        chance |= bool((batch.current_player == games.CHANCE).any())
        moves = batch.sample_actions(step)
        if simultaneous:  # equal moves lead to unequal places only where nature moves
            chance |= len({batch.information_state(row, 0) for row in range(_PROBES)}) > 1
            moves[:] = moves[int(batch.terminated.argmin())]
        batch.step(moves)
        step += 1
    try:
        batch.observation_tensor([0])
    except ValueError:
        return simultaneous, chance, False
    return simultaneous, chance, True


@lru_cache(maxsize=64)
def _utilities(game: str) -> tuple[float, float]:
    """The least and the greatest return at the end of the game, or infinite ones of a game that is too large."""
    if _traits(game)[0] or not solvers.is_enumerable(
        game, max_information_states=_LARGEST_WALK, max_nodes=_LARGEST_WALK
    ):
        return -math.inf, math.inf
    least, greatest = math.inf, -math.inf
    level: Iterable[State] = [Game(game).new_initial_state()]
    while level:
        following: dict[str, State] = {}
        for state in level:
            if state.is_terminal():
                least, greatest = min(least, *state.returns()), max(greatest, *state.returns())
            for action in state.legal_actions():
                child = state.child(action)
                following[str(child)] = child  # positions that several histories lead to are walked once
        level = list(following.values())
    return least, greatest
