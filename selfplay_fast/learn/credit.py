"""Returns and advantages from arrays: numpy or torch, on a CPU in C++ without copies, on a GPU in one launch.

Arrays that are not contiguous are copied. Results are of the kind that was given: numpy for numpy, torch for torch.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from selfplay_fast import _native
from selfplay_fast.kernels.discounted_sums import discounted_sums as _sums_on_device
from selfplay_fast.kernels.segment_normalise import segment_normalise as _normalise_on_device

Floats: TypeAlias = Any  # numpy array or torch tensor


def discounted_sums(
    values: Floats,
    segments: Floats | None = None,
    *,
    discount: float | Floats = 1.0,
    lambda_: float = 1.0,
    baseline: Floats | None = None,
    mask: Floats | None = None,
    bootstrap: Floats | None = None,
    threads: int = 1,
) -> Floats:
    """values [T] or [B, T] -> sums of the same shape; the formula is `selfplay_fast.kernels.discounted_sums`'s.

        sums[t] = values[t] + discount baseline[n] - baseline[t] + discount lambda_ sums[n]      n: the next that counts

    Arguments as there. float32 and float64 stay what they are; a tensor on a GPU, of half precision or with a gradient
    goes to the kernel. ``threads``: of the CPU, 0 for all. Raises ValueError on a shape, dtype or range mismatch.
    """
    if _for_kernel(values):
        return _sums_on_device(
            values,
            segments,
            discount=discount,
            lambda_=lambda_,
            baseline=baseline,
            mask=mask,
            bootstrap=bootstrap,
        )
    what = "discounted_sums"
    return _sums(what, values, segments, discount, lambda_, baseline, mask, bootstrap, threads=threads)


def gae(
    rewards: Floats,
    values: Floats,
    segments: Floats | None = None,
    *,
    mask: Floats | None = None,
    discount: float = 1.0,
    lambda_: float = 1.0,
    bootstrap: Floats | None = None,
    threads: int = 1,
) -> tuple[Floats, Floats]:
    """Generalised advantages and returns (Schulman et al. 2016, arXiv 1506.02438): all [B, T] or [T].

        delta[t]      = rewards[t] + discount values[n] - values[t]         n: the next token whose mask is not 0
        advantages[t] = delta[t] + discount lambda_ advantages[n]           returns = advantages + values

    ``segments``, whole numbers shaped like the rewards: each run of equal ones is a row of its own.
    A masked token (the environment's, padding) has the advantage of the next one; its reward and value are not used,
    as in verl's ``compute_gae_advantage_return``, which whitens afterwards. ``bootstrap`` [B]: the value after the last
    token of rows that were cut off, 0 for those that ended. No gradient flows. Raises ValueError on a shape, dtype or
    range mismatch.
    """
    if isinstance(rewards, Tensor) != isinstance(values, Tensor):
        raise ValueError("gae: rewards and values must both be numpy arrays or both torch tensors")
    if _for_kernel(rewards) or _for_kernel(values):
        critic = values.detach()
        advantages = _sums_on_device(
            rewards.detach(),
            segments,
            discount=discount,
            lambda_=lambda_,
            baseline=critic,
            mask=mask,
            bootstrap=bootstrap,
        )
        return advantages, advantages + critic
    advantages, returns = _sums(
        "gae",
        rewards,
        segments,
        discount,
        lambda_,
        values,
        mask,
        bootstrap,
        threads=threads,
        with_returns=True,
    )
    return advantages, returns


def segment_normalise(
    values: Floats,
    segments: Floats | None = None,
    *,
    weights: Floats | None = None,
    scale: Literal["biased", "unbiased"] | None = "unbiased",
    eps: float = 1e-6,
    eps_inside: bool = False,
    leave_one_out: bool = False,
    keep_singletons: bool = False,
) -> Floats:
    """values of any shape -> advantages in their group, role or batch; see `selfplay_fast.kernels.segment_normalise`.

        out = (values - mean of the segment) / (std of the segment + eps)

    Arguments as there; ``segments`` are whole numbers shaped like values, wherever equal ones are. float32 and float64
    stay what they are. Raises ValueError on a shape, dtype or range mismatch.
    """
    what = "segment_normalise"
    options = {"eps_inside": eps_inside, "leave_one_out": leave_one_out, "keep_singletons": keep_singletons}
    if _for_kernel(values):
        return _normalise_on_device(values, segments, weights=weights, scale=scale, eps=eps, **options)
    own = _array(f"{what}: values", values)
    assert own is not None
    if own.dtype not in (np.float32, np.float64):
        raise ValueError(f"{what}: values must be float32 or float64, got {own.dtype}")
    keys = _array(f"{what}: segments", segments, np.int64, "iu")
    shares = _array(f"{what}: weights", weights, own.dtype)
    for name, array in (("segments", keys), ("weights", shares)):
        if array is not None and array.shape != own.shape:
            raise ValueError(f"{what}: {name} must be {list(own.shape)} like the values, got {array.shape}")
    done = _native.segment_normalise(
        own.reshape(-1),
        segments=None if keys is None else keys.reshape(-1),
        weights=None if shares is None else shares.reshape(-1),
        scale=scale,
        eps=eps,
        **options,
    ).reshape(own.shape)
    return torch.from_numpy(done) if isinstance(values, Tensor) else done


def moving_advantages(
    returns: Floats,
    slots: Floats,
    baselines: Floats,
    *,
    decay: float = 0.95,
    order: Literal["post", "pre", "batch"] = "post",
) -> tuple[np.ndarray, np.ndarray]:
    """returns [N], slots [N] of 0 .. S-1, baselines [S] -> advantages [N] and new baselines [S], float64.

    `role_conditioned_advantages` for arrays: slot s stands for a (game, role), samples are visited in order. Raises
    ValueError on a shape or range mismatch.
    """
    whole = np.asarray(slots)
    if whole.dtype.kind not in "iu":
        raise ValueError(f"moving_advantages: slots must be whole numbers, got {whole.dtype}")
    return _native.moving_advantages(
        np.asarray(returns, np.float64),
        whole.astype(np.int64, copy=False),
        np.asarray(baselines, np.float64),
        decay=decay,
        order=order,
    )


def _for_kernel(values: Floats) -> bool:
    return isinstance(values, Tensor) and (
        values.is_cuda or values.requires_grad or values.dtype not in (torch.float32, torch.float64)
    )


def _array(name: str, x: Floats | None, dtype: Any = None, kinds: str = "biuf") -> np.ndarray | None:
    """``x`` as a contiguous array, the same memory where that is possible."""
    if x is None:
        return None
    if isinstance(x, Tensor):
        if x.device.type != "cpu":
            raise ValueError(f"{name} must be on the CPU like the values, got {x.device}")
        x = x.detach().numpy()
    array = np.asarray(x)
    if array.dtype.kind not in kinds:
        raise ValueError(
            f"{name} must hold {'whole numbers' if kinds == 'iu' else 'numbers'}, got {array.dtype}"
        )
    return np.asarray(array, dtype, order="C")


def _sums(
    what: str,
    values: Floats,
    segments: Floats | None,
    discount: float | Floats,
    lambda_: float,
    baseline: Floats | None,
    mask: Floats | None,
    bootstrap: Floats | None,
    *,
    threads: int,
    with_returns: bool = False,
) -> Any:
    own = _array(f"{what}: values", values)
    assert own is not None
    if own.dtype not in (np.float32, np.float64) or own.ndim not in (1, 2):
        raise ValueError(
            f"{what}: values must be float32 or float64 [T] or [B, T], got {own.dtype} {own.shape}"
        )
    if bootstrap is not None and segments is not None:
        raise ValueError(
            f"{what}: bootstrap goes with whole rows; with segments add discount * value to the last value"
        )
    per_token = isinstance(discount, Tensor | np.ndarray)
    arrays = {
        "segments": _array(f"{what}: segments", segments, np.int64, "iu"),
        "baseline": _array(f"{what}: baseline", baseline, own.dtype, "f"),
        "mask": _mask(f"{what}: mask", mask),
        "discounts": _array(f"{what}: discount", discount, own.dtype, "f") if per_token else None,
    }
    for name, array in arrays.items():
        if array is not None and array.shape != own.shape:
            raise ValueError(f"{what}: {name} must be {list(own.shape)} like the values, got {array.shape}")
    after = _array(f"{what}: bootstrap", bootstrap, own.dtype, "f")
    if after is not None and after.shape != own.shape[:-1]:
        raise ValueError(f"{what}: bootstrap must be {list(own.shape[:-1])}, got {after.shape}")
    done = _native.discounted_sums(
        np.atleast_2d(own),
        **{name: None if array is None else np.atleast_2d(array) for name, array in arrays.items()},
        bootstrap=None if after is None else after.reshape(-1),
        discount=1.0 if per_token else discount,
        lambda_=lambda_,
        with_returns=with_returns,
        threads=threads,
    )
    parts = [part.reshape(own.shape) for part in (done if with_returns else (done,))]
    if isinstance(values, Tensor):
        parts = [torch.from_numpy(part) for part in parts]
    return tuple(parts) if with_returns else parts[0]


def _mask(name: str, mask: Floats | None) -> np.ndarray | None:
    array = _array(name, mask)
    return array if array is None or array.dtype == np.bool_ else array != 0
