"""Learning of a critic. Oracles: tests/oracles/rlsp.py, and autograd with one forward pass per sequence."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from selfplay_fast.learn import batch_values, critic_update, value_clip_loss
from selfplay_fast.learn.packing import TokenBatch
from selfplay_fast.learn.warmup import demonstration_batch
from selfplay_fast.policies.critic import Critic


@pytest.fixture
def critic(toy_policy, tmp_path: Path) -> Critic:  # type: ignore[no-untyped-def]
    """One with the toy policy's trunk."""
    toy_policy.save(tmp_path / "policy")
    return Critic.load(tmp_path / "policy", "dense", seed=0)


@pytest.fixture
def batch(toy_policy, toy_texts) -> TokenBatch:  # type: ignore[no-untyped-def]
    """Eight samples, some of whose tokens are not trained."""
    made = demonstration_batch(toy_policy, toy_texts[:8], ["one", "a longer reply", "two", "three"] * 2)
    weights = made.weights.copy()
    weights[::5] = 0
    return replace(made, weights=weights)


@pytest.mark.parametrize("clip", [0.2, None])
def test_value_loss_token_by_token(rlsp: ModuleType, clip: float | None) -> None:
    """Oracle: the loss of each token by itself, without a clip one that never binds."""
    values, old, returns = torch.randn(3, 200, dtype=torch.float64).unbind()
    own = value_clip_loss(clip)(values, old, returns)
    for k in range(200):
        wanted = rlsp.value_loss(values[k].item(), old[k].item(), returns[k].item(), clip or 1e9)
        assert own[k].item() == pytest.approx(wanted)


def test_a_value_that_went_far_enough_has_no_gradient() -> None:
    """Oracle: where the clipped loss is the larger one, nothing is gained by going on."""
    values = torch.tensor([0.5, 0.1, -0.5], requires_grad=True)
    value_clip_loss(0.2)(values, torch.zeros(3), torch.ones(3)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, -0.9, -1.5])
    with pytest.raises(ValueError, match=r"^clip: must be > 0"):
        value_clip_loss(0.0)


def test_gradients_equal_independent_sequences(
    critic: Critic, batch: TokenBatch, rlsp: ModuleType, watched: Any
) -> None:
    """Oracle: autograd on one forward pass per sequence, the mean of the loss over the tokens that are trained."""
    generator = torch.Generator().manual_seed(1)
    values = batch_values(critic, batch)
    old = values + 0.3 * torch.randn(len(values), generator=generator)
    returns = torch.randn(len(values), generator=generator)
    optimizer = watched(critic.model.parameters())
    done = critic_update(critic, optimizer, batch, old, returns, clip=0.2, max_grad_norm=1e9)
    total, trained = torch.zeros(()), int((batch.weights > 0).sum())
    for i, sequence in enumerate(batch.sequences):
        ids = torch.as_tensor(sequence.astype(np.int64))[None]
        own = critic.model(input_ids=ids, use_cache=False).logits[0, batch.first[i] - 1 : -1, 0]
        for k, t in enumerate(range(batch.offsets[i], batch.offsets[i + 1])):
            if batch.weights[t] > 0:
                near = old[t] + (own[k] - old[t]).clamp(-0.2, 0.2)
                total = total + torch.maximum((own[k] - returns[t]) ** 2, (near - returns[t]) ** 2) / 2
    (total / trained).backward()
    assert done["critic_loss"] == pytest.approx((total / trained).item(), rel=1e-5)
    for gradient, weight in zip(optimizer.gradients, critic.model.parameters(), strict=True):
        assert (gradient - weight.grad).abs().max() <= 1e-5 * max(1e-3, weight.grad.abs().max())


def test_minibatches_are_steps_of_their_own(critic: Critic, batch: TokenBatch) -> None:
    """Oracle: two updates by hand, each on the mean over its own tokens."""
    returns = torch.linspace(-1, 1, int(batch.offsets[-1]))
    values = batch_values(critic, batch)
    before = {name: weight.clone() for name, weight in critic.model.state_dict().items()}

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD(critic.model.parameters(), lr=0.1)

    critic_update(critic, optimizer(), batch, values, returns, minibatch=5, max_grad_norm=0.5)
    together = {name: weight.clone() for name, weight in critic.model.state_dict().items()}
    critic.model.load_state_dict(before)
    for samples in (np.arange(5), np.arange(5, 8)):
        tokens = np.concatenate([np.arange(batch.offsets[i], batch.offsets[i + 1]) for i in samples])
        critic_update(
            critic, optimizer(), batch.take(samples), values[tokens], returns[tokens], max_grad_norm=0.5
        )
    assert critic.version == 4
    for name, weight in critic.model.state_dict().items():
        assert torch.allclose(weight, together[name], atol=1e-6), name


def test_a_critic_learns_what_returns_are(critic: Critic, batch: TokenBatch) -> None:
    """Oracle: the share of the returns' variance that is explained, 0 for a constant, 1 for the returns themselves."""
    returns = torch.as_tensor(np.repeat(np.arange(8) % 2, np.diff(batch.offsets)), dtype=torch.float32)
    optimizer = torch.optim.AdamW(critic.model.parameters(), lr=3e-3)
    shares = []
    for _ in range(25):
        values = batch_values(critic, batch)
        done = critic_update(critic, optimizer, batch, values, returns, clip=None)
        shares.append(done["explained_variance"])
    assert abs(shares[0]) < 0.1
    assert shares[-1] > 0.9
    exact = critic_update(critic, optimizer, batch, returns, returns)
    assert exact["explained_variance"] == pytest.approx(1.0)
