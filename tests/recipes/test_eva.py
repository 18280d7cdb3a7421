"""eva from the command line on the nano model: its evolve step is the published one, it resumes exactly, learns by
every loss, says what is out of order, and refuses what makes no sense."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from selfplay_fast.cli import main
from selfplay_fast.evaluate.evolution import scored
from selfplay_fast.learn import leave_one_out_advantages, pack_pairs
from selfplay_fast.learn.checkpoint import list_checkpoints, load_policy
from selfplay_fast.learn.preferences import Completions
from selfplay_fast.play import graded_sums, play
from selfplay_fast.play.evolve_prompts import METHODS
from selfplay_fast.play.evolving import (
    CREATOR,
    SCORER,
    SOLVER,
    Answered,
    Prompt,
    Rules,
    answer_table,
    answered_in,
    evolve_table,
    function_reward,
    mixed,
    preference_rows,
)
from selfplay_fast.play.informativeness import choose, informativeness
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.recipes import eva
from selfplay_fast.records import Ask, Reply

RULE = function_reward(graded_sums.reward)
SMALL = (
    "--prompts-per-step 16 --eval-count 8 --responses 4 --evolutions 2 --warmup-steps 15 --warmup-rows 16"
    " --warmup-terms 1 --warmup-learning-rate 6e-3 --prompts-per-update 8 --threads 1 --device cpu"
)
RUN = f"train eva --steps 2 {SMALL} --plain-step --run-dir"


def test_a_run_goes_on_from_a_checkpoint_to_the_same_digits(
    whole: Path, tmp_path: Path, rows: Callable[..., Any]
) -> None:
    """Oracle: the uninterrupted run: metrics, pairs, prompts and weights, byte for byte; weights change every time."""
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "step-000002")
    for folder in ("preferences", "plain", "prompts"):
        (again / folder / "step-000002.jsonl").unlink()
    assert main(["train", "--resume", str(again)]) == 0
    assert rows(again) == rows(whole)
    for folder in ("preferences", "plain", "prompts"):
        texts = [(path / folder / "step-000002.jsonl").read_text() for path in (whole, again)]
        assert texts[0] == texts[1]
        assert texts[0]
    saved = [path / "model" / "model.safetensors" for path in list_checkpoints(whole / "checkpoints")]
    weights = [path.read_bytes() for path in saved]
    assert len(set(weights)) == 3
    assert weights[-1] == (again / saved[-1].relative_to(whole)).read_bytes()


def test_a_run_leaves_pairs_that_trl_takes_and_prompts_for_the_next_iteration(
    whole: Path, rows: Callable[..., Any]
) -> None:
    """Oracle: TRL's columns; the mix is 20 % of 16 and 80 % of the evolved ones, filled up to 16."""
    pairs = [json.loads(line) for line in (whole / "preferences/step-000001.jsonl").read_text().splitlines()]
    assert pairs
    for pair in pairs:
        assert set(pair) == {"prompt", "chosen", "rejected", "score_chosen", "score_rejected"}
        assert pair["score_chosen"] > pair["score_rejected"]
        assert [message["role"] for side in ("prompt", "chosen", "rejected") for message in pair[side]] == [
            "user",
            "assistant",
            "assistant",
        ]
    evolved = rows(whole)[1]["evolved/prompts"]
    assert 0 < evolved <= 4 * 2
    assert len(pairs) <= int(0.2 * 16) + int(0.8 * evolved)
    following = [json.loads(line) for line in (whole / "prompts/step-000001.jsonl").read_text().splitlines()]
    assert len({row["prompt"] for row in following}) == len(following) == rows(whole)[2]["base/prompts"]
    assert all(int(row["topic"]) == len(row["prompt"].split()) for row in following)


def test_a_run_tells_what_came_of_the_prompts(whole: Path, rows: Callable[..., Any]) -> None:
    """Oracle: the names of its metrics, who speaks in its transcripts; a report."""
    last = rows(whole)[-1]
    for key in (
        "held_out/reward",
        "held_out_topic/8",
        "base/reward_gap",
        "evolved/reward",
        "difficulty/drawn",
        "difficulty/evolved",
        "plain_step/pairs",
        "loss",
        "accuracy",
        "margin",
    ):
        assert np.isfinite(last[key]), key
    lines = (whole / "episodes" / "step-000001.jsonl").read_text().splitlines()
    assert {turn["role"] for line in lines for turn in json.loads(line)["turns"]} == {SOLVER, CREATOR, SCORER}
    assert (whole / "report.html").is_file()


def test_trl_reads_the_pairs(whole: Path) -> None:
    """Oracle: TRL's own check of what kind of data set it is."""
    trl = pytest.importorskip("trl.data_utils")
    pair = json.loads((whole / "preferences/step-000001.jsonl").read_text().splitlines()[0])
    assert trl.is_conversational(pair)


@pytest.fixture(scope="module")
def begun(whole: Path) -> tuple[LanguageModel, list[Answered]]:
    """The model of the run's last step, and prompts that it has answered."""
    policy = load_policy(list_checkpoints(whole / "checkpoints")[-1])
    prompts = graded_sums.sums([1] * 12, seed=1)
    answered = eva.answer(eva.Config(), print, {SOLVER: policy, SCORER: RULE}, prompts, seed=0)
    return policy, answered


@pytest.mark.parametrize("loss", get_args(eva.Loss))
def test_every_loss_learns(loss: str, begun: tuple[LanguageModel, list[Answered]], tmp_path: Path) -> None:
    """Oracle: after a few passes over its own responses the policy prefers those that are better."""
    policy, answered = begun
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    rates = {"sppo": 1e-5}
    config = replace(eva.Config(), loss=loss, epochs=4, learning_rate=rates.get(loss, 3e-4)).resolved()
    pairs = pack_pairs(policy, preference_rows(answered, keep_equal=False))
    metrics = eva.learn(config, print, policy, answered, 0)
    after = pairs.compared_with(policy).reference_logprobs
    policy.model.load_state_dict(before)
    first = pairs.compared_with(policy).reference_logprobs
    assert after is not None
    assert first is not None
    assert np.isfinite(metrics["loss"])
    gained = (after - first).mean(axis=1)
    assert gained[0] > gained[1], "the chosen ones, against the rejected ones"


def test_settings_follow_from_the_loss() -> None:
    """Oracle: the table of the specification."""
    found = {loss: replace(eva.Config(), loss=loss).resolved() for loss in get_args(eva.Loss)}
    assert {loss for loss, config in found.items() if config.optimizer == "rmsprop"} == {"sppo"}
    assert {loss for loss, config in found.items() if config.learning_rate_decay == "linear"} == {"sppo"}
    assert {loss for loss, config in found.items() if config.epochs == 1} == {"rpo", "rloo"}
    assert found["rloo"].beta is None
    assert replace(eva.Config(), loss="sppo", beta=0.5, epochs=7).resolved().beta == 0.5
    policy = SimpleNamespace(model=torch.nn.Linear(2, 2))
    kinds = {loss: type(config.fresh_optimizer(policy)) for loss, config in found.items()}  # type: ignore[arg-type]
    assert kinds == {
        loss: torch.optim.RMSprop if loss == "sppo" else torch.optim.AdamW for loss in get_args(eva.Loss)
    }


def test_rates_are_those_of_the_released_trainer() -> None:
    """Oracle: transformers' cosine schedule beyond its warm-up; it never stands still at the end."""
    from transformers import get_cosine_schedule_with_warmup

    config = replace(eva.Config(), rate_warmup=0.1).resolved()
    rates = config.rates(20)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, 20)
    theirs = [schedule.lr_lambdas[0](step) * config.learning_rate for step in range(20)]
    assert rates[2:] == pytest.approx(theirs[2:])
    assert rates[:2] == pytest.approx([config.learning_rate / 2, config.learning_rate])
    assert min(rates) > 0
    linear = replace(config, learning_rate_decay="linear").rates(20)
    assert linear[2] == max(linear) > linear[-1] > 0


def test_losses_have_the_published_settings() -> None:
    """Oracle: the formulas of one pair written out, h = 1.5 (chosen +1, rejected -0.5 beyond the reference)."""
    chosen = Completions(*torch.tensor([[-3.0], [4.0], [-4.0]], dtype=torch.float64))
    rejected = Completions(*torch.tensor([[-8.0], [2.0], [-7.5]], dtype=torch.float64))
    expected = {
        "dpo": np.log1p(np.exp(-0.05 * 1.5)),
        "ipo": (1.5 - 1 / (2 * 0.05)) ** 2,
        "rpo": np.log1p(np.exp(-0.1 * 1.5)) + 3.0 / 4,
        "hinge": 1 - 0.05 * 1.5,
        "sppo": ((1 - 500) ** 2 + (-0.5 + 500) ** 2) / 2,
    }
    for name, value in expected.items():
        config = replace(eva.Config(), loss=name).resolved()
        assert config.pair_loss()(chosen, rejected).item() == pytest.approx(value), name


@pytest.mark.long
def test_what_is_drawn_by_regret_is_harder_and_teaches(tmp_path: Path, rows: Callable[..., Any]) -> None:
    """Oracle: the model of step 0 on held-out sums, 240 of them, and prompts drawn evenly."""
    found = {}
    for metric in ("reward_gap", "uniform"):
        run = tmp_path / metric
        arguments = (
            f"train eva --steps 3 --metric {metric} --keep-equal --keep-copies --threads 1 --device cpu"
        )
        assert main([*arguments.split(), "--run-dir", str(run)]) == 0
        found[metric] = rows(run)
    first, last = found["reward_gap"][0], found["reward_gap"][-1]
    assert last["held_out/reward"] > first["held_out/reward"] + 0.03
    begun = {metric: run[1] for metric, run in found.items()}
    assert begun["uniform"]["difficulty/base"] == begun["reward_gap"]["difficulty/base"] == 2.5
    assert begun["reward_gap"]["difficulty/drawn"] > 3
    assert begun["uniform"]["difficulty/drawn"] < 3


# -- the evolve step ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    """The sequential port."""
    path = Path(__file__).parents[1] / "oracles" / "eva.py"
    spec = importlib.util.spec_from_file_location("eva_port", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def respond(prompt: str, sample: int) -> str:
    return f"response {drawn(prompt, sample) % 9}"  # some are equal


def score(prompt: str, response: str) -> float | None:
    n = drawn("score", prompt, response)
    return None if n % 11 == 0 or drawn(prompt) % 13 == 0 else n % 7 / 2  # some rewards are equal or missing


def rewrite(prompt: str, words: str) -> str:
    n = drawn("rewrite", prompt, words)
    return [f" {prompt[:40]} {n % 50} ", " ", prompt][0 if n % 6 else 1 + n % 2]


METRICS = ["reward_gap", "reward_maxmean", "reward_dts", "reward_var", "reward_mean"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_evolve_step_is_the_published_one(oracle: ModuleType, metric: str, seed: int) -> None:
    """Oracle: the sequential port: prompts, responses, rewards, weights' draws, chains, pairs, RLOO's advantages, and
    the passes of generation that it takes."""
    prompts = [f"prompt {i}" for i in range(60)]
    rules, cast = Rules(), None
    rounds = {SOLVER: 0, CREATOR: 0}

    def say(ask: Ask, sample: int) -> str:
        if ask.role == SOLVER:
            return respond(ask.prompt_text, sample)
        method = next(words for words in METHODS.values() if words in ask.prompt_text)
        return rewrite(ask.prompt_text.split("Given prompt:\n")[1].removesuffix("\n\nNew prompt:"), method)

    class Counting(ScriptedPolicy):
        def generate(self, asks: Sequence[Ask]) -> list[Reply]:
            rounds[asks[0].role] += 1
            return super().generate(asks)

    cast = {SOLVER: Counting(say), CREATOR: Counting(say), SCORER: function_reward(score)}
    base = [
        one
        for one in answered_in(
            play(cast, [answer_table(rules, [Prompt(text=p) for p in prompts], seed=seed)])
        )
        if one.turns
    ]
    places = choose(informativeness([one.rewards for one in base], metric), len(base) // 4, seed=seed)
    chosen = [base[place].prompt for place in places]
    every = answered_in(play(cast, [evolve_table(rules, chosen, seed=seed)]))
    evolved = [one for one in every if one.turns]
    mix = mixed(base, evolved, base_share=0.2, evolved_share=0.8, seed=seed)

    port = oracle.EvolveStep(respond, score, rewrite)
    uniform = (1 - np.random.default_rng(seed).random(len(base))).tolist()
    names, rng = list(METHODS), np.random.default_rng(seed)
    port.run(
        prompts,
        metric,
        uniform,
        lambda i, k: METHODS[names[derive_seed(derive_seed(seed, i), k) % len(names)]],
        lambda n: rng.permutation(n).tolist(),
    )
    assert places == port.drawn
    assert len(places) == len(base) // 4
    assert [one.prompt.text for one in every] == port.new_prompts
    assert 2 * len(places) < len(every) < 4 * len(places), "some mutations fail"
    for ours, theirs in ((base, port.base), (evolved, port.evolved), (mix, port.mix)):
        assert [one.prompt.text for one in ours] == [example.prompt for example in theirs]
        assert [one.rewards for one in ours] == [example.rewards for example in theirs]
        assert [[t.reply.text for t in one.turns] for one in ours] == [e.responses for e in theirs]
    pairs = [
        (row["prompt"][0]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in preference_rows(mix, keep_equal=True)
    ]
    assert pairs == port.pairs
    advantages = leave_one_out_advantages([one.rewards for one in mix])
    for own, example in zip(advantages, port.mix, strict=True):
        assert own == pytest.approx(oracle.leave_one_out(example.rewards))
    assert port.generation_passes == 6 + 4 + 6
    assert rounds == {SOLVER: 1 + 1, CREATOR: 4}


# -- what is out of order ----------------------------------------------------------------------------------------------


def answered(rewards: dict[str, list[float | None]]) -> list[Any]:
    """Prompts whose responses are worth this much."""

    def worth(prompt: str, response: str) -> float | None:
        return rewards[prompt][int(response)]

    rules = Rules(responses=len(next(iter(rewards.values()))))
    cast = {SOLVER: ScriptedPolicy(lambda ask, k: str(k)), SCORER: function_reward(worth)}
    return answered_in(play(cast, [answer_table(rules, [Prompt(text=p) for p in rewards], seed=0)]))


def test_all_rewards_equal_are_drawn_evenly_and_told() -> None:
    notes: list[str] = []
    groups = answered({f"p{i}": [1.0, 1.0] for i in range(8)})
    found = [
        eva.draw(eva.Config(), notes.append, groups, seed)[0].text  # type: ignore[arg-type]
        for seed in range(400)
    ]
    assert set(notes) == {"reward_gap is 0 for all prompts, so they are drawn evenly"}
    assert min(found.count(f"p{i}") for i in range(8)) > 25, "50 expected of each"
    assert eva.prefer(eva.Config().resolved(), notes.append, Packs(), []) == {}  # type: ignore[arg-type]
    assert eva.reinforce(eva.Config().resolved(), notes.append, Packs(), groups) == {}  # type: ignore[arg-type]
    assert notes[-1] == "no prompt has a better and a worse response, so nothing is learned"


class Packs:
    """A policy of which nothing is asked but its context."""

    context_limit = 8


def test_too_few_with_weight_are_told() -> None:
    notes: list[str] = []
    groups = answered({f"p{i}": [0.0, float(i == 3)] for i in range(8)})
    assert [p.text for p in eva.draw(eva.Config(), notes.append, groups, 0)] == ["p3"]  # type: ignore[arg-type]
    assert notes == ["only 1 of 2 prompts have any weight; fewer are evolved"]


def test_missing_rewards_are_told_and_none_at_all_is_an_error() -> None:
    """Oracle: what is left; evolved prompts that nobody can score, as those that are no sums, end no run."""
    notes: list[str] = []
    groups = answered({"a": [None, 1.0], "b": [None, None]})
    assert [one.prompt.text for one in scored(notes.append, groups)] == ["a"]
    assert notes == ["3 of 4 responses got no reward and are left out"]
    cast: dict[str, Any] = {
        SOLVER: ScriptedPolicy(lambda ask, k: "1"),
        SCORER: RULE,
        CREATOR: ScriptedPolicy(lambda ask, k: "no sum"),
    }
    evolved, _ = eva.evolve(eva.Config(), notes.append, cast, [Prompt(text="1+1")], [], seed=0)
    assert evolved == []
    assert notes[-1] == "6 of 6 responses got no reward and are left out"
    with pytest.raises(ValueError, match="reward_model: no response got a reward; does rule answer"):
        eva.answer(eva.Config(), print, cast, [Prompt(text="no sum")], 0)
    cast[SOLVER] = Full()
    with pytest.raises(ValueError, match="prompts: none leaves room for a response"):
        eva.answer(eva.Config(), notes.append, cast, [Prompt(text="1+1")], 0)
    assert notes[-1] == "6 of 6 responses did not come or had no room"


class Full:
    """A policy whose context is always full."""

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """As a policy."""
        full = Reply(text="", finish_reason="forfeit", no_room=True)
        return [full for ask in asks for _ in range(ask.n)]


def test_an_empty_evolution_and_copies_are_told() -> None:
    """Oracle: a mute creator, and one that says the same to everybody."""
    base = [Prompt(text="1+1"), Prompt(text="1+2")]
    solver = ScriptedPolicy(lambda ask, k: str(k))
    cast: dict[str, Any] = {SOLVER: solver, SCORER: function_reward(lambda p, r: float(r))}
    for said, notes, found in (
        (
            "",
            ["8 of 8 mutations say nothing new and are left out", "no prompt was evolved; only prompts"],
            [],
        ),
        ("2+2", ["6 of 8 mutations say nothing new", "1 of 2 evolved prompts are copies"], ["2+2"]),
        ("1+1", ["7 of 8 mutations say nothing new", "1 of 1 evolved prompts are copies"], []),
    ):
        told: list[str] = []
        cast[CREATOR] = ScriptedPolicy(lambda ask, k, said=said: said)
        evolved, _ = eva.evolve(eva.Config(), told.append, cast, base, base, seed=0)  # type: ignore[arg-type]
        assert [one.prompt.text for one in evolved] == found
        assert len(told) == len(notes)
        assert all(note in line for note, line in zip(notes, told, strict=True))
    paper = replace(eva.Config(), keep_copies=True)
    cast[CREATOR] = ScriptedPolicy(lambda ask, k: "2+2")
    evolved, _ = eva.evolve(paper, print, cast, base, base, seed=0)  # type: ignore[arg-type]
    assert [one.prompt.text for one in evolved] == ["2+2", "2+2"]


@pytest.fixture
def files(base: Path, tmp_path: Path) -> str:
    """Arguments that name a model and files in place of nano's sums."""
    for name in ("prompts", "held_out"):
        lines = [json.dumps({"prompt": f"take {i} turns", "topic": "ab"[i % 2]}) for i in range(16)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return (
        f"--model {base} --prompts {tmp_path}/prompts.jsonl --eval-prompts {tmp_path}/held_out.jsonl"
        " --max-tokens 4 --creator-tokens 8 --prompts-per-step 8 --eval-count 2 --prompts-per-update 4 --evolutions 2"
        " --device cpu --creator policy"
    )


def test_any_model_learns_from_files_and_a_reward_model(
    files: str, toy_policy: LanguageModel, tmp_path: Path, rows: Callable[..., Any]
) -> None:
    """Oracle: the policy evolves its own prompts, a classifier of one label scores; the next split is the next."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(
        vocab_size=len(toy_policy.tokenizer),
        pad_token_id=toy_policy.tokenizer.pad_token_id,
        num_labels=1,
        max_position_embeddings=512,
        initializer_range=1.0,
        **sizes,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "rewards")
    toy_policy.tokenizer.save_pretrained(tmp_path / "rewards")
    run = tmp_path / "run"
    arguments = (
        f"train eva {files} --reward-model classifier:{tmp_path}/rewards --steps 2 --next-prompts split"
    )
    assert main([*arguments.split(), "--run-dir", str(run)]) == 0
    last = rows(run)[-1]
    assert last["pairs"] > 0
    assert {"held_out_topic/a", "held_out_topic/b"} <= set(last)
    asked = [
        {
            turn["prompt"]
            for line in (run / f"episodes/step-{step:06d}.jsonl").read_text().splitlines()
            for turn in json.loads(line)["turns"]
            if turn["role"] == CREATOR
        }
        for step in (1, 2)
    ]
    assert asked[0].isdisjoint(asked[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--metric reward_loo",
            "metric: reward_loo, the mean of each reward less the mean of the others, is 0",
        ),
        ("--metric regret", "metric: must be one of reward_gap"),
        ("--fraction 1.5", "fraction: must be between 0 and 1, got 1.5"),
        ("--responses 0", "responses: must be at least 1, got 0"),
        ("--prompts x.jsonl", "a rule scores sums and nothing else"),
        ("--evolve-methods wild", "evolve_methods: 'wild' is none of constraints"),
        ("--warmup-terms 8", "warmup_terms: must be below 8, got 8"),
        (
            "--creator nobody",
            "creator: must be server:URL#MODEL, classifier:FOLDER or model:FOLDER, got 'nobody'",
        ),
        ("--lora-rank 4", "lora_rank: nano is small"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: str, message: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["train", "eva", *arguments.split(), "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error.replace("--", "").replace("-", "_")
    assert not (tmp_path / "run").exists()


def test_too_few_prompts_and_a_reward_model_of_no_kind_are_refused(
    files: str, tmp_path: Path, capsys: Any
) -> None:
    for more, message in (
        ("--reward-model classifier:none", "reward_model: 'none' cannot be loaded"),
        ("--reward-model server:http://127.0.0.1:9/v1#x", "127.0.0.1:9"),
        (
            "--reward-model someone",
            "reward_model: must be server:URL#MODEL or classifier:FOLDER, got 'someone'",
        ),
    ):
        run = str(tmp_path / "run")
        assert main(["train", "eva", *files.split(), *more.split(), "--run-dir", run]) == 2
        assert message in capsys.readouterr().err
    config = replace(eva.Config(), prompts_per_step=4, next_prompts="split")
    assert len(eva.setting_of(config).prompts) == 4 * config.steps


def test_help_has_every_setting_with_its_meaning(capsys: Any) -> None:
    """Oracle: the fields of the configuration."""
    assert main(["train", "eva", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(eva.Config):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "best - worst reward" in text


def test_the_paper_preset_is_the_published_table() -> None:
    """Oracle: the released code's settings."""
    config = eva.PRESETS["paper"].resolved()
    assert (config.responses, config.fraction, config.evolutions) == (6, 0.25, 4)
    assert (config.temperature, config.top_p, config.creator_temperature, config.creator_tokens) == (
        0.7,
        0.9,
        0.88,
        666,
    )
    assert (config.base_share, config.evolved_share, config.metric) == (0.2, 0.8, "reward_gap")
    assert (config.loss, config.beta, config.learning_rate, config.epochs) == ("dpo", 0.05, 5e-7, 2)
    assert (config.prompts_per_update, config.pair_cutoff, config.rate_warmup) == (64, 2048, 0.1)
    assert (config.optimizer, config.learning_rate_decay) == ("adamw", "cosine")
