"""A critic: what a text is worth before each of its tokens, by a model of its own.

It is transformers' token classifier with one label, so its folder is an ordinary one. Its trunk begins as a policy's or
any other's of the same family; value and log-prob of a token come from the same place, the context before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from selfplay_fast.policies.flops import Passes
from selfplay_fast.policies.prefix_forward import Attention
from selfplay_fast.policies.tree_attention import TREE_ATTENTION
from selfplay_fast.policies.weights import in_own_memory


class Critic:
    """``model`` maps token ids to one number each; ``attention`` runs its prefix trees, as a `LanguageModel`'s."""

    def __init__(self, model: Any, attention: Attention) -> None:
        if attention == "flex":
            model.set_attn_implementation(TREE_ATTENTION)
        self.model = model.eval()
        self.attention = attention
        self.version = 0
        self.forward_passes, self.backward_passes = Passes(), Passes()

    @classmethod
    def load(
        cls, folder: str | Path, attention: Attention, *, seed: int, dtype: str = "auto", device: str = "cpu"
    ) -> Critic:
        """From the folder of a critic or of a causal model, which gets a new head: N(0, 1 / (H + 1)) as OpenRLHF's.

        ValueError with one line where that fails.
        """
        from transformers import AutoConfig, AutoModelForTokenClassification
        from transformers.utils import logging

        level = logging.get_verbosity()
        logging.set_verbosity_error()  # it tells that the head is new
        try:
            config = AutoConfig.from_pretrained(folder, num_labels=1)
            config.token_classification_bias = False
            model, loading = AutoModelForTokenClassification.from_pretrained(
                folder, config=config, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
            )
            if not isinstance(getattr(model, "score", None), torch.nn.Linear):
                raise ValueError(f"the head of a {config.model_type} is not one linear layer over its trunk")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"critic {str(folder)!r} cannot be loaded: {reason}") from error
        finally:
            logging.set_verbosity(level)
        if any(name.startswith("score.") for name in loading["missing_keys"]):
            _new_head(model.score, seed)
        return cls(in_own_memory(model).to(device), attention)

    def save(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write an ordinary transformers folder, with ``weights`` instead of the model's own where they are given."""
        self.model.save_pretrained(folder, state_dict=weights)

    def per_token(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """hidden [U, H] -> values [U] before the targets, float32; and zeros, where a policy has entropies."""
        values = self.model.score(hidden).squeeze(-1).float()
        return values, torch.zeros_like(values)

    def forget(self) -> None:
        """Nothing is kept between passes."""


@torch.no_grad()
def _new_head(head: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = head.weight.shape[1]
    head.weight.copy_(torch.randn(1, size, generator=generator) / (size + 1))
    if head.bias is not None:  # in libraries that do not know the setting
        head.bias.zero_()
