"""Does a model give the same log-probs through prefix trees as by itself?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfplay_fast.policies.prefix_forward import build_tree, head_weight, prefix_hidden

_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}  # of the spread of the log-probs
_TOLERANCE_FLOAT = 1e-3


@torch.no_grad()
def check_supported(model: Any) -> None:
    """ValueError, in one line, unless prefix trees give this model's own log-probs.

    They need full attention that takes a boolean mask, positions that are told and not counted, and logits that are
    the last hidden state times the output embedding. Windows and lengths that a short text cannot show are refused by
    name; the rest is found out on a tree of two branches.
    """
    config = model.config.get_text_config()
    usual = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    kinds = set(getattr(config, "layer_types", None) or [usual])
    if kinds != {"full_attention"}:
        raise ValueError(f"model: attention of kind {sorted(kinds - {'full_attention'})[0]} is not supported")
    if "longrope" in _rope_types(config):
        raise ValueError(
            "model: positions of kind longrope are not supported: they depend on the longest text"
        )
    if config._attn_implementation != "sdpa":
        raise ValueError(f"model: attention must run as 'sdpa', not {config._attn_implementation!r}")
    refusal = "model: prefix trees do not reproduce its log-probs"
    try:
        got, want = _two_branches(model)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{refusal}: {reason}") from error
    off = ((got - want).square().mean().sqrt() / want.std().clamp(min=1e-6)).item()
    if not off <= _TOLERANCE.get(model.dtype, _TOLERANCE_FLOAT):
        raise ValueError(f"{refusal}: they are off by {off:.2g} of their spread")


def attention_of(name: str) -> str:
    """What transformers calls the attention named ``attn_implementation``; one-line ValueError for one that is not.

    Trees of prefixes, gaps of stored contexts and rows of unlike lengths are boolean masks. SDPA takes those on every
    device; FlashAttention takes none but causal ones, so it is refused even where it is installed.
    """
    if name in ("auto", "sdpa"):
        return "sdpa"
    if not name.startswith("flash_attention"):
        raise ValueError(f"attn_implementation: must be 'auto' or 'sdpa', got {name!r}")
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        raise ValueError(
            f"attn_implementation: {name!r} needs flash-attn and a GPU (pip install --no-build-isolation flash-attn), "
            "and takes no masks of prefix trees; leave it 'auto', which is SDPA"
        )
    raise ValueError(
        f"attn_implementation: {name!r} takes no masks of prefix trees, which replies and scores need; "
        "leave it 'auto', which is SDPA"
    )


def _rope_types(config: Any) -> set[str | None]:
    """The kinds of rotary positions a configuration names, for all layers or by layer type."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    options = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return {option.get("rope_type", option.get("type")) for option in options}


def _two_branches(model: Any) -> tuple[Tensor, Tensor]:
    """Log-probs [U, V] after the contexts of two texts with a common start: from one tree, and text by text."""
    weight = head_weight(model)
    start, one, other = np.split((np.arange(11) * len(weight) // 11).astype(np.int32), [3, 7])
    texts = [np.concatenate([start, one]), np.concatenate([start, other])]
    tree = build_tree(texts, [len(start)] * 2, 128)  # two shared tokens, then a block with both branches
    by_pair = torch.cat([block.hidden for block in prefix_hidden(model, tree, 1 << 16)])
    from_tree = by_pair[torch.as_tensor(tree.pair_of_scored, device=by_pair.device)] @ weight.T
    inputs = [torch.as_tensor(text.astype(np.int64), device=model.device)[None] for text in texts]
    outputs = [model(input_ids=ids, use_cache=False).logits[0, len(start) - 1 : -1] for ids in inputs]
    return from_tree.float().log_softmax(-1), torch.cat(outputs).float().log_softmax(-1)
