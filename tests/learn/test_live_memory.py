"""Bytes of passes without weights, against what passes with weights ask of the CPU's allocator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from selfplay_fast.kernels.token_logprobs import token_logprobs
from torch.profiler import ProfilerActivity, profile

from selfplay_fast.learn import live_memory
from selfplay_fast.learn.live_memory import LiveBytes, empty_model, token_bytes
from selfplay_fast.policies.adapters import add_adapters
from selfplay_fast.policies.prefix_forward import backbone, expand_cache, head_weight
from selfplay_fast.policies.recompute import recompute_layers

TOKENS = 512


def _config(layers: int = 5, **options: Any) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        **options,
    )


def _allocated(run: Callable[[], object]) -> int:
    """The most bytes that were allocated at once while something ran, beyond those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def _real(lora_rank: int, gradient_checkpointing: bool) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(_config(), attn_implementation="sdpa").eval()
    if lora_rank:
        add_adapters(model, lora_rank)
    if gradient_checkpointing:
        recompute_layers(model)
    head_weight(model).requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(live_memory._let_go)
    return model


@pytest.mark.parametrize(("lora_rank", "gradient_checkpointing"), [(0, False), (0, True), (8, False)])
def test_a_micro_batch_takes_what_is_allocated(
    monkeypatch: pytest.MonkeyPatch, lora_rank: int, gradient_checkpointing: bool
) -> None:
    """Oracle: the allocator's own record of the same pass with weights."""
    if lora_rank:
        pytest.importorskip("peft")
    monkeypatch.setattr(live_memory, "_TOKENS", TOKENS)
    options: dict[str, Any] = {"lora_rank": lora_rank, "gradient_checkpointing": gradient_checkpointing}
    predicted = token_bytes(_config(), torch.float32, **options).update * TOKENS
    model = _real(**options)
    ids = torch.arange(TOKENS)[None] % 512

    def learn() -> None:
        cache = expand_cache(model, [], 1)
        hidden = backbone(model)(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        token_logprobs(hidden[0], head_weight(model), ids[0]).sum().backward()

    learn()  # what is only made once
    assert _allocated(learn) == pytest.approx(predicted, rel=0.06)


def test_a_pass_over_prompts_takes_what_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the allocator's record; keys and values are counted from the configuration."""
    monkeypatch.setattr(live_memory, "_TOKENS", TOKENS)
    config, model = _config(), _real(0, False)
    ids = torch.arange(TOKENS)[None] % 512

    @torch.no_grad()
    def read() -> None:
        model(input_ids=ids, use_cache=True, logits_to_keep=1)

    read()
    tokens = token_bytes(config, torch.float32)
    assert tokens.cache == 2 * config.num_hidden_layers * 2 * 32 * 4
    assert _allocated(read) == pytest.approx(tokens.prompt * TOKENS, rel=0.06)


def test_few_layers_stand_for_many() -> None:
    """Oracle: all of the layers."""
    config = _config(layers=7)
    for options in ({}, {"gradient_checkpointing": True}):
        whole = live_memory._of(empty_model(config, torch.bfloat16, **options))
        few = token_bytes(config, torch.bfloat16, **options)
        assert few.cache == whole.cache
        assert (few.prompt, few.update) == pytest.approx((whole.prompt, whole.update), rel=1e-3)


def test_experts_can_be_counted() -> None:
    """Oracle: more experts for a token, more activations; the number of experts there are does not matter much."""
    from transformers import Qwen3MoeConfig

    def update(experts: int, chosen: int) -> float:
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "head_dim": 16, "num_attention_heads": 4}
        config = Qwen3MoeConfig(
            **sizes,
            num_key_value_heads=2,
            moe_intermediate_size=128,
            num_experts=experts,
            num_experts_per_tok=chosen,
        )
        return token_bytes(config, torch.bfloat16).update

    assert 1.3 < update(16, 4) / update(16, 2) < 2
    assert update(32, 2) == pytest.approx(update(16, 2), rel=0.05)


def test_live_bytes_are_those_of_living_tensors() -> None:
    """Oracle: sizes by hand; a view takes nothing, and what is dropped is gone."""
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1
        c = b[2:4]
        assert live.now == 8000
        del a, b
        assert live.now == 4000  # c keeps the whole of b
        c = c.clone()
        assert (live.now, live.peak) == (800, 8000)
