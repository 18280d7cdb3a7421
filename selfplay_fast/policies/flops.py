"""Floating point operations of a causal model, counted from what ran through it, and what cards can do at most.

A product with a weight costs 2 operations a weight and token, attention 4 a head, dimension and pair of a token and one
that it attends to (scores, then values); a backward pass costs each product twice, once where only one of its sides
learns. Norms, positions, softmax and sampling are left out, as is usual (Chowdhery et al. 2022, arXiv 2204.02311,
appendix B). Unlike there, pairs are those that a causal mask leaves, and a head works on the rows that are asked of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

# Dense operations per second, by the name that CUDA gives a card. bfloat16 on tensor cores, float32 without them.
# NVIDIA's data sheets of each card, where figures with sparsity are halved.
_PEAK = {
    "NVIDIA H200": (989.4e12, 67e12),
    "NVIDIA H200 NVL": (835.5e12, 60e12),
    "NVIDIA H100 80GB HBM3": (989.4e12, 67e12),
    "NVIDIA H100 NVL": (835.5e12, 60e12),
    "NVIDIA H100 PCIe": (756e12, 51e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 19.5e12),
    "NVIDIA A100-SXM4-40GB": (312e12, 19.5e12),
    "NVIDIA A100 80GB PCIe": (312e12, 19.5e12),
    "NVIDIA A100-PCIE-40GB": (312e12, 19.5e12),
    "NVIDIA L40S": (362e12, 91.6e12),
    "NVIDIA L4": (121e12, 30.3e12),
    "NVIDIA A10": (125e12, 31.2e12),
}


def peak_flops(card: str, dtype: str) -> float | None:
    """Dense operations a second that a card's data sheet gives for passes in ``dtype``; None where none is known."""
    column = {"bfloat16": 0, "float16": 0, "float32": 1}.get(dtype)
    return None if card not in _PEAK or column is None else _PEAK[card][column]


@dataclass(slots=True)
class Passes:
    """What ran through a model: tokens, pairs of a token and one that it attends to, rows of logits."""

    tokens: int = 0
    pairs: int = 0
    logits: int = 0

    def add(self, more: Passes) -> None:
        """Count these too."""
        self.tokens += more.tokens
        self.pairs += more.pairs
        self.logits += more.logits


def alone(spans: Iterable[tuple[int, int]]) -> Passes:
    """Tokens ``start`` to ``stop`` of sequences that share nothing, each with the logits of every token.

    This is how tokens are counted where every sequence runs by itself.
    """
    tokens = pairs = 0
    for start, stop in spans:
        tokens += stop - start
        pairs += (stop * (stop + 1) - start * (start + 1)) // 2
    return Passes(tokens, pairs, tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFlops:
    """What a model multiplies with.

    ``learned`` and ``frozen``: weights of its layers that every token meets, of experts those that a token is sent to.
    ``head``: those of the output embedding, ``head_learned``: whether they learn. ``attended``: heads times dimensions
    over all layers with full attention; what other layers do between tokens is not counted.
    """

    learned: int
    frozen: int
    head: int
    head_learned: bool
    attended: int

    @classmethod
    def of(cls, model: Any) -> ModelFlops:
        """Of a transformers model as it is now, with its adapters, on whatever device ("meta" too)."""
        config = model.config.get_text_config()
        head = model.get_output_embeddings().weight
        weights = {True: 0, False: 0}
        for module in model.base_model.modules():
            for parameter in () if isinstance(module, torch.nn.Embedding) else module.parameters(False):
                weights[parameter.requires_grad] += _met_by_a_token(module, parameter, config)
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        dimension = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            learned=weights[True],
            frozen=weights[False],
            head=head.numel(),
            head_learned=head.requires_grad,
            attended=kinds.count("full_attention") * config.num_attention_heads * dimension,
        )

    def forward(self, passes: Passes) -> int:
        """Operations of forward passes."""
        layers = (self.learned + self.frozen) * passes.tokens
        return 2 * (layers + self.head * passes.logits) + 4 * self.attended * passes.pairs

    def backward(self, passes: Passes) -> int:
        """Operations of backward passes, without layers computed again, which model FLOPs leave out."""
        layers = (2 * self.learned + self.frozen) * passes.tokens
        head = (1 + self.head_learned) * self.head * passes.logits
        return 2 * (layers + head) + 8 * self.attended * passes.pairs


def _met_by_a_token(module: torch.nn.Module, parameter: torch.Tensor, config: Any) -> int:
    """Weights of this parameter that one token is multiplied with: those of matrices, and of experts its share."""
    experts = getattr(module, "num_experts", None)
    if parameter.ndim == 3 and experts is not None:  # all experts in one: [experts, out, in]
        return parameter.numel() * int(config.num_experts_per_tok) // int(experts)
    return parameter.numel() if parameter.ndim == 2 else 0
