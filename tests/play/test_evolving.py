"""Answering, scoring and evolving prompts. Oracle: scripted roles, counts and rows by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from selfplay_fast.play import play
from selfplay_fast.play.evolve_prompts import GRADED, EvolvePrompts, read_score
from selfplay_fast.play.evolving import (
    CREATOR,
    SCORER,
    SOLVER,
    Answered,
    Prompt,
    Rules,
    answer_table,
    answered_in,
    evolve_table,
    function_reward,
    mixed,
    preference_rows,
    read_prompts,
    without_copies,
)
from selfplay_fast.policies.endpoint import Limits
from selfplay_fast.policies.openai_server import OpenAIServer
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.records import Ask, Reply, Turn

PROMPTS = [Prompt(text=f"prompt {i}", topic=str(i % 2)) for i in range(5)]


class Counted:
    """A script that is asked in rounds, which are counted; ``lost`` asks get no reply."""

    def __init__(self, say: Callable[[Ask, int], str], lost: Callable[[Ask], bool] = lambda _: False) -> None:
        self.say = say
        self.lost = lost
        self.rounds: list[int] = []

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """As a policy."""
        self.rounds.append(len(asks))
        return [
            Reply(text="", finish_reason="forfeit") if self.lost(ask) else Reply(text=self.say(ask, k))
            for ask in asks
            for k in range(ask.n)
        ]


def solver() -> Counted:
    return Counted(lambda ask, k: f"{k} of {ask.prompt_text}")


def creator() -> Counted:
    return Counted(lambda ask, k: ask.prompt_text.split("Given prompt:\n")[1].split("\n")[0] + "+")


def first_digit(prompt: str, response: str) -> float | None:
    return float(response[0])


def test_chains_of_all_prompts_take_as_many_rounds_as_one() -> None:
    """Oracle: 1 + 4 + 1 generations instead of 6 + 4 + 6, and a scoring each; each prompt is a mutation of the last."""
    cast = {SOLVER: solver(), CREATOR: creator(), SCORER: function_reward(first_digit)}
    base = answered_in(play(cast, [answer_table(Rules(), PROMPTS, seed=0)]))
    evolved = answered_in(play(cast, [evolve_table(Rules(), PROMPTS[:2], seed=0)]))
    assert cast[SOLVER].rounds == [5, 8]
    assert cast[CREATOR].rounds == [2, 2, 2, 2]
    assert [one.prompt.text for one in evolved] == [
        f"prompt {i}{'+' * k}" for i in range(2) for k in range(1, 5)
    ]
    assert [one.prompt.topic for one in evolved] == ["0"] * 4 + ["1"] * 4
    assert [one.rewards for one in base + evolved] == [[0, 1, 2, 3, 4, 5]] * 13


def test_each_mutation_has_a_method_of_its_own_and_they_are_drawn_evenly() -> None:
    """Oracle: the ten methods, 60 mutations of each expected."""
    asked: list[str] = []

    def say(ask: Ask, sample: int) -> str:
        asked.append(ask.prompt_text.split(". ")[1])
        return f"new {len(asked)}"

    cast = {SOLVER: solver(), CREATOR: Counted(say), SCORER: function_reward(first_digit)}
    play(cast, [evolve_table(Rules(responses=1), PROMPTS * 30, seed=0)])
    counts = [asked.count(method) for method in set(asked)]
    assert len(asked) == 600
    assert len(counts) == 10
    assert 35 < min(counts) <= max(counts) < 90


def test_shares_of_ranks_are_the_whole() -> None:
    """Oracle: one process. What is said follows from the number of the prompt."""
    say = Counted(lambda ask, k: f"{ask.key.episode}{ask.key.turn} {ask.prompt_text[-3:]}")
    cast = {SOLVER: say, CREATOR: say, SCORER: function_reward(first_digit)}
    whole = play(cast, [evolve_table(Rules(), PROMPTS, seed=4)])
    parts = [play(cast, [evolve_table(Rules(), PROMPTS, seed=4, share=(i, 2))]) for i in range(2)]
    dealt = sorted([*parts[0], *parts[1]], key=lambda episode: episode.index)
    texts = [[(t.ask.prompt_text, t.reply.text) for t in e.turns] for e in dealt]
    assert texts == [[(t.ask.prompt_text, t.reply.text) for t in e.turns] for e in whole]


def test_a_mutation_that_says_nothing_new_is_skipped() -> None:
    """Oracle: the chain goes on from the last prompt there was; nothing at all evolves from a mute creator."""
    replies = iter(["one", "", "one", "two"])
    cast = {
        SOLVER: solver(),
        CREATOR: Counted(lambda ask, k: next(replies)),
        SCORER: function_reward(first_digit),
    }
    (episode,) = play(cast, [evolve_table(Rules(), PROMPTS[:1], seed=0)])
    assert [one.prompt.text for one in episode.kept["answered"]] == ["one", "two"]
    assert episode.kept["failed"] == 2
    for mute in (Counted(lambda ask, k: " "), Counted(lambda ask, k: "x", lost=lambda _: True)):
        (episode,) = play({**cast, CREATOR: mute}, [evolve_table(Rules(), PROMPTS[:1], seed=0)])
        assert episode.kept["answered"] == []
        assert episode.kept["failed"] == 4


def test_responses_that_nobody_scores_are_left_out_and_counted() -> None:
    """Oracle: a reward model that cannot tell, one that times out, one that fails for a prompt."""
    unsure = function_reward(lambda prompt, response: None if response[0] in "25" else float(response[0]))
    late = Counted(lambda ask, k: "Score: 1", lost=lambda ask: "3 of" in ask.prompt_text)
    silent = Counted(lambda ask, k: "1", lost=lambda ask: "prompt 1" in ask.prompt_text)
    found = {}
    for name, scorer in (("unsure", unsure), ("late", late), ("silent", silent)):
        episodes = play({SOLVER: solver(), SCORER: scorer}, [answer_table(Rules(), PROMPTS[:2], seed=0)])
        found[name] = [(one.rewards, one.unscored, one.lost) for one in answered_in(episodes)]
    assert found["unsure"] == [([0, 1, 3, 4], 2, 0)] * 2
    assert found["late"] == [([1] * 5, 1, 0)] * 2
    assert found["silent"] == [([1] * 6, 0, 0), ([], 6, 0)]


def test_a_server_grades_in_words_and_one_that_hangs_gives_no_reward(
    scripted_server: Callable[..., Any], hasten: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Oracle: what the server was asked and said; an attempt fails after a moment, and a warning says so."""

    async def grade(body: Any, attempt: int, headers: dict[str, str]) -> AsyncIterator[bytes]:
        asked = body["messages"][0]["content"]
        if "3 of prompt 0" in asked:
            await asyncio.sleep(60)
        said = "Hard to say." if "2 of" in asked else f"Fine.\nScore: {len(asked) % 10}"
        yield server.reply(said)

    server = scripted_server(grade)
    judge = OpenAIServer(server.url, "judge", limits=Limits(concurrency=8, attempts=1))
    hasten(judge.endpoint, lambda body: "3 of prompt 0" in body["messages"][0]["content"])
    cast = {SOLVER: solver(), SCORER: judge}
    episodes = play(cast, [answer_table(Rules(prompts=GRADED), PROMPTS[:2], seed=0)])
    first, second = answered_in(episodes)
    assert (len(first.turns), first.unscored, len(second.turns), second.unscored) == (4, 2, 5, 1)
    assert "1 of 12 replies forfeited" in caplog.text
    asked = server.seen[0][2]["messages"]
    assert len(asked) == 1
    assert "Score: N" in asked[0]["content"]


def test_responses_that_do_not_come_are_not_scored() -> None:
    """Oracle: how often the reward model is asked; equal responses once."""
    scorer = Counted(lambda ask, k: "1")
    some = Counted(lambda ask, k: f"{k % 2}", lost=lambda ask: ask.prompt_text == "prompt 0")
    episodes = play({SOLVER: some, SCORER: scorer}, [answer_table(Rules(), PROMPTS[:2], seed=0)])
    assert [(one.rewards, one.lost) for one in answered_in(episodes)] == [([], 6), ([1] * 6, 0)]
    assert scorer.rounds == [2]


def answered(rewards: Sequence[float], text: str = "p") -> Answered:
    ask = Ask(role=SOLVER, append=[{"role": "user", "content": text}])
    turns = tuple(Turn(ask=ask, reply=Reply(text=f"r{i}"), reward=r) for i, r in enumerate(rewards))
    return Answered(prompt=Prompt(text=text), turns=turns)


@pytest.mark.parametrize(
    ("rewards", "chosen", "rejected"),
    [
        ([1.0, 3.0, 2.0, 0.0], "r1", "r3"),
        ([2.0, 3.0, 3.0, 2.0], "r1", "r0"),  # of equals the first
        ([0.0, 0.0, 1.0, 1.0], "r2", "r0"),
    ],
)
def test_pairs_are_the_best_and_the_worst(rewards: list[float], chosen: str, rejected: str) -> None:
    (row,) = preference_rows([answered(rewards)], keep_equal=False)
    assert row == {
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "score_chosen": max(rewards),
        "score_rejected": min(rewards),
    }


def test_equal_rewards_make_no_pair_unless_kept() -> None:
    """As published the first response is then preferred to itself."""
    groups = [answered([2.0, 2.0]), answered([2.0]), answered([])]
    assert preference_rows(groups, keep_equal=False) == []
    rows = preference_rows(groups, keep_equal=True)
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows] == [
        ("r0", "r0")
    ] * 2


@pytest.mark.parametrize(("base", "evolved"), [(100, 100), (10_000, 10_000), (7, 4), (4, 0), (0, 1)])
def test_the_mix_is_a_fifth_of_old_and_four_fifths_of_new(base: int, evolved: int) -> None:
    """Oracle: the counts, rounded down, nothing twice, shuffled."""
    old, new = [("old", i) for i in range(base)], [("new", i) for i in range(evolved)]
    mix = mixed(old, new, base_share=0.2, evolved_share=0.8, seed=1)
    assert sum(kind == "old" for kind, _ in mix) == int(0.2 * base)
    assert sum(kind == "new" for kind, _ in mix) == int(0.8 * evolved)
    assert len(set(mix)) == len(mix)
    assert mix == mixed(old, new, base_share=0.2, evolved_share=0.8, seed=1)
    if base == 100:
        assert mix != sorted(mix)
        assert mix != mixed(old, new, base_share=0.2, evolved_share=0.8, seed=2)


def test_copies_are_left_out() -> None:
    groups = [answered([1.0], text) for text in ("a", "b", "a", "c", "b")]
    assert [one.prompt.text for one in without_copies(groups, [Prompt(text="c")])] == ["a", "b"]


def test_prompts_are_read_once_with_their_topics(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "a", "topic": "x"}\n\n{"prompt": "b", "more": 1}\n{"prompt": "a", "topic": "x"}\n'
    )
    assert read_prompts("prompts", path) == [Prompt(text="a", topic="x"), Prompt(text="b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": 3}', "prompts: line 1 of .*: prompt must be a text, got 3"),
        ('{"prompt": " "}', "line 1 of .*: prompt must be a text"),
        ('{"prompt": "a"}\n{"prompt": "a", "topic": 1}', "line 2 of .*: topic must be a text"),
        ("[]", "line 1 of .*: it is no JSON object"),
        ("", "there is no prompt in"),
    ],
)
def test_files_that_hold_no_prompts_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts("prompts", path)
    with pytest.raises(ValueError, match="prompts: there is no file"):
        read_prompts("prompts", tmp_path / "none.jsonl")


def test_a_function_that_fails_says_so() -> None:
    """An error is no missing reward."""

    def broken(prompt: str, response: str) -> float:
        raise RuntimeError("no such thing")

    cast = {SOLVER: ScriptedPolicy(lambda ask, k: "x"), SCORER: function_reward(broken)}
    with pytest.raises(RuntimeError, match="no such thing"):
        play(cast, [answer_table(Rules(), PROMPTS[:1], seed=0)])


def test_a_function_is_a_reward_model() -> None:
    """Oracle: the function; None is a reply that is no number."""
    scorer = function_reward(lambda prompt, response: None if response == "" else len(prompt) / 3)
    pairs = [("take turns", "and more"), ("x", "three in a row"), ("O", ""), ("a b c", "d e")]
    asks = [Ask(role=SCORER, append=EvolvePrompts().score_chat(*pair)) for pair in pairs]
    assert [read_score(reply.text) for reply in scorer.generate(asks)] == [10 / 3, 1 / 3, None, 5 / 3]
