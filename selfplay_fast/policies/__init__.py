"""Who answers: language models, uniform random, tabular, scripted and searching players, pools of them."""

from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.searching import ModelEvaluator, OpponentPool, SearchPlayer
from selfplay_fast.policies.simple import RandomPolicy, ScriptedPolicy, TabularPlayer

__all__ = [
    "ModelEvaluator",
    "OpponentPool",
    "Policy",
    "RandomPolicy",
    "ScriptedPolicy",
    "SearchPlayer",
    "TabularPlayer",
]
