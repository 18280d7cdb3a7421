"""Which models are refused. Oracle: the documented one-line ValueError, raised by the constructor."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.supported import choose_attention

_SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
}


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: FalconForCausalLM(FalconConfig(**_SIZES, alibi=True)), "do not reproduce its log-probs: "),
        (lambda: CohereForCausalLM(CohereConfig(**_SIZES, intermediate_size=64)), "do not reproduce"),
        (
            lambda: LlamaForCausalLM(
                LlamaConfig(**_SIZES, max_position_embeddings=64, rope_parameters=_LONGROPE)
            ),
            "longrope",
        ),
    ],
    ids=["alibi", "scaled head", "longrope"],
)
def test_models_that_trees_do_not_reproduce_are_refused(toy_policy, build, reason):
    """Counted positions, a scaled head and lengths that change the past are refused by the constructor."""
    with pytest.raises(ValueError, match=reason) as caught:
        LanguageModel(build(), toy_policy.tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_models_that_trees_reproduce_pass(toy_policy, dtype):
    """Rotary and learned positions, in full and half precision."""
    choose_attention(toy_policy.model.to(dtype))
    sizes = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
    choose_attention(GPT2LMHeadModel(GPT2Config(**sizes)).eval().to(dtype))


def test_windows_fall_back_to_rows(toy_policy, caplog):
    """Oracle: the documented choice, said once and in one line; trees that are insisted on are refused."""
    model = MistralForCausalLM(MistralConfig(**_SIZES, num_key_value_heads=2, sliding_window=4))
    assert LanguageModel(model, toy_policy.tokenizer).attention == "rows"
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("selfplay_fast")]
    assert (
        line == "model: has layers of kind sliding_attention, so sequences run one by one and share nothing"
    )
    for wanted in ("dense", "flex"):
        with pytest.raises(
            ValueError, match="cannot run layers of kind sliding_attention; use 'rows' or 'auto'"
        ):
            LanguageModel(model, toy_policy.tokenizer, attention=wanted)
    with pytest.raises(ValueError, match="attention: must be 'auto', 'flex', 'dense' or 'rows', got 'paged'"):
        LanguageModel(model, toy_policy.tokenizer, attention="paged")


@pytest.mark.parametrize("vocabulary", [422, 433, 662])
def test_rows_reproduce_log_probs_whatever_the_vocabulary(vocabulary):
    """Oracle: the contract; the check's own texts come in another order in rows, depending on their token ids."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    assert choose_attention(LlamaForCausalLM(config).eval(), "rows") == "rows"


def test_rows_are_checked_too():
    """Oracle: a scaled head is wrong by itself as well; counted positions are right where nothing is shared."""
    scaled = CohereForCausalLM(CohereConfig(**_SIZES, intermediate_size=64)).eval()
    with pytest.raises(ValueError, match="rows do not reproduce its log-probs: they are off"):
        choose_attention(scaled, "rows")
    assert choose_attention(FalconForCausalLM(FalconConfig(**_SIZES, alibi=True)).eval(), "rows") == "rows"


def test_a_changed_model_is_refused(toy_policy):
    """Layers with a window, a scaled head and eager attention are named; the model as it is passes."""
    model = toy_policy.model
    choose_attention(model)
    model.config.layer_types = ["full_attention", "sliding_attention"] * 2
    with pytest.raises(ValueError, match="sliding_attention"):
        choose_attention(model, "dense")
    model.config.layer_types = ["full_attention"] * 4
    handle = model.lm_head.register_forward_hook(lambda module, inputs, output: 3 * output + 1)
    with pytest.raises(ValueError, match="do not reproduce its log-probs"):
        choose_attention(model)
    handle.remove()
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="eager"):
        choose_attention(model)
