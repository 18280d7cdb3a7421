"""RLSP on the nano model. Oracles: tests/oracles/rlsp.py, a sequential program written from the paper's description;
the uninterrupted run; scripted solvers and judges."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from selfplay_fast.cli import main
from selfplay_fast.evaluate.answers import AnswerVerifier, answered
from selfplay_fast.learn import batch_logprobs, batch_values, ppo_clip_loss
from selfplay_fast.learn.checkpoint import list_checkpoints
from selfplay_fast.learn.update import Update
from selfplay_fast.learn.update import update as run_update
from selfplay_fast.play import play_dialogues
from selfplay_fast.play.effort import EffortJudge
from selfplay_fast.play.word_problems import Problem, chains
from selfplay_fast.policies import ScriptedPolicy
from selfplay_fast.policies.critic import Critic
from selfplay_fast.policies.demonstrating import Demonstrator
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.recipes import rlsp as recipe
from selfplay_fast.records import Ask, Reply

# Warm-up of the actor ends within the run, and everything that a step depends on changes from step to step.
RUN = (
    "train rlsp --steps 3 --freezing-actor-steps 1 --problems-per-step 8 --sequences-per-update 4 --chain-steps 2"
    " --demonstration-steps 12 --demonstrations-per-step 8 --max-tokens 16 --length-bonus 2 --judge strategies"
    " --eval-every 3 --eval-episodes 4 --eval-episodes-between 4 --checkpoint-every 1 --device cpu --run-dir"
)


@pytest.mark.parametrize("step", [0, 2])
def test_a_run_goes_on_from_a_checkpoint_to_the_same_digits(
    whole: Path, tmp_path: Path, step: int, rows: Callable[..., Any]
) -> None:
    """Oracle: the uninterrupted run. Every metric but timings is equal digit for digit, the last checkpoint byte for
    byte, the critic's too; from step 0 on a critic is made anew."""
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    for saved in list_checkpoints(again / "checkpoints"):
        if saved.name != f"step-{step:06d}":
            shutil.rmtree(saved)
    if step:  # the reference is the model of step 0
        shutil.copytree(
            whole / "checkpoints" / "step-000000", again / "checkpoints" / "step-000000", dirs_exist_ok=True
        )
    assert main(["train", "--resume", str(again)]) == 0
    assert rows(again) == rows(whole)
    assert len({row["critic_loss"] for row in rows(whole)[1:]}) == 3
    names = ("model/model.safetensors", "optimizer.safetensors", "state.json", "critic/optimizer.safetensors")
    for name in (*names, "critic/model/model.safetensors"):
        ours, theirs = (list_checkpoints(path / "checkpoints")[-1] / name for path in (whole, again))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert (whole / "report.html").is_file()


def test_the_actor_waits_for_the_critic(whole: Path, rows: Callable[..., Any]) -> None:
    """Oracle: in the first iteration only the critic learns, so the policy is that of step 0; afterwards both do."""
    first, second = rows(whole)[1:3]
    assert "critic_grad_norm" in first
    assert "grad_norm" not in first
    assert first["reference_kl"] == 0
    assert "grad_norm" in second
    assert rows(whole)[3]["reference_kl"] != 0


# -- rewards -----------------------------------------------------------------------------------------------------


def settings(**changes: object) -> recipe.Config:
    return replace(recipe.Config(length_bonus=0.0), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "reply", "effort", "paid"),
    [
        ({}, "no box", None, -0.5),
        ({}, "so \\boxed{2}", None, 1.0),
        ({}, "\\boxed{2}", None, 1.0),
        ({}, "so \\boxed{3}", None, 0.0),
        ({}, "so \\boxed{2} or \\boxed{3}", None, 1.0),
        ({}, "so \\boxed{\\frac{4}{2}}", None, 0.0),  # by texts and plain numbers
        ({"length_bonus": 1000.0}, "x" * 2000 + "\\boxed{2}", None, -1.0),
        ({"length_bonus": 1000.0}, "x" * 4000 + "\\boxed{2}", None, 0.0),
        ({"length_bonus": 1000.0}, "x" * 16000 + "\\boxed{3}", None, -0.25),
        ({"length_bonus": 1000.0}, "x" * 8000, None, -1.0),
        ({"length_bonus": 1000.0}, "\\boxed{2}", None, 0.0),
        ({"length_bonus": 1000.0}, "\\boxed{3}", None, 0.0),
        ({"length_bonus": 1000.0, "judge": "x"}, "x" * 2000 + "\\boxed{2}", 0.5, -0.7),
        ({"length_bonus": 1000.0, "judge": "x"}, "x" * 2000 + "\\boxed{2}", None, -0.7),
        ({"length_bonus": 1000.0, "judge": "x"}, "\\boxed{2}", 1.0, 0.0),
        ({"judge": "x"}, "so \\boxed{2}", 1.0, 1.0),
        ({"judge": "x"}, "no box", 1.0, -0.2),
        ({"judge": "x", "correctness_weight": 0.5}, "so \\boxed{3}", 1.0, 0.5),
    ],
)
def test_rewards(rlsp: ModuleType, change: dict, reply: str, effort: float | None, paid: float) -> None:
    """Oracle: the published vectors and sums by hand; and the sequential program says the same."""
    config = settings(**change)
    equal = AnswerVerifier("exact").equal
    found = rlsp.boxed(reply)
    right, reasoning = (None, reply) if found is None else (equal("2", found[0]), found[1])
    assert recipe.reward(config, right, reasoning, effort) == pytest.approx(paid)

    def judge(text: str) -> float:
        if effort is None:
            raise TimeoutError
        return effort

    served = rlsp.served(
        reply,
        "2",
        equal,
        c=config.length_bonus,
        judge=judge if config.judge else None,
        alpha=config.correctness_weight,
    )
    assert served == pytest.approx(paid)


# -- parity ------------------------------------------------------------------------------------------------------


def script(problem: Problem, number: int) -> str:
    """All kinds of replies: worked and right, half worked and wrong, without a box, without reasoning, nested."""
    kinds = (
        problem.worked(),
        " ".join(problem.steps[:1]) + " \\boxed{7}",
        " ".join(problem.steps),
        f"\\boxed{{{problem.answer}}}",
        "0a+1=1 \\boxed{\\frac{1}{2}} \\boxed{1}",
        "0 " * 40,
    )
    return kinds[number % len(kinds)]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"length_bonus": 30.0},
        {"length_bonus": 500.0, "judge": "x", "correctness_weight": 0.5},
        {"judge": "x", "discount": 0.9, "gae_lambda": 0.5, "kl": 0.3},
    ],
)
def test_the_same_as_one_after_another(toy_policy, tmp_path: Path, rlsp: ModuleType, change: dict) -> None:  # type: ignore[no-untyped-def]
    """Oracle: a sequential program with the same scripted solver and judge: rewards, token rewards, advantages and
    returns of every token are equal."""
    config = settings(**change)
    problems = chains([2, 3] * 6, 3, seed=4)
    replies = {problem.question: script(problem, i) for i, problem in enumerate(problems)}
    solver = Demonstrator(ScriptedPolicy(lambda ask, sample: replies[ask.append[0]["content"]]), toy_policy)
    marks = {text: (len(text) % 7) / 5 for text in replies.values()}  # some beyond 1, which are no grades

    def effort(question: str, reasoning: str) -> float:
        return marks[replies[question]]

    equal = AnswerVerifier("exact").equal
    judge = EffortJudge(function=effort) if config.judge else None
    episodes = play_dialogues(
        {"solver": solver}, partial(recipe.solve, config, equal, judge), problems, seed=0
    )
    toy_policy.save(tmp_path / "policy")
    reference, critic = (
        LanguageModel.load(tmp_path / "policy"),
        Critic.load(tmp_path / "policy", "dense", seed=0),
    )
    with torch.no_grad():
        reference.model.base_model.norm.weight.mul_(1.5)
        critic.model.score.weight.mul_(50)
    batch = recipe.packed(config, episodes)
    update = Update(loss=ppo_clip_loss())
    own, other = (batch_logprobs(policy, batch, update) for policy in (toy_policy, reference))
    values = batch_values(critic, batch)
    learned, returns = recipe.experience(config, batch, own, other, values)

    wanted_rewards, wanted_advantages, wanted_returns = [], [], []
    for i, problem in enumerate(problems):
        reply = replies[problem.question]
        paid = rlsp.served(
            reply,
            problem.answer,
            equal,
            c=config.length_bonus,
            judge=(lambda text, reply=reply: marks[reply]) if config.judge else None,
            alpha=config.correctness_weight,
        )
        tokens = slice(batch.offsets[i], batch.offsets[i + 1])
        shaped = rlsp.token_rewards(own[tokens].tolist(), other[tokens].tolist(), paid, config.kl)
        advantages, sums = rlsp.generalised(
            shaped, values[tokens].tolist(), config.discount, config.gae_lambda
        )
        wanted_rewards.append(paid)
        wanted_advantages.append(advantages)
        wanted_returns += sums
    assert [episode.returns["solver"] for episode in episodes] == pytest.approx(wanted_rewards)
    assert len(set(wanted_rewards)) >= 3
    assert returns.tolist() == pytest.approx(wanted_returns, abs=1e-5)
    whitened = [x for sample in rlsp.whitened(wanted_advantages) for x in sample]
    assert learned.advantages.tolist() == pytest.approx(whitened, abs=1e-4)
    assert np.array_equal(learned.sampler_logprobs, own.numpy())
    if config.length_bonus == 500.0:
        assert min(wanted_rewards) < -10  # so that the limit counts


# -- learning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bonus", [20.0, 0.0])
def test_a_bonus_makes_long_replies_likelier(toy_policy, bonus: float) -> None:  # type: ignore[no-untyped-def]
    """Oracle: the reward. Of a long and a short reply, both right, the long one gains on the short one where length is
    paid, by more than a nat in five updates; where it is not, they are equal, and nothing is learned."""
    config = settings(length_bonus=bonus, kl=0.0, gae_lambda=1.0)
    replies = ["a b c d e f \\boxed{2}", "a b \\boxed{2}"] * 4
    batch = recipe.packed(config, episodes_of(config, toy_policy, None, *replies))
    update_settings = Update(loss=ppo_clip_loss(config.clip), old="sampler", token_mean=True)
    optimizer = torch.optim.AdamW(toy_policy.model.parameters(), lr=3e-4)

    def gap() -> float:
        logprobs = batch_logprobs(toy_policy, batch, update_settings)
        sums = [part.sum().item() for part in logprobs.split(np.diff(batch.offsets).tolist())]
        return sum(sums[::2]) / 4 - sum(sums[1::2]) / 4

    before = gap()
    for _ in range(5):
        own = batch_logprobs(toy_policy, batch, update_settings)
        learned, _ = recipe.experience(config, batch, own, None, torch.zeros(len(own)))
        run_update(toy_policy, optimizer, learned, update_settings)
    if bonus:
        assert gap() > before + 1
    else:
        assert gap() == pytest.approx(before, abs=1e-4)


@pytest.mark.long
def test_replies_become_longer_and_right(tmp_path: Path, rows: Callable[..., Any]) -> None:
    """Oracle: the model after its demonstrations: twice as long at the end, and right more often by four standard
    errors."""
    settings = ["--seed", "1", "--device", "cpu", "--run-dir", str(tmp_path / "run")]
    assert main(["train", "rlsp", *settings]) == 0
    first, last = rows(tmp_path / "run")[0], rows(tmp_path / "run")[-1]
    assert last["held_out/reasoning_characters"] > 2 * first["held_out/reasoning_characters"]
    error = (first["held_out/accuracy_error"] ** 2 + last["held_out/accuracy_error"] ** 2) ** 0.5
    assert last["held_out/accuracy"] > first["held_out/accuracy"] + 4 * error


# -- edges -------------------------------------------------------------------------------------------------------


def episodes_of(
    config: recipe.Config, policy: LanguageModel, judge: EffortJudge | None, *replies: str
) -> list:
    problems = [Problem(question=f"{i}", answer="2") for i in range(len(replies))]
    solver = Demonstrator(ScriptedPolicy(lambda ask, sample: replies[int(ask.append[0]["content"])]), policy)
    cast = {"solver": solver, **({} if judge is None else judge.cast)}
    return play_dialogues(
        cast, partial(recipe.solve, config, AnswerVerifier("exact").equal, judge), problems, seed=0
    )


class Silent:
    """A judge on a server that has gone: what it is asked times out."""

    def generate(self, asks: list[Ask]) -> list[Reply]:
        return [Reply(text="", finish_reason="forfeit") for _ in asks]

    def score(self, asks: list[Ask]) -> list:  # type: ignore[type-arg]
        raise NotImplementedError


def test_a_judge_that_times_out_counts_as_half(toy_policy) -> None:  # type: ignore[no-untyped-def]
    """Oracle: 0.8 and 0.2 times a half; one line tells of it, and the episodes are learned from."""
    judge = EffortJudge(cast={"judge": Silent()})
    episodes = episodes_of(settings(judge="server:x"), toy_policy, judge, "so \\boxed{2}", "so \\boxed{3}")
    notes: list[str] = []
    assert answered(notes.append, episodes) == episodes
    assert [episode.returns["solver"] for episode in episodes] == pytest.approx([0.9, 0.1])
    assert notes == ["2 replies have no grade of their effort, which counts as 0.5"]
    assert recipe.packed(settings(), episodes).num_samples == 2


def test_equal_rewards_have_no_advantages(toy_policy) -> None:  # type: ignore[no-untyped-def]
    """Oracle: zeros where nothing tells tokens apart, no NaN; one line tells of it."""
    config = settings(kl=0.0)
    episodes = episodes_of(config, toy_policy, None, *["so \\boxed{2}"] * 3)
    notes: list[str] = []
    batch = recipe.packed(config, answered(notes.append, episodes))
    zeros = torch.zeros(int(batch.offsets[-1]))
    learned, returns = recipe.experience(replace(config, gae_lambda=1.0), batch, zeros, None, zeros)
    assert not learned.advantages.any()
    assert returns.tolist() == [1.0] * len(returns)
    assert notes == ["all rewards are equal; only penalty and critic tell replies apart"]


def test_a_problem_without_room_is_left_out(toy_policy) -> None:  # type: ignore[no-untyped-def]
    """Oracle: the others are learned from, one line tells of it; where there are no others, one line stops the run."""
    toy_policy.context_limit = 60
    problems = [Problem(question="1 " * 400, answer="2"), Problem(question="1", answer="2")]
    protocol = partial(recipe.solve, settings(max_tokens=4), AnswerVerifier("exact").equal, None)
    episodes = play_dialogues({"solver": toy_policy}, protocol, problems, seed=0)
    assert episodes[0].kept == {"failure": "no room for a reply"}
    notes: list[str] = []
    assert answered(notes.append, episodes) == episodes[1:]
    assert notes[0] == "1 problems leave no room for a reply and are left out"
    with pytest.raises(ValueError, match=r"^problems: none leaves room"):
        answered(notes.append, episodes[:1])


def test_files_of_problems_and_demonstrations(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rows: Callable[..., Any],
) -> None:
    """Oracle: a run on files without a problem that is too long, and one line where a file is not there or not right,
    before a model is made."""
    monkeypatch.chdir(tmp_path)
    made = chains([2] * 12, 3, seed=1)
    problems = [{"problem": p.question, "answer": p.answer} for p in made]
    problems.append({"problem": "modulo 3: 1 " * 20, "answer": "1"})
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    chats = [
        [{"role": "user", "content": p.question}, {"role": "assistant", "content": p.worked()}] for p in made
    ]
    Path("chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    arguments = RUN.replace("--judge strategies", "--max-prompt-tokens 40").split()
    files = ["--problems", "problems.jsonl", "--eval-problems", "problems.jsonl"]
    files += ["--demonstrations", "chats.jsonl"]
    assert main([*arguments, "run", *files, "--steps", "1"]) == 0
    assert "1 of 13 are over 40 tokens" in capsys.readouterr().err
    assert rows(Path("run"))[-1]["step"] == 1
    Path("odd.jsonl").write_text('{"messages": [{"role": "user", "content": "?"}]}')
    for setting, name, problem in (
        ("problems", "nowhere.jsonl", "there is no file"),
        ("eval-problems", "nowhere.jsonl", "there is no file"),
        ("demonstrations", "nowhere.jsonl", "there is no file"),
        ("demonstrations", "odd.jsonl", "line 1 of odd.jsonl: its messages do not end"),
        ("critic", "./nowhere", "there is no folder"),
    ):
        assert main([*arguments, "other", *files, f"--{setting}", name]) == 2
        said = capsys.readouterr().err
        assert f"error: {setting.replace('-', '_')}: {problem}" in said
        assert "building nano" not in said
        assert not Path("other").exists()


# -- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"problems_per_step": 0}, "problems_per_step: must be at least 1"),
        ({"sequences_per_update": 0}, "sequences_per_update: must be"),
        ({"freezing_actor_steps": -1}, "freezing_actor_steps: must be at least 0"),
        ({"temperature": 0.0}, "temperature: must be above 0"),
        ({"value_clip": 0.0}, "value_clip: must be above 0"),
        ({"length_bonus": -1.0}, "length_bonus: must be a number"),
        ({"kl": float("nan")}, "kl: must be a number"),
        ({"gae_lambda": 1.5}, "gae_lambda: must be between 0 and 1"),
        ({"correctness_weight": -0.1}, "correctness_weight: must be between"),
        ({"top_p": 0.0}, "top_p: must be above 0"),
        ({"prompt": "solve"}, "prompt: must hold"),
        ({"chain_modulus": 4}, "chain_modulus: must be"),
        ({"chain_signs": "/"}, "chain_signs: must be"),
        ({"chain_steps": ()}, "chain_steps: name at least"),
        ({"chain_steps": (0,)}, "chain_steps: must be"),
        ({"problems": "file"}, "demonstrations: .* name a file"),
        ({"lora_rank": 8}, "lora_rank: nano"),
    ],
)
def test_settings_that_make_no_sense(change: dict, problem: str) -> None:
    """Oracle: one line that names the setting."""
    with pytest.raises(ValueError, match=problem):
        replace(recipe.Config(), **change)


def test_an_unknown_judge_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: one line that names the setting, before anything is computed, and no run folder."""
    assert main(["train", "rlsp", "--judge", "nobody:here", "--run-dir", str(tmp_path / "run")]) == 2
    assert "judge: 'nobody:here'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_paper_s_preset_is_the_published_configuration() -> None:
    """Oracle: the published hyper-parameters, by name."""
    paper = recipe.PRESETS["paper"]
    published: dict[str, object] = {
        "learning_rate": 2e-7,
        "critic_learning_rate": 2e-6,
        "learning_rate_warmup": 0.03,
        "kl": 0.05,
        "discount": 1.0,
        "gae_lambda": 0.95,
        "clip": 0.2,
        "value_clip": 0.2,
        "problems_per_step": 512,
        "sequences_per_update": 128,
        "epochs": 1,
        "freezing_actor_steps": 4,
        "max_prompt_tokens": 2048,
        "max_tokens": 4096,
        "temperature": 0.7,
        "logprob_temperature": 1.0,
        "max_grad_norm": 1.0,
        "length_bonus": 1000.0,
        "correctness_weight": 0.8,
        "reward_limit": 10.0,
        "answers": "math",
    }
    for name, value in published.items():
        assert getattr(paper, name) == value, name


# -- processes ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_two_processes_learn_what_one_does(
    on_ranks, base: Path, tmp_path: Path, rows: Callable[..., Any]
) -> None:  # type: ignore[no-untyped-def]
    """Oracle: the single process: its curves to 1e-4, those of policy and critic; and a single process goes on from
    the checkpoint of two."""
    settings = [*RUN.replace("--steps 3", "--steps 2").split()[:-1], "--model", str(base)]
    settings += ["--demonstrations", "", "--learning-rate", "1e-3", "--run-dir"]
    assert main([*settings, str(tmp_path / "one")]) == 0
    codes, said = on_ranks(2, *settings, str(tmp_path / "two"))
    assert codes == [0, 0], said
    for run in ("one", "two"):
        assert main(["train", "--resume", str(tmp_path / run), "--steps", "3"]) == 0
    names = ("loss", "grad_norm", "critic_loss", "critic_grad_norm", "explained_variance", "reward")
    names += ("reference_kl", "reply_tokens")
    for ours, theirs in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in names:
            assert ours.get(name) == pytest.approx(theirs.get(name), abs=1e-4), name
    assert rows(tmp_path / "one")[-1]["grad_norm"] > 0
