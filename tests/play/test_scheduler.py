"""The scheduler: who is asked when. Oracles: scripted streams that note it, and whole runs done twice."""

import numpy as np
import pytest

from selfplay_fast.play import DialogueTable, GameTable, Outcome, play, play_games, self_play
from selfplay_fast.play.outstanding import Outstanding
from selfplay_fast.policies import ScriptedPolicy
from selfplay_fast.records import Ask, Key, Reply, Sampling


class Slow:
    """A stream that answers each ask after as many steps as its text says."""

    def __init__(self, log, name):
        self.log, self.name, self.left = log, name, {}

    @property
    def pending(self):
        return len(self.left)

    def submit(self, asks):
        self.log += [(self.name, ask.append) for ask in asks]
        self.left |= {ask: int(ask.append) for ask in asks}

    def step(self):
        self.left = {ask: count - 1 for ask, count in self.left.items()}
        over = [ask for ask, count in self.left.items() if count <= 0]
        for ask in over:
            del self.left[ask]
        return [(ask, [Reply(text=ask.append)] * ask.n) for ask in over]


class SlowPolicy:
    def __init__(self, log, name="stream"):
        self.log, self.name = log, name

    def stream(self):
        return Slow(self.log, self.name)

    def generate(self, asks):
        raise AssertionError("a policy with a stream is not asked in rounds")

    def score(self, asks):
        raise AssertionError("nothing to score")


def counts(numbers):
    """One role says these numbers one after the other."""
    for number in numbers:
        reply = yield Ask(role="a", append=str(number), key=Key(0, 0, 0))
        assert reply.text == str(number)
    return Outcome(returns={"a": sum(numbers)})


def test_who_is_done_asks_again_while_others_speak():
    """Oracle: the order of submissions, by hand: the second dialogue says all three while the first speaks once."""
    log = []
    table = DialogueTable(counts, [[9, 1], [2, 3, 1]], seed=0)
    episodes = play(self_play(SlowPolicy(log)), [table])
    assert [text for _, text in log] == ["9", "2", "3", "1", "1"]
    assert [episode.returns["a"] for episode in episodes] == [10, 6]


def test_rounds_wait_until_streams_are_silent():
    """Oracle: the order by hand: what comes for the policy without a stream is put to it in one call."""
    log = []

    def calls(asks):
        log.append(("round", [ask.append for ask in asks]))
        return [Reply(text="ok") for _ in asks]

    def both(number):
        yield Ask(role="a", append=str(number), key=Key(0, 0, 0))
        yield Ask(role="b", append=f"b{number}", key=Key(0, 0, 0))
        return Outcome(returns={})

    rounds = ScriptedPolicy(lambda ask, sample: "")
    rounds.generate = calls
    play({"a": SlowPolicy(log), "b": rounds}, [DialogueTable(both, [3, 1, 2], seed=0)])
    assert log == [("stream", "3"), ("stream", "1"), ("stream", "2"), ("round", ["b1", "b2", "b3"])]


def test_several_asks_are_sent_on_together():
    """A dialogue with several questions goes on when it has all replies. Oracle: their order, whoever was faster."""

    def asks(_):
        replies = yield [
            Ask(role="a", append=text, key=Key(0, 0, 0), n=n) for text, n in (("3", 1), ("1", 2), ("2", 1))
        ]
        assert [reply.text for reply in (replies[0], *replies[1], replies[2])] == ["3", "1", "1", "2"]
        return Outcome(returns={"a": len(replies)})

    (episode,) = play(self_play(SlowPolicy([])), [DialogueTable(asks, [None], seed=0)])
    assert [turn.reply.text for turn in episode.turns] == ["3", "1", "1", "2"]


def test_games_take_replies_one_by_one():
    """Oracle: the same games answered all at once; for a joint game, too, in which both must have spoken."""
    for name in ("kuhn_poker", "snake"):
        whole, single = (GameTable(name, episodes=5, seed=3, max_turns=20) for _ in range(2))
        generator = np.random.default_rng(0)

        def reply(ask):
            batch, row, player = ask.seat
            legal = batch.legal_actions[row]
            legal = np.flatnonzero(legal[player] if legal.ndim > 1 else legal)
            key = ask.key
            return Reply(
                text=batch.reply_text(row, int(legal[(key.episode * 7 + key.turn * 3) % len(legal)]), player)
            )

        while asks := whole.asks():
            whole.answer([reply(ask) for ask in asks])
        waiting = list(single.asks())
        while waiting:
            ask = waiting.pop(int(generator.integers(len(waiting))))
            single.answer([reply(ask)], [ask])
            waiting += single.asks()
        one, other = (sorted(table.finished(), key=lambda e: e.index) for table in (whole, single))
        assert len(one) == 5
        for a, b in zip(one, other, strict=True):
            assert a.returns == b.returns
            assert [t.reply.text for t in a.turns] == [t.reply.text for t in b.turns]
            assert [t.action for t in a.turns] == [t.action for t in b.turns]


def test_a_run_is_the_same_twice(toy_policy):
    """Oracle: the run itself, from scratch: tokens and log-probs bit for bit, with replies of uneven length."""
    toy_policy.end_tokens = frozenset(range(0, 300, 23))

    def run():
        toy_policy.forget()
        return play_games(
            self_play(toy_policy),
            games=["kuhn_poker", "tic_tac_toe"],
            episodes=12,
            seed=1,
            sampling=Sampling(max_tokens=40),
        )

    lengths = set()
    for a, b in zip(run(), run(), strict=True):
        assert a.returns == b.returns
        for one, other in zip(a.turns, b.turns, strict=True):
            assert one.reply.tokens.tobytes() == other.reply.tokens.tobytes()
            assert one.reply.logprobs.tobytes() == other.reply.logprobs.tobytes()
            lengths.add(len(one.reply.tokens))
    assert len(lengths) > 3


def test_replies_must_belong_to_asks():
    """Oracle: the contract; a wrong call is refused and changes nothing."""
    outstanding = Outstanding()
    asks = outstanding.add([Ask(role="a", append="?", key=Key(0, i, 0)) for i in range(2)])
    with pytest.raises(ValueError, match="2 are pending, got 1"):
        outstanding.take([Reply(text="")])
    stranger = Ask(role="a", append="?", key=Key(0, 2, 0))
    with pytest.raises(ValueError, match="not waiting"):
        outstanding.take([Reply(text="")] * 2, [asks[0], stranger])
    with pytest.raises(ValueError, match="named 2 times"):
        outstanding.take([Reply(text="")] * 2, [asks[0], asks[0]])
    assert [ask for ask, _ in outstanding.take([Reply(text="")], [asks[1]])] == [asks[1]]
    assert [ask for ask, _ in outstanding.take([Reply(text="")])] == [asks[0]]
