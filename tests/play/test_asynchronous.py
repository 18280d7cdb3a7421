"""`Rollouts`: whole episodes for one update after another, from games that go on.

Oracles: `play`, and the rules of the docstring counted by a policy that takes its time.
"""

import random
import threading
import time
from collections import Counter

import numpy as np
import pytest

from selfplay_fast.play import DialogueTable, Outcome, Rollouts, game_tables, play, self_play
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.records import Ask, Key, Reply, Sampling

WAVES, GAMES = 7, 6


class Slow:
    """Answers in an order of its own, some asks many steps late, with the version that it has when it answers."""

    def __init__(self, seed):
        self.random, self.version, self.busiest = random.Random(seed), 0, 0

    def generate(self, asks):
        raise AssertionError("it is asked as a stream")

    score = generate

    def stream(self):
        return SlowStream(self)


class SlowStream:
    def __init__(self, policy):
        self.policy, self.waiting = policy, []

    @property
    def pending(self):
        return len(self.waiting)

    def submit(self, asks):
        self.waiting += [[ask, self.policy.random.choice([1, 2, 40])] for ask in asks]
        self.policy.busiest = max(self.policy.busiest, self.pending)

    def step(self):
        for item in self.waiting:
            item[1] -= 1
        over = [ask for ask, left in self.waiting if left <= 0]
        self.waiting = [item for item in self.waiting if item[1] > 0]
        said = {"tokens": np.zeros(1, np.int32), "policy_version": self.policy.version}
        return [(ask, [Reply(text="x", **said)]) for ask in over]


def dialogues(wave):
    """Two tables; dialogues of one to four turns, which says which."""

    def protocol(item):
        for _ in range(1 + item % 4):
            yield Ask(role="a", append="?", key=Key(0, 0, 0))
        return Outcome(returns={"a": 1.0}, kept={"which": (wave, item)})

    return [
        DialogueTable(protocol, range(0, 4), seed=wave),
        DialogueTable(protocol, range(4, GAMES), seed=-wave),
    ]


def rollouts(policy, **options):
    settings = {"episodes": GAMES, "last": WAVES, "version": 0} | options
    return Rollouts(self_play(policy), dialogues, **settings)


def learned(policy, games, steps):
    """Collect and update, so many times: which episodes each step got, and their staleness."""
    which, staleness = [], []
    for _ in range(steps):
        which.append([episode.kept["which"] for episode in games.collect()])
        staleness.append(games.staleness)
        policy.version += 2  # an update may be several optimizer steps
        games.updated(policy.version)
    return which, staleness


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("bound", [0, 1, 3])
def test_every_game_is_learned_from_once_and_none_too_late(bound, beside):
    """Oracle: counted. Every game of every wave is handed out once; none is older than the bound, some are as old as
    that; whoever must not be late plays wave by wave, the others mix them."""
    oldest, mixed, busiest = 0, False, 0
    for seed in range(3):
        policy = Slow(seed)
        with rollouts(policy, max_staleness=bound, live=4 if bound else None, beside=beside) as games:
            which, staleness = learned(policy, games, WAVES)
            with pytest.raises(ValueError, match="all 7 waves"):
                games.collect()
        every = [game for step in which for game in step]
        assert Counter(every) == Counter((wave, k) for wave in range(1, WAVES + 1) for k in range(GAMES))
        assert all(len(step) == GAMES for step in which)
        oldest = max(oldest, *(max(step) for step in staleness))
        mixed |= any(len({wave for wave, _ in step}) > 1 for step in which)
        busiest = max(busiest, policy.busiest)
    assert oldest <= bound
    assert busiest <= (4 if bound else GAMES)
    if not beside:
        assert mixed == (oldest > 0) == (bound > 0)


def test_a_wave_at_a_time_is_play():
    """Oracle: `play` of each wave by itself, bit for bit, with a language model whose weights do not change."""
    policy = LanguageModel(*build_nano(["kuhn_poker"], seed=0))

    def tables(wave):
        sampling = Sampling(max_tokens=6)
        return game_tables(games=["kuhn_poker"], episodes=5, seed=wave, sampling=sampling, style="brief")

    with Rollouts(self_play(policy), tables, episodes=5, last=2) as games:
        for wave in (1, 2):
            episodes = games.collect()
            policy.forget()
            wanted = play(self_play(policy), tables(wave))
            policy.forget()
            games.updated(policy.version)
            assert games.staleness == [0] * 5
            for ours, theirs in zip(episodes, wanted, strict=True):
                assert (ours.seed, ours.index, ours.returns) == (theirs.seed, theirs.index, theirs.returns)
                for a, b in zip(ours.turns, theirs.turns, strict=True):
                    assert np.array_equal(a.reply.context, b.reply.context)
                    assert np.array_equal(a.reply.logprobs, b.reply.logprobs)


def test_what_was_under_way_begins_again():
    """Oracle: counted. A run that stops after three steps and another that goes on from its state learn from every
    game once, together."""
    policy = Slow(0)
    with rollouts(policy, max_staleness=2) as games:
        before, _ = learned(policy, games, 3)
        state = games.state()
    assert state["unfinished"]
    policy = Slow(1)
    with rollouts(policy, max_staleness=2, state=state) as games:
        after, staleness = learned(policy, games, WAVES - 3)
    every = Counter(game for step in before + after for game in step)
    assert every == Counter((wave, k) for wave in range(1, WAVES + 1) for k in range(GAMES))
    assert max(map(max, staleness)) <= 2


def test_games_go_on_while_the_caller_is_busy():
    """Oracle: the policy's own count of what it was asked. Of three waves, all that the bound allows, one is collected
    and all are played; and an error there is raised here."""
    asks_of_wave = sum(1 + item % 4 for item in range(GAMES))

    class Failing(Slow):
        def stream(self):
            stream = super().stream()
            submit = stream.submit

            def counting(asks):
                self.asked += len(asks)
                if self.asked > 60:
                    raise RuntimeError("the 60th")
                submit(asks)

            stream.submit = counting
            return stream

        asked = 0

    policy = Failing(0)
    with rollouts(policy, max_staleness=2, live=2, beside=True) as games:
        games.collect()
        deadline = time.monotonic() + 60
        while policy.asked < 3 * asks_of_wave:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        games.updated(1)
        with pytest.raises(RuntimeError, match="the 60th"):
            learned(policy, games, WAVES)
    assert not any(thread.name == "selfplay-fast rollouts" for thread in threading.enumerate())


@pytest.mark.parametrize("beside", [False, True])
def test_collecting_twice_without_learning_is_named(beside):
    """Oracle: the rule. Without an update nothing may be begun when nothing may be late."""
    with rollouts(Slow(0), beside=beside) as games:
        games.collect()
        with pytest.raises(ValueError, match=r"updated\(\)"):
            games.collect()


def test_an_error_beside_is_raised_at_every_call():
    """Oracle: the policy's error, as often as games are collected; a thread that does not run is named."""

    class Down:
        def generate(self, asks):
            raise ConnectionError("down")

        score = generate

    games = rollouts(Down(), beside=True)
    with pytest.raises(ValueError, match="inside `with"):
        games.collect()
    with games:
        for _ in range(3):
            with pytest.raises(ConnectionError, match="down"):
                games.collect()
    with rollouts(Slow(0), beside=True) as games:
        games.collect()
    with pytest.raises(ValueError, match="inside `with"):
        games.collect()


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"max_staleness": -1}, {"live": 0}])
def test_wrong_numbers_are_named(wrong):
    """Oracle: the argument's name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        rollouts(Slow(0), **wrong)
