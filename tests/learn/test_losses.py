"""Oracle: golden numbers of SPIRAL's loss with its constant normaliser, derived independently in float64."""

import pytest
import torch

from selfplay_fast.learn.losses import k2_kl, negative_log_likelihood, ppo_clip_loss, reinforce_loss

NEW = torch.tensor([-0.50, -1.20, -0.05, -2.00, -0.70, -0.30, -1.00], dtype=torch.float64)
OLD = torch.tensor([-0.60, -0.80, -0.05, -2.60, -0.40, -0.90, -1.00], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0] * 4 + [-1.5] * 3, dtype=torch.float64)


def test_spiral_loss_golden():
    """(1/2) sum over samples of (token sum / 4096): loss 0.000177940336 and its gradient times 4096."""
    logp = NEW.clone().requires_grad_()
    loss = ppo_clip_loss(0.2)(logp, OLD, ADVANTAGES).sum() / 4096 / 2
    loss.backward()
    assert loss.item() == pytest.approx(0.000177940336, abs=1e-12)
    want = [-0.552587, -0.335159, -0.499999, 0, 0, 1.366589, 0.749998]
    assert (logp.grad * 4096).tolist() == pytest.approx(want, abs=2e-6)


def test_on_policy_clip_has_the_gradient_of_reinforce():
    """At ratio 1 both gradients are -A (Schulman et al. 2017, section 3)."""
    a, b = NEW.clone().requires_grad_(), NEW.clone().requires_grad_()
    ppo_clip_loss(0.2)(a, NEW, ADVANTAGES).sum().backward()
    reinforce_loss(b, NEW, ADVANTAGES).sum().backward()
    assert torch.allclose(a.grad, b.grad)
    assert torch.allclose(b.grad, -ADVANTAGES)


def test_likelihood_ignores_advantages():
    """Oracle: -log p."""
    assert torch.equal(negative_log_likelihood(NEW, OLD, ADVANTAGES), -NEW)


def test_k2_gradient_is_that_of_the_reverse_kl():
    """sum_a p(a) d k2(a) equals d KL(p || q), both by autograd in float64 over a full distribution."""
    logits = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    q = torch.log_softmax(torch.linspace(-1, 1, 6, dtype=torch.float64), 0)
    p = torch.log_softmax(logits, 0)
    exact = torch.autograd.grad((p.exp() * (p - q)).sum(), logits, retain_graph=True)[0]
    sampled = torch.autograd.grad((p.detach().exp() * k2_kl(p, q)).sum(), logits)[0]
    assert torch.allclose(exact, sampled)


def test_clip_must_be_positive():
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match="clip"):
        ppo_clip_loss(0.0)
