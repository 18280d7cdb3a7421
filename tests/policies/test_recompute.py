"""Oracle: the same passes without recomputation."""

import copy
from typing import Any

import torch

from selfplay_fast.learn.losses import ppo_clip_loss
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.learn.update import Update, update
from selfplay_fast.learn.warmup import demonstration_batch
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.recompute import recompute_layers


def gradients(policy: LanguageModel, batch: TokenBatch, optimizer: Any) -> tuple[list[torch.Tensor], int]:
    """Of one update of many micro-batches behind a shared prefix, and the bytes that passes stored."""
    stored = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal stored
        stored += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        update(
            policy, optimizer, batch, Update(loss=ppo_clip_loss(), max_grad_norm=1e9, max_batch_tokens=256)
        )
    return optimizer.gradients, stored


def test_gradients_stay_and_little_is_stored(toy_policy, toy_texts: list[str], watched) -> None:
    """Oracle: gradients without recomputation, to 1e-5; a fourth of what their passes stored is more than enough."""
    batch = demonstration_batch(toy_policy, toy_texts[:12], [f"move {i}" for i in range(12)])
    want, much = gradients(toy_policy, batch, watched(toy_policy.model.parameters()))
    recompute_layers(toy_policy.model)
    got, little = gradients(toy_policy, batch, watched(toy_policy.model.parameters()))
    for ours, theirs in zip(got, want, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * max(1e-3, theirs.abs().max())
    assert little < much / 4


def test_a_copy_runs_its_own_layers(toy_policy) -> None:
    """Oracle: the weights that change. Adapters of a second role are a copy of the model, and learn by themselves."""
    recompute_layers(toy_policy.model)
    other = copy.deepcopy(toy_policy.model)
    ids = torch.arange(12)[None]
    before = [model(ids, use_cache=False).logits for model in (toy_policy.model, other)]
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(2)
    after = [model(ids, use_cache=False).logits for model in (toy_policy.model, other)]
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-3)
