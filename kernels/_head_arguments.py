"""Arguments of operations on the head of a language model: checked, and in the normal form that the ops take."""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor


class Arguments(NamedTuple):
    """inverse_temperature float32 [T], with the logit scale in it where nothing is capped; softcap 0 for none; inner,
    the factor before the cap."""

    weight: Tensor
    bias: Tensor | None
    inverse_temperature: Tensor
    softcap: float
    inner: float


def head_arguments(
    name: str,
    hidden: Tensor,
    weight: Tensor,
    temperature: float | Tensor,
    bias: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    side: str = "",
) -> Arguments:
    """Raises ValueError, in one line that begins with ``name``; ``side`` begins the names of one of two heads."""
    check_tensor(name, f"{side}hidden", hidden)
    check_tensor(name, f"{side}weight", weight)
    weight, bias = _whole(weight), None if bias is None else _whole(bias)
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        hint = "; flatten it: hidden.flatten(0, 1)" if hidden.ndim == 3 else ""
        raise ValueError(
            f"{name}: {side}hidden [T, H] and {side}weight [V, H] do not fit: {tuple(hidden.shape)}, "
            f"{tuple(weight.shape)}{hint}"
        )
    if len(weight) == 0:
        raise ValueError(f"{name}: {side}weight must have at least one row")
    if hidden.dtype != weight.dtype or hidden.device != weight.device:
        raise ValueError(
            f"{name}: {side}hidden and {side}weight must share dtype and device, got {hidden.dtype} on "
            f"{hidden.device}, {weight.dtype} on {weight.device}"
        )
    if hidden.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"{name}: {side}hidden must be float32, bfloat16 or float16, got {hidden.dtype}")
    if bias is not None:
        check_column(name, f"{side}bias", bias, len(weight), hidden.device)
        bias = bias.contiguous()
    check_positive(name, f"{side}logit_scale", logit_scale)
    if softcap is not None:
        check_positive(name, f"{side}softcap", softcap)
    scale = logit_scale if softcap is None else 1.0
    if isinstance(temperature, Tensor):
        check_column(name, "temperature, if not a number,", temperature, len(hidden))
        inverse = scale / temperature.detach().to(hidden.device, torch.float32)
    else:
        check_positive(name, "temperature", temperature)
        inverse = torch.full(hidden.shape[:1], scale / temperature, dtype=torch.float32, device=hidden.device)
    return Arguments(weight, bias, inverse, softcap or 0.0, 1.0 if softcap is None else logit_scale / softcap)


def check_tensor(name: str, argument: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: {argument} must be a torch tensor, got {type(value).__name__}")


def check_positive(name: str, argument: str, value: object) -> None:
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name}: {argument} must be a number > 0, got {value!r}")


def check_column(
    name: str,
    argument: str,
    column: Tensor,
    length: int,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """ValueError where this is not [length] of the dtype (None: any floating one) on the device (None: any)."""
    check_tensor(name, argument, column)
    right = column.is_floating_point() if dtype is None else column.dtype == dtype
    if not right or column.shape != (length,) or device not in (None, column.device):
        wanted = "floating" if dtype is None else str(dtype).removeprefix("torch.")
        where = "" if device is None else f" on {device}"
        raise ValueError(
            f"{name}: {argument} must be {wanted} [{length}]{where}, got {column.dtype} {tuple(column.shape)} on "
            f"{column.device}"
        )


def check_values(name: str, targets: Tensor | None, inverse_temperature: Tensor, vocabulary: int) -> None:
    """What only the numbers themselves can tell: inside an op, for a compiled graph does not look at them."""
    if targets is not None and not ((targets >= 0) & (targets < vocabulary)).all():
        wrong = targets[(targets < 0) | (targets >= vocabulary)][0].item()
        raise ValueError(f"{name}: targets must be from 0 to {vocabulary - 1} where not masked, got {wrong}")
    if not ((inverse_temperature > 0) & inverse_temperature.isfinite()).all():
        raise ValueError(f"{name}: temperature must be > 0 for every token")


def _whole(parameter: Tensor) -> Tensor:
    """A DTensor, as FSDP2 and tensor parallelism make of parameters, gathered; its gradient is scattered again."""
    if type(parameter) in (Tensor, torch.nn.Parameter):
        return parameter
    from torch.distributed.tensor import DTensor

    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def kept_rows(mask: Tensor | None) -> Tensor | None:
    """The rows of a mask; None where all are meant."""
    if mask is None or bool(mask.all()):
        return None
    return mask.nonzero()[:, 0]


def spread(values: Tensor, rows: Tensor | None, tokens: int) -> Tensor:
    """Values of some rows among zeros for the others."""
    if rows is None:
        return values
    return values.new_zeros(tokens, *values.shape[1:]).index_copy_(0, rows, values)


def returned(
    grads: tuple[Tensor | None, Tensor | None, Tensor | None],
    rows: Tensor | None,
    tokens: int,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden (those of some rows), weight and bias as an op returns them: empty where there is none."""
    grad_hidden, grad_weight, grad_bias = grads
    return (
        weight.new_empty(0) if grad_hidden is None else spread(grad_hidden, rows, tokens),
        weight.new_empty(0) if grad_weight is None else grad_weight,
        weight.new_empty(0) if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )


def fake_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, need_hidden: bool, need_weight: bool, need_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What `returned` gives, without numbers."""
    return (
        hidden.new_empty(hidden.shape if need_hidden else 0),
        weight.new_empty(weight.shape if need_weight else 0),
        weight.new_empty(0) if bias is None or not need_bias else bias.new_empty(bias.shape),
    )
