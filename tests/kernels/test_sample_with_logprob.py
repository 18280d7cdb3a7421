"""Oracle: the truncated distribution in float64 (`sample_with_logprob_reference`), transformers, numpy, chi-square."""

import numpy as np
import pytest
import selfplay_fast.kernels.sample_with_logprob as module
import torch
from scipy import stats
from selfplay_fast.kernels.sample_with_logprob import sample_with_logprob, sample_with_logprob_reference
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from selfplay_fast.policies.streams import uniforms


@pytest.fixture
def path(way, monkeypatch):
    """The PyTorch code, or the Triton code in its interpreter, in small blocks."""
    for name, value in (("_PART", 16), ("_LARGEST", 8), ("_BLOCK_ENTRIES", 300)):
        monkeypatch.setattr(module, name, value)
    chosen = way(module, _fits_triton=lambda logits: True)
    if chosen == "triton":
        monkeypatch.setattr(module._sample_triton, "_BLOCK", 64)
    return chosen


DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
SETTINGS = (
    {},
    {"temperature": 0.6},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"temperature": 1.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
)


def per_row(settings, rows, dtype=torch.float64):
    """All four settings as tensors [R], in the order of the reference."""
    return [
        torch.full((rows,), x, dtype=torch.int64 if name == "top_k" else dtype)
        for name, x in {**DEFAULTS, **settings}.items()
    ]


def kept(logits, settings):
    """bool [R, V]: what the operator kept."""
    seeds = torch.arange(len(logits))
    least = module._sample(logits, seeds, 0, *per_row(settings, len(logits), torch.float32))[3]
    return logits.float() >= least[:, None]


def warped(logits, settings):
    """What transformers' processors, in the order of its generate, leave of the logits."""
    kinds = {
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    for name, kind in kinds.items():
        if name in settings:
            logits = kind(settings[name])(None, logits)
    return logits


@pytest.mark.parametrize("settings", SETTINGS)
def test_kept_tokens_and_logprobs(settings, path):
    """Oracle: the tokens that transformers' processors leave; log-probabilities in float64, at the temperature."""
    rows = 3
    logits, seeds = 2 * torch.randn(rows, 90), torch.arange(rows) * 7919
    left = warped(logits, settings)
    assert torch.equal(kept(logits, settings), left.isfinite())
    tokens, logprobs = sample_with_logprob(logits, seeds, **settings)
    want = sample_with_logprob_reference(logits.double(), *per_row(settings, rows))
    assert torch.equal(want.isfinite(), left.isfinite())
    assert (logprobs - want.gather(1, tokens[:, None])[:, 0]).abs().max() < 1e-5


@pytest.mark.parametrize("settings", SETTINGS)
def test_reference_equals_transformers(settings):
    """Oracle: transformers' processors in float64: the same tokens are left, as probable, to 1e-12."""
    logits = 3 * torch.randn(20, 90, dtype=torch.float64)
    ours = sample_with_logprob_reference(logits, *per_row(settings, 20))
    assert torch.allclose(ours, warped(logits, settings).log_softmax(-1), atol=1e-12)


def test_large_vocabulary_equals_transformers():
    """Oracle: transformers' processors. 256 sorted logits, or 3,072, suffice for some rows and not for others."""
    logits = torch.linspace(0.5, 8, 6)[:, None] * torch.randn(6, 40_000)
    for settings in (
        {"top_p": 0.9},
        {"top_k": 3000},
        {"top_k": 256},
        {"top_k": 257},
        {"top_k": 5000, "top_p": 0.6},
        {"top_k": 50, "top_p": 0.9},
    ):
        assert torch.equal(kept(logits, settings), warped(logits, settings).isfinite())


def test_filters_by_hand(path):
    """Oracle: by hand, of 0.4, 0.3, 0.2, 0.1. Top-p is of what top-k left; what crosses it stays; min_p is relative."""
    logits = torch.tensor([[0.2, 0.4, 0.1, 0.3]]).log()
    for settings, want in (
        ({"top_k": 2, "top_p": 0.5}, [1]),  # 0.4 of 0.7
        ({"top_p": 0.5}, [1, 3]),
        ({"top_k": 3, "top_p": 0.75}, [1, 3]),  # 0.7 of 0.9
        ({"top_k": 3, "top_p": 0.8}, [0, 1, 3]),
        ({"top_p": 0.75, "min_p": 0.6}, [1, 3]),
        ({"min_p": 0.4}, [0, 1, 3]),
        ({"top_k": 4}, [0, 1, 2, 3]),
        ({"top_k": 2**40}, [0, 1, 2, 3]),
        ({"top_p": 1e-7}, [1]),
    ):
        assert kept(logits, settings)[0].nonzero()[:, 0].tolist() == want, settings


def test_equal_logits_stay_together(path):
    """Oracle: TopKLogitsWarper, and by hand for top-p: 3/8, 2/8, and three of 1/8, of which all stay."""
    logits = torch.tensor([[1.0, 3, 1, 3, 1, 3, 1, 3.0], [5.0, 3, 2, 3, 1, 3, 2, 0.0]])
    assert torch.equal(kept(logits, {"top_k": 3}), TopKLogitsWarper(3)(None, logits).isfinite())
    logits = torch.tensor([[1.0, 3, 1, 1, 2]]).log()
    assert kept(logits, {"top_p": 0.65})[0].tolist() == [True] * 5
    assert kept(logits, {"top_p": 0.6})[0].tolist() == [False, True, False, False, True]


@pytest.mark.filterwarnings(
    "ignore:overflow"
)  # of numpy, in the interpreter: such a difference is -inf, as it should
def test_thresholds_between_far_and_near_logits(path):
    """Oracle: float64. Numbers across all of float32, on both sides of 0, and neighbours in it: halving must end."""
    apart = torch.tensor([s * 10.0**e for s in (-1, 1) for e in range(-37, 38)] + [0.0, -3.4e38, -torch.inf])
    close = torch.tensor(1.0).view(torch.int32) + torch.arange(78, dtype=torch.int32) // 2
    masked = torch.cat((torch.randn(18), torch.full((60,), torch.finfo(torch.float32).min)))
    for row, counts in ((apart, (1, 20, 60)), (close.view(torch.float32), (3, 40)), (masked, (5, 30))):
        for k in counts:
            want = row >= row.sort(descending=True).values[k - 1]
            assert torch.equal(kept(row[None], {"top_k": k})[0], want)
    for p in (0.3, 0.99):
        want = sample_with_logprob_reference(masked[None].double(), *per_row({"top_p": p}, 1)).isfinite()
        assert torch.equal(kept(masked[None], {"top_p": p}), want)


def test_draw_is_the_inverse_cdf(path):
    """Oracle: numpy's searchsorted in the float64 distribution, at the numbers of `policies.streams`."""
    rows, settings = 5, {"temperature": 0.8, "min_p": 0.01}
    logits, seeds = 2 * torch.randn(rows, 90), torch.randint(-(2**63), 2**63 - 1, (rows,))
    exact = sample_with_logprob_reference(logits.double(), *per_row(settings, rows)).exp().numpy()
    for counter in (0, 1, 1000):
        u = uniforms(seeds.numpy().view(np.uint64), counter)
        want = [np.searchsorted(p.cumsum() / p.sum(), x, side="right") for p, x in zip(exact, u, strict=True)]
        assert sample_with_logprob(logits, seeds, counter=counter, **settings)[0].tolist() == want


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.02}])
@pytest.mark.parametrize("one_seed", [False, True])
def test_draws_follow_the_distribution(settings, one_seed):
    """Oracle: chi-square against the exact distribution in float64, 40,000 draws, a bound that 1 in 10^6 exceeds."""
    draws = 40_000
    logits = 1.5 * torch.randn(1, 30)
    seeds = 11 if one_seed else torch.arange(draws)
    tokens, _ = sample_with_logprob(logits.expand(draws, -1), seeds, **settings)
    exact = sample_with_logprob_reference(logits.double(), *per_row(settings, 1))[0].exp()
    counts = torch.bincount(tokens, minlength=30).double()
    assert counts[exact == 0].sum() == 0
    often = exact * draws >= 5
    expected = torch.cat((exact[often], exact[~often].sum().clamp_min(1e-9)[None])) * draws
    seen = torch.cat((counts[often], counts[~often].sum()[None]))
    assert ((seen - expected) ** 2 / expected).sum() < stats.chi2.isf(1e-6, int(often.sum()))


def test_rare_tokens_are_drawn(path):
    """Oracle: numpy in float64, for seeds that draw one of 69 tokens of e^-16 each behind one of about 1.

    In float32 a sum behind the first moves in steps of 1.2e-7, more than such a token adds.
    """
    logits = torch.full((1, 70), -16.0)
    logits[0, 0] = 0
    p = logits[0].double().exp().numpy()
    every = np.arange(1 << 20, dtype=np.uint64)
    u = uniforms(every, 5)
    rare = np.flatnonzero(u > 1 / p.sum())[:5]
    assert len(rare) == 5
    want = np.searchsorted(p.cumsum() / p.sum(), u[rare], side="right")
    tokens, _ = sample_with_logprob(
        logits.expand(5, -1), torch.as_tensor(every[rare].view(np.int64)), counter=5
    )
    assert tokens.tolist() == want.tolist()


def test_a_row_depends_on_its_seed_alone(path):
    """Oracle: the same rows in another order, one alone, and fewer; other seeds and counters draw differently."""
    logits, seeds = torch.randn(1, 70).expand(6, -1).clone(), torch.arange(6)
    tokens, logprobs = sample_with_logprob(logits, seeds, top_p=0.95)
    back = sample_with_logprob(logits, seeds.flip(0), top_p=0.95)
    alone = sample_with_logprob(logits[4:5], seeds[4:5], top_p=0.95)
    assert torch.equal(back[0].flip(0), tokens)
    assert torch.equal(alone[0], tokens[4:5])
    assert torch.equal(alone[1], logprobs[4:5])
    assert len(set(tokens.tolist())) > 1
    numbered = sample_with_logprob(logits, 3)[0]
    assert torch.equal(sample_with_logprob(logits[:4], 3)[0], numbered[:4])
    for other in (sample_with_logprob(logits, 2)[0], sample_with_logprob(logits, 3, counter=1)[0]):
        assert not torch.equal(other, numbered)


def test_settings_of_each_row(path):
    """Oracle: each row alone with its settings as numbers; int32 counts and half-precision masses as well."""
    logits, seeds = 2 * torch.randn(4, 70), torch.arange(4)
    columns = {
        "temperature": torch.tensor([0.0, 0.5, 1, 1.5]),
        "top_k": torch.tensor([3, 0, 9, 100], dtype=torch.int32),
        "top_p": torch.tensor([0.5, 1, 0.75, 0.25], dtype=torch.bfloat16),
        "min_p": torch.tensor([0.0, 0, 0.125, 0], dtype=torch.float64),
    }
    tokens, logprobs = sample_with_logprob(logits, seeds, **columns)
    for row in range(4):
        alone = {name: column[row].item() for name, column in columns.items()}
        token, logprob = sample_with_logprob(logits[row : row + 1], seeds[row : row + 1], **alone)
        assert (token, logprob) == (tokens[row], logprobs[row])


def test_greedy(path):
    """Oracle: argmax, the first of equal ones, log-probability 0; also the limits of the other settings."""
    logits = torch.randn(3, 66)
    logits[0, 10] = logits[0, 65] = 9
    tokens, logprobs = sample_with_logprob(logits, torch.arange(3), temperature=0.0, top_k=3, top_p=0.4)
    assert torch.equal(tokens, logits.argmax(1))
    assert tokens[0] == 10
    assert (logprobs == 0).all()
    for settings in (
        {"top_k": 1},
        {"top_p": 1e-6},
        {"min_p": 1.0},
        {"temperature": 1e-4},
        {"temperature": 1e-42},
    ):
        tokens, logprobs = sample_with_logprob(logits[1:], torch.arange(2), **settings)
        assert torch.equal(tokens, logits[1:].argmax(1))
        assert logprobs.abs().max() < 1e-6


def test_tokens_taken_out_are_never_drawn(path):
    """Oracle: -inf everywhere but at two tokens; a column that is not there, read as 0, would be the largest."""
    logits = torch.full((6, 67), -torch.inf)
    logits[:, [3, 66]] = torch.tensor([-50.0, -50.5])
    for settings in ({}, {"top_k": 30, "top_p": 0.99}):
        tokens, logprobs = sample_with_logprob(logits, torch.arange(6), **settings)
        assert set(tokens.tolist()) == {3, 66}
        assert (logprobs > -1.5).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_without_a_distribution_is_refused(value, path):
    """Oracle: the documented ValueError, which names the row: NaN or +inf in one place, or nothing but -inf."""
    logits = torch.randn(3, 70)
    logits[1, 5 if value != -torch.inf else slice(None)] = value
    with pytest.raises(ValueError, match=r"sample_with_logprob: logits must be .* row 1"):
        sample_with_logprob(logits, 0, top_k=9, top_p=0.9)


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradient_equals_float64(settings, path):
    """Oracle: autograd of the reference in float64."""
    logits, seeds, up = torch.randn(2, 70), torch.arange(2), torch.randn(2)
    a, b = logits.clone().requires_grad_(), logits.double().requires_grad_()
    tokens, logprobs = sample_with_logprob(a, seeds, **settings)
    (logprobs * up).sum().backward()
    want = sample_with_logprob_reference(b, *per_row(settings, 2)).gather(1, tokens[:, None])[:, 0]
    (want * up).sum().backward()
    assert (a.grad - b.grad).abs().max() < 1e-5


def test_inputs_in_pieces_other_precisions_and_none(path):
    """Oracle: contiguous float32 inputs; no rows. A last position's logits are rows that lie apart."""
    logits, seeds = torch.randn(70, 2).T, torch.arange(4)[::2]
    whole = sample_with_logprob(logits.contiguous(), seeds, top_k=9)
    apart = torch.stack((logits, logits), 1).contiguous()[:, -1]
    assert not apart.is_contiguous()
    for other in (logits, apart, logits.double(), apart.double()):
        got = sample_with_logprob(other, seeds, top_k=9)
        assert all(torch.equal(x, y) for x, y in zip(got, whole, strict=True))
    for half in (logits.bfloat16(), apart.half()):
        got, want = (
            sample_with_logprob(half, seeds, top_p=0.9),
            sample_with_logprob(half.float(), seeds, top_p=0.9),
        )
        assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))
    tokens, logprobs = sample_with_logprob(torch.zeros(0, 5), torch.zeros(0).long(), top_p=0.9)
    assert (tokens.shape, tokens.dtype, logprobs.dtype) == ((0,), torch.int64, torch.float32)


def test_rows_more_than_two_to_the_31_entries_apart(path):
    """Oracle: by hand: one token is likely in each row. Offsets of 32 bits would wrap; nothing between is touched."""
    logits = torch.empty(2**31 + 100, dtype=torch.bfloat16).as_strided((2, 20), (2**31 + 64, 1))
    logits.fill_(0)
    logits[0, 3] = logits[1, 7] = 100
    assert sample_with_logprob(logits, 0)[0].tolist() == [3, 7]


def test_operator_contract(path):
    """Oracle: torch.library.opcheck: schema, fake results, autograd, and tracing of the operator."""
    numbers = per_row(SETTINGS[-1], 1, torch.float32)
    torch.library.opcheck(module._sample, (torch.randn(1, 20).requires_grad_(), torch.arange(1), 3, *numbers))


def test_compiles_without_a_break():
    """Oracle: the same function uncompiled, results and gradient, for several counters."""
    logits = torch.randn(3, 40)

    def run(x, counter):
        return sample_with_logprob(x, 5, counter=counter, temperature=0.7, top_p=0.9)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for counter in (0, 1, 2, 10):
        a, b = (logits.clone().requires_grad_() for _ in range(2))
        got, want = compiled(a, counter), run(b, counter)
        for x, y in zip(got, want, strict=True):
            assert torch.equal(x, y)
        got[1].sum().backward()
        want[1].sum().backward()
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"logits": torch.zeros(3)}, "logits must be floats"),
        ({"logits": torch.zeros(2, 3).long()}, "logits must be floats"),
        ({"logits": torch.zeros(2, 0)}, "logits must be floats"),
        ({"seeds": torch.zeros(3).long()}, "seeds"),
        ({"seeds": torch.zeros(2)}, "seeds must be one number or int64"),
        ({"seeds": torch.zeros(2, device="meta").long()}, "seeds must be one number or int64"),
        ({"seeds": 2**63}, "seeds and counter must be whole numbers"),
        ({"counter": 0.5}, "seeds and counter must be whole numbers"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": torch.inf}, "temperature"),
        ({"temperature": torch.tensor([1.0, -1])}, "temperature must be at least 0"),
        ({"temperature": torch.ones(3)}, "temperature"),
        ({"temperature": torch.ones(2, device="meta")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k must be a whole number"),
        ({"top_k": torch.ones(2)}, "top_k must be one number or int64"),
        ({"top_k": torch.tensor([1, -1])}, "top_k must be at least 0"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": torch.tensor([0.5, 1.5])}, "top_p"),
        ({"top_p": torch.ones(2).long()}, "top_p must be one number or floats"),
        ({"min_p": 1.5}, "min_p"),
        ({"min_p": torch.tensor([0.5, torch.nan])}, "min_p"),
    ],
)
def test_bad_input_names_the_argument(change, name):
    """Oracle: the documented ValueError, on one line."""
    with pytest.raises(ValueError, match=name) as error:
        sample_with_logprob(**{"logits": torch.zeros(2, 3), "seeds": torch.arange(2), **change})
    assert "sample_with_logprob" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_the_gpu(settings, dtype):
    """Oracle: the PyTorch path on the CPU: the same tokens but where u lies a rounding from a step."""
    logits, seeds = (2 * torch.randn(64, 50_001)).to(dtype), torch.arange(64) - 32
    tokens, logprobs = sample_with_logprob(logits.cuda(), seeds.cuda(), counter=9, **settings)
    want, want_logprobs = sample_with_logprob(logits, seeds, counter=9, **settings)
    same = tokens.cpu() == want
    assert same.float().mean() > 0.95
    assert (logprobs.cpu() - want_logprobs)[same].abs().max() < 1e-4


@pytest.mark.gpu
def test_a_row_without_a_distribution_on_the_gpu():
    """Oracle: the documented token -1 and NaN, beside rows that are whole."""
    logits = torch.randn(3, 20_000, device="cuda")
    logits[1, 15_000] = torch.nan
    tokens, logprobs = sample_with_logprob(logits, 0, top_k=9, top_p=0.9)
    assert (tokens < 0).tolist() == [False, True, False]
    assert logprobs.isnan().tolist() == [False, True, False]


def test_seed_and_counter_are_streams_of_their_own():
    """Oracle: 24 seeds times 24 counters give almost as many different draws, none on both sides of the diagonal."""
    logits = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(3)).mul(0.01)
    draws = [[int(sample_with_logprob(logits, s, counter=c)[0]) for c in range(24)] for s in range(24)]
    assert len({x for row in draws for x in row}) > 550  # chance meets three or so times
    assert sum(draws[s][c] == draws[c][s] for s in range(24) for c in range(s)) <= 2
    assert len({draws[s][s] for s in range(24)}) >= 23
