"""Oracle: the recurrence token by token in float64 (`discounted_sums_reference`), scipy, and numbers by hand."""

import numpy as np
import pytest
import selfplay_fast.kernels.discounted_sums as module
import torch
from scipy import signal
from selfplay_fast.kernels.discounted_sums import discounted_sums, discounted_sums_reference


@pytest.fixture
def path(way):
    """The PyTorch code, or the Triton code in its interpreter, in small blocks and chunks."""
    return way(module, _fits_triton=lambda values: values.dtype != torch.float64, _BLOCK=32, _CHUNK=48)


def make(rows, length, device="cpu"):
    """values, baseline, mask, segments, discounts, bootstrap."""
    values, baseline = torch.randn(2, rows, length, device=device)
    mask = torch.rand(rows, length, device=device) < 0.7
    segments = (torch.rand(rows, length, device=device) < 0.1).cumsum(1) % 2  # numbers come back
    discounts = torch.where(torch.rand(rows, length, device=device) < 0.3, 0.6, 1.0)
    return values, baseline, mask, segments, discounts, torch.randn(rows, device=device)


def options_of(kind, rows, length, device="cpu"):
    values, baseline, mask, segments, discounts, bootstrap = make(rows, length, device)
    options = {
        "returns": {"discount": 0.97},
        "segments": {"discount": 0.97, "segments": segments},
        "advantages": {"discount": 0.99, "lambda_": 0.9, "baseline": baseline, "mask": mask},
        "bootstrap": {
            "discount": 0.9,
            "lambda_": 0.8,
            "baseline": baseline,
            "mask": mask,
            "bootstrap": bootstrap,
        },
        "segmented advantages": {
            "discount": 0.9,
            "lambda_": 0.8,
            "baseline": baseline,
            "mask": mask,
            "segments": segments,
        },
        "by turns": {"discount": discounts, "mask": mask, "segments": segments},
        "tail of returns": {"discount": 0.9, "mask": mask, "bootstrap": bootstrap},
        "one step": {"discount": 0.9, "lambda_": 0.0, "baseline": baseline, "mask": mask},
        "no discount left": {"discount": 0.0, "baseline": baseline, "segments": segments},
    }
    return values, options[kind]


KINDS = (
    "returns",
    "segments",
    "advantages",
    "bootstrap",
    "segmented advantages",
    "by turns",
    "tail of returns",
    "one step",
    "no discount left",
)


def widened(options):
    return {
        k: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for k, x in options.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 63), (2, 130)])
def test_values_and_gradients_equal_float64(kind, rows, length, path):
    """Oracle: the loop in float64 and its autograd; 1e-5 relative to the largest."""
    values, options = options_of(kind, rows, length)
    up = torch.randn(rows, length)
    a, b = values.clone().requires_grad_(), values.double().requires_grad_()
    ours = discounted_sums(a, **options)
    truth = discounted_sums_reference(b, **widened(options))
    assert ours.dtype == torch.float32
    assert (ours - truth).abs().max() <= 1e-5 * max(1, truth.abs().max())
    (ours * up).sum().backward()
    (truth * up).sum().backward()
    assert (a.grad - b.grad).abs().max() <= 1e-5 * max(1, b.grad.abs().max())


def test_float64_stays_float64():
    """Oracle: the loop in float64, to 1e-13; a discount rounded to float32 would be off by 1e-7."""
    values, options = options_of("bootstrap", 2, 50)
    ours = discounted_sums(values.double(), **widened(options))
    assert (ours - discounted_sums_reference(values.double(), **widened(options))).abs().max() < 1e-13


def test_returns_equal_a_filter(path):
    """Oracle: scipy.signal.lfilter of the reversed row."""
    values = torch.randn(2, 100)
    want = signal.lfilter([1], [1, -0.95], values.double().numpy()[:, ::-1], axis=1)[:, ::-1]
    assert np.abs(discounted_sums(values, discount=0.95).numpy() - want).max() < 1e-5


def test_whole_returns_telescope(path):
    """Oracle: with lambda 1 the baseline cancels: sums + baseline = returns + discount^left bootstrap, once."""
    values, baseline, *_, bootstrap = make(3, 70)
    sums = discounted_sums(values, discount=0.98, baseline=baseline, bootstrap=bootstrap)
    left = 0.98 ** torch.arange(70, 0, -1)
    want = discounted_sums_reference(values.double(), discount=0.98) + left * bootstrap[:, None]
    assert (sums + baseline - want).abs().max() < 1e-5


def test_by_hand(path):
    """Oracle: 1 + 0.5 (2 + 0.5 * 4) = 3; two segments in a flat row; a masked token passes on."""
    row = torch.tensor([1.0, 2, 4, 1, 2, 4])
    got = discounted_sums(row, torch.tensor([7, 7, 7, 5, 5, 5]), discount=0.5)
    assert got.tolist() == [3, 4, 4, 3, 4, 4]
    got = discounted_sums(row[:3], discount=0.5, mask=torch.tensor([True, False, True]))
    assert got.tolist() == [3, 4, 4]


def test_turns_of_a_seat_centred_by_role(path):
    """Oracle: turn-level sums of MARS on its toy batch, centred by seat: numbers derived from the paper's formula.

    Turns of one token, rewards [.05, 1.05], [.05, -10.95], [.05, -.95], [2.05] of seat 0; tokens of the other seat lie
    between them and are masked. The mean of the seven sums is -2.785714.
    """
    rewards = torch.zeros(4, 4)
    rewards[:, 0] = torch.tensor([0.05, 0.05, 0.05, 2.05])
    rewards[:3, 2] = torch.tensor([1.05, -10.95, -0.95])
    own = torch.zeros(4, 4, dtype=torch.bool)
    own[:, 0] = True
    own[:3, 2] = True
    sums = discounted_sums(rewards, mask=own)
    want = torch.tensor([3.885714, 3.835714, -8.114286, -8.164286, 1.885714, 1.835714, 4.835714])
    assert torch.allclose(sums[own] - sums[own].mean(), want, atol=2e-6)


def test_padding_may_hold_anything(path):
    """Oracle: the same without padding. NaN where nothing counts, and infinity next door, change nothing."""
    values, baseline, *_ = make(2, 40)
    mask = torch.arange(40).expand(2, 40) < 31
    options = {"discount": 0.9, "lambda_": 0.9}
    clean = discounted_sums(values[:, :31], baseline=baseline[:, :31], **options)
    values[:, 31:] = baseline[:, 31:] = torch.nan
    got = discounted_sums(values, baseline=baseline, mask=mask, **options)
    assert torch.allclose(got[:, :31], clean, atol=1e-5)
    assert (got[:, 31:] == 0).all()
    segments = (torch.arange(40) >= 31).long().expand(2, 40)
    got = discounted_sums(values.nan_to_num(torch.inf), segments, **options)
    assert torch.allclose(got[:, :31], discounted_sums(values[:, :31], **options), atol=1e-5)


def test_inputs_in_pieces_and_in_half_precision(path):
    """Oracle: contiguous float32 inputs. Transposed values, mask and baseline; bfloat16 is summed in float32."""
    values, baseline, mask, *_ = make(40, 3)
    options = {"discount": 0.9, "lambda_": 0.9}
    apart = discounted_sums(values.T, baseline=baseline.T, mask=mask.T, **options)
    whole = discounted_sums(
        values.T.contiguous(), baseline=baseline.T.contiguous(), mask=mask.T.contiguous(), **options
    )
    assert torch.equal(apart, whole)
    half = values.T.bfloat16().requires_grad_()
    got = discounted_sums(half, **options)
    got.sum().backward()
    assert torch.allclose(got, discounted_sums(half.detach().float(), **options), atol=1e-6)
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_nothing_to_sum(shape, path):
    """Oracle: the shape."""
    assert discounted_sums(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("kind", ["returns", "bootstrap", "by turns"])
def test_operator_contract(kind, path):
    """Oracle: torch.library.opcheck: schema, fake results, autograd, and tracing of the operator."""
    values, options = options_of(kind, 2, 20)
    discount = options.pop("discount")
    a_tensor = isinstance(discount, torch.Tensor)
    names = ("segments", "mask", "baseline")
    torch.library.opcheck(
        module._discounted_sums,
        (
            values.requires_grad_(),
            *(options.get(name) for name in names),
            discount if a_tensor else None,
            options.get("bootstrap"),
            1.0 if a_tensor else discount,
            options.get("lambda_", 1.0),
        ),
    )


def test_compiles_without_a_break():
    """Oracle: the same function uncompiled, values and gradient."""
    values, options = options_of("by turns", 2, 20)
    compiled = torch.compile(
        lambda x: discounted_sums(x, **options).square(), fullgraph=True, backend="aot_eager"
    )
    a, b = (values.clone().requires_grad_() for _ in range(2))
    out = compiled(a)
    want = discounted_sums(b, **options).square()
    out.sum().backward()
    want.sum().backward()
    assert torch.equal(out, want)
    assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"values": torch.zeros(2, 3, 4)}, "values must be floats"),
        ({"values": torch.zeros(2, 3, dtype=torch.int64)}, "values must be floats"),
        ({"segments": torch.zeros(2, 4, dtype=torch.int64)}, "segments"),
        ({"segments": torch.zeros(2, 3)}, "segments must be int32 or int64"),
        ({"mask": torch.ones(3, 2)}, "mask"),
        ({"baseline": torch.zeros(2, 3).double()}, "baseline"),
        ({"bootstrap": torch.zeros(3)}, "bootstrap"),
        ({"bootstrap": torch.zeros(2), "segments": torch.zeros(2, 3).long()}, "bootstrap"),
        ({"discount": 1.5}, "discount must be from 0 to 1, got 1.5"),
        ({"discount": float("nan")}, "discount"),
        ({"discount": torch.full((2, 3), -0.1)}, "discount must be from 0 to 1"),
        ({"discount": torch.ones(3)}, "discount"),
        ({"lambda_": -0.1}, "lambda_"),
        ({"mask": torch.ones(2, 3, device="meta")}, "mask must be on cpu"),
    ],
)
def test_bad_input_names_the_argument(change, name):
    """Oracle: the documented ValueError, on one line."""
    with pytest.raises(ValueError, match=name) as error:
        discounted_sums(**{"values": torch.zeros(2, 3), **change})
    assert "discounted_sums" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (5, 63), (3, 9001), (300, 1000)])
def test_on_the_gpu(kind, rows, length):
    """Oracle: the PyTorch path in float64 on the CPU, itself tested against the loop; values and gradients."""
    values, options = options_of(kind, rows, length, "cuda")
    host = {k: x.cpu() if isinstance(x, torch.Tensor) else x for k, x in widened(options).items()}
    a, b = values.clone().requires_grad_(), values.cpu().double().requires_grad_()
    ours, truth = discounted_sums(a, **options), discounted_sums(b, **host)
    assert (ours.cpu() - truth).abs().max() <= 1e-5 * max(1, truth.abs().max())
    up = torch.randn(rows, length)
    (ours * up.cuda()).sum().backward()
    (truth * up).sum().backward()
    assert (a.grad.cpu() - b.grad).abs().max() <= 1e-5 * max(1, b.grad.abs().max())


@pytest.mark.gpu
def test_more_than_two_to_the_31_entries():
    """Oracle: by hand: ones halved each step sum to 1, 1.5, 1.75, ... 2. Offsets of 32 bits would wrap."""
    if torch.cuda.get_device_properties(0).total_memory < 40 << 30:
        pytest.skip("needs 20 GB")
    values = torch.ones((), dtype=torch.bfloat16, device="cuda").expand(3, (1 << 30) + 5).contiguous()
    sums = discounted_sums(values, discount=0.5)
    assert sums[-1, -3:].tolist() == [1.75, 1.5, 1]
    assert (sums[:, :1000] == 2).all()
