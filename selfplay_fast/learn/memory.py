"""What a run takes of the memory of each card, counted before a weight is loaded.

Three moments differ. In a rollout keys and values of contexts are kept; in a micro-batch of an update, activations and
gradients are there instead; in an optimizer step the weights that passes compute with are gone, and gradients and
float32 weights are this rank's shards (`learn.distributed`). GB are 10^9 bytes. Not counted is the prefix that all
sequences of an update share, which comes on top of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from selfplay_fast.learn.live_memory import TokenBytes, empty_model, token_bytes

Moment = Literal["rollout", "update", "step"]
MOMENTS: dict[Moment, str] = {
    "rollout": "a rollout",
    "update": "a micro-batch of an update",
    "step": "an optimizer step",
}

_SPARE = 0.05  # of a card: CUDA's own, captured graphs, what lies between blocks
_LEAST_WIDTH = 256  # slots of the narrowest row of decoding
_DRAWN = 20 << 24  # bytes of drawing from 2^24 logits at a time, see `policies.sampling`
_SLICE = 8192  # columns of the head whose gradient is there at a time, see `kernels.token_logprobs`
_USEFUL = 256  # tokens that a setting must have
_FLOAT = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What decides on memory besides the model. ``reference``: is there another model that updates ask?"""

    dtype: str
    max_batch_tokens: int
    max_cache_tokens: int
    lora_rank: int = 0
    gradient_checkpointing: bool = False
    reference: bool = False
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class Line:
    """One use of memory, in bytes at each moment. ``setting`` grows it, by ``slope`` for each of its tokens."""

    what: str
    rollout: float = 0.0
    update: float = 0.0
    step: float = 0.0
    setting: str = ""
    slope: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a run takes on each card."""

    plan: Plan
    parameters: int
    lines: tuple[Line, ...]

    def total(self, moment: Moment) -> float:
        """Bytes at one moment."""
        return float(sum(getattr(line, moment) for line in self.lines))

    @property
    def peak(self) -> float:
        """Bytes at the worst moment."""
        return max(map(self.total, MOMENTS))

    def table(self) -> str:
        """All lines in GB, as a Markdown table."""
        cards = "one card" if self.plan.ranks == 1 else f"each of {self.plan.ranks} cards"
        head = f"{self.parameters / 1e9:.2f} G parameters, {self.plan.dtype} passes: GB on {cards}"
        rows = [(line.what, *(getattr(line, moment) for moment in MOMENTS)) for line in self.lines]
        rows.append(("in all", *map(self.total, MOMENTS)))
        texts = [
            (what, *(f"{value / 1e9:.1f}" if value else "–" for value in values)) for what, *values in rows
        ]
        table = [(head, "rollout", "micro-batch", "optimizer step"), ("---", "---:", "---:", "---:"), *texts]
        wide = max(len(row[0]) for row in table)
        return "\n".join(
            f"| {row[0].ljust(wide)} | " + " | ".join(text.rjust(14) for text in row[1:]) + " |"
            for row in table
        )

    def check(self, card: float) -> None:
        """ValueError, in one line, where the run does not fit a card of so many bytes, with what would."""
        usable = card * (1 - _SPARE)
        worst = max(MOMENTS, key=self.total)
        if self.total(worst) <= usable:
            return
        needs = (
            f"{MOMENTS[worst]} takes {self.total(worst) / 1e9:.1f} GB on each card, of {usable / 1e9:.1f} "
            "that can be used"
        )
        growing = [line for line in self.lines if line.setting]
        settings = sorted({line.setting for line in growing})
        largest = {
            line.setting: self._largest(line.setting, usable) for line in growing if getattr(line, worst)
        }
        best = max(largest, key=lambda name: largest[name] / getattr(self.plan, name), default="")
        if best and largest[best] >= _USEFUL:
            raise ValueError(f"{best}: {needs}; the largest that fits is {largest[best]}")
        if self.total(worst) - sum(getattr(line, worst) for line in growing) < usable:
            raise ValueError(f"{', '.join(settings)}: {needs}; use smaller ones")
        ranks = "start more ranks (torchrun)"
        change = ranks if self.plan.lora_rank else f"set lora_rank, or {ranks}"
        raise ValueError(f"model: {needs}, however small the batch; {change}")

    def _largest(self, setting: str, usable: float) -> int:
        """Tokens of a setting with which all moments that it matters for fit, everything else as it is."""
        most = []
        for moment in MOMENTS:
            lines = [line for line in self.lines if line.setting == setting and getattr(line, moment)]
            if lines:
                room = usable - self.total(moment) + sum(getattr(line, moment) for line in lines)
                most.append(int(room // sum(line.slope for line in lines)))
        return min(most)


def budget(config: Any, plan: Plan, critic: Any = None) -> Budget:
    """Of training the model of a transformers configuration, and a critic with the trunk of another one.

    Both learn, one after the other: what an update takes and what a step adds is that of the larger, and the weights
    that the other one computes with stay while it makes its step.
    """
    dtype = getattr(torch, plan.dtype)
    options: dict[str, Any] = {
        "lora_rank": plan.lora_rank,
        "gradient_checkpointing": plan.gradient_checkpointing,
    }
    model = empty_model(config, dtype, **options)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    judging = _critic_parameters(critic)
    larger = max(learned, judging)
    head = model.get_output_embeddings().weight
    tokens = token_bytes(config, dtype, **options)
    lines = [
        *_weights(parameters, learned, dtype.itemsize, plan, stay=judging > learned),
        *([_critic(judging, dtype.itemsize, plan, stay=judging <= learned)] if judging else []),
        _adam(learned + judging, larger, plan.ranks),
        Line("gradients in float32", 0, _FLOAT * larger, _FLOAT * larger / plan.ranks),
        *_rollout(tokens, dtype.itemsize * len(head), config.get_text_config().num_hidden_layers, plan),
        *_micro_batch(tokens, head, plan),
    ]
    return Budget(plan=plan, parameters=parameters, lines=tuple(lines))


def _line(what: str, unit: float, rollout: float, update: float, step: float) -> Line:
    """So many units at each moment."""
    return Line(what, rollout * unit, update * unit, step * unit)


def _weights(parameters: int, learned: int, size: int, plan: Plan, *, stay: bool) -> list[Line]:
    """As `training.placement` and `distributed.shard` leave them: float32 beside what passes compute with; does that
    ``stay`` in a step?"""
    computed = _line(f"weights in {plan.dtype}", size * parameters, 1, 1, stay)
    kept = _line("weights in float32", _FLOAT * parameters / plan.ranks, 1, 1, 1)
    if plan.ranks == 1 and plan.lora_rank:
        frozen = size * (parameters - learned)
        computed = _line(f"frozen weights in {plan.dtype}", frozen, 1, 1, 1)
        kept = _line("adapters in float32", _FLOAT * learned, 1, 1, 1)
    lines = [kept] if plan.ranks == 1 and size == _FLOAT and not plan.lora_rank else [computed, kept]
    if plan.reference and not plan.lora_rank:
        lines.append(_line("the model of step 0", size * parameters, 1, 1, 1))
    return lines


def _critic_parameters(config: Any) -> int:
    """Of a trunk and a head of one number; all of them learn."""
    if config is None:
        return 0
    from transformers import AutoModel

    with torch.device("meta"):
        trunk = AutoModel.from_config(config)
    return sum(parameter.numel() for parameter in trunk.parameters()) + config.get_text_config().hidden_size


def _critic(parameters: int, size: int, plan: Plan, *, stay: bool) -> Line:
    """The same of the critic."""
    kept = _FLOAT / plan.ranks * parameters
    both = kept + (0 if plan.ranks == 1 and size == _FLOAT else size * parameters)
    return Line("the critic's weights", both, both, both if stay else kept)


def _adam(learned: int, larger: int, ranks: int) -> Line:
    """Two moments of all that learns; in a step one number more for each parameter that it moves."""
    kept = 2 * _FLOAT * learned / ranks
    return Line("Adam's moments; in a step also what it computes", kept, kept, kept + _FLOAT * larger / ranks)


def _rollout(tokens: TokenBytes, logits_row: int, layers: int, plan: Plan) -> list[Line]:
    """Replies in the making and contexts between turns, both grown layer by layer, and what is computed with them.

    The room for replies stays where it is.
    """
    slot = (1 + 1 / layers) * tokens.cache
    kept = slot * plan.max_cache_tokens
    fresh = tokens.prompt + tokens.cache  # a pass over prompts, and what it takes out of the store
    drawn = plan.max_cache_tokens // _LEAST_WIDTH * logits_row + _DRAWN
    return [
        Line("keys and values of replies", kept, kept, kept, "max_cache_tokens", slot),
        Line("keys and values between turns", kept, 0, 0, "max_cache_tokens", slot),
        Line("a pass over prompts", fresh * plan.max_batch_tokens, 0, 0, "max_batch_tokens", fresh),
        Line("logits of a token of every reply", drawn),
    ]


def _micro_batch(tokens: TokenBytes, head: torch.Tensor, plan: Plan) -> list[Line]:
    vocabulary, width = head.shape
    slope = tokens.update + min(_SLICE, vocabulary) * head.itemsize + _FLOAT * width
    name = "activations, layers computed again" if plan.gradient_checkpointing else "activations"
    lines = [Line(name, 0, slope * plan.max_batch_tokens, 0, "max_batch_tokens", slope)]
    return [*lines, Line("gradient of the head", 0, head.nbytes)] if head.requires_grad else lines
