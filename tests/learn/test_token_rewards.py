"""Oracle: the recurrences token by token in Python, torch's own variance, and numbers by hand."""

import numpy as np
import pytest
import torch

from selfplay_fast.learn.token_rewards import reinforce_pp_advantages, shaped_rewards, whiten

OFFSETS = torch.tensor([0, 3, 4, 9])
REWARDS = torch.tensor([1.0, -25.0, 10.5])


def kl():
    return torch.from_numpy(np.random.default_rng(0).normal(size=9))


def test_rewards_by_hand():
    """The outcome lies on the last token and is clipped to 10; every token pays for its divergence."""
    shaped = shaped_rewards(REWARDS, OFFSETS, torch.full((9,), 2.0), kl_coef=0.01)
    want = [-0.02, -0.02, 0.98, -10.02, -0.02, -0.02, -0.02, -0.02, 9.98]
    assert torch.allclose(shaped, torch.tensor(want, dtype=torch.float64), atol=1e-15)


def test_rewards_without_a_reference():
    shaped = shaped_rewards(REWARDS, OFFSETS, limit=20.0)
    assert shaped.tolist() == [0, 0, 1, -20, 0, 0, 0, 0, 10.5]


def test_masked_tokens_pay_nothing_and_count_nowhere():
    """Oracle: the same with these tokens' numbers taken out."""
    mask = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1, 1])
    shaped = shaped_rewards(REWARDS, OFFSETS, kl(), kl_coef=0.5, mask=mask)
    kept = mask.bool()
    plain = shaped_rewards(REWARDS, torch.tensor([0, 2, 3, 7]), kl()[kept], kl_coef=0.5)
    assert torch.equal(shaped[kept], plain)
    assert shaped[~kept].abs().max() == 0
    white = whiten(shaped, mask=mask)
    assert torch.allclose(white[kept], whiten(plain), atol=1e-14)
    assert white[~kept].abs().max() == 0


def test_returns_are_sums_from_behind():
    """Oracle: a loop over tokens."""
    shaped = shaped_rewards(REWARDS, OFFSETS, kl())
    _, returns = reinforce_pp_advantages(shaped, OFFSETS)
    for begin, end in zip(OFFSETS[:-1].tolist(), OFFSETS[1:].tolist(), strict=True):
        running = 0.0
        for t in reversed(range(begin, end)):
            running += shaped[t].item()
            assert returns[t].item() == pytest.approx(running, abs=1e-12)


def test_each_segment_has_mean_0_and_variance_1():
    """Oracle: torch.var; a long sample weighs as much as it has tokens."""
    values = torch.from_numpy(np.random.default_rng(1).normal(3, 5, size=101))
    roles = torch.tensor([0] * 30 + [1] * 71)
    white = whiten(values, roles)
    for role in (0, 1):
        own = values[roles == role]
        want = (own - own.mean()) / own.var(correction=0).sqrt()
        assert torch.allclose(white[roles == role], want, atol=1e-12)
        assert white[roles == role].mean().abs() < 1e-12
        assert white[roles == role].var(correction=0).item() == pytest.approx(1)


def test_equal_values_are_0_and_small_variance_is_clamped():
    """No NaN where nothing differs; by hand: deviations of 1e-5 are divided by sqrt(1e-8), not by themselves."""
    assert whiten(torch.full((5,), 0.3, dtype=torch.float64)).abs().max() < 1e-10
    white = whiten(torch.tensor([1e-5, -1e-5], dtype=torch.float64))
    assert torch.allclose(white, torch.tensor([0.1, -0.1], dtype=torch.float64))
    assert whiten(torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shaped_rewards(REWARDS[:2], OFFSETS), "rewards: must be one for each of 3 samples, got 2"),
        (lambda: shaped_rewards(REWARDS, torch.tensor([0, 3, 3, 9])), "offsets: a sample has no tokens"),
        (lambda: shaped_rewards(REWARDS * torch.nan, OFFSETS), "rewards: must be finite"),
        (lambda: shaped_rewards(REWARDS, OFFSETS, kl()[:8]), r"kl: must be \[9\], one per token, got \[8\]"),
        (lambda: whiten(kl(), torch.zeros(8, dtype=torch.int64)), r"segments: must be \[9\]"),
        (lambda: whiten(kl(), mask=torch.ones(3)), r"mask: must be \[9\], one per token, got \[3\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
