"""SPELL from the command line on the nano model, and its step against a sequential port of the published one."""

import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from selfplay_fast.learn.group_selection import drawn
from selfplay_fast.play import self_play
from selfplay_fast.play.document_game import ASKED, Rules
from selfplay_fast.play.document_prompts import DocumentPrompts
from selfplay_fast.play.document_rules import QUESTIONER, RESPONDER, TASKS, VERIFIER, Question
from selfplay_fast.play.documents import Cluster, Memory, Past
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.recipes import spell
from selfplay_fast.records import Episode

ORACLE = Path(__file__).parents[1] / "oracles" / "spell.py"
PROMPTS = DocumentPrompts()
PAPER = replace(
    spell.PRESETS["paper"], clusters_per_round=24, questions_per_step=16, most_rounds=6, verifier_share=0.25
)


def port() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spell_oracle", ORACLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def number(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


GOLD = {
    "numeric": ["12.5", "0.125", "1,250", "7"],
    "general": ["Red River", "the red river", "Oak"],
    "choice": "ABCD",
}
ASKING = {task: f"as the task {task}" for task in TASKS}


def said_question(task: str, n: int) -> str:
    """A reply of a questioner: mostly a question, sometimes something that is none, or is not to be asked."""
    answer = GOLD[task][n % len(GOLD[task])]
    body: dict[str, Any] = {"question": f"what is {n % 89}?", "answer": answer}
    if task == "choice":
        body["options"] = {letter: f"option {letter}" for letter in "ABCD"}
    kind = n // 97 % 12
    if kind == 0:
        return f"I cannot say. {json.dumps(body)}"
    if kind == 1:
        body["answer"] = "word " * 41 if task == "general" else "0" if task == "numeric" else "E"
    if kind == 2:
        return f"<think> it goes on {json.dumps(body)}"
    if kind == 3:
        return f"first ```json\n{json.dumps(body)}\n``` then ```json\n{{'bad'}}\n```"
    return f"so ```json\n{json.dumps(body)}\n```" if kind % 2 else json.dumps(body)


def said_answer(task: str, n: int) -> str:
    """A reply of a responder: one of few answers, or none."""
    if n % 11 == 0:
        return "I do not know."
    answers = {
        "numeric": ["12.5", "12.51", "0.125", "1250", "8", "7.0"],
        "general": ["red  river!", "an Oak tree", "the sea", "red"],
        "choice": ["A", "(B)", "C", "D. option"],
    }[task]
    return f"Hm. Therefore, the answer is {answers[n // 11 % len(answers)]}.\nOr so."


def said_vote(n: int) -> str:
    return "unsure" if n % 9 == 0 else f"Decision: [[{'YES' if n // 9 % 4 == 0 else 'NO'}]]"


def task_of(prompt: str) -> str:
    return next(task for task, mark in ASKING.items() if mark in prompt)


def text_of(role: str, prompt: str, sample: int) -> str:
    """What the scripted policy says: it follows from role, prompt and the sample's number alone."""
    n = number(role, prompt, sample)
    if role == VERIFIER:
        return said_vote(n)
    return (said_question if role == QUESTIONER else said_answer)(task_of(prompt), n)


MARKED = replace(
    PROMPTS,
    questioner={task: f"{ASKING[task]} {PROMPTS.questioner[task]}" for task in TASKS},
    responder={task: f"{ASKING[task]} {PROMPTS.responder[task]}" for task in TASKS},
)
CLUSTERS = [
    Cluster(name=f"c{i}", task=TASKS[i % 3], documents=tuple(f"fact {i}.{d}" for d in range(4 + i % 5 * 3)))
    for i in range(30)
]


def prompts_of_port() -> dict[str, Callable[..., str]]:
    def asked(question: dict[str, Any]) -> Question:
        return Question(
            text=question["question"], answer=question["answer"], options=question.get("options", {})
        )

    def past(examples: list[tuple[str, str]]) -> list[Past]:
        return [Past(documents=(), question=q, answer=a) for q, a in examples]

    return {
        "question": lambda task, texts, examples: MARKED.questioner_chat(task, texts, past(examples))[0][
            "content"
        ],
        "answer": lambda task, texts, question: MARKED.responder_chat(task, texts, asked(question))[0][
            "content"
        ],
        "vote": lambda question, answer: MARKED.verifier_chat(asked(question), answer)[0]["content"],
    }


def played(
    config: spell.Config, steps: int, rules: Rules | None = None
) -> tuple[list[list[Episode]], list[Memory]]:
    """Steps of the recipe with the scripted policy, in letters, and the memory after each."""
    policy = ScriptedPolicy(lambda ask, k: text_of(ask.role, ask.append[0]["content"], k))  # type: ignore[index, call-overload]
    memory = Memory(mode=config.history_mode, length=config.history)
    episodes, memories = [], []
    for step in range(steps):
        one, memory = spell.rollout(
            config, CLUSTERS, self_play(policy), rules or Rules(prompts=MARKED), memory, derive_seed(3, step)
        )
        episodes.append(one)
        memories.append(memory)
    return episodes, memories


def published(config: spell.Config, steps: int) -> list[Any]:
    """The same steps of the port, with the recipe's draws."""
    oracle = port()
    history: dict[int, Any] = {}
    first, done = 0, []
    for _ in range(steps):
        seen: Counter[Any] = Counter()

        def ask(role: str, reading: int, prompt: str, seen: Counter[Any] = seen) -> str:
            seen[role, reading, prompt] += 1
            return text_of(role, prompt, seen[role, reading, prompt] - 1)

        def turn(index: int) -> int:
            memory = Memory(drawn=index)
            (one,) = memory.readings(CLUSTERS, 1, seed=derive_seed(config.seed, 0, 1))
            return one.number

        def fresh(index: int, unseen: list[int]) -> list[int]:
            rng = np.random.default_rng(derive_seed(derive_seed(config.seed, 0, 1), 1, index))
            return [unseen[i] for i in rng.permutation(len(unseen))[: config.documents].tolist()]

        step = oracle.Step(
            [list(c.documents) for c in CLUSTERS],
            [c.task for c in CLUSTERS],
            history,
            ask,
            prompts_of_port(),
            turn,
            fresh,
            batch=config.clusters_per_round,
            most_batches=config.most_rounds,
            questions=config.questions_per_step,
            mode=config.history_mode,
            first=first,
        )
        first += len(step.readings)
        done.append((step, {c: list(entries) for c, entries in history.items()}))
    return done


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_three_steps_are_those_of_the_sequential_port(mode: str) -> None:
    """Oracle: the port, written from the specification: readings, replies, scores, votes, rewards, memory, the samples
    chosen for each role and their advantages."""
    config = replace(PAPER, history_mode=mode)
    ours, memories = played(config, 3)
    theirs = published(config, 3)
    oracle = port()
    for number_, (episodes, memory, (step, history)) in enumerate(zip(ours, memories, theirs, strict=True)):
        assert len(episodes) == len(step.readings)
        for episode, one in zip(episodes, step.readings, strict=True):
            kept, reading = episode.kept, episode.kept["reading"]
            assert (reading.number, list(reading.shown), list(reading.new)) == (
                one.cluster,
                one.shown,
                one.new,
            )
            assert kept["status"] == one.status
            assert episode.turns[0].reply.text == one.said
            assert episode.turns[0].reward == pytest.approx(one.reward, abs=1e-12)
            if one.status == ASKED:
                answers = [episode.turns[t] for t in kept["answers_at"]]
                assert [turn.reply.text for turn in answers] == one.answers
                assert [turn.reward for turn in answers] == one.rewards
                assert (kept["rule"], kept["votes"]) == (one.rules, one.votes)
        remembered = {
            c: [(list(p.documents), p.question, p.answer) for p in past] for c, past in memory.past.items()
        }
        assert remembered == history
        seed = derive_seed(3, number_)

        def choose(purpose: str, candidates: list[Any], count: int, seed: int = seed) -> list[Any]:
            key = derive_seed(seed, 2) if purpose == "votes" else derive_seed(seed, 1) + TASKS.index(purpose)  # type: ignore[arg-type]
            return [candidates[i] for i in drawn(range(len(candidates)), count, key)]

        wanted = oracle.batch(step.readings, config.questions_per_step, choose, share=config.verifier_share)
        chosen, advantages = spell.selected(config, episodes, seed)
        found = {}
        for episode, own, row in zip(episodes, chosen, advantages, strict=True):
            for t in own:
                found[name_of(episode, t)] = row[t]
        assert found.keys() == wanted.keys()
        assert found == pytest.approx(wanted, abs=1e-9)
        counts = Counter(role for role, _, _ in found)
        assert counts[RESPONDER] == 16 * 8
        assert counts[QUESTIONER] == 32
        assert counts[VERIFIER] == 4 * 8


def name_of(episode: Episode, t: int) -> tuple[str, int, Any]:
    """How the port calls a turn."""
    kept, role = episode.kept, episode.turns[t].ask.role
    if role == QUESTIONER:
        return role, episode.index, 0
    if role == RESPONDER:
        return role, episode.index, kept["answers_at"].index(t)
    (k,) = (k for k, places in enumerate(kept["votes_at"]) if t in places)
    return role, episode.index, (k, kept["votes_at"][k].index(t))
