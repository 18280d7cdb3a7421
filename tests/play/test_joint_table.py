"""A table of joint games. Oracles: the engine replayed one game at a time, and what the docstrings promise."""

import numpy as np
import pytest

from selfplay_fast import games
from selfplay_fast.evaluate import episode_metrics, evaluate_policy
from selfplay_fast.play import GameTable, InvalidRewards, play, play_games, self_play
from selfplay_fast.play.scheduler import mean_turns
from selfplay_fast.policies.nano import random_play_texts
from selfplay_fast.policies.simple import RandomPolicy, ScriptedPolicy
from selfplay_fast.records import Sampling

NAME = "snake(width=7, height=6)"


class Asked(RandomPolicy):
    """Keeps (role, episode, turn) of every call."""

    def __init__(self):
        self.calls = []

    def generate(self, asks):
        self.calls.append([(ask.role, ask.key.episode, ask.key.turn) for ask in asks])
        return super().generate(asks)


def test_both_players_are_asked_before_anything_is_played():
    """Oracle: contract. Each call holds every running game twice, once per player, with keys of their own."""
    policy = Asked()
    episodes = play(self_play(policy), [GameTable(NAME, episodes=20, seed=3)])
    running = set(range(20))
    for tick, call in enumerate(policy.calls):
        expected = {(f"player_{p}", e, 2 * tick + p) for e in running for p in (0, 1)}
        assert set(call) == expected
        assert len(call) == len(expected)
        running -= {e.index for e in episodes if len(e.turns) == 2 * tick + 2}
    assert not running


def test_recorded_games_replay():
    """Oracle: a fresh batch of the same seed. Actions give the same observations, texts and returns."""
    episodes = play(self_play(RandomPolicy()), [GameTable(NAME, episodes=30, seed=11, repeat=3)])
    batch = games.make(NAME, 30, seed=11)
    batch.reset(repeat=3)
    for episode in episodes:
        row = episode.index
        for first, second in zip(episode.turns[::2], episode.turns[1::2], strict=True):
            for player, turn in enumerate((first, second)):
                assert turn.ask.role == f"player_{player}"
                assert turn.ask.append == [{"role": "user", "content": batch.observation([row], player)[0]}]
                assert turn.action_text == batch.action_text(row, turn.action, player)
            batch.step([[first.action, second.action]], rows=[row])
        assert batch.terminated[row]
        assert list(episode.returns.values()) == batch.returns[row].tolist()
        rewards = {role: [t.reward for t in episode.turns if t.ask.role == role] for role in episode.returns}
        for role, final in episode.returns.items():
            assert rewards[role] == [0.0] * (len(rewards[role]) - 1) + [final]
    results = {tuple(episode.returns.values()) for episode in episodes}
    assert {(1.0, -1.0), (-1.0, 1.0)} <= results


@pytest.mark.parametrize("offenders", [(0,), (1,), (0, 1)])
def test_garbage_ends_the_game(offenders):
    """Oracle: contract. Whoever cannot be read is punished, also both; nothing of that step is played."""

    def reply(ask, _):
        bad = ask.seat.player in offenders and ask.key.turn >= 2
        return "sideways" if bad else ask.seat.batch.reply_text(ask.seat.row, 0, ask.seat.player)

    table = GameTable(NAME, episodes=40, seed=5, invalid=InvalidRewards(offender=-2.0, others=0.25))
    long = [e for e in play(self_play(ScriptedPolicy(reply)), [table]) if len(e.turns) > 2]
    assert len(long) > 5
    for episode in long:
        assert len(episode.turns) == 4
        last = episode.turns[2:]
        assert [turn.refusal is None for turn in last] == [p not in offenders for p in (0, 1)]
        assert [turn.action for turn in last] == [None if p in offenders else 0 for p in (0, 1)]
        assert list(episode.returns.values()) == [-2.0 if p in offenders else 0.25 for p in (0, 1)]
        assert [turn.reward for turn in last] == list(episode.returns.values())


def test_turn_limit_counts_single_turns():
    """Oracle: contract. A game that reaches max_turns ends with 0 for both."""
    around = {0: 0, 1: 3, 2: 1, 3: 2}

    def circle(ask, _):
        return ask.seat.batch.reply_text(ask.seat.row, around[ask.key.turn // 2 % 4], ask.seat.player)

    episodes = play(self_play(ScriptedPolicy(circle)), [GameTable(NAME, episodes=60, seed=1, max_turns=6)])
    cut = [e for e in episodes if len(e.turns) == 6]
    assert cut
    assert max(len(e.turns) for e in episodes) == 6
    assert any(list(e.returns.values()) == [0.0, 0.0] for e in cut)


def test_the_rest_of_the_machinery_plays_it():
    """Oracle: contract. Mixed tables, the nano model's texts, evaluation and turn counts know joint games."""
    episodes = play_games(self_play(RandomPolicy()), games=["snake", "tic_tac_toe"], episodes=12, seed=2)
    assert [e.game for e in episodes] == ["snake"] * 6 + ["tic_tac_toe"] * 6
    played = play_games(self_play(RandomPolicy()), games=["snake"], episodes=400, seed=3)
    mean = np.mean([len(e.turns) for e in played])
    assert abs(mean - mean_turns("snake")) < 1
    observations, replies = random_play_texts(["snake"], episodes=8, seed=0)
    assert len(observations) == len(replies) >= 16
    assert {text.count("You are snake 1.") for text in observations} == {0, 1}
    sampling = Sampling(max_tokens=8)
    metrics = evaluate_policy(RandomPolicy(), ["snake"], episodes=20, seed=0, sampling=sampling)
    assert episode_metrics(played)["snake/legal_rate"] == 1.0
    assert abs(metrics["snake/score_vs_random"]) < 0.6
