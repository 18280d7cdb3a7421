"""SPaR: a refiner judges and mends what an actor writes, and both learn from it.  Cheng et al. 2024, arXiv 2412.11605.

An iteration: the actor answers every prompt a few times, the refiner votes on the answers; from one that was voted
down a tree of refinements is searched. What passes is preferred to what the search began with (DPO for the actor); the
last refinement and judgements that were not unanimous are imitated (fine-tuning for the refiner). The rows of an
iteration stay in the run's folder, as TRL's trainers take them. The preset `nano` learns word tasks that a rule can
judge, after a supervised warm-up that stands for the paper's bootstrapping. docs/papers.md lists every difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from selfplay_fast.arguments import shown
from selfplay_fast.config import Count, Natural, NotNegative, Nucleus, Positive, Share, nearest, same_named
from selfplay_fast.evaluate.refinement import acceptance_metrics, held_out_metrics
from selfplay_fast.learn import (
    Update,
    distributed,
    pack_dialogues,
    pack_pairs,
    preference_update,
    rpo_loss,
    update,
)
from selfplay_fast.learn.chat_rows import Row, shuffled
from selfplay_fast.learn.losses import negative_log_likelihood
from selfplay_fast.learn.schedules import constant_rates, linear_rates
from selfplay_fast.learners import save_second_model, second_model
from selfplay_fast.model_folder import folder_facts
from selfplay_fast.play import Cast, RefinePrompts
from selfplay_fast.play.prompt_sets import WORDS, PromptSet, prompt_set
from selfplay_fast.play.refine_data import negatives, preference_rows, refiner_rows, response_rows
from selfplay_fast.play.refine_table import ACTOR, REFINER, refine_table
from selfplay_fast.play.word_demonstrations import WordSettings, demonstration_texts, demonstrations
from selfplay_fast.play.word_tasks import PROMPTS, read_word_task, rule_judge
from selfplay_fast.policies import Policy
from selfplay_fast.policies.judges import load_judge
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano_of
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Sampling
from selfplay_fast.refine_search import Draft, Refined, RefineOptions, best_of
from selfplay_fast.run import Run
from selfplay_fast.settings import ModelConfig
from selfplay_fast.training import (
    adam,
    fresh_adam,
    load_model,
    load_warmed_up,
    played,
    save_step,
    start,
    write_rows,
)

JUDGE = "judge"
_BETAS = (0.9, 0.999)  # AdamW's, in the trainer of the released code


def train(config: Config, run: Run) -> None:
    """Iterations from the first, or from the newest checkpoint of the run."""
    config = config.resolved()
    distributed.check_enough(config.prompts_per_step, "prompts_per_step")
    prompts = prompt_set(config.prompts, config.held_out_prompts, config.seed)
    others = judges(config, prompts)

    def refiner_after(step: int, actor: LanguageModel) -> LanguageModel:
        return second_model(config, run, REFINER, step, build=partial(first_refiner, config, run, actor))

    def evaluate_first(actor: LanguageModel) -> dict[str, float]:
        return evaluate(config, {ACTOR: actor, REFINER: refiner_after(0, actor), **others}, prompts)

    actor, _, state = start(
        config,
        run,
        build=partial(load_actor, config, run, prompts),
        optimizer_of=partial(adam, rate=0.0),  # every iteration begins with a fresh one
        evaluate=evaluate_first,
    )
    refiner = refiner_after(state.step, actor)
    cast = {ACTOR: actor, REFINER: refiner, **others}
    for step in run.steps(config.steps, start=state.step):
        seed = derive_seed(config.seed, step)
        with run.phase("rollout"):
            judged = respond(config, cast, prompts.of_step(step, config.prompts_per_step), seed)
            begun = negatives(judged, seed=seed)
            trees = search(config, cast, [draft for _, draft in begun], seed)
        pairs = preference_rows(trees) if config.refines else response_rows(judged, begun, seed=seed)
        dialogues = refiner_rows(trees, judged=judged, seed=seed, prompts=texts_of(config))
        write_rows(run.directory / "preferences", step, pairs)
        write_rows(run.directory / "dialogues", step, dialogues)
        for policy in (actor, refiner):  # one's keys and values are in the other's way
            policy.forget()
        with run.phase("update"):
            metrics = prefer(config, actor, pairs, seed) | imitate(config, refiner, dialogues, seed)
        metrics |= acceptance_metrics(judged, trees) | {"pairs": len(pairs), "dialogues": len(dialogues)}
        with run.phase("evaluation"):
            metrics |= evaluate(config, cast, prompts)
        run.log(step, metrics)
        with run.phase("checkpoint"):
            save_second_model(run, REFINER, step, refiner)
        save_step(run, actor, fresh_adam(actor), step)


def respond(config: Config, cast: Cast, prompts: Sequence[str], seed: int) -> list[Refined]:
    """The actor's responses to every prompt, each judged once: a tie is no judgement."""
    options = replace(best_of(config.responses), judgements=config.judgements, judge_attempts=1)
    drafts = [Draft(prompt=prompt) for prompt in prompts]
    return grown(config, cast, drafts, options, derive_seed(seed, 1), config.samplings())


def search(config: Config, cast: Cast, drafts: Sequence[Draft], seed: int) -> list[Refined]:
    """The trees that begin with responses voted down, in an ablation one refinement; none where pairs need none."""
    if not config.refines:
        return []
    options = config.options()
    if config.pairs == "refinement":
        options = replace(options, branch=1, keep=1, depth=1)
    return grown(config, cast, drafts, options, derive_seed(seed, 2), config.samplings())


def grown(
    config: Config,
    cast: Cast,
    drafts: Sequence[Draft],
    options: RefineOptions,
    seed: int,
    samplings: Mapping[str, Sampling],
) -> list[Refined]:
    """The trees of all drafts, dealt to the ranks; without those to which a server gave no reply."""
    table = partial(
        refine_table,
        drafts,
        seed=seed,
        options=options,
        prompts=texts_of(config),
        samplings=samplings,
        judge_role=REFINER if config.judge == REFINER else JUDGE,
        keep_turns=False,
    )
    return [e.kept["refined"] for e in played(cast, table) if "refined" in e.kept]


def prefer(config: Config, actor: LanguageModel, rows: Sequence[Row], seed: int) -> dict[str, float]:
    """DPO with a weight on the likelihood of what was chosen, against the actor as it is now."""
    pairs = pack_pairs(actor, shuffled(rows, seed), max_tokens=config.dpo_cutoff)
    if not pairs.num_pairs:
        return {}
    steps = config.dpo_epochs * -(-pairs.num_pairs // config.pairs_per_update)
    metrics = preference_update(
        actor,
        fresh_adam(actor, betas=_BETAS),
        pairs.compared_with(actor),
        rpo_loss(config.beta, nll_weight=config.nll_weight),
        minibatch=config.pairs_per_update,
        epochs=config.dpo_epochs,
        rates=linear_rates(steps, peak=config.dpo_rate, warmup=config.rate_warmup),
        max_grad_norm=config.max_grad_norm,
        max_batch_tokens=config.max_batch_tokens,
    )
    return {f"dpo_{name}": value for name, value in metrics.items()}


def imitate(config: Config, refiner: LanguageModel, rows: Sequence[Row], seed: int) -> dict[str, float]:
    """Fine-tuning on all that the refiner says in its dialogues."""
    if not rows:
        return {}
    most = config.sft_cutoff
    batch = pack_dialogues(refiner, shuffled(rows, seed), max_tokens=most, setting="sft_cutoff")
    steps = config.sft_epochs * -(-batch.num_samples // config.dialogues_per_update)
    settings = Update(
        loss=negative_log_likelihood,
        old="sampler",  # a ratio is of no use here, and would cost a pass
        epochs=config.sft_epochs,
        minibatch=config.dialogues_per_update,
        rates=constant_rates(steps, peak=config.sft_rate, warmup=config.rate_warmup),
        max_grad_norm=config.max_grad_norm,
        max_batch_tokens=config.max_batch_tokens,
    )
    metrics = update(refiner, fresh_adam(refiner, betas=_BETAS), batch, settings)
    return {f"sft_{name}": metrics[name] for name in ("loss", "grad_norm")}


def evaluate(config: Config, cast: Cast, prompts: PromptSet) -> dict[str, float]:
    """On held-out prompts: a response each that passes, and what passes after a search that begins with it."""
    samplings = config.samplings()
    samplings["respond"] = replace(samplings["respond"], temperature=config.eval_temperature)
    seed = derive_seed(config.seed, -1)
    once = replace(best_of(1), judgements=config.judgements)
    drafts = [Draft(prompt=prompt) for prompt in prompts.held_out]
    first = grown(config, cast, drafts, once, seed, samplings)
    begun = [
        Draft(prompt=tree.draft.prompt, response=tree.nodes[1].response)
        for tree in first
        if len(tree.nodes) > 1
    ]
    found = grown(config, cast, begun, config.options(), derive_seed(seed, 1), samplings)
    return held_out_metrics(prompts, first, found)


def texts_of(config: Config) -> RefinePrompts:
    """How the roles are spoken to."""
    return PROMPTS if config.texts == "brief" else RefinePrompts()


def judges(config: Config, prompts: PromptSet) -> dict[str, Policy]:
    """Who judges besides the refiner."""
    if config.judge == REFINER:
        return {}
    if config.judge == "rule":
        assert prompts.read is not None
        return {JUDGE: rule_judge(prompts.read, texts_of(config))}
    return {JUDGE: load_judge(config.judge)}


def check_server(name: str) -> None:
    """ValueError where it names none."""
    if not name.startswith("server:"):
        raise ValueError(f"judge: must be rule, {REFINER} or server:URL#MODEL, got {shown(name)}")
    from selfplay_fast.policies.openai_server import OpenAIServer  # of an extra

    try:
        OpenAIServer.from_name(name)
    except ValueError as error:
        raise ValueError(f"judge: {error}") from None


def load_actor(config: Config, run: Run, prompts: PromptSet) -> LanguageModel:
    """The actor before the first iteration, warmed up on what both roles say if so configured."""
    if config.refiner:
        folder_facts(config.refiner, "refiner")
    tasks = [read_word_task(prompt) for prompt in prompts.train] if config.warmup_steps else []
    return load_warmed_up(
        config,
        run,
        nano=lambda: build_nano_of(*demonstration_texts(), config.seed, soft=True),
        demonstrations=lambda seed: demonstrations(
            tasks, config.warmup_dialogues, seed, care=config.warmup_care, skill=config.warmup_skill
        ),
        learning_rate=config.warmup_rate,
    )


def first_refiner(config: Config, run: Run, actor: LanguageModel) -> LanguageModel:
    """The model that is named, or the actor as it is at first."""
    return load_model(replace(config, model=config.refiner), (), run.status) if config.refiner else actor


@dataclass(frozen=True, kw_only=True)
class Config(WordSettings, ModelConfig):
    """SPaR's settings; the defaults are the `nano` preset."""

    refiner: str = ""
    """the refiner that is trained beside it; empty: a copy of the actor, warmed up as it is"""
    prompts: str = WORDS
    """`words` (tasks that a rule judges), or a JSONL file of objects with a `prompt`"""
    held_out_prompts: Count = 200
    """prompts to be measured on, never learned from"""
    judge: str = "rule"
    """who votes: the `refiner`, a `rule` (exact, for tasks that have one), or a server:URL#MODEL"""
    texts: Literal["brief", "full"] = "brief"
    """how the roles are spoken to: `full` explains, `brief` is for nano, which has learned what is wanted"""
    steps: Natural = 3
    """iterations"""
    prompts_per_step: Count = 260
    """prompts of an iteration, others than those before while there are any"""
    responses: Count = 5
    """the actor's, to each prompt"""
    judgements: Count = 5
    """votes on a response; the majority counts, a tie is no judgement"""
    pairs: Literal["search", "refinement", "response"] = "search"
    """what is preferred to a response voted down: what a tree search found; the ablations: one refinement of it, or
    another response of the actor that passed"""
    order: Literal["bfs", "dfs"] = "bfs"
    """the search refines the best of each level, or the best child first"""
    branch: Count = 3
    """refinements of a response"""
    keep: Count = 2
    """how many responses of a level are refined further"""
    depth: Count = 3
    """levels of a search"""
    accept: Share = 0.5
    """a share of votes above it ends the search"""
    actor_temperature: NotNegative = 0.9
    """of the actor's responses"""
    actor_top_p: Nucleus = 0.9
    """their nucleus"""
    refiner_temperature: NotNegative = 0.7
    """of judgements and refinements"""
    max_tokens: Count = 10
    """length limit of a response"""
    judge_tokens: Count = 14
    """length limit of a judgement"""
    refine_tokens: Count = 24
    """length limit of a refinement"""
    eval_temperature: NotNegative = 0.9
    """of the responses to held-out prompts; 0: greedy"""
    beta: Positive = 0.1
    """of DPO"""
    nll_weight: NotNegative = 1.0
    """of the chosen responses' mean negative log-likelihood, added to DPO's loss"""
    dpo_rate: NotNegative = 5e-4
    """AdamW's peak for the actor; rises over `rate_warmup`, falls in a line to 0"""
    dpo_epochs: Count = 3
    """passes over the pairs"""
    pairs_per_update: Count = 16
    """pairs per optimizer step"""
    dpo_cutoff: Count = 2048
    """longer pairs are left out"""
    sft_rate: NotNegative = 3e-4
    """AdamW's peak for the refiner; rises over `rate_warmup` and stays"""
    sft_epochs: Count = 2
    """passes over the dialogues"""
    dialogues_per_update: Count = 16
    """dialogues per optimizer step"""
    sft_cutoff: Count = 4096
    """longer dialogues are left out"""
    rate_warmup: Share = 0.1
    """share of an iteration's optimizer steps over which its learning rates rise"""
    max_grad_norm: Positive = 1.0
    """gradient clipping"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.options()
        self.samplings()
        if self.judge == "rule" and self.prompts != WORDS:
            raise ValueError(
                f"judge: no rule judges the prompts of {self.prompts}{nearest(self.prompts, [WORDS])}; "
                "set it to refiner"
            )
        if self.judge not in ("rule", REFINER):
            check_server(self.judge)
        if self.model == "nano" and self.prompts != WORDS:
            raise ValueError(
                "model: nano is warmed up for the task words only; name another, or --prompts words"
            )

    @property
    def uses_reference(self) -> bool:
        return True  # the refiner lies beside the actor, and memory is counted for both

    @property
    def refines(self) -> bool:
        """Do pairs come from refinements?"""
        return self.pairs != "response"

    def options(self) -> RefineOptions:
        """How trees are searched."""
        return same_named(RefineOptions, self)

    def samplings(self) -> dict[str, Sampling]:
        """How replies are drawn."""
        refines = partial(Sampling, temperature=self.refiner_temperature)
        return {
            "respond": Sampling(
                temperature=self.actor_temperature, top_p=self.actor_top_p, max_tokens=self.max_tokens
            ),
            "judge": refines(max_tokens=self.judge_tokens),
            "refine": refines(max_tokens=self.refine_tokens),
        }


PRESETS = {
    "nano": Config(),
    "paper": Config(
        model="meta-llama/Meta-Llama-3-8B-Instruct",
        prompts="prompts.jsonl",
        texts="full",
        judge=REFINER,
        prompts_per_step=10_000,
        max_tokens=2048,
        judge_tokens=2048,
        refine_tokens=3072,
        nll_weight=0.1,
        dpo_rate=2e-7,
        dpo_epochs=1,
        pairs_per_update=32,
        sft_rate=2e-6,
        sft_epochs=5,
        eval_temperature=0.0,
        dialogues_per_update=64,
    ),
}
