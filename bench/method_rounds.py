"""Published self-play methods by our scheduler and as published: policy calls and steps that depend on each other.

No model computes anything: replies follow from their prompts by a hash, some of them long. Both sides must get the same
trajectories, rewards and dropped games, which is asserted; the peers are the ports of the published loops in
tests/oracles/. A policy call answers all that was asked at once. A step is one token of every reply that is being
spoken, so steps are the time of a rollout whose batch is never too large: the published loops wait for the longest
reply of each phase, ours for the longest chain of replies of one game. "one after another" are the steps of the port as
it stands, a request at a time.

    python bench/method_rounds.py [--games 128] [--repeats 5] [--methods self_redteam]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from _measure import machine, save

from selfplay_fast.evaluate.answers import AnswerVerifier
from selfplay_fast.play import play, play_dialogues, self_play
from selfplay_fast.play.attack_game import Rules, Seed, attack_table, mark_attacked
from selfplay_fast.play.attack_prompts import AttackPrompts
from selfplay_fast.play.attack_rules import JUDGE, Labels, write_labels
from selfplay_fast.play.document_game import ASKED, document_table
from selfplay_fast.play.document_game import Rules as ReadingRules
from selfplay_fast.play.document_prompts import EMPTY, DocumentPrompts
from selfplay_fast.play.document_rules import QUESTIONER, RESPONDER, VERIFIER, Question
from selfplay_fast.play.documents import Cluster, Memory
from selfplay_fast.play.effort import EffortJudge, judge_messages, read_grade
from selfplay_fast.play.evolve_prompts import GRADED, read_score
from selfplay_fast.play.evolving import (
    CREATOR,
    SCORER,
    SOLVER,
    Prompt,
    answer_table,
    answered_in,
    evolve_table,
    mixed,
    preference_rows,
)
from selfplay_fast.play.evolving import Rules as EvolveRules
from selfplay_fast.play.informativeness import choose, informativeness
from selfplay_fast.play.word_problems import Problem
from selfplay_fast.policies.base import Answer
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.recipes import rlsp as recipe
from selfplay_fast.records import Ask, Reply


def drawn(*parts: object) -> int:
    """A number in 0 … 2^32 - 1 that follows from the parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def length_of(role: str, prompt: str, longest: int, sample: int = 0) -> int:
    """Tokens of a reply: most are short, a few are long, as a heavy tail has it."""
    u = (drawn("length", role, prompt, *([sample] if sample else [])) + 1) / 2**32
    return min(longest, max(8, round(longest / 16 / u**0.5)))


class Spoken:
    """Says ``text(role, prompt, sample)`` in `length_of` steps, a token of everything at each; or all in one call.

    ``steps`` and ``calls`` count those in which anybody spoke.
    """

    def __init__(self, text: Callable[[str, str, int], str], longest: dict[str, int]) -> None:
        self.text = text
        self.longest = longest
        self.steps = self.calls = 0
        self._left: dict[Ask, int] = {}

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """As a policy that is asked in rounds."""
        self.calls += 1
        return [reply for ask in asks for reply in self._said(ask)]

    def _said(self, ask: Ask) -> list[Reply]:
        return [Reply(text=self.text(ask.role, _prompt(ask), k)) for k in range(ask.n)]

    def submit(self, asks: Sequence[Ask]) -> None:
        """As a stream of replies."""
        for ask in asks:
            longest = self.longest[ask.role]
            self._left[ask] = max(length_of(ask.role, _prompt(ask), longest, k) for k in range(ask.n))

    @property
    def pending(self) -> int:
        """Replies that are being spoken."""
        return len(self._left)

    def step(self) -> list[Answer]:
        """A token of all of them."""
        self.steps += 1
        self._left = {ask: left - 1 for ask, left in self._left.items()}
        done = [ask for ask, left in self._left.items() if not left]
        for ask in done:
            del self._left[ask]
        return [(ask, self._said(ask)) for ask in done]


class Streaming(Spoken):
    """The same as a policy with a stream, which is itself."""

    def stream(self) -> Streaming:
        """Itself: one clock for all that is spoken."""
        return self

    def score(self, asks: Sequence[Ask]) -> Any:
        """Nobody asks."""
        raise NotImplementedError


def _prompt(ask: Ask) -> str:
    return "\n".join(message["content"] for message in ask.append)  # type: ignore[index]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of one step of a method: requests, our calls and the port's phases; steps of ours, by phases, one by one."""

    requests: int
    calls: int
    phases: int
    ours: int
    barriers: int
    sequential: int


def port(name: str) -> ModuleType:
    """The published loop in tests/oracles/."""
    path = Path(__file__).parents[1] / "tests" / "oracles" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_port", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- Self-RedTeam ------------------------------------------------------------------------------------------------------

_LONGEST = {"attacker": 2048, "defender": 2048, JUDGE: 32}


def _attack_text(role: str, prompt: str, sample: int = 0) -> str:
    n = drawn(role, prompt)
    if role == JUDGE:
        labels = [(True, False, None)[n // 8**k % (3 if n % 7 == 0 else 2)] for k in range(1, 4)]
        return "no idea" if n % 13 == 0 else write_labels(Labels(*labels))
    answer = f"{role} {n}"
    return f"hm {answer}" if n % 5 == 0 else f"hm</think><answer>{answer}</answer>"


def self_redteam(games: int, repeat: int) -> Counts:
    """Attackers, defenders and the judge wait for each other's last reply there; here no game waits for another."""
    prompts = AttackPrompts(opening="")
    seeds = [Seed(text=f"seed {repeat} {i}", harmful=i % 2 == 0) for i in range(games)]
    seeds = mark_attacked(seeds, 0.5, repeat)
    spent: dict[str, list[int]] = {"attacker": [], "defender": [], JUDGE: []}

    def ask(role: str, game: int, prompt: str) -> tuple[str, list[float]]:
        spent[role].append(length_of(role, prompt, _LONGEST[role]))
        return _attack_text(role, prompt), []

    def label(attack: str, answer: str) -> tuple[bool | None, ...] | None:
        from selfplay_fast.play.attack_rules import read_labels

        found = read_labels(ask(JUDGE, 0, prompts.judge_chat(attack, answer)[0]["content"])[0])
        return None if found is None else (found.attack_harmful, found.refused, found.answer_harmful)

    published = port("self_redteam").Step(
        [(seed.text, seed.harmful, seed.attacked) for seed in seeds],
        ask,
        label,
        lambda text, harmful: prompts.attacker_chat(text, harmful=harmful)[0]["content"],
        lambda attack: prompts.defender_chat(attack)[0]["content"],
    )
    rules = Rules(prompts=prompts)
    rounds, stream = Spoken(_attack_text, _LONGEST), Streaming(_attack_text, _LONGEST)
    for policy in (rounds, stream):
        episodes = play(self_play(policy), [attack_table(seeds, seed=0, rules=rules)])  # type: ignore[arg-type]
        rewards = {
            (turn.ask.role, episode.index, turn.reply.text): turn.reward
            for episode in episodes
            if "dropped" not in episode.kept
            for turn in episode.turns
            if turn.ask.role != JUDGE
        }
        theirs = {(t.role, t.game, t.text): t.reward for t in published.trajectories}
        assert rewards == theirs, "trajectories or rewards differ"
    return Counts(
        requests=published.calls,
        calls=rounds.calls,
        phases=3,
        ours=stream.steps,
        barriers=sum(max(lengths) for lengths in spent.values()),
        sequential=sum(map(sum, spent.values())),
    )


# -- RLSP --------------------------------------------------------------------------------------------------------------

_SOLVING = {"solver": 4096, "judge": 256}


def _solving_text(role: str, prompt: str, sample: int = 0) -> str:
    n = drawn(role, prompt)
    if role == "judge":
        return "no idea" if n % 13 == 0 else f'{{"grade": {n % 11 / 10}}}'
    return "x" * (n % 900) + ("" if n % 7 == 0 else f"\\boxed{{{n % 3}}}")


def rlsp(games: int, repeat: int) -> Counts:
    """Grades of effort are asked for when all replies are there; here a reply is graded as soon as it is whole."""
    config = recipe.Config(judge="a model", judge_attempts=3, length_bonus=100.0)
    problems = [Problem(question=f"problem {repeat} {i}", answer=str(i % 3)) for i in range(games)]
    equal = AnswerVerifier("exact").equal
    spent: dict[str, list[int]] = {"solver": [], "judge": []}
    graded: list[int] = []  # steps of all attempts at a reply

    def ask(role: str, prompt: str) -> str:
        spent[role].append(length_of(role, prompt, _SOLVING[role]))
        return _solving_text(role, prompt)

    def grade(question: str, reasoning: str) -> float:
        prompt = "\n".join(message["content"] for message in judge_messages(question, reasoning))
        graded.append(0)
        for _ in range(config.judge_attempts):
            found = read_grade(ask("judge", prompt))
            graded[-1] += spent["judge"][-1]
            if found is not None:
                return found
        raise ValueError("no grade")

    paid = [
        port("rlsp").served(
            ask("solver", problem.question),
            problem.answer,
            equal,
            c=config.length_bonus,
            judge=partial(grade, problem.question),
            alpha=config.correctness_weight,
        )
        for problem in problems
    ]
    protocol = partial(recipe.solve, config, equal, EffortJudge(attempts=config.judge_attempts))
    rounds, stream = Spoken(_solving_text, _SOLVING), Streaming(_solving_text, _SOLVING)
    for policy in (rounds, stream):
        episodes = play_dialogues(self_play(policy), protocol, problems, seed=0)  # type: ignore[arg-type]
        ours = [episode.returns["solver"] for episode in episodes]
        assert all(abs(a - b) < 1e-9 for a, b in zip(ours, paid, strict=True)), "rewards differ"
    return Counts(
        requests=sum(map(len, spent.values())),
        calls=rounds.calls,
        phases=2,
        ours=stream.steps,
        barriers=max(spent["solver"]) + max(graded),
        sequential=sum(map(sum, spent.values())),
    )


# -- SPELL -------------------------------------------------------------------------------------------------------------

_READING = {QUESTIONER: 4096, RESPONDER: 4096, VERIFIER: 512}


def _reading_text(role: str, prompt: str, sample: int) -> str:
    n = drawn(role, prompt, sample)
    if role == VERIFIER:
        return "unsure" if n % 9 == 0 else f"[[{'YES' if n // 9 % 4 == 0 else 'NO'}]]"
    if role == RESPONDER:
        return f"The answer is {('red', 'green', 'blue')[n % 3]}."
    asked = {"question": f"what is {n}?", "answer": ("red", "green")[n % 2]}
    return "no" if n % 7 == 0 else json.dumps(asked)


def spell(games: int, repeat: int, *, ground_first: bool = True) -> Counts:
    """Four phases wait for the last reply of the one before there; here a cluster waits for its own replies only."""
    prompts = DocumentPrompts()
    clusters = [
        Cluster(name=str(i), task="general", documents=tuple(f"fact {repeat} {i} {d}" for d in range(8)))
        for i in range(games)
    ]
    readings = Memory().readings(clusters, games, seed=repeat)
    phases: dict[tuple[str, bool], list[int]] = {}
    seen: Counter[tuple[str, int, str]] = Counter()

    def ask(role: str, reading: int, prompt: str) -> str:
        sample = seen[role, reading, prompt]
        seen[role, reading, prompt] += 1
        phases.setdefault((role, EMPTY in prompt), []).append(length_of(role, prompt, _READING[role], sample))
        return _reading_text(role, prompt, sample)

    def question(found: dict[str, str]) -> Question:
        return Question(text=found["question"], answer=found["answer"])

    published = port("spell").Step(
        [list(cluster.documents) for cluster in clusters],
        [cluster.task for cluster in clusters],
        {},
        ask,
        {
            "question": lambda task, texts, past: prompts.questioner_chat(task, texts, [])[0]["content"],
            "answer": lambda task, texts, q: prompts.responder_chat(task, texts, question(q))[0]["content"],
            "vote": lambda q, answer: prompts.verifier_chat(question(q), answer)[0]["content"],
        },
        lambda index: readings[index].number,
        lambda index, unseen: readings[index].new,
        batch=games,
        most_batches=1,
        questions=games,
    )
    rules = ReadingRules(prompts=prompts, ground_first=ground_first)
    rounds, stream = Spoken(_reading_text, _READING), Streaming(_reading_text, _READING)
    for policy in (rounds, stream):
        episodes = play(self_play(policy), [document_table(readings, seed=0, rules=rules)])  # type: ignore[arg-type]
        for episode, theirs in zip(episodes, published.readings, strict=True):
            kept = episode.kept
            assert (kept["status"], episode.turns[0].reward) == (theirs.status, theirs.reward), (
                "questions differ"
            )
            if kept["status"] == ASKED:
                rewards = [episode.turns[t].reward for t in kept["answers_at"]]
                assert (rewards, kept["votes"]) == (theirs.rewards, theirs.votes), "answers or votes differ"
    return Counts(
        requests=published.requests,
        calls=rounds.calls,
        phases=published.phases,
        ours=stream.steps,
        barriers=sum(max(lengths) for lengths in phases.values()),
        sequential=sum(map(sum, phases.values())),
    )


# -- eva ---------------------------------------------------------------------------------------------------------------

_EVA_LONGEST = {SOLVER: 2048, CREATOR: 666, SCORER: 32}


def _eva_text(role: str, prompt: str, sample: int = 0) -> str:
    n = drawn(role, prompt, sample)
    if role == SCORER:
        return "no idea" if n % 13 == 0 else f"Score: {n % 11}"
    return f"{role} {n}"


def eva(games: int, repeat: int) -> Counts:
    """Six passes of one response, four of mutations and six again there, each of which waits for its longest reply, and
    then a reward model that is asked about one prompt at a time; here a pass, four and a pass, each dialogue by itself.

    As many prompts as games; phases are the published passes, 16 of generation and one of scoring for every prompt.
    """
    rules = EvolveRules(prompts=GRADED)
    prompts = [f"prompt {repeat} {i}" for i in range(games)]
    spent: list[int] = []

    def ask(role: str, prompt: str, sample: int = 0) -> str:
        spent.append(length_of(role, prompt, _EVA_LONGEST[role], sample))
        return _eva_text(role, prompt, sample)

    def chat(messages: Sequence[Any]) -> str:
        return str(messages[0]["content"])

    names, rng = list(rules.prompts.methods), np.random.default_rng(repeat)
    published = port("eva").EvolveStep(
        lambda prompt, i: ask(SOLVER, prompt, i),
        lambda prompt, said: read_score(ask(SCORER, chat(rules.prompts.score_chat(prompt, said)))),
        lambda prompt, method: ask(CREATOR, chat(rules.prompts.creator_chat(prompt, method))),
    )
    uniform = (1 - np.random.default_rng(repeat).random(games)).tolist()
    published.run(
        prompts,
        "reward_gap",
        uniform,
        lambda i, k: names[derive_seed(derive_seed(repeat, i), k) % len(names)],
        lambda n: rng.permutation(n).tolist(),
    )
    rounds, stream = Spoken(_eva_text, _EVA_LONGEST), Streaming(_eva_text, _EVA_LONGEST)
    for policy in (rounds, stream):
        cast: Any = self_play(policy)  # type: ignore[arg-type]
        every = answered_in(play(cast, [answer_table(rules, [Prompt(text=p) for p in prompts], seed=repeat)]))
        base = [one for one in every if one.turns]
        places = choose(informativeness([one.rewards for one in base]), len(base) // 4, seed=repeat)
        chosen = [base[place].prompt for place in places]
        evolved = answered_in(play(cast, [evolve_table(rules, chosen, seed=repeat)]))
        mix = mixed(base, evolved, base_share=0.2, evolved_share=0.8, seed=repeat)
        pairs = [
            tuple(row[side][0]["content"] for side in ("prompt", "chosen", "rejected"))
            for row in preference_rows(mix, keep_equal=True)
        ]
        assert pairs == published.pairs, "pairs differ"
    return Counts(
        requests=len(spent),
        calls=rounds.calls,
        phases=published.generation_passes + published.scoring_passes,
        ours=stream.steps,
        barriers=_by_passes(published, spent, games),
        sequential=sum(spent),
    )


def _by_passes(published: Any, spent: Sequence[int], games: int) -> int:
    """Steps of the published passes, each as long as its longest reply: of ``spent``, in the order of requests."""
    drawn_prompts, new = len(published.drawn), len(published.new_prompts)
    sizes = [games] * 6 + [6] * games + [drawn_prompts] * 4 + [new] * 6 + [6] * new
    ends = np.cumsum(sizes)
    assert ends[-1] == len(spent)
    return sum(max(spent[end - size : end]) for size, end in zip(sizes, ends.tolist(), strict=True))


METHODS: dict[str, Callable[[int, int], Counts]] = {
    "self_redteam": self_redteam,
    "rlsp": rlsp,
    "eva": eva,
    "spell": spell,
    "spell, ground beside answers": partial(spell, ground_first=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", type=int, default=128, help="games of a step of the method")
    parser.add_argument("--repeats", type=int, default=5, help="steps with other replies; medians are shown")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    facts = machine(["selfplay_fast"])
    print(
        "| method | requests | calls: ours, published | steps: ours, published, one by one | ratio | spread |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    rows = []
    for name in args.methods:
        counts = [METHODS[name](args.games, repeat) for repeat in range(args.repeats)]
        middle = {
            field: statistics.median(getattr(one, field) for one in counts)
            for field in Counts.__dataclass_fields__
        }
        spread = {
            side: (max(values) - min(values)) / statistics.median(values)
            for side, values in (("ours", [c.ours for c in counts]), ("peer", [c.barriers for c in counts]))
        }
        ratio = statistics.median(one.barriers / one.ours for one in counts)
        print(
            f"| {name}, {args.games} games | {middle['requests']:,.0f} | {middle['calls']:.0f}, {middle['phases']:.0f} "
            f"| {middle['ours']:,.0f}, {middle['barriers']:,.0f}, {middle['sequential']:,.0f} | {ratio:.2f} "
            f"| {spread['ours']:.0%} / {spread['peer']:.0%} |"
        )
        row = {"case": f"{name}, {args.games} games", "unit": "steps a rollout", "ratio": ratio, **middle}
        rows.append(
            row
            | {"ours": middle["ours"], "peer": middle["barriers"]}
            | {f"{side}_spread": value for side, value in spread.items()}
        )
    save("method_rounds", facts, rows)


if __name__ == "__main__":
    main()
