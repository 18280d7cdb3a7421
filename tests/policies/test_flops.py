"""FLOPs and passes, against torch's own counter and against counting token by token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from selfplay_fast.learn import TokenBatch, Update, reinforce_loss, update
from selfplay_fast.policies.adapters import add_adapters
from selfplay_fast.policies.flops import ModelFlops, Passes, alone, peak_flops
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.records import Ask, Key, Sampling

SEQUENCES, TOKENS = 3, 32


def _model(kind: str) -> Any:
    import transformers as tf

    sizes = {
        "vocab_size": 96,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "head_dim": 24,
        "num_attention_heads": 4,
    }
    if kind == "experts":
        config: Any = tf.Qwen3MoeConfig(
            **sizes,
            num_key_value_heads=2,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            experts_implementation="grouped_mm",
            attn_implementation="eager",
        )
        return tf.Qwen3MoeForCausalLM(config)
    heads = 4 if kind == "all heads" else 2
    config = tf.Qwen3Config(
        **sizes, num_key_value_heads=heads, intermediate_size=160, tie_word_embeddings=kind == "tied"
    )
    config._attn_implementation = "eager"  # every product is one that the counter knows
    return tf.Qwen3ForCausalLM(config)


def _counted(model: Any) -> tuple[int, int]:
    """Operations of a forward and a backward pass over independent sequences, by torch's counter."""
    ids = torch.arange(SEQUENCES * TOKENS).reshape(SEQUENCES, TOKENS) % 90
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=ids, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("kind", ["grouped heads", "all heads", "tied"])
def test_dense_models_cost_what_torch_counts(kind: str) -> None:
    """Oracle: FlopCounterMode. Eager attention computes whole squares, so these are the pairs here."""
    model = _model(kind)
    squares = Passes(SEQUENCES * TOKENS, SEQUENCES * TOKENS**2, SEQUENCES * TOKENS)
    flops = ModelFlops.of(model)
    assert flops.frozen == 0
    assert (flops.forward(squares), flops.backward(squares)) == _counted(model)


def test_adapters_save_the_gradients_of_frozen_weights() -> None:
    """Oracle: FlopCounterMode, less what the first layer saves because nothing before it learns."""
    pytest.importorskip("peft")
    model = _model("grouped heads")
    add_adapters(model, 4)
    flops = ModelFlops.of(model)
    assert not flops.head_learned
    assert flops.learned < 0.3 * flops.frozen
    squares = Passes(SEQUENCES * TOKENS, SEQUENCES * TOKENS**2, SEQUENCES * TOKENS)
    forward, backward = _counted(model)
    assert flops.forward(squares) == forward
    attention = model.model.layers[0].self_attn
    first = sum(p.weight.numel() for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    first += 3 * 4 * model.config.hidden_size  # and their adapters' first halves
    assert flops.backward(squares) - backward == 2 * SEQUENCES * TOKENS * first


def test_of_experts_those_that_a_token_is_sent_to_count() -> None:
    """Oracle: the sizes of the layers, by hand."""
    model = _model("experts")
    attention = 64 * 4 * 24 * 2 + 2 * 64 * 2 * 24
    experts = 2 * 3 * 64 * 32
    assert ModelFlops.of(model).learned == 3 * (attention + experts + 8 * 64)


def test_a_model_without_weights_has_the_same_flops() -> None:
    """Oracle: the same model in memory."""
    with torch.device("meta"):
        empty = _model("tied")
    assert ModelFlops.of(empty) == ModelFlops.of(_model("tied"))


def test_what_stands_alone_is_counted_token_by_token() -> None:
    """Oracle: a loop."""
    spans = [(0, 5), (3, 4), (2, 9)]
    tokens = [t for start, stop in spans for t in range(start, stop)]
    assert alone(spans) == Passes(len(tokens), sum(t + 1 for t in tokens), len(tokens))


def test_cards() -> None:
    """Oracle: the data sheets; a card that is not in the table, a slice of one too, has no peak."""
    assert (
        peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == peak_flops("NVIDIA H200", "bfloat16") == 989.4e12
    )
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 19.5e12
    assert peak_flops("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16") is None
    assert peak_flops("NVIDIA H200", "float8") is None


@contextmanager
def _seen(model: Any) -> Iterator[Passes]:
    """What goes through the model, watched from outside: its inputs, and the mask or the cache beside them."""
    seen = Passes()

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
        past = kwargs.get("past_key_values")
        before = 0 if past is None else past.get_seq_length()
        seen.tokens += ids.numel()
        if mask is not None and mask.ndim == 4:
            seen.pairs += int(mask.sum())
        else:
            seen.pairs += sum(before + t + 1 for t in range(ids.shape[1])) * len(ids)

    handle = model.base_model.register_forward_pre_hook(watch, with_kwargs=True)
    yield seen
    handle.remove()


def _asks(policy: LanguageModel, texts: list[str]) -> list[Ask]:
    sampling = Sampling(max_tokens=6)
    return [
        Ask(role="player", append=policy.encode([text])[0], key=Key(0, i, 0), sampling=sampling)
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize("rows", [False, True])
def test_replies_are_counted(toy_policy: LanguageModel, rows: bool) -> None:
    """Oracle: the inputs of the model; prompts of one length and replies of one length, so nothing is padded."""
    policy = LanguageModel(toy_policy.model, toy_policy.tokenizer, attention="rows" if rows else "dense")
    policy.end_tokens = frozenset()  # nobody stops early
    with _seen(policy.model) as seen:
        policy.generate(_asks(policy, ["abcd", "wxyz", "abyz"]))
    passes = policy.forward_passes
    assert (passes.tokens, passes.pairs) == (seen.tokens, seen.pairs)
    assert passes.logits >= 3 * 6
    assert passes.tokens > 3 * 6
    assert policy.backward_passes == Passes()


@pytest.mark.parametrize("attention", ["dense", "rows"])
def test_updates_are_counted(toy_policy: LanguageModel, attention: Any) -> None:
    """Oracle: the inputs of the model, with the pairs of its masks; the backward passes are as many again."""
    policy = LanguageModel(toy_policy.model, toy_policy.tokenizer, attention=attention, block_tokens=64)
    ones = np.ones(4, np.float32)
    batch = TokenBatch(
        sequences=[np.array([1, 2, 3, 4, 5, 6], np.int32), np.array([1, 2, 3, 9, 8, 7], np.int32)],
        first=np.array([4, 4]),
        offsets=np.array([0, 2, 4]),
        advantages=ones,
        weights=ones,
        sampler_logprobs=-ones,
        temperature=1.0,
    )
    with _seen(policy.model) as seen:
        done = update(
            policy,
            torch.optim.SGD(policy.model.parameters(), lr=0.0),
            batch,
            Update(loss=reinforce_loss, epochs=2),
        )
    passes = policy.forward_passes
    assert passes == policy.backward_passes
    assert (passes.tokens, passes.pairs) == (seen.tokens, seen.pairs)
    assert passes.tokens == 2 * done["computed_tokens"]
    assert passes.logits == 2 * 4
