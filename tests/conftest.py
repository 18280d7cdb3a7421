"""Test-wide settings. They are made before any test module imports torch, triton or transformers."""

from __future__ import annotations

import os
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when @triton.jit decorates, so before kernels load

torch.set_num_threads(1)  # OpenMP barriers on busy cores cost more than the second thread brings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the legacy stream is what libraries under test draw from
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def toy_texts() -> list[str]:
    """Forty prompts with a long common start and different ends and lengths, some of them equal."""
    rules = "Two players take turns; put the final move in \\boxed{}. Three in a row win. " * 2
    return [f"{rules}You are {'OX'[i % 2]}. Free: {i % 9} {i % 5}" + " and more" * (i % 3) for i in range(40)]


@pytest.fixture
def toy_policy(toy_texts: list[str]):  # type: ignore[no-untyped-def]
    """A fresh untrained nano policy, peaked but smooth: float32 gradients of two computations can be compared."""
    from selfplay_fast.policies.language_model import LanguageModel
    from selfplay_fast.policies.nano import build_model, build_tokenizer

    tokenizer = build_tokenizer([*toy_texts, "user\n", "assistant\n"])
    model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed=0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("q_norm.weight"):
                parameter.fill_(1)
            elif parameter.ndim > 1:
                parameter.mul_(0.08 / model.config.initializer_range)
    return LanguageModel(model, tokenizer)
