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
from selfplay_fast.evaluate.scores import (
    Score,
    fixed_opponents,
    is_cooperative,
    score_against,
    score_together,
    search_opponents,
)
from selfplay_fast.evaluate.suite import episode_metrics, evaluate_policy, reply_metrics

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
    "is_cooperative",
    "reply_metrics",
    "sampled_exploitability",
    "score_against",
    "score_together",
    "search_opponents",
    "tabular_view",
    "tabular_views",
]
