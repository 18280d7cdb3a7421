"""Oracle: the whole formula in float64 (`fused_token_loss_reference`) and autograd through it."""

from functools import partial

import pytest
import selfplay_fast.kernels.fused_token_loss as module
import selfplay_fast.kernels.token_logprobs as two_pass
import torch
from selfplay_fast.kernels.fused_token_loss import fused_token_loss, fused_token_loss_reference
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from selfplay_fast.kernels import _head


def ppo(logprobs, entropy, old, advantages):
    """Clips some tokens: their derivative is zero where beta is."""
    ratio = torch.exp(logprobs - old)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))


def ppo_with_bonus(logprobs, entropy, old, advantages):
    return ppo(logprobs, entropy, old, advantages) - 0.1 * entropy


def make(tokens=40, width=16, vocabulary=131, scale=1.0):
    h = scale * torch.randn(tokens, width)
    w, b = torch.randn(vocabulary, width), torch.randn(vocabulary)
    t = torch.randint(vocabulary, (tokens,))
    old = fused_token_loss_reference(h, w, t, lambda lp, e: lp)[1] + 0.3 * torch.randn(tokens)
    return h, w, b, t, old, torch.randn(tokens)


@pytest.fixture
def path(way, monkeypatch):
    """The PyTorch code, or the Triton code in its interpreter; small blocks, so that their edges lie inside."""
    for name, value in {"_BLOCK_ENTRIES": 13 * 131, "_BLOCK_ROWS": 13, "_STRIP_ENTRIES": 5 * 131}.items():
        monkeypatch.setattr(_head, name, value)
    tile = {"BLOCK_T": 64, "BLOCK_V": 64, "BLOCK_H": 16, "GROUP": 2}
    tiles = getattr(two_pass, "_head_triton", None)  # only where Triton is
    small = {
        "_FOLD": {"BLOCK": 128},
        "_GRADIENT": {"BLOCK": 64},
        "_BLOCK_ENTRIES": 0,
        "_BLOCK_ENTRIES_WEIGHT": 0,
    }
    return way(tiles, fits=lambda hidden, weight: True, _TILE=tile, _TILES=3, _SLICE=96, **small)


def both(h, w, b, t, old, advantages, *, loss, trained, up=1.0, **options):
    """Results and gradients of ours and of the reference in float64."""
    found = []
    for function, wide in ((fused_token_loss, False), (fused_token_loss_reference, True)):
        inputs = [
            (x.double() if wide else x.clone()).requires_grad_(name in trained)
            for name, x in zip("hwb", (h, w, b), strict=True)
        ]
        result = function(*inputs[:2], t, loss, old, advantages, bias=inputs[2], **options)
        (up * result[0]).backward()
        found.append((result, [x.grad for x in inputs]))
    return found


@pytest.mark.parametrize("loss", [ppo, ppo_with_bonus])
@pytest.mark.parametrize("trained", ["h", "hwb"])
@pytest.mark.parametrize("options", [{}, {"softcap": 4.0, "logit_scale": 0.7}], ids=["plain", "capped"])
def test_values_and_gradients_equal_float64(loss, trained, options, path):
    """Loss, log-probs, entropies to 2e-5 and gradients to 2e-5 relative; weights, temperatures, a gradient of 3."""
    problem = make()
    weights, temperature = torch.rand(40), torch.linspace(0.3, 2, 40)
    weights[::4] = 0
    (ours, grads), (truth, exact) = both(
        *problem, loss=loss, trained=trained, up=3.0, weights=weights, temperature=temperature, **options
    )
    for x, y in zip(ours, truth, strict=True):
        assert torch.allclose(x.double(), y, atol=2e-5, rtol=1e-5)
    for x, y in zip(grads, exact, strict=True):
        assert (x is None) == (y is None)
        assert x is None or (x - y).abs().max() <= 2e-5 * y.abs().max()
    assert not (ours[1].requires_grad or ours[2].requires_grad)  # noqa: PT018


def test_masked_tokens_have_no_part(path):
    """Oracle: the reference on the other tokens alone; what is masked is NaN, its target no column."""
    h, w, b, t, old, advantages = make()
    mask = torch.rand(40) < 0.4
    some = [x[mask] for x in (h, t, old, advantages)]
    _, (truth, exact) = both(some[0], w, b, *some[1:], loss=ppo_with_bonus, trained="hwb")
    h, t, old = h.clone(), t.clone(), old.clone()
    h[~mask], t[~mask], old[~mask] = float("nan"), -100, float("nan")
    inputs = [x.clone().requires_grad_() for x in (h, w, b)]
    loss, lp, entropy = fused_token_loss(
        *inputs[:2], t, ppo_with_bonus, old, advantages, bias=inputs[2], mask=mask
    )
    loss.backward()
    assert torch.allclose(loss.double(), truth[0], atol=1e-4)
    assert torch.allclose(lp[mask].double(), truth[1], atol=2e-5)
    assert not lp[~mask].any()
    assert not entropy[~mask].any()
    assert not inputs[0].grad[~mask].any()
    for x, y in zip((inputs[0].grad[mask], inputs[1].grad, inputs[2].grad), exact, strict=True):
        assert (x - y).abs().max() <= 2e-5 * y.abs().max()


def test_gradient_added_to_the_callers(path):
    """Oracle: what was there plus the gradient that is returned otherwise."""
    h, w, _, t, old, advantages = make()
    want = w.clone().requires_grad_()
    fused_token_loss(h, want, t, ppo, old, advantages)[0].backward()
    total = torch.ones(131, 16)
    h, w = h.clone().requires_grad_(), w.clone().requires_grad_()
    loss = fused_token_loss(h, w, t, ppo, old, advantages, weight_grad=total)[0]
    assert (total - 1 - want.grad).abs().max() <= 1e-5 * want.grad.abs().max()
    loss.backward()
    assert w.grad is None
    assert h.grad.any()
    before = total.clone()
    with torch.no_grad():
        fused_token_loss(h, w, t, ppo, old, advantages, weight_grad=total)
    assert torch.equal(total, before)


@pytest.fixture
def multiplications(monkeypatch):
    """A list to which every matrix product of PyTorch adds the number of its multiplications."""
    seen = []
    mm, addmm = torch.mm, torch.Tensor.addmm_

    def counted_mm(left, right, **options):
        seen.append(left.shape[0] * left.shape[1] * right.shape[1])
        return mm(left, right, **options)

    def counted_addmm(total, left, right):
        seen.append(left.shape[0] * left.shape[1] * right.shape[1])
        return addmm(total, left, right)

    monkeypatch.setattr(torch, "mm", counted_mm)
    monkeypatch.setattr(torch.Tensor, "addmm_", counted_addmm)
    return seen


@pytest.mark.parametrize(("trained", "products"), [("", 1), ("h", 2), ("w", 2), ("hw", 3)])
def test_matrix_products(trained, products, multiplications):
    """Oracle: the numbers of products that the documentation names, counted at PyTorch's functions."""
    h, w, _, t, old, advantages = make()
    multiplications.clear()
    h.requires_grad_("h" in trained), w.requires_grad_("w" in trained)
    loss = fused_token_loss(h, w, t, ppo_with_bonus, old, advantages)[0]
    if trained:
        loss.backward()
    assert sum(multiplications) == products * 40 * 16 * 131


def test_tokens_without_derivative_cost_no_product(multiplications):
    """Oracle: counted as above; of 40 tokens 20 have a weight."""
    h, w, _, t, old, advantages = make()
    weights = torch.zeros(40)
    weights[10:30] = 1
    multiplications.clear()
    fused_token_loss(
        h.requires_grad_(), w.requires_grad_(), t, ppo_with_bonus, old, advantages, weights=weights
    )
    assert sum(multiplications) == (40 + 2 * 20) * 16 * 131


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_few_or_no_tokens(tokens, masked, path):
    """Oracle: float64; zero where nothing is left."""
    h, w, _b, t, old, advantages = make(tokens)
    h.requires_grad_(), w.requires_grad_()
    mask = torch.zeros(tokens, dtype=torch.bool) if masked else None
    loss, lp, _ = fused_token_loss(h, w, t, ppo_with_bonus, old, advantages, mask=mask)
    loss.backward()
    want = fused_token_loss_reference(h.double(), w.double(), t, ppo_with_bonus, old, advantages)[0]
    assert loss.item() == pytest.approx(0 if masked else want.item(), abs=1e-5)
    assert lp.shape == (tokens,)
    assert h.grad.shape == h.shape
    assert bool(w.grad.any()) == (tokens > 0 and not masked)


def test_gradient_at_probability_near_one(path):
    """With p = 0.999… the gradient's error stays within twice that of torch's own float32 log_softmax."""
    h, w, _, t, _, _ = make()
    h = 8 * w[t]
    grads = []
    for function, dtype in (
        (fused_token_loss_reference, torch.float64), (fused_token_loss, torch.float32),
        (fused_token_loss_reference, torch.float32),
    ):  # fmt: skip
        x = h.to(dtype).requires_grad_()
        function(x, w.to(dtype), t, lambda lp, entropy: lp)[0].backward()
        grads.append(x.grad)
    assert (grads[1] - grads[0]).abs().max() <= 2 * (grads[2] - grads[0]).abs().max() + 1e-12


def test_half_precision():
    """Oracle: float64 of the same rounded inputs: log-probs 1e-4, gradients 1 %."""
    h, w, b, t, old, advantages = (x.bfloat16() if x.is_floating_point() else x for x in make())
    (ours, grads), (truth, exact) = both(
        h, w, b, t, old.float(), advantages.float(), loss=ppo_with_bonus, trained="hwb"
    )
    assert (ours[1] - truth[1]).abs().max() <= 1e-4
    for x, y in zip(grads, exact, strict=True):
        assert (x.double() - y).norm() <= 0.01 * y.norm()


def test_uninitialised_memory_is_never_read(path):
    """Oracle: all results finite while torch fills what it allocates with NaN."""
    h, w, _, t, old, advantages = make()
    h.requires_grad_(), w.requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        out = fused_token_loss(h, w, t, ppo_with_bonus, old, advantages, mask=t > 20)
        out[0].backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(x.isfinite().all() for x in (*out, h.grad, w.grad))


def test_operators_pass_opcheck(monkeypatch):
    """Oracle: torch.library.opcheck: schema, fake tensors, autograd, tracing with dynamic shapes."""
    h, w, b, t, old, advantages = make()
    ones = torch.ones(40)
    monkeypatch.setitem(module._FORMULAS, -1, ppo)
    for weight_grad in (None, torch.zeros(131, 16)):
        torch.library.opcheck(
            module._op,
            (h, w, t, ones, b, t > 9, ones, [old, advantages], weight_grad, -1, 5.0, 0.2, True, True,
             True),
        )  # fmt: skip
    inputs = [x.clone().requires_grad_() for x in (h, w, b)]
    torch.library.opcheck(module._with_gradients, (torch.zeros(()), *inputs, [h, w, b]))


def test_under_modes_that_see_every_operation():
    """Oracle: without them; a counter of operations, selective checkpoints, per-token inputs of inference mode."""
    h, w, _, t, old, advantages = make()
    with torch.inference_mode():
        old = old + 0

    def gradient(run):
        inputs = [x.clone().requires_grad_() for x in (h, w)]
        run(lambda: fused_token_loss(*inputs, t, ppo_with_bonus, old, advantages)[0]).backward()
        return [x.grad for x in inputs]

    def counted(loss):
        with FlopCounterMode(display=False):
            return loss()

    kept = partial(create_selective_checkpoint_contexts, [torch.ops.aten.mm.default])
    want = gradient(lambda loss: loss())
    for run in (counted, partial(checkpoint, use_reentrant=False, context_fn=kept)):
        assert all(torch.equal(x, y) for x, y in zip(gradient(run), want, strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_as_one_graph(masked):
    """Oracle: eager mode; every formula has its own graph, also one made inside; masked inputs are NaN."""
    h, w, b, t, old, advantages = make()
    mask = torch.rand(40) < 0.6 if masked else None
    if masked:
        old[~mask] = float("nan")
    inputs = [x.requires_grad_() for x in (h, w, b)]

    def loss(h, w, b, formula):
        result, logprobs, _ = fused_token_loss(h * 2, w, t, formula, old, advantages, bias=b, mask=mask)
        return 2 * result + logprobs.sum()

    def inside(h, w, b, factor):
        return loss(h, w, b, lambda lp, entropy, old, advantages: -factor * advantages * lp + 0 * old)

    for function, options in (
        (loss, (ppo_with_bonus, ppo, lambda lp, e, old, adv: e - adv * lp)),
        (inside, (1.0, 3.0)),
    ):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        for option in options:
            found = []
            for run in (function, compiled):
                value = run(*inputs, option)
                found.append([value, *torch.autograd.grad(value, inputs)])
            for x, y in zip(*found, strict=True):
                assert (x - y).abs().max() <= 1e-5 * y.abs().max()


def test_the_callers_gradient_is_not_added_twice():
    """Oracle: the documented errors where a checkpoint would run the loss again, and for second derivatives."""
    h, w, _, t, old, advantages = make()
    h, total = h.requires_grad_(), torch.zeros(131, 16)

    def loss(h):
        return fused_token_loss(h, w, t, ppo, old, advantages, weight_grad=total)[0]

    result = checkpoint(loss, h, use_reentrant=False)
    with pytest.raises(ValueError, match="weight_grad"):
        result.backward()
    plain = fused_token_loss(h, w, t, ppo_with_bonus, old, advantages)[0]
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(plain, h, create_graph=True)


def test_a_bias_may_take_words_out(path):
    """Oracle: float64 without these words; loss, entropies and gradients are finite and the same."""
    h, w, b, t, old, advantages = make()
    b[100:], t = float("-inf"), t % 100
    (ours, grads), _ = both(h, w, b, t, old, advantages, loss=ppo_with_bonus, trained="hwb")
    rest = fused_token_loss_reference(
        h.double(), w[:100].double(), t, ppo_with_bonus, old, advantages, bias=b[:100].double()
    )
    for x, y in zip(ours, rest, strict=True):
        assert torch.allclose(x.double(), y, atol=2e-5, rtol=1e-5)
    assert all(x.isfinite().all() for x in grads)
    assert not grads[1][100:].any()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"token_loss": 3}, "token_loss"),
        ({"token_loss": lambda lp, entropy: lp.sum()}, "token_loss"),
        ({"weights": torch.ones(69)}, "weights"),
        ({"weights": torch.ones(40, dtype=torch.int64)}, "weights"),
        ({"mask": torch.ones(40)}, "mask"),
        ({"weight_grad": torch.zeros(131, 16).double()}, "weight_grad"),
        ({"weight_grad": torch.zeros(16, 131).T}, "weight_grad"),
        ({"softcap": -1.0}, "softcap"),
        ({"temperature": torch.zeros(40)}, "temperature"),
        ({"targets": torch.full((40,), 131)}, "targets"),
    ],
)
def test_bad_input_names_the_argument(options, name):
    """Oracle: the documented ValueError, one line that begins with the function's name."""
    h, w, _, t, _, _ = make()
    arguments = {"token_loss": lambda lp, entropy: lp, "targets": t, **options}
    with pytest.raises(ValueError, match=f"^fused_token_loss: {name}.*$"):
        fused_token_loss(h, w, **arguments)
    with pytest.raises(ValueError, match="fused_token_loss: per_token 0"):
        fused_token_loss(h, w, t, ppo, torch.ones(3), torch.ones(40))


def test_autocast_rounds_nothing():
    """Oracle: the same call without autocast, bit for bit."""
    h, w, _, t, old, advantages = make()
    found = []
    for enabled in (False, True):
        inputs = [x.clone().requires_grad_() for x in (h, w)]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = fused_token_loss(*inputs, t, ppo_with_bonus, old, advantages)[0]
            loss.backward()
        found.append([loss, *(x.grad for x in inputs)])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("trained", ["h", "hwb"])
@pytest.mark.parametrize("own", [False, True])
def test_on_the_gpu(dtype, trained, own):
    """Oracle: float64 of the same rounded inputs: log-probs 2e-3, entropies 1e-4, gradients 1 %."""
    h, w, b, t, old, advantages = (x.cuda() for x in make(300, 136, 5003, scale=0.1))
    h, w, b = (x.to(dtype) for x in (h, w, b))
    total = torch.zeros(w.shape, device="cuda") if own and "w" in trained else None
    truth = [x.double().requires_grad_(name in trained) for name, x in zip("hwb", (h, w, b), strict=True)]
    want = fused_token_loss_reference(*truth[:2], t, ppo_with_bonus, old, advantages, bias=truth[2])
    want[0].backward()
    inputs = [x.clone().requires_grad_(name in trained) for name, x in zip("hwb", (h, w, b), strict=True)]
    loss, lp, entropy = fused_token_loss(
        *inputs[:2], t, ppo_with_bonus, old, advantages, bias=inputs[2], weight_grad=total
    )
    loss.backward()
    assert (lp - want[1]).abs().max() <= 2e-3
    assert (entropy - want[2]).abs().max() <= 1e-4
    for x, y in zip(
        (inputs[0].grad, inputs[1].grad if total is None else total, inputs[2].grad), truth, strict=True
    ):
        assert y.grad is None or (x.double() - y.grad).norm() <= 0.01 * y.grad.norm()
