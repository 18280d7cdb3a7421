"""A model that thinks, small enough to be held against slow computations."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_model, build_tokenizer

TAGS = ("<think>", "</think>")
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n"


@pytest.fixture
def thinking_policy(toy_texts: list[str]) -> Callable[..., LanguageModel]:
    """Makes untrained models that like to say their tags, each of one token or of several.

    opens_in_prompt: the prompt says the opening tag. template: in place of the plain one.
    """

    def make(
        *, one_token: bool, opens_in_prompt: bool = False, template: str = "", **options: Any
    ) -> LanguageModel:
        tokenizer = build_tokenizer([*toy_texts, *("<think>\n so </think>\n\n" * 3,) * 3])
        if one_token:
            tokenizer.add_tokens(list(TAGS))
        tokenizer.chat_template = template or tokenizer.chat_template
        if opens_in_prompt:
            tokenizer.chat_template = tokenizer.chat_template.replace(PROMPT, PROMPT + "<think>\n")
        model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed=0).eval()
        liked = torch.zeros(model.config.vocab_size, model.config.vocab_size)  # [last token, next token]
        for tag, share in zip(TAGS, (5.0, 6.0), strict=True):
            ids = tokenizer.encode(tag, add_special_tokens=False)
            liked[:, ids[0]] += share
            for last, following in pairwise(ids):
                liked[last, following] += 20

        def like(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            output.logits[:, -1] = output.logits[:, -1] * 0.3 + liked[kwargs["input_ids"][:, -1]]

        policy = LanguageModel(model, tokenizer, think_tags=TAGS, **options)
        model.register_forward_hook(like, with_kwargs=True)
        return policy

    return make
