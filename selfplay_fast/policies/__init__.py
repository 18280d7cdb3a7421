"""Who answers: language models, uniform random, tabular and scripted players."""

from selfplay_fast.policies.base import Policy
from selfplay_fast.policies.simple import RandomPolicy, ScriptedPolicy, TabularPlayer

__all__ = ["Policy", "RandomPolicy", "ScriptedPolicy", "TabularPlayer"]
