"""TRL: its trainers with our head, and GRPO with advantages that know roles and turns.

    trainer = SelfPlayGRPOTrainer("model", reward, args, dataset, advantages=RoleConditioned())
    use_fused_head(trainer)
    trainer.train()

`use_fused_head` takes any trainer of TRL whose model has TRL's own fused head (GRPO, DPO, RLOO, KTO, SFT); the
advantages need nothing but `SelfPlayGRPOTrainer`. Works with TRL 1.16.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import trl
from torch import Tensor
from transformers import Trainer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from selfplay_fast.arguments import shown
from selfplay_fast.integrations._trl_advantages import (
    Estimator,
    RoleConditioned,
    Samples,
    TurnLevel,
    turns_of,
)
from selfplay_fast.kernels.token_logprobs import token_logprobs

if trl.__version__.split(".")[:2] != ["1", "16"]:
    raise ImportError(f"selfplay_fast.integrations.trl works with TRL 1.16.*, got {trl.__version__}")

from accelerate.utils import gather_object
from trl import GRPOTrainer

__all__ = ["FusedHead", "RoleConditioned", "Samples", "SelfPlayGRPOTrainer", "TurnLevel", "use_fused_head"]

_TILE = 1 << 22  # numbers of a block of logits
_STATE = "advantages.json"  # in a checkpoint


# ---- the head ----


class FusedHead:
    """Our head in a trainer. `undo`, or the end of a ``with``, gives TRL's own back."""

    def __init__(self) -> None:
        self.active = True
        self._restore: list[tuple[Any, Any, Any]] = []  # model, the forward that was there, ours

    def undo(self) -> None:
        """TRL's own head from here on. Forwards that were wrapped since stay in place and hand on."""
        self.active = False
        for model, before, ours in self._restore:
            if model.forward is ours:
                model.forward = before
        self._restore = []

    def __enter__(self) -> FusedHead:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def use_fused_head(trainer: Trainer) -> FusedHead:
    """The models of this one trainer score tokens with `token_logprobs`; everything else is as TRL does it.

    trainer: of TRL, already made: GRPO, DPO or another whose model has TRL's fused head. Its model and its reference
    model are changed; other trainers and TRL itself are not. Log-probs, entropies and their gradients are TRL's within
    rounding. Positions without a label are left out on every device, tokens without an upstream gradient out of the
    backward pass. Under autocast the head's weight is cast as a whole.

    LoRA and prompt tuning (PEFT), tied embeddings, gradient checkpointing, experts' losses, ``cast_lm_head_to_fp32``
    and models with a scale or a soft cap of the logits work as in TRL, whose forward this stays; docs/integrations.md
    says what was compared. Raises ValueError where the head is not a linear layer with a floating weight, under
    DeepSpeed ZeRO-3, or where the trainer has the head already.
    """
    if not isinstance(trainer, Trainer):
        raise ValueError(f"use_fused_head: trainer must be a trainer of TRL, got {shown(trainer)}")
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            "use_fused_head: trainer runs DeepSpeed ZeRO-3, whose backward pass has no whole head"
        )
    models = [trainer.model] + [m for m in [getattr(trainer, "ref_model", None)] if m is not None]
    found = [(module, forward) for model in models for module, forward in _fused_forwards(model)]
    if not found:
        raise ValueError(
            f"use_fused_head: trainer is a {type(trainer).__name__} whose model has no fused head of TRL"
        )
    for module, _ in found:
        _check_head(module)
    head = FusedHead()
    for module, theirs in found:
        before = module.forward
        module.forward = ours = _with_our_head(module, theirs, trainer.accelerator, head)
        head._restore.append((module, before, ours))
    return head


def _fused_forwards(model: torch.nn.Module) -> Iterator[tuple[Any, types.FunctionType]]:
    """Every module that TRL gave a fused head, PEFT's wrappers looked through, and TRL's function."""
    for module in model.modules():
        function = vars(module).get("forward")
        if (ours := getattr(function, "fused_head", None)) is not None and ours.active:
            raise ValueError("use_fused_head: trainer has the head already; undo it first")
        while function is not None:  # accelerate wraps forwards for mixed precision
            code = getattr(function, "__code__", None)
            if code is not None and "_ChunkedLogProbFunction" in code.co_names:
                yield module, getattr(function, "__func__", function)
                break
            function = getattr(function, "__wrapped__", None)


def _check_head(model: Any) -> None:
    head = model.get_output_embeddings()
    kind = type(head).__name__  # PEFT's wrapper of a layer trained as a whole is not one of its adapters
    linear = isinstance(head, torch.nn.Linear) or kind == "ModulesToSaveWrapper"
    if not linear or not head.weight.is_floating_point():
        raise ValueError(
            f"use_fused_head: the head of {type(model).__name__} must be torch.nn.Linear with a floating weight, "
            f"got {kind}" + (f" of {head.weight.dtype}" if linear else "")
        )


def _with_our_head(model: Any, theirs: types.FunctionType, accelerator: Any, head: FusedHead) -> Any:
    """TRL's forward once more, with another head in the place of its own, bound to the model."""
    names = theirs.__globals__ | {"_ChunkedLogProbFunction": _Head, "_use_triton": _leave_out_unlabelled}
    fused = types.FunctionType(
        theirs.__code__, names, theirs.__name__, theirs.__defaults__, theirs.__closure__
    )
    fused.__kwdefaults__ = theirs.__kwdefaults__
    before = model.forward

    @functools.wraps(
        getattr(before, "__func__", before)
    )  # `generate` checks its arguments against the signature
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not (fused_lm_head and head.active):
            return before(*args, fused_lm_head=fused_lm_head, **kwargs)
        with accelerator.autocast():  # as the forward that was there, which accelerate may have wrapped
            return fused(self, *args, fused_lm_head=True, **kwargs)

    forward.fused_head = head  # type: ignore[attr-defined]
    return types.MethodType(forward, model)


def _leave_out_unlabelled(_: torch.device) -> bool:
    """TRL asks it whether to hand over the labelled positions only, and nothing else."""
    return True


class _Head:
    """What TRL's forward calls for the numbers of each token."""

    @staticmethod
    def apply(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        _: int,
        softcap: float | None,
        logit_scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[Tensor | None, ...]:
        """hidden [T, H], weight [V, H], targets [T] -> log-probs, entropy, log sum p^2, mean logit, top 1; [T] each."""
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            hidden, weight = hidden.to(dtype), weight.to(dtype)
            logprobs, entropy, *squares, top1 = token_logprobs(
                hidden,
                weight,
                targets,
                temperature=temperature,
                bias=bias,
                softcap=softcap,
                logit_scale=logit_scale,
                return_entropy=True,
                return_log_sum_sq="log_sum_sq_probs" in outputs,
                return_top1=True,
            )
            mean = None
            if "mean_logits" in outputs:
                mean = _mean_logits(hidden, weight, bias, softcap, logit_scale) / temperature
        return (
            logprobs,
            entropy if "entropy" in outputs else None,
            squares[0] if squares else None,
            mean,
            top1 if "is_top1" in outputs else None,
        )


@torch.no_grad()
def _mean_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, scale: float
) -> Tensor:
    """[T]: the mean of each token's logits. Without a cap it is linear in the head, so one row stands for all."""
    if softcap is None:
        row = weight.mean(0, dtype=torch.float32)
        return (hidden.float() @ row + (0 if bias is None else bias.float().mean())) * scale
    means = []
    for block in hidden.split(max(1, _TILE // len(weight))):
        logits = torch.nn.functional.linear(block, weight).float()
        logits = (logits if bias is None else logits + bias) * scale
        means.append((softcap * torch.tanh(logits / softcap)).mean(-1))
    return torch.cat(means)


# ---- the advantages ----


class SelfPlayGRPOTrainer(GRPOTrainer):
    """``trl.GRPOTrainer`` with advantages of one's own, one per completion or one per token.

    advantages: from the `Samples` of a batch, all processes' together, to a tensor [N] or [N, T]: `RoleConditioned`,
        `TurnLevel`, or any function. TRL's loss takes them as they are. A completion that no reward function scored
        has advantage 0. What an estimator with ``state_dict`` and ``load_state_dict`` has learnt is kept in
        checkpoints.
    args, kwargs: of ``trl.GRPOTrainer``. ``scale_rewards`` has no effect.

    Raises ValueError for advantages of another shape or that are not finite.
    """

    def __init__(self, *args: Any, advantages: Callable[[Samples], Any], **kwargs: Any) -> None:
        if not callable(advantages):
            raise ValueError(f"SelfPlayGRPOTrainer: advantages must be a function, got {shown(advantages)}")
        self._estimator = advantages
        super().__init__(*args, **kwargs)
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                "SelfPlayGRPOTrainer: multi_objective_aggregation must be 'sum_then_normalize', as the advantages come "
                f"from the sum of the rewards, got {self.multi_objective_aggregation!r}"
            )

    def _calculate_rewards(self, inputs: Any, *args: Any) -> Tensor:
        rewards = super()._calculate_rewards(inputs, *args)
        self._scored = inputs, rewards  # columns of this process; rewards of all
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        samples = self._samples(batch)
        advantages = _checked(self._estimator(samples), samples).to(batch["advantages"])
        first = self.accelerator.process_index * len(inputs)
        own = advantages[first : first + len(inputs)]
        batch["advantages"] = (
            own if own.ndim == 1 else own[:, : batch["completion_ids"].shape[1]].contiguous()
        )
        self._log_advantages(advantages, samples.turns >= 0)
        return batch

    def _samples(self, batch: dict[str, Any]) -> Samples:
        inputs, rewards = self._scored
        training = self.model.training
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        total[rewards.isnan().all(1)] = torch.nan
        mask = batch["completion_mask"] * batch.get("tool_mask", 1)
        turns = self.accelerator.pad_across_processes(turns_of(mask != 0), dim=1, pad_index=-1)
        rows = gather_object(list(inputs))
        size = self.num_generations if training else self.num_generations_eval
        return Samples(
            rewards=total,
            groups=torch.arange(len(total), device=total.device) // size,
            turns=self.accelerator.gather(turns),
            columns={name: [row[name] for row in rows] for name in rows[0]},
            training=training,
        )

    def _log_advantages(self, advantages: Tensor, counted: Tensor) -> None:
        """TRL's table of completions shows these, means over the tokens where there is one each."""
        if advantages.ndim == 2:
            advantages = (advantages * counted).sum(1) / counted.sum(1).clamp(min=1)
        logged = self._logs["advantages"]
        for _ in range(min(len(advantages), len(logged))):
            logged.pop()
        logged.extend(advantages.tolist())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save and isinstance(self._estimator, Estimator):
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            (folder / _STATE).write_text(json.dumps(self._estimator.state_dict()))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and isinstance(self._estimator, Estimator):
            path = Path(checkpoint) / _STATE
            if not path.is_file():
                raise ValueError(f"SelfPlayGRPOTrainer: {path.parent} has no {_STATE}")
            self._estimator.load_state_dict(json.loads(path.read_text()))


def _checked(advantages: Any, samples: Samples) -> Tensor:
    """What an estimator returned, 0 for completions without a reward."""
    values = torch.as_tensor(advantages, dtype=torch.float32, device=samples.rewards.device)
    tokens = tuple(samples.turns.shape)
    if values.shape not in (tokens[:1], tokens):
        raise ValueError(
            f"SelfPlayGRPOTrainer: advantages must be [{tokens[0]}] or {list(tokens)}, got {list(values.shape)}"
        )
    unscored = samples.rewards.isnan()
    values = values.masked_fill(unscored if values.ndim == 1 else unscored[:, None], 0)
    if not values.isfinite().all():
        row = int((~values.isfinite().reshape(len(values), -1).all(1)).nonzero()[0])
        raise ValueError(f"SelfPlayGRPOTrainer: advantages must be finite, those of completion {row} are not")
    return values
