"""Attack games as dialogues: attack, answer, labels; nobody waits for another game.  Liu et al. 2025, arXiv 2506.07468.

A seed that is not attacked goes to the defender at once, while attackers still write, and labels are asked for as
games end. The reasoning of a role stays with it: the other reads its public answer only (`attack_rules.read_reply`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from selfplay_fast.arguments import json_lines, shown
from selfplay_fast.play.attack_prompts import AttackPrompts
from selfplay_fast.play.attack_rules import (
    ATTACKER,
    DEFENDER,
    JUDGE,
    Labels,
    Payoff,
    Said,
    form_rewards,
    payoffs,
    read_labels,
    read_reply,
    write_labels,
)
from selfplay_fast.play.dialogue_table import DialogueTable, Outcome, Protocol
from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Ask, Message, Reply, Sampling

NAME = "attack_game"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    """A request to begin with. ``attacked``: the attacker rewrites it ("generated"), or it goes on as it is
    ("vanilla")."""

    text: str
    harmful: bool
    attacked: bool = True

    @property
    def kind(self) -> str:
        """One of the four: "generated_harmful", "vanilla_benign", …"""
        return f"{'generated' if self.attacked else 'vanilla'}_{'harmful' if self.harmful else 'benign'}"


def mark_attacked(seeds: Sequence[Seed], share: float, seed: int) -> list[Seed]:
    """The seeds, of each class this share to be attacked, which ones follows from ``seed``.

    Halves are rounded to even. With as many harmful as benign ones and 0.5 each of the four kinds is a quarter.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: must be between 0 and 1, got {share}")
    rng = np.random.default_rng(seed)
    attacked = np.zeros(len(seeds), bool)
    for harmful in (True, False):
        own = np.array([i for i, one in enumerate(seeds) if one.harmful == harmful], np.int64)
        attacked[rng.permutation(own)[: round(share * len(own))]] = True
    return [replace(one, attacked=bool(mark)) for one, mark in zip(seeds, attacked, strict=True)]


def seeds_of_step(seeds: Sequence[Seed], step: int, count: int, seed: int) -> list[Seed]:
    """The ``count`` seeds of step 1, 2, …: pass after pass over all of them, each in an order of its own."""
    chosen: list[Seed] = []
    for place in range((step - 1) * count, step * count):
        epoch, rest = divmod(place, len(seeds))
        if rest == 0 or not chosen:
            order = np.random.default_rng(derive_seed(seed, epoch)).permutation(len(seeds))
        chosen.append(seeds[order[rest]])
    return chosen


def _seed(row: Mapping[str, Any]) -> Seed:
    text, kind = row.get("vanilla"), row.get("data_type")
    if not (isinstance(text, str) and isinstance(kind, str) and kind.endswith(("harmful", "benign"))):
        raise ValueError(
            "must have the texts vanilla and data_type, which ends in harmful or benign, "
            f"got {shown(json.dumps(row, ensure_ascii=False))}"
        )
    return Seed(text=text, harmful=kind.endswith("harmful"))


def read_seeds(path: str | Path, setting: str = "seeds") -> list[Seed]:
    """A file of JSON lines: ``vanilla`` is the text, ``data_type`` ends in "harmful" or "benign" (WildJailbreak's).

    ValueError with ``setting`` and the line's number for one that is not like that, and where there is none.
    """
    found = [seed for _, seed in json_lines(setting, Path(path), _seed)]
    if not found:
        raise ValueError(f"{setting}: {path} is empty")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How games are played. ``thinks``: roles think before they answer, and lose ``form`` where they break the form;
    otherwise all they say is public, and no form is paid for."""

    payoff: Payoff = "general_sum"
    thinks: bool = True
    form: float = 1.0
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=2048))
    judge_sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0, max_tokens=64))
    prompts: AttackPrompts = field(default_factory=AttackPrompts)

    def ask(self, role: str, messages: Sequence[Message]) -> Ask:
        """A role's turn, which begins in its reasoning."""
        opened = self.prompts.opening if self.thinks else ""
        return Ask(role=role, append=messages, sampling=self.sampling, forced_prefix=opened)

    def read(self, reply: Reply) -> Said:
        """What a role has said."""
        if not self.thinks:
            return Said("", reply.public, True)
        return read_reply(reply.text.removeprefix(self.prompts.opening))


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Seeds to train on and held out, rules, the judge, and dialogues to imitate."""

    seeds: Sequence[Seed]
    held_out: Sequence[Seed]
    rules: Rules
    judge: Policy
    rows: Sequence[Mapping[str, Any]] = ()


def attack_game(rules: Rules, seed: Seed) -> Protocol:
    """One game. ``kept`` has its ``seed``, ``attack``, ``said`` by role, ``labels`` and, where it counts for nothing,
    ``dropped``: why.

    "no_room": a prompt did not fit the context; "lost": a player did not answer; "unlabelled": no judge's answer, or
    none that can be read; "tie": a label is missing. Of ties the returns are what the others are worth.
    """
    kept: dict[str, Any] = {"seed": seed, "attack": seed.text, "said": {}, "labels": None}
    if seed.attacked:
        reply = yield rules.ask(ATTACKER, rules.prompts.attacker_chat(seed.text, harmful=seed.harmful))
        if reply.finish_reason == "forfeit":
            return _dropped(kept, reply)
        kept["said"][ATTACKER] = rules.read(reply)
        kept["attack"] = kept["said"][ATTACKER].public
    reply = yield rules.ask(DEFENDER, rules.prompts.defender_chat(kept["attack"]))
    if reply.finish_reason == "forfeit":
        return _dropped(kept, reply)
    kept["said"][DEFENDER] = answer = rules.read(reply)
    verdict = yield Ask(
        role=JUDGE,
        append=rules.prompts.judge_chat(kept["attack"], answer.public),
        sampling=rules.judge_sampling,
    )
    kept["labels"] = labels = read_labels(verdict.public)
    if labels is None:
        return Outcome(returns=_nothing(seed), kept=kept | {"dropped": "unlabelled"})
    if labels.is_tie:
        kept["dropped"] = "tie"
    paid = payoffs(labels, seed.harmful, rules.payoff)
    form = form_rewards(kept["said"], rules.form if rules.thinks else 0.0)
    returns = {role: paid[role] + form[role] for role in _players(seed)}
    return Outcome(returns=returns, rewards=dict(enumerate(returns.values())), kept=kept)


def _players(seed: Seed) -> tuple[str, ...]:
    return (ATTACKER, DEFENDER) if seed.attacked else (DEFENDER,)


def _nothing(seed: Seed) -> Mapping[str, float]:
    return dict.fromkeys(_players(seed), 0.0)


def _dropped(kept: dict[str, Any], reply: Reply) -> Outcome:
    why = "no_room" if reply.no_room else "lost"
    return Outcome(returns=_nothing(kept["seed"]), kept=kept | {"dropped": why})


def function_judge(label: Callable[[str, str], Labels | None]) -> Policy:
    """A function of attack and answer as the judge, for prompts whose ``judge`` is None; None: it cannot tell."""

    def say(ask: Ask, sample: int) -> str:
        attack, answer = (message["content"] for message in cast(Sequence[Message], ask.append))
        labels = label(attack, answer)
        return "" if labels is None else write_labels(labels)

    return ScriptedPolicy(say)


def attack_table(
    seeds: Iterable[Seed], *, seed: int, rules: Rules, share: tuple[int, int] = (0, 1)
) -> DialogueTable:
    """A table of a game for every seed; of ``share`` = (i, n) those whose number is i modulo n."""
    numbered = list(enumerate(seeds))[share[0] :: share[1]]
    return DialogueTable(
        partial(attack_game, rules),
        [one for _, one in numbered],
        indices=[number for number, _ in numbered],
        seed=seed,
        name=NAME,
    )
