"""SPELL: one policy asks about documents, answers and judges.  Yang et al. 2025, arXiv 2509.23863.

A questioner writes questions about clusters of documents, a responder answers each of them several times, a verifier
votes on the answers; hard questions are remembered and shown to the questioner when their cluster comes again. All
roles learn in one on-policy update, each from its own choice of samples. The preset `nano` plays a language of facts
that is judged exactly (`play/fact_game.py`). docs/papers.md lists every difference from the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import numpy as np

from selfplay_fast.config import Count, Natural, NotNegative, Nucleus, Positive, Share, above, same_named
from selfplay_fast.evaluate.document_scores import (
    answer_metrics,
    document_metrics,
    sample_metrics,
    tell_of_readings,
)
from selfplay_fast.learn import (
    TokenBatch,
    Update,
    distributed,
    only_turns,
    pack_replies,
    ppo_clip_loss,
    segment_normalise,
    update,
)
from selfplay_fast.learn.advantages import Advantages
from selfplay_fast.learn.group_selection import drawn, is_consistent, matched_negatives
from selfplay_fast.play import Cast, fact_game, play_dialogues
from selfplay_fast.play.document_game import (
    ASKED,
    BAD_FORMAT,
    BAD_GROUND,
    Rules,
    Setting,
    answer_game,
    document_table,
    is_useful,
)
from selfplay_fast.play.document_rules import QUESTIONER, RESPONDER, TASKS, VERIFIER, Difficulty
from selfplay_fast.play.documents import Cluster, Memory, Mode, read_clusters, read_questions
from selfplay_fast.play.fact_game import FactSettings
from selfplay_fast.policies import Policy
from selfplay_fast.policies.judges import load_judge
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano_of
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode
from selfplay_fast.run import Run
from selfplay_fast.settings import SampleConfig
from selfplay_fast.throughput import Throughput
from selfplay_fast.training import (
    adam,
    computed_in,
    finish_step,
    load_first,
    load_warmed_up,
    notes_of,
    played,
    save_step,
    start,
)

FACTS = "facts"


def train(config: Config, run: Run) -> None:
    """Self-play from the first step, or from the newest checkpoint of the run."""
    config = config.resolved()
    setting = setting_of(config, run.note)
    policy, optimizer, state = start(
        config,
        run,
        build=partial(load_policy, config, run),
        optimizer_of=partial(adam, rate=config.learning_rate),
        evaluate=partial(_evaluate, config, setting, full=True),
    )
    rules = replace(setting.rules, count_tokens=lambda text: len(policy.encode([text])[0]))
    frozen = dict.fromkeys(config.frozen, load_first(config, run)) if config.frozen else {}
    cast = {**dict.fromkeys((QUESTIONER, RESPONDER, VERIFIER), policy), **frozen, **setting.others}
    memory = Memory(mode=config.history_mode, length=config.history)
    memory = memory if state.rollouts is None else memory.with_state(state.rollouts)
    settings = Update(
        **config.limits(),
        loss=ppo_clip_loss(config.clip, dual_clip=config.dual_clip),
        old=config.old_logprobs,
        token_mean=True,
    )
    throughput = Throughput(run, policy, computed_in(config))
    for step in run.steps(config.steps, start=state.step):
        seed = derive_seed(config.seed, step)
        with run.phase("rollout"):
            if config.responder == "walker":
                cast[RESPONDER] = config.walker(step, config.steps)
            episodes, memory = rollout(config, setting.clusters, cast, rules, memory, seed)
        metrics = document_metrics(episodes)
        with run.phase("advantages"):
            chosen, advantages = selected(config, episodes, seed)
            batch = packed(episodes, chosen, advantages)
        tell_of_readings(
            notes_of(run, step),
            episodes,
            chosen,
            wanted=config.questions_per_step,
            verifier=config.verifier,
        )
        metrics |= sample_metrics(episodes, chosen)
        if batch is not None:
            with run.phase("update"):
                metrics |= update(policy, optimizer, batch, settings)
            metrics |= throughput.metrics(episodes, batch)
        evaluate = partial(_evaluate, config, setting, policy)
        save = partial(save_step, run, policy, optimizer, rollouts=memory.state())
        last = step == config.steps
        finish_step(config, run, step, metrics, episodes, advantages, last=last, evaluate=evaluate, save=save)


def rollout(
    config: Config, clusters: Sequence[Cluster], cast: Cast, rules: Rules, memory: Memory, seed: int
) -> tuple[list[Episode], Memory]:
    """Readings until there are enough questions to learn from, and what is remembered after them."""
    done: list[Episode] = []
    most = config.most_rounds * config.clusters_per_round
    while len(done) < most and (found := sum(map(is_useful, done))) < config.questions_per_step:
        readings = memory.readings(
            clusters,
            min(_admitted(config, found, len(done)), most - len(done)),
            seed=derive_seed(config.seed, 0, 1),
            shown=config.documents,
            verify_right=config.verify_right,
        )
        new = played(cast, partial(document_table, readings, seed=seed, rules=rules))
        memory = memory.after(new)
        done += new
    return done, memory


def _admitted(config: Config, found: int, played: int) -> int:
    """How many readings are begun next. None stops before its end, or short ones would be preferred."""
    if config.admission == "rounds":
        return config.clusters_per_round
    missing = config.questions_per_step - found
    return -(-missing * played // found) if found else config.clusters_per_round if played else missing


def selected(config: Config, episodes: Sequence[Episode], seed: int) -> tuple[list[list[int]], Advantages]:
    """Which turns of each episode are learned from, and the advantage of every turn, 0 for those that are not.

    The responder: all answers to the first ``questions_per_step`` useful questions. The questioner: these questions and
    for each of them one without a use, task by task. The verifier: votes that nearly agree with each other and agree
    with the rule. (reward - mean) / (std + 1e-6) over the answers to a question, the questions of a task, the votes on
    an answer; a sample that is alone keeps its reward.
    """
    useful = [i for i, episode in enumerate(episodes) if is_useful(episode)]
    good = useful[: config.questions_per_step]
    places: list[tuple[int, int, str]] = []  # (episode, turn, group)
    if RESPONDER in config.roles:
        places += [(i, t, f"answers {i}") for i in good for t in episodes[i].kept["answers_at"]]
    if QUESTIONER in config.roles:
        wasted = _negatives(config, episodes, good, set(useful), seed)
        places += [(i, 0, f"questions {_task(episodes[i])}") for i in sorted(good + wasted)]
    if VERIFIER in config.roles:
        count = int(len(good) * config.answers * config.verifier_share / max(1, config.votes))
        places += [
            (i, t, f"votes {i} {k}") for i, k, own in _votes(config, episodes, count, seed) for t in own
        ]
    chosen: list[list[int]] = [[] for _ in episodes]
    advantages = [[0.0] * len(episode.turns) for episode in episodes]
    if places:
        rewards = np.array([episodes[i].turns[t].reward for i, t, _ in places])
        groups = np.unique([group for _, _, group in places], return_inverse=True)[1]
        normalised = segment_normalise(rewards, groups, scale="unbiased", eps=1e-6, keep_singletons=True)
        for (i, t, _), advantage in zip(places, normalised.tolist(), strict=True):
            chosen[i].append(t)
            advantages[i][t] = advantage
    return [sorted(own) for own in chosen], advantages


def _task(episode: Episode) -> str:
    return str(episode.kept["reading"].cluster.task)


def _negatives(
    config: Config, episodes: Sequence[Episode], good: Sequence[int], useful: set[int], seed: int
) -> list[int]:
    """Readings without a use for the responder: badly formed, not grounded, or all answers worth the same."""
    paid = {BAD_FORMAT, BAD_GROUND, ASKED}
    wasted = [i for i, e in enumerate(episodes) if e.kept["status"] in paid and i not in useful]
    tasks, others = ([_task(episodes[i]) for i in own] for own in (good, wasted))
    taken = matched_negatives(tasks, others, TASKS, ratio=config.negative_ratio, seed=derive_seed(seed, 1))
    return [wasted[k] for k in taken]


def _votes(
    config: Config, episodes: Sequence[Episode], count: int, seed: int
) -> list[tuple[int, int, list[int]]]:
    """(episode, answer, turns) of so many groups of votes, of none where there are fewer."""
    groups = [
        (i, k, places)
        for i, episode in enumerate(episodes)
        if episode.kept["status"] == ASKED
        for k, places in enumerate(episode.kept["votes_at"])
        if places
    ]
    if not groups:
        return []
    votes, most, rule = (
        np.array([episodes[i].kept[name][k] for i, k, _ in groups]) for name in ("votes", "judged", "rule")
    )
    rule = rule if config.consistent else most
    kept = is_consistent(votes, most, rule, least=config.least_agreement, most=config.most_agreement)
    candidates = np.flatnonzero(kept)
    return (
        [groups[k] for k in drawn(candidates, count, derive_seed(seed, 2))]
        if len(candidates) >= count
        else []
    )


def packed(
    episodes: Sequence[Episode], chosen: Sequence[Sequence[int]], advantages: Advantages
) -> TokenBatch | None:
    """The chosen turns, one sample each, behind one another without padding; None where a model said none of them."""
    own = [[row[t] for t in turns] for row, turns in zip(advantages, chosen, strict=True)]
    return pack_replies(only_turns(episodes, chosen), own)


def _evaluate(config: Config, setting: Setting, policy: LanguageModel, *, full: bool) -> dict[str, float]:
    """The responder's scores on questions that nobody here has asked; a third of them between first and last step.

    Nothing where it is not the policy that answers.
    """
    if config.responder != "self":
        return {}
    asked = setting.questions if full else setting.questions[: -(-len(setting.questions) // 3)]
    protocol = partial(answer_game, replace(setting.rules, answers=config.eval_answers))
    seed = derive_seed(config.seed, -1)
    return answer_metrics(
        distributed.play_dealt(partial(play_dialogues, {RESPONDER: policy}, protocol, asked, seed=seed))
    )


def setting_of(config: Config, note: Callable[[str], None]) -> Setting:
    """What the configuration names; ValueError where a file cannot be read or a verifier does not answer."""
    rules = same_named(Rules, config, sampling=config.sampling(top_p=config.top_p))
    if config.clusters == FACTS:
        return fact_game.setting(
            rules, clusters=config.fact_clusters, questions=config.eval_games, seed=config.seed
        )
    clusters, empty = read_clusters(config.clusters)
    if empty:
        note(f"clusters: {empty} of {empty + len(clusters)} have no documents and are left out")
    others: dict[str, Policy] = {}
    if config.votes and config.verifier != "self":
        others[VERIFIER] = load_judge(
            config.verifier, "verifier", device=distributed.local_device(config.device)
        )
    questions = read_questions(config.eval_questions)[: config.eval_games]
    return Setting(clusters=clusters, questions=questions, rules=rules, others=others)


def load_policy(config: Config, run: Run) -> LanguageModel:
    """The model named by the configuration; nano is made for the language of facts, and warmed up on its form."""
    shown = partial(fact_game.demonstrations, config.warmup_rows, answers=config.responder == "self")
    texts = fact_game.demonstrations(2048, seed=0)
    nano = partial(build_nano_of, *texts, config.seed, whole_words=True)
    rate = config.warmup_learning_rate
    return load_warmed_up(config, run, nano=nano, demonstrations=shown, learning_rate=rate, layer_rate=0.3)


@dataclass(frozen=True, kw_only=True)
class Config(FactSettings, SampleConfig):
    """SPELL's settings; the defaults are the `nano` preset."""

    max_tokens: Count = 40
    eval_every: Count = 20
    checkpoint_every: Count = 20
    clusters: str = FACTS
    """what is read: `facts`, nano's language, or a file of JSON lines with `paragraphs` and `task`"""
    eval_questions: str = FACTS
    """what evaluations ask: `facts`, or a file of JSON lines with `question` and `answer` beside these"""
    verifier: str = "exact"
    """who judges answers: `self`, the policy; `exact`, nano's; `server:URL#MODEL` or `model:FOLDER`"""
    responder: Literal["self", "walker"] = "walker"
    """who answers: `self`, the policy; or, in nano's language, `walker`, which goes right at each hop with chance
    `hop_accuracy`, so that the questioner learns alone"""
    frozen: tuple[str, ...] = ()
    """roles that do not learn, `questioner` or `verifier`; the model of step 0 plays them"""
    steps: Natural = 40
    """self-play iterations, an optimizer step each"""
    questions_per_step: Count = 16
    """questions to learn from: neither all answers to them are right nor none"""
    clusters_per_round: Count = 24
    """readings begun at a time, until there are enough of these questions"""
    most_rounds: Count = 2
    """times so many readings, after which an iteration takes what there is"""
    admission: Literal["rounds", "as_needed"] = "rounds"
    """`as_needed`: begin as many readings as the share of good questions so far asks for"""
    answers: Count = 8
    """answers to each question, G"""
    votes: Natural = 8
    """judgements of each answer; 0: the rule alone judges"""
    verify_right: Share = 1.0
    """of the readings, the share in which answers that are right by the rule are judged too; what they are paid is the
    same, but only there are they votes to learn from"""
    documents: Count = 4
    """documents that the questioner has not seen, m"""
    history: Natural = 3
    """questions of a cluster that are remembered, L"""
    history_mode: Mode = "paper"
    """which: those neither all right nor all wrong, with the documents that were new; `code`: those with any right
    answer, with all that were shown"""
    difficulty: Difficulty = "gaussian"
    """what a question is worth by its success p: `gaussian`, `reverse` (1 - p) or `rzero` (1 - 2 |p - 0.5|)"""
    width: Positive = 0.5 / 3
    """sigma of the gaussian"""
    format_penalty: NotNegative = 1.0
    """for a reply that holds no valid question"""
    grounding: bool = True
    """drop questions that are answered without documents"""
    ground_penalty: NotNegative = 0.5
    """for such a question"""
    ground_first: bool = True
    """answer questions once it is known that they pass; off: at the same time, in fewer steps and more tokens"""
    longest_answer: Count = 40
    """tokens of the questioner's answer; questions with longer ones are dropped"""
    negative_ratio: NotNegative = 1.0
    """questions without a use for the responder that the questioner learns from, for each one with"""
    verifier_share: Share = 0.125
    """samples of the verifier, to those of the responder"""
    consistent: bool = True
    """the verifier learns from votes only whose majority is what the rule says"""
    least_agreement: Share = 0.51
    """of the votes with the majority, where the verifier learns from them"""
    most_agreement: Share = 0.99
    """the same, from above"""
    learning_rate: NotNegative = 2e-4
    """AdamW's, betas 0.9 and 0.95, constant"""
    dual_clip: Annotated[float, above(1)] = 3.0
    """bound of the ratio where the advantage is negative"""
    top_p: Nucleus = 1.0
    """nucleus"""
    old_logprobs: Literal["learner", "sampler"] = "learner"
    """whose log-probs the ratio is taken to"""
    eval_games: Count = 90
    """questions of an evaluation"""
    eval_answers: Count = 4
    """answers to each of them"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := sorted(set(self.frozen) - {QUESTIONER, VERIFIER}):
            raise ValueError(f"frozen: must be {QUESTIONER}, {VERIFIER} or both, got {wrong[0]!r}")
        own = (self.clusters == FACTS, self.eval_questions == FACTS, self.verifier == "exact")
        if len(set(own)) > 1:
            raise ValueError(
                "clusters, eval_questions, verifier: facts are a language of their own, with the verifier exact; take "
                f"all of it or none, got {self.clusters!r}, {self.eval_questions!r}, {self.verifier!r}"
            )
        if self.responder == "walker" and self.clusters != FACTS:
            raise ValueError(f"responder: walker knows facts only; set it to self for {self.clusters}")

    @property
    def roles(self) -> tuple[str, ...]:
        """Who learns: the policy's roles that are not frozen."""
        own = {QUESTIONER: "self", RESPONDER: self.responder, VERIFIER: self.verifier}
        return tuple(role for role, player in own.items() if player == "self" and role not in self.frozen)


PRESETS = {
    "nano": Config(),
    "paper": Config(
        model="Qwen/Qwen2.5-7B-Instruct",
        clusters="clusters.jsonl",
        eval_questions="eval_questions.jsonl",
        verifier="self",
        responder="self",
        steps=70,
        questions_per_step=128,
        clusters_per_round=480,
        most_rounds=10,
        documents=5,
        learning_rate=2e-6,
        temperature=0.7,
        top_p=0.95,
        max_tokens=4096,
        eval_every=10,
        eval_games=1000,
        eval_answers=8,
        checkpoint_every=10,
    ),
}
