"""TextArena, both ways: its environments at our tables, our games under its calls.

    table = TextArenaTable("KuhnPoker-v0", episodes=128, seed=0, wrapper="llm")
    episodes = play.play(play.self_play(policy), [table])

    env = TextArenaGame("kuhn_poker")
    env.reset(num_players=2, seed=0)
    player_id, observation = env.get_observation()
    done, info = env.step(action="[bet]")

Works with TextArena 0.6 (which SPIRAL trained on) and 0.7.
"""

from __future__ import annotations

import contextlib
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any, Literal

import numpy as np

from selfplay_fast import arguments as check
from selfplay_fast import games
from selfplay_fast.config import nearest
from selfplay_fast.integrations import _spiral_replies
from selfplay_fast.integrations._batches import make_batch
from selfplay_fast.play import InvalidRewards
from selfplay_fast.play.outstanding import Outstanding
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask, Episode, Key, Reply, Sampling, Turn, rewarded

Wrapper = Literal["llm", "first_last", "raw"] | Callable[[Any], Any]


class TextArenaTable:
    """``episodes`` environments of one kind, each turn a fresh conversation with TextArena's own observation.

    wrapper: how TextArena words an observation. ``"llm"``: all messages so far, each with its sender; ``"first_last"``:
        the first and the newest; ``"raw"``: all messages so far as they are, one chat message each; a function that
        wraps an environment; None: as ``textarena.make`` gives it. SPIRAL shows boards (TicTacToe, ConnectFour, Snake,
        Nim, SimpleTak) with ``"first_last"`` and everything else with ``"llm"``.
    prompt: what is put around an observation, such as the shell a checkpoint was trained with.
    parse: None hands replies on as they are; ``"spiral"`` reads them as SPIRAL's published parser does; a function of
        (observation, reply) gives what the environment is told, or None for a refused reply.
    invalid: the returns when ``parse`` refuses a reply, which ends the game; what the environment itself refuses is
        left to its own rewards and its ``error_allowance`` (SPIRAL: 0; None: the environment's own).
    What is parsed or handed on is the public part of a reply; reasoning that does not end is a refused reply.
    max_turns: a game that reaches it ends with 0 for all; None leaves it to the environment. So does a game whose
        environment fails to say what is to be read.
    repeat: this many episodes in a row have equal random streams and form a group.

    TextArena draws from the global random streams. Here every environment has its own, so that an episode is a
    function of the seed and the replies, and the caller's streams are left alone. Roles are "player_0", "player_1", ….
    """

    def __init__(
        self,
        env_id: str,
        *,
        episodes: int,
        seed: int,
        num_players: int = 2,
        wrapper: Wrapper | None = None,
        prompt: Callable[[str], str] | None = None,
        parse: Literal["spiral"] | Callable[[str, str], str | None] | None = None,
        invalid: InvalidRewards | None = None,
        error_allowance: int | None = None,
        max_turns: int | None = None,
        repeat: int = 1,
        sampling: Sampling | None = None,
        **arguments: Any,
    ) -> None:
        if episodes < 1:
            raise ValueError(f"episodes: must be at least 1, got {episodes}")
        if repeat < 1 or episodes % repeat:
            raise ValueError(f"repeat: must divide episodes={episodes}, got {repeat}")
        if max_turns is not None and max_turns < 1:
            raise ValueError(f"max_turns: must be at least 1, got {max_turns}")
        self.env_id = env_id
        self.seed = seed
        self.prompt = prompt
        self.parse = _spiral_replies.reader_for(env_id) if parse == "spiral" else parse
        self.invalid = invalid or InvalidRewards()
        self.max_turns = max_turns
        self.repeat = repeat
        self.sampling = sampling or Sampling()
        self.arguments = arguments
        self._running = {
            index: _Seated(
                env_id, arguments, num_players, derive_seed(seed, index // repeat), wrapper, error_allowance
            )
            for index in range(episodes)
        }
        self._turns: list[list[Turn]] = [[] for _ in range(episodes)]
        self._observed: dict[int, str] = {}  # by those who have been asked
        self._outstanding = Outstanding()
        self._finished: list[Episode] = []

    def asks(self) -> Sequence[Ask]:
        """One ask per running environment, for the player to move, each once."""
        asks = []
        for index, seated in list(self._running.items()):
            if index in self._observed:
                continue
            seen = seated.observe()
            if seen is None:
                self._finish(index, seated, dict.fromkeys(seated.roles(), 0.0))
            else:
                ask, self._observed[index] = self._ask(index, *seen)
                asks.append(ask)
        return self._outstanding.add(asks)

    def answer(self, replies: Sequence[Reply], asks: Sequence[Ask] | None = None) -> None:
        """Hand environments their replies."""
        for ask, (reply,) in self._outstanding.take(replies, asks):
            index = ask.key.episode
            seated, observation = self._running[index], self._observed.pop(index)
            said: str | None = reply.public
            refusal = reply.failure
            if refusal is not None:
                said = None
            elif self.parse is not None:
                said = self.parse(observation, reply.public)
                refusal = "not exactly an action" if said is None else None
            if said is not None:
                refusal = seated.step(said)
            turn = Turn(ask=ask, reply=reply, action_text=said if refusal is None else None, refusal=refusal)
            self._turns[index].append(turn)
            roles = seated.roles()
            if said is None or seated.failed:
                self._finish(index, seated, self.invalid.returns(roles, {ask.role}))
            elif seated.done:
                self._finish(index, seated, seated.returns())
            elif self.max_turns is not None and len(self._turns[index]) >= self.max_turns:
                self._finish(index, seated, dict.fromkeys(roles, 0.0))

    def finished(self) -> Sequence[Episode]:
        """Episodes that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def _ask(self, index: int, player: int, texts: list[str]) -> tuple[Ask, str]:
        observation = "\n\n".join(texts)
        if self.prompt is not None:
            texts = [self.prompt(observation)]
        ask = Ask(
            role=f"player_{player}",
            append=[{"role": "user", "content": text} for text in texts],
            key=Key(self.seed, index, len(self._turns[index])),
            sampling=self.sampling,
        )
        return ask, observation

    def _finish(self, index: int, seated: _Seated, returns: dict[str, float]) -> None:
        del self._running[index]
        self._finished.append(
            Episode(
                game=self.env_id,
                index=index,
                seed=self.seed,
                group=index // self.repeat,
                turns=rewarded(self._turns[index], returns),
                returns=returns,
                options=self.arguments,
                kept={} if seated.reason is None else {"reason": seated.reason},
            )
        )


class _Seated:
    """One environment with its own random streams."""

    def __init__(
        self,
        env_id: str,
        arguments: dict[str, Any],
        num_players: int,
        seed: int,
        wrapper: Wrapper | None,
        error_allowance: int | None,
    ) -> None:
        self.num_players = num_players
        self.done = self.failed = False
        self.reason: str | None = None
        self._raw: dict[int, list[str]] = {}
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed % 2**32).get_state()
        with self._own_streams():
            self.env = _wrapped(_made(env_id, arguments), wrapper)
            try:
                self.env.reset(num_players=num_players, seed=seed % 2**32)
            except AssertionError as error:  # how TextArena says that it wants another number of players
                raise ValueError(f"{env_id}: num_players={num_players} is not possible: {error}") from None
            if error_allowance is not None:
                self.env.state.error_allowance = error_allowance

    def roles(self) -> list[str]:
        return [f"player_{player}" for player in range(self.num_players)]

    def observe(self) -> tuple[int, list[str]] | None:
        """Who is to move, and what it reads: one text, or all raw messages so far; None if the environment fails."""
        with self._own_streams():
            try:
                return self._read()
            except Exception as error:  # must not end the other environments
                self._fail(error)
                return None

    def _read(self) -> tuple[int, list[str]]:
        player, observation = self.env.get_observation()
        if isinstance(observation, str):
            return player, [observation]
        messages = self._raw.setdefault(player, [])
        messages += [message[1] for message in observation]  # (sender, text), in 0.7 with a kind
        return player, list(messages)

    def step(self, said: str) -> str | None:
        """Let the player to move say this; why it was refused, if it was."""
        before = self._errors()
        offender = self.env.state.current_player_id
        with self._own_streams():
            try:
                self.done, info = self.env.step(action=said)
            except Exception as error:  # must not end the other environments
                self._fail(error)
                return f"the environment failed on it: {self.reason}"
        if not self.done:
            return "refused, may be tried again" if self._errors() > before else None
        self.reason = info.get("reason")
        game_info = self._closed()[1].get(offender, {})
        if self.reason is None:
            self.reason = game_info.get("reason")
        invalid = game_info.get("invalid_move", str(self.reason).startswith("Invalid Move"))
        return str(self.reason) if invalid else None

    def returns(self) -> dict[str, float]:
        """The rewards by role; whoever is not named gets 0."""
        rewards = self._closed()[0] or {}
        return {f"player_{p}": float(rewards.get(p, 0.0)) for p in range(self.num_players)}

    def _fail(self, error: Exception) -> None:
        self.failed, self.reason = True, f"{type(error).__name__}: {error}"

    def _closed(self) -> tuple[dict[int, float] | None, dict[int, dict[str, Any]]]:
        """Rewards and, from 0.7 on, what the game says about every player."""
        with self._own_streams():
            closed = self.env.close()
        return closed if isinstance(closed, tuple) else (closed, {})

    def _errors(self) -> int:
        return int(getattr(self.env.state, "error_count", 0))  # not every kind of state counts them

    @contextlib.contextmanager
    def _own_streams(self) -> Iterator[None]:
        outer = random.getstate(), np.random.get_state()  # noqa: NPY002 - what environments draw from
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
            random.setstate(outer[0])
            np.random.set_state(outer[1])  # noqa: NPY002


def _made(env_id: str, arguments: dict[str, Any]) -> Any:
    import textarena
    from textarena.envs.registration import ENV_REGISTRY

    if env_id not in ENV_REGISTRY:
        raise ValueError(f"unknown TextArena environment {env_id!r}{nearest(env_id, list(ENV_REGISTRY))}")
    return textarena.make(env_id, **arguments)


def _wrapped(env: Any, wrapper: Wrapper | None) -> Any:
    from textarena.wrappers.ObservationWrappers import llm_observation_wrapper as wrappers

    if wrapper == "llm":
        return wrappers.LLMObservationWrapper(env)
    if wrapper == "first_last":
        return wrappers.FirstLastObservationWrapper(env)
    if wrapper is None or wrapper == "raw":
        return env
    if not callable(wrapper):
        raise ValueError(f"wrapper must be llm, first_last, raw, None or a function, got {wrapper!r}")
    return wrapper(env)


class TextArenaGame:
    """One of our games under TextArena's calls: reset, get_observation, step, close.

    Where all players move at once, they are asked one after the other and their replies are played together.

    api: ``"0.6"``: close gives the rewards, and after a reply that ends the game as invalid the others get 0;
        ``"0.7"``: close gives (rewards, game_info), and the others get 1. None: that of the installed TextArena.
    error_allowance: how many refused replies in a row a player may correct before it loses.
    observations: ``"text"``: the complete observation as a string, as scripts with a wrapped environment expect;
        ``"messages"``: what is new for the player as TextArena's raw messages, for TextArena's wrappers.
    seed: of the games that are reset without a seed of their own; None: another one for every environment.
    arguments: the game's options and those of `games.make`, such as ``style``.
    """

    def __init__(
        self,
        game: str,
        *,
        seed: int | None = None,
        api: Literal["0.6", "0.7"] | None = None,
        error_allowance: int = 1,
        observations: Literal["text", "messages"] = "text",
        **arguments: Any,
    ) -> None:
        if api not in (None, "0.6", "0.7"):
            raise ValueError(f"api must be 0.6, 0.7 or None, got {api!r}")
        if observations not in ("text", "messages"):
            raise ValueError(f"observations must be text or messages, got {observations!r}")
        self.api = api or _installed_api()
        self.error_allowance = error_allowance
        self.observations = observations
        self._batch = make_batch(game, 1, secrets.randbits(63) if seed is None else seed, arguments)
        self._begun = False  # until then the first game of the batch is not in use
        self._errors = 0
        self._notice: str | None = None
        self._blamed: int | None = None
        self._reason = ""
        self._moves: list[int] = []  # of those who have chosen already, where all move at once

    def reset(self, num_players: int | None = None, seed: int | None = None) -> None:
        """Begin a new game: the one of the seed, or the environment's next."""
        players = self._batch.description.num_players
        if num_players not in (None, players):
            raise ValueError(f"num_players: {self._batch.name} has {players} players, got {num_players}")
        if seed is not None:
            self._batch.reset(seeds=[check.seed_bits("seed", seed)])
        elif self._begun:
            self._batch.reset()
        self._begun, self._errors, self._notice, self._blamed, self._reason = True, 0, None, None, ""
        self._moves = []

    def get_observation(self) -> tuple[int, Any]:
        """(player to move, what it reads). After a refused reply, why it was refused stands at the end."""
        self._must_run()
        player = self._mover()
        if self.observations == "text":
            text = self._batch.observation(player=player)[0]
            return player, text if self._notice is None else f"{text}\n{self._notice}"
        news = self._batch.messages_since(0, player) if self._notice is None else [self._notice]
        return player, [self._message(text) for text in news]

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        """(is the game over, info) after a reply of the player to move."""
        self._must_run()
        player = self._mover()
        (number,), (refusal,) = self._batch.parse([action], player=player)
        if refusal is None:
            self._errors, self._notice = 0, None
            self._moves.append(int(number))
            about = self._batch.description
            if about.simultaneous and len(self._moves) < about.num_players:
                return False, {}
            self._batch.step([self._moves] if about.simultaneous else self._moves, texts=[action])
            self._moves = []
            if not self._batch.terminated[0]:
                return False, {}
            self._reason = "The game was played to its end."
        elif self._errors < self.error_allowance:
            self._errors += 1
            self._notice = f"Your last reply is no move: {refusal}. Try again."
            return False, {}
        else:
            self._blamed = player
            self._reason = f"Invalid Move: {refusal}"
        return True, {"reason": self._reason}

    def _mover(self) -> int:
        current = int(self._batch.current_player[0])
        return len(self._moves) if current == games.SIMULTANEOUS else current

    def close(self) -> Any:
        """The rewards by player (None while the game goes on); from API 0.7 on with information by player."""
        rewards = self._rewards()
        if self.api == "0.6":
            return rewards
        players = range(self._batch.description.num_players)
        return rewards, {
            p: {"role": f"Player {p}", "invalid_move": p == self._blamed, "reason": self._reason}
            for p in players
        }

    def _rewards(self) -> dict[int, float] | None:
        players = range(self._batch.description.num_players)
        if self._blamed is not None:
            return {p: -1 if p == self._blamed else int(self.api == "0.7") for p in players}
        if not self._batch.terminated[0]:
            return None
        values = self._batch.returns[0].tolist()
        return {p: int(value) if value.is_integer() else value for p, value in enumerate(values)}

    def _must_run(self) -> None:
        if not self._begun or self._blamed is not None or self._batch.terminated[0]:
            raise ValueError(f"{self._batch.name}: no game is running; call reset")

    def _message(self, text: str) -> tuple[Any, ...]:
        if self.api == "0.6":
            return -1, text
        from textarena import ObservationType

        return -1, text, ObservationType.GAME_MESSAGE


def _installed_api() -> Literal["0.6", "0.7"]:
    try:
        version = metadata.version("textarena")
    except metadata.PackageNotFoundError:
        return "0.7"
    major, minor = (int(part) for part in version.split(".")[:2])
    return "0.6" if (major, minor) < (0, 7) else "0.7"
