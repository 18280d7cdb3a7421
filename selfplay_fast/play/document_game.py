"""SPELL's dialogue: a question about documents, answers, votes on the answers.  Yang et al. 2025, arXiv 2509.23863.

The published loop asks for all questions, then answers all of them without documents, then with them, then judges all
answers. Here no cluster waits for another: a dialogue is a chain of at most four steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from selfplay_fast.play.dialogue_table import DialogueTable, Outcome, Protocol
from selfplay_fast.play.document_prompts import DocumentPrompts
from selfplay_fast.play.document_rules import (
    QUESTIONER,
    RESPONDER,
    VERIFIER,
    Difficulty,
    Question,
    Task,
    answer_reward,
    extracted_answer,
    is_unfinished,
    majority,
    question_reward,
    read_number,
    read_question,
    read_vote,
    rule_score,
    vote_rewards,
)
from selfplay_fast.play.documents import Cluster, Reading
from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.records import Ask, Episode, Message, Reply, Sampling

NAME = "document_game"
ASKED, BAD_FORMAT, BAD_GROUND, DROPPED = "asked", "bad_format", "bad_ground", "dropped"
_GROUNDED_BELOW = 0.1


def count_words(text: str) -> int:
    """How long an answer is where no tokenizer is at hand."""
    return len(text.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How questions are asked, answered, judged and paid for.

    ``answers`` to each question, ``votes`` on each answer (0: the rule alone judges). ``ground_first``: questions are
    tried without documents before they are answered with them, otherwise at the same time, which is a step less and
    answers what is then thrown away. ``complete`` makes a question of nano's language whole, or None of a wrong one.
    """

    answers: int = 8
    votes: int = 8
    difficulty: Difficulty = "gaussian"
    width: float = 0.5 / 3
    format_penalty: float = 1.0
    grounding: bool = True
    ground_penalty: float = 0.5
    ground_first: bool = True
    longest_answer: int = 40
    count_tokens: Callable[[str], int] = count_words
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, top_p=0.95, max_tokens=4096))
    prompts: DocumentPrompts = field(default_factory=DocumentPrompts)
    complete: Callable[[Question, Cluster], Question | None] | None = None

    def ask(self, role: str, messages: Sequence[Message], n: int = 1) -> Ask:
        """``n`` replies of a role."""
        return Ask(role=role, append=messages, sampling=self.sampling, n=n)

    def answer_ask(self, cluster: Cluster, question: Question, *, blind: bool = False) -> Ask:
        """An answer from nothing, or all the answers from all documents of the cluster."""
        documents = () if blind else cluster.documents
        chat = self.prompts.responder_chat(cluster.task, documents, question)
        return self.ask(RESPONDER, chat, 1 if blind else self.answers)


def document_game(rules: Rules, reading: Reading) -> Protocol:
    """One reading. ``kept`` has it as ``reading``, its ``status`` and ``why``, and of a question its ``question``.

    "bad_format": the reply holds no valid question; "bad_ground": it is answered without documents; "dropped": nobody
    is paid, why: "empty" cluster, "no_room" in a context, "lost" reply, "unfinished" question, "long_answer" or "zero".
    "asked": ``answers_at``, ``rule``, ``judged``, ``votes`` and ``votes_at`` have an entry for every answer, in the
    order of the replies (numbers of turns, scores, majorities or None, lists of votes and of numbers of turns), and
    ``success`` is the mean of the answers' rewards.
    """
    kept: dict[str, Any] = {"reading": reading, "why": None, "question": None}
    cluster = reading.cluster
    if not cluster.documents:
        return _ended(DROPPED, kept, "empty")
    chat = rules.prompts.questioner_chat(cluster.task, reading.documents, reading.examples)
    said = yield rules.ask(QUESTIONER, chat)
    question, why = _read(rules, cluster, said)
    if question is None:
        penalty = 0.0 if why else -rules.format_penalty
        return _ended(DROPPED if why else BAD_FORMAT, kept, why, penalty)
    kept["question"] = question
    blind, answers = yield from _answers(rules, cluster, question)
    if lost := [_missing(reply) for reply in (*blind, *answers) if reply.finish_reason == "forfeit"]:
        return _ended(DROPPED, kept, lost[0])
    if any(_score(cluster.task, question, reply) >= _GROUNDED_BELOW for reply in blind):
        return _ended(BAD_GROUND, kept, None, -rules.ground_penalty)
    found = [extracted_answer(reply.public) for reply in answers]
    kept["rule"] = rule = [rule_score(cluster.task, question, answer) for answer in found]
    first = 1 + len(blind) + len(answers)
    judged = [a is not None and (r < 1 or reading.verify_right) for a, r in zip(found, rule, strict=True)]
    votes, votes_at = yield from _votes(rules, question, found, rule, judged, first)
    kept |= {"votes": votes, "votes_at": votes_at, "answers_at": list(range(1 + len(blind), first))}
    return _paid(rules, kept)


def _read(rules: Rules, cluster: Cluster, said: Reply) -> tuple[Question | None, str | None]:
    """The question, or why the reply is dropped without a penalty; neither where it is badly formed."""
    if said.finish_reason == "forfeit":
        return None, _missing(said)
    if said.finish_reason == "length" or said.unclosed or is_unfinished(said.text):
        return None, "unfinished"
    question = read_question(said.public, cluster.task)
    if question is not None and rules.complete is not None:
        question = rules.complete(question, cluster)
    if question is None:
        return None, None
    if rules.count_tokens(question.answer) > rules.longest_answer:
        return None, "long_answer"
    if cluster.task == "numeric" and read_number(question.answer) == 0:
        return None, "zero"
    return question, None


def _missing(reply: Reply) -> str:
    return "no_room" if reply.no_room else "lost"


def _answers(
    rules: Rules, cluster: Cluster, question: Question
) -> Generator[Any, Any, tuple[list[Reply], list[Reply]]]:
    """The answer without documents, if one is asked for, and those with them, if they still matter."""
    asks = [rules.answer_ask(cluster, question)]
    if not rules.grounding:
        return [], _listed((yield asks[0]))
    asks.insert(0, rules.answer_ask(cluster, question, blind=True))
    if not rules.ground_first:
        blind, answers = yield asks
        return [blind], _listed(answers)
    blind = yield asks[0]
    if blind.finish_reason == "forfeit" or _score(cluster.task, question, blind) >= _GROUNDED_BELOW:
        return [blind], []
    return [blind], _listed((yield asks[1]))


def _listed(replies: Any) -> list[Reply]:
    return replies if isinstance(replies, list) else [replies]


def _score(task: Task, question: Question, reply: Reply) -> float:
    return rule_score(task, question, extracted_answer(reply.public))


def _votes(
    rules: Rules,
    question: Question,
    found: Sequence[str | None],
    rule: Sequence[float],
    judged: Sequence[bool],
    first: int,
) -> Generator[Any, Any, tuple[list[list[int]], list[list[int]]]]:
    """Votes on each answer that is ``judged``, and the numbers of their turns, from ``first`` on.

    Equal answers are one prompt with more samples. Wrong ones by the rule come first, so that the draws for them are
    the same whether or not the right ones are judged.
    """
    votes: list[list[int]] = [[] for _ in found]
    votes_at: list[list[int]] = [[] for _ in found]
    order = sorted((i for i, wanted in enumerate(judged) if wanted), key=lambda i: rule[i])
    same: dict[str, list[int]] = {}
    for i in order:
        same.setdefault(cast(str, found[i]), []).append(i)
    if not (rules.votes and same):
        return votes, votes_at
    asks = [
        rules.ask(VERIFIER, rules.prompts.verifier_chat(question, answer), rules.votes * len(own))
        for answer, own in same.items()
    ]
    replies = yield asks
    for own, part in zip(same.values(), replies, strict=True):
        said = [read_vote(reply.public) for reply in _listed(part)]
        for k, i in enumerate(own):
            place = slice(k * rules.votes, (k + 1) * rules.votes)
            votes[i], votes_at[i] = said[place], list(range(first, first + len(said)))[place]
        first += len(said)
    return votes, votes_at


def _paid(rules: Rules, kept: dict[str, Any]) -> Outcome:
    """What all three roles have earned."""
    kept["judged"] = [majority(own) if own else None for own in kept["votes"]]
    paid = [answer_reward(score, most) for score, most in zip(kept["rule"], kept["judged"], strict=True)]
    kept["success"] = success = sum(paid) / len(paid)
    rewards = {0: question_reward(success, rules.difficulty, rules.width)}
    rewards |= dict(zip(kept["answers_at"], paid, strict=True))
    votes: dict[int, float] = {}
    for places, own in zip(kept["votes_at"], kept["votes"], strict=True):
        votes |= zip(places, vote_rewards(own), strict=True) if own else ()
    returns = {QUESTIONER: rewards[0], RESPONDER: success}
    if votes:
        returns[VERIFIER] = sum(votes.values()) / len(votes)
    return Outcome(returns=returns, rewards=rewards | votes, kept=kept | {"status": ASKED})


def _ended(status: str, kept: Mapping[str, Any], why: str | None, reward: float = 0.0) -> Outcome:
    returns = {QUESTIONER: reward}
    return Outcome(returns=returns, rewards={0: reward}, kept={**kept, "status": status, "why": why})


def is_useful(episode: Episode) -> bool:
    """A question some of whose answers are right, and some wrong."""
    if episode.kept["status"] != ASKED:
        return False
    return len({episode.turns[t].reward for t in episode.kept["answers_at"]}) > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Clusters to read, questions of evaluations, rules, and who plays roles in a policy's place."""

    clusters: Sequence[Cluster]
    questions: Sequence[tuple[Cluster, Question]]
    rules: Rules
    others: Mapping[str, Policy] = field(default_factory=dict)


def function_verifier(same: Callable[[str, str, str], bool | None]) -> Policy:
    """A function of question, reference and answer as the verifier, for prompts whose ``verifier`` is None; None: it
    cannot tell."""

    def say(ask: Ask, sample: int) -> str:
        told = (message["content"] for message in cast(Sequence[Message], ask.append))
        verdict = same(*told)
        return "" if verdict is None else f"[[{'YES' if verdict else 'NO'}]]"

    return ScriptedPolicy(say)


def document_table(
    readings: Sequence[Reading], *, seed: int, rules: Rules, share: tuple[int, int] = (0, 1)
) -> DialogueTable:
    """A table of a dialogue for every reading; of ``share`` = (i, n) those whose place is i modulo n."""
    mine = readings[share[0] :: share[1]]
    return DialogueTable(
        partial(document_game, rules), mine, indices=[one.index for one in mine], seed=seed, name=NAME
    )


def answer_game(rules: Rules, asked: tuple[Cluster, Question]) -> Protocol:
    """A question of somebody else's, answered ``rules.answers`` times; ``kept`` has ``scores`` by the rule."""
    cluster, question = asked
    answers = _listed((yield rules.answer_ask(cluster, question)))
    scores = [_score(cluster.task, question, reply) for reply in answers]
    kept = {"question": question, "task": cluster.task, "scores": scores}
    return Outcome(returns={RESPONDER: sum(scores) / len(scores)}, kept=kept)
