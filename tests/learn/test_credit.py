"""Oracle: the recurrence token by token in float64, verl, TRL's formula by hand, scipy, and golden numbers."""

import importlib
import sys

import numpy as np
import pytest
import torch
from scipy import signal
from selfplay_fast.kernels.discounted_sums import discounted_sums_reference
from selfplay_fast.kernels.segment_normalise import segment_normalise_reference

from selfplay_fast.learn import credit
from selfplay_fast.learn.credit import discounted_sums, gae, moving_advantages, segment_normalise


def make(rows, length, dtype=np.float32):
    rng = np.random.default_rng(rows * 1000 + length)
    rewards, values = rng.normal(size=(2, rows, length)).astype(dtype)
    return rewards, values, rng.random((rows, length)) < 0.7, rng.normal(size=rows).astype(dtype)


def reference(rewards, values, mask, discount, lambda_, bootstrap=None):
    tensors = [
        None if x is None else torch.from_numpy(x).double() for x in (rewards, values, mask, bootstrap)
    ]
    rewards, values, mask, bootstrap = tensors
    return discounted_sums_reference(
        rewards, discount=discount, lambda_=lambda_, baseline=values, mask=mask, bootstrap=bootstrap
    ).numpy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 5), (4, 64), (7, 63), (13, 130)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bootstrapped", [False, True])
def test_advantages_equal_the_loop(dtype, rows, length, masked, bootstrapped):
    """Oracle: the loop in float64; rows that fill vectors and rows that do not; results keep the type."""
    rewards, values, mask, bootstrap = make(rows, length, dtype)
    mask, bootstrap = mask if masked else None, bootstrap if bootstrapped else None
    advantages, returns = gae(rewards, values, mask=mask, discount=0.99, lambda_=0.9, bootstrap=bootstrap)
    want = reference(rewards, values, mask, 0.99, 0.9, bootstrap)
    bound = 1e-5 if dtype == np.float32 else 1e-13
    assert advantages.dtype == returns.dtype == dtype
    assert np.abs(advantages - want).max() <= bound * max(1, np.abs(want).max())
    assert np.array_equal(returns, advantages + values)
    many = gae(rewards, values, mask=mask, discount=0.99, lambda_=0.9, bootstrap=bootstrap, threads=3)
    assert np.array_equal(many[0], advantages)


def test_advantages_equal_verl():
    """Oracle: verl's compute_gae_advantage_return, whose whitening is applied to ours by verl's own function."""
    try:
        algorithms = importlib.import_module("verl.trainer.ppo.core_algos")
    except ImportError:
        pytest.skip("verl is not installed")
    whiten = sys.modules["verl.utils.torch_functional"].masked_whiten
    rewards, values, mask, _ = make(9, 70, np.float64)
    tensors = [torch.from_numpy(x) for x in (rewards, values, mask.astype(np.float64))]
    advantages, returns = gae(tensors[0], tensors[1], mask=tensors[2], discount=0.98, lambda_=0.9)
    want, want_returns = algorithms.compute_gae_advantage_return(*tensors, 0.98, 0.9)
    assert torch.allclose(returns, want_returns, atol=1e-12)
    assert torch.allclose(whiten(advantages, tensors[2]), want, atol=1e-12)


def test_by_hand():
    """Oracle: two steps by hand, the second cut off with value 4 after it; discount 0.5, lambda 0.5.

    delta = [1 + 0.5 * 2 - 1, 3 + 0.5 * 4 - 2] = [1, 3]; advantages = [1 + 0.25 * 3, 3].
    """
    advantages, returns = gae(
        np.array([1.0, 3]), np.array([1.0, 2]), discount=0.5, lambda_=0.5, bootstrap=np.array(4.0)
    )
    assert advantages.tolist() == [1.75, 3]
    assert returns.tolist() == [2.75, 5]


def test_whole_returns_telescope():
    """Oracle: scipy.signal.lfilter; with lambda 1 values cancel and the bootstrap is in the return once."""
    rewards, values, _, bootstrap = make(6, 50, np.float64)
    _, returns = gae(rewards, values, discount=0.97, bootstrap=bootstrap)
    want = signal.lfilter([1], [1, -0.97], rewards[:, ::-1], axis=1)[:, ::-1]
    want = want + 0.97 ** np.arange(50, 0, -1) * bootstrap[:, None]
    assert np.abs(returns - want).max() < 1e-12


def test_discounted_returns_of_a_dialogue():
    """Oracle: published numbers for discount 0.999 and rewards of -0.1, -0.1, 0.4 (0.4 * 0.999 - 0.1 = 0.2996)."""
    got = discounted_sums(np.array([-0.1, -0.1, 0.4]), discount=0.999)
    assert np.abs(got - [0.1993, 0.2996, 0.4]).max() < 1e-4


@pytest.mark.parametrize("kind", ["segments", "discount per token", "baseline alone"])
def test_sums_equal_the_loop(kind):
    """Oracle: the loop in float64."""
    rewards, values, mask, _ = make(6, 41, np.float64)
    segments = np.random.default_rng(1).integers(0, 2, (6, 41))
    discount = np.where(segments == 0, 0.5, 1.0)
    options = {
        "segments": {"segments": segments, "discount": 0.9, "mask": mask},
        "discount per token": {"discount": discount, "mask": mask},
        "baseline alone": {"baseline": values, "discount": 0.9},
    }[kind]
    want = discounted_sums_reference(
        torch.from_numpy(rewards),
        **{k: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for k, x in options.items()},
    )
    assert np.abs(discounted_sums(rewards, **options) - want.numpy()).max() < 1e-13


def test_torch_numpy_and_pieces_agree():
    """Oracle: the numpy result; torch in, torch out; transposed arrays; masks of other kinds; a gradient's way."""
    rewards, values, mask, _ = make(5, 33)
    want = gae(rewards, values, mask=mask, discount=0.9, lambda_=0.8)
    for kind in (torch.bool, torch.int64, torch.float32):
        tensors = [torch.from_numpy(x) for x in (rewards, values)]
        got = gae(*tensors, mask=torch.from_numpy(mask).to(kind), discount=0.9, lambda_=0.8)
        assert all(np.array_equal(x.numpy(), y) for x, y in zip(got, want, strict=True))
    turned = gae(
        *(np.asfortranarray(x) for x in (rewards, values)),
        mask=np.asfortranarray(mask),
        discount=0.9,
        lambda_=0.8,
    )
    assert np.array_equal(turned[0], want[0])
    critic = torch.from_numpy(values).requires_grad_()
    slow = gae(torch.from_numpy(rewards), critic, mask=torch.from_numpy(mask), discount=0.9, lambda_=0.8)
    assert not slow[0].requires_grad
    assert np.abs(slow[0].numpy() - want[0]).max() < 1e-5


def test_padding_may_hold_anything():
    """Oracle: the same without padding; NaN where nothing counts."""
    rewards, values, _, _ = make(8, 40)
    clean, _ = gae(rewards[:, :29], values[:, :29], discount=0.9, lambda_=0.8)
    rewards[:, 29:] = values[:, 29:] = np.nan
    got, _ = gae(rewards, values, mask=np.arange(40) < np.full((8, 1), 29), discount=0.9, lambda_=0.8)
    assert np.allclose(got[:, :29], clean, atol=1e-5)
    assert (got[:, 29:] == 0).all()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_nothing_to_sum(shape):
    """Oracle: the shape."""
    assert gae(np.zeros(shape), np.zeros(shape))[0].shape == shape


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"rewards": np.zeros((2, 3), np.int64)}, "values must be float32 or float64"),
        ({"rewards": np.zeros((2, 3, 1))}, "values"),
        ({"values": np.zeros((2, 2))}, "baseline"),
        ({"values": torch.zeros(2, 3)}, "both"),
        ({"mask": np.ones((3, 2))}, "mask"),
        ({"mask": np.array([["a"] * 3] * 2)}, "mask must hold numbers"),
        ({"bootstrap": np.zeros(3)}, "bootstrap"),
        ({"discount": 1.1}, "discount must be from 0 to 1"),
        ({"lambda_": float("nan")}, "lambda_"),
        ({"threads": -1}, "threads"),
    ],
)
def test_bad_input_names_the_argument(change, name):
    """Oracle: the documented ValueError, on one line."""
    with pytest.raises(ValueError, match=name) as error:
        gae(**{"rewards": np.zeros((2, 3)), "values": np.zeros((2, 3)), **change})
    assert "\n" not in str(error.value)


def test_bad_segments_and_discounts():
    """Oracle: the documented ValueError."""
    zeros = np.zeros((2, 3))
    with pytest.raises(ValueError, match="segments must hold whole numbers"):
        discounted_sums(zeros, zeros)
    with pytest.raises(ValueError, match="bootstrap goes with whole rows"):
        discounted_sums(zeros, zeros.astype(int), bootstrap=np.zeros(2))
    with pytest.raises(ValueError, match="discount must be from 0 to 1 everywhere"):
        discounted_sums(zeros, discount=zeros - 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": None, "leave_one_out": True, "keep_singletons": True},
        {"scale": "biased", "eps": 1e-4, "keep_singletons": True},
        {"eps": 0.01, "eps_inside": True, "leave_one_out": True},
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("samples", [1, 40, 2048])
def test_advantages_in_segments(options, weighted, samples):
    """Oracle: the formula segment by segment in float64; keys far apart and below 0, weights of 0 among others."""
    rng = np.random.default_rng(samples)
    values, segments = rng.normal(size=samples), rng.integers(-5, samples // 8 + 1, samples) * 10**15
    weights = rng.integers(0, 4, samples).astype(float) if weighted else None
    tensors = [None if x is None else torch.from_numpy(x) for x in (values, segments, weights)]
    want = segment_normalise_reference(*tensors, **options).numpy()
    got = segment_normalise(values, segments, weights=weights, **options)
    assert np.abs(got - want).max() < 1e-10
    single = segment_normalise(values.astype(np.float32), segments, weights=weights, **options)
    assert single.dtype == np.float32
    assert np.abs(single - want).max() < 1e-4 * max(1, np.abs(want).max())


def test_groups_equal_verl():
    """Oracle: verl's compute_grpo_outcome_advantage, groups of several and of one."""
    try:
        algorithms = importlib.import_module("verl.trainer.ppo.core_algos")
    except ImportError:
        pytest.skip("verl is not installed")
    rewards, groups = torch.randn(40, 1), np.arange(40) // 8
    groups[-1] = 99
    for std in (False, True):
        want, _ = algorithms.compute_grpo_outcome_advantage(
            rewards.clone(), torch.ones(40, 1), groups, norm_adv_by_std_in_grpo=std
        )
        got = segment_normalise(
            rewards[:, 0], groups, scale="unbiased" if std else None, keep_singletons=True
        )
        assert torch.allclose(got, want[:, 0], atol=1e-5)


def test_equal_rewards_have_no_advantage():
    """Oracle: 0, exactly, however the mean rounds; also in any shape and for the whole batch."""
    assert (segment_normalise(np.full((7, 3), 0.1), eps=0) == 0).all()
    assert (segment_normalise(np.full(9, 0.1, np.float32), np.arange(9) // 3, eps=0) == 0).all()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"values": np.zeros(3, int)}, "values must be float32 or float64"),
        ({"segments": np.zeros(3)}, "segments must hold whole numbers"),
        ({"segments": np.zeros(2, int)}, "segments"),
        ({"weights": np.zeros(2)}, "weights"),
        ({"weights": np.array([1, -1.0, 1])}, "weights must be finite and at least 0"),
        ({"scale": "std"}, "scale"),
        ({"eps": -1}, "eps"),
    ],
)
def test_bad_segments_name_the_argument(change, name):
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match=name):
        segment_normalise(**{"values": np.zeros(3), **change})


@pytest.mark.parametrize("order", ["pre", "post", "batch"])
def test_moving_averages(order):
    """Oracle: the update of SPIRAL's Eq. 2, sample by sample; its golden numbers are those of the test of
    `role_conditioned_advantages`, which goes this way."""
    rng = np.random.default_rng(0)
    returns, slots, decay = rng.normal(size=300), rng.integers(0, 5, 300), 0.9
    averages = rng.normal(size=6)  # of one slot nobody is
    got, after = moving_advantages(returns, slots, averages, decay=decay, order=order)
    now, want = averages.copy(), []
    for reward, slot in zip(returns, slots, strict=True):
        old = now[slot]
        if order != "batch":
            now[slot] = decay * old + (1 - decay) * reward
        want.append(reward - (now[slot] if order == "post" else old))
    for slot in range(5):
        if order == "batch":
            now[slot] = decay * now[slot] + (1 - decay) * returns[slots == slot].mean()
    assert np.abs(got - want).max() < 1e-12
    assert np.abs(after - now).max() < 1e-12
    assert after[5] == averages[5]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"slots": np.array([0, 2])}, "slots must be from 0"),
        ({"slots": np.array([0.0, 1])}, "slots must be whole numbers"),
        ({"slots": np.array([0])}, "slots"),
        ({"decay": 1.5}, "decay"),
        ({"order": "later"}, "order"),
    ],
)
def test_bad_moving_averages(change, name):
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match=name):
        moving_advantages(
            **{"returns": np.zeros(2), "slots": np.array([0, 1]), "baselines": np.zeros(2), **change}
        )


def test_the_extension_is_what_runs(monkeypatch):
    """Oracle: without the extension's function, arrays on the CPU have no other way."""
    monkeypatch.delattr(credit._native, "discounted_sums")
    with pytest.raises(AttributeError):
        gae(np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize("lambda_", [0.95, 1.0, 0.0])
def test_gae_of_packed_segments_is_that_of_each(lambda_, rlsp):
    """Oracle: sums of temporal differences from their definition, one segment at a time (tests/oracles/rlsp.py)."""
    lengths = torch.tensor([1, 7, 2, 30, 1])
    rewards, values = torch.randn(2, int(lengths.sum()), dtype=torch.float64).unbind()
    segments = torch.arange(5).repeat_interleave(lengths)
    advantages, returns = gae(rewards, values, segments, discount=0.99, lambda_=lambda_)
    parts = zip(*(x.split(lengths.tolist()) for x in (rewards, values, advantages, returns)), strict=True)
    for r, v, a, g in parts:
        wanted = rlsp.generalised(r.tolist(), v.tolist(), 0.99, lambda_)
        assert (a.tolist(), g.tolist()) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))
