"""Creator and solver as dialogues: prompts are answered, scored and evolved.  Ye et al. 2024, eva, arXiv 2411.00062.

No prompt waits for another: a response is scored as soon as the responses to its prompt are there, and each chain of
mutations goes on by itself, so a batch of prompts takes as many rounds of the creator as a chain is long.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from selfplay_fast.arguments import json_lines, shown
from selfplay_fast.play.dialogue_table import DialogueTable, Outcome, Protocol
from selfplay_fast.play.evolve_prompts import EvolvePrompts, read_evolved, read_score
from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask, Episode, Message, Reply, Sampling, Turn

SOLVER, CREATOR, SCORER = "solver", "creator", "reward_model"

T = TypeVar("T")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A text for the solver, and what it is about, where that is known."""

    text: str
    topic: str = ""


def read_prompts(what: str, path: str | Path) -> list[Prompt]:
    """Rows of a JSONL file with a text ``prompt`` and, if they like, a text ``topic``; each prompt once.

    ValueError that names ``what`` and the line that is not like that, and where there is none.
    """
    found = {prompt.text: prompt for _, prompt in json_lines(what, Path(path), _prompt)}
    if not found:
        raise ValueError(f"{what}: there is no prompt in {path}")
    return list(found.values())


def _prompt(row: Any) -> Prompt:
    text, topic = row.get("prompt"), row.get("topic", "")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"prompt must be a text, got {shown(text)}")
    if not isinstance(topic, str):
        raise ValueError(f"topic must be a text, got {shown(topic)}")
    return Prompt(text=text, topic=topic)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How prompts are answered and evolved. ``topic_of`` names the topic of an evolved prompt; None: its parent's."""

    responses: int = 6
    evolutions: int = 4
    solver: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, top_p=0.9, max_tokens=2048))
    creator: Sampling = field(default_factory=lambda: Sampling(temperature=0.88, max_tokens=666))
    scorer: Sampling = field(default_factory=lambda: Sampling(temperature=0, max_tokens=512))
    prompts: EvolvePrompts = field(default_factory=EvolvePrompts)
    topic_of: Callable[[str], str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Prompts to begin with and to be measured on, the reward model, and a creator unless it is the policy."""

    prompts: Sequence[Prompt]
    eval_prompts: Sequence[Prompt]
    reward_model: Policy
    creator: Policy | None = None

    def cast(self, policy: Policy) -> dict[str, Policy]:
        """Who plays which role."""
        return {SOLVER: policy, CREATOR: self.creator or policy, SCORER: self.reward_model}

    def split(self, step: int, count: int, seed: int) -> list[Prompt]:
        """Those of iteration 1, 2, …: after the last split the first again, each in an order of the seed's."""
        order = np.random.default_rng(seed).permutation(len(self.prompts))
        return [self.prompts[order[i % len(order)]] for i in range((step - 1) * count, step * count)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answered:
    """A prompt with the solver's scored responses, whose rewards are those of their turns; ``unscored``: how many
    nobody scored, ``lost``: how many did not come or had no room."""

    prompt: Prompt
    turns: tuple[Turn, ...]
    unscored: int = 0
    lost: int = 0

    @property
    def rewards(self) -> list[float]:
        """Of the responses, in their order."""
        return [turn.reward for turn in self.turns]

    @property
    def differs(self) -> bool:
        """Is any response better than another?"""
        return len(set(self.rewards)) > 1


def prompt_rows(prompts: Iterable[Prompt]) -> list[Row]:
    """What `read_prompts` reads."""
    return [{"prompt": prompt.text, "topic": prompt.topic} for prompt in prompts]


def answer_prompt(rules: Rules, prompt: Prompt) -> Protocol:
    """One prompt: its responses, then a score of each. ``kept`` has one `Answered` in a list, ``answered``."""
    answered = yield from _answer(rules, [prompt])
    return _outcome(answered, failed=0)


def evolve_prompt(rules: Rules, parent: tuple[int, Prompt]) -> Protocol:
    """A chain of mutations of a prompt, each made of the one before; then all of them are answered and scored.

    The method of each mutation is drawn by the first of ``parent``, a number. A mutation that says nothing new fails
    and the next one begins where it began; ``failed`` in ``kept`` counts them.
    """
    number, prompt = parent
    chain: list[Prompt] = []
    names = list(rules.prompts.methods)
    for k in range(rules.evolutions):
        method = names[derive_seed(number, k) % len(names)]
        said = yield Ask(
            role=CREATOR, append=rules.prompts.creator_chat(prompt.text, method), sampling=rules.creator
        )
        text = None if said.failure else read_evolved(said.public, prompt.text)
        if text is not None:
            topic = prompt.topic if rules.topic_of is None else rules.topic_of(text)
            prompt = Prompt(text=text, topic=topic)
            chain.append(prompt)
    answered = yield from _answer(rules, chain)
    return _outcome(answered, failed=rules.evolutions - len(chain))


def _answer(rules: Rules, prompts: Sequence[Prompt]) -> Generator[Any, Any, list[Answered]]:
    """The responses to some prompts, and their scores: equal responses are scored once."""
    asks = [
        Ask(
            role=SOLVER,
            append=[{"role": "user", "content": prompt.text}],
            n=rules.responses,
            sampling=rules.solver,
        )
        for prompt in prompts
    ]
    replies = yield asks
    said = [[replies[i]] if rules.responses == 1 else replies[i] for i in range(len(asks))]
    pairs = dict.fromkeys(
        (prompt.text, reply.public)
        for prompt, group in zip(prompts, said, strict=True)
        for reply in group
        if reply.finish_reason != "forfeit"
    )
    scores = yield [
        Ask(role=SCORER, append=rules.prompts.score_chat(*pair), sampling=rules.scorer) for pair in pairs
    ]
    known = {
        pair: None if score.failure else read_score(score.public)
        for pair, score in zip(pairs, scores, strict=True)
    }
    return [
        _answered(prompt, ask, group, known) for prompt, ask, group in zip(prompts, asks, said, strict=True)
    ]


def _answered(
    prompt: Prompt, ask: Ask, group: Sequence[Reply], known: dict[tuple[str, str], float | None]
) -> Answered:
    came = [reply for reply in group if reply.finish_reason != "forfeit"]
    rewards = [known[prompt.text, reply.public] for reply in came]
    turns = tuple(
        Turn(ask=ask, reply=reply, reward=reward)
        for reply, reward in zip(came, rewards, strict=True)
        if reward is not None
    )
    return Answered(prompt=prompt, turns=turns, unscored=len(came) - len(turns), lost=len(group) - len(came))


def _outcome(answered: list[Answered], failed: int) -> Outcome:
    rewards = [reward for one in answered for reward in one.rewards]
    mean = sum(rewards) / len(rewards) if rewards else 0.0
    roles = (SOLVER, CREATOR, SCORER)
    returns = dict.fromkeys(roles, 0.0) | {SOLVER: mean}
    return Outcome(returns=returns, kept={"answered": answered, "failed": failed})


def answer_table(
    rules: Rules, prompts: Sequence[Prompt], *, seed: int, share: tuple[int, int] = (0, 1)
) -> DialogueTable:
    """A table that answers and scores prompts; of ``share`` = (i, n) those whose number is i modulo n."""
    mine = range(share[0], len(prompts), share[1])
    own = [prompts[i] for i in mine]
    return DialogueTable(partial(answer_prompt, rules), own, indices=mine, seed=seed, name="answer")


def evolve_table(
    rules: Rules, prompts: Sequence[Prompt], *, seed: int, share: tuple[int, int] = (0, 1)
) -> DialogueTable:
    """A table that evolves prompts and answers what they become, shared likewise."""
    mine = range(share[0], len(prompts), share[1])
    own = [(derive_seed(seed, i), prompts[i]) for i in mine]
    return DialogueTable(partial(evolve_prompt, rules), own, indices=mine, seed=seed, name="evolve")


def function_reward(reward: Callable[[str, str], float | None]) -> Policy:
    """A function of prompt and response as the reward model, for prompts whose ``grade`` is None; None: it cannot
    tell."""

    def say(ask: Ask, sample: int) -> str:
        prompt, response = (message["content"] for message in cast(Sequence[Message], ask.append))
        value = reward(prompt, response)
        return "" if value is None else repr(float(value))

    return ScriptedPolicy(say)


def answered_in(episodes: Iterable[Episode]) -> list[Answered]:
    """All prompts of these episodes with their responses, in order."""
    return [one for episode in episodes for one in episode.kept["answered"]]


def mixed(
    base: Sequence[T], evolved: Sequence[T], *, base_share: float, evolved_share: float, seed: int
) -> list[T]:
    """These shares of both, each of its own number and rounded down, drawn and shuffled by ``seed``."""
    rng = np.random.default_rng(seed)
    parts = [
        [rows[i] for i in rng.permutation(len(rows))[: int(share * len(rows))]]
        for rows, share in ((base, base_share), (evolved, evolved_share))
    ]
    both = [*parts[0], *parts[1]]
    return [both[i] for i in rng.permutation(len(both))]


def preference_rows(answered: Iterable[Answered], *, keep_equal: bool) -> list[Row]:
    """``{"prompt", "chosen", "rejected"}`` and ``score_…`` of both, as TRL takes them: the best against the worst.

    Of equal rewards the first response counts, so where all are equal it is preferred to itself: such pairs, and those
    of a single response, are left out unless ``keep_equal``. Prompts without a scored response have no pair.
    """
    rows = []
    for one in answered:
        if not one.turns or not (one.differs or keep_equal):
            continue
        best, worst = int(np.argmax(one.rewards)), int(np.argmin(one.rewards))
        rows.append(
            {
                "prompt": [{"role": "user", "content": one.prompt.text}],
                "chosen": [{"role": "assistant", "content": one.turns[best].reply.text}],
                "rejected": [{"role": "assistant", "content": one.turns[worst].reply.text}],
                "score_chosen": one.rewards[best],
                "score_rejected": one.rewards[worst],
            }
        )
    return rows


def group_episode(one: Answered, index: int) -> Episode:
    """The responses to a prompt as an episode of a turn each, for `learn.pack`."""
    return Episode(game="answers", index=index, seed=0, group=index, turns=one.turns, returns={SOLVER: 0.0})


def without_copies(answered: Sequence[Answered], known: Iterable[Prompt]) -> list[Answered]:
    """Each prompt once, and none of those ``known``."""
    seen = {prompt.text for prompt in known}
    kept = []
    for one in answered:
        if one.prompt.text not in seen:
            seen.add(one.prompt.text)
            kept.append(one)
    return kept


def filled(prompts: Sequence[Prompt], base: Sequence[Prompt]) -> list[Prompt]:
    """The prompts, each once, and as many of ``base`` as make up for what is missing."""
    kept = {prompt.text: prompt for prompt in prompts}
    for prompt in base:
        if len(kept) < len(base):
            kept.setdefault(prompt.text, prompt)
    return list(kept.values())
