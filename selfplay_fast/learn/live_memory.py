"""How much memory passes through a model need, counted on a model without weights ("meta" tensors).

Every tensor that such a pass makes is seen and so is its end: forward, backward, layers computed again. Attention is
stood in for by one that keeps what FlashAttention and FlexAttention keep: queries, keys, values, their outcome and a
log-sum-exp per head. Whatever kind of model it is, there is no formula to be wrong.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, DynamicCache

from selfplay_fast.kernels.token_logprobs import token_logprobs
from selfplay_fast.policies.adapters import add_adapters
from selfplay_fast.policies.prefix_forward import backbone, expand_cache, head_weight
from selfplay_fast.policies.recompute import recompute_layers

_STAND_IN = "selfplay_stand_in"
_TOKENS = 8192  # of the passes that are counted; nearly all that they make is proportional to their tokens
_FEW = 2  # layers


class LiveBytes(TorchDispatchMode):
    """Inside, ``now`` are the bytes of the tensors made there that are still alive, ``peak`` the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBytes:
    """What a token takes: its keys and values, its share of a pass over prompts (these included), of a micro-batch."""

    cache: float
    prompt: float
    update: float


def empty_model(
    config: Any, dtype: torch.dtype, *, lora_rank: int = 0, gradient_checkpointing: bool = False
) -> Any:
    """The model of a transformers configuration, as it is trained, without weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=_STAND_IN)
        if lora_rank:
            add_adapters(model, lora_rank)
    if gradient_checkpointing:
        recompute_layers(model)
    return model.eval()


def token_bytes(config: Any, dtype: torch.dtype, **options: Any) -> TokenBytes:
    """Of the model of a configuration, with the ``options`` of `empty_model`.

    A model whose layers are alike is measured with few of them, at two numbers of layers. Gradients of weights are let
    go at once, and embeddings have none.
    """
    model = empty_model(config, dtype, **options)
    layers = backbone(model).layers
    if len({_shapes(layer) for layer in layers}) > 1 or len(layers) <= 2 * _FEW:
        return _of(model)
    few, more = (_of(empty_model(_cut(config, count), dtype, **options)) for count in (_FEW, 2 * _FEW))
    scale = (len(layers) - _FEW) / _FEW
    grown = {name: a + scale * (b - a) for name, a, b in zip(*_columns(few, more), strict=True)}
    return TokenBytes(**grown)


def _columns(few: TokenBytes, more: TokenBytes) -> tuple[list[str], list[float], list[float]]:
    names = [field.name for field in fields(TokenBytes)]
    return names, [getattr(few, name) for name in names], [getattr(more, name) for name in names]


def _shapes(layer: torch.nn.Module) -> tuple[Any, ...]:
    return tuple((name, *parameter.shape) for name, parameter in layer.named_parameters())


def _cut(config: Any, layers: int) -> Any:
    """The configuration of its first layers."""
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = layers
    if getattr(cut, "layer_types", None):
        cut.layer_types = cut.layer_types[:layers]
    return cut


def _of(model: Any) -> TokenBytes:
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        embedding.weight.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_let_go)
    with LiveBytes() as prompts:
        cache = _prompt_pass(model)
    kept = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
    with LiveBytes() as learning:
        _learning_pass(model)
    return TokenBytes(cache=kept / _TOKENS, prompt=prompts.peak / _TOKENS, update=learning.peak / _TOKENS)


def _let_go(parameter: Tensor) -> None:
    parameter.grad = None


@torch.no_grad()
def _prompt_pass(model: Any) -> Any:
    cache: Any = DynamicCache(config=model.config)
    model(input_ids=_ids(), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _learning_pass(model: Any) -> None:
    """As `learn.update` runs a micro-batch of which every token is scored."""
    ids = _ids()
    inputs = {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device="meta"), "use_cache": True}
    cache = expand_cache(model, [], 1)
    output = backbone(model)(input_ids=ids, position_ids=ids, past_key_values=cache, **inputs)
    hidden = output.last_hidden_state.flatten(0, 1)
    logprobs, entropy = token_logprobs(hidden, head_weight(model), ids[0], return_entropy=True)
    (logprobs - entropy.detach()).sum().backward()


def _ids() -> Tensor:
    return torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta")


class _Attention(torch.autograd.Function):
    """Stands in for fused attention: query [B, heads, T, dim], key, value -> [B, T, heads, dim]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, _ = query.shape
        outcome = query.new_empty(batch, length, heads, value.shape[-1])
        log_sums = query.new_empty(batch, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, outcome, log_sums)
        return outcome

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def _stand_in(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
) -> tuple[Tensor, None]:
    if (
        not torch.is_grad_enabled()
    ):  # SDPA with a mask: on a GPU keys and values are copied for every query head
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    return _Attention.apply(query, key, value), None


def _no_mask(*args: Any, **options: Any) -> None:
    return None


AttentionInterface.register(_STAND_IN, _stand_in)
AttentionMaskInterface.register(_STAND_IN, _no_mask)
