"""How good a policy is: exact exploitability and scores against fixed opponents."""

from selfplay_fast.evaluate.exploitability import TabularView, exploitability, tabular_view
from selfplay_fast.evaluate.scores import Score, fixed_opponents, score_against
from selfplay_fast.evaluate.suite import episode_metrics, evaluate_policy

__all__ = [
    "Score",
    "TabularView",
    "episode_metrics",
    "evaluate_policy",
    "exploitability",
    "fixed_opponents",
    "score_against",
    "tabular_view",
]
