"""What a run takes of a card's memory, against sums by hand, models with weights, and the page that tells of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfplay_fast.learn.live_memory import empty_model
from selfplay_fast.learn.memory import MOMENTS, Budget, Line, Plan, budget
from selfplay_fast.recipes import mars, spiral
from selfplay_fast.training import memory_budget

CARD = 141e9
ROOT = Path(__file__).parents[2]
SCALE, RESULTS = ROOT / "docs" / "scale.md", ROOT / "bench" / "results"


def _qwen3_4b() -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    )


def _small(**options: Any) -> Any:
    from transformers import Qwen3Config

    sizes = {
        "vocab_size": 512,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "intermediate_size": 160,
    }
    return Qwen3Config(**sizes | options, num_attention_heads=4, num_key_value_heads=2)


PLAN = Plan(dtype="bfloat16", max_batch_tokens=1024, max_cache_tokens=8192)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder without weights, of the size of Qwen3-4B."""
    path = tmp_path_factory.mktemp("qwen3-4b")
    _qwen3_4b().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def counted(folder: Path) -> dict[str, Budget]:
    """The budgets of the presets for one card."""
    presets = {
        name: replace(spiral.PRESETS[name], model=str(folder)) for name in ("qwen3-4b", "qwen3-4b-lora")
    }
    return {name: memory_budget(config) for name, config in presets.items()}


def _bytes(whole: Budget, what: str) -> tuple[float, ...]:
    (line,) = [line for line in whole.lines if line.what == what]
    return tuple(getattr(line, moment) for moment in MOMENTS)


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_those_of_the_model(tied: bool) -> None:
    """Oracle: the same model with weights."""
    from transformers import AutoModelForCausalLM

    config = _small(tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)
    assert budget(config, PLAN).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_whole_model_on_one_card() -> None:
    """Oracle: sums by hand. Weights for passes beside float32 ones, two moments, a gradient, and what a step makes."""
    whole = budget(_small(), PLAN)
    weights = 4 * whole.parameters
    assert _bytes(whole, "weights in bfloat16") == (weights / 2, weights / 2, 0)
    assert _bytes(whole, "weights in float32") == (weights, weights, weights)
    assert _bytes(whole, "Adam's moments; in a step also what it computes") == (
        2 * weights,
        2 * weights,
        3 * weights,
    )
    assert _bytes(whole, "gradients in float32") == (0, weights, weights)
    slot = 2 * 2 * 2 * 16 * 2  # keys and values, layers, heads, dimensions, bytes
    assert _bytes(whole, "keys and values of replies") == (1.5 * slot * 8192,) * 3
    assert _bytes(whole, "keys and values between turns") == (1.5 * slot * 8192, 0, 0)
    assert _bytes(whole, "gradient of the head") == (0, 512 * 64 * 2, 0)
    for moment in MOMENTS:
        assert whole.total(moment) == sum(getattr(line, moment) for line in whole.lines)


def test_ranks_share_what_is_sharded() -> None:
    """Oracle: the budget of one card, divided; weights that passes compute with and summed gradients are whole."""
    one, four = budget(_small(), PLAN), budget(_small(), replace(PLAN, ranks=4))
    assert _bytes(four, "weights in bfloat16") == _bytes(one, "weights in bfloat16")
    for what in ("weights in float32", "Adam's moments; in a step also what it computes"):
        assert _bytes(four, what) == tuple(value / 4 for value in _bytes(one, what))
    gradient = _bytes(one, "gradients in float32")[1]
    assert _bytes(four, "gradients in float32") == (0, gradient, gradient / 4)


def test_adapters_leave_little_to_learn() -> None:
    """Oracle: the adapters' own size; a frozen head has no gradient, and the model of step 0 is the model itself."""
    pytest.importorskip("peft")
    adapted = budget(_small(), replace(PLAN, lora_rank=4, reference=True))
    model = empty_model(_small(), torch.bfloat16, lora_rank=4)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert _bytes(adapted, "adapters in float32") == (4 * learned,) * 3
    assert _bytes(adapted, "frozen weights in bfloat16") == (2 * (adapted.parameters - learned),) * 3
    names = [line.what for line in adapted.lines]
    assert "gradient of the head" not in names
    assert "the model of step 0" not in names


def test_a_reference_and_float32_passes() -> None:
    """Oracle: another copy; float32 passes compute with the weights that learn."""
    whole = budget(_small(), replace(PLAN, dtype="float32", reference=True))
    assert (
        _bytes(whole, "the model of step 0")
        == _bytes(whole, "weights in float32")
        == (4 * whole.parameters,) * 3
    )
    assert "weights in bfloat16" not in [line.what for line in whole.lines]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_critic_learns_beside_the_policy(ranks: int) -> None:
    """Oracle: the critic itself, with weights; sums by hand. It learns after the policy, which is larger."""
    from transformers import AutoModelForTokenClassification

    plan, critic = replace(PLAN, ranks=ranks), _small(num_labels=1)
    model = AutoModelForTokenClassification.from_config(critic)
    alone, both = budget(_small(), plan), budget(_small(), plan, critic)
    own = sum(
        p.numel() for name, p in model.named_parameters() if name != "score.bias"
    )  # our critics have none
    assert own < alone.parameters
    assert _bytes(both, "the critic's weights") == ((2 + 4 / ranks) * own,) * 3
    moments = "Adam's moments; in a step also what it computes"
    added = [b - a for a, b in zip(_bytes(alone, moments), _bytes(both, moments), strict=True)]
    assert added == [8 * own / ranks] * 3
    assert _bytes(both, "gradients in float32") == _bytes(alone, "gradients in float32")


def test_a_critic_of_adapters_has_more_to_learn_than_they() -> None:
    """Oracle: sums by hand of the critic's step, in which the policy's few moments stay."""
    pytest.importorskip("peft")
    plan = replace(PLAN, lora_rank=4)
    alone, both = budget(_small(), plan), budget(_small(), plan, _small())
    weights = _bytes(both, "the critic's weights")[0]
    assert _bytes(both, "the critic's weights") == (weights, weights, weights * 4 / 6)
    assert _bytes(both, "gradients in float32") == (0, weights * 4 / 6, weights * 4 / 6)
    adapters = _bytes(alone, "adapters in float32")[0]
    moments = _bytes(both, "Adam's moments; in a step also what it computes")
    assert moments == (
        2 * adapters + weights * 8 / 6,
        2 * adapters + weights * 8 / 6,
        2 * adapters + weights * 2,
    )


def test_a_critic_may_be_larger_than_the_policy() -> None:
    """Oracle: sums by hand of the critic's step, in which all weights of the policy stay."""
    alone, both = budget(_small(), PLAN), budget(_small(), PLAN, _small(num_hidden_layers=8))
    weights = _bytes(both, "the critic's weights")
    assert weights[0] / 6 > alone.parameters
    assert weights[2] == weights[0] * 4 / 6
    assert _bytes(both, "weights in bfloat16") == (2 * alone.parameters,) * 3
    assert _bytes(both, "gradients in float32") == (0, weights[2], weights[2])


def test_layers_computed_again_keep_little() -> None:
    """Oracle: the same without."""
    whole, again = budget(_small(), PLAN), budget(_small(), replace(PLAN, gradient_checkpointing=True))
    kept = _bytes(again, "activations, layers computed again")[1]
    assert kept < 0.7 * _bytes(whole, "activations")[1]


def _made(plan: Plan = PLAN, **fixed: float) -> Budget:
    lines = (
        Line("weights", **fixed),
        Line("keys", rollout=8.0 * plan.max_cache_tokens, setting="max_cache_tokens", slope=8.0),
        Line("room", *(2.0 * plan.max_cache_tokens,) * 3, "max_cache_tokens", 2.0),
        Line("prompts", rollout=1.0 * plan.max_batch_tokens, setting="max_batch_tokens", slope=1.0),
        Line("activations", update=20.0 * plan.max_batch_tokens, setting="max_batch_tokens", slope=20.0),
    )
    return Budget(plan=plan, parameters=1, lines=lines)


@pytest.mark.parametrize(("card", "batch"), [(80_000, 1024), (50_000, 1024), (35_000, 1024), (90_000, 4096)])
def test_what_does_not_fit_is_named_with_what_would(card: int, batch: int) -> None:
    """Oracle: with the numbers that are named the run fits, with one more it does not."""
    plan = replace(PLAN, max_batch_tokens=batch)
    for _ in range(2):  # settings
        with pytest.raises(ValueError, match="the largest that fits") as raised:
            _made(plan, update=5000, rollout=1000).check(card)
        name, _, rest = str(raised.value).partition(":")
        most = int(rest.rsplit(" ", 1)[1])
        assert most < getattr(plan, name)
        with pytest.raises(ValueError, match="the largest that fits"):
            _made(replace(plan, **{name: most + 1}), update=5000, rollout=1000).check(card)
        plan = replace(plan, **{name: most})
        if _made(plan, update=5000, rollout=1000).peak <= 0.95 * card:
            break
    _made(plan, update=5000, rollout=1000).check(card)


def test_a_model_that_is_too_large_by_itself() -> None:
    """Oracle: the message; fewer tokens would not help."""
    with pytest.raises(
        ValueError, match=r"^model: an optimizer step takes .* set lora_rank, or start more ranks"
    ):
        _made(step=2e5).check(1e5)
    with pytest.raises(ValueError, match=r"small the batch; start more ranks"):
        _made(replace(PLAN, lora_rank=1), step=2e5).check(1e5)
    with pytest.raises(
        ValueError, match=r"^max_batch_tokens, max_cache_tokens: a micro-batch .* use smaller ones"
    ):
        _made(replace(PLAN, max_batch_tokens=80_000), rollout=1000).check(7e4)


def test_presets_fit_one_card(counted: dict[str, Budget]) -> None:
    """Oracle: the card they are made for; half of it is too small for one of them, a quarter for the other."""
    for whole in counted.values():
        whole.check(CARD)
    with pytest.raises(ValueError, match="max_cache_tokens: a rollout takes"):
        counted["qwen3-4b"].check(CARD / 2)
    with pytest.raises(ValueError, match="max_cache_tokens: a rollout takes"):
        counted["qwen3-4b-lora"].check(CARD / 4)
    assert round(counted["qwen3-4b"].parameters / 1e9, 2) == 4.02


def test_the_page_shows_these_tables(counted: dict[str, Budget]) -> None:
    """Oracle: docs/scale.md, word for word."""
    page = SCALE.read_text()
    for name, whole in counted.items():
        assert whole.table() in page, f"docs/scale.md: the table of {name} should be\n{whole.table()}"


@pytest.mark.parametrize("row", [2, 7])
def test_an_update_on_a_card_took_what_is_counted(row: int) -> None:
    """Oracle: the memory of an H100 in a run of 0.6B with adapters, to 3 %: 14 or 15 replies of 256 tokens after some
    140 of a prompt, which decoding pads to 16 rows of 512."""
    pytest.importorskip("peft")
    from transformers import Qwen3Config

    seen = json.loads((RESULTS / "train_qwen3_0.6b_lora.jsonl").read_text().splitlines()[row])
    assert "--lora-rank 16 --gradient-checkpointing" in seen["command"]
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    plan = replace(
        PLAN,
        lora_rank=16,
        gradient_checkpointing=True,
        max_batch_tokens=int(seen["computed_tokens"]),
        max_cache_tokens=16 * 512,
    )
    counted = budget(config, plan).total("update") / 2**20
    assert counted == pytest.approx(seen["update_gpu_peak_memory_mib"], rel=0.03)


def test_which_settings_count(folder: Path) -> None:
    """Oracle: the configuration. MARS with a KL term keeps the model of step 0; a cache follows from the batch."""
    config = replace(mars.PRESETS["paper"], model=str(folder), device="cuda", max_batch_tokens=2048)
    plan = memory_budget(config, ranks=2).plan
    assert plan == Plan(
        dtype="bfloat16", max_batch_tokens=2048, max_cache_tokens=16 * 2048, reference=True, ranks=2
    )
    assert not memory_budget(replace(config, kl=0.0)).plan.reference


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    """Oracle: one line that names the model."""
    config = replace(spiral.PRESETS["qwen3-4b"], model=str(tmp_path))
    with pytest.raises(ValueError, match=r"^model '.*': no configuration can be read: ") as raised:
        memory_budget(config)
    assert "\n" not in str(raised.value)
