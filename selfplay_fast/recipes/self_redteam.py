"""Self-RedTeam: one policy attacks and defends, its reasoning hidden.  Liu et al. 2025, arXiv 2506.07468.

An attacker rewrites seeds, a defender answers them, a judge labels both; both roles learn by REINFORCE++, whitened by
role, beside supervised batches. The preset `nano` plays a language of trigger words that is judged exactly
(`play/trigger_game.py`). docs/papers.md lists every difference from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from selfplay_fast.config import Count, Natural, NotNegative, Positive, Share
from selfplay_fast.evaluate.attack_scores import (
    attack_metrics,
    counted_games,
    diversity_metrics,
    tell_of_games,
)
from selfplay_fast.learn import (
    Beside,
    TokenBatch,
    Update,
    batch_logprobs,
    distributed,
    only_roles,
    pack_replies,
    ppo_clip_loss,
    reinforce_pp_advantages,
    shaped_rewards,
    update,
)
from selfplay_fast.learn.chat_rows import read_rows, row_batches
from selfplay_fast.learn.losses import k1_kl
from selfplay_fast.learners import Weights, save_all, with_adapters_of
from selfplay_fast.play import Cast, trigger_game
from selfplay_fast.play.attack_game import (
    Rules,
    Seed,
    Setting,
    attack_table,
    mark_attacked,
    read_seeds,
    seeds_of_step,
)
from selfplay_fast.play.attack_prompts import DIRECT_PROMPTS, AttackPrompts
from selfplay_fast.play.attack_rules import ATTACKER, DEFENDER, JUDGE, Payoff
from selfplay_fast.play.trigger_game import TriggerSettings
from selfplay_fast.policies.judges import load_judge
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano_of
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode, Sampling
from selfplay_fast.run import Run
from selfplay_fast.settings import SampleConfig
from selfplay_fast.throughput import Throughput
from selfplay_fast.training import (
    adam,
    computed_in,
    finish_step,
    load_first,
    load_reference,
    load_warmed_up,
    notes_of,
    played,
    start,
)

TRIGGERS = "triggers"


def train(config: Config, run: Run) -> None:
    """Self-play from the first step, or from the newest checkpoint of the run."""
    config = config.resolved()
    distributed.check_enough(config.prompts_per_step, "prompts_per_step")
    setting = setting_of(config)
    policy, optimizer, state = start(
        config,
        run,
        build=partial(load_policy, config, run),
        optimizer_of=partial(adam, rate=config.learning_rate),
        evaluate=lambda policy: _evaluate(
            config, setting, {ATTACKER: policy, DEFENDER: policy, JUDGE: setting.judge}
        ),
    )
    learners = _learners(config, run, policy, optimizer, state.step)
    cast = {ATTACKER: learners[-1].policy, DEFENDER: learners[-1].policy, JUDGE: setting.judge}
    cast |= {role: learner.policy for learner in learners for role in learner.roles}
    if config.roles == "attacker":
        cast[DEFENDER] = load_first(config, run)
    throughput = Throughput(run, policy, computed_in(config), learners[-1].reference)
    for step in run.steps(config.steps, start=state.step):
        seed = derive_seed(config.seed, step)
        with run.phase("rollout"):
            seeds = seeds_of_step(setting.seeds, step, config.prompts_per_step, config.seed)
            games = played(cast, partial(attack_table, seeds, seed=seed, rules=setting.rules))
            episodes, dropped = counted_games(games, remove_ties=config.remove_ties)
            tell_of_games(notes_of(run, step), episodes, dropped, judge=config.judge)
        metrics = {f"dropped/{why}": float(number) for why, number in dropped.items()}
        metrics |= attack_metrics(episodes)
        for learner in learners:  # one's keys and values are in the other's way
            learner.policy.forget()
        for learner in learners:
            batch = pack_replies(only_roles(episodes, learner.roles))
            if batch is None:
                continue
            with run.phase("advantages"):
                batch, about = _with_advantages(config, batch, learner, episodes)
            with run.phase("update"):
                beside = _beside(config, setting, learner.policy, seed)
                shuffled = batch.shuffled(seed)
                about |= update(learner.policy, learner.optimizer, shuffled, config.update(), beside=beside)
            metrics |= learner.named(about)
            if learner.policy is policy:
                metrics |= throughput.metrics(episodes, batch)
        evaluate = partial(_evaluate, config, setting, cast)
        save = partial(save_all, run, learners)
        last = step == config.steps
        finish_step(config, run, step, metrics, episodes, None, last=last, evaluate=evaluate, save=save)


def _with_advantages(
    config: Config, batch: TokenBatch, learner: Weights, episodes: Sequence[Episode]
) -> tuple[TokenBatch, dict[str, float]]:
    """REINFORCE++: rewards with the divergence of each token, summed from behind, whitened by role."""
    own = torch.from_numpy(batch.sampler_logprobs)
    if config.old_logprobs == "learner":
        own = batch_logprobs(learner.policy, batch, config.update())
    kl = torch.zeros_like(own)
    if config.kl:
        kl = k1_kl(own, batch_logprobs(learner.policy, batch, config.update(), reference=learner.reference))
    offsets, mask = torch.from_numpy(batch.offsets), torch.from_numpy(batch.weights > 0)
    rewards = torch.from_numpy(batch.advantages[batch.offsets[:-1]])
    shaped = shaped_rewards(rewards, offsets, kl, kl_coef=config.kl, limit=config.reward_limit, mask=mask)
    said_by = [turn.ask.role for episode in only_roles(episodes, learner.roles) for turn in episode.turns]
    roles = torch.tensor([learner.roles.index(role) for role in said_by]).repeat_interleave(offsets.diff())
    advantages, _ = reinforce_pp_advantages(
        shaped, offsets, roles if config.whitened_by == "role" else None, mask
    )
    known = replace(batch, advantages=advantages.float().numpy(), sampler_logprobs=own.numpy())
    return known, {"kl": float(kl[mask].mean())}


def _beside(config: Config, setting: Setting, policy: LanguageModel, seed: int) -> Beside | None:
    """Supervised batches for the optimizer steps of one update."""
    if not (config.sft and setting.rows):
        return None
    seed, name = derive_seed(seed, 1), "demonstrations"
    batches = row_batches(policy, setting.rows, size=config.sft_rows, seed=seed, setting=name)
    return Beside(batches=batches, weight=config.sft)


def _evaluate(config: Config, setting: Setting, cast: Cast, *, full: bool = True) -> dict[str, float]:
    """The defender against held-out seeds as they are, and the attacks of the attacker on training seeds; always in
    ``full``."""
    seed = derive_seed(config.seed, -1)
    half = max(1, config.eval_games // 2)
    metrics: dict[str, float] = {}
    for name, seeds, share in (("held_out", setting.held_out, 0.0), ("attacks", setting.seeds, 1.0)):
        drawn = [seeds[i % len(seeds)] for i in range(half)]
        marked = mark_attacked(drawn, share, 0)
        table = partial(attack_table, marked, seed=derive_seed(seed, int(share)), rules=setting.rules)
        episodes, _ = counted_games(played(cast, table))
        metrics |= attack_metrics(episodes, name) | diversity_metrics(episodes, name)
    return metrics


def _learners(
    config: Config, run: Run, policy: LanguageModel, optimizer: Optimizer, step: int
) -> list[Weights]:
    """One for all roles that learn; or a second one for the attacker, with adapters beside the same frozen weights."""
    own = Weights(
        roles=(ATTACKER, DEFENDER) if config.roles == "both" else (config.roles,),
        policy=policy,
        optimizer=optimizer,
        reference=load_reference(config, run, policy) if config.uses_reference else None,
        folder=run.checkpoints,
    )
    if not config.lora_per_role:
        return [own]
    return with_adapters_of(ATTACKER, own, config, run, step, rate=config.learning_rate)


def setting_of(config: Config) -> Setting:
    """What the configuration names. ValueError, naming the setting, where a file cannot be read or a judge does not
    answer."""
    rules = Rules(
        payoff=config.payoff,
        thinks=config.thinks,
        form=config.form_reward,
        sampling=config.sampling(),
        judge_sampling=Sampling(temperature=0, max_tokens=config.judge_tokens),
    )
    if config.seeds == TRIGGERS:
        setting = trigger_game.setting(rules, config.triggers_seed)
    else:
        judge = load_judge(
            config.judge, device=distributed.local_device(config.device), timeout=config.judge_timeout
        )
        prompts = AttackPrompts() if config.thinks else DIRECT_PROMPTS
        if config.judge.startswith("classifier:"):
            prompts = replace(prompts, judge=None)
        setting = Setting(
            seeds=read_seeds(config.seeds),
            held_out=read_seeds(config.held_out_seeds, "held_out_seeds"),
            rules=replace(rules, prompts=prompts),
            judge=judge,
        )
    share = {"both": config.attacked_share, "attacker": 1.0, "defender": 0.0}[config.roles]
    seeds = mark_attacked(setting.seeds, share, derive_seed(config.seed, 0, 1))
    return replace(setting, seeds=seeds, rows=_rows(config, setting.seeds))


def _rows(config: Config, seeds: Sequence[Seed]) -> Sequence[Mapping[str, Any]]:
    """Dialogues to imitate beside."""
    if not config.sft_rows:
        return []
    if config.demonstrations == TRIGGERS:
        return trigger_game.helpful_rows(seeds)
    return read_rows(config.demonstrations, "demonstrations")


def load_policy(config: Config, run: Run) -> LanguageModel:
    """The model that is named; nano is made for the language of triggers, and warmed up on its players."""
    game = trigger_game.TriggerGame.hidden(config.triggers_seed)
    shown = partial(game.demonstrations, config.warmup_rows)
    nano = partial(build_nano_of, *game.demonstrations(4096, seed=0), config.seed, whole_words=True)
    rate = config.warmup_learning_rate
    return load_warmed_up(config, run, nano=nano, demonstrations=shown, learning_rate=rate, layer_rate=0.3)


@dataclass(frozen=True, kw_only=True)
class Config(TriggerSettings, SampleConfig):
    """Self-RedTeam's settings; the defaults are the `nano` preset."""

    max_tokens: Count = 7
    eval_every: Count = 8
    checkpoint_every: Count = 12
    seeds: str = TRIGGERS
    """what games begin with: `triggers`, nano's language, or a file of JSON lines with `vanilla` and `data_type`"""
    held_out_seeds: str = TRIGGERS
    """seeds of evaluations, as `seeds`"""
    demonstrations: str = TRIGGERS
    """dialogues of the supervised batches: `triggers`, or a file of JSON lines with `messages`; empty: none"""
    judge: str = TRIGGERS
    """who labels: `triggers` (exact), `server:URL#MODEL` with OpenAI's interface, `model:FOLDER`, or
    `classifier:FOLDER` with the labels harmful_request, response_refusal and harmful_response"""
    roles: Literal["both", "attacker", "defender"] = "both"
    """who learns; `attacker`: against the defender of step 0, `defender`: from seeds that nobody attacks"""
    attacked_share: Share = 0.5
    """of the seeds of each class that the attacker rewrites, where both learn; the others go to the defender as they
    are"""
    payoff: Payoff = "general_sum"
    """what a game pays; `zero_sum`: to the attacker what the defender loses"""
    form_reward: NotNegative = 1.0
    """for a reply in its form, and minus that for another"""
    remove_ties: bool = True
    """learn nothing from games of which a label is missing"""
    thinks: bool = True
    """roles think before they answer, unseen; off: they answer directly"""
    steps: Natural = 40
    """self-play iterations"""
    prompts_per_step: Count = 128
    """games per iteration"""
    sequences_per_update: Count | None = 64
    """replies per optimizer step; none: all of an iteration"""
    learning_rate: NotNegative = 2e-4
    """AdamW's, betas 0.9 and 0.95, constant"""
    kl: NotNegative = 0.1
    """weight of the divergence from the model of step 0 (k1), in the reward of each token"""
    reward_limit: Positive = 10.0
    """rewards beyond it are clipped"""
    whitened_by: Literal["role", "batch"] = "role"
    """whose tokens are whitened together; `batch`: those of both roles"""
    sft: NotNegative = 0.1
    """weight of the supervised loss in each optimizer step"""
    sft_rows: Natural = 8
    """dialogues of each supervised batch; 0: none"""
    old_logprobs: Literal["learner", "sampler"] = "sampler"
    """whose log-probs the ratio and the divergence are taken of; `learner` computes them anew"""
    judge_tokens: Count = 64
    """reply length limit of a judge on a server"""
    judge_timeout: Positive = 120.0
    """seconds until an attempt to ask a server has failed; a game that gets no labels is dropped"""
    eval_games: Count = 512
    """games of an evaluation: half from held-out seeds as they are, half attacked"""
    lora_per_role: bool = False
    """each role has adapters of its own, on one frozen model, instead of weights in common"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sft_rows and not self.demonstrations:
            raise ValueError("demonstrations: name a file for the supervised batches, or set sft_rows to 0")
        own = {name: getattr(self, name) == TRIGGERS for name in ("seeds", "held_out_seeds", "judge")}
        if len(set(own.values())) > 1:
            raise ValueError(
                f"seeds, held_out_seeds, judge: triggers are a language of their own, all three are or none is; got "
                f"{', '.join(f'{name} {getattr(self, name)!r}' for name in own)}"
            )
        if self.lora_per_role and not (self.lora_rank and self.roles == "both"):
            raise ValueError("lora_per_role: needs two roles that learn, and a lora_rank above 0")

    @property
    def uses_reference(self) -> bool:
        """Is the divergence from the model of step 0 in the rewards?"""
        return self.kl > 0

    def update(self) -> Update:
        """How the samples of a step become optimizer steps."""
        return Update(
            **self.limits(),
            loss=ppo_clip_loss(self.clip),
            minibatch=self.sequences_per_update,
            old="sampler",
            token_mean=True,
        )


PRESETS = {
    "nano": Config(),
    "paper": Config(
        model="meta-llama/Llama-3.1-8B-Instruct",
        seeds="wildjailbreak.jsonl",
        held_out_seeds="wildjailbreak_eval.jsonl",
        demonstrations="demonstrations.jsonl",
        judge="server:http://127.0.0.1:8000/v1#allenai/wildguard",
        seed=8888,
        steps=200,
        sequences_per_update=32,
        learning_rate=5e-7,
        kl=0.01,
        sft=1.0,
        old_logprobs="learner",
        sft_rows=32,
        max_tokens=2048,
        eval_every=5,
        eval_games=1024,
        checkpoint_every=10,
    ),
}
