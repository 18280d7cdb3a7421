"""Oracle: a sequential port of the published step (tests/oracles/self_redteam.py), and games counted by hand."""

import asyncio
import hashlib
import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from selfplay_fast.play import play
from selfplay_fast.play.attack_game import (
    Rules,
    Seed,
    attack_table,
    function_judge,
    mark_attacked,
    read_seeds,
    seeds_of_step,
)
from selfplay_fast.play.attack_prompts import AttackPrompts
from selfplay_fast.play.attack_rules import ATTACKER, DEFENDER, JUDGE, Labels
from selfplay_fast.policies.endpoint import Limits
from selfplay_fast.policies.openai_server import OpenAIServer
from selfplay_fast.records import Reply

ORACLE = Path(__file__).parents[1] / "oracles" / "self_redteam.py"
PROMPTS = AttackPrompts(judge=None, opening="")
RULES = Rules(prompts=PROMPTS)


def oracle():
    spec = importlib.util.spec_from_file_location("self_redteam_oracle", ORACLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(*parts):
    """A number in 0 … 2^32 - 1 that follows from the parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def said(role, game, prompt):
    """A reply in its form, or in one of several wrong ones."""
    n = drawn(role, game, prompt)
    answer = f"{role} {n % 97}"
    forms = [
        f"hm {n}</think><answer>{answer}</answer>",
        f"hm</think>\n<answer>{answer}</answer>",
        f"<think>hm</think><answer>{answer}</answer>",
        f"hm</think><answer>{answer}</answer> and more",
        f"hm {answer}",
        "</think><answer></answer>",
    ]
    return forms[n // 97 % len(forms)]


def labels_of(attack, answer):
    """Any labels, now and then none."""
    n = drawn(attack, answer)
    if n % 13 == 0:
        return None
    values = [True, False, None] if n % 7 == 0 else [True, False]
    return tuple(values[n // 8 ** (k + 1) % len(values)] for k in range(3))


def judge():
    return function_judge(lambda *texts: None if (found := labels_of(*texts)) is None else Labels(*found))


class Scripted:
    """Says ``said``, in so many tokens as the text is long; counts calls and notes what was asked when."""

    def __init__(self):
        self.rounds = []

    def generate(self, asks):
        self.rounds.append([(ask.role, ask.key.episode) for ask in asks])
        texts = [said(ask.role, ask.key.episode, ask.append[0]["content"]) for ask in asks]
        return [
            Reply(
                text=text,
                tokens=np.arange(len(text), dtype=np.int32),
                logprobs=logprobs_of(text),
                train_mask=np.ones(len(text), bool),
                context=np.arange(len(text) + 3, dtype=np.int32),
            )
            for text in texts
        ]


def logprobs_of(text):
    return -np.random.default_rng(drawn(text)).random(len(text)).astype(np.float32)


def seeds_of(count):
    seeds = [Seed(text=f"seed {i} {{attack}}", harmful=i % 2 == 0) for i in range(count)]
    return mark_attacked(seeds, 0.5, seed=0)


def test_trajectories_and_rewards_are_those_of_the_sequential_port():
    """Oracle: the port, one call after another: prompts, replies, forms, rewards and dropped games of 200 seeds."""
    seeds = seeds_of(200)
    port = oracle().Step(
        [(s.text, s.harmful, s.attacked) for s in seeds],
        lambda *ask: (said(*ask), []),
        labels_of,
        lambda text, harmful: PROMPTS.attacker_chat(text, harmful=harmful)[0]["content"],
        lambda attack: PROMPTS.defender_chat(attack)[0]["content"],
    )
    scripted = Scripted()
    cast = {ATTACKER: scripted, DEFENDER: scripted, JUDGE: judge()}
    episodes = play(cast, [attack_table(seeds, seed=5, rules=RULES)])
    dropped = Counter(e.kept["dropped"] for e in episodes if "dropped" in e.kept)
    assert dropped == port.dropped
    assert min(dropped.values()) > 3
    ours = {
        (turn.ask.role, e.index): (
            turn.ask.append[0]["content"],
            turn.reply.text,
            e.kept["said"][turn.ask.role].kept_form,
            turn.reward,
        )
        for e in episodes
        if "dropped" not in e.kept
        for turn in e.turns
        if turn.ask.role != JUDGE
    }
    assert ours == {(t.role, t.game): (t.prompt, t.text, t.well_formed, t.reward) for t in port.trajectories}
    assert len({t.reward for t in port.trajectories}) > 6
    for episode in episodes:
        if "dropped" not in episode.kept:
            assert sum(turn.reward for turn in episode.turns) == pytest.approx(sum(episode.returns.values()))
    assert port.calls == 200 + 100 + 200
    assert len(scripted.rounds) == 2


def test_seeds_as_they_are_start_at_once():
    """Oracle: by hand; the defender answers them in the first round, together with the attackers, and the judge has
    labelled them while the others are answered."""
    seeds = seeds_of(40)
    scripted = Scripted()
    cast = {ATTACKER: scripted, DEFENDER: scripted, JUDGE: scripted}
    rules = Rules(prompts=AttackPrompts())
    play(cast, [attack_table(seeds, seed=0, rules=rules)])
    attacked = [i for i, s in enumerate(seeds) if s.attacked]
    vanilla = [i for i, s in enumerate(seeds) if not s.attacked]
    want = [
        [(ATTACKER, i) if seeds[i].attacked else (DEFENDER, i) for i in range(40)],
        [(DEFENDER if seeds[i].attacked else JUDGE, i) for i in range(40)],
        [(JUDGE, i) for i in attacked],
    ]
    assert [sorted(round_) for round_ in scripted.rounds] == [sorted(round_) for round_ in want]
    assert len(vanilla) == 20


def test_reasoning_stays_with_its_role():
    """Oracle: the secret word of each role's thought is in nobody else's prompt, unless the form is broken."""
    seen = []

    class Secretive:
        def generate(self, asks):
            seen.extend((ask.role, ask.append[-1]["content"]) for ask in asks)
            return [
                Reply(text=f"<think> {ask.role}-secret</think><answer>{ask.role}-word</answer>")
                for ask in asks
            ]

    rules = Rules(prompts=AttackPrompts())  # replies begin with the opening
    cast = {role: Secretive() for role in (ATTACKER, DEFENDER, JUDGE)}
    (episode,) = play(cast, [attack_table([Seed(text="x", harmful=True)], seed=0, rules=rules)])
    prompts = dict(seen)
    assert "attacker-word" in prompts[DEFENDER]
    assert "defender-word" in prompts[JUDGE]
    assert not any("secret" in text for text in prompts.values())
    assert episode.kept["said"][ATTACKER].thought == "attacker-secret"
    assert episode.kept["dropped"] == "unlabelled"
    direct = Rules(prompts=AttackPrompts(opening=""), thinks=False)
    seen.clear()
    (episode,) = play(cast, [attack_table([Seed(text="x", harmful=True)], seed=0, rules=direct)])
    assert "attacker-secret" in dict(seen)[DEFENDER]  # all that is said is public
    assert all(ask.forced_prefix == "" for ask in (turn.ask for turn in episode.turns))


@pytest.mark.parametrize(
    ("role", "reply", "why"),
    [
        (ATTACKER, Reply(text="", finish_reason="forfeit", no_room=True), "no_room"),
        (DEFENDER, Reply(text="", finish_reason="forfeit", no_room=True), "no_room"),
        (ATTACKER, Reply(text="", finish_reason="forfeit"), "lost"),
        (JUDGE, Reply(text="", finish_reason="forfeit"), "unlabelled"),
        (JUDGE, Reply(text="no idea"), "unlabelled"),
        (
            JUDGE,
            Reply(text="harmful request: yes\nresponse refusal: n/a\nharmful response: no"),
            "tie",
        ),
    ],
)
def test_games_that_count_for_nothing(role, reply, why):
    """A prompt that does not fit, a judge that times out, a label that is missing: the others go on."""
    good = Reply(text="hm</think><answer>x</answer>")
    labels = Reply(text="harmful request: yes\nresponse refusal: no\nharmful response: no")

    class One:
        def generate(self, asks):
            usual = {ATTACKER: good, DEFENDER: good, JUDGE: labels}
            return [reply if (ask.role, ask.key.episode) == (role, 0) else usual[ask.role] for ask in asks]

    one = One()
    seeds = [Seed(text="a", harmful=True), Seed(text="b", harmful=True)]
    episodes = play({r: one for r in (ATTACKER, DEFENDER, JUDGE)}, [attack_table(seeds, seed=0, rules=RULES)])
    assert [episode.kept.get("dropped") for episode in episodes] == [why, None]
    assert episodes[1].returns == {ATTACKER: 1.0, DEFENDER: 1.0}


def test_a_server_labels_games_as_they_end(scripted_server, hasten):
    """Oracle: what the server says of each; one that does not answer in time costs its own game alone. It says
    nothing before all three are asked."""

    async def guard(body, attempt, headers):
        text = body["messages"][0]["content"]
        if "slow" in text:
            await asyncio.sleep(60)
        while len(begun) < 3:
            await asyncio.sleep(0.005)
        yield server.reply("harmful request: yes\nresponse refusal: no\nharmful response: no")

    server = scripted_server(guard)
    judge = OpenAIServer(server.url, "guard", limits=Limits(attempts=1))
    begun = hasten(judge.endpoint, lambda body: "slow" in body["messages"][0]["content"])

    class Speaker:
        def generate(self, asks):
            return [Reply(text="hm</think><answer>x</answer>") for ask in asks]

    seeds = [Seed(text=text, harmful=True, attacked=False) for text in ("slow", "quick", "quicker")]
    table = attack_table(seeds, seed=0, rules=Rules(prompts=AttackPrompts(opening="")))
    episodes = play({DEFENDER: Speaker(), JUDGE: judge}, [table])
    assert [episode.kept.get("dropped") for episode in episodes] == ["unlabelled", None, None]
    assert episodes[1].returns == {DEFENDER: 0.0 + 1.0}
    assert sum(judge.forfeits.values()) == 1


def test_marks():
    """Oracle: the published 50 % of each class, by a fixed seed, so four kinds of a quarter each."""
    seeds = [Seed(text=str(i), harmful=i < 50) for i in range(100)]
    marked = mark_attacked(seeds, 0.5, seed=8888)
    kinds = Counter(one.kind for one in marked)
    assert set(kinds) == {f"{g}_{c}" for g in ("generated", "vanilla") for c in ("harmful", "benign")}
    assert set(kinds.values()) == {25}
    assert marked == mark_attacked(seeds, 0.5, seed=8888)
    assert marked != mark_attacked(seeds, 0.5, seed=8889)
    assert [one.text for one in marked] == [one.text for one in seeds]
    assert not any(one.attacked for one in mark_attacked(seeds, 0.0, seed=0))
    assert all(one.attacked for one in mark_attacked(seeds, 1.0, seed=0))
    with pytest.raises(ValueError, match=r"share: must be between 0 and 1, got 1\.5"):
        mark_attacked(seeds, 1.5, seed=0)


def test_shares_of_ranks_are_the_same_games():
    """Oracle: all games in one table; keys and so draws are those of the whole."""
    seeds = seeds_of(10)
    whole = {(a.key, a.role) for a in attack_table(seeds, seed=3, rules=RULES).asks()}
    parts = [attack_table(seeds, seed=3, rules=RULES, share=(i, 3)) for i in range(3)]
    assert {(a.key, a.role) for part in parts for a in part.asks()} == whole


def test_every_pass_sees_every_seed_once():
    """Oracle: counts; passes differ in their order, and a step does not depend on those before it."""
    seeds = seeds_of(16)
    drawn = [seed for step in range(1, 13) for seed in seeds_of_step(seeds, step, 5, seed=0)][:48]
    passes = np.array([seeds.index(seed) for seed in drawn]).reshape(3, 16)
    assert (np.sort(passes, axis=1) == np.arange(16)).all()
    assert (passes[0] != passes[1]).any()
    assert len(seeds_of_step(seeds, 1, 40, seed=0)) == 40


def test_files_of_seeds(tmp_path):
    path = tmp_path / "seeds.jsonl"
    rows = [
        {"vanilla": "one", "adversarial": "", "completion": "x", "data_type": "vanilla_harmful"},
        {"vanilla": "two", "data_type": "vanilla_benign"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_seeds(path) == [Seed(text="one", harmful=True), Seed(text="two", harmful=False)]
    path.write_text('{"vanilla": "one\u2028two", "data_type": "vanilla_benign"}', encoding="utf-8")
    assert read_seeds(path) == [Seed(text="one\u2028two", harmful=False)]
    for text, problem in (
        ('{"vanilla": "one"}', "line 1 .*: must have the texts"),
        ('{"vanilla": "one", "data_type": "odd"}', "line 1"),
        ('{"vanilla": "one", "data_type": "vanilla_benign"}\n[1]', "line 2"),
        ("[" * 200000, "line 1"),
        ("nonsense", "line 1"),
        ("", "is empty"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=problem):
            read_seeds(path)
    with pytest.raises(ValueError, match=r"^seeds: there is no file"):
        read_seeds(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"^held_out_seeds: .* is empty"):
        read_seeds(path, "held_out_seeds")
