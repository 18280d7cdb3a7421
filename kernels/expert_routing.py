"""Pairs of a token and an expert, sorted by expert, without waiting for the GPU.

    order   = stable argsort of expert_index.flatten()
    offsets = [0, cumulative counts of the experts]            order[offsets[e] : offsets[e + 1]] are the pairs of e

Pair t * k + j is the j-th choice of token t. On a GPU it is a counting sort: one kernel counts every block's pairs per
expert, a cumulative sum says where each block's pairs of each expert begin, and a second kernel ranks the pairs inside
their block. Every launch has a size that follows from shapes, so all of it can be captured in a CUDA graph. As in
FastMoE (He et al. 2021, arXiv 2103.13262), without its copies to the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._paths import HAS_TRITON

if HAS_TRITON:
    import triton
    import triton.language as tl

_ENTRIES = 8192  # comparisons of a pair with an expert that one program holds


def route_reference(expert_index: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """The formula: expert_index [T, k] -> order [T * k], offsets [experts + 1], both int64."""
    flat = expert_index.flatten()
    counts = (flat[:, None] == torch.arange(experts, device=flat.device)).sum(0)
    return flat.argsort(stable=True), torch.cat([counts.new_zeros(1), counts.cumsum(0)])


if HAS_TRITON:

    @triton.jit
    def _hits(index_ptr, pairs, EXPERTS: tl.constexpr, BLOCK: tl.constexpr):
        """The pairs of this program, and int32[BLOCK, EXPERTS]: 1 where a pair goes to an expert."""
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        index = tl.load(index_ptr + at, mask=at < pairs, other=-1)
        return at, (index[:, None] == tl.arange(0, EXPERTS)[None, :]).to(tl.int32)

    @triton.jit
    def _count_kernel(
        index_ptr, counts_ptr, pairs, blocks, experts, EXPERTS: tl.constexpr, BLOCK: tl.constexpr
    ):
        """counts[e, block] = how many of the block's pairs go to expert e."""
        _, hit = _hits(index_ptr, pairs, EXPERTS, BLOCK)
        each = tl.arange(0, EXPERTS)
        to = counts_ptr + each.to(tl.int64) * blocks + tl.program_id(0)
        tl.store(to, tl.sum(hit, 0).to(tl.int64), mask=each < experts)

    @triton.jit
    def _rank_kernel(
        index_ptr, first_ptr, order_ptr, pairs, blocks, experts, EXPERTS: tl.constexpr, BLOCK: tl.constexpr
    ):
        """order[slot] = pair; first[e, block] is the slot of the block's first pair of expert e."""
        at, hit = _hits(index_ptr, pairs, EXPERTS, BLOCK)
        each = tl.arange(0, EXPERTS)
        first = tl.load(
            first_ptr + each.to(tl.int64) * blocks + tl.program_id(0), mask=each < experts, other=0
        )
        rank = (tl.cumsum(hit, 0) - hit).to(tl.int64)
        slot = tl.sum(tl.where(hit == 1, first[None, :] + rank, 0), 1)
        # An index that is no expert, which an unchecked caller may bring, has no slot.
        known = tl.sum(tl.where((each < experts)[None, :], hit, 0), 1) == 1
        tl.store(order_ptr + slot, at, mask=(at < pairs) & known)


def _fits_triton(expert_index: Tensor) -> bool:
    return HAS_TRITON and expert_index.is_cuda


def _route_triton(flat: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    pairs, lanes = len(flat), triton.next_power_of_2(experts)
    block = max(16, _ENTRIES // lanes)
    blocks = triton.cdiv(pairs, block)
    counts = torch.empty(experts, blocks, dtype=torch.int64, device=flat.device)
    sizes = {"EXPERTS": lanes, "BLOCK": block}
    _count_kernel[(blocks,)](flat, counts, pairs, blocks, experts, **sizes)
    running = counts.flatten().cumsum(0).view(experts, blocks)
    order = torch.zeros_like(flat)
    _rank_kernel[(blocks,)](flat, running - counts, order, pairs, blocks, experts, **sizes)
    return order, torch.cat([running.new_zeros(1), running[:, -1]])


@torch.library.custom_op("selfplay_fast::route", mutates_args=())
def _route(expert_index: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    flat = expert_index.flatten().contiguous()
    if len(flat) and _fits_triton(flat):
        return _route_triton(flat, experts)
    tokens, top = expert_index.shape
    if top == experts:  # every expert once per token, as a rule: nothing to sort
        each = torch.arange(experts, device=flat.device)
        place = torch.zeros_like(expert_index).scatter_(1, expert_index, each.expand(tokens, -1))
        if torch.equal(expert_index.gather(1, place), each.expand(tokens, -1)):
            order = (place + top * torch.arange(tokens, device=flat.device)[:, None]).T.flatten()
            return order, tokens * torch.arange(experts + 1, device=flat.device)
    counts = torch.bincount(flat, minlength=experts)
    return flat.argsort(stable=True), torch.cat([counts.new_zeros(1), counts.cumsum(0)])


@_route.register_fake
def _(expert_index: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    return expert_index.new_empty(expert_index.numel()), expert_index.new_empty(experts + 1)


@torch.library.custom_op("selfplay_fast::check_experts", mutates_args=())
def check_experts(name: str, expert_index: Tensor, experts: int) -> Tensor:
    """A copy of ``expert_index``, all of which is known to lie from 0 to ``experts`` - 1; waits for the GPU."""
    if expert_index.numel():
        low, high = (int(bound) for bound in expert_index.aminmax())
        if low < 0 or high >= experts:
            raise ValueError(f"{name}: expert_index must be from 0 to {experts - 1}, found {low} to {high}")
    return expert_index.clone()


@check_experts.register_fake
def _(name: str, expert_index: Tensor, experts: int) -> Tensor:
    return expert_index.clone()


def route(expert_index: Tensor, experts: int, *, check: bool = True) -> tuple[Tensor, Tensor]:
    """expert_index [T, k] int64 -> order [T * k] int64, offsets [experts + 1] int64: the pairs of each expert.

    ``check=False`` leaves out the check of the range of expert_index, which waits for a GPU; there must then be nothing
    to find. T may be 0. Raises ValueError on a shape, dtype or range mismatch.
    """
    if experts < 1:
        raise ValueError(f"route: experts must be at least 1, got {experts}")
    if expert_index.ndim != 2 or expert_index.dtype != torch.int64:
        raise ValueError(
            f"route: expert_index must be int64 [T, k], got {expert_index.dtype} {tuple(expert_index.shape)}"
        )
    if check:
        expert_index = check_experts("route", expert_index, experts)
    return _route(expert_index, experts)
