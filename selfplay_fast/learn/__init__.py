"""From episodes to better weights: advantages and losses (pure), packing, `update` (the only mutation)."""

from selfplay_fast.learn.advantages import RoleBaseline, role_conditioned_advantages
from selfplay_fast.learn.credit import discounted_sums, gae, moving_advantages, segment_normalise
from selfplay_fast.learn.losses import ppo_clip_loss, reinforce_loss
from selfplay_fast.learn.packing import TokenBatch, pack
from selfplay_fast.learn.update import Update, update

__all__ = [
    "RoleBaseline",
    "TokenBatch",
    "Update",
    "discounted_sums",
    "gae",
    "moving_advantages",
    "pack",
    "ppo_clip_loss",
    "reinforce_loss",
    "role_conditioned_advantages",
    "segment_normalise",
    "update",
]
