"""PettingZoo environments.

Oracles: PettingZoo's own tests, and the engine played directly. Games that move all players at once are stood for by
one in plain Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from selfplay_fast import games

pytest.importorskip("pettingzoo", reason="comes with the extra 'test'")
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test
from pettingzoo.utils import parallel_to_aec
from pettingzoo.utils.wrappers import TerminateIllegalWrapper

from selfplay_fast.integrations import pettingzoo

GAMES = [*games.names(), "kuhn_poker(rounds=5)", "negotiation(resources=5)"]
# What PettingZoo's test says of every environment whose observation is a dictionary with a mask, its own card and
# board games excepted by name; and of what an agent whose game is over may do and, in some games, see.
DICTIONARIES = pytest.mark.filterwarnings(
    "ignore:Observation is not a NumPy array",
    "ignore:Observation space for each agent probably should be",
    "ignore:Action mask numpy array is all zeros",
    "ignore:Observation numpy array is all zeros",
)


def turn_games() -> list[str]:
    """All games in which one player moves at a time."""
    return [game for game in GAMES if games.make(game, 1).current_player[0] >= 0]


@DICTIONARIES
@pytest.mark.parametrize("observations", [None, "text"])
@pytest.mark.parametrize("game", turn_games())
def test_pettingzoo_is_content(game: str, observations: Any) -> None:
    """Oracle: PettingZoo's api_test and seed_test, for the default observation and for text."""
    api_test(pettingzoo.env(game, observations=observations), num_cycles=50)
    seed_test(lambda: pettingzoo.env(game, observations=observations), num_cycles=50)


@pytest.mark.parametrize("observations", [None, "text"])
@pytest.mark.parametrize("game", turn_games())
def test_the_engine_agrees(game: str, observations: Any) -> None:
    """Oracle: the engine. The same actions in a batch of the same seed: player to move, what every player sees, at the
    end too, mask, returns; rewards of a game add up to its returns. Games after the first are the batch's next ones."""
    env = pettingzoo.env(game, observations=observations)
    batch = games.make(game, 1, seed=8)
    rng = np.random.default_rng(1)
    for number in range(15):
        env.reset(seed=8 if number == 0 else None)
        if number:
            batch.reset()
        total = dict.fromkeys(env.possible_agents, 0.0)
        for agent in env.agent_iter():
            observation, reward, terminated, truncated, info = env.last()
            total[agent] += reward
            assert (truncated, info) == (False, {})
            assert terminated == batch.terminated[0]
            for player, other in enumerate(env.possible_agents):
                seen = env.observe(other)
                if "text" in seen:
                    now = batch.observation(player=player)
                    assert seen["text"] == "\n".join(batch.messages_since(0, player) if terminated else now)
                else:
                    np.testing.assert_array_equal(
                        seen["observation"], batch.observation_tensor(player=player)[0]
                    )
            if terminated:
                assert not observation["action_mask"].any()
                env.step(None)
                continue
            assert agent == f"player_{batch.current_player[0]}"
            assert observation["action_mask"].tolist() == batch.legal_actions[0].tolist()
            if "text" in observation:
                assert observation["text"] == batch.observation()[0]
            else:
                np.testing.assert_array_equal(observation["observation"], batch.observation_tensor()[0])
            action = int(rng.choice(np.flatnonzero(observation["action_mask"])))
            batch.step([action])
            env.step(action)
        assert list(total.values()) == batch.returns[0].tolist()


def test_who_is_not_to_move() -> None:
    """Oracle: contract. No action; the game as it is now, the own move included, or after the end the new words."""
    env = pettingzoo.env("kuhn_poker")
    env.reset(seed=1)
    assert env.observe("player_1")["observation"][1] == 1, "it knows who it is"
    assert not env.observe("player_1")["action_mask"].any()
    first = env.observe("player_0")["observation"]
    env.step(1)
    assert (env.observe("player_0")["observation"] != first).any(), "its chip is in the pot"
    talking = pettingzoo.env("kuhn_poker", observations="text")
    talking.reset(seed=1)
    assert "You are player 1" in talking.observe("player_1")["text"]
    talking.step(1)
    assert talking.observe("player_0")["text"].endswith("Actions so far: bet.")
    talking.step(0)
    assert talking.observe("player_0")["text"] == "Player 1: [fold]"
    with pytest.raises(ValueError, match="player_7"):
        env.observe("player_7")


def test_replies_in_words() -> None:
    """Oracle: the engine's reader. A reply plays its action, its words are heard, a refused one changes nothing."""
    env = pettingzoo.env("negotiation", observations="text", render_mode="ansi")
    env.reset(seed=1)
    env.step(r"\boxed{Nice goods. [offer: 2 Wood -> 1 Gold]}")
    heard = env.last()[0]["text"]
    assert "offer: 2 Wood -> 1 Gold" in heard
    assert "Nice goods." in heard
    assert env.render() == heard
    with pytest.raises(ValueError, match="negotiation_v0: the offer cannot be read"):
        env.step(r"\boxed{[offer: 2 gold coins -> 1 Wood]}")
    assert env.last()[0]["text"] == heard
    with pytest.raises(ValueError, match="must act"):
        env.step(None)


def test_illegal_actions() -> None:
    """Oracle: the engine's own error, after which the game goes on; PettingZoo's wrapper makes it a loss."""
    env = pettingzoo.env("tic_tac_toe")
    env.reset(seed=1)
    env.step(4)
    with pytest.raises(ValueError, match="tic_tac_toe: action 4 is illegal"):
        env.step(4)
    env.step(0)
    assert env.agent_selection == "player_0"
    wrapped = TerminateIllegalWrapper(pettingzoo.env("tic_tac_toe"), illegal_reward=-1)
    wrapped.reset(seed=1)
    wrapped.step(4)
    wrapped.step(4)
    rewards = {}
    for agent in wrapped.agent_iter():
        rewards[agent] = wrapped.last()[1]
        wrapped.step(None)
    assert rewards == {"player_0": 0.0, "player_1": -1.0}


def test_numbers_are_whole() -> None:
    """Oracle: operator.index. A float is a TypeError of one line that changes nothing, numpy's integers are numbers."""
    env = pettingzoo.env("tic_tac_toe")
    env.reset(seed=np.int64(1))
    for wrong in (3.9, np.float32(3), [3], None):
        with pytest.raises((TypeError, ValueError), match=r"action must be a whole number|must act"):
            env.step(wrong)
    assert env.observe("player_0")["action_mask"].all()
    env.step(np.int32(3))
    assert not env.observe("player_1")["action_mask"][3]
    with pytest.raises(TypeError, match=r"^seed must be a whole number, got 1.5$"):
        env.reset(seed=1.5)  # type: ignore[arg-type]
    together = pettingzoo.parallel_env("snake")
    together.reset(seed=1)
    with pytest.raises(TypeError, match=r"^action must be a whole number, got 1.5$"):
        together.step({"player_0": 0, "player_1": 1.5})  # type: ignore[dict-item]


def test_no_game_is_running() -> None:
    """Oracle: a ValueError of one line before the first reset and after the last agent has left."""

    def refused(env: Any, *moves: Any) -> None:
        for call in moves:
            with pytest.raises(ValueError, match=r"_v0: no game is running; call reset$"):
                call(env)

    calls = (lambda e: e.step(0), lambda e: e.last(), lambda e: e.observe("player_0"))
    env = pettingzoo.env("kuhn_poker")
    refused(env, *calls)
    env.reset(seed=1)
    for action in (1, 0, None, None):
        env.step(action)
    assert env.agents == []
    refused(env, *calls, lambda e: e.step(None))
    env.reset()
    assert env.last()[0]["action_mask"].all()
    together = pettingzoo.parallel_env("snake")
    refused(together, lambda e: e.step({"player_0": 0, "player_1": 0}))


def test_wrong_arguments() -> None:
    """Oracle: one line that names what is wrong and what would be right."""
    with pytest.raises(ValueError, match="use parallel_env"):
        pettingzoo.env("snake")
    with pytest.raises(ValueError, match="use env"):
        pettingzoo.parallel_env("kuhn_poker")
    with pytest.raises(ValueError, match="tensor or text, got 'pixels'"):
        pettingzoo.env("kuhn_poker", observations="pixels")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'kuhn_poker'"):
        pettingzoo.env("kuhn_pokr")
    with pytest.raises(ValueError, match="chance: the environment decides"):
        pettingzoo.env("kuhn_poker", chance="explicit")
    with pytest.raises(ValueError, match="render_mode"):
        pettingzoo.env("kuhn_poker", render_mode="rgb_array")


@DICTIONARIES
@pytest.mark.parametrize("observations", ["tensor", "text"])
def test_snake(observations: Any) -> None:
    """Oracle: PettingZoo's own tests, of AEC environments too after its own conversion, and the engine: the same moves,
    by number or in words, in a batch of the seed."""

    def make() -> pettingzoo.GameParallel:
        return pettingzoo.parallel_env("snake", observations=observations)

    parallel_api_test(make(), num_cycles=50)
    parallel_seed_test(make, num_cycles=50)
    env, batch = make(), games.make("snake", 1, seed=8)
    seen, _ = env.reset(seed=8)
    rng = np.random.default_rng(1)
    while env.agents:
        for player, agent in enumerate(env.agents):
            if observations == "text":
                assert seen[agent]["text"].endswith(batch.observation(player=player)[0][-60:])
            else:
                tensor = batch.observation_tensor(player=player)[0]
                np.testing.assert_array_equal(seen[agent]["observation"], tensor)
            assert seen[agent]["action_mask"].tolist() == [1, 1, 1, 1]
        moves = rng.integers(0, 4, 2)
        said = [int(moves[0]), ("up", "down", "left", "right")[moves[1]]]
        seen, rewards, terminated, _, _ = env.step(dict(zip(env.agents, said, strict=True)))
        batch.step([moves])
        assert set(terminated.values()) == {bool(batch.terminated[0])}
        assert list(rewards.values()) == batch.returns[0].tolist()
    assert batch.terminated[0]
    env.reset()
    with pytest.raises(ValueError, match="player_1"):
        env.step({"player_0": 1})
    aec = parallel_to_aec(make())
    aec.reset(seed=0)
    aec.step(1)
    assert aec.agent_selection == "player_1"
