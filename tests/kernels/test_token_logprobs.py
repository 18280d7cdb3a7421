"""Oracle: the whole formula in float64 (`token_logprobs_reference`), and finite gradients where p is near 1."""

import pytest
import selfplay_fast.kernels.token_logprobs as module
import torch
from selfplay_fast.kernels.token_logprobs import token_logprobs, token_logprobs_reference

from selfplay_fast.kernels import _head


def make(tokens, hidden, vocabulary, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(tokens, hidden, generator=generator) * scale
    w = torch.randn(vocabulary, hidden, generator=generator)
    t = torch.randint(vocabulary, (tokens,), generator=generator)
    return h, w, t


def small_blocks(monkeypatch, vocabulary):
    """Edges of blocks and strips inside the batch."""
    monkeypatch.setattr(_head, "_BLOCK_ROWS", 17)
    monkeypatch.setattr(_head, "_BLOCK_ENTRIES", 17 * vocabulary)
    monkeypatch.setattr(_head, "_STRIP_ENTRIES", 5 * vocabulary)


@pytest.fixture
def path(way):
    """The PyTorch code, or the Triton code in its interpreter, in small tiles and slices."""
    tile = {"BLOCK_T": 64, "BLOCK_V": 64, "BLOCK_H": 16, "GROUP": 2}
    tiles = getattr(module, "_head_triton", None)  # only where Triton is
    return way(tiles, fits=lambda hidden, weight: True, _TILE=tile, _TILES=3, _SLICE=320)


@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 7), (63, 1000), (300, 65)])
@pytest.mark.parametrize("temperature", [1.0, 0.7, "per token"])
def test_values_and_gradients_equal_float64(tokens, vocabulary, temperature, path, monkeypatch):
    """Values to 1e-5 and gradients to 1e-5 relative, with arbitrary upstream gradients and several blocks."""
    small_blocks(monkeypatch, vocabulary)
    h, w, t = make(tokens, 24, vocabulary)
    scale = torch.linspace(0.3, 2, tokens) if temperature == "per token" else temperature
    g_lp, g_ent = torch.randn(tokens), torch.randn(tokens)
    a = [x.clone().requires_grad_() for x in (h, w)]
    lp, ent = token_logprobs(*a, t, temperature=scale, return_entropy=True)
    (lp * g_lp + ent * g_ent).sum().backward()
    b = [x.double().requires_grad_() for x in (h, w)]
    wide = scale.double() if isinstance(scale, torch.Tensor) else scale
    lp64, ent64, _ = token_logprobs_reference(*b, t, wide)
    (lp64 * g_lp + ent64 * g_ent).sum().backward()
    assert torch.allclose(lp.double(), lp64, atol=1e-5)
    assert torch.allclose(ent.double(), ent64, atol=1e-5)
    for x, y in zip(a, b, strict=True):
        assert (x.grad - y.grad).abs().max() <= 1e-5 * y.grad.abs().max()


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_bias_cap_scale_mask_and_all_that_can_be_returned(softcap, path, monkeypatch):
    """Oracle: float64 of the kept rows alone. Masked rows give 0, take no gradient and may have any target."""
    small_blocks(monkeypatch, 333)
    h, w, t = make(70, 24, 333)
    bias, mask = torch.randn(333), torch.arange(70) % 3 != 0
    likeliest = (h @ w.T + bias).argmax(-1)  # caps and scales rise with what they are made of
    t = torch.where(mask, torch.where(torch.arange(70) % 2 == 0, likeliest, t), -100)
    scale = torch.linspace(0.3, 2, 70)
    g_lp, g_ent = torch.randn(70), torch.randn(70)
    a = [x.clone().requires_grad_() for x in (h, w, bias)]
    options = {"softcap": softcap, "logit_scale": 0.4}
    lp, ent, squares, top1 = token_logprobs(
        *a[:2],
        t,
        temperature=scale,
        bias=a[2],
        mask=mask,
        return_entropy=True,
        return_log_sum_sq=True,
        return_top1=True,
        **options,
    )
    (lp * g_lp + ent * g_ent).sum().backward()
    b = [x.double().requires_grad_() for x in (h, w, bias)]
    lp64, ent64, squares64 = token_logprobs_reference(
        b[0][mask], b[1], t[mask], scale[mask].double(), bias=b[2], **options
    )
    (lp64 * g_lp[mask] + ent64 * g_ent[mask]).sum().backward()
    for ours, exact in ((lp, lp64), (ent, ent64), (squares, squares64)):
        assert torch.allclose(ours[mask].double(), exact, atol=2e-5)
        assert not ours[~mask].any()
    assert top1[mask].tolist() == (likeliest == t)[mask].tolist()
    for x, y in zip(a, b, strict=True):
        assert (x.grad - y.grad).abs().max() <= 2e-5 * y.grad.abs().max()


def test_all_rows_masked(path):
    """Oracle: nothing is computed, so nothing can be wrong: zeros, zero gradients, and NaN in hidden does not show."""
    h, w, t = make(6, 8, 11)
    a = [torch.full_like(h, torch.nan).requires_grad_(), w.clone().requires_grad_()]
    lp, ent = token_logprobs(*a, t, mask=torch.zeros(6, dtype=torch.bool), return_entropy=True)
    (lp + ent).sum().backward()
    assert not lp.any()
    assert not ent.any()
    assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in a)


def test_masked_rows_may_hold_anything(path):
    """Oracle: the same rows without the masked ones, bit for bit; those hold NaN."""
    h, w, t = make(40, 16, 90)
    mask = torch.arange(40) % 4 == 1
    dirty = torch.where(mask[:, None], h, torch.nan).requires_grad_()
    clean = h[mask].requires_grad_()
    lp = token_logprobs(dirty, w, t, mask=mask)
    lp.sum().backward()
    alone = token_logprobs(clean, w, t[mask])
    alone.sum().backward()
    assert torch.equal(lp[mask], alone)
    assert torch.equal(dirty.grad[mask], clean.grad)
    assert not dirty.grad[~mask].any()


def test_strided_inputs(path):
    """Oracle: the same numbers laid out contiguously, bit for bit."""
    h, w, t = make(20, 16, 70)
    every = [x.repeat_interleave(2, 0) for x in (h, w, t, torch.randn(70), torch.linspace(0.3, 2, 20))]
    found = []
    for h, w, t, bias, temperature in ([x[::2] for x in every], [x[::2].contiguous() for x in every]):
        found.append(token_logprobs(h, w, t, bias=bias, temperature=temperature))
    assert torch.equal(*found)


def test_deterministic_rows_depend_on_nothing_beside_them():
    """Oracle: bitwise equality of any rows, in any order and number, with the same rows of the whole batch.

    Of the PyTorch code: the products of Triton's interpreter are numpy's, which depend on the place of a row.
    """
    h, w, t = make(300, 40, 517)
    temperature = torch.linspace(0.5, 2, 300)

    def run(rows):
        flags = {"return_entropy": True, "return_log_sum_sq": True, "deterministic": True}
        return token_logprobs(h[rows], w, t[rows], temperature=temperature[rows], **flags)

    whole = run(slice(None))
    for count in (1, 2, 57, 255, 256, 299):
        rows = torch.randperm(300)[:count]
        assert all(torch.equal(some, all_[rows]) for some, all_ in zip(run(rows), whole, strict=True))


def test_the_references_gradient():
    """Oracle: finite differences of the reference in float64, whose autograd the other tests lean on."""
    h, w, t = make(4, 5, 6)
    inputs = [x.double().requires_grad_() for x in (h, w, torch.randn(6))]
    temperature = torch.linspace(0.5, 2, 4).double()
    assert torch.autograd.gradcheck(
        lambda h, w, b: token_logprobs_reference(h, w, t, temperature, bias=b, softcap=2.0, logit_scale=0.5),
        inputs,
    )


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_an_op(masked):
    """Oracle: `torch.library.opcheck`: schema, fake kernel, autograd, and all of it under symbolic shapes."""
    h, w, t = make(7, 8, 12)
    bias = torch.randn(12, requires_grad=True)
    mask = torch.arange(7) != 3 if masked else None
    arguments = (
        h.requires_grad_(),
        w.requires_grad_(),
        t,
        torch.ones(7),
        bias,
        mask,
        2.0,
        0.5,
        masked,
        masked,
    )
    torch.library.opcheck(module._op, arguments)
    columns = (torch.randn(7), torch.randn(7), h.detach(), w.detach(), t, torch.ones(7), bias.detach(), mask)
    numbers = (torch.zeros(7), torch.ones(7), 0.0, 1.0, True, masked, True)
    torch.library.opcheck(module.backward_op, columns + numbers)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_compiles_whole():
    """Oracle: the same call outside of torch.compile, values and gradients; fullgraph allows no break."""
    h, w, t = make(9, 8, 21)
    mask = torch.arange(9) % 3 != 0

    def loss(h, w):
        lp, ent = token_logprobs(h, w, t, temperature=0.7, mask=mask, return_entropy=True)
        return (lp - 0.1 * ent).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    a, b = ([x.clone().requires_grad_() for x in (h, w)] for _ in range(2))
    one, two = loss(*a), compiled(*b)
    one.backward()
    two.backward()
    assert torch.equal(one, two)
    assert all(torch.equal(x.grad, y.grad) for x, y in zip(a, b, strict=True))


def test_a_distributed_head_and_a_tied_one(tmp_path):
    """Oracle: the plain weight. A DTensor is gathered, its gradient comes back as one; a weight that is the embedding
    too gets the sum of both gradients."""
    h, w, t = make(9, 8, 21)
    plain = w.clone().requires_grad_()
    token_logprobs(h, plain, t).sum().backward()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        shards = [torch.distributed.tensor.Shard(0)]
        spread = torch.distributed.tensor.distribute_tensor(w.clone(), mesh, shards).requires_grad_()
        token_logprobs(h, spread, t).sum().backward()
        assert torch.equal(spread.grad.full_tensor(), plain.grad)
    finally:
        torch.distributed.destroy_process_group()
    tied, wide = w.clone().requires_grad_(), w.double().requires_grad_()
    token_logprobs(tied[t], tied, t).sum().backward()
    token_logprobs_reference(wide[t], wide, t)[0].sum().backward()
    assert torch.allclose(tied.grad.double(), wide.grad, atol=1e-5)


def test_gradient_at_probability_near_one(path):
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


def test_columns_beyond_the_vocabulary_count_for_nothing(path):
    """All logits far below 0: a column that is not there, read as 0, would be the largest of its row."""
    h, w, t = make(5, 16, 67)
    h, w = h.abs(), -8 * w.abs()
    lp, ent = token_logprobs(h, w, t, return_entropy=True)
    lp64, ent64, _ = token_logprobs_reference(h.double(), w.double(), t)
    assert lp64.min() < -30
    assert torch.allclose(lp.double(), lp64, atol=1e-4)
    assert torch.allclose(ent.double(), ent64, atol=1e-5)


def test_tokens_without_upstream_gradient_are_left_out(path):
    """Oracle: float64 autograd; most tokens, then all tokens, have no gradient."""
    h, w, t = make(90, 16, 130)
    for used in (slice(3, 8), slice(0, 0)):
        a, b = ([x.clone().requires_grad_() for x in pair] for pair in ((h, w), (h.double(), w.double())))
        token_logprobs(*a, t)[used].sum().backward()
        token_logprobs_reference(*b, t)[0][used].sum().backward()
        for x, y in zip(a, b, strict=True):
            assert (x.grad - y.grad).abs().max() <= 1e-5 * y.grad.abs().max() + 1e-12


def test_entropy_only_and_logprob_only_gradients(path):
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
        (lambda h, w, t: (h.double(), w.double(), t), "hidden must be float32"),
        (lambda h, w, t: (h, w[:0], t), "weight must have at least one row"),
    ],
)
def test_bad_input_names_the_argument(change, name):
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match=name):
        token_logprobs(*change(*make(5, 4, 9)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bias": torch.zeros(8)}, r"bias must be floating \[9\]"),
        ({"bias": torch.zeros(9, dtype=torch.int64)}, "bias must be floating"),
        ({"mask": torch.ones(4, dtype=torch.bool)}, r"mask must be bool \[5\]"),
        ({"mask": torch.ones(5)}, "mask must be bool"),
        ({"softcap": 0.0}, "softcap must be a number > 0"),
        ({"logit_scale": -1.0}, "logit_scale must be a number > 0"),
        ({"logit_scale": float("nan")}, "logit_scale must be a number > 0"),
        ({"temperature": torch.ones(4)}, "temperature, if not a number, must be floating"),
        ({"temperature": torch.full((5,), torch.nan)}, "temperature must be > 0"),
        ({"temperature": float("inf")}, "temperature must be a number > 0"),
    ],
)
def test_bad_options_name_themselves(options, words):
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match=words):
        token_logprobs(*make(5, 4, 9), **options)


def test_temperature_must_be_positive():
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(*make(5, 4, 9), temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be a number > 0, got '1'"):
        token_logprobs(*make(5, 4, 9), temperature="1")
    with pytest.raises(ValueError, match="mask must be a torch tensor, got list"):
        token_logprobs(*make(5, 4, 9), mask=[True] * 5)
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(*make(5, 4, 9), temperature=torch.tensor([1.0, 1, 1, 0, 1]))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("tokens", "width", "vocabulary"), [(1, 64, 7), (130, 136, 5003), (257, 72, 300), (63, 70, 1000)]
)
def test_on_the_gpu(dtype, tokens, width, vocabulary):
    """Oracle: float64 of the same rounded inputs: log-probs to 2e-3, entropies to 1e-4, gradients to 1 %."""
    h, w, t = (x.cuda() for x in make(tokens, width, vocabulary, scale=2 / width**0.5))
    a = [x.to(dtype).requires_grad_() for x in (h, w)]
    b = [x.detach().double().requires_grad_() for x in a]
    temperature = torch.linspace(0.3, 2, tokens, device="cuda")
    lp, ent = token_logprobs(*a, t, temperature=temperature, return_entropy=True)
    lp64, ent64, _ = token_logprobs_reference(*b, t, temperature.double())
    g_lp, g_ent = torch.randn(2, tokens, device="cuda").unbind()
    g_lp[::3] = g_ent[::3] = 0
    torch.autograd.backward([lp, ent], [g_lp, g_ent])
    torch.autograd.backward([lp64, ent64], [g_lp.double(), g_ent.double()])
    assert (lp.double() - lp64).abs().max() <= 2e-3
    assert (ent.double() - ent64).abs().max() <= 1e-4
    for x, y in zip(a, b, strict=True):
        assert (x.grad.double() - y.grad).norm() <= 0.01 * y.grad.norm()


@pytest.mark.gpu
def test_deterministic_on_the_gpu():
    """Oracle: as of the test above, and the documented ValueError."""
    h, w, t = (x.cuda() for x in make(300, 64, 5003))
    half = h.bfloat16(), w.bfloat16()
    whole = token_logprobs(*half, t, deterministic=True)
    for count in (1, 57, 128, 299):
        rows = torch.randperm(300, device="cuda")[:count]
        assert torch.equal(token_logprobs(half[0][rows], half[1], t[rows], deterministic=True), whole[rows])
    with pytest.raises(ValueError, match="deterministic"):
        token_logprobs(h, w, t, deterministic=True)


def test_half_precision_inputs_do_not_round_the_logits():
    """Oracle: float64 of the same rounded inputs; logits rounded to bfloat16 would be off by 0.03 here."""
    h, w, t = (x if x.dtype == torch.int64 else x.bfloat16() for x in make(40, 32, 500))
    lp, ent = token_logprobs(h, w, t, return_entropy=True)
    lp64, ent64, _ = token_logprobs_reference(h.double(), w.double(), t)
    assert (lp.double() - lp64).abs().max() <= 1e-4
    assert (ent.double() - ent64).abs().max() <= 1e-4
