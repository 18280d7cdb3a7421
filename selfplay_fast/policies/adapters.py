"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by peft, in the layers of a transformers model.

They are put in place (transformers' `add_adapter`), not around the model, so whatever knows the model's parts goes on
knowing them. The weights of the model, head and embeddings among them, stay as they are.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from selfplay_fast.model_folder import ADAPTER_CONFIG

_MISSING = "the package peft is not installed: pip install -c constraints.txt -e '.[lora]'"


def _is_installed() -> bool:
    return importlib.util.find_spec("peft") is not None


def check_installed() -> None:
    """ValueError where peft is missing."""
    if not _is_installed():
        raise ValueError(f"lora_rank: {_MISSING}, or set lora_rank to 0")


def check_folder(folder: Path) -> None:
    """ValueError where a folder holds adapters and peft, or the folder of the model below them, is missing."""
    config = folder / ADAPTER_CONFIG
    if not config.is_file():
        return
    if not _is_installed():
        raise ValueError(f"it holds adapters, and {_MISSING}")
    said = json.loads(config.read_text(encoding="utf-8"))
    base = said.get("base_model_name_or_path") if isinstance(said, dict) else None
    if isinstance(base, str) and base.startswith((".", "/", "~")) and not Path(base).is_dir():
        raise ValueError(
            f"it holds adapters of the model {base!r}, and there is no such folder; put it, or a link to it, there"
        )


def add_adapters(model: Any, rank: int, seed: int = 0) -> None:
    """Adapters of this rank at every linear layer but the head, scaled by 2; untrained they do nothing.

    Half of their weights are random and follow from the seed, whatever was drawn before: alike on all ranks.
    """
    check_installed()
    from peft import LoraConfig

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    base = Path(model.config._name_or_path)
    name = str(base.resolve()) if base.is_dir() else model.config._name_or_path
    adapters = model.peft_config["default"]
    adapters.base_model_name_or_path = name  # a checkpoint may be read from another folder
    train_adapters(model)


def train_adapters(model: Any) -> None:
    """Let adapters, as they are after loading too, learn, in float32."""
    for layer in _layers(model):
        for name, parameter in layer.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)


def with_own_adapters(model: Any, seed: int) -> Any:
    """The model with the same frozen weights, in the same memory, and new adapters of its own beside them."""
    from peft.tuners.lora import LoraLayer

    frozen = {id(p): p for p in (*model.parameters(), *model.buffers()) if not p.requires_grad}
    other = copy.deepcopy(model, frozen)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in _layers(other):
            assert isinstance(layer, LoraLayer)
            for name in layer.lora_A:
                layer.reset_lora_parameters(name, init_lora_weights=True)
    return other


def load_adapters(model: Any, folder: Path) -> None:
    """Put the adapters of a folder in the place of the model's; ValueError where they do not fit."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    try:
        found: Any = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:
        raise ValueError(
            f"adapters in {folder} do not fit the model: {str(error).splitlines()[0]}"
        ) from error
    if found.unexpected_keys:
        raise ValueError(
            f"adapters in {folder} do not fit the model: {found.unexpected_keys[0]} has no place"
        )


def in_place(model: Any) -> Any:
    """The transformers model inside peft's wrapper, which has the adapters; anything else as it is."""
    peft = sys.modules.get("peft")
    if peft is None or not isinstance(model, peft.PeftModel):
        return model
    inner = model.get_base_model()
    inner._hf_peft_config_loaded = True  # transformers then saves the adapters only
    return inner


def adapters_on(model: Any) -> tuple[bool, ...]:
    """Is each layer's adapter part of the model now, or switched off (`without_adapters`)?"""
    return tuple(not layer.disable_adapters for layer in _layers(model))


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Inside, the model is what it was before it learned."""
    layers = _layers(model)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge_adapters(model: Any) -> None:
    """Add the adapters to the weights and take them out; a model without any stays as it is."""
    if not _layers(model):
        return
    for name, layer in list(model.named_modules()):
        if layer in _layers(model):
            layer.merge(safe_merge=True)
            model.set_submodule(name, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    del model.peft_config
    model.__dict__.pop("_weight_conversions", None)  # the names that weights had in a file of adapters


def _layers(model: Any) -> list[Any]:
    if "peft" not in sys.modules:
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
