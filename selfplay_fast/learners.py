"""Models that learn beside a run's own: a critic, a second policy, a role with adapters of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from selfplay_fast.learn import RoleBaseline, checkpoint, distributed
from selfplay_fast.policies.adapters import load_adapters, with_own_adapters
from selfplay_fast.policies.critic import Critic
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.recompute import recompute_layers
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.run import Run
from selfplay_fast.training import ModelSettings, adam, computed_in, fresh_adam, placement, prepare


def load_critic(
    config: ModelSettings, run: Run, policy: LanguageModel, step: int, *, rate: float, source: str = ""
) -> tuple[Critic, torch.optim.Optimizer]:
    """The critic as it was after ``step`` and its optimizer. A new one begins as ``source``, a folder or hub id; where
    that is empty as the policy of step 0, or, where adapters learn, as the model that they are added to.

    ValueError where it is of another family or vocabulary than the policy, whose tokens it reads.
    """
    saved = run.checkpoints / f"step-{step:06d}" / checkpoint.CRITIC
    first = config.model if config.lora_rank else run.checkpoints / "step-000000" / "model"
    critic = Critic.load(
        saved / "model" if saved.is_dir() else source or first,
        policy.attention,
        seed=derive_seed(config.seed, 0),
        dtype="float32",
        device=str(policy.model.device),
    )
    ours, theirs = (learner.model.config.get_text_config() for learner in (policy, critic))
    if (ours.model_type, ours.vocab_size) != (theirs.model_type, theirs.vocab_size):
        raise ValueError(
            f"critic: must read the policy's tokens, as a {ours.model_type} of {ours.vocab_size} tokens does; "
            f"{source} is a {theirs.model_type} of {theirs.vocab_size}"
        )
    if config.gradient_checkpointing:
        recompute_layers(critic.model)
    distributed.shard(critic.model, getattr(torch, computed_in(config)))
    with distributed.sharded(critic.model):
        optimizer = adam(critic, rate=rate)
        if saved.is_dir():
            checkpoint.restore_optimizer(optimizer, saved)
    return critic, optimizer


def second_model(
    config: ModelSettings, run: Run, name: str, step: int, *, build: Callable[[], LanguageModel]
) -> LanguageModel:
    """The model that learns beside a run's own, as it was after ``step``; at first a copy of what ``build`` makes.

    It is kept in ``checkpoints/NAME``. Saved (`save_second_model`) before the run's own, it is there for whatever step
    the run goes on from.
    """
    path = run.checkpoints / name / f"step-{step:06d}"
    if step == 0 and not path.exists():
        save_second_model(run, name, step, build())
    policy = checkpoint.load_policy(path, **placement(config))
    prepare(config, policy)
    return policy


def save_second_model(run: Run, name: str, step: int, policy: LanguageModel) -> None:
    """Weights only: its optimizer begins anew in every step."""
    state = checkpoint.TrainState(step=step, baseline=RoleBaseline())
    checkpoint.save_checkpoint(run.checkpoints / name, policy, fresh_adam(policy), state, keep=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """What learns: a policy, the roles that it plays, what it diverges from, where it is kept."""

    roles: tuple[str, ...]
    policy: LanguageModel
    optimizer: torch.optim.Optimizer
    reference: LanguageModel | None
    folder: Path
    name: str = ""

    def named(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics, under the learner's name where it has one."""
        return {f"{self.name}/{key}" if self.name else key: value for key, value in metrics.items()}


def with_adapters_of(
    role: str, own: Weights, config: ModelSettings, run: Run, step: int, *, rate: float
) -> list[Weights]:
    """This role with adapters of its own, as they were after ``step``, on the frozen model of ``own``, which keeps the
    other roles and comes last."""
    if distributed.share()[1] > 1:
        raise ValueError("lora_per_role: weights in common cannot be sharded; start one process")
    model = with_own_adapters(own.policy.model, derive_seed(config.seed, 0, 2))
    policy = LanguageModel(
        model,
        own.policy.tokenizer,
        max_batch_tokens=config.max_batch_tokens,
        max_cache_tokens=config.max_cache_tokens,
    )
    optimizer = adam(policy, rate=rate)
    folder = run.checkpoints / role
    if step:
        saved = folder / f"step-{step:06d}"
        load_adapters(model, saved / "model")
        checkpoint.restore_optimizer(optimizer, saved)
    other = Weights(
        roles=(role,), policy=policy, optimizer=optimizer, reference=policy, folder=folder, name=role
    )
    return [other, replace(own, roles=tuple(one for one in own.roles if one != role))]


def save_all(run: Run, learners: Sequence[Weights], step: int) -> None:
    """Their checkpoints; the run's own last: it says which step all have reached."""
    done = checkpoint.TrainState(step=step, baseline=RoleBaseline())
    with run.phase("checkpoint"):
        for learner in learners:
            keep = 3 if learner.name else 2  # whatever step the run goes on from, the other's is there
            checkpoint.save_checkpoint(learner.folder, learner.policy, learner.optimizer, done, keep=keep)
