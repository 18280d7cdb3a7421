"""What came of responses and of the searches that began with them: how often they pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from selfplay_fast.play.prompt_sets import PromptSet
from selfplay_fast.refine_search import Refined


def acceptance_metrics(judged: Sequence[Refined], trees: Sequence[Refined]) -> dict[str, float]:
    """How often the actor's responses and the searches passed, and how many searches there were."""
    values = [node.value > 0.5 for tree in judged for node in tree.nodes[1:]]
    return {
        "response_accepted": float(np.mean(values)) if values else 0.0,
        "searches": len(trees),
        "search_accepted": float(np.mean([tree.accepted for tree in trees])) if trees else 0.0,
    }


def held_out_metrics(
    prompts: PromptSet, first: Sequence[Refined], found: Sequence[Refined]
) -> dict[str, float]:
    """Of all held-out prompts, with standard errors: ``accuracy``, a ``first`` response each that passes, and
    ``search_accuracy``, what passes after a search; ``search_responses``: how many these took for a prompt."""
    total, task = len(prompts.held_out), prompts.name
    metrics = {f"{task}/search_responses": sum(len(tree.nodes) for tree in found) / total}
    for name, trees in (("accuracy", first), ("search_accuracy", found)):
        share = sum(prompts.passes(tree) for tree in trees) / total
        metrics[f"{task}/{name}"] = share
        metrics[f"{task}/{name}_error"] = math.sqrt(share * (1 - share) / total)
    return metrics
