"""Search by refinement (SPaR, Cheng et al. 2024, arXiv 2412.11605): responses are rewritten until one passes.

    found = search.refine(drafts, reply)  # reply(wants) -> texts: one call for whatever all trees wait for

A node is a response, its value the share of yes among its judges' verdicts. Children are refinements of their parent,
made from a critique of it; the first level of a draft without a response are responses to the prompt. A best child
above ``accept`` ends the search, else the ``keep`` best are refined in turn. The state machine is C++
(`csrc/search/refine.h`); here are the texts. Every tree goes on by itself; `play.RefineTable` asks policies.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from selfplay_fast import _native, arguments
from selfplay_fast.records import NO_TOKENS, IntArray, Reply

VERDICT = "Final Judgement"  # what a judge writes before its yes or no
START, END = "[[start]]", "[[end]]"  # what stands around a refined response
YES, NO, UNREAD = 1, 0, -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Where a search begins: a prompt and, where there is one, a response and a critique of it.

    Without a response the first level is responses to the prompt. Without a critique the response is judged first: it
    is the result where it passes, and there is none where its votes are tied.
    """

    prompt: str
    response: str | None = None
    critique: str | None = None

    def __post_init__(self) -> None:
        arguments.word("prompt", self.prompt)
        for name in ("response", "critique"):
            if getattr(self, name) is not None:
                arguments.word(name, getattr(self, name))
        if self.critique is not None and self.response is None:
            raise ValueError("critique goes with the response that it is of; give that too, or leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class RefineOptions:
    """How a tree is searched; the defaults are SPaR's.

    order: ``"bfs"`` refines the best of a level, ``"dfs"`` the best child first and comes back to the others.
    branch: children of a node. keep: how many of a level (dfs: of a node's children) are refined. depth: levels below
        the root.
    judgements: verdicts on a response; unread ones are ignored. judge_attempts: how often all of them are drawn where
        they are tied; then the response is dropped. refine_attempts: of one refinement that cannot be read.
    accept: a value above it ends the search.
    """

    order: Literal["bfs", "dfs"] = "bfs"
    branch: int = 3
    keep: int = 2
    depth: int = 3
    judgements: int = 5
    judge_attempts: int = 3
    refine_attempts: int = 9
    accept: float = 0.5

    def __post_init__(self) -> None:
        if self.order not in ("bfs", "dfs"):
            raise ValueError(f"order must be 'bfs' or 'dfs', got {arguments.shown(self.order)}")
        for name in ("branch", "keep", "depth", "judgements", "judge_attempts", "refine_attempts"):
            arguments.whole(name, getattr(self, name), 1, 10_000)
        if (
            isinstance(self.accept, bool)
            or not isinstance(self.accept, int | float)
            or not 0 <= self.accept <= 1
        ):
            raise ValueError(f"accept must be a number from 0 to 1, got {arguments.shown(self.accept)}")
        _native.RefineTree(self.native(), True)  # refuses what is too large

    def native(self) -> _native.RefineOptions:
        """The same for C++."""
        options = _native.RefineOptions()
        options.order = _native.RefineOrder.breadth if self.order == "bfs" else _native.RefineOrder.depth
        for name in ("branch", "keep", "depth", "judgements", "judge_attempts", "refine_attempts", "accept"):
            setattr(options, name, getattr(self, name))
        return options


def best_of(responses: int) -> RefineOptions:
    """So many responses to the prompt, and the best of them: for drafts without a response."""
    return RefineOptions(branch=responses, keep=1, depth=1)


def one_by_one(refinements: int) -> RefineOptions:
    """Iterative refinement: each refines the last one, until one passes."""
    return RefineOptions(branch=1, keep=1, depth=refinements)


class Wanted(NamedTuple):
    """What a tree waits for: ``samples`` replies to one prompt.

    ``"respond"`` to the prompt, ``"judge"`` the response, or ``"refine"`` it by its critique. ``judged`` is the judge's
    reply that holds the critique; None where the draft brought it. ``draw`` names the random draws: it depends on the
    place in the tree or the text judged, not on what else is asked.
    """

    tree: int
    kind: Literal["respond", "judge", "refine"]
    prompt: str
    response: str
    critique: str
    judged: Reply | None
    samples: int
    draw: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinedNode:
    """A response in a tree: its value, its ``votes`` (yes, no), the critique kept, the whole reply it was read from."""

    parent: int | None
    branch: int
    depth: int
    response: str
    value: float
    votes: tuple[int, int] | None
    critique: str | None
    refinement: str | None

    @property
    def unanimous(self) -> bool:
        """Did all verdicts agree?"""
        return self.votes is None or min(self.votes) == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Refined:
    """A tree that is over. ``nodes[0]`` is the draft; ``final`` the result, None where there is none.

    A result that is not ``accepted`` is the best there is, of equals the latest. ``rounds`` are the calls that the tree
    waited for, ``requests`` those of a search that asks for one thing after another, ``samples`` the replies.
    """

    draft: Draft
    nodes: tuple[RefinedNode, ...]
    final: int | None
    accepted: bool
    rounds: int
    requests: int
    samples: int

    @property
    def result(self) -> RefinedNode | None:
        """The final node."""
        return None if self.final is None else self.nodes[self.final]


def read_verdict(critique: str) -> int:
    """1 for Yes, 0 for No, -1 for neither: the first of the words between the marker's first two places."""
    _, marker, rest = critique.partition(VERDICT)
    found = re.search("Yes|No", rest.partition(VERDICT)[0]) if marker else None
    return UNREAD if found is None else YES if found[0] == "Yes" else NO


def read_refinement(reply: str) -> str | None:
    """What stands between the marks, None where that is nothing."""
    _, _, rest = reply.partition(START)
    inside, end, _ = rest.partition(END)
    return inside.strip() or None if end else None


class RefineTree:
    """The tree of one draft: `answer` what is `wanted`, until it is over.

    number: which of several trees it is, as `Wanted` tells it. read_verdict: critique -> 1, 0 or -1; read_refinement:
    reply -> response or None.
    """

    def __init__(
        self,
        draft: Draft,
        options: RefineOptions | None = None,
        *,
        number: int = 0,
        read_verdict: Callable[[str], int] = read_verdict,
        read_refinement: Callable[[str], str | None] = read_refinement,
    ) -> None:
        self.draft = draft
        self.options = options or RefineOptions()
        self.number = number
        self._read_verdict = read_verdict
        self._read_refinement = read_refinement
        self._native = _native.RefineTree(
            self.options.native(), draft.response is None or draft.critique is not None
        )
        self._texts = [draft.response or ""]
        self._numbers = {self._texts[0]: 0}
        self._judged: dict[int, Reply] = {}  # by number of the text: the reply with the critique kept
        self._written: dict[tuple[int, int], str] = {}  # whole replies by (node, branch)

    def wanted(self) -> list[Wanted]:
        """What it waits for, empty when it is over; the same until all of it is answered."""
        return [self._wanted(want) for want in self._native.wanted()]

    def _wanted(self, want: _native.RefineWant) -> Wanted:
        draft, response = self.draft, self._texts[want.text]
        if want.is_judgement:
            draw = _draw_of_text(response, want.attempt)
            return Wanted(self.number, "judge", draft.prompt, response, "", None, want.count, draw)
        draw = self.options.refine_attempts * want.number + want.attempt
        if want.node == 0 and draft.response is None:
            return Wanted(self.number, "respond", draft.prompt, "", "", None, want.count, draw)
        own = want.node == 0 and draft.critique is not None
        judged = None if own else self._judged[want.text]
        critique = judged.text if judged is not None else draft.critique or ""
        return Wanted(self.number, "refine", draft.prompt, response, critique, judged, want.count, draw)

    def answer(self, replies: Sequence[Sequence[Reply]]) -> bool:
        """The replies to each of `wanted`; is it over now?

        Raises ValueError, and nothing changes, where they are not as many as wanted.
        """
        wants = self._native.wanted()
        if [len(said) for said in replies] != [want.count for want in wants]:
            raise ValueError(f"replies: {sum(w.count for w in wants)} in {len(wants)} lists are wanted")
        numbers: list[int] = []
        for want, said in zip(wants, replies, strict=True):
            numbers += self._read(want, [reply.text for reply in said])
        over = self._native.answer(np.array(numbers, np.int64))
        for want, said in zip(wants, replies, strict=True):
            if want.is_judgement:
                vote = self._native.vote(want.text)
                if vote.decided:
                    self._judged[want.text] = said[vote.kept]
        return over

    def _read(self, want: _native.RefineWant, replies: list[str]) -> list[int]:
        """For each reply the number of the text written or the verdict, -1 where it cannot be read."""
        if want.is_judgement:
            return [self._read_verdict(text) for text in replies]
        responds = want.node == 0 and self.draft.response is None
        numbers = []
        for branch, reply in enumerate(replies, want.branch):
            response = (reply.strip() or None) if responds else self._read_refinement(reply)
            numbers.append(UNREAD if response is None else self._number_of(response))
            self._written[want.node, branch] = reply
        return numbers

    def _number_of(self, text: str) -> int:
        number = self._numbers.setdefault(text, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
        return number

    def result(self) -> Refined:
        """The tree that is over."""
        native = self._native
        empty = native.final_node < 0 or (native.final_node == 0 and self.draft.response is None)
        return Refined(
            draft=self.draft,
            nodes=tuple(self._node(place, node) for place, node in enumerate(native.nodes)),
            final=None if empty else native.final_node,
            accepted=native.accepted,
            rounds=native.cost.rounds,
            requests=native.cost.requests,
            samples=native.cost.samples,
        )

    def _node(self, place: int, node: _native.RefineNode) -> RefinedNode:
        vote = self._native.vote(node.text)
        own = place == 0 and self.draft.critique is not None  # of a draft's critique nobody knows the votes
        counted = vote.decided and not own
        critique = self._judged[node.text].text if counted else self.draft.critique
        value = vote.yes / (vote.yes + vote.no) if counted else 0.0
        return RefinedNode(
            parent=None if place == 0 else node.parent,
            branch=node.branch,
            depth=node.depth,
            response=self._texts[node.text],
            value=value,
            votes=(vote.yes, vote.no) if counted else None,
            critique=critique,
            refinement=None if place == 0 else self._written[node.parent, node.branch],
        )


def refine(
    drafts: Sequence[Draft],
    reply: Callable[[Sequence[Wanted]], Sequence[Sequence[str]]],
    options: RefineOptions | None = None,
) -> list[Refined]:
    """Search from every draft; each call of ``reply`` is for whatever all trees wait for.

    reply: gives for each `Wanted` a list of ``samples`` texts. Raises ValueError where it gives fewer or more.
    """
    trees = [RefineTree(draft, options, number=number) for number, draft in enumerate(drafts)]
    growing = trees
    while growing:
        wants = [tree.wanted() for tree in growing]
        asked = [wanted for own in wants for wanted in own]
        said = reply(asked)
        if [len(texts) for texts in said] != [wanted.samples for wanted in asked]:
            raise ValueError(f"replies: {sum(w.samples for w in asked)} in {len(asked)} lists are wanted")
        lists = iter([[Reply(text=text) for text in texts] for texts in said])
        growing = [
            tree
            for tree, own in zip(growing, wants, strict=True)
            if not tree.answer([next(lists) for _ in own])
        ]
    return [tree.result() for tree in trees]


def _draw_of_text(text: str, attempt: int) -> int:
    """Equal texts are judged alike, wherever in a tree and whenever they are met."""
    digest = hashlib.blake2b(f"{attempt} {text}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def context_of(wanted: Wanted) -> IntArray | None:
    """The judge's conversation that a refinement goes on with, where its policy keeps one."""
    context = wanted.judged.context if wanted.judged is not None else NO_TOKENS
    return context if len(context) else None
