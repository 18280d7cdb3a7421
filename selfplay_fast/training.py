"""What recipes share around their loops: a model made ready to learn, the step that is over, the checkpoint to go on
from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from selfplay_fast.config import write_atomic
from selfplay_fast.games import Style
from selfplay_fast.learn import RoleBaseline, TokenBatch, checkpoint, distributed, pack_dialogues
from selfplay_fast.learn.memory import Budget, Plan, budget
from selfplay_fast.learn.warmup import demonstration_batch, imitate
from selfplay_fast.model_folder import Facts, check_facts, folder_facts
from selfplay_fast.play import Cast, Table, play
from selfplay_fast.policies import Policy
from selfplay_fast.policies.adapters import add_adapters, check_installed, train_adapters
from selfplay_fast.policies.base import Learner, ServersGoneError
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.policies.recompute import recompute_layers
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.policies.supported import attention_of
from selfplay_fast.records import Episode
from selfplay_fast.run import Run
from selfplay_fast.settings import SampleConfig, ServerConfig

if TYPE_CHECKING:
    from selfplay_fast.policies.token_servers import TokenServers


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
    def attn_implementation(self) -> str: ...
    @property
    def lora_rank(self) -> int: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def threads(self) -> int: ...
    @property
    def max_batch_tokens(self) -> int: ...
    @property
    def max_cache_tokens(self) -> int | None: ...
    @property
    def uses_reference(self) -> bool: ...
    @property
    def critic_of(self) -> str: ...


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
        "attn_implementation": config.attn_implementation,
        "max_batch_tokens": config.max_batch_tokens,
        "max_cache_tokens": config.max_cache_tokens,
    }


def memory_budget(config: ModelSettings, ranks: int | None = None) -> Budget:
    """What the run will take on each of its cards. ValueError where the model's configuration cannot be read."""
    described = _described("model", config.model)
    critic = _described("critic", config.critic_of) if config.critic_of else None
    plan = Plan(
        dtype=computed_in(config),
        max_batch_tokens=config.max_batch_tokens,
        max_cache_tokens=config.max_cache_tokens or 16 * config.max_batch_tokens,
        lora_rank=config.lora_rank,
        gradient_checkpointing=config.gradient_checkpointing,
        reference=config.uses_reference,
        ranks=distributed.share()[1] if ranks is None else ranks,
    )
    return budget(described, plan, critic)


def _described(setting: str, name: str) -> Any:
    """The transformers configuration of a folder or hub id."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{setting} {name!r}: no configuration can be read: {reason}") from error


def _check_memory(config: ModelSettings, run: Run) -> None:
    """Show what the run will take of a GPU; ValueError where that is more than it has."""
    device = torch.device(distributed.local_device("cuda" if config.device == "auto" else config.device))
    if config.model == "nano" or device.type != "cuda" or not torch.cuda.is_available():
        return
    try:
        counted = memory_budget(config)
    except (ValueError, RuntimeError) as error:  # of a model that cannot run without weights
        run.note(f"memory is not counted before the run: {str(error).strip().splitlines()[0]}")
        return
    run.note(counted.table())
    counted.check(torch.cuda.get_device_properties(device).total_memory)


def load_model(
    config: ModelSettings,
    games: Sequence[str],
    status: Callable[[str], None],
    *,
    nano: Mapping[str, Any] | None = None,
    build: Callable[[], tuple[Any, Any]] | None = None,
    **options: Any,
) -> LanguageModel:
    """The model that the configuration names, ready to learn.

    ``nano`` are further options of `build_nano`, ``options`` those of `LanguageModel`. ``build``: how nano and its
    tokenizer are made where it is no games that it plays.
    """
    if config.model == "nano":
        status("building nano")
        made = (
            build_nano(games, config.seed, style=config.style, **(nano or {})) if build is None else build()
        )
        model, tokenizer = made
        of_loading = ("dtype", "attn_implementation")
        placed = {name: value for name, value in placement(config).items() if name not in of_loading}
        policy = LanguageModel(model, tokenizer, **placed, **options)
    else:
        check_model(config)
        status(f"loading {config.model}")
        policy = LanguageModel.load(config.model, **placement(config), **options)
        _check_facts(config, Facts(policy.tokenizer.chat_template is not None, policy.context_limit))
        if config.lora_rank:
            add_adapters(policy.model, config.lora_rank, derive_seed(config.seed, 0))
    prepare(config, policy)
    return policy


class WarmupSettings(ModelSettings, Protocol):
    """What a recipe's configuration says besides, where nano is warmed up."""

    @property
    def warmup_steps(self) -> int | None: ...


# Prompts and the replies to them, or rows of dialogues
Demonstrations = tuple[Sequence[str], Sequence[str]] | list[dict[str, Any]]


def load_warmed_up(
    config: WarmupSettings,
    run: Run,
    *,
    nano: Callable[[], tuple[Any, Any]],
    demonstrations: Callable[[int], Demonstrations],
    learning_rate: float,
    layer_rate: float = 1.0,
) -> LanguageModel:
    """The model that the configuration names, warmed up if so configured: `imitate` of what a seed demonstrates."""
    policy = load_model(config, (), run.status, build=nano)

    def batch_of(step: int) -> TokenBatch:
        shown = demonstrations(derive_seed(config.seed, 0, step))
        if isinstance(shown, tuple):
            return demonstration_batch(policy, *shown)
        return pack_dialogues(policy, shown)

    if config.warmup_steps:
        imitate(
            policy,
            batch_of,
            steps=config.warmup_steps,
            learning_rate=learning_rate,
            layer_rate=layer_rate,
            progress=run.status,
        )
    return policy


def check_model(config: ModelSettings) -> None:
    """ValueError, before a model is loaded, where it is not there or cannot play like this, or a package is missing."""
    if config.lora_rank:
        check_installed()
    attention_of(config.attn_implementation)
    if config.model != "nano":
        _check_facts(config, folder_facts(config.model))


def _check_facts(config: ModelSettings, facts: Facts) -> None:
    check_facts(config.model, facts, style=config.style, max_tokens=config.max_tokens)


def prepare(config: ModelSettings, policy: LanguageModel) -> None:
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


def load_first(config: ModelSettings, run: Run) -> LanguageModel:
    """The policy as it was at step 0, to play and not to learn."""
    return checkpoint.load_policy(run.checkpoints / "step-000000", **placement(config))


@contextmanager
def saved_if_servers_go(run: Run, step: int, save: Callable[[int], None]) -> Iterator[None]:
    """Where servers are gone for good, ``save`` this step, the last that is finished, before the run stops."""
    try:
        yield
    except ServersGoneError:
        if not (run.checkpoints / f"step-{step:06d}").exists():
            save(step)
        raise


def adam(
    policy: Learner, *, rate: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.Optimizer:
    """AdamW over all that is trained."""
    return torch.optim.AdamW(trained(policy), lr=rate, betas=betas, weight_decay=weight_decay)


def trained(policy: Learner) -> list[torch.nn.Parameter]:
    """The parameters that learn."""
    return [parameter for parameter in policy.model.parameters() if parameter.requires_grad]


def fresh_adam(policy: Learner, *, betas: tuple[float, float] = (0.9, 0.95)) -> torch.optim.Optimizer:
    """The same, without a rate or states: for whoever gives the rates of a few steps, and begins anew after them."""
    with distributed.sharded(policy.model):
        return adam(policy, rate=0.0, betas=betas)


def start(
    config: ModelSettings,
    run: Run,
    *,
    build: Callable[[], LanguageModel],
    optimizer_of: Callable[[LanguageModel], torch.optim.Optimizer],
    evaluate: Callable[[LanguageModel], dict[str, float]],
    baseline: RoleBaseline | None = None,
    **options: Any,
) -> tuple[LanguageModel, torch.optim.Optimizer, checkpoint.TrainState]:
    """The newest checkpoint of the run, or what ``build`` makes, evaluated and saved as step 0.

    ``options`` are further ones of the `LanguageModel` that is loaded.
    """
    torch.set_num_threads(config.threads)
    if config.lora_rank:
        check_installed()
    saved = checkpoint.load_newest(run.checkpoints, run.note, **placement(config), **options)
    if saved is not None:
        policy, folder, state = saved
        prepare(config, policy)
        with distributed.sharded(policy.model):
            optimizer = optimizer_of(policy)
            checkpoint.restore_optimizer(optimizer, folder)
        run.truncate(state.step)
        return policy, optimizer, state
    run.truncate(-1)
    _check_memory(config, run)
    with run.phase("start"):
        policy = build()
    with distributed.sharded(policy.model):
        optimizer = optimizer_of(policy)
    state = checkpoint.TrainState(step=0, baseline=RoleBaseline() if baseline is None else baseline)
    run.status("evaluating the policy to start from")
    with run.phase("evaluation"):
        metrics = evaluate(policy)
    run.log(0, metrics)
    with run.phase("checkpoint"):
        checkpoint.save_checkpoint(run.checkpoints, policy, optimizer, state)
    return policy, optimizer, state


def played(cast: Cast, table: Callable[..., Table]) -> list[Episode]:
    """The episodes of ``table(share=share)``, over all ranks."""
    return distributed.play_dealt(lambda share: play(cast, [table(share=share)]))


def notes_of(run: Run, step: int) -> Callable[[str], None]:
    """Says something about this step."""
    return lambda text: run.note(f"step {step}: {text}")


def write_rows(folder: Path, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each, in the file of this step."""
    if distributed.is_first():
        folder.mkdir(exist_ok=True)
        write_atomic(folder / f"step-{step:06d}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def save_step(
    run: Run,
    policy: LanguageModel,
    optimizer: torch.optim.Optimizer,
    step: int,
    *,
    baseline: RoleBaseline | None = None,
    rollouts: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """The run's checkpoint of this step; ``options`` are further ones of `checkpoint.save_checkpoint`."""
    baseline = RoleBaseline() if baseline is None else baseline
    done = checkpoint.TrainState(step=step, baseline=baseline, rollouts=rollouts)
    with run.phase("checkpoint"):
        checkpoint.save_checkpoint(run.checkpoints, policy, optimizer, done, **options)


def finish_step(
    config: SampleConfig,
    run: Run,
    step: int,
    metrics: Mapping[str, float],
    episodes: Sequence[Episode],
    advantages: Sequence[Sequence[float]] | None,
    *,
    last: bool,
    evaluate: Callable[..., dict[str, float]],
    save: Callable[[int], None],
) -> None:
    """Log a step that was learned from, after an evaluation where one is due, and ``save`` where that is.

    The ``last`` step has both; its evaluation is ``full``.
    """
    if last or step % config.eval_every == 0:
        with run.phase("evaluation"):
            metrics = {**metrics, **evaluate(full=last)}
    run.log(step, metrics, episodes, advantages)
    if last or step % config.checkpoint_every == 0:
        save(step)


def look_for_servers(config: ServerConfig) -> None:
    """ConnectionError, before a model is loaded, where nobody is there to play the training games."""
    if config.rollout_servers:
        from selfplay_fast.policies.token_servers import check_somebody

        check_somebody(config.rollout_servers)


def connect_opponents(config: ServerConfig) -> Mapping[str, Policy]:
    """Those of evaluations that are on servers, each of which has said a word."""
    if not config.eval_opponents:
        return {}
    from selfplay_fast.policies.openai_server import OpenAIServer

    return OpenAIServer.opponents(config.eval_opponents)


def connect_servers(config: ServerConfig, policy: LanguageModel) -> TokenServers | None:
    """Those that play the training games, with the weights of the policy."""
    if not config.rollout_servers:
        return None
    from selfplay_fast.policies.endpoint import Limits
    from selfplay_fast.policies.token_servers import TokenServers

    limits = Limits(
        concurrency=config.rollout_concurrency,
        timeout=config.rollout_timeout,
        deadline=5 * config.rollout_timeout,
    )
    servers = TokenServers(policy, config.rollout_servers, limits=limits, patience=config.server_patience)
    servers.hand_over()
    return servers
