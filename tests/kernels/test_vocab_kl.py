"""Oracle: `torch.nn.functional.kl_div` of whole logits in float64, and autograd through it."""

import pytest
import selfplay_fast.kernels.vocab_kl as module
import torch
from selfplay_fast.kernels.vocab_kl import vocab_kl, vocab_kl_reference
from torch.utils._python_dispatch import TorchDispatchMode

from selfplay_fast.kernels import _head

CAPPED = {"softcap": 4.0, "logit_scale": 0.7, "other_softcap": 3.0, "other_logit_scale": 1.3}


def make(tokens=40, width=16, other_width=24, vocabulary=131):
    """Two models of different widths."""
    return (
        torch.randn(tokens, width),
        torch.randn(vocabulary, width),
        torch.randn(tokens, other_width),
        torch.randn(vocabulary, other_width),
    )


@pytest.fixture
def path(way, monkeypatch):
    """The PyTorch code, or the Triton code in its interpreter; small blocks, so that their edges lie inside."""
    for name, value in {"_BLOCK_ENTRIES": 17 * 131, "_BLOCK_ROWS": 17, "_STRIP_ENTRIES": 5 * 131}.items():
        monkeypatch.setattr(_head, name, value)
    tile = {"BLOCK_T": 64, "BLOCK_V": 64, "BLOCK_H": 16, "GROUP": 2}
    tiles = getattr(module, "_vocab_kl_triton", None)  # only where Triton is
    way(getattr(tiles, "_head_triton", None), _SLICE=96)
    return way(tiles, fits=lambda p, q: True, _TILE=tile, _TILES=2)


def log_softmax(hidden, weight, bias, temperature, cap=None, scale=1.0):
    logits = scale * (hidden.double() @ weight.double().T + (0 if bias is None else bias.double()))
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return torch.log_softmax(logits / torch.as_tensor(temperature, dtype=torch.float64).reshape(-1, 1), -1)


def divergence(h, w, g, v, temperature=1.0, bias=None, other_bias=None, **options):
    """In float64, by torch's own function."""
    p = log_softmax(h, w, bias, temperature, options.get("softcap"), options.get("logit_scale", 1.0))
    q = log_softmax(
        g, v, other_bias, temperature, options.get("other_softcap"), options.get("other_logit_scale", 1.0)
    )
    return torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def both(problem, bias=None, up=None, **options):
    """Values of ours and of the oracle, and their gradients of hidden, weight (and bias)."""
    up = torch.randn(len(problem[0])) if up is None else up
    found, biases = [], [] if bias is None else [bias]
    for function in (vocab_kl, divergence):
        inputs = [x.clone() if function is vocab_kl else x.double() for x in (*problem[:2], *biases)]
        for x in inputs:
            x.requires_grad_()
        more = {} if bias is None else {"bias": inputs[2]}
        kl = function(*inputs[:2], *problem[2:], **more, **options)
        kl.backward(up.to(kl.dtype))
        found.append((kl.detach(), [x.grad for x in inputs]))
    return found


def assert_near(problem, atol=2e-5, **options):
    """Values to atol and 1e-5 relative, gradients to 2e-5 of the largest."""
    (kl, grads), (truth, exact) = both(problem, **options)
    assert kl.dtype == torch.float32
    assert torch.allclose(kl.double(), truth, atol=atol, rtol=1e-5)
    for x, y in zip(grads, exact, strict=True):
        assert (x - y).abs().max() <= 2e-5 * y.abs().max() + 1e-12


@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 7), (40, 131), (63, 65)])
@pytest.mark.parametrize("temperature", [0.7, "per token"])
def test_values_and_gradients_equal_float64(tokens, vocabulary, temperature, path):
    """At odd sizes, temperatures from 0.3 to 2, and an upstream gradient for each token, of some of them zero."""
    up = torch.randn(tokens)
    up[1::3] = 0
    scale = torch.linspace(0.3, 2, tokens) if temperature == "per token" else temperature
    assert_near(make(tokens, vocabulary=vocabulary), temperature=scale, up=up)


@pytest.mark.parametrize("options", [{}, CAPPED], ids=["plain", "capped"])
def test_bias_cap_and_scale_of_both_heads(options, path):
    """Values and gradients, the bias's too; of each option both heads have their own."""
    bias, other_bias = torch.randn(2, 131).unbind()
    temperature = torch.linspace(0.3, 2, 40)
    assert_near(make(), bias=bias, other_bias=other_bias, temperature=temperature, **options)


@pytest.mark.parametrize("only", ["softcap", "other_softcap", "logit_scale", "other_logit_scale"])
def test_each_option_alone_reaches_its_own_head(only, path):
    """An option of one head leaves the other one alone; biases likewise."""
    bias = {"other_bias": torch.randn(131)} if only.startswith("other_") else {"bias": torch.randn(131)}
    assert_near(make(), **bias, **{only: 0.6 if "scale" in only else 3.0})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, path):
    """Oracle: float64 of the same rounded inputs: values 1e-4, gradients 1 %."""
    if path == "triton" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter takes bfloat16 for integers; the tests on the GPU run this")
    problem = [x.to(dtype) for x in make()]
    (kl, grads), (truth, exact) = both(problem, temperature=torch.linspace(0.3, 2, 40), **CAPPED)
    assert torch.allclose(kl.double(), truth, atol=1e-4, rtol=1e-5)
    for x, y in zip(grads, exact, strict=True):
        assert x.dtype == dtype
        assert (x.double() - y).norm() <= 0.01 * y.norm()


def test_sides_of_different_dtypes(path):
    """Oracle: float64 of the same numbers; the policy is float32, what it is held to was kept in float16."""
    h, w, g, v = make()
    assert_near((h, w, g.half(), v.half()))


def test_columns_beyond_the_vocabulary_count_for_nothing(path):
    """All logits far below 0: a column that is not there, read as 0, would be the largest of its row."""
    h, w, g, v = make(20, vocabulary=67)
    h, w, g, v = h.abs(), -8 * w.abs(), g.abs(), -8 * v.abs()
    assert log_softmax(h, w, None, 1.0).amax(-1).exp().median() > 0.9
    assert_near((h, w, g, v), atol=1e-3)


def test_equal_policies(path):
    """Oracle: 0 for the same head, and float64 for one that is nearly the same, moved or rounded; never < -1e-6."""
    h, w, _, _ = make(60)
    h = 8 * h
    assert vocab_kl(h, w, h, w).abs().max() <= 1e-6
    for other in ({"other_bias": torch.full((131,), 5.0)}, {"other_bias": 1e-4 * torch.randn(131)}):
        kl = vocab_kl(h, w, h, w, **other)
        assert kl.min() >= -1e-6
        assert (kl - divergence(h, w, h, w, **other)).abs().max() <= 1e-6
    assert vocab_kl(h, w, h.bfloat16(), w.bfloat16()).min() >= -1e-6


def test_no_gradient_flows_into_the_other_side():
    """Oracle: the documented absence, where the other side asks for gradients; those of this side are as ever."""
    h, w, g, v = make()
    inputs = [x.clone().requires_grad_() for x in (h, w, g, v, torch.zeros(131))]
    vocab_kl(*inputs[:4], other_bias=inputs[4]).sum().backward()
    assert all(x.grad is None for x in inputs[2:])
    assert not vocab_kl(h, w, *inputs[2:4]).requires_grad
    tied = w.clone().requires_grad_()
    vocab_kl(h, tied, h.flip(0), tied).sum().backward()
    exact = both((h, w, h.flip(0), w), up=torch.ones(40))[1][1][1]
    assert (tied.grad - exact).abs().max() <= 2e-5 * exact.abs().max()


def test_masked_tokens_are_not_read(path):
    """Oracle: the call on the others alone, bit for bit; hidden states that are masked are NaN."""
    h, w, g, v = make()
    mask, up = torch.arange(40) % 4 == 1, torch.randn(40)
    dirty, weight = torch.where(mask[:, None], h, torch.nan).requires_grad_(), w.clone().requires_grad_()
    kl = vocab_kl(dirty, weight, torch.where(mask[:, None], g, torch.nan), v, mask=mask)
    kl.backward(up)
    clean, alone = h[mask].requires_grad_(), w.clone().requires_grad_()
    want = vocab_kl(clean, alone, g[mask], v)
    want.backward(up[mask])
    assert torch.equal(kl[mask], want)
    assert not kl[~mask].any()
    assert torch.equal(dirty.grad[mask], clean.grad)
    assert not dirty.grad[~mask].any()
    assert torch.equal(weight.grad, alone.grad)


@pytest.mark.parametrize(("tokens", "masked"), [(0, False), (6, True)])
def test_nothing_to_compute(tokens, masked, path):
    """Oracle: zeros and zero gradients, of no tokens and of masked ones that are NaN."""
    h, w, g, v = make(tokens)
    h, w = torch.full_like(h, torch.nan).requires_grad_(), w.requires_grad_()
    kl = vocab_kl(h, w, g, v, mask=torch.zeros(tokens, dtype=torch.bool) if masked else None)
    kl.sum().backward()
    assert torch.equal(kl, torch.zeros(tokens))
    assert torch.equal(h.grad, torch.zeros_like(h))
    assert torch.equal(w.grad, torch.zeros_like(w))


def test_tokens_without_upstream_gradient_are_left_out(path):
    """Oracle: float64 autograd; most tokens, then all, have no gradient. NaN, put in their place, does not show."""
    h, w, g, v = make()
    for used in (slice(3, 8), slice(0, 0)):
        up = torch.zeros(40)
        up[used] = 1.5
        assert_near((h, w, g, v), up=up)
        kl, *sums = module._op(h, w, torch.ones(40), None, g, v, torch.ones(40), None, None, *(0.0, 1.0) * 2)
        h, g = (torch.where(up[:, None] != 0, x, torch.nan) for x in (h, g))
        grads = module._backward_op(
            up, h, w, torch.ones(40), None, g, v, torch.ones(40), None, None, kl, *sums, *(0.0, 1.0) * 2,
            True, True, False,
        )  # fmt: skip
        assert all(x.isfinite().all() for x in grads)
        h, w, g, v = make()


class Largest(TorchDispatchMode):
    """The entries of the largest tensor that any operation gave."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.entries = max(self.entries, result.numel())
        return result


def test_logits_are_never_whole(monkeypatch):
    """Oracle: the sizes of all tensors made on the way; none is larger than the hidden states, logits would be."""
    monkeypatch.setattr(_head, "_BLOCK_ROWS", 17)
    monkeypatch.setattr(_head, "_BLOCK_ENTRIES", 17 * 131)
    h, w, g, v = make(400)
    head = _head.Head(torch.ones(400), softcap=3.0)
    p, q = _head.Side(h, w, head), _head.Side(g, v, head)
    with Largest() as seen:
        found = module._forward(p, q)
        module._backward(torch.ones(400), p, q, *found, _head.Needs(True, True, True))
    assert 17 * 131 <= seen.entries <= g.numel() < 400 * 131


def test_uninitialised_memory_is_never_read(path):
    """Oracle: all results finite while torch fills what it allocates with NaN."""
    h, w, g, v = make()
    h.requires_grad_(), w.requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        kl = vocab_kl(h, w, g, v, mask=torch.arange(40) > 5)
        kl.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(x.isfinite().all() for x in (kl, h.grad, w.grad))


def test_strided_inputs(path):
    """Oracle: the same numbers laid out contiguously, bit for bit."""
    every = [x.repeat_interleave(2, 0) for x in (*make(), torch.randn(131), torch.randn(131))]
    found = []
    for h, w, g, v, b, c in ([x[::2] for x in every], [x[::2].contiguous() for x in every]):
        x = h.detach().requires_grad_()
        kl = vocab_kl(x, w, g, v, bias=b, other_bias=c)
        kl.backward(torch.linspace(-1, 1, 80)[::2])
        found.append((kl, x.grad))
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_autocast_rounds_nothing():
    """Oracle: the same call without autocast, bit for bit."""
    problem, found = make(), []
    for enabled in (False, True):
        inputs = [x.clone().requires_grad_() for x in problem[:2]]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            kl = vocab_kl(*inputs, *problem[2:])
            kl.sum().backward()
        found.append([kl, *(x.grad for x in inputs)])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_an_op(masked):
    """Oracle: `torch.library.opcheck`: schema, fake kernel, autograd, and all of it under symbolic shapes."""
    h, w, g, v = make(7, 8, 6, 12)
    bias, ones = torch.randn(12), torch.ones(7)
    mask = torch.arange(7) != 3 if masked else None
    x = [y.clone().requires_grad_() for y in (h, w, bias)]
    caps = (2.0, 0.5, 0.0, 1.0)
    torch.library.opcheck(module._op, (*x[:2], ones, x[2], g, v, ones, None, mask, *caps))
    columns = torch.rand(4, 7).unbind()
    arguments = (columns[0], h, w, ones, bias, g, v, ones, bias, mask, *columns[1:], *caps)
    torch.library.opcheck(module._backward_op, (*arguments, True, masked, True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_compiles_whole():
    """Oracle: the same call outside of torch.compile, values and gradients; fullgraph allows no break."""
    h, w, g, v = make(9, 8, 6, 21)
    mask = torch.arange(9) % 3 != 0

    def loss(h, w):
        return vocab_kl(h, w, g, v, temperature=0.7, softcap=3.0, mask=mask).square().sum()

    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        inputs = [x.clone().requires_grad_() for x in (h, w)]
        value = function(*inputs)
        value.backward()
        found.append([value, *(x.grad for x in inputs)])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_distributed_heads(tmp_path):
    """Oracle: the plain weights. DTensors are gathered; the gradient of p's comes back as one, q's gets none."""
    h, w, g, v = make(9, 8, 6, 21)
    plain = w.clone().requires_grad_()
    want = vocab_kl(h, plain, g, v)
    want.sum().backward()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        shards = [torch.distributed.tensor.Shard(0)]
        spread, other = (
            torch.distributed.tensor.distribute_tensor(x.clone(), mesh, shards).requires_grad_()
            for x in (w, v)
        )
        kl = vocab_kl(h, spread, g, other)
        kl.sum().backward()
        assert torch.equal(kl, want)
        assert torch.equal(spread.grad.full_tensor(), plain.grad)
        assert other.grad is None
    finally:
        torch.distributed.destroy_process_group()


def test_the_reference():
    """Oracle: torch's own divergence in float64, and finite differences, which its autograd must equal."""
    bias, other_bias = torch.randn(2, 7).double().unbind()
    options = {"bias": bias, "other_bias": other_bias, **CAPPED}
    temperature = torch.linspace(0.5, 2, 3).double()
    h, w, g, v = (x.double().requires_grad_() for x in make(3, 4, 5, 7))
    want = divergence(h, w, g, v, temperature, **options)
    assert torch.allclose(vocab_kl_reference(h, w, g, v, temperature, **options), want, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda h, w: vocab_kl_reference(h, w, g, v, temperature, **options), (h, w)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h, w, g, v: (h[:, 1:], w, g, v), r"hidden \[T, H\] and weight"),
        (lambda h, w, g, v: (h[0], w, g, v), r"hidden \[T, H\] and weight"),
        (lambda h, w, g, v: (h, w[:0], g, v[:0]), "weight must have at least one row"),
        (lambda h, w, g, v: (h, w.half(), g, v), "hidden and weight must share dtype"),
        (lambda h, w, g, v: (h.double(), w.double(), g, v), "hidden must be float32"),
        (lambda h, w, g, v: (h, w, g[1:], v), "other_hidden"),
        (lambda h, w, g, v: (h, w, g[:, 1:], v), r"other_hidden \[T, H\] and other_weight"),
        (lambda h, w, g, v: (h, w, g, v[1:]), "other_hidden and other_weight must be"),
        (lambda h, w, g, v: (h, w, g, v.half()), "other_hidden and other_weight must share dtype"),
        (lambda h, w, g, v: (h, w, g.double(), v.double()), "other_hidden must be float32"),
        (lambda h, w, g, v: (h, w, g.to("meta"), v.to("meta")), "other_hidden must be on cpu"),
        (lambda h, w, g, v: (h, w, g, v.to("meta")), "other_hidden and other_weight must share"),
    ],
)
def test_bad_input_names_the_argument(change, words):
    """Oracle: the documented ValueError, one line that begins with the function's name."""
    with pytest.raises(ValueError, match=f"^vocab_kl: {words}.*$"):
        vocab_kl(*change(*make(5, 4, 6, 9)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bias": torch.zeros(8)}, r"bias must be floating \[9\]"),
        ({"other_bias": torch.zeros(9, dtype=torch.int64)}, "other_bias must be floating"),
        ({"mask": torch.ones(5)}, "mask must be bool"),
        ({"mask": torch.ones(4, dtype=torch.bool)}, r"mask must be bool \[5\]"),
        ({"softcap": 0.0}, "softcap must be a number > 0"),
        ({"other_softcap": -1.0}, "other_softcap must be a number > 0"),
        ({"logit_scale": float("nan")}, "logit_scale must be a number > 0"),
        ({"other_logit_scale": 0.0}, "other_logit_scale must be a number > 0"),
        ({"temperature": -1.0}, "temperature must be a number > 0"),
        ({"temperature": torch.ones(4)}, "temperature, if not a number, must be floating"),
        ({"temperature": torch.tensor([1.0, 1, 0, 1, 1])}, "temperature must be > 0 for every token"),
    ],
)
def test_bad_options_name_themselves(options, words):
    """Oracle: the documented ValueError, one line that begins with the function's name."""
    with pytest.raises(ValueError, match=rf"^vocab_kl: {words}.*$"):
        vocab_kl(*make(5, 4, 6, 9), **options)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("options", [{}, CAPPED], ids=["plain", "capped"])
@pytest.mark.parametrize(("tokens", "width", "vocabulary"), [(1, 64, 7), (130, 136, 5003), (63, 70, 1000)])
def test_on_the_gpu(dtype, options, tokens, width, vocabulary):
    """Oracle: float64 of the same rounded inputs: values 1e-3, gradients 1 %."""
    problem = [x.cuda() for x in make(tokens, width, 72, vocabulary)]
    h, w, g, v = (x.to(dtype) for x in (problem[0] * 0.2, problem[1], problem[2] * 0.2, problem[3]))
    up = torch.randn(tokens, device="cuda")
    up[1::3] = 0
    temperature = torch.linspace(0.3, 2, tokens, device="cuda")
    bias = torch.randn(vocabulary, device="cuda", dtype=dtype)
    (kl, grads), (truth, exact) = both((h, w, g, v), bias=bias, up=up, temperature=temperature, **options)
    assert torch.allclose(kl.double(), truth, atol=1e-3, rtol=1e-4)
    for x, y in zip(grads, exact, strict=True):
        assert (x.double() - y).norm() <= 0.01 * y.norm()
    assert vocab_kl(h, w, h, w).abs().max() <= 1e-6
