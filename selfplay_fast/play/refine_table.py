"""A table of refinement trees (SPaR): each goes on by itself, as soon as all that it asked for is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfplay_fast.play.outstanding import Outstanding
from selfplay_fast.play.refine_prompts import RefinePrompts
from selfplay_fast.records import Ask, Episode, Key, Reply, Sampling, Turn
from selfplay_fast.refine_search import (
    UNREAD,
    Draft,
    Refined,
    RefineOptions,
    RefineTree,
    Wanted,
    context_of,
    read_refinement,
    read_verdict,
)

ACTOR, REFINER = "actor", "refiner"
SAMPLINGS: Mapping[str, Sampling] = {  # SPaR's
    "respond": Sampling(temperature=0.9, top_p=0.9, max_tokens=2048),
    "judge": Sampling(temperature=0.7, max_tokens=2048),
    "refine": Sampling(temperature=0.7, max_tokens=3072),
}


@dataclass(slots=True)
class _Growing:
    """A tree, what it asks for now in order, and what has been said to that."""

    tree: RefineTree
    asked: list[tuple[Wanted, Ask]] = field(default_factory=list)
    said: dict[Key, list[Reply]] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)


class RefineTable:
    """The search from every draft; the episode of a draft has its ``index`` (by default its place).

    Samples of one prompt are one ask. The role "refiner" judges and rewrites, and a refinement goes on with the judge's
    conversation, so that a policy that keeps contexts computes the instruction to refine only; with
    ``judge_role`` another role judges, and with ``extend=False`` (for chat templates that rewrite history) every prompt
    is a fresh conversation. The role "actor" answers drafts without a response. ``samplings`` replaces those of
    ``"respond"``, ``"judge"`` or ``"refine"``.

    An episode keeps the tree as ``kept["refined"]``; its return is the value of the result. A tree that gets no reply
    to an ask at all is given up: ``kept["failure"]`` says why. ``keep_turns=False`` drops the turns of episodes.
    """

    def __init__(
        self,
        drafts: Sequence[Draft],
        *,
        seed: int,
        options: RefineOptions | None = None,
        prompts: RefinePrompts | None = None,
        samplings: Mapping[str, Sampling] | None = None,
        judge_role: str = REFINER,
        extend: bool = True,
        indices: Sequence[int] | None = None,
        keep_turns: bool = True,
    ) -> None:
        if unknown := set(samplings or {}) - set(SAMPLINGS):
            raise ValueError(f"samplings: only {', '.join(SAMPLINGS)} are drawn, got {sorted(unknown)[0]!r}")
        if indices is not None and len(indices) != len(drafts):
            raise ValueError(f"indices: must be one per draft, {len(drafts)}, got {len(indices)}")
        if indices is not None and len(set(indices)) != len(indices):
            raise ValueError("indices: must be distinct, for they name the random draws")
        self.seed = seed
        self.prompts = prompts or RefinePrompts()
        self.samplings = {**SAMPLINGS, **(samplings or {})}
        self.judge_role = judge_role
        self.extend = extend
        self.indices = list(range(len(drafts))) if indices is None else list(indices)
        self.keep_turns = keep_turns
        self._growing = {
            index: _Growing(RefineTree(draft, options, number=index))
            for index, draft in zip(self.indices, drafts, strict=True)
        }
        self._ready = list(self.indices)  # trees that have not asked since they went on
        self._outstanding = Outstanding()
        self._finished: list[Episode] = []

    def asks(self) -> Sequence[Ask]:
        """What trees wait for, once each."""
        new = []
        for index in self._ready:
            growing = self._growing[index]
            growing.asked = [(wanted, self._ask(wanted)) for wanted in growing.tree.wanted()]
            new += [ask for _, ask in growing.asked]
        self._ready = []
        return self._outstanding.add(new)

    def _ask(self, wanted: Wanted) -> Ask:
        context = None
        if wanted.kind == "respond":
            role, append = ACTOR, self.prompts.actor_chat(wanted.prompt)
        elif wanted.kind == "judge":
            role, append = self.judge_role, self.prompts.judge_chat(wanted.prompt, wanted.response)
        else:
            role = REFINER
            context = context_of(wanted) if self.extend and self.judge_role == REFINER else None
            if context is None:
                append = self.prompts.refine_chat(wanted.prompt, wanted.response, wanted.critique)
            else:
                append = self.prompts.refine_more(wanted.prompt, wanted.response)
        return Ask(
            role=role,
            append=append,
            key=Key(self.seed, wanted.tree, wanted.draw),
            context=context,
            n=wanted.samples,
            sampling=self.samplings[wanted.kind],
        )

    def answer(self, replies: Sequence[Reply], asks: Sequence[Ask] | None = None) -> None:
        """Take replies; a tree whose asks are all answered goes on."""
        for ask, said in self._outstanding.take(replies, asks):
            growing = self._growing[ask.key.episode]
            growing.said[ask.key] = said
            if len(growing.said) == len(growing.asked):
                self._go_on(ask.key.episode, growing)

    def _go_on(self, index: int, growing: _Growing) -> None:
        said = [growing.said.pop(ask.key) for _, ask in growing.asked]
        groups = list(zip(growing.asked, said, strict=True))
        if self.keep_turns:
            growing.turns += [_turn(*asked, reply) for asked, replies in groups for reply in replies]
        for (wanted, _), replies in groups:
            if all(reply.finish_reason == "forfeit" for reply in replies):
                return self._finish(index, {}, {"failure": f"no reply to the {wanted.kind} prompt"})
        if not growing.tree.answer(said):
            return self._ready.append(index)
        refined = growing.tree.result()
        role = ACTOR if refined.draft.response is None else REFINER
        value = refined.result.value if refined.result is not None else 0.0
        self._finish(index, {role: value}, {"refined": refined})

    def _finish(self, index: int, returns: Mapping[str, float], kept: Mapping[str, Refined | str]) -> None:
        self._finished.append(
            Episode(
                game="refine",
                index=index,
                seed=self.seed,
                group=index,
                turns=tuple(self._growing.pop(index).turns),
                returns=returns,
                kept=kept,
            )
        )

    def finished(self) -> Sequence[Episode]:
        """Episodes that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished


def refine_table(drafts: Sequence[Draft], *, share: tuple[int, int] = (0, 1), **settings: Any) -> RefineTable:
    """A `RefineTable` with these settings; of ``share`` = (i, n) of those drafts whose number is i modulo n."""
    own = range(len(drafts))[share[0] :: share[1]]
    return RefineTable([drafts[i] for i in own], indices=own, **settings)


def _turn(wanted: Wanted, ask: Ask, reply: Reply) -> Turn:
    refusal = None
    if reply.finish_reason == "forfeit":
        refusal = "no reply"
    elif wanted.kind == "judge" and read_verdict(reply.text) == UNREAD:
        refusal = "no verdict"
    elif wanted.kind == "refine" and read_refinement(reply.text) is None:
        refusal = "no refined output"
    return Turn(ask=ask, reply=reply, refusal=refusal)
