"""Oracle: the whole formula in float64 (`token_logprobs_reference`), and finite gradients where p is near 1."""

import pytest
import selfplay_fast.kernels.token_logprobs as module
import torch
from selfplay_fast.kernels.token_logprobs import token_logprobs, token_logprobs_reference


def make(tokens, hidden, vocabulary, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(tokens, hidden, generator=generator) * scale
    w = torch.randn(vocabulary, hidden, generator=generator)
    t = torch.randint(vocabulary, (tokens,), generator=generator)
    return h, w, t


@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 7), (63, 1000), (300, 65)])
@pytest.mark.parametrize("temperature", [1.0, 0.7, "per token"])
def test_values_and_gradients_equal_float64(tokens, vocabulary, temperature, monkeypatch):
    """Values to 1e-5 and gradients to 1e-5 relative, with arbitrary upstream gradients and several blocks."""
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 17 * vocabulary)  # block edges inside the batch
    h, w, t = make(tokens, 24, vocabulary)
    scale = torch.linspace(0.3, 2, tokens) if temperature == "per token" else temperature
    g_lp, g_ent = torch.randn(tokens), torch.randn(tokens)
    a = [x.clone().requires_grad_() for x in (h, w)]
    lp, ent = token_logprobs(*a, t, temperature=scale, return_entropy=True)
    (lp * g_lp + ent * g_ent).sum().backward()
    b = [x.double().requires_grad_() for x in (h, w)]
    wide = scale.double() if isinstance(scale, torch.Tensor) else scale
    lp64, ent64 = token_logprobs_reference(*b, t, wide)
    (lp64 * g_lp + ent64 * g_ent).sum().backward()
    assert torch.allclose(lp.double(), lp64, atol=1e-5)
    assert torch.allclose(ent.double(), ent64, atol=1e-5)
    for x, y in zip(a, b, strict=True):
        assert (x.grad - y.grad).abs().max() <= 1e-5 * y.grad.abs().max()


def test_gradient_at_probability_near_one():
    """With p = 0.999… the gradient's error stays within twice that of torch's own float32 log_softmax."""
    h, w, t = make(40, 16, 50)
    h = 8 * w[t]  # peaked on the target
    b = h.double().requires_grad_()
    token_logprobs_reference(b, w.double(), t)[0].sum().backward()
    a = h.clone().requires_grad_()
    token_logprobs(a, w, t).sum().backward()
    c = h.clone().requires_grad_()
    token_logprobs_reference(c, w, t)[0].sum().backward()
    ours, theirs = (a.grad - b.grad).abs().max(), (c.grad - b.grad).abs().max()
    assert ours <= 2 * theirs + 1e-12


def test_entropy_only_and_logprob_only_gradients():
    """Each output alone gives the gradient of float64 autograd (an unused output must not poison the other)."""
    h, w, t = make(12, 8, 30)
    for which in (0, 1):
        a = h.clone().requires_grad_()
        token_logprobs(a, w, t, return_entropy=True)[which].sum().backward()
        b = h.double().requires_grad_()
        token_logprobs_reference(b, w.double(), t)[which].sum().backward()
        assert torch.allclose(a.grad.double(), b.grad, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda h, w, t: (h[:, :-1], w, t), "hidden"),
        (lambda h, w, t: (h, w, t[:-1]), "targets"),
        (lambda h, w, t: (h, w, t.int()), "targets"),
        (lambda h, w, t: (h, w, t + 9), "targets must be from 0 to 8"),
        (lambda h, w, t: (h, w, t - 9), "targets must be from 0 to 8"),
        (lambda h, w, t: (h.double(), w, t), "dtype"),
    ],
)
def test_bad_input_names_the_argument(change, name):
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match=name):
        token_logprobs(*change(*make(5, 4, 9)))


def test_temperature_must_be_positive():
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(*make(5, 4, 9), temperature=0.0)
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(*make(5, 4, 9), temperature=torch.tensor([1.0, 1, 1, 0, 1]))
