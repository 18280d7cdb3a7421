"""TextArena, both ways.

Oracles: the installed textarena, one environment at a time in a plain loop; and for our games under its calls the
engine. The tests hold for TextArena 0.6 and 0.7; what differs is said where it does.
"""

from __future__ import annotations

import hashlib
import random
import re
from importlib import metadata
from typing import Any

import numpy as np
import pytest

from selfplay_fast import games
from selfplay_fast.integrations.textarena import TextArenaGame, TextArenaTable
from selfplay_fast.play import InvalidRewards, play, self_play
from selfplay_fast.policies import ScriptedPolicy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode, Reply, Sampling

pytest.importorskip("textarena", exc_type=ImportError, reason="comes with the extra 'test'")
import textarena
from textarena.envs.registration import ENV_REGISTRY
from textarena.wrappers.ObservationWrappers.llm_observation_wrapper import (
    FirstLastObservationWrapper,
    LLMObservationWrapper,
)

OLD = metadata.version("textarena").startswith("0.6")
ENVS = [
    name if name in ENV_REGISTRY and OLD else f"{name}-raw"
    for name in (
        "TicTacToe-v0",
        "KuhnPoker-v0",
        "SimpleNegotiation-v0",
        "PigDice-v0-short" if OLD else "PigDice-v0",
        "ConnectFour-v0",
        "LiarsDice-v0",
        "TruthAndDeception-v0",
        "Snake-v0",
    )
]
TIC_TAC_TOE, KUHN = ENVS[:2]


def say(observation: str, salt: object = "") -> str:
    """One of the bracketed words of the observation, or a number or a message, by its hash; one in 20 is garbage."""
    draw = random.Random(hashlib.sha256(f"{observation}|{salt}".encode()).hexdigest())
    words = sorted(set(re.findall(r"\[[\w: ]+\]", observation[-600:])))
    words += [
        f"[{draw.randrange(9)}]",
        f"[{draw.randrange(9)}]",
        f"[bid: {draw.randrange(1, 4)}, 3]",
        "[call]",
    ]
    words += [
        "[roll]",
        "[hold]",
        "[up]",
        "[left]",
        "[Offer: 1 Wood -> 1 Sheep]",
        "[Accept]",
        "[Fact 1]",
        "Hm.",
    ]
    return "no idea" if draw.random() < 0.05 else draw.choice(words)


POLICY = ScriptedPolicy(lambda ask, sample: say(ask.prompt_text))


def transcript(episode: Episode) -> list[Any]:
    """Who read what, what was said, and what it was worth."""
    return [[(t.ask.role, t.ask.prompt_text, t.reply.text) for t in episode.turns], dict(episode.returns)]


def alone(env_id: str, wrap: Any, seed: int, max_turns: int = 60) -> list[Any]:
    """A game in a plain loop, from the same start of the global random streams."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what environments draw from
    env = wrap(textarena.make(env_id))
    env.reset(num_players=2, seed=seed % 2**32)
    turns: list[Any] = []
    messages: dict[int, list[str]] = {0: [], 1: []}
    done = False
    while not done and len(turns) < max_turns:
        player, observation = env.get_observation()
        if not isinstance(observation, str):
            messages[player] += [message[1] for message in observation]
            observation = "\n\n".join(messages[player])
        reply = say(observation)
        turns.append((f"player_{player}", observation, reply))
        done, _ = env.step(action=reply)
    rewards = env.close() if done else {}
    rewards = rewards[0] if isinstance(rewards, tuple) else rewards
    return [turns, {f"player_{p}": float(rewards.get(p, 0)) for p in range(2)}]


@pytest.mark.parametrize("wrapper", ["llm", "first_last", "raw"])
@pytest.mark.parametrize("env_id", ENVS)
def test_many_at_once_are_textarenas_own_games(env_id: str, wrapper: Any) -> None:
    """Oracle: textarena in a plain loop. Twelve interleaved games read, to the letter, and pay what each does alone;
    the caller's random streams are where they were."""
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    table = TextArenaTable(env_id, episodes=12, seed=5, wrapper=wrapper, max_turns=60)
    episodes = play(self_play(POLICY), [table])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    wrappers = {"llm": LLMObservationWrapper, "first_last": FirstLastObservationWrapper}
    wrap = wrappers.get(wrapper, lambda env: env)
    for episode in episodes:
        assert transcript(episode) == alone(env_id, wrap, derive_seed(5, episode.index))
        assert episode.game == env_id
        for role, final in episode.returns.items():
            rewards = [turn.reward for turn in episode.turns if turn.ask.role == role]
            assert rewards == [0.0] * (len(rewards) - 1) + [final] if rewards else True
    refused = any(turn.refusal for e in episodes for turn in e.turns)
    assert refused or not env_id.startswith(("TicTacToe", "ConnectFour"))


def test_a_seed_reproduces_an_episode_whatever_else_is_played() -> None:
    """Oracle: the same table alone. Other environments at other tables and draws in between change nothing; another
    seed does, and the episodes of a group start alike."""

    class Noisy(ScriptedPolicy):
        def generate(self, asks):
            random.random()
            np.random.rand()  # noqa: NPY002
            return super().generate(asks)

    def tables(seed: int = 1, repeat: int = 1) -> TextArenaTable:
        return TextArenaTable(KUHN, episodes=8, seed=seed, wrapper="llm", repeat=repeat)

    lone = [transcript(e) for e in play(self_play(POLICY), [tables()])]
    other = TextArenaTable(ENVS[3], episodes=5, seed=1, wrapper="llm")
    noisy = Noisy(lambda ask, sample: say(ask.prompt_text))
    assert [transcript(e) for e in play(self_play(noisy), [other, tables()])][5:] == lone
    assert [transcript(e) for e in play(self_play(POLICY), [tables(seed=2)])] != lone
    grouped = play(self_play(POLICY), [tables(repeat=4)])
    assert [e.group for e in grouped] == [0] * 4 + [1] * 4
    openings = [e.turns[0].ask.prompt_text for e in grouped]
    assert transcript(grouped[0]) == transcript(grouped[3])
    assert len(set(openings)) <= 2


def test_spirals_table() -> None:
    """Oracle: SPIRAL's rewards. What its parser refuses ends the game at -1.5 / 0.5, what only the environment
    refuses at TextArena's own rewards, at once; the prompt is put around the observation."""

    def table(parse: Any) -> TextArenaTable:
        return TextArenaTable(
            TIC_TAC_TOE,
            episodes=3,
            seed=0,
            wrapper="first_last",
            parse=parse,
            error_allowance=0,
            prompt=lambda observation: f"Think.\n{observation}",
        )

    (first, *_) = play(self_play(ScriptedPolicy(lambda *_: "I [4] do")), [table("spiral")])
    assert dict(first.returns) == {"player_0": -1.5, "player_1": 0.5}
    assert (first.turns[0].refusal, first.turns[0].action_text) == ("not exactly an action", None)
    assert first.turns[0].ask.prompt_text.startswith("Think.\n")
    assert first.turns[0].ask.append[0]["content"].endswith("Next Action:")
    twice = ScriptedPolicy(lambda ask, sample: "[4]")
    (second, *_) = play(self_play(twice), [table(None)])
    assert len(second.turns) == 2
    assert dict(second.returns) == {"player_0": 0.0 if OLD else 1.0, "player_1": -1.0}
    assert second.turns[0].refusal is None
    assert "occupied" in second.turns[1].refusal
    assert second.kept["reason"] == second.turns[1].refusal
    lenient = table(lambda observation, reply: None)
    lenient.invalid = InvalidRewards(offender=-9, others=9)
    assert dict(play(self_play(twice), [lenient])[0].returns) == {"player_0": -9.0, "player_1": 9.0}


class Newer(textarena.Env):
    """An environment with 0.7's close, three players, which stumbles over one word and refuses another."""

    def reset(self, num_players: int, seed: int | None = None) -> None:
        assert num_players == 3, "three players"
        self.state: Any = type("State", (), {"current_player_id": 0, "error_count": 0})()
        self.heard: list[str] = [f"welcome {random.randrange(10**9)}"]

    def get_observation(self) -> Any:
        if self.heard == ["blind"]:
            raise KeyError("no text")
        return self.state.current_player_id, [(-1, text, "kind") for text in self.heard]

    def step(self, action: str) -> Any:
        if action == "boom":
            raise KeyError("boom")
        if action == "wrong" and self.state.error_count == 0:
            self.state.error_count += 1
            return False, {}
        self.heard = [action]
        self.state.error_count = 0
        self.state.current_player_id += 1
        return self.state.current_player_id == 3 or action == "wrong", {}

    def close(self) -> Any:
        last = self.state.current_player_id - 1
        rewards = {0: 0.5, 2: -0.5}
        return rewards, {
            p: {"invalid_move": self.heard == ["wrong"] and p == last, "reason": "r"} for p in range(3)
        }


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> str:
    """Its id."""
    monkeypatch.delitem(ENV_REGISTRY, "Newer-v0", raising=False)
    textarena.register("Newer-v0", Newer)
    monkeypatch.setitem(ENV_REGISTRY, "Newer-v0", ENV_REGISTRY["Newer-v0"])
    return "Newer-v0"


def test_the_newer_interface(newer: str) -> None:
    """Oracle: contract. close may give (rewards, game_info); players without a reward get 0; an environment that
    stumbles over a reply costs only its own game; a refused reply may be tried again."""

    def run(*replies: str) -> Episode:
        lines = {key: iter(replies) for key in range(2)}
        talk = ScriptedPolicy(lambda ask, sample: next(lines[ask.key.episode]))
        table = TextArenaTable(newer, episodes=2, seed=1, num_players=3)
        return play(self_play(talk), [table])[0]

    good = run("a", "wrong", "b", "c")
    assert dict(good.returns) == {"player_0": 0.5, "player_1": 0.0, "player_2": -0.5}
    assert [t.refusal for t in good.turns] == [None, "refused, may be tried again", None, None]
    assert [t.ask.role for t in good.turns] == ["player_0", "player_1", "player_1", "player_2"]
    assert good.kept == {"reason": "r"}
    failed = run("a", "boom")
    assert dict(failed.returns) == {"player_0": 0.5, "player_1": -1.5, "player_2": 0.5}
    assert failed.turns[1].refusal == "the environment failed on it: KeyError: 'boom'"
    beaten = run("a", "wrong", "wrong")
    assert beaten.turns[2].refusal == "r"


def test_an_environment_that_cannot_be_read(newer: str) -> None:
    """Oracle: contract. An exception in get_observation ends its own game with 0 for all and the reason; the others are
    played to their end, and so it is when all fail at once."""
    table = TextArenaTable(newer, episodes=4, seed=1, num_players=3)
    talk = ScriptedPolicy(lambda ask, sample: "blind" if ask.key.episode in (1, 3) else "a")
    episodes = play(self_play(talk), [table])
    assert [len(e.turns) for e in episodes] == [3, 1, 3, 1]
    for episode in (episodes[1], episodes[3]):
        assert dict(episode.returns) == {"player_0": 0.0, "player_1": 0.0, "player_2": 0.0}
        assert episode.kept == {"reason": "KeyError: 'no text'"}
    assert dict(episodes[2].returns) == {"player_0": 0.5, "player_1": 0.0, "player_2": -0.5}
    table = TextArenaTable(newer, episodes=2, seed=1, num_players=3)
    both = play(self_play(ScriptedPolicy(lambda *_: "blind")), [table])
    assert [len(e.turns) for e in both] == [1, 1]


def test_forfeits_and_limits() -> None:
    """Oracle: contract. A reply that never came or never ends thinking is refused; a cut game is worth nothing."""

    class Silent(ScriptedPolicy):
        def generate(self, asks):
            return [Reply(text="", finish_reason="forfeit") for _ in asks]

    table = TextArenaTable(TIC_TAC_TOE, episodes=2, seed=0, wrapper="llm")
    for episode in play(self_play(Silent(lambda *_: "")), [table]):
        assert [turn.refusal for turn in episode.turns] == ["no reply"]
        assert dict(episode.returns) == {"player_0": -1.5, "player_1": 0.5}

    class Thinking(ScriptedPolicy):
        def generate(self, asks):
            texts = ["<think>[5]</think>[4]" if ask.key.turn == 0 else "<think>[5]" for ask in asks]
            return [
                Reply(text=text, hidden=text.rfind(">") + 1 if "/" in text else 10, unclosed="/" not in text)
                for text in texts
            ]

    table = TextArenaTable(TIC_TAC_TOE, episodes=2, seed=0, wrapper="llm")
    for episode in play(self_play(Thinking(lambda *_: "")), [table]):
        assert [turn.refusal for turn in episode.turns] == [None, "the reasoning does not end"]
        assert episode.turns[0].action_text == "[4]"
        assert "think" not in episode.turns[1].ask.prompt_text
    cut = TextArenaTable(ENVS[3], episodes=2, seed=0, wrapper="llm", max_turns=3)
    for episode in play(self_play(ScriptedPolicy(lambda *_: "[roll]")), [cut]):
        assert len(episode.turns) == 3
        assert set(episode.returns.values()) == {0.0}


def test_a_language_model_sits_down(toy_policy: Any) -> None:
    """Oracle: contract. Several messages are one prompt; the tokens of every turn are there to be trained on."""
    table = TextArenaTable(
        TIC_TAC_TOE, episodes=2, seed=0, wrapper="raw", max_turns=2, sampling=Sampling(max_tokens=3)
    )
    for episode in play(self_play(toy_policy), [table]):
        for turn in episode.turns:
            assert len(turn.ask.append) >= 2
            assert 0 < len(turn.reply.tokens) <= 4
            assert len(turn.reply.logprobs) == len(turn.reply.tokens)


def test_wrong_arguments() -> None:
    """Oracle: one line that names what is wrong."""
    with pytest.raises(ValueError, match="did you mean 'KuhnPoker-v0"):
        TextArenaTable("KuhnPocker-v0", episodes=1, seed=0)
    with pytest.raises(ValueError, match="wrapper must be"):
        TextArenaTable(TIC_TAC_TOE, episodes=1, seed=0, wrapper="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="episodes: must be at least 1"):
        TextArenaTable(TIC_TAC_TOE, episodes=0, seed=0)
    with pytest.raises(ValueError, match="repeat: must divide"):
        TextArenaTable(TIC_TAC_TOE, episodes=3, seed=0, repeat=2)
    with pytest.raises(ValueError, match="max_turns"):
        TextArenaTable(TIC_TAC_TOE, episodes=1, seed=0, max_turns=0)
    with pytest.raises(ValueError, match="num_players=16 is not possible"):
        TextArenaTable(ENVS[5], episodes=1, seed=0, num_players=16)


# ---- our games under TextArena's calls ----


class Scripted(textarena.Agent):
    """An agent as TextArena's scripts use one."""

    def __call__(self, observation: str) -> str:
        return say(observation)


@pytest.mark.parametrize("game", [*games.names(), "kuhn_poker(rounds=5)"])
def test_a_textarena_script_runs(game: str) -> None:
    """Oracle: the engine. The loop of TextArena's examples, agents included: each observation is the engine's, each
    accepted reply its action, and the rewards its returns."""
    agents = {0: Scripted(), 1: Scripted()}
    finished = 0
    for seed in range(20):
        env: Any = TextArenaGame(game, api="0.6", error_allowance=100)
        batch = games.make(game, 1)
        env.reset(num_players=len(agents), seed=seed)
        batch.reset(seeds=[seed])
        done, tries, moves = False, 0, []
        while not done:
            player_id, observation = env.get_observation()
            joint = batch.description.simultaneous
            assert player_id == (len(moves) if joint else batch.current_player[0])
            assert observation.startswith(batch.observation(player=player_id)[0])
            tries += 1
            action = agents[player_id](f"{observation}{tries}")
            done, info = env.step(action=action)
            (number,), (why,) = batch.parse([action], player=player_id)
            if why is None:
                moves.append(int(number))
                if not joint or len(moves) == 2:
                    batch.step([moves] if joint else moves, texts=[action])
                    moves = []
            elif not done:
                assert why in env.get_observation()[1]
            assert (info == {}) == (not done)
        rewards = env.close()
        if batch.terminated[0]:
            finished += 1
            assert list(rewards.values()) == batch.returns[0].tolist()
            assert list(rewards) == [0, 1]
    assert finished == 20


def test_errors_count_as_in_textarena() -> None:
    """Oracle: textarena's rules: as many refused replies in a row as allowed, then the offender loses 1 and the
    others get 0 (0.6) or 1 (0.7); a legal reply forgives the earlier ones."""
    for api, others in (("0.6", 0), ("0.7", 1)):
        env: Any = TextArenaGame("tic_tac_toe", api=api, error_allowance=2)
        env.reset(num_players=2, seed=0)
        said = ["[9]", "?", "[4]", "[4]", "nothing", "[4]"]
        done = [env.step(line)[0] for line in said]
        assert done == [False] * 5 + [True]
        rewards = env.close()
        if api == "0.7":
            rewards, info = rewards
            assert [info[p]["invalid_move"] for p in (0, 1)] == [False, True]
            assert info[1]["reason"].startswith("Invalid Move: '4' is not allowed now")
        assert rewards == {0: others, 1: -1}
        with pytest.raises(ValueError, match="no game is running"):
            env.step("[0]")
        env.reset()
        assert env.step("[0]") == (False, {})
        assert TextArenaGame("tic_tac_toe").api == ("0.6" if OLD else "0.7")


def test_seeds_deal() -> None:
    """Oracle: the engine. A seed is its deal; without one the next game begins."""
    env = TextArenaGame("kuhn_poker", seed=1)
    batch = games.make("kuhn_poker", 1)
    seen = []
    for seed in (3, 4, 3):
        env.reset(2, seed)
        batch.reset(seeds=[seed])
        seen.append(env.get_observation()[1])
        assert seen[-1] == batch.observation()[0]
    assert seen[0] == seen[2]
    cards = set()
    for _ in range(20):
        env.reset()
        cards.add(env.get_observation()[1])
    assert len(cards) == 3


def test_games_without_a_seed_differ() -> None:
    """Oracle: the engine, and chance. One environment per episode, as TextArena's scripts make them, deals anew each
    time; with a seed the first game is the engine's first, the second its second."""
    seen = set()
    for _ in range(60):
        fresh = TextArenaGame("kuhn_poker")
        fresh.reset(num_players=2)
        seen.add(fresh.get_observation()[1])
    assert len(seen) == 3, "all equal once in 3**59 runs, one card missing once in 10**10"
    for seed in range(20):
        env, batch = TextArenaGame("liars_dice", seed=seed), games.make("liars_dice", 1, seed=seed)
        for _ in range(3):
            env.reset(2)
            assert env.get_observation()[1] == batch.observation()[0]
            batch.reset()


def test_textarenas_wrappers_take_raw_messages() -> None:
    """Oracle: textarena's LLM wrapper: it strings our messages together, each with its tag, none twice."""
    inner = TextArenaGame("kuhn_poker(rounds=5)", observations="messages")
    inner.state = type("State", (), {"role_mapping": {}})()  # type: ignore[attr-defined]
    env = LLMObservationWrapper(inner)
    env.reset(num_players=2, seed=1)
    batch = games.make("kuhn_poker(rounds=5)", 1)
    batch.reset(seeds=[1])
    heard = {0: "", 1: ""}
    done = False
    while not done:
        player_id, observation = env.get_observation()
        heard[player_id] += "".join(f"\n[GAME] {text}" for text in batch.messages_since(0, player_id))
        assert observation == heard[player_id]
        batch.step([0])
        done, _ = env.step("check")
    assert batch.terminated[0]


def test_wrong_arguments_of_a_game() -> None:
    """Oracle: one line that names what is wrong."""
    with pytest.raises(ValueError, match="did you mean 'kuhn_poker'"):
        TextArenaGame("kuhn")
    with pytest.raises(ValueError, match="chance: the environment decides"):
        TextArenaGame("kuhn_poker", chance="explicit")
    with pytest.raises(ValueError, match="api must be"):
        TextArenaGame("kuhn_poker", api="1.0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="observations must be"):
        TextArenaGame("kuhn_poker", observations="board")  # type: ignore[arg-type]
    env = TextArenaGame("kuhn_poker")
    with pytest.raises(ValueError, match="no game is running"):
        env.get_observation()
    with pytest.raises(ValueError, match="has 2 players, got 3"):
        env.reset(num_players=3)
    with pytest.raises(TypeError, match=r"^seed must be a whole number, got 1.7$"):
        env.reset(seed=1.7)  # type: ignore[arg-type]
    env.reset(num_players=2)
    assert (env.close() if OLD else env.close()[0]) is None
