"""How good a policy is: exact exploitability, scores against fixed opponents, round robins."""

from selfplay_fast.evaluate.arena import Standing, Standings, arena, bradley_terry
from selfplay_fast.evaluate.exploitability import (
    TabularView,
    exact_metrics,
    exploitability,
    sampled_exploitability,
    tabular_view,
    tabular_views,
)
from selfplay_fast.evaluate.scores import Score, fixed_opponents, score_against
from selfplay_fast.evaluate.suite import episode_metrics, evaluate_policy

__all__ = [
    "Score",
    "Standing",
    "Standings",
    "TabularView",
    "arena",
    "bradley_terry",
    "episode_metrics",
    "evaluate_policy",
    "exact_metrics",
    "exploitability",
    "fixed_opponents",
    "sampled_exploitability",
    "score_against",
    "tabular_view",
    "tabular_views",
]
