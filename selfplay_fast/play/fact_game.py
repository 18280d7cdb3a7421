"""A language in which document games can be judged exactly: every document is a fact, a question is a number of hops.

    ask bo>go do>bo go>do        {"question": "bo 2 hops", "answer": "?"}
    read bo>go do>bo go>do bo 2 hops        2 bo>go 1 go>do answer is do

Facts lead from each of eight names to another, in one circle. The more hops, the harder is the question for a model
that goes wrong at some of them; nobody knows the answer but who has read the documents and gone all the way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from selfplay_fast.config import Count, Natural, NotNegative, Share, WarmedUp
from selfplay_fast.play.document_game import Rules, Setting, function_verifier
from selfplay_fast.play.document_prompts import DocumentPrompts
from selfplay_fast.play.document_rules import VERIFIER, Question
from selfplay_fast.play.documents import Cluster, Past
from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.policies.streams import derive_seed, sample_streams, stream_ids, uniforms
from selfplay_fast.records import Ask, Message

NAMES = tuple(consonant + "o" for consonant in "bdfgklmn")
MOST_HOPS = 9
PROMPTS = DocumentPrompts(
    questioner={"general": "ask {documents}{examples}"},
    responder={"general": "read {documents} {question}"},
    verifier=None,
    document="{document}",
    separator=" ",
    examples=" past {examples}",
    example="{question}",
)
_QUESTION = re.compile(r"(\w+) (\d) hops")


@dataclass(frozen=True, kw_only=True)
class FactSettings(WarmedUp):
    """What can be set of the language, of who answers in it in a policy's place, and of nano's warm-up."""

    nano_warmup = 60

    fact_clusters: Count = 64
    """clusters of nano's language"""
    hop_accuracy: Share = 0.85
    """of `walker`, in the first step"""
    last_hop_accuracy: Share | None = None
    """the same in the last one, evenly rising until then, as if it learned; none: it stays as it is"""
    warmup_steps: Natural | None = None
    """supervised steps on random questions and short answers before self-play: nano's way to learn the form; None: as
    many as it needs, 0 for other models"""
    warmup_rows: Count = 48
    """replies of each of these steps"""
    warmup_learning_rate: NotNegative = 6e-3
    """of embeddings and head in the warm-up; the layers' is three tenths of it"""

    def walker(self, step: int, steps: int) -> Policy:
        """Whoever answers in the policy's place, as good as they are in step 1 … ``steps``."""
        first = self.hop_accuracy
        last = first if self.last_hop_accuracy is None else self.last_hop_accuracy
        return walker(first + (last - first) * (step - 1) / max(1, steps - 1))


def fact_clusters(count: int, seed: int) -> list[Cluster]:
    """Circles through all names in random orders, a document for each step, in random order."""
    rng = np.random.default_rng(seed)
    clusters = []
    for number in range(count):
        circle = [NAMES[i] for i in rng.permutation(len(NAMES))]
        facts = [f"{a}>{b}" for a, b in zip(circle, circle[1:] + circle[:1], strict=True)]
        documents = tuple(facts[i] for i in rng.permutation(len(facts)))
        clusters.append(Cluster(name=f"facts {number}", task="general", documents=documents))
    return clusters


def setting(rules: Rules, *, clusters: int, questions: int, seed: int) -> Setting:
    """So many clusters to learn on, and others with a question each, of any number of hops by turns, judged exactly."""
    held_out = fact_clusters(questions, derive_seed(seed, 0, 3))
    return Setting(
        clusters=fact_clusters(clusters, derive_seed(seed, 0, 2)),
        questions=exact_questions(held_out, range(1, MOST_HOPS + 1), 0),
        rules=replace(rules, prompts=PROMPTS, complete=complete),
        others={VERIFIER: function_verifier(same)},
    )


def walk(cluster: Cluster, name: str, hops: int) -> list[str] | None:
    """Where each hop from ``name`` leads; None where a fact is missing."""
    leads = dict(fact.split(">") for fact in cluster.documents)
    way: list[str] = []
    for _ in range(hops):
        name = leads.get(name, "")
        if not name:
            return None
        way.append(name)
    return way


def ask(name: str, hops: int) -> str:
    """A question in words."""
    return f"{name} {hops} hops"


def complete(question: Question, cluster: Cluster) -> Question | None:
    """The question with its answer, and ``hops`` measured; None where it is none of this language."""
    found = _QUESTION.fullmatch(question.text)
    way = walk(cluster, found[1], int(found[2])) if found is not None else None
    return Question(text=question.text, answer=way[-1], measured={"hops": len(way)}) if way else None


def same(question: str, reference: str, answer: str) -> bool:
    """The exact verifier."""
    return reference == answer


def walker(accuracy: float) -> Policy:
    """A responder that knows the way and takes each hop rightly with this chance: k hops with ``accuracy`` to the k.

    A wrong hop leads to any name; draws follow from the key of the ask and the number of the sample.
    """

    def say(ask: Ask, sample: int) -> str:
        *facts, name, hops, _ = ask.prompt_text.split()[1:]
        leads = dict(fact.split(">") for fact in facts if ">" in fact)
        stream = sample_streams(stream_ids([ask.key]), np.array([sample]))
        for hop in range(int(hops)):
            right, other = (float(uniforms(stream, 2 * hop + k)[0]) for k in range(2))
            lost = right >= accuracy or name not in leads
            name = NAMES[int(other * len(NAMES))] if lost else leads[name]
        return f"answer is {name}"

    return ScriptedPolicy(say)


def exact_questions(
    clusters: Sequence[Cluster], hops: Sequence[int], seed: int
) -> list[tuple[Cluster, Question]]:
    """A question for each cluster, of these numbers of hops by turns."""
    rng = np.random.default_rng(seed)
    asked = []
    for number, cluster in enumerate(clusters):
        text = ask(NAMES[rng.integers(len(NAMES))], hops[number % len(hops)])
        question = complete(Question(text=text, answer="?"), cluster)
        assert question is not None
        asked.append((cluster, question))
    return asked


def said_question(name: str, hops: int) -> str:
    """What a questioner says."""
    return f'{{"question": "{ask(name, hops)}", "answer": "?"}}'


def said_answer(cluster: Cluster, name: str, hops: int) -> str:
    """What a responder says who makes no mistake."""
    steps = []
    before = name
    for left, after in zip(range(hops, 0, -1), walk(cluster, name, hops) or (), strict=True):
        steps.append(f"{left} {before}>{after}")
        before = after
    return " ".join([*steps, f"answer is {before}"])


def demonstrations(
    count: int, seed: int, *, shown: int = 2, answered_hops: int = 3, answers: bool = True
) -> tuple[list[str], list[str]]:
    """Prompts and replies of players that know the form: questions of any number of hops, right answers to those of up
    to ``answered_hops``, by turns; without ``answers`` questions alone."""
    rng = np.random.default_rng(seed)
    prompts, replies = [], []
    for number, cluster in enumerate(fact_clusters(count, int(rng.integers(2**31)))):
        name = NAMES[rng.integers(len(NAMES))]
        if answers and number % 2:
            hops = int(rng.integers(1, answered_hops + 1))
            question = Question(text=ask(name, hops), answer="?")
            chat = PROMPTS.responder_chat("general", cluster.documents, question)
            reply = said_answer(cluster, name, hops)
        else:
            past = [_any_past(rng) for _ in range(rng.integers(4))]
            seen = min(len(cluster.documents), shown * (1 + len(past)))
            chat = PROMPTS.questioner_chat("general", cluster.documents[:seen], past)
            reply = said_question(name, int(rng.integers(1, MOST_HOPS + 1)))
        prompts.append(_content(chat))
        replies.append(reply)
    return prompts, replies


def _any_past(rng: np.random.Generator) -> Past:
    asked = ask(NAMES[rng.integers(len(NAMES))], int(rng.integers(1, MOST_HOPS + 1)))
    return Past(documents=(), question=asked, answer="?")


def _content(chat: Sequence[Message]) -> str:
    return chat[0]["content"]
