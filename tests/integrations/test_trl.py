"""TRL's trainers with our head, and GRPO with our advantages.

Oracles: TRL itself on the same model, data and seed; formulas written out over plain logits; published numbers.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

pytest.importorskip("trl", exc_type=ImportError, reason="comes with the extra 'test'")

import transformers
import trl
from datasets import Dataset
from datasets.table import InMemoryTable
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from selfplay_fast.integrations import trl as ours
from selfplay_fast.integrations.trl import RoleConditioned, Samples, SelfPlayGRPOTrainer, TurnLevel
from selfplay_fast.learn import credit
from selfplay_fast.policies.nano import build_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6.*:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:Position ids are not supported for parameter efficient tuning:UserWarning"
    ),
]

Calls: TypeAlias = list[tuple[int, torch.dtype]]
WORDS = "one two three four five six seven"
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "flat": ("Llama", {"initializer_range": 0.02}),
    "tied": ("Qwen3", {"tie_word_embeddings": True}),
    "capped": ("Gemma2", {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16}),
    "scaled": ("Cohere", {"logit_scale": 0.5}),
    "biased": ("Phi", {}),
    "experts": (
        "Qwen3Moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "output_router_logits": True,
        },
    ),
}


def long(*values: Any) -> Any:
    """A case whose parts other cases have too, in other company."""
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A folder with a random model of a family and a tokenizer, by the family's name."""
    made: dict[tuple[str, int | None], str] = {}

    def folder(family: str = "llama", vocabulary: int | None = None) -> str:
        if (family, vocabulary) not in made:
            tokenizer = build_tokenizer([WORDS] * 4)
            name, options = FAMILIES[family]
            config = getattr(transformers, f"{name}Config")(
                **SMALL | options,
                vocab_size=vocabulary or len(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
            )
            torch.manual_seed(0)
            path = str(tmp_path_factory.mktemp(family))
            getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(path)
            tokenizer.save_pretrained(path)
            made[family, vocabulary] = path
        return made[family, vocabulary]

    return folder


def dataset(**columns: list[Any]) -> Dataset:
    return Dataset(InMemoryTable.from_pydict(columns), fingerprint=str(hash(str(columns))))


PROMPTS = ["one two", "three four five", "six", "seven one two", "two", "four four"]
COMMON = {
    "report_to": [],
    "logging_steps": 1,
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "bf16": False,  # TRL's default
}


def reward(completions: list[str], **_: Any) -> list[float]:
    return [sum(map(ord, text)) % 11 / 11 for text in completions]


def grpo(
    path: str,
    tmp_path: Path,
    trainer: Any = GRPOTrainer,
    data: Dataset | None = None,
    given: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    args = GRPOConfig(
        str(tmp_path),
        **COMMON
        | {
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "max_completion_length": 8,
            "entropy_coef": 0.1,
            "beta": 0.1,
        }
        | options,
    )
    data = dataset(prompt=PROMPTS) if data is None else data
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    return trainer(path, reward, args, data, processing_class=tokenizer, **given or {})


def dpo(path: str, tmp_path: Path, given: dict[str, Any] | None = None, **options: Any) -> Any:
    args = DPOConfig(str(tmp_path), **COMMON | {"per_device_train_batch_size": 2} | options)
    data = dataset(
        prompt=PROMPTS,
        chosen=[" six", " seven one", " two two", " one", " five", " six seven one two"],
        rejected=[" two two two", " one", " four", " one seven", " five six", " one"],
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    return DPOTrainer(path, None, args, train_dataset=data, processing_class=tokenizer, **given or {})


def run(trainer: Any, fused: bool = False) -> list[dict[str, float]]:
    """The two steps' log, without clocks."""
    if fused:
        with ours.use_fused_head(trainer):
            trainer.train()
    else:
        trainer.train()
    return [
        {name: value for name, value in row.items() if "time" not in name}
        for row in trainer.state.log_history[:-1]
    ]


def assert_same(theirs: list[dict[str, float]], own: list[dict[str, float]], atol: float = 1e-5) -> None:
    assert len(theirs) == 2
    assert any(abs(row["loss"]) > 1e-3 for row in theirs)
    for expected, row in zip(theirs, own, strict=True):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-4, abs=atol), name


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """How many tokens each call of our head got, and their dtype."""
    seen: Calls = []
    head = ours.token_logprobs

    def counted(hidden: torch.Tensor, *args: Any, **options: Any) -> Any:
        seen.append((len(hidden), hidden.dtype))
        return head(hidden, *args, **options)

    monkeypatch.setattr(ours, "token_logprobs", counted)
    return seen


# ---- the head ----


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"temperature": 0.7}),
        ("tied", {"gradient_checkpointing": True, "num_iterations": 2, "gradient_accumulation_steps": 2}),
        ("capped", {"top_entropy_quantile": 0.5}),
        long("scaled", {"loss_type": "grpo", "temperature": 1.3}),
        long("biased", {"steps_per_generation": 2, "num_generations": 4}),
        ("llama", {"cast_lm_head_to_fp32": True, "model_init_kwargs": {"dtype": "bfloat16"}}),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(x),
)
def test_grpo_trains_as_with_its_own_head(
    family: str, options: dict[str, Any], build: Callable[..., str], tmp_path: Path, calls: Calls
) -> None:
    """Oracle: TRL's trainer with TRL's head, same seed: losses, entropies, KL and clipping of two steps to 1e-5."""
    theirs = run(grpo(build(family), tmp_path, **options))
    assert not calls
    half = "model_init_kwargs" in options  # weights are rounded after each step
    assert_same(theirs, run(grpo(build(family), tmp_path, **options), fused=True), 1e-3 if half else 1e-5)
    assert len(calls) >= 4  # two models, two steps


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("flat", {"use_weighting": True}),
        long("tied", {"ld_alpha": 0.5, "gradient_checkpointing": True}),
        long("capped", {"loss_type": ["ipo"]}),
        ("scaled", {"precompute_ref_log_probs": True}),
        ("biased", {"label_smoothing": 0.1}),
        ("experts", {"router_aux_loss_coef": 0.1}),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(x),
)
def test_dpo_trains_as_with_its_own_head(
    family: str, options: dict[str, Any], build: Callable[..., str], tmp_path: Path, calls: Calls
) -> None:
    """Oracle: TRL's trainer with TRL's head: losses, margins, mean logits, accuracies of two steps to 1e-5."""
    theirs = run(dpo(build(family), tmp_path, **options))
    assert not calls
    assert_same(theirs, run(dpo(build(family), tmp_path, **options), fused=True))
    assert calls


@pytest.mark.parametrize("name", ["RLOO", "KTO", "SFT"])
def test_other_trainers(name: str, build: Callable[..., str], tmp_path: Path, calls: Calls) -> None:
    """Oracle: the same trainer with TRL's head, losses and metrics of two steps to 1e-5."""
    words = {
        "completion": [" six", " one", " two six", " four", " one", " seven"],
        "label": [True, False] * 3,
    }
    data = dataset(text=PROMPTS) if name == "SFT" else dataset(prompt=PROMPTS, **words)
    sampled = {"num_generations": 2, "max_completion_length": 8, "beta": 0.5, "num_iterations": 2}
    own = sampled if name == "RLOO" else {}

    def trainer() -> Any:
        args = getattr(trl, f"{name}Config")(
            str(tmp_path), **COMMON | {"per_device_train_batch_size": 2, "learning_rate": 1e-2} | own
        )
        given = {"reward_funcs": reward} if name == "RLOO" else {}
        tokenizer = transformers.AutoTokenizer.from_pretrained(build())
        return getattr(trl, f"{name}Trainer")(
            build(), args=args, train_dataset=data, processing_class=tokenizer, **given
        )

    theirs = run(trainer())
    assert not calls
    assert_same(theirs, run(trainer(), fused=True))
    assert calls


@pytest.mark.parametrize("make", [grpo, dpo])
def test_bfloat16_autocast(make: Any, build: Callable[..., str], tmp_path: Path, calls: Calls) -> None:
    """Oracle: TRL's head under the same autocast, the first step; its logits are rounded to bfloat16, ours are not."""
    theirs = run(make(build(), tmp_path, bf16=True))
    own = run(make(build(), tmp_path, bf16=True), fused=True)
    for name in ("loss", "entropy"):
        assert own[0][name] == pytest.approx(theirs[0][name], rel=1e-2), name
    assert {dtype for _, dtype in calls} == {torch.bfloat16}  # of the reference model too


def peak(action: Callable[[], Any]) -> tuple[Any, int]:
    """What an action returns, and the most bytes its tensors took at one time."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        result = action()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return result, most


@pytest.mark.parametrize("make", [grpo, long(dpo)])
def test_it_takes_less_memory(make: Any, build: Callable[..., str], tmp_path: Path) -> None:
    """Oracle: every allocation of two steps with TRL's head and with ours, 32,768 words, and the same losses."""
    path = build("llama", 32768)
    options = {"max_completion_length": 32} if make is grpo else {"per_device_train_batch_size": 6}
    theirs, most_theirs = peak(lambda: run(make(path, tmp_path, **options)))
    own, most = peak(lambda: run(make(path, tmp_path, **options), fused=True))
    assert_same(theirs, own)
    print(f"{make.__name__}: {most / 2**20:.0f} MiB, TRL's head {most_theirs / 2**20:.0f} MiB")
    assert most < 0.4 * most_theirs


def test_one_trainer_only_and_undone(build: Callable[..., str], tmp_path: Path, calls: Calls) -> None:
    """Oracle: the forwards that were there are there again; a second trainer and TRL's module never changed."""
    from trl.trainer import utils

    before = dict(vars(utils))
    trainer, other = grpo(build(), tmp_path), grpo(build(), tmp_path)
    forwards = [trainer.model.forward, trainer.ref_model.forward]
    signature = inspect.signature(trainer.model.forward)
    handle = ours.use_fused_head(trainer)
    assert inspect.signature(trainer.model.forward) == signature
    with pytest.raises(ValueError, match=r"^use_fused_head: trainer has the head already"):
        ours.use_fused_head(trainer)
    other.train()
    assert not calls
    handle.undo()
    assert [trainer.model.forward, trainer.ref_model.forward] == forwards
    trainer.train()
    assert not calls
    assert dict(vars(utils)) == before
    tokens, labels = torch.ones(1, 5, dtype=torch.long), torch.tensor([[1, 1, -100, 1, -100]])
    with ours.use_fused_head(trainer):
        trainer.model(tokens, labels=labels)
        assert not calls  # without the flag it is the model's own forward
        trainer.model(tokens, labels=labels, fused_lm_head=True)
    assert calls == [(2, torch.float32)]  # what has no label is left out


def test_undone_under_mixed_precision(build: Callable[..., str], tmp_path: Path, calls: Calls) -> None:
    """Oracle: a forward that accelerate has wrapped meanwhile calls TRL's head again once ours is taken out."""
    trainer = grpo(build(), tmp_path, bf16=True)
    with ours.use_fused_head(trainer):
        trainer.train()
        count = len(calls)
        assert count
    tokens = torch.ones(1, 3, dtype=torch.long)
    trainer.model(tokens, labels=tokens, fused_lm_head=True)
    assert len(calls) == count


def test_nothing_to_score(build: Callable[..., str], tmp_path: Path) -> None:
    """Oracle: without a label the log-probs are zeros that still have a gradient, as with TRL's head on a GPU."""
    trainer = grpo(build(), tmp_path)
    tokens = torch.ones(2, 3, dtype=torch.long)
    with ours.use_fused_head(trainer):
        out = trainer.model(tokens, labels=torch.full((2, 3), -100), fused_lm_head=True)
    assert out.log_probs.tolist() == [[0, 0], [0, 0]]
    out.log_probs.sum().backward()
    assert not any(p.grad.any() for p in trainer.model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (grpo, "lora"),
        (dpo, "lora-head-as-a-whole"),
        (grpo, "prompt"),
        long(dpo, "lora"),
        long(grpo, "lora-head-as-a-whole"),
        long(dpo, "prompt"),
    ],
)
def test_adapters(make: Any, kind: str, build: Callable[..., str], tmp_path: Path, calls: Calls) -> None:
    """Oracle: TRL with its own head and the same adapters, whose base model is the reference."""
    peft = pytest.importorskip("peft", reason="comes with the extra 'test'")

    def trainer() -> Any:
        torch.manual_seed(0)
        common = {"task_type": "CAUSAL_LM"}
        if kind == "prompt":
            config = peft.PromptTuningConfig(num_virtual_tokens=3, **common)
        else:
            whole = ["lm_head"] if "whole" in kind else None
            config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=whole, **common)
        return make(build(), tmp_path, given={"peft_config": config}, learning_rate=1e-2)

    theirs = run(trainer())
    assert_same(theirs, run(trainer(), fused=True))
    assert calls


def test_an_adapter_on_the_head_is_refused(build: Callable[..., str], tmp_path: Path) -> None:
    """Oracle: a LoRA head, which no trainer of TRL takes either, put in after the trainer was made."""
    peft = pytest.importorskip("peft", reason="comes with the extra 'test'")
    trainer = grpo(build(), tmp_path)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["lm_head"]), trainer.model)
    with pytest.raises(
        ValueError, match=r"^use_fused_head: the head of LlamaForCausalLM must be .*, got Linear"
    ):
        ours.use_fused_head(trainer)


def test_refusals_of_the_head(
    build: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: one line each that names the function and what is wrong, and nothing was changed."""
    with pytest.raises(ValueError, match=r"^use_fused_head: trainer must be a trainer of TRL, got 3$"):
        ours.use_fused_head(3)  # type: ignore[arg-type]
    trainer = dpo(build(), tmp_path)
    before = trainer.model.forward
    trainer.model.lm_head = torch.nn.Sequential(trainer.model.lm_head)
    with pytest.raises(ValueError, match=r"^use_fused_head: the head of LlamaForCausalLM .* got Sequential$"):
        ours.use_fused_head(trainer)
    assert trainer.model.forward is before
    plain = transformers.Trainer(
        trainer.model.model, transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    )
    with pytest.raises(ValueError, match=r"^use_fused_head: trainer is a Trainer whose model has no fused"):
        ours.use_fused_head(plain)
    monkeypatch.setattr(ours, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match=r"^use_fused_head: trainer runs DeepSpeed ZeRO-3"):
        ours.use_fused_head(trainer)


@pytest.mark.parametrize("version", ["1.15.2", "1.17.0", "11.16.0", "0.29.0"])
def test_other_versions_are_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the module loaded anew beside another version: an ImportError that names both."""
    monkeypatch.setattr(trl, "__version__", version)
    spec = importlib.util.spec_from_file_location("another", ours.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=rf"works with TRL 1\.16\.\*, got {version}$"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_nothing_else_imports_trl(tmp_path: Path) -> None:
    """Oracle: sys.modules of a fresh interpreter."""
    code = (
        "import sys, selfplay_fast, selfplay_fast.integrations, selfplay_fast.integrations._trl_advantages as _;"
        "sys.exit('trl' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


# ---- the advantages ----


def z_scores(samples: Samples) -> torch.Tensor:
    """TRL's own advantages."""
    return credit.segment_normalise(samples.rewards, samples.groups, eps=1e-4)


def per_token(samples: Samples) -> torch.Tensor:
    """The same for every token."""
    return z_scores(samples)[:, None].expand(samples.turns.shape)


@pytest.mark.parametrize(
    ("loss", "advantages"),
    [("grpo", z_scores), ("cispo", per_token), long("grpo", per_token), long("dapo", per_token)],
)
def test_constant_advantages_are_grpo(
    loss: str, advantages: Any, build: Callable[..., str], tmp_path: Path
) -> None:
    """Oracle: TRL's trainer, which computes those advantages itself: two steps' logs and its table of advantages."""
    options = {"loss_type": loss, "num_iterations": 2, "gradient_accumulation_steps": 2}
    plain = grpo(build(), tmp_path, **options)
    theirs = run(plain)  # making a trainer sets the seed
    own = grpo(build(), tmp_path, SelfPlayGRPOTrainer, given={"advantages": advantages}, **options)
    assert_same(theirs, run(own), 1e-6)
    assert list(own._logs["advantages"]) == pytest.approx(list(plain._logs["advantages"]), abs=1e-5)
    assert len(own._logs["advantages"]) > 0


# Per completion, by its first token: the tokens, who wrote them, and the rewards of its turns.
DIALOGUES = [
    ([10, 11, 12, 13, 14], [1, 1, 0, 1, 1], [1.0, -1.0]),
    ([20, 21], [1, 1], [0.5]),
    ([30, 31, 32, 33], [1, 0, 0, 1], [0.0, 2.0]),
    ([40, 41, 42], [1, 1, 1], [-3.0]),
]


def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """The same four dialogues whatever the prompts are."""
    chosen = [DIALOGUES[i % 4] for i in range(len(prompts))]
    return {
        "prompt_ids": [[5, 6, 7][: 1 + i % 3] for i in range(len(prompts))],
        "completion_ids": [tokens for tokens, _, _ in chosen],
        "logprobs": [[0.0] * len(tokens) for tokens, _, _ in chosen],
        "env_mask": [mask for _, mask, _ in chosen],
        "turn_rewards": [rewards for _, _, rewards in chosen],
    }


@pytest.fixture
def talk(build: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A trainer that replays those dialogues."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def make(advantages: Any, **options: Any) -> Any:
        data = dataset(prompt=PROMPTS[:2], role=["player_0", "player_1"], game=["kuhn", "nim"])
        given = {"advantages": advantages, "rollout_func": rollout}
        options = {"entropy_coef": 0.0, "beta": 0.0, "temperature": 0.8, "shuffle_dataset": False} | options
        return grpo(build(), tmp_path, SelfPlayGRPOTrainer, data, given, **options)

    return make


@pytest.mark.parametrize(
    ("loss", "fused"), [("grpo", True), ("bnpo", False), long("grpo", False), long("bnpo", True)]
)
def test_advantages_per_token_by_hand(fused: bool, loss: str, talk: Callable[..., Any]) -> None:
    """Oracle: the loss and its gradient written out over plain logits in float64, the environment's tokens left out."""
    numbers = torch.linspace(-1, 2, 20).reshape(4, 5)
    trainer = talk(lambda samples: numbers, loss_type=loss)
    if fused:
        ours.use_fused_head(trainer)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [{"prompt": p, "role": "a", "game": "b"} for p in PROMPTS[:2] for _ in range(2)]
    inputs = trainer._prepare_inputs(rows)
    value = trainer.compute_loss(trainer.model, inputs)
    value.backward()

    model = trainer.model.double()
    got = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    shares = []
    for row in range(4):  # TRL has shuffled them
        first = int(inputs["completion_ids"][row, 0])
        tokens, mask, _ = DIALOGUES[first // 10 - 1]
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row] == 1].tolist()
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1] / 0.8
        logp = logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        ratio = torch.exp(logp - logp.detach())
        shares.append(-(ratio * numbers[first // 10 - 1, : len(tokens)])[torch.tensor(mask) == 1])
    expected = torch.cat(shares).mean() if loss == "bnpo" else torch.stack([s.mean() for s in shares]).mean()
    expected.backward()
    assert abs(expected.item()) > 0.1
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_what_an_estimator_sees(talk: Callable[..., Any]) -> None:
    """Oracle: the dialogues, the columns of the dataset and the rewards of the reward function, by hand."""
    seen: list[Samples] = []

    def estimator(samples: Samples) -> torch.Tensor:
        seen.append(samples)
        return samples.rewards

    trainer = talk(estimator, max_steps=1)
    trainer.train()
    (samples,) = seen
    assert samples.turns.tolist() == [
        [0, 0, -1, 1, 1],
        [0, 0, -1, -1, -1],
        [0, -1, -1, 1, -1],
        [0, 0, 0, -1, -1],
    ]
    assert samples.groups.tolist() == [0, 0, 1, 1]
    assert samples.column("role") == ["player_0"] * 2 + ["player_1"] * 2
    assert samples.column("turn_rewards") == [rewards for _, _, rewards in DIALOGUES]
    texts = trainer.processing_class.batch_decode([d[0] for d in DIALOGUES], skip_special_tokens=True)
    assert samples.rewards.tolist() == pytest.approx(reward(texts))
    assert samples.training
    with pytest.raises(ValueError, match=r"^advantages: there is no column 'rol' \(did you mean 'role'\?\)$"):
        samples.column("rol")


def samples(**changed: Any) -> Samples:
    """Four completions of two roles."""
    values = {
        "rewards": torch.tensor([1.0, -1.0, 0.5, 2.0]),
        "groups": torch.tensor([0, 0, 1, 1]),
        "turns": torch.zeros(4, 3, dtype=torch.long),
        "columns": {"role": ["x", "o", "x", "o"], "game": ["nim", "nim", "pig", "nim"]},
        "training": True,
    }
    return Samples(**values | changed)


def test_role_conditioned_by_hand() -> None:
    """Oracle: the recursion of SPIRAL's Algorithm 1, step by step; a reward that is missing, and evaluation."""
    estimator = RoleConditioned(decay=0.5, game="game")
    got = estimator(samples())
    averages = {("nim", "x"): 0.5, ("nim", "o"): 0.5 * -0.5 + 0.5 * 2, ("pig", "x"): 0.25}
    assert got.tolist() == [1 - 0.5, -1 + 0.5, 0.5 - 0.25, 2 - 0.75]
    assert dict(estimator.baseline.values) == averages

    got = estimator(samples(rewards=torch.tensor([math.nan, 1, 1, 1]), training=False))
    assert got.tolist() == [0, 1 - 0.875, 1 - 0.625, 1 - 0.9375]
    assert dict(estimator.baseline.values) == averages

    other = RoleConditioned(decay=0.5, game="game")
    other.load_state_dict(json.loads(json.dumps(estimator.state_dict())))
    assert other.baseline == estimator.baseline
    pooled = RoleConditioned(decay=0.5, order="batch")(samples())
    assert pooled.tolist() == [1, -1, 0.5, 2]  # the averages of before


# (role, game, the turns' rewards) and the advantages, with one mean per role and per role and game.
MARS = [
    ("0", "ttt", [0.05, 1.05], [3.885714, 3.835714], [6.025, 5.975]),
    ("1", "ttt", [0.05, -0.95], [-0.36, -0.41], [-0.3, -0.35]),
    ("0", "ttt", [0.05, -10.95], [-8.114286, -8.164286], [-5.975, -6.025]),
    ("1", "ttt", [0.05], [0.59], [0.65]),
    ("0", "kuhn", [0.05, -0.95], [1.885714, 1.835714], [-0.966667, -1.016667]),
    ("1", "kuhn", [1.05], [1.59], [1.5]),
    ("0", "kuhn", [2.05], [4.835714], [1.983333]),
    ("1", "kuhn", [-1.95], [-1.41], [-1.5]),
]


@pytest.mark.parametrize("pool", ["role", "pair"])
def test_turn_level_on_mars_toy_batch(pool: str) -> None:
    """Oracle: numbers computed from the paper's formula; tokens between turns and after the last have 0."""
    turns = torch.tensor([[0, 0, -1, 1, -1] if len(row[2]) == 2 else [0, -1, -1, -1, -1] for row in MARS])
    columns = {
        "role": [row[0] for row in MARS],
        "pair": [row[0] + row[1] for row in MARS],
        "turn_rewards": [row[2] for row in MARS],
    }
    batch = samples(rewards=torch.zeros(8), groups=torch.arange(8), turns=turns, columns=columns)
    got = TurnLevel(role=pool)(batch)
    by_turn = [row[3 if pool == "role" else 4] for row in MARS]
    expected = [[a[0], a[0], 0, a[1], 0] if len(a) == 2 else [a[0], 0, 0, 0, 0] for a in by_turn]
    torch.testing.assert_close(got, torch.tensor(expected).double(), atol=1e-5, rtol=0)


def test_turn_level_by_hand() -> None:
    """Oracle: sums and their spread by hand; a completion that is masked, and one without a reward."""
    turns = torch.tensor([[0, -1, 1], [0, 0, 0], [-1, -1, -1], [0, -1, 1]])
    batch = samples(turns=turns, rewards=torch.tensor([1.0, 3.0, 9.0, math.nan]))
    mean, std = (0.5 + 1 + 3) / 3, torch.tensor([0.5, 1, 3]).std(correction=0)
    a = [(x - mean) / float(std) for x in (0.5, 1, 3)]
    got = TurnLevel(rewards=None, role=None, discount=0.5, scale="biased")(batch)
    expected = torch.tensor([[a[0], 0, a[1]], [a[2]] * 3, [0] * 3, [0] * 3]).double()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    empty = samples(turns=torch.full((4, 3), -1))
    assert not TurnLevel(rewards=None)(empty).any()


def test_estimators_in_training(talk: Callable[..., Any]) -> None:
    """Oracle: the advantages that reach TRL's loss are the estimator's of the same dialogues."""
    trainer = talk(TurnLevel(), max_steps=1)
    handed: list[dict[str, torch.Tensor]] = []
    loss = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: handed.append(inputs) or loss(model, inputs)
    trainer.train()
    (inputs,) = handed
    means = [(1 - 1 + 0 - 1 + 0.5) / 3, (2 + 2 - 3) / 3]
    by_first = {
        10: [0 - means[0]] * 2 + [0] + [-1 - means[0]] * 2,
        20: [0.5 - means[0]] * 2 + [0] * 3,
        30: [2 - means[1], 0, 0, 2 - means[1], 0],
        40: [-3 - means[1]] * 3 + [0] * 2,
    }
    for tokens, advantages in zip(inputs["completion_ids"], inputs["advantages"], strict=True):
        assert advantages.tolist() == pytest.approx(by_first[int(tokens[0])], abs=1e-6)


def test_checkpoints_keep_the_averages(talk: Callable[..., Any]) -> None:
    """Oracle: three steps in one go: stopped after two and resumed, averages and loss are the same."""
    options = {"save_strategy": "steps", "save_steps": 1, "loss_type": "dr_grpo"}
    whole = talk(RoleConditioned(), max_steps=3, **options)
    whole.train()
    estimator = RoleConditioned()
    resumed = talk(estimator, max_steps=3, **options)
    checkpoint = Path(resumed.args.output_dir) / "checkpoint-2"
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert estimator.baseline == whole._estimator.baseline
    assert len(estimator.baseline.values) == 2
    assert resumed.state.log_history[-2]["loss"] == pytest.approx(whole.state.log_history[-2]["loss"])
    (checkpoint / "advantages.json").unlink()
    with pytest.raises(ValueError, match=r"^SelfPlayGRPOTrainer: .*checkpoint-2 has no advantages.json$"):
        talk(RoleConditioned(), max_steps=3, **options).train(resume_from_checkpoint=str(checkpoint))


def test_evaluation_leaves_the_averages(talk: Callable[..., Any]) -> None:
    """Oracle: an evaluation between steps reports a loss and moves nothing."""
    trainer = talk(RoleConditioned(), max_steps=1)
    trainer.train()
    before = trainer._estimator.baseline
    data = dataset(prompt=PROMPTS[:2], role=["player_0", "player_1"], game=["kuhn", "nim"])
    assert "eval_loss" in trainer.evaluate(data)
    assert trainer._estimator.baseline is before


def test_a_completion_without_reward_has_none(talk: Callable[..., Any]) -> None:
    """Oracle: TRL's rule: where no reward function gives a number, the advantage is 0, whatever the estimator says."""
    trainer = talk(lambda samples: torch.where(samples.rewards.isnan(), torch.nan, 1.0), max_steps=1)
    trainer.reward_funcs = [lambda completions, **_: [None, 1.0, 1.0, 1.0]]
    trainer.train()
    assert list(trainer._logs["advantages"])[-4:] == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("advantages", "message"),
    [
        (lambda s: s.rewards[:3], r"advantages must be \[4\] or \[4, 5\], got \[3\]"),
        (lambda s: s.turns[:, :2], r"advantages must be \[4\] or \[4, 5\], got \[4, 2\]"),
        (lambda s: s.rewards[:, None], r"advantages must be \[4\] or \[4, 5\], got \[4, 1\]"),
        (lambda s: [0, 1, math.inf, 2], r"advantages must be finite, those of completion 2 are not"),
    ],
)
def test_wrong_advantages(advantages: Any, message: str, talk: Callable[..., Any]) -> None:
    """Oracle: one line that names what must be given."""
    with pytest.raises(ValueError, match=rf"^SelfPlayGRPOTrainer: {message}$"):
        talk(advantages, max_steps=1).train()


def test_wrong_arguments(talk: Callable[..., Any]) -> None:
    """Oracle: one line that names the argument."""
    with pytest.raises(ValueError, match=r"^SelfPlayGRPOTrainer: advantages must be a function, got 'role'$"):
        talk("role")
    with pytest.raises(ValueError, match=r"^SelfPlayGRPOTrainer: multi_objective_aggregation must be"):
        talk(RoleConditioned(), multi_objective_aggregation="normalize_then_sum")
    with pytest.raises(ValueError, match=r"^order: must be 'post', 'pre' or 'batch', got 'last'$"):
        RoleConditioned(order="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^decay: "):
        RoleConditioned(decay=1.5)
    with pytest.raises(ValueError, match=r"^discount: must be in \[0, 1\], got -1$"):
        TurnLevel(discount=-1)
    with pytest.raises(ValueError, match=r"^scale: must be"):
        TurnLevel(scale="group")  # type: ignore[arg-type]
    rewards = {"role": ["a"] * 4, "turn_rewards": [[1.0], [1.0, 2.0], [1.0], [1.0]]}
    with pytest.raises(ValueError, match=r"^turn_rewards: completion 1 has 2 rewards and 1 turns$"):
        TurnLevel()(samples(columns=rewards))
