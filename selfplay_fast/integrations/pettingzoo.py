"""PettingZoo environments of our games.

    env = pettingzoo.env("kuhn_poker")  # one player at a time: AEC
    env.reset(seed=1)
    for agent in env.agent_iter():
        observation, reward, terminated, truncated, info = env.last()
        env.step(None if terminated else env.action_space(agent).sample(observation["action_mask"]))

An observation is a dictionary: ``action_mask`` int8[A], and ``observation`` (the game's tensor, OpenSpiel's encoding
where it has one) or ``text`` (what the player may read). A reply in words may stand for an action.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

from selfplay_fast import arguments as check
from selfplay_fast import games
from selfplay_fast.integrations._batches import make_batch
from selfplay_fast.integrations._spaces import Observations, choose_observations, observation_space

Action = int | np.integer[Any] | str
Observation = dict[str, Any]


def env(game: str, *, observations: Observations | None = None, **arguments: Any) -> GameAEC:
    """The AEC environment of a game in which one player moves at a time.

    observations: ``"tensor"`` or ``"text"``; None for the tensor of a game that has one, else the text.
    arguments: the game's options and those of `games.make`, such as ``style``; ``render_mode`` "ansi" or "human".
    """
    return GameAEC(game, observations=observations, **arguments)


def parallel_env(game: str, *, observations: Observations | None = None, **arguments: Any) -> GameParallel:
    """The Parallel environment of a game in which all players move at once; arguments as for `env`."""
    return GameParallel(game, observations=observations, **arguments)


class _Game:
    """What both environments share: one game, its spaces, its seeds, its words."""

    def __init__(
        self,
        game: str,
        observations: Observations | None,
        render_mode: str | None,
        simultaneous: bool,
        arguments: Mapping[str, Any],
    ) -> None:
        if render_mode not in (None, "human", "ansi"):
            raise ValueError(f"render_mode must be human, ansi or None, got {render_mode!r}")
        self.render_mode = render_mode
        self._make = lambda seed: make_batch(game, 1, seed, arguments)
        self._batch = self._make(secrets.randbits(63))
        self._dealt = False  # is the first game of the batch in use?
        if (self._batch.current_player[0] == games.SIMULTANEOUS) != simultaneous:
            raise ValueError(
                f"{game}: players move one at a time; use env"
                if simultaneous
                else f"{game}: all players move at once; use parallel_env, or PettingZoo's parallel_to_aec of it"
            )
        about = self._batch.description
        self.metadata = {
            "name": f"{about.name}_v0",
            "render_modes": ["human", "ansi"],
            "is_parallelizable": simultaneous,
        }
        self.possible_agents = [f"player_{p}" for p in range(about.num_players)]
        self.agents: list[str] = []
        self._observations = choose_observations(self._batch, observations)
        self.observation_spaces = {agent: self._space() for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.Discrete(about.num_actions) for agent in self.possible_agents}

    def _space(self) -> spaces.Space[Any]:
        key = "observation" if self._observations == "tensor" else "text"
        mask = spaces.Box(0, 1, (self._batch.description.num_actions,), np.int8)
        return spaces.Dict({key: observation_space(self._batch, self._observations), "action_mask": mask})

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The space of what an agent observes; the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """The enumerable actions; a game may take richer ones beside them."""
        return self.action_spaces[agent]

    def _begin(self, seed: int | None) -> None:
        """A new game. With a seed, it and all that follow without one are a function of the seed."""
        if seed is not None:
            self._batch = self._make(seed)
        elif self._dealt:
            self._batch.reset()
        self._dealt = True
        self.agents = self.possible_agents[:]

    def _must_run(self) -> None:
        if not self.agents:
            raise ValueError(f"{self.metadata['name']}: no game is running; call reset")

    def _player(self, agent: str) -> int:
        if agent not in self.possible_agents:
            raise ValueError(f"{self.metadata['name']}: no agent {agent!r}; there are {self.possible_agents}")
        return self.possible_agents.index(agent)

    def render(self) -> str | None:
        """What the player to move reads (of several, the first); printed in mode human, returned in mode ansi."""
        text = self._words(max(int(self._batch.current_player[0]), 0))
        if self.render_mode == "human":
            print(text)
        return text if self.render_mode == "ansi" else None

    def _words(self, player: int) -> str:
        if self._batch.current_player[0] == player:
            return self._batch.observation()[0]
        return "\n".join(self._batch.messages_since(0, player))

    def close(self) -> None:
        """Nothing to close."""

    def _action(self, action: Action, player: int | None = None) -> int:
        """An action by number or in words; ValueError with the reason for words that are none."""
        if not isinstance(action, str):
            return check.whole("action", action)
        (number,), (refusal,) = self._batch.parse([action], player=player)
        if refusal is not None:
            raise ValueError(f"{self.metadata['name']}: {refusal}")
        return int(number)


class GameAEC(_Game, AECEnv[str, Observation, Action]):
    """One player moves at a time.

    An agent that is not to move has no legal actions; it sees the game as it is now, too. In words, it reads after the
    end what is new since its last turn. An illegal action is a ValueError and changes nothing; PettingZoo's
    TerminateIllegalWrapper makes it a loss.
    """

    def __init__(
        self,
        game: str,
        *,
        observations: Observations | None = None,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(game, observations, render_mode, False, arguments)
        self.agent_selection: str

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin a new game; without a seed the next one."""
        self._begin(seed)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self._turn()

    def last(self, observe: bool = True) -> tuple[Observation | None, float, bool, bool, dict[str, Any]]:
        """(observation, reward, terminated, truncated, info) of the agent to move."""
        self._must_run()
        return super().last(observe)

    def observe(self, agent: str) -> Observation:
        """What an agent sees now, see the class."""
        player = self._player(agent)
        self._must_run()
        moving = self._batch.current_player[0] == player
        legal = self._batch.legal_actions[0].astype(np.int8)
        mask = legal if moving else np.zeros_like(legal)
        if self._observations == "tensor":
            return {"observation": self._batch.observation_tensor(player=player)[0], "action_mask": mask}
        if self._batch.terminated[0]:
            return {"text": "\n".join(self._batch.messages_since(0, player)), "action_mask": mask}
        return {"text": self._batch.observation(player=player)[0], "action_mask": mask}

    def step(self, action: Action | None) -> None:
        """Play an action of the agent to move, or None for an agent whose game is over."""
        self._must_run()
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        if action is None:
            raise ValueError(f"{self.metadata['name']}: {agent} is to move and must act, got None")
        before = self._batch.returns[0].copy()
        self._batch.step([self._action(action)], texts=[action if isinstance(action, str) else ""])
        gained = self._batch.returns[0] - before
        self._cumulative_rewards[agent] = 0.0
        self.rewards = {a: float(gained[self._player(a)]) for a in self.agents}
        self._accumulate_rewards()
        if self._batch.terminated[0]:
            self.terminations = dict.fromkeys(self.agents, True)
            self.agent_selection = self.agents[0]
        else:
            self._turn()

    def _turn(self) -> None:
        self.agent_selection = self.possible_agents[int(self._batch.current_player[0])]


class GameParallel(_Game, ParallelEnv[str, Observation, Action]):
    """All players move at once; agents without a legal action may send any. All stay until the game is over."""

    def __init__(
        self,
        game: str,
        *,
        observations: Observations | None = None,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(game, observations, render_mode, True, arguments)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Begin a new game; without a seed the next one."""
        self._begin(seed)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, Action]
    ) -> tuple[
        dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]
    ]:
        """Play one action per agent."""
        self._must_run()
        if set(actions) != set(self.agents):
            raise ValueError(
                f"{self.metadata['name']}: actions must be those of {self.agents}, got {sorted(actions)}"
            )
        before = self._batch.returns[0].copy()
        moves = [self._action(actions[agent], self._player(agent)) for agent in self.agents]
        self._batch.step(np.array([moves]))
        gained = self._batch.returns[0] - before
        over = bool(self._batch.terminated[0])
        agents, seen = self.agents, self._observe()
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in agents}
        if over:
            self.agents = []
        rewards = {agent: float(gained[self._player(agent)]) for agent in agents}
        return seen, rewards, dict.fromkeys(agents, over), dict.fromkeys(agents, False), infos

    def _observe(self) -> dict[str, Observation]:
        masks = self._batch.legal_actions[0].astype(np.int8)
        if self._observations == "text":
            seen: list[Any] = [self._words(player) for player in range(len(masks))]
        else:
            seen = list(self._batch.observation_tensor()[0])
        key = "observation" if self._observations == "tensor" else "text"
        return {
            agent: {key: seen[self._player(agent)], "action_mask": masks[self._player(agent)]}
            for agent in self.agents
        }
