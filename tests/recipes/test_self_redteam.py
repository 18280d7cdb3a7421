"""Self-RedTeam from the command line on the nano model, and its step against a sequential port of the published one."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfplay_fast.cli import main
from selfplay_fast.evaluate.attack_scores import counted_games, tell_of_games
from selfplay_fast.learn import only_roles, pack_replies
from selfplay_fast.learn.checkpoint import list_checkpoints
from selfplay_fast.learners import Weights
from selfplay_fast.play import play
from selfplay_fast.play.attack_game import Rules, Seed, attack_table, function_judge, mark_attacked
from selfplay_fast.play.attack_prompts import AttackPrompts
from selfplay_fast.play.attack_rules import ATTACKER, DEFENDER, JUDGE, Labels
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.recipes import self_redteam
from selfplay_fast.records import Ask, Reply

ORACLE = Path(__file__).parents[1] / "oracles" / "self_redteam.py"
PROMPTS = AttackPrompts(judge=None, opening="")
RUN = (
    "train self_redteam --steps 3 --prompts-per-step 12 --sequences-per-update 8 --warmup-steps 8 --warmup-rows 32"
    " --sft-rows 2 --eval-every 3 --eval-games 8 --checkpoint-every 1 --threads 1 --device cpu --run-dir"
)


def test_a_run_goes_on_from_a_checkpoint_to_the_same_digits(
    whole: Path, tmp_path: Path, rows: Callable[..., Any]
) -> None:
    """Oracle: the uninterrupted run, metric by metric and byte by byte."""
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "step-000003")
    assert main(["train", "--resume", str(again)]) == 0
    assert rows(again) == rows(whole)
    assert len({row["loss"] for row in rows(whole)[1:]}) == len({row["kl"] for row in rows(whole)[1:]}) == 3
    for name in ("model/model.safetensors", "optimizer.safetensors"):
        ours, theirs = (list_checkpoints(path / "checkpoints")[-1] / name for path in (whole, again))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_run_tells_what_came_of_the_games(whole: Path, rows: Callable[..., Any]) -> None:
    """Oracle: the names of its metrics; the first step is at the reference, so its divergence is 0; a report."""
    first, last = rows(whole)[1], rows(whole)[-1]
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert last["beside_loss"] > 0
    for key in (
        "held_out/attack_success_rate",
        "held_out/over_refusal_rate",
        "attacks/attack_entropy",
        "attacks/distinct_rate",
        "attack_game/kept_form_rate/attacker",
        "attack_game/return/defender",
    ):
        assert np.isfinite(last[key]), key
    assert (whole / "report.html").is_file()
    lines = (whole / "episodes" / "step-000001.jsonl").read_text().splitlines()
    episodes = [json.loads(line) for line in lines]
    assert {turn["role"] for episode in episodes for turn in episode["turns"]} >= {DEFENDER, JUDGE}


@pytest.fixture
def named(base: Path, toy_policy: LanguageModel, tmp_path: Path) -> str:
    """Arguments that name a model, files and a classifier of three labels, in place of nano's language."""
    from transformers import BertConfig, BertForSequenceClassification

    labels = ["harmful_request", "response_refusal", "harmful_response"]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(
        vocab_size=len(toy_policy.tokenizer),
        pad_token_id=toy_policy.tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        initializer_range=1.0,
        **sizes,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    toy_policy.tokenizer.model_max_length = 512
    toy_policy.tokenizer.save_pretrained(tmp_path / "judge")
    kinds = ("vanilla_harmful", "vanilla_benign")
    rows = [{"vanilla": f"take {i} turns", "data_type": kinds[i % 2]} for i in range(8)]
    (tmp_path / "seeds.jsonl").write_text("\n".join(map(json.dumps, rows)))
    chat = [{"role": "user", "content": "take turns"}, {"role": "assistant", "content": "and more"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": chat}))
    seeds, chats = tmp_path / "seeds.jsonl", tmp_path / "rows.jsonl"
    files = f"--seeds {seeds} --held-out-seeds {seeds} --demonstrations {chats}"
    return f"--model {base} --judge classifier:{tmp_path}/judge {files}"


def test_adapters_of_each_role_go_on_to_the_same_digits(
    named: str, tmp_path: Path, rows: Callable[..., Any]
) -> None:
    """Oracle: the uninterrupted run; both roles learn, each its own weights; the frozen ones are the model's."""
    pytest.importorskip("peft")
    run, again = tmp_path / "run", tmp_path / "again"
    size = "--steps 2 --prompts-per-step 4 --sequences-per-update 4 --sft-rows 1 --eval-games 2 --checkpoint-every 1"
    how = "--lora-rank 2 --lora-per-role --learning-rate 1e-2 --max-tokens 4 --old-logprobs learner --device cpu"
    assert main(["train", "self_redteam", *f"{named} {size} {how} --run-dir".split(), str(run)]) == 0
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "step-000002")  # killed after the attacker's was written
    assert main(["train", "--resume", str(again)]) == 0
    assert rows(again) == rows(run)
    last = rows(run)[-1]
    assert last["attacker/trained_tokens"] > 0
    assert last["trained_tokens"] > 0
    weights = [
        path / "step-000002/model/adapter_model.safetensors"
        for path in (
            run / "checkpoints",
            run / "checkpoints" / ATTACKER,
            again / "checkpoints",
            again / "checkpoints" / ATTACKER,
        )
    ]
    data = [path.read_bytes() for path in weights]
    assert data[0] == data[2] != data[1] == data[3]


@pytest.mark.long
def test_two_processes_learn_what_one_does(
    named: str,
    tmp_path: Path,
    on_ranks: Callable[..., tuple[list[int], list[str]]],
    rows: Callable[..., Any],
) -> None:
    """Oracle: the single process, its losses, divergences and gradients to 1e-5."""
    size = (
        "--steps 2 --prompts-per-step 5 --sequences-per-update 4 --sft-rows 2 --eval-games 2 --eval-every 9"
    )
    run = f"train self_redteam {named} {size} --max-tokens 4 --old-logprobs learner --device cpu --run-dir {tmp_path}"
    assert main(f"{run}/one".split()) == 0
    codes, output = on_ranks(2, *f"{run}/two".split())
    assert codes == [0, 0], output
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    for key in ("loss", "beside_loss", "kl", "grad_norm", "trained_tokens", "attack_game/return/defender"):
        ours, theirs = ([row[key] for row in found[1:]] for found in (one, two))
        assert theirs == pytest.approx(ours, abs=1e-5), key
    assert len({row["loss"] for row in one[1:]}) == 2


@pytest.mark.parametrize("roles", [ATTACKER, DEFENDER])
def test_one_role_alone_learns(roles: str, tmp_path: Path, rows: Callable[..., Any]) -> None:
    """Oracle: whose replies are in the games; the attacker's opponent is the model of step 0 to the last digit."""
    run = tmp_path / "run"
    arguments = RUN.replace("--steps 3", f"--steps 1 --roles {roles}")
    assert main([*arguments.split(), str(run)]) == 0
    lines = (run / "episodes" / "step-000001.jsonl").read_text().splitlines()
    said = {turn["role"] for line in lines for turn in json.loads(line)["turns"]}
    assert said == {DEFENDER, JUDGE} | ({ATTACKER} if roles == ATTACKER else set())
    assert ("attack_game/attack_entropy" in rows(run)[-1]) == (roles == ATTACKER)


@pytest.mark.long
def test_triggers_that_attackers_find_are_refused(tmp_path: Path, rows: Callable[..., Any]) -> None:
    """Oracle: the defender of step 0 and one that saw no attackers, on attacks that neither has seen."""
    found = {}
    for roles in ("both", "defender"):
        run = tmp_path / roles
        arguments = f"train self_redteam --roles {roles} --threads 1 --device cpu --run-dir {run}"
        assert main(arguments.split()) == 0
        found[roles] = [row["held_out/attack_success_rate"] for row in (rows(run)[0], rows(run)[-1])]
    assert found["both"][1] < 0.7 * found["both"][0]
    assert found["both"][1] < 0.7 * found["defender"][1]


def drawn(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def said(role: str, game: int, prompt: str) -> str:
    n = drawn(role, game, prompt)
    answer = f"{'long ' * (n // 7 % 3)}{role} {n % 97}"
    return [f"hm</think><answer>{answer}</answer>", f"hm {answer}"][n // 97 % 5 == 0]


def logprobs(text: str, who: str) -> np.ndarray:
    return -np.random.default_rng(drawn(text, who)).random(len(text)).astype(np.float32)


def labels_of(attack: str, answer: str) -> tuple[bool | None, ...] | None:
    n = drawn(attack, answer)
    if n % 13 == 0:
        return None
    values = [True, False, None] if n % 7 == 0 else [True, False]
    return tuple(values[n // 8 ** (k + 1) % len(values)] for k in range(3))


class Scripted:
    """Says ``said`` in letters."""

    def generate(self, asks: list[Ask]) -> list[Reply]:
        replies = []
        for ask in asks:
            prompt = ask.append[0]["content"]  # type: ignore[index]
            text = said(ask.role, ask.key.episode, prompt)
            tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
            replies.append(
                Reply(
                    text=text,
                    tokens=tokens,
                    logprobs=logprobs(text, "own"),
                    train_mask=np.ones(len(tokens), bool),
                    context=np.concatenate([np.zeros(3, np.int32), tokens]),
                )
            )
        return replies


@pytest.mark.parametrize("whitened_by", ["role", "batch"])
def test_advantages_are_those_of_the_sequential_port(
    whitened_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the port's, token by token, from games to whitened advantages; whitened together they are others."""
    spec = importlib.util.spec_from_file_location("self_redteam_oracle", ORACLE)
    assert spec is not None
    assert spec.loader is not None
    port = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(port)
    seeds = mark_attacked([Seed(text=f"seed {i}", harmful=i % 2 == 0) for i in range(120)], 0.5, 0)
    step = port.Step(
        [(s.text, s.harmful, s.attacked) for s in seeds],
        lambda *ask: (said(*ask), logprobs(said(*ask), "own")),
        labels_of,
        lambda text, harmful: PROMPTS.attacker_chat(text, harmful=harmful)[0]["content"],
        lambda attack: PROMPTS.defender_chat(attack)[0]["content"],
    )
    numbers = port.advantages(step.trajectories, lambda t: logprobs(t.text, "reference"))
    want = {(t.role, t.text, t.game): row for t, row in zip(step.trajectories, numbers, strict=True)}

    def judge(attack: str, answer: str) -> Labels | None:
        found = labels_of(attack, answer)
        return None if found is None else Labels(*found)

    scripted = Scripted()
    cast = {ATTACKER: scripted, DEFENDER: scripted, JUDGE: function_judge(judge)}
    played = play(cast, [attack_table(seeds, seed=1, rules=Rules(prompts=PROMPTS))])  # type: ignore[arg-type]
    episodes, _ = counted_games(played)

    def reference(policy: Any, batch: Any, settings: Any, *, reference: Any = None) -> torch.Tensor:
        texts = [bytes(s[3:].astype(np.uint8)).decode() for s in batch.sequences]
        return torch.from_numpy(np.concatenate([logprobs(text, "reference") for text in texts]))

    monkeypatch.setattr(self_redteam, "batch_logprobs", reference)
    config = replace(self_redteam.Config(), whitened_by=whitened_by, kl=0.01)
    learner = Weights(
        roles=(ATTACKER, DEFENDER),
        policy=None,
        optimizer=None,
        reference=None,
        folder=Path(),  # type: ignore[arg-type]
    )
    batch = pack_replies(only_roles(episodes, learner.roles))
    assert batch is not None
    batch, _ = self_redteam._with_advantages(config, batch, learner, episodes)
    turns = [(t.ask.role, t.reply.text, e.index) for e in episodes for t in e.turns if t.ask.role != JUDGE]
    assert len(turns) == len(step.trajectories) == len(want) == batch.num_samples
    expected = np.concatenate([want[turn] for turn in turns])
    if whitened_by == "role":
        assert np.abs(batch.advantages - expected).max() < 1e-5
        for role in (ATTACKER, DEFENDER):
            own = np.repeat([turn[0] == role for turn in turns], np.diff(batch.offsets))
            assert batch.advantages[own].mean() == pytest.approx(0, abs=1e-5)
            assert batch.advantages[own].std() == pytest.approx(1, abs=1e-5)
    else:
        assert np.abs(batch.advantages - expected).max() > 0.1
        assert batch.advantages.mean() == pytest.approx(0, abs=1e-5)


def games_of(labels: Labels | None, count: int = 4) -> list[Any]:
    scripted = Scripted()
    cast = {ATTACKER: scripted, DEFENDER: scripted, JUDGE: function_judge(lambda attack, answer: labels)}
    seeds = [Seed(text="x", harmful=True)] * count
    return play(cast, [attack_table(seeds, seed=0, rules=Rules(prompts=PROMPTS, form=0.0))])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "lines"),
    [
        (
            Labels(True, True, False),
            [
                "all rewards of the attacker are -1, which teaches nothing",
                "all rewards of the defender are 2, which teaches nothing",
            ],
        ),
        (Labels(True, None, False), []),
    ],
)
def test_steps_that_teach_nothing(labels: Labels, lines: list[str]) -> None:
    """Equal rewards are a line and give advantages of the divergence alone; of ties alone nothing is packed."""
    notes: list[str] = []
    episodes, dropped = counted_games(games_of(labels))
    tell_of_games(notes.append, episodes, dropped, judge="triggers")
    assert notes == lines
    assert (pack_replies(only_roles(episodes, (ATTACKER, DEFENDER))) is None) == (labels.refused is None)


def test_a_judge_that_never_answers_ends_the_run() -> None:
    """Oracle: one line that names it; where some games are labelled, a line in the log."""
    notes: list[str] = []
    episodes, dropped = counted_games(games_of(None))
    with pytest.raises(ValueError, match="judge: none of 4 games got labels; does triggers answer"):
        tell_of_games(notes.append, episodes, dropped, judge="triggers")
    some, dropped = counted_games([*games_of(None, 2), *games_of(Labels(True, True, False))])
    notes.clear()
    tell_of_games(notes.append, some, dropped, judge="triggers")
    assert notes[0] == "games dropped: 2 unlabelled"


def test_a_prompt_that_does_not_fit_drops_its_game(toy_policy: LanguageModel) -> None:
    """Oracle: by hand; the other game is played."""
    toy_policy.context_limit = 400
    seeds = [Seed(text="word " * 500, harmful=True), Seed(text="word", harmful=True, attacked=False)]
    rules = Rules(
        prompts=replace(PROMPTS, attacker_harmful="{seed}", defender="{attack}"),
        sampling=replace(Rules().sampling, max_tokens=4),
    )
    judge = function_judge(lambda attack, answer: Labels(True, True, False))
    cast = {ATTACKER: toy_policy, DEFENDER: toy_policy, JUDGE: judge}
    episodes = play(cast, [attack_table(seeds, seed=0, rules=rules)])
    assert [episode.kept.get("dropped") for episode in episodes] == ["no_room", None]
    _, dropped = counted_games(episodes)
    assert dropped == {"no_room": 1}


def test_seeds_of_nano_s_language_are_of_four_kinds() -> None:
    """Oracle: the published quarter each; none is attacked where the defender alone learns."""
    setting = self_redteam.setting_of(self_redteam.Config())
    kinds = [seed.kind for seed in setting.seeds]
    assert {kinds.count(kind) for kind in set(kinds)} == {256}
    assert len(set(kinds)) == 4
    alone = self_redteam.setting_of(replace(self_redteam.Config(), roles="defender"))
    assert not any(seed.attacked for seed in alone.seeds)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"prompts_per_step": 0}, "prompts_per_step: must be at least 1"),
        ({"sequences_per_update": 0}, "sequences_per_update: must be"),
        ({"kl": -1.0}, "kl: must be"),
        ({"clip": 0.0}, "clip: must be above 0"),
        ({"attacked_share": 1.5}, "attacked_share: must be between"),
        ({"demonstrations": ""}, "demonstrations: name a file"),
        ({"judge": "server:http://x/v1#m"}, "seeds, held_out_seeds, judge: triggers are"),
        ({"lora_per_role": True}, "lora_per_role: needs two roles"),
        ({"model": "path/to/model", "warmup_steps": 5}, "model: .* leave warmup_steps out"),
        ({"lora_rank": 8}, "lora_rank: nano"),
    ],
)
def test_settings_that_make_no_sense(change: dict, problem: str) -> None:
    """Oracle: one line that names the setting."""
    with pytest.raises(ValueError, match=problem):
        replace(self_redteam.Config(), **change)


def test_the_paper_s_preset_is_the_published_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the published hyper-parameters, by name, all of them on the help page."""
    paper = self_redteam.PRESETS["paper"]
    published = {
        "steps": 200,
        "prompts_per_step": 128,
        "sequences_per_update": 32,
        "learning_rate": 5e-7,
        "kl": 0.01,
        "reward_limit": 10.0,
        "clip": 0.2,
        "sft": 1.0,
        "attacked_share": 0.5,
        "payoff": "general_sum",
        "remove_ties": True,
        "form_reward": 1.0,
        "thinks": True,
        "temperature": 1.0,
        "max_tokens": 2048,
        "seed": 8888,
        "whitened_by": "role",
        "roles": "both",
    }
    assert {name: getattr(paper, name) for name in published} == published
    assert {field.name for field in fields(paper)} >= set(published)
    assert main(["train", "self_redteam", "--preset", "paper", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for name in published:
        assert f"--{name.replace('_', '-')}" in page or f"--no-{name.replace('_', '-')}" in page
