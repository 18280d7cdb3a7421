"""What recipes share around their loops: the model to start from, and the checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from selfplay_fast.games import Style
from selfplay_fast.learn import RoleBaseline, checkpoint, distributed
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.run import Run


class ModelSettings(Protocol):
    """What a recipe's configuration says of its model."""

    @property
    def model(self) -> str: ...
    @property
    def style(self) -> Style: ...
    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def max_batch_tokens(self) -> int: ...
    @property
    def max_cache_tokens(self) -> int | None: ...


def placement(config: ModelSettings) -> dict[str, Any]:
    """Options of a `LanguageModel`."""
    return {
        "device": distributed.local_device(config.device),
        "max_batch_tokens": config.max_batch_tokens,
        "max_cache_tokens": config.max_cache_tokens,
    }


def load_model(
    config: ModelSettings,
    games: Sequence[str],
    run: Run,
    *,
    nano: Mapping[str, Any] | None = None,
    **options: Any,
) -> LanguageModel:
    """The model that the configuration names, sharded over the ranks; ``nano`` are further options of `build_nano`."""
    if config.model == "nano":
        run.status("building nano")
        built = build_nano(games, config.seed, style=config.style, **(nano or {}))
        policy = LanguageModel(*built, **placement(config), **options)
    else:
        run.status(f"loading {config.model}")
        policy = LanguageModel.load(config.model, dtype="float32", **placement(config), **options)
    distributed.shard(policy.model, _dtype(config, policy))
    return policy


def _dtype(config: ModelSettings, policy: LanguageModel) -> torch.dtype:
    """What the policy computes in."""
    on_gpu = policy.model.device.type == "cuda"
    wide = config.dtype == "float32" or (config.dtype == "auto" and not (on_gpu and config.model != "nano"))
    return torch.float32 if wide else torch.bfloat16


def start(
    config: ModelSettings,
    run: Run,
    *,
    build: Callable[[], LanguageModel],
    optimizer_of: Callable[[LanguageModel], torch.optim.Optimizer],
    evaluate: Callable[[LanguageModel], dict[str, float]],
    baseline: RoleBaseline,
    **options: Any,
) -> tuple[LanguageModel, torch.optim.Optimizer, checkpoint.TrainState]:
    """The newest checkpoint of the run, or what ``build`` makes, evaluated and saved as step 0.

    ``options`` are further ones of the `LanguageModel` that is loaded.
    """
    saved = checkpoint.load_newest(run.checkpoints, run.note, **placement(config), **options)
    if saved is not None:
        policy, folder, state = saved
        distributed.shard(policy.model, _dtype(config, policy))
        with distributed.sharded(policy.model):
            optimizer = optimizer_of(policy)
            checkpoint.restore_optimizer(optimizer, folder)
        run.truncate(state.step)
        return policy, optimizer, state
    run.truncate(-1)
    with run.phase("start"):
        policy = build()
    with distributed.sharded(policy.model):
        optimizer = optimizer_of(policy)
    state = checkpoint.TrainState(step=0, baseline=baseline)
    run.status("evaluating the policy to start from")
    with run.phase("evaluation"):
        metrics = evaluate(policy)
    run.log(0, metrics)
    with run.phase("checkpoint"):
        checkpoint.save_checkpoint(run.checkpoints, policy, optimizer, state)
    return policy, optimizer, state
