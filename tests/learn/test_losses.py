"""Oracle: golden numbers of the losses of SPIRAL and MARS, derived independently in float64."""

import math

import pytest
import torch

from selfplay_fast.learn.losses import (
    PolicyLoss,
    k1_kl,
    k2_kl,
    k3_kl,
    negative_log_likelihood,
    policy_loss,
    ppo_clip_loss,
    reinforce_loss,
    truncated_importance,
)

NEW = torch.tensor([-0.50, -1.20, -0.05, -2.00, -0.70, -0.30, -1.00], dtype=torch.float64)
OLD = torch.tensor([-0.60, -0.80, -0.05, -2.60, -0.40, -0.90, -1.00], dtype=torch.float64)
REFERENCE = torch.tensor([-0.55, -1.00, -0.10, -2.10, -0.75, -0.50, -0.90], dtype=torch.float64)
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


def test_mars_loss_golden():
    """Clip 0.2, dual clip 1.4, k3 with 0.2, mean over tokens, then over sequences: loss, both terms, gradient."""
    logp = NEW.clone().requires_grad_()
    loss = PolicyLoss(surrogate=ppo_clip_loss(0.2, dual_clip=1.4), kl="k3", kl_coef=0.2)
    weights = torch.tensor([1 / 4] * 4 + [1 / 3] * 3, dtype=torch.float64) / 2
    total = (weights * loss(logp, torch.zeros_like(logp), ADVANTAGES, OLD, REFERENCE)).sum()
    total.backward()
    policy = (weights * ppo_clip_loss(0.2, dual_clip=1.4)(NEW, OLD, ADVANTAGES)).sum()
    assert total.item() == pytest.approx(0.304618808, abs=1e-9)
    assert policy.item() == pytest.approx(0.303063629, abs=1e-9)
    assert (weights * k3_kl(NEW, REFERENCE)).sum().item() == pytest.approx(0.007775894, abs=1e-9)
    want = [-0.1369271, -0.0893251, -0.1237807, 0.0023791, 0.0016257, 0.0060423, 0.2464943]
    assert logp.grad.tolist() == pytest.approx(want, abs=1e-7)


@pytest.mark.parametrize("kl", [k1_kl, k3_kl])
def test_kl_estimators_are_unbiased(kl):
    """Oracle: sum_a p(a) (log p(a) - log q(a)), exact over a full distribution."""
    p, q = torch.log_softmax(torch.randn(2, 9, dtype=torch.float64), -1)
    assert torch.allclose((p.exp() * kl(p, q)).sum(), (p.exp() * (p - q)).sum())


def test_a_limited_k3_has_no_gradient_beyond():
    """Oracle: k3 by hand at gaps 0.1 and 5: 0.0051709 and 142.41, the latter cut at 10."""
    logp = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    value = k3_kl(logp, torch.tensor([0.1, 5.0], dtype=torch.float64), limit=10.0)
    value.sum().backward()
    assert value.tolist() == pytest.approx([0.0051709, 10.0], abs=1e-7)
    assert logp.grad.tolist() == pytest.approx([1 - math.exp(0.1), 0.0])


def test_upper_clip_and_truncation():
    """Oracle: hand-made numbers: ratio 1.5 with A = 1, clipped at 1.28; importance e^2 cut at 2, e^-1 kept."""
    ratio, one = torch.tensor([1.5]).log(), torch.ones(1)
    assert ppo_clip_loss(0.2, clip_high=0.28)(ratio, 0 * one, one).item() == pytest.approx(-1.28)
    cut = truncated_importance(torch.tensor([2.0, -1.0]), torch.zeros(2), 2.0)
    assert cut.tolist() == pytest.approx([2.0, math.exp(-1)])


@pytest.mark.parametrize("surrogate", [reinforce_loss, ppo_clip_loss(0.2, dual_clip=1.5)])
def test_policy_loss_equals_the_formula_on_whole_logits(surrogate):
    """Oracle: log_softmax in float64, then the same PolicyLoss with autograd; per-token advantages and weights."""
    h, w = torch.randn(60, 12), torch.randn(101, 12)
    t, mask = torch.randint(101, (60,)), torch.rand(60) < 0.7
    old, reference, sampler, advantages = -4 + torch.randn(4, 60)
    loss = PolicyLoss(surrogate=surrogate, kl="k2", kl_coef=0.1, entropy_coef=0.05, max_importance=2.0)
    weights = torch.rand(60)
    a = [x.clone().requires_grad_() for x in (h, w)]
    columns = {"old_logprobs": old, "reference_logprobs": reference, "sampler_logprobs": sampler}
    total, logprobs, entropy = policy_loss(
        *a, t, loss, advantages, **columns, weights=weights, temperature=0.8, mask=mask
    )
    total.backward()
    b = [x.double().requires_grad_() for x in (h, w)]
    whole = torch.log_softmax(b[0] @ b[1].T / 0.8, -1)
    logp, exact = whole.gather(-1, t[:, None])[:, 0], -(whole.exp() * whole).sum(-1)
    want = (weights * loss(logp, exact, advantages, old, reference, sampler))[mask].sum()
    want.backward()
    assert total.item() == pytest.approx(want.item(), rel=1e-5)
    assert torch.allclose(logprobs[mask].double(), logp[mask], atol=1e-5)
    assert torch.allclose(entropy[mask].double(), exact[mask], atol=1e-5)
    for x, y in zip(a, b, strict=True):
        assert (x.grad - y.grad).abs().max() <= 1e-5 * y.grad.abs().max()


def test_policy_loss_on_policy_and_compiled():
    """Oracle: without old log-probs clipping has REINFORCE's gradient; torch.compile makes one graph of it."""
    h, w, t, advantages = torch.randn(9, 8), torch.randn(31, 8), torch.randint(31, (9,)), torch.randn(9)
    h.requires_grad_()
    clipped = PolicyLoss(surrogate=ppo_clip_loss())

    def gradient(loss, run=policy_loss):
        return torch.autograd.grad(run(h, w, t, loss, advantages)[0], h)[0]

    compiled = torch.compile(lambda *a: policy_loss(*a), fullgraph=True, backend="aot_eager")
    assert torch.allclose(gradient(clipped), gradient(PolicyLoss()), atol=1e-6)
    assert torch.equal(gradient(clipped, compiled), gradient(clipped))


def test_bad_settings_name_the_argument():
    """Oracle: the documented ValueErrors."""
    h, w, t = torch.randn(3, 4), torch.randn(5, 4), torch.zeros(3, dtype=torch.int64)
    for name, make in {
        "kl": lambda: PolicyLoss(kl="k4"),
        "kl_coef": lambda: PolicyLoss(kl_coef=-1.0),
        "surrogate": lambda: PolicyLoss(surrogate=ppo_clip_loss),
        "loss must be a PolicyLoss": lambda: policy_loss(h, w, t, ppo_clip_loss(0.2), torch.ones(3)),
        "reference_logprobs are given": lambda: policy_loss(
            h, w, t, PolicyLoss(), torch.ones(3), reference_logprobs=torch.ones(3)
        ),
        "sampler_logprobs are given": lambda: policy_loss(
            h, w, t, PolicyLoss(), torch.ones(3), sampler_logprobs=torch.ones(3)
        ),
        "max_importance": lambda: PolicyLoss(max_importance=0.0),
        "clip_high": lambda: ppo_clip_loss(clip_high=0.0),
        "dual_clip": lambda: ppo_clip_loss(dual_clip=1.0),
        "policy_loss: advantages": lambda: policy_loss(h, w, t, PolicyLoss(), torch.ones(2)),
        "reference_logprobs": lambda: policy_loss(h, w, t, PolicyLoss(kl_coef=1.0), torch.ones(3)),
        "sampler_logprobs": lambda: policy_loss(h, w, t, PolicyLoss(max_importance=1.0), torch.ones(3)),
    }.items():
        with pytest.raises(ValueError, match=name):
            make()


def test_clip_must_be_positive():
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match="clip"):
        ppo_clip_loss(0.0)
