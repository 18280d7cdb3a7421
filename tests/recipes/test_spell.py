"""SPELL from the command line on the nano model, and its step against a sequential port of the published one."""

import hashlib
import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from selfplay_fast.cli import main
from selfplay_fast.evaluate.document_scores import sample_metrics, tell_of_readings
from selfplay_fast.learn.checkpoint import list_checkpoints
from selfplay_fast.learn.group_selection import drawn
from selfplay_fast.play import self_play
from selfplay_fast.play.document_game import ASKED, Rules, is_useful
from selfplay_fast.play.document_prompts import DocumentPrompts
from selfplay_fast.play.document_rules import QUESTIONER, RESPONDER, TASKS, VERIFIER, Question
from selfplay_fast.play.documents import Cluster, Memory, Past
from selfplay_fast.policies.simple import ScriptedPolicy
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.recipes import spell
from selfplay_fast.records import Ask, Episode, Reply

ORACLE = Path(__file__).parents[1] / "oracles" / "spell.py"
PROMPTS = DocumentPrompts()
PAPER = replace(
    spell.PRESETS["paper"], clusters_per_round=24, questions_per_step=16, most_rounds=6, verifier_share=0.25
)


def port() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spell_oracle", ORACLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def number(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


GOLD = {
    "numeric": ["12.5", "0.125", "1,250", "7"],
    "general": ["Red River", "the red river", "Oak"],
    "choice": "ABCD",
}
ASKING = {task: f"as the task {task}" for task in TASKS}


def said_question(task: str, n: int) -> str:
    """A reply of a questioner: mostly a question, sometimes something that is none, or is not to be asked."""
    answer = GOLD[task][n % len(GOLD[task])]
    body: dict[str, Any] = {"question": f"what is {n % 89}?", "answer": answer}
    if task == "choice":
        body["options"] = {letter: f"option {letter}" for letter in "ABCD"}
    kind = n // 97 % 12
    if kind == 0:
        return f"I cannot say. {json.dumps(body)}"
    if kind == 1:
        body["answer"] = "word " * 41 if task == "general" else "0" if task == "numeric" else "E"
    if kind == 2:
        return f"<think> it goes on {json.dumps(body)}"
    if kind == 3:
        return f"first ```json\n{json.dumps(body)}\n``` then ```json\n{{'bad'}}\n```"
    return f"so ```json\n{json.dumps(body)}\n```" if kind % 2 else json.dumps(body)


def said_answer(task: str, n: int) -> str:
    """A reply of a responder: one of few answers, or none."""
    if n % 11 == 0:
        return "I do not know."
    answers = {
        "numeric": ["12.5", "12.51", "0.125", "1250", "8", "7.0"],
        "general": ["red  river!", "an Oak tree", "the sea", "red"],
        "choice": ["A", "(B)", "C", "D. option"],
    }[task]
    return f"Hm. Therefore, the answer is {answers[n // 11 % len(answers)]}.\nOr so."


def said_vote(n: int) -> str:
    return "unsure" if n % 9 == 0 else f"Decision: [[{'YES' if n // 9 % 4 == 0 else 'NO'}]]"


def task_of(prompt: str) -> str:
    return next(task for task, mark in ASKING.items() if mark in prompt)


def text_of(role: str, prompt: str, sample: int) -> str:
    """What the scripted policy says: it follows from role, prompt and the sample's number alone."""
    n = number(role, prompt, sample)
    if role == VERIFIER:
        return said_vote(n)
    return (said_question if role == QUESTIONER else said_answer)(task_of(prompt), n)


MARKED = replace(
    PROMPTS,
    questioner={task: f"{ASKING[task]} {PROMPTS.questioner[task]}" for task in TASKS},
    responder={task: f"{ASKING[task]} {PROMPTS.responder[task]}" for task in TASKS},
)
CLUSTERS = [
    Cluster(name=f"c{i}", task=TASKS[i % 3], documents=tuple(f"fact {i}.{d}" for d in range(4 + i % 5 * 3)))
    for i in range(30)
]


def prompts_of_port() -> dict[str, Callable[..., str]]:
    def asked(question: dict[str, Any]) -> Question:
        return Question(
            text=question["question"], answer=question["answer"], options=question.get("options", {})
        )

    def past(examples: list[tuple[str, str]]) -> list[Past]:
        return [Past(documents=(), question=q, answer=a) for q, a in examples]

    return {
        "question": lambda task, texts, examples: MARKED.questioner_chat(task, texts, past(examples))[0][
            "content"
        ],
        "answer": lambda task, texts, question: MARKED.responder_chat(task, texts, asked(question))[0][
            "content"
        ],
        "vote": lambda question, answer: MARKED.verifier_chat(asked(question), answer)[0]["content"],
    }


def played(
    config: spell.Config, steps: int, rules: Rules | None = None
) -> tuple[list[list[Episode]], list[Memory]]:
    """Steps of the recipe with the scripted policy, in letters, and the memory after each."""
    policy = ScriptedPolicy(lambda ask, k: text_of(ask.role, ask.append[0]["content"], k))  # type: ignore[index, call-overload]
    memory = Memory(mode=config.history_mode, length=config.history)
    episodes, memories = [], []
    for step in range(steps):
        one, memory = spell.rollout(
            config, CLUSTERS, self_play(policy), rules or Rules(prompts=MARKED), memory, derive_seed(3, step)
        )
        episodes.append(one)
        memories.append(memory)
    return episodes, memories


def published(config: spell.Config, steps: int) -> list[Any]:
    """The same steps of the port, with the recipe's draws."""
    oracle = port()
    history: dict[int, Any] = {}
    first, done = 0, []
    for _ in range(steps):
        seen: Counter[Any] = Counter()

        def ask(role: str, reading: int, prompt: str, seen: Counter[Any] = seen) -> str:
            seen[role, reading, prompt] += 1
            return text_of(role, prompt, seen[role, reading, prompt] - 1)

        def turn(index: int) -> int:
            memory = Memory(drawn=index)
            (one,) = memory.readings(CLUSTERS, 1, seed=derive_seed(config.seed, 0, 1))
            return one.number

        def fresh(index: int, unseen: list[int]) -> list[int]:
            rng = np.random.default_rng(derive_seed(derive_seed(config.seed, 0, 1), 1, index))
            return [unseen[i] for i in rng.permutation(len(unseen))[: config.documents].tolist()]

        step = oracle.Step(
            [list(c.documents) for c in CLUSTERS],
            [c.task for c in CLUSTERS],
            history,
            ask,
            prompts_of_port(),
            turn,
            fresh,
            batch=config.clusters_per_round,
            most_batches=config.most_rounds,
            questions=config.questions_per_step,
            mode=config.history_mode,
            first=first,
        )
        first += len(step.readings)
        done.append((step, {c: list(entries) for c, entries in history.items()}))
    return done


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_three_steps_are_those_of_the_sequential_port(mode: str) -> None:
    """Oracle: the port, written from the specification: readings, replies, scores, votes, rewards, memory, the samples
    chosen for each role and their advantages."""
    config = replace(PAPER, history_mode=mode)
    ours, memories = played(config, 3)
    theirs = published(config, 3)
    oracle = port()
    for number_, (episodes, memory, (step, history)) in enumerate(zip(ours, memories, theirs, strict=True)):
        assert len(episodes) == len(step.readings)
        for episode, one in zip(episodes, step.readings, strict=True):
            kept, reading = episode.kept, episode.kept["reading"]
            assert (reading.number, list(reading.shown), list(reading.new)) == (
                one.cluster,
                one.shown,
                one.new,
            )
            assert kept["status"] == one.status
            assert episode.turns[0].reply.text == one.said
            assert episode.turns[0].reward == pytest.approx(one.reward, abs=1e-12)
            if one.status == ASKED:
                answers = [episode.turns[t] for t in kept["answers_at"]]
                assert [turn.reply.text for turn in answers] == one.answers
                assert [turn.reward for turn in answers] == one.rewards
                assert (kept["rule"], kept["votes"]) == (one.rules, one.votes)
        remembered = {
            c: [(list(p.documents), p.question, p.answer) for p in past] for c, past in memory.past.items()
        }
        assert remembered == history
        seed = derive_seed(3, number_)

        def choose(purpose: str, candidates: list[Any], count: int, seed: int = seed) -> list[Any]:
            key = derive_seed(seed, 2) if purpose == "votes" else derive_seed(seed, 1) + TASKS.index(purpose)  # type: ignore[arg-type]
            return [candidates[i] for i in drawn(range(len(candidates)), count, key)]

        wanted = oracle.batch(step.readings, config.questions_per_step, choose, share=config.verifier_share)
        chosen, advantages = spell.selected(config, episodes, seed)
        found = {}
        for episode, own, row in zip(episodes, chosen, advantages, strict=True):
            for t in own:
                found[name_of(episode, t)] = row[t]
        assert found.keys() == wanted.keys()
        assert found == pytest.approx(wanted, abs=1e-9)
        counts = Counter(role for role, _, _ in found)
        assert counts[RESPONDER] == 16 * 8
        assert counts[QUESTIONER] == 32
        assert counts[VERIFIER] == 4 * 8


def name_of(episode: Episode, t: int) -> tuple[str, int, Any]:
    """How the port calls a turn."""
    kept, role = episode.kept, episode.turns[t].ask.role
    if role == QUESTIONER:
        return role, episode.index, 0
    if role == RESPONDER:
        return role, episode.index, kept["answers_at"].index(t)
    (k,) = (k for k, places in enumerate(kept["votes_at"]) if t in places)
    return role, episode.index, (k, kept["votes_at"][k].index(t))


def test_the_scripted_steps_hold_all_that_can_happen() -> None:
    """By hand: what the port is compared on has every status, equal answers in one prompt, all kinds of majorities."""
    episodes = [e for step in played(PAPER, 3)[0] for e in step]
    assert {e.kept["status"] for e in episodes} == {"asked", "bad_format", "bad_ground", "dropped"}
    assert {e.kept["why"] for e in episodes} == {None, "unfinished", "long_answer", "zero"}
    assert {most for e in episodes if "judged" in e.kept for most in e.kept["judged"]} == {None, -1, 0, 1}
    assert {t.ask.n for e in episodes for t in e.turns if t.ask.role == VERIFIER} > {8, 16}
    assert {len(e.kept["reading"].examples) for e in episodes} == {0, 1, 2, 3}


def test_judging_fewer_right_answers_leaves_answers_and_questions_as_they_are() -> None:
    """Oracle: the step in which all are judged: the same samples and advantages of both roles, fewer votes."""
    one, _ = played(PAPER, 1)
    other, _ = played(replace(PAPER, verify_right=0.0), 1)
    found = []
    for (episodes,) in (one, other):
        chosen, advantages = spell.selected(PAPER, episodes, 7)
        found.append(
            {
                name_of(e, t): row[t]
                for e, own, row in zip(episodes, chosen, advantages, strict=True)
                for t in own
                if e.turns[t].ask.role != VERIFIER
            }
        )
    assert found[0] == found[1]
    votes = [sum(t.ask.role == VERIFIER for e in steps[0] for t in e.turns) for steps in (one, other)]
    assert votes[1] < votes[0]
    assert len(found[0]) == 16 * 8 + 32


def test_readings_as_they_are_needed_are_fewer() -> None:
    """Oracle: whole rounds: the same first questions in the same order, hence the same answers to learn from."""
    whole = replace(PAPER, history=0)
    needed = replace(whole, admission="as_needed")
    (rounds,), _ = played(whole, 1)
    (own,), _ = played(needed, 1)
    assert len(own) < len(rounds)
    assert [e.turns[0].reply.text for e in own] == [e.turns[0].reply.text for e in rounds[: len(own)]]
    assert sum(map(is_useful, own)) >= 16
    few = replace(needed, most_rounds=1, clusters_per_round=5)
    assert len(played(few, 1)[0][0]) == 5


@pytest.mark.parametrize(
    ("frozen", "verifier", "roles"),
    [
        ((), "self", {QUESTIONER, RESPONDER, VERIFIER}),
        ((QUESTIONER,), "self", {RESPONDER, VERIFIER}),
        ((QUESTIONER, VERIFIER), "self", {RESPONDER}),
        ((), "server:http://127.0.0.1:1/v1#m", {QUESTIONER, RESPONDER}),
    ],
)
def test_roles_that_do_not_learn_have_no_samples(
    frozen: tuple[str, ...], verifier: str, roles: set[str]
) -> None:
    """By hand: a frozen role, and a verifier that is somebody else."""
    (episodes,), _ = played(PAPER, 1)
    chosen, _ = spell.selected(replace(PAPER, frozen=frozen, verifier=verifier), episodes, 0)
    assert set(sample_metrics(episodes, chosen)) == {f"samples/{role}" for role in roles}


def test_too_few_votes_to_learn_from_are_none() -> None:
    """Oracle: the specification: if there are fewer groups than asked for, the verifier does not learn."""
    (episodes,), _ = played(PAPER, 1)
    for most, some in ((0.99, True), (0.52, False)):
        chosen, _ = spell.selected(replace(PAPER, most_agreement=most), episodes, 0)
        assert ("samples/verifier" in sample_metrics(episodes, chosen)) == some


def tell(notes: list[str], episodes: list[Episode], chosen: list[list[int]]) -> None:
    tell_of_readings(notes.append, episodes, chosen, wanted=16, verifier="self")


def step_of(say: Callable[[Ask, int], str], clusters: list[Cluster] | None = None) -> list[Episode]:
    policy = ScriptedPolicy(say)
    config = replace(PAPER, clusters_per_round=4, most_rounds=1)
    own = clusters or CLUSTERS[1:2]
    return spell.rollout(config, own, self_play(policy), Rules(answers=2, votes=1), Memory(), 0)[0]


def right(ask: Ask, k: int) -> str:
    said = {QUESTIONER: '{"question": "q", "answer": "x"}', VERIFIER: "[[YES]]"}
    return said.get(ask.role, "" if "Empty" in ask.prompt_text else "the answer is x")


def test_a_step_whose_rewards_are_all_equal_teaches_nothing() -> None:
    """By hand: nothing is packed, and a line each says why; equal prompts are counted."""
    episodes = step_of(right, [replace(CLUSTERS[1], documents=("only one",))])
    notes: list[str] = []
    chosen, advantages = spell.selected(PAPER, episodes, 0)
    assert spell.packed(episodes, chosen, advantages) is None
    tell(notes, episodes, chosen)
    assert notes == [
        "0 of 16 questions tell right from wrong answers",
        "all rewards of a group are equal, which teaches nothing",
        "3 prompts of the questioner are the same as another",
    ]
    assert all(np.isfinite(row).all() for row in advantages)


def test_what_is_dropped_is_told() -> None:
    """By hand: reasons are counted; where no prompt fits, the run ends with one line."""
    notes: list[str] = []
    episodes = step_of(lambda ask, k: "<think>" if ask.role == QUESTIONER else "")
    tell(notes, episodes, [[] for _ in episodes])
    assert notes[0] == "readings dropped: 4 unfinished"
    full = [replace(e, kept={**e.kept, "why": "no_room"}) for e in episodes]
    with pytest.raises(ValueError, match="clusters: no prompt leaves room for a reply"):
        tell(notes, full, [[] for _ in full])


def test_a_verifier_that_never_answers_ends_the_run() -> None:
    """By hand: one line that names it; where some votes come, a line in the log."""
    episodes = step_of(right)

    def without(turns: Any, count: int) -> Any:
        lost = Reply(text="", finish_reason="forfeit")
        votes = [k for k, turn in enumerate(turns) if turn.ask.role == VERIFIER][:count]
        return tuple(replace(turn, reply=lost) if k in votes else turn for k, turn in enumerate(turns))

    some = [replace(e, turns=without(e.turns, 1)) for e in episodes]
    notes: list[str] = []
    tell(notes, some, [[0] for _ in some])
    assert notes[0] == "4 of 8 votes did not come and count as none"
    none = [replace(e, turns=without(e.turns, 2)) for e in episodes]
    with pytest.raises(ValueError, match="verifier: none of 8 votes came; does self answer"):
        tell(notes, none, [[0] for _ in none])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frozen": ("responder",)}, "frozen: must be questioner, verifier or both, got 'responder'"),
        ({"verifier": "self"}, "clusters, eval_questions, verifier: facts are a language of their own"),
        ({"clusters": "file.jsonl"}, "clusters, eval_questions, verifier: facts are a language"),
        (
            {"clusters": "f", "eval_questions": "f", "verifier": "self"},
            "responder: walker knows facts only; set it to self",
        ),
        ({"dual_clip": 1.0}, "dual_clip: must be above 1"),
        ({"answers": 0}, "answers: must be at least 1"),
        ({"verifier_share": 2.0}, "verifier_share: must be between 0 and 1"),
        ({"model": "other", "warmup_steps": 5}, "model: 'other' is not nano"),
    ],
)
def test_wrong_settings_are_one_line(wrong: dict[str, Any], message: str) -> None:
    """By hand."""
    with pytest.raises(ValueError, match=message):
        replace(spell.Config(), **wrong)


RUN = (
    "train spell --responder self --steps 3 --warmup-steps 2 --warmup-rows 8 --fact-clusters 4"
    " --questions-per-step 3 --answers 3 --clusters-per-round 4 --most-rounds 1 --eval-games 2 --eval-answers 1"
    " --eval-every 3 --max-tokens 6 --votes 1 --learning-rate 1e-6 --checkpoint-every 1 --threads 1 --device cpu"
    " --run-dir"
)


@pytest.fixture
def fluent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model says nothing that can be read; here its noise is read as questions and answers."""
    from selfplay_fast.play import document_game

    def read(rules: Rules, cluster: Cluster, said: Reply) -> tuple[Question | None, str | None]:
        asked = Question(text=f"bo {1 + len(said.text) % 9} hops", answer="?")
        return (rules.complete(asked, cluster) if rules.complete else asked), None

    def score(task: str, question: Question, answer: str | None) -> float:
        return float(number(answer) % 2)

    monkeypatch.setattr(document_game, "_read", read)
    monkeypatch.setattr(document_game, "extracted_answer", lambda text: text)
    monkeypatch.setattr(document_game, "rule_score", score)
    monkeypatch.setattr(document_game, "read_vote", lambda text: number(text) % 2)
    monkeypatch.setattr(document_game, "_GROUNDED_BELOW", 2.0)


def test_a_run_goes_on_from_a_checkpoint_to_the_same_digits(
    fluent: None, tmp_path: Path, rows: Callable[..., Any]
) -> None:
    """Oracle: the uninterrupted run, metric by metric and byte by byte; its memory goes on too."""
    run, again = tmp_path / "run", tmp_path / "again"
    assert main([*RUN.split(), str(run)]) == 0
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "step-000003")
    assert main(["train", "--resume", str(again)]) == 0
    assert rows(again) == rows(run)
    assert [row["document_game/examples"] for row in rows(run)[1:]] == sorted(
        row["document_game/examples"] for row in rows(run)[1:]
    )
    assert rows(run)[-1]["document_game/examples"] > 0
    assert len({row["grad_norm"] for row in rows(run)[1:]}) == 3
    for name in ("model/model.safetensors", "optimizer.safetensors", "state.json"):
        ours, theirs = (list_checkpoints(path / "checkpoints")[-1] / name for path in (run, again))
        assert ours.read_bytes() == theirs.read_bytes()
    assert {"held_out/average", "document_game/success", "document_game/hops"} <= rows(run)[-1].keys()
    assert (run / "report.html").is_file()


@pytest.mark.parametrize("frozen", ["", "--frozen verifier questioner"])
def test_a_named_model_reads_files_and_plays_all_roles(
    frozen: str,
    fluent: None,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: Callable[..., Any],
) -> None:
    """By hand: samples of all roles, or of the responder alone; clusters without documents are a line in the log."""
    rows_ = [{"paragraphs": [f"fact {i} {d}" for d in range(3)], "task": TASKS[i % 3]} for i in range(6)]
    asked = {"general": "x", "numeric": "3", "choice": "A"}
    questions = [
        row | {"question": "q", "answer": asked[str(row["task"])], "options": dict.fromkeys("ABCD", "o")}
        for row in rows_
    ]
    empty = {"paragraphs": [], "task": "general"}
    (tmp_path / "clusters.jsonl").write_text("\n".join(map(json.dumps, [*rows_, empty])))
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    run = tmp_path / "run"
    arguments = RUN.replace("--steps 3 --warmup-steps 2 --warmup-rows 8", f"--steps 1 --model {base}")
    files = (
        f"--clusters {tmp_path}/clusters.jsonl --eval-questions {tmp_path}/questions.jsonl --verifier self"
    )
    more = "--votes 3 --verifier-share 1 --old-logprobs learner --temperature 0.7 --top-p 0.95"
    command = arguments.replace("train spell", f"train spell {files} {more} {frozen}").replace(
        "--votes 1", ""
    )
    assert main([*command.split(), str(run)]) == 0
    last = rows(run)[-1]
    samples = {key.removeprefix("samples/") for key in last if key.startswith("samples/")}
    assert samples == ({RESPONDER} if frozen else {QUESTIONER, RESPONDER, VERIFIER})
    assert last["trained_tokens"] > 0
    assert {"held_out/numeric", "held_out/choice"} & last.keys()
    assert "clusters: 1 of 7 have no documents and are left out" in capsys.readouterr().err
