"""A table of refinement trees (SPaR): a round asks for whatever any tree waits for, whatever its depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfplay_fast.play.outstanding import Outstanding
from selfplay_fast.play.refine_prompts import RefinePrompts
from selfplay_fast.records import Ask, Episode, Key, Reply, Sampling, Turn
from selfplay_fast.refine_search import (
    UNREAD,
    Draft,
    Refined,
    RefineOptions,
    RefineTrees,
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
        self.seed = seed
        self.prompts = prompts or RefinePrompts()
        self.samplings = {**SAMPLINGS, **(samplings or {})}
        self.judge_role = judge_role
        self.extend = extend
        self.indices = list(range(len(drafts))) if indices is None else list(indices)
        self.keep_turns = keep_turns
        self.rounds = 0
        self._trees = RefineTrees(drafts, options)
        self._turns: list[list[Turn]] = [[] for _ in drafts]
        self._asked: list[tuple[Wanted, Ask]] = []
        self._outstanding = Outstanding()
        self._said: dict[Key, list[Reply]] = {}
        self._finished: list[Episode] = []

    def asks(self) -> Sequence[Ask]:
        """What all trees wait for, once each; a round begins when the one before is answered."""
        if self._asked:
            return []
        self._asked = [(wanted, self._ask(wanted)) for wanted in self._trees.select()]
        return self._outstanding.add([ask for _, ask in self._asked])

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
            key=Key(self.seed, self.indices[wanted.tree], wanted.draw),
            context=context,
            n=wanted.samples,
            sampling=self.samplings[wanted.kind],
        )

    def answer(self, replies: Sequence[Reply], asks: Sequence[Ask] | None = None) -> None:
        """Take replies; with the last of a round, read all and let every tree go on as far as it can."""
        self._said.update((ask.key, part) for ask, part in self._outstanding.take(replies, asks))
        if len(self._said) < len(self._asked):
            return
        said = [self._said.pop(ask.key) for _, ask in self._asked]
        failures: dict[int, str] = {}
        for (wanted, ask), group in zip(self._asked, said, strict=True):
            if self.keep_turns:
                self._turns[wanted.tree] += [_turn(wanted, ask, reply) for reply in group]
            if all(reply.finish_reason == "forfeit" for reply in group):
                failures[wanted.tree] = f"no reply to the {wanted.kind} prompt"
        for tree, failure in failures.items():
            self._trees.close(tree)
            self._finish(tree, {}, {"failure": failure})
        over = self._trees.answer(said)
        self._asked = []
        self.rounds += 1
        for tree in over:
            refined = self._trees.result(tree)
            role = ACTOR if refined.draft.response is None else REFINER
            value = refined.result.value if refined.result is not None else 0.0
            self._finish(tree, {role: value}, {"refined": refined})

    def _finish(self, tree: int, returns: Mapping[str, float], kept: Mapping[str, Refined | str]) -> None:
        index = self.indices[tree]
        turns, self._turns[tree] = tuple(self._turns[tree]), []
        self._finished.append(
            Episode(
                game="refine",
                index=index,
                seed=self.seed,
                group=index,
                turns=turns,
                returns=returns,
                kept=kept,
            )
        )

    def finished(self) -> Sequence[Episode]:
        """Episodes that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished


def _turn(wanted: Wanted, ask: Ask, reply: Reply) -> Turn:
    refusal = None
    if reply.finish_reason == "forfeit":
        refusal = "no reply"
    elif wanted.kind == "judge" and read_verdict(reply.text) == UNREAD:
        refusal = "no verdict"
    elif wanted.kind == "refine" and read_refinement(reply.text) is None:
        refusal = "no refined output"
    return Turn(ask=ask, reply=reply, refusal=refusal)
