"""From episodes to better weights: advantages and losses (pure), packing, `update` (the only mutation)."""

from selfplay_fast.learn.advantages import (
    RoleBaseline,
    leave_one_out_advantages,
    role_conditioned_advantages,
    summed_rewards,
    turn_level_advantages,
    without_forfeits,
)
from selfplay_fast.learn.chat_rows import pack_dialogues, pack_pairs
from selfplay_fast.learn.credit import discounted_sums, gae, moving_advantages, segment_normalise
from selfplay_fast.learn.critic_update import batch_values, critic_update
from selfplay_fast.learn.losses import PolicyLoss, policy_loss, ppo_clip_loss, reinforce_loss, value_clip_loss
from selfplay_fast.learn.packing import TokenBatch, only_roles, only_turns, pack, pack_chats, pack_replies
from selfplay_fast.learn.preference_update import PairBatch, preference_update
from selfplay_fast.learn.preferences import (
    dpo_loss,
    hinge_loss,
    ipo_loss,
    orpo_loss,
    preference_loss,
    rpo_loss,
    simpo_loss,
    sppo_loss,
)
from selfplay_fast.learn.token_rewards import reinforce_pp_advantages, shaped_rewards, whiten
from selfplay_fast.learn.update import Beside, Update, batch_logprobs, update

__all__ = [
    "Beside",
    "PairBatch",
    "PolicyLoss",
    "RoleBaseline",
    "TokenBatch",
    "Update",
    "batch_logprobs",
    "batch_values",
    "critic_update",
    "discounted_sums",
    "dpo_loss",
    "gae",
    "hinge_loss",
    "ipo_loss",
    "leave_one_out_advantages",
    "moving_advantages",
    "only_roles",
    "only_turns",
    "orpo_loss",
    "pack",
    "pack_chats",
    "pack_dialogues",
    "pack_pairs",
    "pack_replies",
    "policy_loss",
    "ppo_clip_loss",
    "preference_loss",
    "preference_update",
    "reinforce_loss",
    "reinforce_pp_advantages",
    "role_conditioned_advantages",
    "rpo_loss",
    "segment_normalise",
    "shaped_rewards",
    "simpo_loss",
    "sppo_loss",
    "summed_rewards",
    "turn_level_advantages",
    "update",
    "value_clip_loss",
    "whiten",
    "without_forfeits",
]
