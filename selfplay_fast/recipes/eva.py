"""eva: a creator evolves the prompts that a solver learns most from.  Ye et al. 2024, arXiv 2411.00062.

In every iteration the solver answers a set of prompts a few times and a reward model scores the responses. The creator
draws prompts by a proxy of regret, how much better the best response is than another, and evolves each in a chain of
mutations. The solver answers these too, and learns from a mix of old and new prompts by a preference loss or RLOO.
The creator is the policy itself, a model, a server, or a rule. The preset `nano` learns graded sums
(`play/graded_sums.py`). docs/papers.md lists every difference from the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch.optim import Optimizer, RMSprop

from selfplay_fast.config import Count, Natural, NotNegative, Nucleus, Positive, Share, Temperature
from selfplay_fast.evaluate.evolution import held_out_metrics, prompt_metrics, scored
from selfplay_fast.learn import (
    Update,
    distributed,
    leave_one_out_advantages,
    pack_pairs,
    pack_replies,
    preference_update,
    reinforce_loss,
    update,
)
from selfplay_fast.learn.chat_rows import Row, shuffled
from selfplay_fast.learn.preferences import FREE_OF_REFERENCE, PreferenceLoss, loss_called
from selfplay_fast.learn.schedules import falling_rates
from selfplay_fast.play import Cast, graded_sums
from selfplay_fast.play.evolve_prompts import GRADED, METHODS, EvolvePrompts, chosen_methods
from selfplay_fast.play.evolving import (
    Answered,
    Prompt,
    Rules,
    Setting,
    answer_table,
    answered_in,
    evolve_table,
    filled,
    group_episode,
    mixed,
    preference_rows,
    prompt_rows,
    read_prompts,
    without_copies,
)
from selfplay_fast.play.graded_sums import SumSettings
from selfplay_fast.play.informativeness import Method, check_metric, choose, informativeness
from selfplay_fast.policies import Policy
from selfplay_fast.policies.judges import load_judge
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano_of
from selfplay_fast.policies.reward_models import load_reward_model
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode, Sampling
from selfplay_fast.run import Run
from selfplay_fast.settings import ModelConfig
from selfplay_fast.training import (
    adam,
    fresh_adam,
    load_warmed_up,
    notes_of,
    played,
    save_step,
    start,
    trained,
    write_rows,
)

SUMS, RULE, POLICY = "sums", "rule", "policy"
Note = Callable[[str], None]
Loss = Literal["dpo", "ipo", "rpo", "sppo", "simpo", "orpo", "hinge", "rloo"]


def train(config: Config, run: Run) -> None:
    """Iterations from the first, or from the newest checkpoint of the run."""
    config = config.resolved()
    distributed.check_enough(config.prompts_per_step, "prompts_per_step")
    setting = setting_of(config)
    policy, idle, state = start(
        config,
        run,
        build=partial(load_policy, config, run),
        optimizer_of=partial(adam, rate=0.0),  # every iteration begins with a fresh one
        evaluate=lambda policy: evaluate(config, setting, setting.cast(policy)),
    )
    cast = setting.cast(policy)
    for step in run.steps(config.steps, start=state.step):
        seed, note = derive_seed(config.seed, step), notes_of(run, step)
        metrics: dict[str, float] = {}
        base = prompts_of(config, setting, run, step)
        if config.plain_step:
            with run.phase("rollout"):
                plain = answer(config, note, cast, base, derive_seed(seed, 1))
            with run.phase("update"):
                learned = learn(config, note, policy, plain, seed)
            kept = preference_rows(plain, keep_equal=config.keep_equal)
            write_rows(run.directory / "plain", step, kept)
            metrics |= {f"plain_step/{name}": value for name, value in learned.items()}
        with run.phase("rollout"):
            answered = answer(config, note, cast, base, derive_seed(seed, 2))
            drawn = draw(config, note, answered, derive_seed(seed, 3))
            evolved, episodes = evolve(config, note, cast, drawn, base, derive_seed(seed, 4))
        shares = {"base_share": config.base_share, "evolved_share": config.evolved_share}
        mix = mixed(answered, evolved, **shares, seed=derive_seed(seed, 5))
        following = filled([one.prompt for one in mix], base)
        write_rows(run.directory / "prompts", step, prompt_rows(following))
        write_rows(run.directory / "preferences", step, preference_rows(mix, keep_equal=config.keep_equal))
        with run.phase("update"):
            metrics |= learn(config, note, policy, mix, seed)
        metrics |= prompt_metrics(answered, drawn, evolved)
        with run.phase("evaluation"):
            metrics |= evaluate(config, setting, cast)
        run.log(step, metrics, episodes)
        save_step(run, policy, idle, step)


def answer(config: Config, note: Note, cast: Cast, prompts: Sequence[Prompt], seed: int) -> list[Answered]:
    """The solver's responses to every prompt, scored; without prompts that have no scored response.

    ValueError where none has one.
    """
    answered = answered_in(played(cast, partial(answer_table, config.rules(), prompts, seed=seed)))
    kept = scored(note, answered)
    if not kept and any(one.unscored for one in answered):
        raise ValueError(f"reward_model: no response got a reward; does {config.reward_model} answer?")
    if not kept:
        raise ValueError("prompts: none leaves room for a response; use a model with a longer context")
    return kept


def draw(config: Config, note: Note, answered: Sequence[Answered], seed: int) -> list[Prompt]:
    """The prompts to evolve: so many of all, by how informative they are."""
    values = informativeness([one.rewards for one in answered], config.metric)
    if config.metric != "uniform" and len(set(values.tolist())) == 1:
        note(f"{config.metric} is {values[0]:g} for all prompts, so they are drawn evenly")
    count = int(config.fraction * len(answered))
    topics = [one.prompt.topic for one in answered]
    places = choose(values, count, config.sampling, seed=seed, topics=topics, topic_share=config.topic_share)
    if len(places) < count and config.sampling != "stratified":
        note(f"only {len(places)} of {count} prompts have any weight; fewer are evolved")
    return [answered[place].prompt for place in places]


def evolve(
    config: Config, note: Note, cast: Cast, drawn: Sequence[Prompt], base: Sequence[Prompt], seed: int
) -> tuple[list[Answered], list[Episode]]:
    """What the creator makes of the drawn prompts, answered and scored, and the dialogues that this took."""
    episodes = played(cast, partial(evolve_table, config.rules(), drawn, seed=seed))
    if failed := sum(episode.kept["failed"] for episode in episodes):
        note(f"{failed} of {len(drawn) * config.evolutions} mutations say nothing new and are left out")
    evolved = answered_in(episodes)
    if not evolved:
        note("no prompt was evolved; only prompts that were there are learned from")
        return [], episodes
    if not config.keep_copies:
        kept = without_copies(evolved, base)
        if copies := len(evolved) - len(kept):
            note(f"{copies} of {len(evolved)} evolved prompts are copies and are left out")
        evolved = kept
    return scored(note, evolved), episodes


def learn(
    config: Config, note: Note, policy: LanguageModel, answered: Sequence[Answered], seed: int
) -> dict[str, float]:
    """Passes of preference optimisation over the pairs of these prompts, or RLOO on all responses."""
    if config.loss == "rloo":
        return reinforce(config, note, policy, answered)
    rows = preference_rows(answered, keep_equal=config.keep_equal)
    return prefer(config, note, policy, shuffled(rows, seed)) | {"pairs": len(rows)}


def prefer(config: Config, note: Note, policy: LanguageModel, rows: Sequence[Row]) -> dict[str, float]:
    """A preference loss, against the policy as it is now where the loss needs a reference."""
    pairs = pack_pairs(policy, rows, max_tokens=config.pair_cutoff)
    if not pairs.num_pairs:
        note("no prompt has a better and a worse response, so nothing is learned")
        return {}
    assert config.epochs is not None
    steps = config.epochs * -(-pairs.num_pairs // config.prompts_per_update)
    return preference_update(
        policy,
        config.fresh_optimizer(policy),
        pairs if config.loss in FREE_OF_REFERENCE else pairs.compared_with(policy),
        config.pair_loss(),
        minibatch=config.prompts_per_update,
        epochs=config.epochs,
        rates=config.rates(steps),
        max_grad_norm=config.max_grad_norm,
        max_batch_tokens=config.max_batch_tokens,
    )


def reinforce(
    config: Config, note: Note, policy: LanguageModel, answered: Sequence[Answered]
) -> dict[str, float]:
    """RLOO on all responses to prompts of which some are better than others."""
    telling = [one for one in answered if one.differs]
    if not telling:
        note("no prompt has a better and a worse response, so nothing is learned")
        return {}
    assert config.epochs is not None
    episodes = [group_episode(one, number) for number, one in enumerate(telling)]
    advantages = leave_one_out_advantages([one.rewards for one in telling])
    batch = pack_replies(episodes, advantages)
    assert batch is not None
    size = config.prompts_per_update * config.responses
    settings = Update(
        loss=reinforce_loss,
        epochs=config.epochs,
        minibatch=size,
        old="sampler",
        rates=config.rates(config.epochs * -(-batch.num_samples // size)),
        max_grad_norm=config.max_grad_norm,
        max_loss=config.max_loss,
        max_batch_tokens=config.max_batch_tokens,
    )
    return update(policy, config.fresh_optimizer(policy), batch, settings) | {"groups": len(telling)}


def evaluate(config: Config, setting: Setting, cast: Cast) -> dict[str, float]:
    """One response to each held-out prompt: its reward, in all and by topic."""
    sampling = Sampling(temperature=config.eval_temperature, max_tokens=config.max_tokens)
    rules = replace(config.rules(), responses=1, solver=sampling)
    table = partial(answer_table, rules, setting.eval_prompts, seed=derive_seed(config.seed, -1))
    return held_out_metrics(answered_in(played(cast, table)))


def prompts_of(config: Config, setting: Setting, run: Run, step: int) -> list[Prompt]:
    """Those that iteration 1, 2, … begins with: a split of its own, or what the iteration before has left."""
    if step > 1 and config.next_prompts == "evolved":
        return read_prompts("prompts", run.directory / "prompts" / f"step-{step - 1:06d}.jsonl")
    return setting.split(step, config.prompts_per_step, derive_seed(config.seed, 0, 1))


def setting_of(config: Config) -> Setting:
    """What the configuration names; ValueError where a file cannot be read or a model does not answer."""
    if config.prompts == SUMS:
        setting = graded_sums.setting(
            prompts=config.prompts_per_step * (config.steps if config.next_prompts == "split" else 1),
            eval_prompts=config.eval_count,
            mastered=config.warmup_terms,
            seed=config.seed,
        )
    else:
        setting = Setting(
            prompts=read_prompts("prompts", config.prompts),
            eval_prompts=read_prompts("eval_prompts", config.eval_prompts)[: config.eval_count],
            reward_model=load_reward_model(
                config.reward_model,
                device=distributed.local_device(config.device),
                timeout=config.reward_timeout,
            ),
        )
    if config.prompts_per_step > len(setting.prompts):
        raise ValueError(
            f"prompts_per_step: {config.prompts_per_step} are more than there are, {len(setting.prompts)}; use fewer"
        )
    return replace(setting, creator=load_creator(config))


def load_creator(config: Config) -> Policy | None:
    """Who evolves prompts, unless it is the policy itself."""
    if config.creator == POLICY:
        return None
    if config.creator == RULE:
        return graded_sums.rule_creator()
    return load_judge(config.creator, "creator", device=distributed.local_device(config.device))


def load_policy(config: Config, run: Run) -> LanguageModel:
    """The solver before the first iteration; nano is made for sums, and shown that short ones are easy."""
    shown = partial(
        graded_sums.demonstrations,
        config.warmup_rows,
        careful_terms=config.warmup_terms,
        care=config.warmup_care,
        creator=config.creator == POLICY,
    )
    return load_warmed_up(
        config,
        run,
        nano=lambda: build_nano_of(*graded_sums.texts(), config.seed, whole_words=True, soft=True),
        demonstrations=shown,
        learning_rate=config.warmup_learning_rate,
    )


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
class Config(SumSettings, ModelConfig):
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
    eval_temperature: NotNegative = 1.0
    """of responses in evaluations; 0: greedy"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metric(self.metric)
        chosen_methods(self.evolve_methods)
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

    def resolved(self) -> Config:
        """With the published settings of its loss, where none are given, and the warm-up that this model gets."""
        names = ("beta", "optimizer", "learning_rate_decay", "epochs")
        own = dict(zip(names, _DEFAULTS[self.loss], strict=True))
        if self.loss == "rloo":
            del own["beta"]  # it has none
        missing = {name: value for name, value in own.items() if getattr(self, name) is None}
        return replace(super().resolved(), **missing)

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
            return graded_sums.rules(common)
        prompts = GRADED if self.reward_model.startswith("server:") else EvolvePrompts()
        return replace(common, prompts=replace(prompts, methods=chosen_methods(self.evolve_methods)))

    def pair_loss(self) -> PreferenceLoss:
        """The loss of pairs."""
        assert self.beta is not None
        return loss_called(
            self.loss, beta=self.beta, nll_weight=self.nll_weight, simpo_margin=self.simpo_margin
        )

    def fresh_optimizer(self, policy: LanguageModel) -> Optimizer:
        """That of an iteration, AdamW with the betas of the released code's trainer."""
        if self.optimizer == "adamw":
            return fresh_adam(policy, betas=(0.9, 0.999))
        with distributed.sharded(policy.model):
            return RMSprop(trained(policy), lr=self.learning_rate)

    def rates(self, steps: int) -> list[float]:
        """The learning rates of an iteration's optimizer steps."""
        assert self.learning_rate_decay is not None
        return falling_rates(
            self.learning_rate_decay, steps, peak=self.learning_rate, warmup=self.rate_warmup
        )


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
