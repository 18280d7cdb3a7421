"""What SPaR learns from trees that are over: preference pairs for the actor, dialogues for the refiner.

Rows are plain dicts in the formats of TRL's trainers, in chat form; the sizes are those of the released code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from selfplay_fast.play.refine_prompts import RefinePrompts
from selfplay_fast.policies.streams import stream_ids, uniforms
from selfplay_fast.records import Key
from selfplay_fast.refine_search import Draft, Refined, RefinedNode

Row: TypeAlias = dict[str, Any]
Chat: TypeAlias = list[dict[str, str]]

REFINEMENTS, TREE_YES, TREE_NO, ACTOR_YES, ACTOR_NO = 4000, 1500, 1000, 2500, 500  # rows of each kind at most
_NEGATIVE, _TREE_YES, _TREE_NO, _PASSED = range(4)  # what is picked


def negatives(judged: Sequence[Refined], *, seed: int) -> list[tuple[int, Draft]]:
    """Where searches begin: of each tree with a response voted down one such, by chance; (place of the tree, draft).

    judged: trees of drafts without a response (`best_of`, with ``judge_attempts=1`` to drop ties as SPaR does).
    """
    drafts = []
    for place, tree in enumerate(judged):
        down = [node for node in tree.nodes[1:] if node.value < 0.5]
        if down:
            node = _pick(down, seed, place, _NEGATIVE)
            drafts.append(
                (place, Draft(prompt=tree.draft.prompt, response=node.response, critique=node.critique))
            )
    return drafts


def preference_rows(trees: Sequence[Refined]) -> list[Row]:
    """``{"prompt", "chosen", "rejected"}``: what passed against the response the search began with, not its parent."""
    return [
        _preferred(tree.draft, tree.nodes[tree.final])
        for tree in trees
        if tree.accepted and tree.final and tree.draft.response is not None
    ]


def response_rows(judged: Sequence[Refined], begun: Sequence[tuple[int, Draft]], *, seed: int) -> list[Row]:
    """The same without refinement, an ablation: another response of the same tree that passed, by chance.

    begun: what `negatives` made of ``judged``.
    """
    rows = []
    for place, draft in begun:
        if passed := [node for node in judged[place].nodes[1:] if node.value > 0.5]:
            rows.append(_preferred(draft, _pick(passed, seed, place, _PASSED)))
    return rows


def _preferred(draft: Draft, node: RefinedNode) -> Row:
    return {
        "prompt": [_said("user", draft.prompt)],
        "chosen": [_said("assistant", node.response)],
        "rejected": [_said("assistant", draft.response)],
    }


def refiner_rows(
    trees: Sequence[Refined],
    *,
    seed: int,
    judged: Sequence[Refined] = (),
    prompts: RefinePrompts | None = None,
) -> list[Row]:
    """``{"messages"}``: the last refinement of every search that passed, and judgements that were not unanimous.

    Of a tree one judgement with most votes for yes and one for no at most, by chance; of ``judged``, the responses of
    the actor (see `negatives`), all. Each kind is shuffled and cut to its size; of rows with the same first message
    the first is kept.
    """
    prompts = prompts or RefinePrompts()
    rng = np.random.default_rng(seed)
    rows: list[Chat] = []
    kinds = (
        (_last_refinements(trees, prompts), REFINEMENTS),
        (_judgements(trees, prompts, True, seed), TREE_YES),
        (_judgements(trees, prompts, False, seed), TREE_NO),
        (_all_judgements(judged, prompts, True), ACTOR_YES),
        (_all_judgements(judged, prompts, False), ACTOR_NO),
    )
    for chats, most in kinds:
        rows += [chats[i] for i in rng.permutation(len(chats))[:most]]
    first: dict[str, Chat] = {}
    for chat in rows:
        first.setdefault(chat[0]["content"], chat)
    return [{"messages": chat} for chat in first.values()]


def _last_refinements(trees: Sequence[Refined], prompts: RefinePrompts) -> list[Chat]:
    chats = []
    for tree in trees:
        result = tree.result
        if not tree.accepted or result is None or result.parent is None or tree.draft.response is None:
            continue
        parent = tree.nodes[result.parent]
        asked = prompts.refine_chat(tree.draft.prompt, parent.response, parent.critique or "")
        chats.append([*map(dict, asked), _said("assistant", result.refinement)])
    return chats


def _judgements(trees: Sequence[Refined], prompts: RefinePrompts, yes: bool, seed: int) -> list[Chat]:
    """One of each tree that has such."""
    chats = []
    for place, tree in enumerate(trees):
        if found := _divided(tree, yes):
            picked = _pick(found, seed, place, _TREE_YES if yes else _TREE_NO)
            chats.append(_judgement(tree, picked, prompts))
    return chats


def _all_judgements(trees: Sequence[Refined], prompts: RefinePrompts, yes: bool) -> list[Chat]:
    return [_judgement(tree, node, prompts) for tree in trees for node in _divided(tree, yes)]


def _divided(tree: Refined, yes: bool) -> list[RefinedNode]:
    """The nodes whose judges did not agree, with a majority for yes or for no."""
    return [node for node in tree.nodes[1:] if (0.5 < node.value < 1 if yes else 0 < node.value < 0.5)]


def _judgement(tree: Refined, node: RefinedNode, prompts: RefinePrompts) -> Chat:
    return [
        *map(dict, prompts.judge_chat(tree.draft.prompt, node.response)),
        _said("assistant", node.critique),
    ]


def _pick(nodes: Sequence[RefinedNode], seed: int, place: int, what: int) -> RefinedNode:
    """One by chance, for the same seed the same."""
    (u,) = uniforms(stream_ids([Key(seed, place, what)]), 0)
    return nodes[int(u * len(nodes))]


def _said(role: str, content: str | None) -> dict[str, str]:
    return {"role": role, "content": content or ""}


def tree_to_json(tree: Refined) -> Row:
    """A tree as plain values, which `tree_from_json` reads again."""
    return dataclasses.asdict(tree)


def tree_from_json(row: Mapping[str, Any]) -> Refined:
    """What `tree_to_json` wrote; ValueError for anything else, naming what is wrong."""
    try:
        values = {field.name: row[field.name] for field in dataclasses.fields(Refined)}
        values["draft"] = Draft(**row["draft"])
        values["nodes"] = tuple(
            RefinedNode(**{**node, "votes": None if node["votes"] is None else tuple(node["votes"])})
            for node in row["nodes"]
        )
        if values["final"] is not None:
            values["nodes"][values["final"]]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"not a refinement tree: {type(error).__name__} {error}") from None
    return Refined(**values)
