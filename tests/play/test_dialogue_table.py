"""Oracle: the same protocol run alone, one ask at a time, with the same scripted policy."""

import hashlib
import sys

import pytest

from selfplay_fast.play import DialogueTable, Outcome, play, play_dialogues, self_play
from selfplay_fast.policies import ScriptedPolicy
from selfplay_fast.records import Ask


def say(ask, sample):
    """A reply that depends on all that a reply may depend on."""
    return hashlib.sha256(f"{ask.role}|{ask.append}|{ask.key}|{sample}".encode()).hexdigest()[:8]


class Counting(ScriptedPolicy):
    def __init__(self):
        super().__init__(say)
        self.calls, self.asked = 0, 0

    def generate(self, asks):
        self.calls += 1
        self.asked += len(asks)
        return super().generate(asks)


def protocol(item):
    """Attack, three votes at once, two samples of a defence; odd items end after the attack."""
    attack = yield Ask(role="attacker", append=f"attack {item}")
    if item % 2:
        return Outcome(returns={"attacker": 0.0, "defender": 0.0})
    votes = yield [Ask(role="judge", append=f"{attack.text} {i}") for i in range(3)]
    nothing = yield []
    assert nothing == []
    defences = yield Ask(role="defender", append=votes[1].text, n=2)
    score = float(defences[0].text < defences[1].text)
    return Outcome(returns={"attacker": -score, "defender": score}, rewards={4: score}, kept={"item": item})


def test_many_at_once_equal_one_at_a_time():
    """Texts, returns, rewards and order of 200 interleaved dialogues equal those of 200 tables of one."""
    policy = Counting()
    together = play(self_play(policy), [DialogueTable(protocol, range(200), seed=3)])
    assert policy.calls == 3
    assert policy.asked == 200 + 100 * 3 + 100
    assert [episode.index for episode in together] == list(range(200))
    for item, episode in enumerate(together):
        assert len(episode.turns) == (1 if item % 2 else 6)
        attack = episode.turns[0]
        assert attack.reply.text == say(attack.ask, 0)
        if item % 2 == 0:
            judges = [turn for turn in episode.turns if turn.ask.role == "judge"]
            assert [turn.ask.append for turn in judges] == [f"{attack.reply.text} {i}" for i in range(3)]
            assert len({turn.ask.key for turn in episode.turns}) == 5  # the two samples share an ask
            defences = [turn.reply.text for turn in episode.turns[-2:]]
            assert episode.returns["defender"] == float(defences[0] < defences[1])
            assert episode.turns[4].reward == episode.returns["defender"]
            assert episode.kept == {"item": item}


def test_two_tables_share_the_batch():
    """The asks of several tables go to the policy in one call per round."""
    policy = Counting()
    tables = [DialogueTable(protocol, range(10), seed=seed) for seed in (1, 2)]
    episodes = play(self_play(policy), tables)
    assert policy.calls == 3
    assert [(e.seed, e.index) for e in episodes] == [(s, i) for s in (1, 2) for i in range(10)]


def test_cast_gives_each_role_its_policy():
    """Oracle: counts per policy; a missing role is a ValueError naming it."""
    attacker, others = Counting(), Counting()
    play(
        {"attacker": attacker, "judge": others, "defender": others}, [DialogueTable(protocol, [0, 2], seed=0)]
    )
    assert (attacker.asked, others.asked) == (2, 8)
    with pytest.raises(ValueError, match="judge"):
        play({"attacker": attacker}, [DialogueTable(protocol, [0], seed=0)])


def returns_nothing(item):
    yield Ask(role="a", append="")


def yields_text(item):
    yield "hello"


def yields_nothing(item):
    yield None


def no_generator(item):
    return Outcome(returns={})


def one_message(item):
    yield Ask(role="judge", append={"role": "user", "content": "?"})


def no_content(item):
    yield Ask(role="judge", append=[{"role": "user"}])


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (returns_nothing, "'returns_nothing', item 0: must return an Outcome, got NoneType"),
        (yields_text, "'yields_text', item 0: must yield an Ask or a sequence of Asks, got str"),
        (yields_nothing, "'yields_nothing', item 0: must yield an Ask .*, got NoneType"),
        (no_generator, "'no_generator', item 0: must be a generator.*, got Outcome"),
        (one_message, "item 0, role 'judge': append must be a list of messages .*, got dict"),
        (no_content, "item 0, role 'judge': append must be a list of messages"),
    ],
)
def test_a_protocol_must_yield_asks_and_return_an_outcome(wrong, problem):
    """Oracle: the documented TypeErrors, which name protocol, item and role."""
    with pytest.raises(TypeError, match=problem):
        play(self_play(Counting()), [DialogueTable(wrong, [0], seed=0)])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since Python 3.11")
def test_an_exception_says_in_which_dialogue_it_was_raised():
    """Oracle: the only one of 64 items that divides by zero."""

    def divides(item):
        yield Ask(role="a", append="?")
        return Outcome(returns={"a": 1 / item})

    with pytest.raises(ZeroDivisionError) as caught:
        play(self_play(Counting()), [DialogueTable(divides, [*range(1, 41), 0, *range(1, 24)], seed=0)])
    assert caught.value.__notes__ == ["in protocol 'divides', item 40"]


@pytest.mark.parametrize("parts", [2, 3])
def test_shares_of_dialogues_are_the_whole(parts):
    """Oracle: all of them played together: the same episodes with the same draws, whoever plays which."""

    def protocol(item):
        reply = yield Ask(role="a", append=[{"role": "user", "content": item}])
        return Outcome(returns={"a": float(len(reply.text))})

    policy = ScriptedPolicy(lambda ask, sample: f"{ask.append[0]['content']} {ask.key}")
    items = [f"item {i}" for i in range(7)]
    whole = play_dialogues({"a": policy}, protocol, items, seed=3)
    shares = [
        play_dialogues({"a": policy}, protocol, items, seed=3, share=(part, parts)) for part in range(parts)
    ]
    dealt = sorted((episode for share in shares for episode in share), key=lambda episode: episode.index)
    assert [e.turns[0].reply.text for e in dealt] == [e.turns[0].reply.text for e in whole]
    assert [e.index for e in whole] == list(range(7))
