"""Attention over a whole prefix tree in one sequence, by FlexAttention (He et al. 2024, arXiv 2412.05496).

A tree in depth-first order needs one number a node: j is an ancestor of i, or i itself, where `j <= i < exit[j]`. The
least and the largest exit of a block of keys tell which blocks of queries see all of it, some of it, none of it.

`TREE_ATTENTION` is an attention of transformers that runs block masks through FlexAttention and everything else,
decoding among it, through SDPA. FlexAttention has no backward pass on a CPU.

Legend: P shared tokens, M nodes, Q blocks of queries, K blocks of keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TREE_ATTENTION = "selfplay_tree"

_BLOCK = 128  # tokens; FlexAttention's own choice


def tree_block_mask(
    node_exit: NDArray[np.integer[Any]], shared_length: int, device: torch.device | str, block: int = _BLOCK
) -> BlockMask:
    """node_exit [M] of a block after P = ``shared_length`` tokens that all nodes see -> mask [1, 1, M, P + M]."""
    length = shared_length + len(node_exit)
    exits = np.full(-(-length // block) * block, 0)  # a key beyond the end is seen by nobody
    exits[:length] = length
    exits[shared_length:length] = node_exit + shared_length
    by_block = exits.reshape(-1, block)
    key = np.arange(len(by_block)) * block
    query = shared_length + np.arange(0, len(node_exit), block)[:, None]
    some = (key < query + block) & (by_block.max(1) > query)
    every = (key + block - 1 <= query) & (by_block.min(1) >= query + block)
    leaving, shift = (torch.as_tensor(x, device=device) for x in (exits.astype(np.int32), shared_length))

    def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        place = q + shift
        return (k <= place) & (place < leaving[k])

    return BlockMask.from_kv_blocks(
        *_listed(some & ~every, device),
        *_listed(every, device),
        BLOCK_SIZE=block,
        mask_mod=visible,
        seq_lengths=(len(node_exit), length),
    )


def _listed(cells: NDArray[np.bool_], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """bool [Q, K] -> how many of each row are True [1, 1, Q], and where, these first [1, 1, Q, K]."""
    where = np.argsort(~cells, axis=1, kind="stable")
    count, index = (torch.as_tensor(x.astype(np.int32), device=device) for x in (cells.sum(1), where))
    return count[None, None], index[None, None]


def _tree_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    if not isinstance(attention_mask, BlockMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # For fewer than 128 queries torch has another kernel, which lacks a shape where heads share keys.
    options["kernel_options"] = {"FORCE_USE_FLEX_ATTENTION": True}
    return flex_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(TREE_ATTENTION, _tree_attention)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
