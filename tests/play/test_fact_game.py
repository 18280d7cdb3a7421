"""Nano's language of facts: one circle, exact answers, a form that demonstrations keep."""

import numpy as np
import pytest

from selfplay_fast.play import fact_game
from selfplay_fast.play.document_game import ASKED, Rules, document_table, function_verifier
from selfplay_fast.play.document_rules import Question, extracted_answer, read_question
from selfplay_fast.play.documents import Memory
from selfplay_fast.play.scheduler import play
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.records import Ask, Key


def test_facts_are_one_circle_through_all_names() -> None:
    """By hand: as many hops as there are names lead back, and no fewer; clusters differ."""
    clusters = fact_game.fact_clusters(20, 0)
    for cluster in clusters:
        way = fact_game.walk(cluster, "bo", len(fact_game.NAMES))
        assert way is not None
        assert sorted(way) == sorted(fact_game.NAMES)
        assert way[-1] == "bo"
    assert len({cluster.documents for cluster in clusters}) == 20


@pytest.mark.parametrize("text", ["bo 3", "bo 0 hops", "xo 3 hops", "bo 12 hops", "bo 3 hops?"])
def test_what_is_no_question_is_not_completed(text: str) -> None:
    """By hand: it is then badly formed."""
    (cluster,) = fact_game.fact_clusters(1, 0)
    assert fact_game.complete(Question(text=text, answer="?"), cluster) is None


def test_demonstrations_keep_the_form() -> None:
    """Oracle: the readers of document games and the walk; hops of questions are drawn from all, of answers from few."""
    prompts, replies = fact_game.demonstrations(200, 3, answered_hops=2)
    for prompt, reply in zip(prompts[::2], replies[::2], strict=True):
        assert prompt.startswith("ask ")
        question = read_question(reply, "general")
        assert question is not None
        assert question.text.endswith("hops")
    assert len({reply.split()[2] for reply in replies[::2]}) == fact_game.MOST_HOPS
    for prompt, reply in zip(prompts[1::2], replies[1::2], strict=True):
        facts = dict(fact.split(">") for fact in prompt.split()[1:-3])
        name, hops = prompt.split()[-3], int(prompt.split()[-2])
        for _ in range(hops):
            name = facts[name]
        assert extracted_answer(reply) == name
        assert hops <= 2
    assert (prompts, replies) == fact_game.demonstrations(200, 3, answered_hops=2)
    alone, _ = fact_game.demonstrations(20, 3, answers=False)
    assert all(prompt.startswith("ask ") for prompt in alone)


def test_a_game_of_players_that_make_no_mistake() -> None:
    """By hand: all answers are right, so the question is worth nothing; the exact verifier agrees with the rule."""
    clusters = fact_game.fact_clusters(4, 1)
    rng = np.random.default_rng(0)

    def say(ask: object, sample: int) -> str:
        prompt = ask.append[0]["content"]  # type: ignore[attr-defined]
        if prompt.startswith("ask"):
            return fact_game.said_question("do", int(rng.integers(1, 10)))
        if "Empty" in prompt:
            return "answer is nothing"
        facts = tuple(prompt.split()[1:-3])
        cluster = next(c for c in clusters if c.documents == facts)
        return fact_game.said_answer(cluster, prompt.split()[-3], int(prompt.split()[-2]))

    rules = Rules(prompts=fact_game.PROMPTS, complete=fact_game.complete, answers=2, votes=1)
    cast = dict.fromkeys(("questioner", "responder"), ScriptedPolicy(say))
    readings = Memory().readings(clusters, 4, seed=0)
    table = document_table(readings, seed=0, rules=rules)
    episodes = play({**cast, "verifier": function_verifier(fact_game.same)}, [table])
    for episode in episodes:
        kept = episode.kept
        assert (kept["status"], kept["success"], kept["rule"], kept["judged"]) == (ASKED, 1.0, [1, 1], [1, 1])
        assert 1 <= kept["question"].measured["hops"] <= 9
        assert episode.returns["questioner"] == 0


def test_questions_of_evaluations_have_all_hops_equally_often() -> None:
    """Oracle: the walk."""
    asked = fact_game.exact_questions(fact_game.fact_clusters(9, 2), [1, 2, 3], 0)
    assert [question.measured["hops"] for _, question in asked] == [1, 2, 3] * 3
    for cluster, question in asked:
        way = fact_game.walk(cluster, question.text.split()[0], int(question.measured["hops"]))
        assert way is not None
        assert way[-1] == question.answer


def test_a_walker_is_right_as_often_as_all_its_hops_are() -> None:
    """Oracle: accuracy to the number of hops, and the chance to come back by luck, within four standard errors."""
    (cluster,) = fact_game.fact_clusters(1, 0)
    question = fact_game.complete(Question(text="bo 3 hops", answer="?"), cluster)
    assert question is not None
    chat = fact_game.PROMPTS.responder_chat("general", cluster.documents, question)
    for accuracy, least, most in ((1.0, 1.0, 1.0), (0.8, 0.8**3, 0.8**3 + 0.2 / 4), (0.0, 0.0, 0.25)):
        asks = [Ask(role="responder", append=chat, key=Key(0, 0, i), n=500) for i in range(4)]
        said = fact_game.walker(accuracy).generate(asks)
        assert [r.text for r in said] == [r.text for r in fact_game.walker(accuracy).generate(asks)]
        share = np.mean([extracted_answer(reply.text) == question.answer for reply in said])
        assert least - 0.045 <= share <= most + 0.045
    blind = fact_game.PROMPTS.responder_chat("general", (), question)
    (reply,) = fact_game.walker(1.0).generate([Ask(role="responder", append=blind, key=Key(0, 0, 0))])
    assert extracted_answer(reply.text) in fact_game.NAMES
