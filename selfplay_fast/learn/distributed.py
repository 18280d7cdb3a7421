"""Several processes (ranks) that torchrun started learn as one.

Games are dealt to the ranks and finished episodes are gathered on all of them in the order of a single process, so
everything between play and update (baselines, normalisers, packing) is computed as if there were one, by every rank
alike. The update deals sequences; gradients are summed. Weights in float32, gradients and optimizer states are sharded
(FSDP2); between updates each rank also holds the whole weights in the dtype that it computes with, gathered once per
optimizer step: ranks make different numbers of forward passes, and a pass that gathered would wait for one that never
comes. Without torchrun every function here does what a single process needs, which is mostly nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from selfplay_fast.records import Episode

T = TypeVar("T")
Share = tuple[int, int]  # (rank, size): of things numbered through, those whose number is rank modulo size

_TIMEOUT = timedelta(
    hours=4
)  # for the longest rollout of the others; torchrun ends a rank if another one died


class OtherRankError(OSError):
    """Nothing is wrong here, but another rank has stopped."""


def start() -> None:
    """Join the other processes of torchrun, if it started this one among several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group(_backend(), timeout=_TIMEOUT)


def stop() -> None:
    """Leave them."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def share() -> Share:
    """(rank, number of ranks)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_first() -> bool:
    """Is this the rank that writes and speaks?"""
    return share()[0] == 0


def check_enough(games: int, setting: str) -> None:
    """ValueError naming ``setting`` where there are more ranks than games of a step."""
    if games < share()[1]:
        raise ValueError(
            f"{setting}: {games} games a step are fewer than the {share()[1]} ranks; play more, or start {games} ranks"
        )


def local_device(device: str) -> str:
    """``device`` as it is called on this rank: each has a GPU of its own."""
    if share()[1] == 1 or device not in ("auto", "cuda"):
        return device
    if not torch.cuda.is_available():
        return "cpu"
    here, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if here >= there:
        raise ValueError(
            f"--nproc-per-node: this machine has {there} GPUs, rank {here} has none; start at most {there} ranks here"
        )
    torch.cuda.set_device(here)
    return f"cuda:{here}"


# -- values ------------------------------------------------------------------------------------------------------


def gather(value: T) -> list[T]:
    """What each rank has, by rank. Values travel as pickles, between the processes of one run only."""
    everyone: list[Any] = [None] * share()[1]
    if len(everyone) == 1:
        return [value]
    dist.all_gather_object(everyone, value)
    return everyone


@contextmanager
def together() -> Iterator[None]:
    """What fails inside on one rank stops all: the others raise `OtherRankError`. No rank may wait inside."""
    if share()[1] == 1:
        yield
        return
    failure: Exception | SystemExit | None = None
    try:
        yield
    except (Exception, SystemExit) as error:
        failure = error
    said = gather(None if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    for number, reason in enumerate(said):
        if reason is not None:
            raise OtherRankError(f"rank {number}: {reason}")


def play_dealt(play: Callable[..., Sequence[Episode]]) -> list[Episode]:
    """``play(share=share)`` on every rank; the episodes of all ranks, in the order of a single process."""
    if share()[1] == 1:
        return list(play(share=share()))
    with together():
        own = [_portable(episode) for episode in play(share=share())]
    return [episode for turn in zip_longest(*gather(own)) for episode in turn if episode is not None]


def _portable(episode: Episode) -> Episode:
    """Without the seats, which lead into the memory of a game."""
    turns = tuple(replace(turn, ask=replace(turn.ask, seat=None)) for turn in episode.turns)
    return replace(episode, turns=turns)


# -- weights -----------------------------------------------------------------------------------------------------


def shard(model: Any, dtype: torch.dtype | None = None) -> None:
    """Shard the parameters over the ranks, layer by layer; passes compute in ``dtype`` (None: that of the parameters).

    A single process with another ``dtype`` than its float32 parameters keeps these beside the weights it computes with:
    small steps vanish in bfloat16. Adam's states follow the parameters. Optimizers and checkpoints see parameters
    inside `sharded` only.
    """
    size = share()[1]
    if size == 1 and dtype in (None, model.dtype):
        return
    if not dist.is_initialized():
        dist.init_process_group(_backend(), store=dist.HashStore(), rank=0, world_size=1)
    device = model.device
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (size,)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
    }
    for layer in model.base_model.layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    model.set_reshard_after_forward(False)
    model.set_reshard_after_backward(False)
    model.set_requires_gradient_sync(False)
    with torch.no_grad():
        _empty_pass(model)  # FSDP takes the first module that runs for the root


def _parts(model: Any) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def sharded(model: Any) -> Iterator[None]:
    """Inside, the parameters are this rank's shards, in float32; afterwards every rank has the whole weights again."""
    parts = _parts(model)
    for part in parts:
        part.reshard()
    try:
        yield
    finally:
        for part in parts:
            part.unshard()


def _empty_pass(model: Any) -> Tensor:
    """0, by way of all parameters."""
    ids = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    return model(input_ids=ids, use_cache=False).logits.float().sum() * 0


def reduce_gradients(model: Any) -> None:
    """Sum the gradients of all backward passes over the ranks, into the shards.

    The sum rides on the backward pass of one token whose loss is 0, the only pass in which the ranks wait for each
    other, and of which each of them makes one, whatever it had to learn from.
    """
    if not _parts(model):
        return
    model.set_requires_gradient_sync(True)
    _empty_pass(model).backward()
    model.set_requires_gradient_sync(False)


def gradient_scale() -> float:
    """What a loss is multiplied by because FSDP divides the sum of gradients by the number of ranks."""
    return float(share()[1])


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which ranks may have shards, in full; all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_weights(model: Any) -> dict[str, Tensor] | None:
    """All that is trained, in full on the CPU of the first rank, None on others; all ranks must ask, inside `sharded`.

    None too where nothing is sharded, and the model itself holds them.
    """
    if not _parts(model):
        return None
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    weights = {}
    for name, tensor in model.state_dict().items():
        if name in frozen:  # beside adapters
            continue
        full = whole(tensor)
        if is_first():
            weights[name] = full.cpu()
    return weights if is_first() else None
