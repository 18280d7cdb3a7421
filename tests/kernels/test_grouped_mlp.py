"""Oracle: the formula over all experts in float64 (`grouped_mlp_reference`)."""

import math

import pytest
import selfplay_fast.kernels.expert_routing as routing
import selfplay_fast.kernels.grouped_mlp as module
import torch
from selfplay_fast.kernels.grouped_mlp import ACTIVATIONS, grouped_mlp, grouped_mlp_reference

NAMES = ("x", "w1", "b1", "w2", "b2", "expert_index", "gate")
WORD = (1 << 64) - 1


def make(tokens=20, width=20, experts=3, units=33, last=18, top=2, dtype=torch.float32, seed=0):
    """Inputs by name; a token's experts differ."""
    torch.manual_seed(seed)
    values = {
        "x": torch.randn(tokens, width),
        "w1": torch.randn(experts, units, width) / width**0.5,
        "b1": torch.randn(experts, units),
        "w2": torch.randn(experts, units, last) / units**0.5,
        "b2": torch.randn(experts, last),
        "expert_index": torch.rand(tokens, experts).argsort(1)[:, :top],
        "gate": torch.rand(tokens, top),
    }
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in values.items()}


def learnable(inputs, dtype=None):
    return {
        name: t.detach().to(dtype or t.dtype).requires_grad_() if t.is_floating_point() else t
        for name, t in inputs.items()
    }


def errors(inputs, activation="relu", kept=None, **options):
    """The largest errors of y and of all gradients against float64 of the same inputs, each over the largest value."""
    ours, exact = learnable(inputs), learnable(inputs, torch.float64)
    y = grouped_mlp(**ours, activation=activation, **options)
    truth = grouped_mlp_reference(**exact, activation=activation, kept=kept)
    up = torch.randn_like(y)
    y.backward(up)
    truth.backward(up.double())
    pairs = {"y": (y.detach(), truth.detach())}
    pairs |= {name: (ours[name].grad, exact[name].grad) for name in NAMES if name != "expert_index"}
    return {
        name: float((mine.double() - right).abs().max() / right.abs().max().clamp(min=1e-12))
        for name, (mine, right) in pairs.items()
    }


def kept_units(seed, tokens, experts, units, dropout):
    """float64 [T, E, h] of 0 and 1 / (1 - dropout), from splitmix64 on Python's own integers."""

    def mixed(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
        return z ^ (z >> 31)

    step = 0x9E3779B97F4A7C15
    key = mixed((seed + step) & WORD)
    drawn = [mixed((key + i * step) & WORD) >> 40 for i in range(tokens * experts * units)]
    kept = torch.tensor(drawn).view(tokens, experts, units) >= round(dropout * 2**24)
    return kept.double() / (1 - dropout)


@pytest.fixture
def path(way):
    """The PyTorch code, or the Triton code in its interpreter, in small tiles."""
    tile = {"BLOCK_T": 16, "BLOCK_N": 32, "BLOCK_K": 32}
    weights = {"BLOCK_T": 16, "BLOCK_M": 32, "BLOCK_N": 32}
    products = getattr(module, "_grouped_products", None)  # only where Triton is
    way(module, _fits_triton=lambda x: x.dtype != torch.float64 and len(x) > 0)
    way(routing, _fits_triton=lambda expert_index: True)
    return way(products, _TILES={16: tile}, _TILE_FLOAT32=tile, _HIDDEN_GRAD_COLUMNS=16, _WEIGHT_TILE=weights)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_and_gradients_equal_float64(activation, path):
    """Oracle: float64 autograd, to 2e-6 of the largest value; sizes are no multiples of a tile."""
    assert max(errors(make(), activation).values()) <= 2e-6


@pytest.mark.parametrize("top", [1, 3, 5])
def test_one_some_and_all_experts(top, path):
    """Oracle: float64 autograd; k = 1, k between, k = E."""
    assert max(errors(make(tokens=37, experts=5, top=top)).values()) <= 2e-6


@pytest.mark.parametrize(
    ("tokens", "width", "units", "last"), [(1, 1, 1, 1), (1, 40, 7, 3), (16, 32, 32, 32), (67, 33, 65, 31)]
)
def test_odd_sizes(tokens, width, units, last, path):
    """Oracle: float64 autograd; one token, whole tiles, and one more and one less than tiles."""
    sizes = {"tokens": tokens, "width": width, "units": units, "last": last}
    assert max(errors(make(**sizes), "silu").values()) <= 2e-6


def test_experts_without_a_token_and_one_with_all(path):
    """Oracle: float64 autograd, and gradients that are exactly 0 where no token went."""
    inputs = make(experts=4, top=1)
    inputs["expert_index"] = torch.full((20, 1), 2)
    assert max(errors(inputs).values()) <= 2e-6
    ours = learnable(inputs)
    grouped_mlp(**ours).sum().backward()
    for name in ("w1", "b1", "w2", "b2"):
        assert not ours[name].grad[[0, 1, 3]].any()
        assert ours[name].grad[2].any()


def test_an_expert_chosen_twice(path):
    """Oracle: float64 autograd; also at k = E, where other code might count on all experts."""
    inputs = make(experts=3, top=3)
    inputs["expert_index"] = torch.randint(3, (20, 3))
    inputs["expert_index"][0] = 1
    assert max(errors(inputs).values()) <= 2e-6


def test_what_is_no_number_is_not_hidden(path):
    """Oracle: NaN in y for the token that has one, whatever the activation, and for no other."""
    inputs = make(tokens=20)
    inputs["x"][3, 5] = float("nan")
    for activation in ACTIVATIONS:
        y = grouped_mlp(**inputs, activation=activation)
        assert y[3].isnan().all()
        assert y.isnan().any(1).sum() == 1


def test_no_token(path):
    """Oracle: an empty result and gradients of 0."""
    ours = learnable(make(tokens=0))
    y = grouped_mlp(**ours)
    assert y.shape == (0, 18)
    y.sum().backward()
    assert not any(ours[name].grad.any() for name in ("w1", "b1", "w2", "b2"))


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision(dtype, unit, path):
    """Oracle: float64 of the same rounded inputs, to 4 roundings of the largest value (the interpreter truncates)."""
    found = errors(make(dtype=dtype), "gelu")
    assert max(found.values()) <= 4 * unit * (2 if path == "triton" else 1), found


def test_gate_in_float32_beside_half_precision(path):
    """Oracle: the gradient of gate is float32 and, to 1 %, that of float64."""
    inputs = make(dtype=torch.float16) | {"gate": make()["gate"]}
    ours, exact = learnable(inputs), learnable(inputs, torch.float64)
    grouped_mlp(**ours).float().sum().backward()
    grouped_mlp_reference(**exact).sum().backward()
    assert ours["gate"].grad.dtype == torch.float32
    assert (ours["gate"].grad - exact["gate"].grad).norm() <= 0.01 * exact["gate"].grad.norm()


@pytest.mark.parametrize("top", [1, 2, 4])
def test_gradients_by_differences(top):
    """Oracle: torch.autograd.gradcheck of the operator in float64."""
    for activation in ACTIVATIONS:
        inputs = learnable(make(5, 4, 4, 3, 2, top), torch.float64)
        torch.autograd.gradcheck(
            lambda *t, a=activation: grouped_mlp(*t, activation=a, dropout=0.3, seed=4),
            tuple(inputs.values()),
        )


def in_two_orders(inputs, activation):
    """y and the gradients of x and gate, of the tokens as they are and in another order that is then undone."""
    order = torch.randperm(len(inputs["x"]), device=inputs["x"].device)
    moved = {n: t[order] if n in ("x", "expert_index", "gate") else t for n, t in inputs.items()}
    results = []
    for given in (inputs, moved):
        ours = learnable(given)
        y = grouped_mlp(**ours, activation=activation)
        y.backward(y.detach())
        results.append((y.detach(), ours["x"].grad, ours["gate"].grad))
    back = order.argsort()
    return zip(results[0], (there[back] for there in results[1]), strict=True)


def test_order_of_tokens_changes_no_bit(path):
    """Oracle: the same tokens in another order, bitwise.

    Numbers of few bits, all of whose sums are exact: BLAS, which PyTorch and the interpreter multiply with, may add the
    products of a row in an order that depends on the row's place. On a GPU any numbers will do (below).
    """
    few = {n: (t * 2).round() / 2 if t.is_floating_point() else t for n, t in make().items()}
    few["w1"], few["w2"] = few["w1"] * 4, few["w2"] * 4
    for here, there in in_two_orders(few, "relu"):
        assert here.any()
        assert torch.equal(here, there)


def test_twice_the_same_bits(path):
    """Oracle: a second run, bitwise, with dropout; all gradients."""
    results = []
    for _ in range(2):
        ours = learnable(make())
        y = grouped_mlp(**ours, dropout=0.5, seed=3)
        y.backward(y.detach())
        results.append([y.detach(), *(ours[name].grad for name in NAMES if name != "expert_index")])
    assert all(torch.equal(here, there) for here, there in zip(*results, strict=True))


@pytest.mark.parametrize("seed", [0, -5, (1 << 63) - 1])
def test_dropout_follows_splitmix64_forward_and_backward(seed, path):
    """Oracle: float64 autograd with the mask that Python's integers give; a number and a tensor as the seed."""
    sizes = {"tokens": 19, "width": 9, "units": 35, "last": 5}
    kept = kept_units(seed, 19, 3, 35, 0.4)
    for activation in ACTIVATIONS if seed == 0 else ("relu",):
        given = torch.tensor(seed) if activation == "relu" else seed
        found = errors(make(**sizes), activation, kept, dropout=0.4, seed=given)
        assert max(found.values()) <= 2e-6


def test_dropout_statistics():
    """Oracle: a binomial share within 5 standard deviations, for all units, tokens and pairs of neighbours."""
    tokens, units, p = 400, 50, 0.3
    ones = {"w1": torch.zeros(2, units, 1), "b1": torch.ones(2, units), "b2": torch.zeros(2, units)}
    index = torch.arange(2).expand(tokens, 2)
    x, w2, gate = torch.zeros(tokens, 1), torch.eye(units).expand(2, units, units), torch.tensor([[1.0, 0.0]])

    def mask(seed, gate=gate):
        y = grouped_mlp(
            x, **ones, w2=w2, expert_index=index, gate=gate.expand(tokens, 2), dropout=p, seed=seed
        )
        assert torch.allclose(y[y > 0], torch.tensor(1 / (1 - p)))
        return y > 0

    one, other, expert = mask(1), mask(2), mask(1, torch.tensor([[0.0, 1.0]]))

    def near(share, of, probability):
        return abs(float(share) - probability) <= 5 * math.sqrt(probability * (1 - probability) / of)

    count = tokens * units
    assert near(one.float().mean(), count, 1 - p)
    assert all(near(share, tokens, 1 - p) for share in one.float().mean(0))
    assert all(near(share, units, 1 - p) for share in one.float().mean(1))
    same = (1 - p) ** 2 + p**2
    for here, there in ((one, other), (one, expert), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1])):
        assert near((here == there).float().mean(), here.numel(), same)


def test_views_of_larger_tensors(path):
    """Oracle: the same values, contiguous, bitwise; upstream gradients that are expanded, too."""
    inputs = make()
    strided = {name: torch.stack([t, t], -1)[..., 0] for name, t in inputs.items()}
    results = []
    for given in (inputs, strided):
        assert given is inputs or not any(t.is_contiguous() for t in given.values())
        leaves = {n: t.requires_grad_() if t.is_floating_point() else t for n, t in given.items()}
        y = grouped_mlp(**leaves)
        results.append([y, *torch.autograd.grad(y.sum(), [leaves[n] for n in NAMES if n != "expert_index"])])
    assert all(torch.equal(here, there) for here, there in zip(*results, strict=True))


def test_gradients_of_some(path):
    """Oracle: the same gradients as when all are wanted; none elsewhere."""
    whole = learnable(make())
    grouped_mlp(**whole, activation="tanh").square().sum().backward()
    for needed in (("x",), ("gate",), ("w2",), ("b1", "gate")):
        some = make()
        for name in needed:
            some[name].requires_grad_()
        grouped_mlp(**some, activation="tanh").square().sum().backward()
        for name in NAMES:
            if name in needed:
                assert torch.equal(some[name].grad, whole[name].grad)
            else:
                assert some[name].grad is None


def test_a_dense_network_cut_into_experts():
    """Oracle: the dense network whose hidden units are shared out by `view`, all experts with gate 1."""
    width, units, experts = 12, 40, 4
    up, down = torch.nn.Linear(width, units), torch.nn.Linear(units, width)
    x = torch.randn(30, width)
    y = grouped_mlp(
        x,
        up.weight.view(experts, -1, width),
        up.bias.view(experts, -1),
        down.weight.T.contiguous().view(experts, -1, width),
        (down.bias / experts).expand(experts, width),
        torch.arange(experts).expand(30, experts),
        torch.ones(30, experts),
    )
    assert torch.allclose(y, down(up(x).relu()), atol=1e-5)


def test_as_an_operator_of_pytorch(path):
    """Oracle: torch.library.opcheck, of the operator and of its gradient."""
    for top, activation, keep in ((2, "gelu", True), (1, "relu", False)):
        leaves = learnable(make(7, 6, 3, 5, 4, top)) if keep else make(7, 6, 3, 5, 4, top)
        options = (torch.tensor(5), activation, 0.2, keep)
        torch.library.opcheck(torch.ops.selfplay_fast.grouped_mlp, (*leaves.values(), *options))
        if keep:
            values = [leaves[name].detach() for name in NAMES]
            y, *kept = torch.ops.selfplay_fast.grouped_mlp(*values, *options)
            x, w1, _, w2, b2, *rest = values
            torch.library.opcheck(
                torch.ops.selfplay_fast.grouped_mlp_backward,
                (y, x, w1, w2, b2, *rest, options[0], *kept, activation, 0.2, True, True),
            )


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_compiled_whole():
    """Oracle: the plain function; torch.compile without a break, also for another number of tokens and a bad index."""
    compiled = torch.compile(grouped_mlp, fullgraph=True, backend="aot_eager")
    for tokens in (12, 31):
        plain, fast = learnable(make(tokens)), learnable(make(tokens))
        for function, given in ((grouped_mlp, plain), (compiled, fast)):
            function(
                **given, activation="elu", dropout=0.1, seed=torch.tensor(tokens)
            ).square().sum().backward()
        for name in NAMES:
            if name != "expert_index":
                assert torch.allclose(plain[name].grad, fast[name].grad, atol=1e-6)
    with pytest.raises(ValueError, match="expert_index must be from 0 to 2"):
        compiled(
            **make(12) | {"expert_index": torch.full((12, 2), 3)}, activation="elu", seed=torch.tensor(1)
        )


def changed(name, change):
    return lambda inputs: inputs | {name: change(inputs[name])}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("x", lambda t: t[0]), "x must be floating point"),
        (changed("x", lambda t: t.long()), "x must be floating point"),
        (changed("w1", lambda t: t[..., :-1]), "w1 must be"),
        (changed("w1", lambda t: t[:, :0]), "w1 must be"),
        (changed("w1", lambda t: t.double()), "w1 must be torch.float32"),
        (changed("b1", lambda t: t[:, :-1]), "b1 must be"),
        (changed("w2", lambda t: t[:, :-1]), "w2 must be"),
        (changed("w2", lambda t: t.half()), "w2 must be torch.float32"),
        (changed("b2", lambda t: t[0]), "b2 must be"),
        (changed("b2", lambda t: t.to("meta")), "b2 must be on cpu"),
        (changed("expert_index", lambda t: t.int()), "expert_index must be int64"),
        (changed("expert_index", lambda t: t[:-1]), "expert_index must be int64"),
        (changed("expert_index", lambda t: t[:, :0]), "expert_index must have 1 to 3 columns"),
        (changed("expert_index", lambda t: t + 1), "expert_index must be from 0 to 2, found 1 to 3"),
        (changed("expert_index", lambda t: t - 1), "expert_index must be from 0 to 2, found -1 to 1"),
        (changed("gate", lambda t: t[:, :1]), "gate must be"),
        (changed("gate", lambda t: t.double()), "gate must be"),
        (lambda inputs: inputs | {"activation": "sine"}, "activation must be one of"),
        (lambda inputs: inputs | {"dropout": 1.0}, "dropout must be"),
        (lambda inputs: inputs | {"dropout": float("nan")}, "dropout must be"),
        (lambda inputs: inputs | {"seed": 1 << 63}, "seed must fit"),
        (lambda inputs: inputs | {"seed": torch.tensor(1.0)}, "seed must be one int64"),
    ],
)
def test_bad_input_names_the_argument(change, words):
    """Oracle: the documented ValueError, of one line."""
    with pytest.raises(ValueError, match=f"^grouped_mlp: {words}[^\n]*$"):
        grouped_mlp(**change(make()))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 2**-9), (torch.bfloat16, 2**-6)]
)
@pytest.mark.parametrize("top", [1, 5, 16])
@pytest.mark.parametrize("tokens", [3, 700, 2048])
def test_on_the_gpu(dtype, bound, top, tokens):
    """Oracle: float64 of the same rounded inputs, with the mask of the CPU; every size of tile."""
    inputs = make(tokens, 136, 16, 200, 72, top, dtype)
    drawn = module._kept(module._key(torch.tensor(7)), torch.arange(tokens), 0, 1, 16 * 200, 0.25)
    kept = (drawn.double() / 0.75).view(tokens, 16, 200).cuda()
    inputs = {name: t.cuda() for name, t in inputs.items()}
    for activation in ACTIVATIONS:
        found = errors(inputs, activation, kept, dropout=0.25, seed=7)
        assert max(found.values()) <= bound, (activation, found)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_order_of_tokens_changes_no_bit_on_the_gpu(dtype):
    """Oracle: the same tokens in another order, bitwise."""
    inputs = {n: t.cuda() for n, t in make(900, 136, 16, 200, 72, 4, dtype).items()}
    for here, there in in_two_orders(inputs, "gelu"):
        assert torch.equal(here, there)


@pytest.mark.gpu
def test_in_a_cuda_graph():
    """Oracle: the plain call on other tokens and other experts, bitwise."""
    one, other = ({n: t.cuda() for n, t in make(300, top=2, seed=s).items()} for s in (0, 1))
    seed = torch.tensor(1, device="cuda")
    grouped_mlp(**one, dropout=0.1, seed=seed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = grouped_mlp(**one, dropout=0.1, seed=seed, check=False)
    for name in NAMES:
        one[name].copy_(other[name])
    seed.fill_(2)
    graph.replay()
    assert torch.equal(y, grouped_mlp(**other, dropout=0.1, seed=2))
