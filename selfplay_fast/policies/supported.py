"""How do sequences run through a model, so that their log-probs are those the model gives by itself?"""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from selfplay_fast.policies.prefix_forward import Attention, head_weight, prefix_hidden, prefix_trees
from selfplay_fast.policies.tree_attention import TREE_ATTENTION

_LOG = logging.getLogger(__name__)

_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}  # of the spread of the log-probs
_TOLERANCE_FLOAT = 1e-3


@torch.no_grad()
def choose_attention(model: Any, wanted: Literal["auto"] | Attention = "auto") -> Attention:
    """The attention that runs prefix trees through a model; ValueError, in one line, where log-probs come out wrong.

    "auto" takes flex on a GPU and dense elsewhere; rows, and says so, where a layer's attention is not full or the
    model was loaded with FlashAttention. Trees need
    full attention that takes a boolean mask and positions that are told and not counted, and all need logits that are
    the last hidden state times the output embedding. Windows and lengths that a short text cannot show are known by
    name; the rest is found out on a tree of two branches. For flex the model's attention becomes `TREE_ATTENTION`,
    which is SDPA for everybody else.
    """
    if wanted not in ("auto", "flex", "dense", "rows"):
        raise ValueError(f"attention: must be 'auto', 'flex', 'dense' or 'rows', got {wanted!r}")
    config = model.config.get_text_config()
    if "longrope" in _rope_types(config):
        raise ValueError(
            "model: positions of kind longrope are not supported: they depend on the longest text"
        )
    usual = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    other = sorted(set(getattr(config, "layer_types", None) or [usual]) - {"full_attention"})
    flash = config._attn_implementation == "flash_attention_2"
    if wanted == "rows" or (wanted == "auto" and (other or flash)):
        if fault := _fault(model, "rows"):
            raise ValueError(fault)
        if wanted == "auto":
            why = f"layers of kind {other[0]}" if other else "FlashAttention, which takes no masks of trees"
            _LOG.warning("model: has %s, so sequences run one by one and share nothing", why)
        return "rows"
    if other:
        raise ValueError(f"attention: {wanted!r} cannot run layers of kind {other[0]}; use 'rows' or 'auto'")
    if config._attn_implementation not in ("sdpa", TREE_ATTENTION):
        raise ValueError(f"model: attention must run as 'sdpa', not {config._attn_implementation!r}")
    if wanted == "flex" or (wanted == "auto" and model.device.type == "cuda"):
        model.set_attn_implementation(TREE_ATTENTION)
        fault = _fault(model, "flex")
        if fault is None:
            return "flex"
        model.set_attn_implementation("sdpa")
        if wanted == "flex":
            raise ValueError(fault)
        _LOG.warning("%s; attention is dense", fault)
    if fault := _fault(model, "dense"):
        raise ValueError(fault)
    return "dense"


def _fault(model: Any, attention: Attention) -> str | None:
    """What is wrong with this model's log-probs where this attention computes them, in one line; None: nothing."""
    what = "rows" if attention == "rows" else "prefix trees"
    refusal = f"model: {what} do not reproduce its log-probs"
    try:
        got, want = _two_branches(model, attention)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{refusal}: {reason}"
    off = ((got - want).square().mean().sqrt() / want.std().clamp(min=1e-6)).item()
    if not off <= _TOLERANCE.get(model.dtype, _TOLERANCE_FLOAT):
        return f"{refusal}: they are off by {off:.2g} of their spread"
    return None


def attention_of(name: str) -> str:
    """What transformers calls the attention named ``attn_implementation``; one-line ValueError for one that is not.

    Trees of prefixes, gaps of stored contexts and rows of unlike lengths are boolean masks. SDPA takes those on every
    device; FlashAttention takes none but causal ones, so with it sequences run as rows (`choose_attention`).
    """
    if name in ("auto", "sdpa"):
        return "sdpa"
    if name != "flash_attention_2":
        raise ValueError(f"attn_implementation: must be 'auto', 'sdpa' or 'flash_attention_2', got {name!r}")
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        raise ValueError(
            f"attn_implementation: {name!r} needs flash-attn and a GPU; install it (pip install --no-build-isolation "
            "flash-attn), or leave it 'auto', which is SDPA and shares prefixes"
        )
    return name


def _rope_types(config: Any) -> set[str | None]:
    """The kinds of rotary positions a configuration names, for all layers or by layer type."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    options = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return {option.get("rope_type", option.get("type")) for option in options}


def _two_branches(model: Any, attention: Attention) -> tuple[Tensor, Tensor]:
    """Log-probs [U, V] after the contexts of two texts with a common start: from one tree, and text by text."""
    weight = head_weight(model)
    start, one, other = np.split((np.arange(11) * len(weight) // 11).astype(np.int32), [3, 7])
    texts = [np.concatenate([start, one]), np.concatenate([start, other])]
    # two shared tokens, then a block with both branches
    (tree,) = prefix_trees(texts, [len(start)] * 2, attention, block_tokens=128, max_tokens=1 << 16)
    by_pair = torch.cat([block.hidden for block in prefix_hidden(model, tree, 1 << 16)])
    from_tree = by_pair[torch.as_tensor(tree.nodes.pair_of_scored, device=by_pair.device)] @ weight.T
    inputs = [torch.as_tensor(texts[i].astype(np.int64), device=model.device)[None] for i in tree.index]
    outputs = [model(input_ids=ids, use_cache=False).logits[0, len(start) - 1 : -1] for ids in inputs]
    return from_tree.float().log_softmax(-1), torch.cat(outputs).float().log_softmax(-1)
