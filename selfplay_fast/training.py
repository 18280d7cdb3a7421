"""What recipes share around their loops: a model made ready to learn, and the checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from selfplay_fast.games import Style
from selfplay_fast.learn import RoleBaseline, checkpoint, distributed
from selfplay_fast.policies.adapters import add_adapters, train_adapters
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano, build_nano_of
from selfplay_fast.policies.recompute import recompute_layers
from selfplay_fast.policies.streams import derive_seed
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
    def max_tokens(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def lora_rank(self) -> int: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def max_batch_tokens(self) -> int: ...
    @property
    def max_cache_tokens(self) -> int | None: ...


def computed_in(config: ModelSettings) -> str:
    """``dtype``, or the default for this model and device."""
    if config.dtype != "auto":
        return config.dtype
    on_gpu = config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())
    return "bfloat16" if on_gpu and config.model != "nano" else "float32"


def placement(config: ModelSettings) -> dict[str, Any]:
    """How models are loaded. What is trained or sharded is float32; a frozen model is what passes are computed in."""
    frozen = config.lora_rank > 0 and distributed.share()[1] == 1
    return {
        "device": distributed.local_device(config.device),
        "dtype": computed_in(config) if frozen else "float32",
        "max_batch_tokens": config.max_batch_tokens,
        "max_cache_tokens": config.max_cache_tokens,
    }


def load_model(
    config: ModelSettings,
    games: Sequence[str],
    status: Callable[[str], None],
    *,
    nano: Mapping[str, Any] | None = None,
    texts: tuple[Sequence[str], Sequence[str]] | None = None,
    **options: Any,
) -> LanguageModel:
    """The model that the configuration names, ready to learn.

    ``nano`` are further options of `build_nano`, ``options`` those of `LanguageModel`. ``texts``: what is read and said
    where no games are played, for `build_nano_of`.
    """
    if config.model == "nano":
        status("building nano")
        if texts is not None:
            model, tokenizer = build_nano_of(*texts, config.seed)
        else:
            model, tokenizer = build_nano(games, config.seed, style=config.style, **(nano or {}))
        placed = {name: value for name, value in placement(config).items() if name != "dtype"}
        policy = LanguageModel(model, tokenizer, **placed, **options)
    else:
        status(f"loading {config.model}")
        policy = LanguageModel.load(config.model, **placement(config), **options)
        _check_model(config, policy)
        if config.lora_rank:
            add_adapters(policy.model, config.lora_rank, derive_seed(config.seed, 0))
    _prepare(config, policy)
    return policy


def _check_model(config: ModelSettings, policy: LanguageModel) -> None:
    """ValueError where a model cannot play like this."""
    if policy.tokenizer.chat_template is None and config.style in ("spiral", "mars"):
        raise ValueError(
            f"model: {config.model!r} has no chat template; put one into its folder (chat_template.jinja), "
            "or use --style brief"
        )
    if config.max_tokens >= policy.context_limit:
        raise ValueError(
            f"max_tokens: {config.max_tokens} leave no room for a prompt in the model's context of "
            f"{policy.context_limit} tokens; use fewer"
        )


def _prepare(config: ModelSettings, policy: LanguageModel) -> None:
    """Make a loaded policy one that learns."""
    if config.lora_rank:
        train_adapters(policy.model)
    if config.gradient_checkpointing:
        recompute_layers(policy.model)
    distributed.shard(policy.model, getattr(torch, computed_in(config)))


def load_reference(config: ModelSettings, run: Run, policy: LanguageModel, **options: Any) -> LanguageModel:
    """The policy as it was at step 0: the policy itself, without its adapters, where it has any."""
    if config.lora_rank:
        return policy
    as_computed = placement(config) | {"dtype": computed_in(config)} | options
    return checkpoint.load_policy(run.checkpoints / "step-000000", **as_computed)


def adam(
    policy: LanguageModel, *, rate: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.Optimizer:
    """AdamW over all that is trained."""
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=rate, betas=betas, weight_decay=weight_decay)


def fresh_adam(policy: LanguageModel, *, betas: tuple[float, float] = (0.9, 0.95)) -> torch.optim.Optimizer:
    """The same, without a rate or states: for whoever gives the rates of a few steps, and begins anew after them."""
    with distributed.sharded(policy.model):
        return adam(policy, rate=0.0, betas=betas)


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
    _prepare(config, policy)
    return policy


def save_second_model(run: Run, name: str, step: int, policy: LanguageModel) -> None:
    """Weights only: its optimizer begins anew in every step."""
    state = checkpoint.TrainState(step=step, baseline=RoleBaseline())
    checkpoint.save_checkpoint(run.checkpoints / name, policy, fresh_adam(policy), state, keep=3)


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
        _prepare(config, policy)
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
