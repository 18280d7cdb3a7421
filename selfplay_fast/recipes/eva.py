"""eva: a creator evolves the prompts that a solver learns most from.  Ye et al. 2024, arXiv 2411.00062.

In every iteration the solver answers a set of prompts a few times and a reward model scores the responses. The creator
draws prompts by a proxy of regret, how much better the best response is than another, and evolves each in a chain of
mutations. The solver answers these too, and learns from a mix of old and new prompts by a preference loss or RLOO.
The creator is the policy itself, a model, a server, or a rule. The preset `nano` learns graded sums
(`play/graded_sums.py`). docs/papers.md lists every difference from the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch

from selfplay_fast.config import (
    Count,
    Natural,
    NotNegative,
    Nucleus,
    Positive,
    Share,
    Temperature,
    check_warmed_up,
)
from selfplay_fast.evaluate.evolution import held_out_metrics, prompt_metrics
from selfplay_fast.games import Style
from selfplay_fast.learn import (
    RoleBaseline,
    TokenBatch,
    Update,
    checkpoint,
    distributed,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    leave_one_out_advantages,
    orpo_loss,
    pack,
    pack_pairs,
    preference_update,
    reinforce_loss,
    rpo_loss,
    simpo_loss,
    sppo_loss,
    update,
)
from selfplay_fast.learn.preferences import PreferenceLoss
from selfplay_fast.learn.schedules import cosine_rates, linear_rates
from selfplay_fast.learn.warmup import demonstration_batch, imitate
from selfplay_fast.play import Cast, DialogueTable, graded_sums, play
from selfplay_fast.play.evolve_prompts import GRADED, METHODS, EvolvePrompts, chosen_methods
from selfplay_fast.play.evolving import (
    CREATOR,
    SCORER,
    SOLVER,
    Answered,
    Prompt,
    Row,
    Rules,
    answer_table,
    answered_in,
    evolve_table,
    filled,
    group_episode,
    mixed,
    preference_rows,
    read_prompts,
    without_copies,
)
from selfplay_fast.play.informativeness import Method, check_metric, choose, informativeness
from selfplay_fast.policies import Policy
from selfplay_fast.policies.adapters import check_installed
from selfplay_fast.policies.judges import load_judge
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano_of
from selfplay_fast.policies.reward_models import function_reward, load_reward_model
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode, Sampling
from selfplay_fast.run import Run
from selfplay_fast.settings import ModelConfig
from selfplay_fast.training import adam, fresh_adam, load_model, start, trained, write_rows

SUMS, RULE, POLICY = "sums", "rule", "policy"
Tell = Callable[[str], None]
Loss = Literal["dpo", "ipo", "rpo", "sppo", "simpo", "orpo", "hinge", "rloo"]

# Of a loss: beta, optimizer, how its rate falls, passes over the pairs
_DEFAULTS: dict[str, tuple[float, str, str, int]] = {
    "dpo": (0.05, "adamw", "cosine", 2),
    "ipo": (0.05, "adamw", "cosine", 2),
    "rpo": (0.1, "adamw", "cosine", 1),
    "sppo": (0.001, "rmsprop", "linear", 2),
    "simpo": (2.0, "adamw", "cosine", 2),
    "orpo": (0.1, "adamw", "cosine", 2),
    "hinge": (0.05, "adamw", "cosine", 2),
    "rloo": (0.0, "adamw", "cosine", 1),
}


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """eva's settings; the defaults are the `nano` preset."""

    prompts: str = SUMS
    """what is answered at first: `sums`, nano's, or a file of JSON lines with `prompt` and, if you like, `topic`"""
    eval_prompts: str = SUMS
    """what is only measured on, as `prompts`; the first `eval_count`"""
    eval_count: Count = 240
    """prompts of an evaluation"""
    creator: str = RULE
    """who evolves prompts: the `policy` itself, `server:URL#MODEL` with OpenAI's interface, `model:FOLDER`, or for
    sums a `rule`"""
    reward_model: str = RULE
    """who scores: `classifier:FOLDER` with one label, `server:URL#MODEL`, which is asked for a grade, or for sums a
    `rule` (exact)"""
    reward_timeout: Positive = 120.0
    """seconds until an attempt to ask a server has failed; a response that gets no reward is left out"""
    steps: Natural = 8
    """iterations"""
    prompts_per_step: Count = 96
    """prompts of an iteration (N)"""
    next_prompts: Literal["split", "evolved"] = "evolved"
    """an iteration's: the next of `prompts`, or those that the last iteration learned from, filled up from its own"""
    plain_step: bool = False
    """learn from an iteration's prompts once before they are evolved (the paper's plain iteration)"""
    responses: Count = 6
    """to each prompt"""
    temperature: Temperature = 1.0
    """of responses"""
    top_p: Nucleus = 1.0
    """their nucleus"""
    max_tokens: Count = 18
    """their length limit"""
    metric: str = "reward_gap"
    """how informative a prompt is: `reward_gap` (best - worst reward), `reward_maxmean` (best - mean), `reward_dts`
    (best - second best), `reward_var`, `reward_mean`, `reward_mean_inv`, or `uniform`, the ablation"""
    sampling: Method = "importance_weighted"
    """how prompts are drawn to be evolved: by weight without replacement, the best, by weight in each of ten quantiles,
    or by weight and how rare their topic is"""
    fraction: Share = 0.25
    """of the prompts that are drawn"""
    topic_share: Share = 0.25
    """what rare topics are worth in `iw_topic`, of 1"""
    evolutions: Count = 4
    """mutations in the chain of each drawn prompt"""
    evolve_methods: tuple[str, ...] = tuple(METHODS)
    """ways to mutate, drawn evenly; sums have their own"""
    creator_temperature: NotNegative = 0.88
    """of mutations"""
    creator_tokens: Count = 40
    """their length limit"""
    score_tokens: Count = 512
    """length limit of a server's grade"""
    keep_copies: bool = False
    """keep evolved prompts that are there already"""
    base_share: Share = 0.2
    """of the prompts of an iteration that go into the mix that is learned from"""
    evolved_share: Share = 0.8
    """of the evolved prompts in it"""
    keep_equal: bool = False
    """keep pairs of prompts whose responses are all worth the same: the first response against itself"""
    loss: Loss = "dpo"
    """what is learned by: a loss of pairs, best against worst response, or `rloo` of all responses"""
    beta: Positive | None = None
    """of the loss, in `orpo` its weight; None: dpo, ipo and hinge 0.05, rpo and orpo 0.1, sppo 0.001, simpo 2"""
    nll_weight: NotNegative = 1.0
    """in `rpo`, of the chosen responses' mean negative log-likelihood"""
    simpo_margin: NotNegative = 1.0
    """in `simpo`, what chosen responses should be ahead by"""
    optimizer: Literal["adamw", "rmsprop"] | None = None
    """a fresh one in every iteration; None: rmsprop for sppo, else adamw"""
    learning_rate: NotNegative = 4e-4
    """its peak"""
    learning_rate_decay: Literal["cosine", "linear"] | None = None
    """down to 0 within an iteration; None: linear for sppo, else cosine"""
    rate_warmup: Share = 0.1
    """share of an iteration's optimizer steps over which the rate rises"""
    epochs: Count | None = None
    """passes over an iteration's pairs; None: 1 for rpo and rloo, else 2"""
    prompts_per_update: Count = 16
    """pairs of an optimizer step, or in `rloo` prompts with their responses"""
    pair_cutoff: Count = 2048
    """longer pairs are left out"""
    max_grad_norm: Positive = 1.0
    """gradient clipping"""
    max_loss: Positive = 1e6
    """a loss of `rloo` beyond it has exploded, and the run stops"""
    warmup_steps: Natural | None = None
    """supervised steps on sums before all else: what stands for a pretrained model in nano; None: 150 for nano, 0 for
    other models"""
    warmup_rows: Count = 64
    """responses of each of these steps"""
    warmup_terms: Count = 3
    """sums of so many terms are right in all of them"""
    warmup_care: Share = 0.5
    """chance that a term of a longer one is right on purpose"""
    warmup_learning_rate: NotNegative = 3e-3
    """of the warm-up"""
    eval_temperature: NotNegative = 1.0
    """of responses in evaluations; 0: greedy"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metric(self.metric)
        chosen_methods(self.evolve_methods)
        check_warmed_up(self.model, self.warmup_steps)
        own = [self.prompts == SUMS, self.eval_prompts == SUMS, self.reward_model == RULE]
        if len(set(own)) > 1:
            raise ValueError(
                f"prompts, eval_prompts, reward_model: a rule scores {SUMS} and nothing else, all three are nano's "
                f"or none is; got {self.prompts!r}, {self.eval_prompts!r}, {self.reward_model!r}"
            )
        if self.creator == RULE and self.prompts != SUMS:
            raise ValueError(f"creator: no rule evolves the prompts of {self.prompts}; set it to {POLICY}")
        if self.model == "nano" and self.prompts != SUMS:
            raise ValueError(f"model: nano's words are those of {SUMS}; name another, or --prompts {SUMS}")
        if self.warmup_terms >= graded_sums.MOST_TERMS:
            raise ValueError(f"warmup_terms: must be below {graded_sums.MOST_TERMS}, got {self.warmup_terms}")

    @property
    def style(self) -> Style:
        """Prompts are chats."""
        return "spiral"

    def resolved(self) -> Config:
        """With the published settings of its loss, where none are given, and the warm-up that this model gets."""
        names = ("beta", "optimizer", "learning_rate_decay", "epochs")
        own = dict(zip(names, _DEFAULTS[self.loss], strict=True))
        if self.loss == "rloo":
            del own["beta"]  # it has none
        own["warmup_steps"] = 150 if self.model == "nano" else 0
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})  # type: ignore[arg-type]

    def rules(self) -> Rules:
        """How prompts are answered, scored and evolved."""
        common = Rules(
            responses=self.responses,
            evolutions=self.evolutions,
            solver=Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens),
            creator=Sampling(temperature=self.creator_temperature, max_tokens=self.creator_tokens),
            scorer=Sampling(temperature=0, max_tokens=self.score_tokens),
        )
        if self.prompts == SUMS:
            return replace(common, prompts=graded_sums.PROMPTS, topic_of=graded_sums.topic_of)
        prompts = GRADED if self.reward_model.startswith("server:") else EvolvePrompts()
        return replace(common, prompts=replace(prompts, methods=chosen_methods(self.evolve_methods)))


PRESETS = {
    "nano": Config(),
    "paper": Config(
        model="google/gemma-2-9b-it",
        prompts="ultrafeedback.jsonl",
        eval_prompts="eval_prompts.jsonl",
        creator=POLICY,
        reward_model="classifier:RLHFlow/ArmoRM-Llama3-8B-v0.1",
        steps=1,
        prompts_per_step=10_000,
        next_prompts="split",
        plain_step=True,
        temperature=0.7,
        top_p=0.9,
        max_tokens=2048,
        creator_tokens=666,
        keep_copies=True,
        keep_equal=True,
        learning_rate=5e-7,
        prompts_per_update=64,
    ),
}


def train(config: Config, run: Run) -> None:
    """Iterations from the first, or from the newest checkpoint of the run."""
    config = config.resolved()
    torch.set_num_threads(config.threads)
    if config.lora_rank:
        check_installed()
    distributed.check_enough(config.prompts_per_step, "prompts_per_step")
    setting = Setting.of(config)
    policy, idle, state = start(
        config,
        run,
        build=partial(load_policy, config, run),
        optimizer_of=partial(adam, rate=0.0),  # every iteration begins with a fresh one
        evaluate=lambda policy: evaluate(config, setting, setting.cast(policy)),
        baseline=RoleBaseline(),
    )
    cast = setting.cast(policy)
    for step in run.steps(config.steps, start=state.step):
        seed = derive_seed(config.seed, step)
        tell = partial(_tell, run, step)
        metrics: dict[str, float] = {}
        base = setting.prompts_of(config, run, step)
        if config.plain_step:
            with run.phase("rollout"):
                plain = answer(config, tell, cast, base, derive_seed(seed, 1))
            with run.phase("update"):
                learned = learn(config, tell, policy, plain, seed)
            kept = preference_rows(plain, keep_equal=config.keep_equal)
            write_rows(run.directory / "plain", step, kept)
            metrics |= {f"plain_step/{name}": value for name, value in learned.items()}
        with run.phase("rollout"):
            answered = answer(config, tell, cast, base, derive_seed(seed, 2))
            drawn = draw(config, tell, answered, derive_seed(seed, 3))
            evolved, episodes = evolve(config, tell, cast, drawn, base, derive_seed(seed, 4))
        mix = mixed(
            answered,
            evolved,
            base_share=config.base_share,
            evolved_share=config.evolved_share,
            seed=derive_seed(seed, 5),
        )
        following = filled([one.prompt for one in mix], base)
        write_rows(run.directory / "prompts", step, [_prompt_row(prompt) for prompt in following])
        write_rows(run.directory / "preferences", step, preference_rows(mix, keep_equal=config.keep_equal))
        with run.phase("update"):
            metrics |= learn(config, tell, policy, mix, seed)
        metrics |= prompt_metrics(answered, drawn, evolved)
        with run.phase("evaluation"):
            metrics |= evaluate(config, setting, cast)
        run.log(step, metrics, episodes)
        with run.phase("checkpoint"):
            done = checkpoint.TrainState(step=step, baseline=state.baseline)
            checkpoint.save_checkpoint(run.checkpoints, policy, idle, done)


def answer(config: Config, tell: Tell, cast: Cast, prompts: Sequence[Prompt], seed: int) -> list[Answered]:
    """The solver's responses to every prompt, scored; without prompts that have no scored response.

    ValueError where none has one.
    """
    answered = answered_in(dealt(cast, partial(answer_table, config.rules(), prompts, seed=seed)))
    kept = scored(tell, answered)
    if not kept and any(one.unscored for one in answered):
        raise ValueError(f"reward_model: no response got a reward; does {config.reward_model} answer?")
    if not kept:
        raise ValueError("prompts: none leaves room for a response; use a model with a longer context")
    return kept


def draw(config: Config, tell: Tell, answered: Sequence[Answered], seed: int) -> list[Prompt]:
    """The prompts to evolve: so many of all, by how informative they are."""
    values = informativeness([one.rewards for one in answered], config.metric)
    if config.metric != "uniform" and len(set(values.tolist())) == 1:
        tell(f"{config.metric} is {values[0]:g} for all prompts, so they are drawn evenly")
    count = int(config.fraction * len(answered))
    topics = [one.prompt.topic for one in answered]
    places = choose(values, count, config.sampling, seed=seed, topics=topics, topic_share=config.topic_share)
    if len(places) < count and config.sampling != "stratified":
        tell(f"only {len(places)} of {count} prompts have any weight; fewer are evolved")
    return [answered[place].prompt for place in places]


def evolve(
    config: Config, tell: Tell, cast: Cast, drawn: Sequence[Prompt], base: Sequence[Prompt], seed: int
) -> tuple[list[Answered], list[Episode]]:
    """What the creator makes of the drawn prompts, answered and scored, and the dialogues that this took."""
    episodes = dealt(cast, partial(evolve_table, config.rules(), drawn, seed=seed))
    if failed := sum(episode.kept["failed"] for episode in episodes):
        tell(f"{failed} of {len(drawn) * config.evolutions} mutations say nothing new and are left out")
    evolved = answered_in(episodes)
    if not evolved:
        tell("no prompt was evolved; only prompts that were there are learned from")
        return [], episodes
    if not config.keep_copies:
        kept = without_copies(evolved, base)
        if copies := len(evolved) - len(kept):
            tell(f"{copies} of {len(evolved)} evolved prompts are copies and are left out")
        evolved = kept
    return scored(tell, evolved), episodes


def learn(
    config: Config, tell: Tell, policy: LanguageModel, answered: Sequence[Answered], seed: int
) -> dict[str, float]:
    """Passes of preference optimisation over the pairs of these prompts, or RLOO on all responses."""
    if config.loss == "rloo":
        return reinforce(config, tell, policy, answered)
    rows = preference_rows(answered, keep_equal=config.keep_equal)
    return prefer(config, tell, policy, _shuffled(rows, seed)) | {"pairs": len(rows)}


def prefer(config: Config, tell: Tell, policy: LanguageModel, rows: Sequence[Row]) -> dict[str, float]:
    """A preference loss, against the policy as it is now where the loss needs a reference."""
    pairs = pack_pairs(policy, rows, max_tokens=config.pair_cutoff)
    if not pairs.num_pairs:
        tell("no prompt has a better and a worse response, so nothing is learned")
        return {}
    assert config.epochs is not None
    steps = config.epochs * -(-pairs.num_pairs // config.prompts_per_update)
    return preference_update(
        policy,
        optimizer_of(config, policy),
        pairs if config.loss in ("simpo", "orpo") else pairs.compared_with(policy),
        loss_of(config),
        minibatch=config.prompts_per_update,
        epochs=config.epochs,
        rates=rates_of(config, steps),
        max_grad_norm=config.max_grad_norm,
        max_batch_tokens=config.max_batch_tokens,
    )


def reinforce(
    config: Config, tell: Tell, policy: LanguageModel, answered: Sequence[Answered]
) -> dict[str, float]:
    """RLOO on all responses to prompts of which some are better than others."""
    telling = [one for one in answered if one.differs]
    if not telling:
        tell("no prompt has a better and a worse response, so nothing is learned")
        return {}
    assert config.epochs is not None
    episodes = [group_episode(one, number) for number, one in enumerate(telling)]
    advantages = leave_one_out_advantages([one.rewards for one in telling])
    batch = pack(episodes, advantages, token_normaliser=1, skip_zero_advantages=False)
    size = config.prompts_per_update * config.responses
    settings = Update(
        loss=reinforce_loss,
        epochs=config.epochs,
        minibatch=size,
        old="sampler",
        rates=rates_of(config, config.epochs * -(-batch.num_samples // size)),
        max_grad_norm=config.max_grad_norm,
        max_loss=config.max_loss,
        max_batch_tokens=config.max_batch_tokens,
    )
    return update(policy, optimizer_of(config, policy), batch, settings) | {"groups": len(telling)}


def evaluate(config: Config, setting: Setting, cast: Cast) -> dict[str, float]:
    """One response to each held-out prompt: its reward, in all and by topic."""
    sampling = Sampling(temperature=config.eval_temperature, max_tokens=config.max_tokens)
    rules = replace(config.rules(), responses=1, solver=sampling)
    seed = derive_seed(config.seed, -1)
    return held_out_metrics(
        answered_in(dealt(cast, partial(answer_table, rules, setting.eval_prompts, seed=seed)))
    )


def dealt(cast: Cast, table: Callable[..., DialogueTable]) -> list[Episode]:
    """The dialogues of a table, over all ranks."""
    return distributed.play_dealt(lambda share: play(cast, [table(share=share)]))


def scored(tell: Tell, answered: Sequence[Answered]) -> list[Answered]:
    """The prompts that have a scored response, and a line for what is missing."""
    came = sum(len(one.turns) + one.unscored for one in answered)
    if lost := sum(one.lost for one in answered):
        tell(f"{lost} of {came + lost} responses did not come or had no room")
    if unscored := sum(one.unscored for one in answered):
        tell(f"{unscored} of {came} responses got no reward and are left out")
    return [one for one in answered if one.turns]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a configuration names: prompts, the reward model, and a creator unless it is the policy."""

    prompts: Sequence[Prompt]
    eval_prompts: Sequence[Prompt]
    reward_model: Policy
    creator: Policy | None

    @classmethod
    def of(cls, config: Config) -> Setting:
        """ValueError, naming the setting, where a file cannot be read or a model does not answer."""
        if config.prompts == SUMS:
            prompts, eval_prompts = nano_prompts(config)
            reward_model = function_reward(graded_sums.reward)
        else:
            prompts = read_prompts("prompts", config.prompts)
            eval_prompts = read_prompts("eval_prompts", config.eval_prompts)[: config.eval_count]
            device = distributed.local_device(config.device)
            reward_model = load_reward_model(
                config.reward_model, device=device, timeout=config.reward_timeout
            )
        if config.prompts_per_step > len(prompts):
            raise ValueError(
                f"prompts_per_step: {config.prompts_per_step} are more than there are, {len(prompts)}; use fewer"
            )
        return cls(
            prompts=prompts,
            eval_prompts=eval_prompts,
            reward_model=reward_model,
            creator=load_creator(config),
        )

    def cast(self, policy: LanguageModel) -> Cast:
        """Who plays which role."""
        return {SOLVER: policy, CREATOR: self.creator or policy, SCORER: self.reward_model}

    def prompts_of(self, config: Config, run: Run, step: int) -> list[Prompt]:
        """Those of iteration 1, 2, …: after the last split the first again, each in an order of the seed's."""
        if step > 1 and config.next_prompts == "evolved":
            return read_prompts("prompts", run.directory / "prompts" / f"step-{step - 1:06d}.jsonl")
        count = config.prompts_per_step
        order = np.random.default_rng(derive_seed(config.seed, 0, 1)).permutation(len(self.prompts))
        return [self.prompts[order[i % len(order)]] for i in range((step - 1) * count, step * count)]


def load_creator(config: Config) -> Policy | None:
    """Who evolves prompts, unless it is the policy itself."""
    if config.creator == POLICY:
        return None
    if config.creator == RULE:
        return graded_sums.rule_creator()
    try:
        return load_judge(config.creator, device=distributed.local_device(config.device))
    except ValueError as error:
        raise ValueError(f"creator: {str(error).removeprefix('judge: ')}") from None


def loss_of(config: Config) -> PreferenceLoss:
    """The loss of pairs that the configuration names."""
    beta = config.beta
    assert beta is not None
    makers: dict[str, Callable[[], PreferenceLoss]] = {
        "dpo": lambda: dpo_loss(beta),
        "ipo": lambda: ipo_loss(beta),
        "rpo": lambda: rpo_loss(beta, nll_weight=config.nll_weight),
        "sppo": lambda: sppo_loss(beta),
        "simpo": lambda: simpo_loss(beta, margin=config.simpo_margin),
        "orpo": lambda: orpo_loss(beta),
        "hinge": lambda: hinge_loss(beta),
    }
    return makers[config.loss]()


def optimizer_of(config: Config, policy: LanguageModel) -> torch.optim.Optimizer:
    """A fresh one, AdamW with the betas of the released code's trainer."""
    if config.optimizer == "adamw":
        return fresh_adam(policy, betas=(0.9, 0.999))
    with distributed.sharded(policy.model):
        return torch.optim.RMSprop(trained(policy), lr=config.learning_rate)


def rates_of(config: Config, steps: int) -> list[float]:
    """The learning rates of an iteration's optimizer steps."""
    peak, rise = config.learning_rate, config.rate_warmup
    if config.learning_rate_decay == "linear":
        return linear_rates(steps, peak=peak, warmup=rise)
    return cosine_rates(range(steps), steps + 1, peak=peak, least=0.0, warmup=math.ceil(rise * steps))


def nano_prompts(config: Config) -> tuple[list[Prompt], list[Prompt]]:
    """Sums to begin with that are all but mastered, and held-out sums of all lengths."""
    count = config.prompts_per_step * (config.steps if config.next_prompts == "split" else 1)
    lengths = [1 + i % (1 + config.warmup_terms) for i in range(count)]
    every = [1 + i % graded_sums.MOST_TERMS for i in range(config.eval_count)]
    return graded_sums.sums(lengths, derive_seed(config.seed, 0, 2)), graded_sums.sums(every, 0)


def load_policy(config: Config, run: Run) -> LanguageModel:
    """The solver before the first iteration; nano is made for sums, and shown that short ones are easy."""
    shown = partial(
        graded_sums.demonstrations,
        careful_terms=config.warmup_terms,
        care=config.warmup_care,
        creator=config.creator == POLICY,
    )
    policy = load_model(config, (), run.status, build=partial(_nano, config))
    if config.warmup_steps:

        def batch_of(step: int) -> TokenBatch:
            rows = shown(config.warmup_rows, derive_seed(config.seed, 0, step))
            return demonstration_batch(policy, *rows)

        imitate(
            policy,
            batch_of,
            steps=config.warmup_steps,
            learning_rate=config.warmup_learning_rate,
            layer_rate=1.0,
            progress=run.status,
        )
    return policy


def _nano(config: Config) -> tuple[object, object]:
    prompts, replies = graded_sums.demonstrations(2000, 0, careful_terms=0, care=0.0, creator=True)
    return build_nano_of(prompts, replies, config.seed, whole_words=True, soft=True)


def _tell(run: Run, step: int, text: str) -> None:
    run.note(f"step {step}: {text}")


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def _prompt_row(prompt: Prompt) -> Row:
    return {"prompt": prompt.text, "topic": prompt.topic}
