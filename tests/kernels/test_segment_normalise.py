"""Oracle: the formula segment by segment in float64 (`segment_normalise_reference`), and numbers by hand."""

import pytest
import selfplay_fast.kernels.segment_normalise as module
import torch
from selfplay_fast.kernels.segment_normalise import segment_normalise, segment_normalise_reference


@pytest.fixture
def path(way):
    """The PyTorch code, or the Triton code in its interpreter."""
    return way(module, _fits_triton=lambda values: values.dtype != torch.float64, _OTHERS=32)


OPTIONS = (
    {},
    {"scale": None},
    {"scale": "biased", "eps": 1e-4, "keep_singletons": True},
    {"scale": "unbiased", "eps": 1e-2, "eps_inside": True},
    {"scale": None, "leave_one_out": True, "keep_singletons": True},
    {"scale": "biased", "leave_one_out": True},
)


def make(samples, device="cpu"):
    """values, segments (among them some of one sample, keys far apart and below 0), weights (some 0)."""
    values = torch.randn(samples, device=device)
    segments = torch.randint(0, max(1, samples // 4), (samples,), device=device) * -(10**12) + 5
    return values, segments, torch.randint(0, 5, (samples,), device=device).float()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("samples", [1, 7, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_gradients_equal_float64(options, samples, weighted, path):
    """Oracle: the formula in float64 and its autograd."""
    values, segments, weights = make(samples)
    weights = weights if weighted else None
    a, b = values.clone().requires_grad_(), values.double().requires_grad_()
    ours = segment_normalise(a, segments, weights=weights, **options)
    truth = segment_normalise_reference(b, segments, None if weights is None else weights.double(), **options)
    assert (ours - truth).abs().max() <= 1e-5 * max(1, truth.abs().max())
    up = torch.randn(samples)
    (ours * up).sum().backward()
    if truth.requires_grad:
        (truth * up).sum().backward()
    want = torch.zeros(samples) if b.grad is None else b.grad
    assert (a.grad - want).abs().max() <= 1e-4 * max(1, want.abs().max())


def test_by_hand(path):
    """Oracle: rewards 1, 1, -0.5, -1 by hand: mean 0.125, deviation 0.8927, or 1.0308 as of a sample."""
    rewards = torch.tensor([1, 1, -0.5, -1])
    got = segment_normalise(rewards, scale="biased", eps=0)
    assert torch.allclose(got, torch.tensor([0.9802, 0.9802, -0.70014, -1.26025]), atol=1e-4)
    got = segment_normalise(rewards, scale="unbiased", eps=0)
    assert torch.allclose(got[::3], torch.tensor([0.84887, -1.09141]), atol=1e-4)
    got = segment_normalise(rewards, scale=None, leave_one_out=True)
    assert torch.allclose(got, rewards - (rewards.sum() - rewards) / 3, atol=1e-6)


def test_equal_rewards_have_no_advantage(path):
    """Oracle: 0, exactly: three times 0.1 must not leave a rounding error that is then divided by another."""
    values = torch.tensor([0.1, 0.1, 0.1, 1e8, 1e8, -7.3])
    got = segment_normalise(values, torch.tensor([0, 0, 0, 1, 1, 2]), eps=0)
    assert got.tolist() == [0] * 6


def test_a_large_offset_costs_no_digits(path):
    """Oracle: the same deviations without the offset; E[x^2] - E[x]^2 would have none left."""
    values = torch.tensor([0.0, 1, 2, 3])
    got = segment_normalise(values + 2**20, eps=0)
    assert torch.allclose(got, segment_normalise(values, eps=0), atol=1e-6)


def test_weights_are_repetitions(path):
    """Oracle: every sample as often as its weight says, unweighted (token weighting of sequences)."""
    values, segments, weights = torch.randn(20), torch.arange(20) % 3, torch.randint(1, 5, (20,))
    times = weights.long()
    many = segment_normalise(values.repeat_interleave(times), segments.repeat_interleave(times))
    once = segment_normalise(values, segments, weights=weights).repeat_interleave(times)
    assert torch.allclose(many, once, atol=1e-5)


def test_masked_samples_may_hold_anything(path):
    """Oracle: the same without them."""
    values, segments = torch.randn(2, 6), torch.arange(12).view(2, 6) % 2
    clean = segment_normalise(values[0].clone(), segments[0])
    values[1] = torch.nan
    mask = torch.tensor([[1.0] * 6, [0.0] * 6])
    got = segment_normalise(values, segments, weights=mask)
    assert torch.allclose(got[0], clean, atol=1e-6)
    assert (got[1] == 0).all()


def test_inputs_in_pieces_and_half_precision(path):
    """Oracle: contiguous float32 inputs."""
    values, segments, weights = (x.view(4, 6).T for x in make(24))
    apart = segment_normalise(values, segments, weights=weights)
    whole = segment_normalise(*(x.contiguous() for x in (values, segments)), weights=weights.contiguous())
    assert torch.equal(apart, whole)
    half = values.bfloat16()
    assert torch.allclose(
        segment_normalise(half, segments), segment_normalise(half.float(), segments), atol=1e-6
    )


def test_no_samples(path):
    """Oracle: the shape."""
    assert segment_normalise(torch.zeros(0, 3), torch.zeros(0, 3).long()).shape == (0, 3)


def test_operator_contract(path):
    """Oracle: torch.library.opcheck: schema, fake results, autograd, and tracing of the operator."""
    values, segments, weights = make(20)
    for scale, flags in (("unbiased", (False, False, False)), ("", (True, True, True))):
        args = (values.clone().requires_grad_(), segments, weights, scale, 1e-6, *flags)
        torch.library.opcheck(module._segment_normalise, args)


def test_compiles_without_a_break():
    """Oracle: the same function uncompiled, values and gradient."""
    values, segments, weights = make(20)
    compiled = torch.compile(
        lambda x: segment_normalise(x, segments, weights=weights).square(),
        fullgraph=True,
        backend="aot_eager",
    )
    a, b = (values.clone().requires_grad_() for _ in range(2))
    out, want = compiled(a), segment_normalise(b, segments, weights=weights).square()
    out.sum().backward()
    want.sum().backward()
    assert torch.equal(out, want)
    assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"values": torch.zeros(3).long()}, "values must be floats"),
        ({"segments": torch.zeros(3)}, "segments must be int32 or int64"),
        ({"segments": torch.zeros(2).long()}, "segments"),
        ({"weights": torch.zeros(2)}, "weights"),
        ({"weights": torch.tensor([1.0, -1, 1])}, "weights must be finite and at least 0"),
        ({"weights": torch.tensor([1.0, torch.nan, 1])}, "weights"),
        ({"weights": torch.zeros(3, device="meta")}, "weights must be .* on cpu"),
        ({"scale": "std"}, "scale"),
        ({"eps": -1.0}, "eps"),
        ({"eps": float("nan")}, "eps"),
    ],
)
def test_bad_input_names_the_argument(change, name):
    """Oracle: the documented ValueError, on one line."""
    with pytest.raises(ValueError, match=name) as error:
        segment_normalise(**{"values": torch.zeros(3), **change})
    assert "segment_normalise" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("samples", [1, 2048, 40_000])
def test_on_the_gpu(options, samples):
    """Oracle: the PyTorch path in float64 on the CPU, itself tested against the formula."""
    values, segments, weights = make(samples, "cuda")
    got = segment_normalise(values, segments, weights=weights, **options).cpu()
    want = segment_normalise(values.cpu().double(), segments.cpu(), weights=weights.cpu(), **options)
    assert (got - want).abs().max() <= 1e-4 * max(1, want.abs().max())
