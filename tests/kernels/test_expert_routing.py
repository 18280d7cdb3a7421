"""Oracle: a stable argsort and counts by comparison (`route_reference`)."""

import pytest
import selfplay_fast.kernels.expert_routing as module
import torch
from selfplay_fast.kernels.expert_routing import route, route_reference


@pytest.fixture
def path(way):
    """The PyTorch code, or the Triton code in its interpreter, in small blocks."""
    return way(module, _fits_triton=lambda expert_index: True, _ENTRIES=128)


@pytest.mark.parametrize(("tokens", "top", "experts"), [(1, 1, 1), (63, 1, 3), (40, 3, 16), (7, 5, 37)])
def test_order_and_offsets_equal_a_stable_sort(tokens, top, experts, path):
    """Oracle: `route_reference`, exactly; numbers of experts that are no power of two, several blocks."""
    index = torch.randint(experts, (tokens, top))
    for mine, truth in zip(route(index, experts), route_reference(index, experts), strict=True):
        assert torch.equal(mine, truth)


def test_experts_without_pairs_and_an_expert_with_all(path):
    """Oracle: offsets by hand."""
    order, offsets = route(torch.full((50, 1), 2), 4)
    assert torch.equal(order, torch.arange(50))
    assert offsets.tolist() == [0, 0, 0, 50, 50]


def test_all_experts_of_every_token(path):
    """Oracle: `route_reference`, exactly; every expert once per token, and then one of them twice."""
    index = torch.rand(30, 5).argsort(1)
    for _ in range(2):
        for mine, truth in zip(route(index, 5), route_reference(index, 5), strict=True):
            assert torch.equal(mine, truth)
        index[7, 2] = index[7, 3]


def test_no_token(path):
    """Oracle: nothing to sort, all counts 0."""
    order, offsets = route(torch.empty(0, 2, dtype=torch.int64), 3)
    assert len(order) == 0
    assert offsets.tolist() == [0, 0, 0, 0]


def test_columns_of_a_larger_tensor(path):
    """Oracle: the same indices, contiguous."""
    wide = torch.randint(5, (30, 4))
    for mine, truth in zip(route(wide[:, ::2], 5), route(wide[:, ::2].contiguous(), 5), strict=True):
        assert torch.equal(mine, truth)


@pytest.mark.parametrize(
    ("index", "experts", "words"),
    [
        (torch.zeros(3, dtype=torch.int64), 2, "expert_index must be int64"),
        (torch.zeros(3, 1, dtype=torch.int32), 2, "expert_index must be int64"),
        (torch.tensor([[0], [2]]), 2, "expert_index must be from 0 to 1, found 0 to 2"),
        (torch.tensor([[-1], [1]]), 2, "expert_index must be from 0 to 1, found -1 to 1"),
        (torch.zeros(3, 1, dtype=torch.int64), 0, "experts must be at least 1"),
    ],
)
def test_bad_input_names_the_argument(index, experts, words):
    """Oracle: the documented ValueError, of one line."""
    with pytest.raises(ValueError, match=f"^route: {words}[^\n]*$"):
        route(index, experts)


def test_as_an_operator_of_pytorch():
    """Oracle: torch.library.opcheck; and the compiled function gives what the plain one gives."""
    index = torch.randint(4, (9, 2))
    torch.library.opcheck(torch.ops.selfplay_fast.route, (index, 4))
    torch.library.opcheck(torch.ops.selfplay_fast.check_experts, ("route", index, 4))
    compiled = torch.compile(lambda i: route(i, 4), fullgraph=True, backend="aot_eager")
    for mine, truth in zip(compiled(index), route_reference(index, 4), strict=True):
        assert torch.equal(mine, truth)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("tokens", "top", "experts"), [(1, 1, 1), (11264, 8, 16), (5000, 2, 300), (900, 1, 1500)]
)
def test_on_the_gpu(tokens, top, experts):
    """Oracle: `route_reference`, exactly, also when replayed from a CUDA graph on other indices."""
    index = torch.randint(experts, (tokens, top), device="cuda")
    for mine, truth in zip(route(index, experts), route_reference(index, experts), strict=True):
        assert torch.equal(mine, truth)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = route(index, experts, check=False)
    index.copy_(torch.randint(experts, (tokens, top), device="cuda"))
    graph.replay()
    for mine, truth in zip(captured, route_reference(index, experts), strict=True):
        assert torch.equal(mine, truth)
