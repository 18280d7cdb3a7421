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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyspiel

from selfplay_fast import arguments, games
from selfplay_fast.integrations._game_facts import action_words, bounds, facts, position_key
from selfplay_fast.policies.streams import derive_seed


class PlayerAction(NamedTuple):
    """Who did what, as ``pyspiel.PlayerAction`` says it."""

    player: int
    action: int


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

    def max_chance_outcomes(self) -> int:
        """One more than the highest number of an outcome, in 64 random games."""
        return facts(repr(self)).outcomes

    def max_chance_nodes_in_history(self) -> int:
        """The most moves of nature in one game: exact for small games, else a bound."""
        return bounds(repr(self)).draws

    def max_history_length(self) -> int:
        """The most entries of a history, nature's and each player's counted."""
        turns = self.max_game_length() * (self.num_players() if self._about.simultaneous else 1)
        return turns + self.max_chance_nodes_in_history()

    def max_move_number(self) -> int:
        """The same, a move of all players at once counted once."""
        return self.max_game_length() + self.max_chance_nodes_in_history()

    def min_utility(self) -> float:
        """The least return of any player: exact for small games, else minus infinity, which is a bound too."""
        return bounds(repr(self)).least

    def max_utility(self) -> float:
        """The greatest return of any player: exact for small games, else infinity."""
        return bounds(repr(self)).greatest

    def utility_sum(self) -> float | None:
        """What the returns add up to: 0, or None where they need not add up."""
        return 0.0 if self._about.zero_sum else None

    def to_string(self) -> str:
        """The name with all options."""
        return repr(self)

    def action_to_string(self, player: int, action: int) -> str:
        """An action in words, whatever the state; by its number if it was never legal in 64 random games."""
        number = arguments.whole("action", action)
        if player == games.CHANCE:
            return f"outcome {number}"
        return action_words(repr(self)).get((player, number), f"action {number}")

    def get_parameters(self) -> dict[str, int | str]:
        """The options."""
        return dict(self._about.options)

    def observation_tensor_shape(self) -> list[int]:
        """ValueError if the game has none."""
        return list(games.make(repr(self), 1).observation_tensor(player=0).shape[1:])

    def observation_tensor_size(self) -> int:
        """ValueError if the game has none."""
        return math.prod(self.observation_tensor_shape())

    def observation_tensor_layout(self) -> pyspiel.TensorLayout:
        """Planes, rows, columns, where there are planes."""
        return pyspiel.TensorLayout.CHW

    def information_state_tensor_shape(self) -> list[int]:
        """ValueError: no game has one."""
        raise _no_information_state_tensor(self)

    def information_state_tensor_size(self) -> int:
        """ValueError: no game has one."""
        raise _no_information_state_tensor(self)

    def get_type(self) -> pyspiel.GameType:
        """OpenSpiel's description of what kind of game this is."""
        kind = pyspiel.GameType
        about, seen = self._about, facts(repr(self))
        return kind(
            short_name=about.name,
            long_name=about.name.replace("_", " ").title(),
            dynamics=kind.Dynamics.SIMULTANEOUS if seen.simultaneous else kind.Dynamics.SEQUENTIAL,
            chance_mode=kind.ChanceMode.DETERMINISTIC
            if not seen.chance
            else kind.ChanceMode.SAMPLED_STOCHASTIC
            if seen.simultaneous
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
            provides_observation_tensor=seen.tensor,
        )


class State:
    """What ``pyspiel.State`` answers."""

    def __init__(self, game: Game, batch: games.Batch, deal: int | None = None) -> None:
        self._game = game
        self._batch = batch
        self._deal = deal  # where nature is sampled

    def __str__(self) -> str:
        """What all players know together; it tells states apart as far as it matters for what follows."""
        return position_key(self._batch)

    def to_string(self) -> str:
        """The same as ``str``."""
        return str(self)

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

    def is_initial_non_chance_state(self) -> bool:
        """Has no player moved yet, and is one to?"""
        return not self.is_chance_node() and all(done.player < 0 for done in self.full_history())

    def get_type(self) -> pyspiel.StateType:
        """Chance, decision or terminal."""
        kind = pyspiel.StateType
        return (
            kind.CHANCE if self.is_chance_node() else kind.TERMINAL if self.is_terminal() else kind.DECISION
        )

    def legal_actions(self, player: int | None = None) -> list[int]:
        """What ``player`` may do, by default who is to move; empty for one who is not."""
        mover = self.current_player()
        if mover == games.CHANCE:
            wanted = player in (None, games.CHANCE)
            return [action for action, _ in self._batch.chance_outcomes(0)] if wanted else []
        if mover == games.SIMULTANEOUS and player is not None:
            return np.flatnonzero(self._batch.legal_actions[0, self._observer(player)]).tolist()
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

    def apply_action_with_legality_check(self, action: int) -> None:
        """The same as `apply_action`, which checks too."""
        self.apply_action(action)

    def apply_actions_with_legality_checks(self, actions: Sequence[int]) -> None:
        """The same as `apply_actions`, which checks too."""
        self.apply_actions(actions)

    def resample_from_infostate(self, player: int, rng: Callable[[], float]) -> State:
        """A state that ``player`` cannot tell from this one, drawn by nature's probabilities.

        rng: gives random numbers of at least 0 and less than 1, of which one is taken. ValueError where nature is
        sampled.
        """
        if self._deal is not None:
            raise ValueError(f"{self._game!r}: nature is sampled here, no state can be drawn anew")
        return State(self._game, self._batch.resample([0], self._observer(player), int(rng() * 2**53)))

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
        """What ``player``, by default who is to move, reads; after the end what is new since its last turn."""
        observer = self._observer(player)
        if self.is_terminal():
            return "\n".join(self._batch.messages_since(0, observer))
        return self._batch.observation(player=observer)[0]

    def observation_tensor(self, player: int | None = None) -> list[float]:
        """What ``player``, by default who is to move, sees, flat; ValueError if the game has no tensor."""
        return self._batch.observation_tensor(player=self._observer(player))[0].ravel().tolist()

    def information_state_tensor(self, player: int | None = None) -> list[float]:
        """ValueError: no game has one; `information_state_string` says the same."""
        raise _no_information_state_tensor(self._game)

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

    def full_history(self) -> list[PlayerAction]:
        """The same with who acted; a move of all at once is one entry per player."""
        if self._deal is not None:
            return [PlayerAction(k % self.num_players(), action) for k, action in enumerate(self.history())]
        past, done = self._game.new_initial_state(), []
        for action in self.history():
            done.append(PlayerAction(past.current_player(), action))
            past.apply_action(action)
        return done

    def history_str(self) -> str:
        """The same as text."""
        return ", ".join(map(str, self.history()))

    def move_number(self) -> int:
        return len(self.history())

    def serialize(self) -> str:
        """The history, for `Game.deserialize_state`."""
        per_line = 1 if self._deal is None else self.num_players()
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


def _full_name(about: games.Description) -> str:
    options = ",".join(f"{name}={value}" for name, value in about.options.items())
    return f"{about.name}({options})"


def _no_information_state_tensor(game: Game) -> ValueError:
    return ValueError(f"{game!r}: has no information state tensor, use information_state_string")
