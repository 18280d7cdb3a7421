"""SPaR from the command line on the nano model: its data are the published algorithm's, it resumes exactly, learns, and
refuses what makes no sense."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from selfplay_fast.cli import main
from selfplay_fast.learn import pack_pairs
from selfplay_fast.learn.checkpoint import list_checkpoints
from selfplay_fast.play import RefinePrompts
from selfplay_fast.play.refine_data import negatives, preference_rows, refiner_rows, response_rows
from selfplay_fast.policies.streams import stream_ids, uniforms
from selfplay_fast.recipes import spar
from selfplay_fast.records import Ask, Key, Reply

RUN = (  # refinements of a model that knows nothing cannot be read: pairs are of responses, dialogues of divided votes
    "train spar --steps 2 --prompts-per-step 6 --held-out-prompts 2 --pairs response --responses 3 --branch 1 --keep 1"
    " --depth 1 --max-tokens 3 --refine-tokens 3 --warmup-steps 2 --warmup-dialogues 8 --pairs-per-update 2"
    " --dialogues-per-update 4 --threads 1 --device cpu --run-dir"
)


class HashJudge:
    """Votes by a hash of the conversation: some of them yes."""

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """As a policy."""
        return [
            Reply(text=f"Final Judgement: {'Yes' if self._number(ask, k) < 100 else 'No'}")
            for ask in asks
            for k in range(ask.n)
        ]

    def _number(self, ask: Ask, sample: int) -> int:
        said = f"{ask.prompt_text} {sample}".encode()
        return hashlib.blake2b(said, digest_size=1).digest()[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run without an interruption. Whoever judges says yes now and then, so that there is something to learn."""
    run = tmp_path_factory.mktemp("spar") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spar, "judges", lambda *_: {spar.JUDGE: HashJudge()})
        assert main([*RUN.split(), str(run)]) == 0
        yield run


def test_a_run_goes_on_from_a_checkpoint_to_the_same_digits(
    whole: Path, tmp_path: Path, rows: Callable[..., Any]
) -> None:
    """Oracle: the uninterrupted run: metrics, rows and both models' weights, byte for byte; and both models change in
    every iteration."""
    run, again = whole, tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "step-000002")  # the refiner's is there: it is written first
    (again / "preferences" / "step-000002.jsonl").unlink()
    assert main(["train", "--resume", str(again)]) == 0
    assert rows(again) == rows(run)
    assert all(row["pairs"] > 0 and row["dialogues"] > 0 for row in rows(run)[1:])
    for folder in ("preferences", "dialogues"):
        texts = [(path / folder / "step-000002.jsonl").read_text() for path in (run, again)]
        assert texts[0] == texts[1]
        assert set(json.loads(texts[0].splitlines()[0])) in (
            {"prompt", "chosen", "rejected"},
            {"messages"},
        )
    begun = set()
    for folder in ("checkpoints", "checkpoints/refiner"):
        saved = [path / "model" / "model.safetensors" for path in list_checkpoints(run / folder)]
        weights = [path.read_bytes() for path in saved]
        assert len(set(weights)) == 3, "step 0, 1 and 2"
        assert weights[-1] == (again / saved[-1].relative_to(run)).read_bytes()
        begun.add(weights[0])
    assert len(begun) == 1, "both begin as one model"


@pytest.mark.long
def test_two_ranks_learn_the_same(
    whole: Path, tmp_path: Path, on_ranks: Callable[..., Any], rows: Callable[..., Any]
) -> None:
    """Oracle: the single process: the same rows to learn from, metrics to 1e-4. (How often a margin that begins at 0 is
    above it is for rounding to say.)"""
    shared = tmp_path / "shared"
    codes, logs = on_ranks(2, *RUN.split(), str(shared))
    assert codes == [0, 0], logs
    for row, expected in zip(rows(shared), rows(whole), strict=True):
        ours, theirs = (
            {k: v for k, v in each.items() if not k.endswith(("sharing", "dpo_accuracy"))}
            for each in (row, expected)
        )
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for folder in ("preferences", "dialogues"):
        texts = [(run / folder / "step-000001.jsonl").read_text() for run in (shared, whole)]
        assert texts[0] == texts[1]


# -- data ------------------------------------------------------------------------------------------------------------

TEXTS = RefinePrompts(judge="{prompt}|{response}|Final Judgement?", refine="Refine: [[start]] [[end]]")


class Script:
    """Actor, judge and refiner by hash of (conversation, draw, sample): ties, unread and equal replies among them."""

    def say(self, chat: Sequence[Any], draw: int, sample: int) -> str:
        """A response to a prompt alone, a critique to a judge's, a refinement after three messages."""
        a, b, c = hashlib.blake2b(json.dumps([chat, draw, sample]).encode(), digest_size=3).digest()
        if len(chat) > 1:
            return "nothing" if a < 40 else f"Change {c}. [[start]] word {b % 12}\n[[end]]"
        if "Final Judgement?" not in chat[0]["content"]:
            return f" word {b % 9} "
        if a < 30:
            return "no verdict"
        (goodness,) = hashlib.blake2b(chat[0]["content"].encode(), digest_size=1).digest()
        yes = b < (0, 25, 90, 130, 200)[goodness % 5]
        return f"critique {c}. Final Judgement: {'Yes' if yes else 'No'}"

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """As a policy that keeps no conversation."""
        return [
            Reply(text=self.say([*map(dict, ask.append)], ask.key.turn, k))
            for ask in asks
            for k in range(ask.n)
        ]


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    """tests/oracles/spar.py"""
    spec = importlib.util.spec_from_file_location("spar", Path(__file__).parents[1] / "oracles" / "spar.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picked(items: Sequence[Any], seed: int, place: int, what: int) -> Any:
    """The recipe's own chance: the choice is no part of what the oracle checks."""
    (u,) = uniforms(stream_ids([Key(seed, place, what)]), 0)
    return items[int(u * len(items))]


def test_data_of_an_iteration(oracle: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: tests/oracles/spar.py, one request after another: negatives, pairs and the refiner's data of 200 prompts,
    equal row by row."""
    monkeypatch.setattr(spar, "texts_of", lambda config: TEXTS)
    config = replace(spar.Config(), judge="refiner")
    script, seed = Script(), 5
    prompts = [f"p{i}" for i in range(200)]
    cast = {"actor": script, "refiner": script}
    judged = spar.respond(config, cast, prompts, seed)
    begun = negatives(judged, seed=seed)
    trees = spar.search(config, cast, [draft for _, draft in begun], seed)

    def ask(chat: Sequence[Any], role: str, draw: int, sample: int) -> str:
        return script.say(chat, draw, sample)

    def judge_prompt(prompt: str, response: str) -> str:
        return f"{prompt}|{response}|Final Judgement?"

    expected, searches, yes, no = [], [], [], []
    for place, prompt in enumerate(prompts):
        nodes = oracle.actor_nodes(ask, judge_prompt, prompt, 5)
        for kind, chats in zip(
            (yes, no), oracle.actor_judge_examples(judge_prompt, prompt, nodes), strict=True
        ):
            kind += chats
        start = oracle.negative_of(nodes, lambda down, place=place: picked(down, seed, place, 0))
        if start is not None:
            expected.append((place, start.response, start.critique))
            arguments = (ask, judge_prompt, TEXTS.refine, prompt, start.response, start.critique)
            searches.append(oracle.Search(*arguments))
    assert [(place, draft.response, draft.critique) for place, draft in begun] == expected
    assert 50 < len(begun) < 200
    finals = [search.run() for search in searches]
    pairs = [oracle.dpo_pair(*found) for found in zip(searches, finals, strict=True)]
    assert preference_rows(trees) == [pair for pair in pairs if pair is not None]
    assert 20 < len(preference_rows(trees)) < len(begun)

    def choose(number: int, items: Sequence[Any]) -> Any:
        value = next(n.value for n in searches[number].nodes if n.critique == items[0][1]["content"])
        return picked(items, seed, number, 1 if value > 0.5 else 2)

    dialogues = oracle.refiner_data(searches, finals, choose, np.random.default_rng(seed), yes, no)
    assert refiner_rows(trees, judged=judged, seed=seed, prompts=TEXTS) == dialogues
    assert yes
    assert no


def test_what_is_preferred_in_the_ablations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the trees themselves: one refinement of the response, or another response to the prompt that passed."""
    monkeypatch.setattr(spar, "texts_of", lambda config: TEXTS)
    config = replace(spar.Config(), judge="refiner", pairs="response")
    cast = {"actor": Script(), "refiner": Script()}
    judged = spar.respond(config, cast, [f"p{i}" for i in range(60)], 0)
    begun = negatives(judged, seed=0)
    drafts = [draft for _, draft in begun]
    assert spar.search(config, cast, drafts, 0) == []
    alone = spar.search(replace(config, pairs="refinement"), cast, drafts, 0)
    assert {len(tree.nodes) for tree in alone} <= {1, 2}
    assert 0 < len(preference_rows(alone)) < len(alone)
    found = {}
    for row in response_rows(judged, begun, seed=0):
        texts = [row[side][0]["content"] for side in ("prompt", "chosen", "rejected")]
        found[texts[0]] = texts[1:]
    for place, draft in begun:
        passed = [node.response for node in judged[place].nodes[1:] if node.value > 0.5]
        assert (draft.prompt in found) == bool(passed)
        if passed:
            chosen, rejected = found[draft.prompt]
            assert chosen in passed
            assert rejected == draft.response
    assert found


# -- learning --------------------------------------------------------------------------------------------------------


def test_both_learn_what_their_rows_say(toy_policy: Any) -> None:
    """Oracle: log-probs before and after: what is chosen gains on what is rejected; what is imitated gains too."""
    config = replace(spar.Config(), dpo_rate=1e-3, sft_rate=1e-3, pairs_per_update=1, dialogues_per_update=1)

    def message(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    pairs = [
        {
            "prompt": message("user", f"Two players {i}"),
            "chosen": message("assistant", "and more"),
            "rejected": message("assistant", "in a row"),
        }
        for i in range(4)
    ]
    packed = pack_pairs(toy_policy, pairs)

    def margin() -> float:
        chosen, rejected = packed.compared_with(toy_policy).reference_logprobs
        return float(np.sum(chosen - rejected))

    before = margin()
    metrics = spar.prefer(config, toy_policy, pairs, seed=0)
    assert margin() > before + 0.5
    assert set(metrics) >= {"dpo_loss", "dpo_accuracy", "dpo_margin"}
    dialogues = [{"messages": [*row["prompt"], *row["rejected"]]} for row in pairs]
    before = margin()
    spar.imitate(config, toy_policy, dialogues, seed=0)
    assert margin() < before, "it imitates what was rejected now"
    assert spar.prefer(config, toy_policy, [], 0) == spar.imitate(config, toy_policy, [], 0) == {}


@pytest.mark.long
def test_word_tasks_are_learned(tmp_path: Path, rows: Callable[..., Any]) -> None:
    """Oracle: the rule on 200 held-out prompts: above the warmed-up model by three standard errors of a difference."""
    assert (
        main(["train", "spar", "--threads", "1", "--device", "cpu", "--run-dir", str(tmp_path / "run")]) == 0
    )
    found = [row["words/accuracy"] for row in rows(tmp_path / "run")]
    error = np.sqrt(sum(p * (1 - p) / 200 for p in (found[0], found[-1])))
    assert found[-1] > found[0] + 3 * error


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"responses": 0}, "responses: must be at least 1"),
        ({"steps": -1}, "steps: must be at least 0"),
        ({"dpo_rate": float("nan")}, "dpo_rate: must be a number and not negative"),
        ({"accept": 1.5}, "accept: must be between 0 and 1"),
        ({"beta": 0.0}, "beta: must be above 0"),
        ({"actor_top_p": 0.0}, "actor_top_p: must be above 0"),
        ({"judgements": 0}, "judgements: must be"),
        ({"prompts": "word"}, "judge: no rule judges the prompts of word .did you mean 'words'"),
        ({"judge": "nobody"}, "judge: must be rule, refiner or server:URL#MODEL, got 'nobody'"),
        ({"judge": "server:x"}, "judge: 'server:x' must look like server:http"),
        ({"model": "path/to/model", "warmup_steps": 3}, "model: .* set it to 0"),
        ({"prompts": "p.jsonl", "judge": "refiner"}, "model: nano is warmed up for the task words only"),
        ({"lora_rank": 8}, "lora_rank: nano"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], problem: str) -> None:
    """Oracle: one line that names the setting."""
    with pytest.raises(ValueError, match=problem):
        replace(spar.Config(), **change)


def test_prompts_that_are_missing_leave_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: one line, and no folder."""
    folder = tmp_path / "run"
    assert main(["train", "spar", "--preset", "paper", "--run-dir", str(folder)]) == 2
    assert "prompts: there is no file prompts.jsonl" in capsys.readouterr().err
    assert not folder.exists()


def test_a_refiner_that_is_missing_is_named_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: one line that names the setting, before the actor is made, and no folder."""
    folder = tmp_path / "run"
    assert main(["train", "spar", "--refiner", "./nothing", "--run-dir", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "error: refiner: there is no folder './nothing'" in said
    assert "building nano" not in said
    assert not folder.exists()


def test_the_paper_s_preset_is_the_published_configuration() -> None:
    """Oracle: the published hyper-parameters, by name; and every setting is explained."""
    paper = spar.PRESETS["paper"]
    published = {
        "steps": 3,
        "prompts_per_step": 10_000,
        "responses": 5,
        "judgements": 5,
        "order": "bfs",
        "branch": 3,
        "keep": 2,
        "depth": 3,
        "accept": 0.5,
        "actor_temperature": 0.9,
        "actor_top_p": 0.9,
        "refiner_temperature": 0.7,
        "max_tokens": 2048,
        "judge_tokens": 2048,
        "refine_tokens": 3072,
        "beta": 0.1,
        "nll_weight": 0.1,
        "dpo_rate": 2e-7,
        "dpo_epochs": 1,
        "dpo_cutoff": 2048,
        "sft_rate": 2e-6,
        "sft_epochs": 5,
        "sft_cutoff": 4096,
        "rate_warmup": 0.1,
        "pairs": "search",
        "judge": "refiner",
    }
    assert {name: getattr(paper, name) for name in published} == published
    assert {field.name for field in fields(paper)} >= set(published)
