"""What a creator makes of prompts and a solver of them, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from selfplay_fast.play.evolving import Answered, Prompt
from selfplay_fast.play.informativeness import informativeness


def held_out_metrics(answered: Sequence[Answered]) -> dict[str, float]:
    """The mean reward of held-out prompts, ``held_out/reward``, with its standard error over prompts, and the mean of
    those of each topic that has a name."""
    rewards: dict[str, list[float]] = {}
    for one in answered:
        names = ["held_out/reward", *([f"held_out_topic/{one.prompt.topic}"] if one.prompt.topic else [])]
        for name in names:
            rewards.setdefault(name, []).extend(one.rewards)
    metrics = {name: float(np.mean(values)) for name, values in rewards.items() if values}
    means = [np.mean(one.rewards) for one in answered if one.rewards]
    if len(means) > 1:
        metrics["held_out/reward_error"] = float(np.std(means, ddof=1) / len(means) ** 0.5)
    return metrics


def prompt_metrics(
    answered: Sequence[Answered], drawn: Sequence[Prompt], evolved: Sequence[Answered]
) -> dict[str, float]:
    """Of the prompts of an iteration, those drawn to be evolved and those they became: how many there are, the mean
    reward and its mean gap; and where all topics are numbers, as difficulties are, their mean."""
    metrics: dict[str, float] = {"base/prompts": len(answered), "evolved/prompts": len(evolved)}
    for name, group in (("base", answered), ("evolved", evolved)):
        if group:
            metrics[f"{name}/reward"] = float(np.mean([np.mean(one.rewards) for one in group]))
            metrics[f"{name}/reward_gap"] = float(informativeness([one.rewards for one in group]).mean())
    asked = {
        "base": [one.prompt for one in answered],
        "drawn": drawn,
        "evolved": [one.prompt for one in evolved],
    }
    for name, prompts in asked.items():
        if prompts and all(prompt.topic.isdecimal() for prompt in prompts):
            metrics[f"difficulty/{name}"] = float(np.mean([int(prompt.topic) for prompt in prompts]))
    return metrics


def scored(note: Callable[[str], None], answered: Sequence[Answered]) -> list[Answered]:
    """The prompts that have a scored response, and a line for what is missing."""
    came = sum(len(one.turns) + one.unscored for one in answered)
    if lost := sum(one.lost for one in answered):
        note(f"{lost} of {came + lost} responses did not come or had no room")
    if unscored := sum(one.unscored for one in answered):
        note(f"{unscored} of {came} responses got no reward and are left out")
    return [one for one in answered if one.turns]
