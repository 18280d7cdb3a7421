"""Document games with scripted policies: what is asked, in how many calls, what is paid, what is dropped."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from selfplay_fast.play import DialogueTable, play, self_play
from selfplay_fast.play.document_game import (
    ASKED,
    BAD_FORMAT,
    BAD_GROUND,
    DROPPED,
    Rules,
    answer_game,
    document_table,
    function_verifier,
)
from selfplay_fast.play.document_prompts import DocumentPrompts
from selfplay_fast.play.document_rules import QUESTIONER, RESPONDER, VERIFIER, Question
from selfplay_fast.play.documents import Cluster, Past, Reading
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.records import Ask, Episode, Reply, Sampling

QUESTION = json.dumps({"question": "which river?", "answer": "Red"})
CLUSTER = Cluster(name="c", task="general", documents=("d0", "d1", "d2"))
READING = Reading(cluster=CLUSTER, shown=(0, 1), new=(0, 1))
RIGHT, WRONG, NONE = "The answer is Red.", "The answer is blue.", "no idea"


class Counting:
    """Says ``said(ask, sample)`` and remembers the asks of every call."""

    def __init__(self, said: Callable[[Ask, int], str]) -> None:
        self.said = said
        self.calls: list[list[Ask]] = []

    def generate(self, asks: list[Ask]) -> list[Reply]:
        self.calls.append(list(asks))
        return [Reply(text=self.said(ask, k)) for ask in asks for k in range(ask.n)]

    def score(self, asks: Any) -> Any:
        raise NotImplementedError


def sayer(
    answers: list[str],
    vote: Callable[[str, int], str] = lambda prompt, k: "[[NO]]",
    blind: str = NONE,
    asked: str = QUESTION,
) -> Counting:
    """The questioner says ``asked``, the responder these answers, without documents ``blind``."""

    def said(ask: Ask, k: int) -> str:
        prompt = ask.prompt_text
        if ask.role == QUESTIONER:
            return asked
        if ask.role == RESPONDER:
            return blind if "Empty" in prompt else answers[k]
        return vote(prompt, k)

    return Counting(said)


def game(policy: Any, reading: Reading = READING, **rules: Any) -> Episode:
    own = Rules(**{"answers": 4, "votes": 2} | rules)
    (episode,) = play(self_play(policy), [document_table([reading], seed=0, rules=own)])
    return episode


def test_a_game_pays_all_roles() -> None:
    """By hand: two right by the rule, one by the votes, one wrong; p = 3/4, exp(-(1/4)^2 / (2 (1/6)^2)) = 0.3247."""
    policy = sayer(
        [RIGHT, WRONG, "The answer is crimson.", RIGHT],
        lambda prompt, k: (
            "[[YES]]" if "Answer: crimson" in prompt or ("Answer: Red" in prompt and k < 3) else "[[NO]]"
        ),
    )
    episode = game(policy)
    kept = episode.kept
    assert kept["status"] == ASKED
    assert kept["rule"] == [1, 0, 0, 1]
    assert kept["votes"] == [[1, 1], [0, 0], [1, 1], [1, 0]]
    assert kept["judged"] == [1, 0, 1, 1]
    assert kept["success"] == 0.75
    assert episode.returns[QUESTIONER] == pytest.approx(0.3247, abs=1e-4)
    assert [episode.turns[t].reward for t in kept["answers_at"]] == [1, 0, 1, 1]
    paid = [[episode.turns[t].reward for t in own] for own in kept["votes_at"]]
    assert paid == [[1, 1], [1, 1], [1, 1], [1, 0]]
    assert all(episode.turns[t].ask.role == VERIFIER for own in kept["votes_at"] for t in own)


def test_four_calls_and_equal_prompts_once() -> None:
    """By hand: question, ground, 4 answers as samples of one prompt, votes; equal answers are one prompt with 6."""
    policy = sayer([RIGHT, WRONG, RIGHT, RIGHT])
    game(policy)
    assert [[(ask.role, ask.n) for ask in call] for call in policy.calls] == [
        [(QUESTIONER, 1)],
        [(RESPONDER, 1)],
        [(RESPONDER, 4)],
        [(VERIFIER, 2), (VERIFIER, 6)],
    ]
    assert "Answer: blue" in policy.calls[3][0].prompt_text  # what the rule calls wrong is asked first
    assert "d2" in policy.calls[2][0].prompt_text  # the responder reads what the questioner was not shown
    assert "d2" not in policy.calls[0][0].prompt_text


def test_asking_without_documents_at_the_same_time_changes_nothing_but_the_calls() -> None:
    """Oracle: the game that asks first; three calls instead of four, and of an ungrounded question the same reward."""
    for blind in (NONE, RIGHT):
        first, same = (
            sayer([RIGHT, WRONG, NONE, RIGHT], blind=blind),
            sayer([RIGHT, WRONG, NONE, RIGHT], blind=blind),
        )
        one, other = game(first), game(same, ground_first=False)
        assert len(same.calls) == (3 if blind == NONE else 2)
        assert len(first.calls) == (4 if blind == NONE else 2)
        assert one.returns == other.returns
        assert one.kept["status"] == other.kept["status"] == (ASKED if blind == NONE else BAD_GROUND)
        keys = {(ask.role, ask.key) for call in first.calls for ask in call}
        assert keys <= {(ask.role, ask.key) for call in same.calls for ask in call}


@pytest.mark.parametrize("majority_of_right", ["[[YES]]", "[[NO]]", "none"])
def test_not_judging_what_the_rule_calls_right_changes_no_reward(majority_of_right: str) -> None:
    """Oracle: the game in which everything is judged: the same rewards of question and answers, the same keys of the
    votes that are left, whatever votes on right answers say."""
    answers = [RIGHT, WRONG, "The answer is crimson.", "The answer is the red."]

    def vote(prompt: str, k: int) -> str:
        return (
            "[[YES]]"
            if "crimson" in prompt
            else majority_of_right
            if "ed" in prompt.split("\nAnswer:")[1].split("\n")[0]
            else "[[NO]]"
        )

    every, needed = sayer(answers, vote), sayer(answers, vote)
    one, other = game(every), game(needed, replace(READING, verify_right=False))
    count = 1 + 1 + len(answers)
    assert [t.reward for t in one.turns[:count]] == [t.reward for t in other.turns[:count]]
    assert {r: v for r, v in one.returns.items() if r != VERIFIER} == {
        r: v for r, v in other.returns.items() if r != VERIFIER
    }
    assert other.kept["votes"] == [[], one.kept["votes"][1], one.kept["votes"][2], []]
    asked = [(ask.key, ask.prompt_text, ask.n) for ask in needed.calls[3]]
    assert asked == [(ask.key, ask.prompt_text, ask.n) for ask in every.calls[3]][: len(asked)]
    assert sum(ask.n for ask in every.calls[3]) - sum(n for *_, n in asked) == 4


@pytest.mark.parametrize(
    ("asked", "task", "status", "why", "reward"),
    [
        ("no json", "general", BAD_FORMAT, None, -1.0),
        (json.dumps({"question": "q", "answer": "w " * 41}), "general", DROPPED, "long_answer", 0.0),
        (json.dumps({"question": "q", "answer": "0.0"}), "numeric", DROPPED, "zero", 0.0),
        (json.dumps({"question": "q", "answer": "0.1"}), "numeric", ASKED, None, 0.0),
        ("<think> " + QUESTION, "general", DROPPED, "unfinished", 0.0),
    ],
)
def test_questions_that_are_not_asked(
    asked: str, task: Any, status: str, why: str | None, reward: float
) -> None:
    """By hand: bad form costs 1, what is dropped costs nothing."""
    episode = game(sayer([NONE] * 4, asked=asked), replace(READING, cluster=replace(CLUSTER, task=task)))
    assert (episode.kept["status"], episode.kept["why"], episode.returns[QUESTIONER]) == (status, why, reward)


def test_penalties_are_options() -> None:
    """By hand: without the check of the ground nothing is asked without documents, and the question stands."""
    assert game(sayer([RIGHT] * 4, blind=RIGHT)).returns[QUESTIONER] == -0.5
    assert game(sayer([RIGHT] * 4, blind=RIGHT), ground_penalty=0.25).returns[QUESTIONER] == -0.25
    assert game(sayer([RIGHT] * 4, asked="?"), format_penalty=0.0).returns[QUESTIONER] == 0
    policy = sayer([RIGHT, WRONG, RIGHT, WRONG], blind=RIGHT)
    episode = game(policy, grounding=False)
    assert (episode.kept["status"], episode.returns[QUESTIONER]) == (ASKED, 1.0)
    assert [call[0].role for call in policy.calls] == [QUESTIONER, RESPONDER, VERIFIER]


def test_no_votes_leave_the_rule_alone() -> None:
    """By hand: votes = 0 is the ablation without a verifier; single answers and votes work too."""
    policy = sayer([RIGHT, WRONG, RIGHT, WRONG], lambda prompt, k: "[[YES]]")
    episode = game(policy, votes=0)
    assert (episode.kept["success"], len(policy.calls)) == (0.5, 3)
    assert VERIFIER not in episode.returns
    single = game(sayer([WRONG], lambda prompt, k: "[[YES]]"), answers=1, votes=1)
    assert single.kept["success"] == 1


def test_answers_that_say_nothing_are_not_judged() -> None:
    """By hand: nothing to extract is unjudgeable, and wrong by the rule."""
    policy = sayer([NONE] * 4)
    episode = game(policy)
    assert episode.kept["judged"] == [None] * 4
    assert len(policy.calls) == 3


def test_an_empty_cluster_asks_nobody() -> None:
    """By hand."""
    policy = sayer([])
    episode = game(policy, replace(READING, cluster=replace(CLUSTER, documents=()), shown=(), new=()))
    assert (episode.kept["status"], episode.kept["why"], episode.turns, policy.calls) == (
        DROPPED,
        "empty",
        (),
        [],
    )


class Failing:
    """Does not answer one role."""

    def __init__(self, role: str, **how: Any) -> None:
        self.role, self.how = role, how

    def generate(self, asks: list[Ask]) -> list[Reply]:
        fine = sayer([RIGHT, WRONG] * 4)
        return [
            Reply(text="", finish_reason="forfeit", **self.how)
            if ask.role == self.role
            else Reply(text=fine.said(ask, k))
            for ask in asks
            for k in range(ask.n)
        ]

    def score(self, asks: Any) -> Any:
        raise NotImplementedError


def test_who_does_not_answer() -> None:
    """By hand: a lost or too long question or answer drops the reading, lost votes are none and the rule decides."""
    for role in (QUESTIONER, RESPONDER):
        for how, why in (({}, "lost"), ({"no_room": True}, "no_room")):
            episode = game(Failing(role, **how))
            assert (episode.kept["status"], episode.kept["why"], episode.returns) == (
                DROPPED,
                why,
                {QUESTIONER: 0.0},
            )
    episode = game(Failing(VERIFIER))
    assert (episode.kept["status"], episode.kept["judged"], episode.kept["success"]) == (ASKED, [-1] * 4, 0.5)


def test_documents_that_do_not_fit_drop_their_reading_alone(toy_policy: LanguageModel) -> None:
    """By hand, with a model: its context is full before the question, or before the answer; the other game goes on."""
    toy_policy.context_limit = 300
    prompts = DocumentPrompts(
        questioner={"general": "{documents}{examples}"}, responder={"general": "{documents} {question}"}
    )
    long = replace(CLUSTER, documents=("word " * 500, "short"))
    readings = [
        Reading(cluster=long, index=0, shown=(0,)),
        Reading(cluster=CLUSTER, index=1, shown=(0,)),
        Reading(cluster=long, index=2, shown=(1,)),
    ]
    ask = ScriptedPolicy(lambda ask, k: QUESTION)
    rules = Rules(prompts=prompts, answers=2, grounding=False, sampling=Sampling(max_tokens=4))
    cast = {QUESTIONER: ask, RESPONDER: toy_policy, VERIFIER: ask}
    answered = play(cast, [document_table(readings, seed=0, rules=rules)])
    assert [(e.kept["why"], len(e.turns)) for e in answered] == [("no_room", 3), (None, 3), ("no_room", 3)]
    asked = play(self_play(toy_policy), [document_table(readings, seed=0, rules=rules)])
    assert [e.kept["why"] for e in asked] == ["no_room", "unfinished", "unfinished"]


def test_prompts_leave_the_texts_of_others_alone() -> None:
    """By hand: braces in documents are theirs; examples and options are shown; the empty slot says so."""
    prompts = DocumentPrompts()
    past = [Past(documents=(0,), question="who {x}?", answer="{answer}")]
    told = prompts.questioner_chat("general", ["a {question} b"], past)[0]["content"]
    assert "<text>\na {question} b\n</text>" in told
    assert "Question: who {x}?\nAnswer: {answer}" in told
    assert "Previous examples" not in prompts.questioner_chat("general", ["a"], [])[0]["content"]
    question = Question(text="which?", answer="A", options=dict(zip("ABCD", "wxyz", strict=True)))
    asked = prompts.responder_chat("choice", [], question)[0]["content"]
    assert "Empty" in asked
    assert "A. w\nB. x\nC. y\nD. z" in asked


def test_a_function_verifies() -> None:
    """By hand: it is told question, reference and answer; None is no vote."""
    told = []

    def same(*texts: str) -> bool | None:
        told.append(texts)
        return {"blue": True, "Red": None}.get(texts[2], False)

    cast = {
        QUESTIONER: sayer([]),
        RESPONDER: sayer([RIGHT, WRONG, "answer is x"] * 2),
        VERIFIER: function_verifier(same),
    }
    rules = Rules(answers=3, votes=1, prompts=replace(DocumentPrompts(), verifier=None))
    (episode,) = play(cast, [document_table([READING], seed=0, rules=rules)])
    assert episode.kept["votes"] == [[-1], [1], [0]]
    assert ("which river?", "Red", "blue") in told


def test_shares_of_a_table_are_all_of_it() -> None:
    """Oracle: one table of all readings: the same keys, each once."""
    readings = [replace(READING, index=10 + i) for i in range(5)]
    whole = document_table(readings, seed=0, rules=Rules())
    parts = [document_table(readings, seed=0, rules=Rules(), share=(i, 2)) for i in range(2)]
    keys = [ask.key for part in parts for ask in part.asks()]
    assert sorted(keys) == sorted(ask.key for ask in whole.asks())


def test_questions_of_others_are_answered_and_scored() -> None:
    """By hand: three of four answers are right."""
    table = DialogueTable(
        lambda item: answer_game(Rules(answers=4), item),
        [(CLUSTER, Question(text="q", answer="Red"))],
        seed=0,
    )
    (episode,) = play(self_play(sayer([RIGHT, WRONG, RIGHT, RIGHT])), [table])
    assert (episode.kept["scores"], episode.returns[RESPONDER]) == ([1, 0, 1, 1], 0.75)
