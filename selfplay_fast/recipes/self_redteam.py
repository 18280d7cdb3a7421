"""Self-RedTeam: one policy attacks and defends, its reasoning hidden.  Liu et al. 2025, arXiv 2506.07468.

An attacker rewrites seeds, a defender answers them, a judge labels both; both roles learn by REINFORCE++, whitened by
role, beside supervised batches. The preset `nano` plays a language of trigger words that is judged exactly
(`play/trigger_game.py`). docs/papers.md lists every difference from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from selfplay_fast.config import Count, Natural, NotNegative, Positive, Share, check_warmed_up
from selfplay_fast.evaluate.attack_scores import attack_metrics, counted_games, diversity_metrics
from selfplay_fast.games import Style
from selfplay_fast.learn import (
    Beside,
    RoleBaseline,
    TokenBatch,
    Update,
    batch_logprobs,
    checkpoint,
    distributed,
    only_roles,
    pack,
    ppo_clip_loss,
    reinforce_pp_advantages,
    shaped_rewards,
    update,
)
from selfplay_fast.learn.chat_rows import read_rows, row_batches
from selfplay_fast.learn.losses import k1_kl
from selfplay_fast.learn.warmup import demonstration_batch, imitate
from selfplay_fast.play import Cast, play, trigger_game
from selfplay_fast.play.attack_game import (
    Rules,
    Seed,
    attack_table,
    function_judge,
    mark_attacked,
    read_seeds,
    seeds_of_step,
)
from selfplay_fast.play.attack_prompts import DIRECT_PROMPTS, AttackPrompts
from selfplay_fast.play.attack_rules import ATTACKER, DEFENDER, JUDGE, Payoff
from selfplay_fast.policies import Policy
from selfplay_fast.policies.adapters import load_adapters, with_own_adapters
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
    load_model,
    load_reference,
    placement,
    start,
)

TRIGGERS = "triggers"


@dataclass(frozen=True, kw_only=True)
class Config(SampleConfig):
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
    triggers_seed: int = 0
    """which words are nano's triggers follows from it"""
    warmup_steps: Natural | None = None
    """supervised steps before self-play, on random attacks and on a defender with holes: nano's pretraining; None: 40
    for nano, 0 for other models"""
    warmup_rows: Count = 192
    """replies of each of these steps"""
    warmup_learning_rate: NotNegative = 6e-3
    """of embeddings and head in the warm-up; the layers' is three tenths of it"""
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
        check_warmed_up(self.model, self.warmup_steps)
        if self.lora_per_role and not (self.lora_rank and self.roles == "both"):
            raise ValueError("lora_per_role: needs two roles that learn, and a lora_rank above 0")

    @property
    def style(self) -> Style:
        """Prompts are chats."""
        return "spiral"

    @property
    def uses_reference(self) -> bool:
        """Is the divergence from the model of step 0 in the rewards?"""
        return self.kl > 0

    def resolved(self) -> Config:
        """With the warm-up that this model gets."""
        warm = 40 if self.model == "nano" else 0
        return replace(self, warmup_steps=warm if self.warmup_steps is None else self.warmup_steps)


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


def train(config: Config, run: Run) -> None:
    """Self-play from the first step, or from the newest checkpoint of the run."""
    config = config.resolved()
    distributed.check_enough(config.prompts_per_step, "prompts_per_step")
    setting = Setting.of(config)
    policy, optimizer, state = start(
        config,
        run,
        build=partial(load_policy, config, run),
        optimizer_of=partial(adam, rate=config.learning_rate),
        evaluate=lambda policy: _evaluate(
            config, setting, {ATTACKER: policy, DEFENDER: policy, JUDGE: setting.judge}
        ),
        baseline=RoleBaseline(),
    )
    learners = _learners(config, run, policy, optimizer, state.step)
    cast = _cast(config, run, learners, setting.judge)
    throughput = Throughput(run, policy, computed_in(config), learners[-1].reference)

    def save(step: int) -> None:
        done = checkpoint.TrainState(step=step, baseline=RoleBaseline())
        with run.phase("checkpoint"):
            for learner in learners:  # the run's own last: it says which step all have reached
                checkpoint.save_checkpoint(learner.folder, learner.policy, learner.optimizer, done)

    for step in run.steps(config.steps, start=state.step):
        seed = derive_seed(config.seed, step)
        with run.phase("rollout"):
            seeds = seeds_of_step(setting.seeds, step, config.prompts_per_step, config.seed)
            played = _play(cast, seeds, seed, setting.rules)
            episodes, dropped = counted_games(played, remove_ties=config.remove_ties)
            _tell(run, step, episodes, dropped)
        metrics = {f"dropped/{why}": float(number) for why, number in dropped.items()}
        metrics |= attack_metrics(episodes)
        for learner in learners:
            batch = _pack(episodes, learner.roles)
            if batch is None:
                continue
            with run.phase("advantages"):
                batch, about = _with_advantages(config, batch, learner, episodes)
            with run.phase("update"):
                about |= update(
                    learner.policy,
                    learner.optimizer,
                    batch.shuffled(seed),
                    _update(config),
                    beside=_beside(config, setting, learner.policy, seed),
                )
            metrics |= learner.named(about)
            if learner.policy is policy:
                metrics |= throughput.metrics(episodes, batch)
        evaluate = partial(_evaluate, config, setting, cast)
        last = step == config.steps
        finish_step(config, run, step, metrics, episodes, None, last=last, evaluate=evaluate, save=save)


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """What learns: a policy, the roles that it plays, what it diverges from, where it is kept."""

    roles: tuple[str, ...]
    policy: LanguageModel
    optimizer: torch.optim.Optimizer
    reference: LanguageModel | None
    folder: Path
    name: str = ""

    def named(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics, under the learner's name where it has one."""
        return {f"{self.name}/{key}" if self.name else key: value for key, value in metrics.items()}


def _learners(
    config: Config, run: Run, policy: LanguageModel, optimizer: torch.optim.Optimizer, step: int
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
    if distributed.share()[1] > 1:
        raise ValueError("lora_per_role: weights in common cannot be sharded; start one process")
    model = with_own_adapters(policy.model, derive_seed(config.seed, 0, 2))
    attacker = LanguageModel(
        model,
        policy.tokenizer,
        max_batch_tokens=config.max_batch_tokens,
        max_cache_tokens=config.max_cache_tokens,
    )
    steps = adam(attacker, rate=config.learning_rate)
    folder = run.checkpoints / ATTACKER
    if step:
        saved = folder / f"step-{step:06d}"
        load_adapters(model, saved / "model")
        checkpoint.restore_optimizer(steps, saved)
    other = Weights(
        roles=(ATTACKER,), policy=attacker, optimizer=steps, reference=attacker, folder=folder, name=ATTACKER
    )
    return [other, replace(own, roles=(DEFENDER,))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a configuration names: seeds to train on and held out, dialogues to imitate, rules, the judge."""

    seeds: Sequence[Seed]
    held_out: Sequence[Seed]
    rows: Sequence[Mapping[str, Any]]
    rules: Rules
    judge: Policy

    @classmethod
    def of(cls, config: Config) -> Setting:
        """Raises ValueError, naming the setting, where a file cannot be read or a judge does not answer."""
        share = {"both": config.attacked_share, "attacker": 1.0, "defender": 0.0}[config.roles]
        seeds, held_out, judge = _triggers(config) if config.seeds == TRIGGERS else _named(config)
        return cls(
            seeds=mark_attacked(seeds, share, derive_seed(config.seed, 0, 1)),
            held_out=held_out,
            rows=_rows(config, seeds),
            rules=Rules(
                payoff=config.payoff,
                thinks=config.thinks,
                form=config.form_reward,
                sampling=Sampling(
                    temperature=config.temperature,
                    max_tokens=config.max_tokens,
                    max_think_tokens=config.max_think_tokens,
                ),
                judge_sampling=Sampling(temperature=0, max_tokens=config.judge_tokens),
                prompts=_prompts(config),
            ),
            judge=judge,
        )


def _triggers(config: Config) -> tuple[list[Seed], list[Seed], Policy]:
    game = trigger_game.TriggerGame.hidden(config.triggers_seed)
    seeds = game.seeds(1024, derive_seed(config.triggers_seed, 1))
    held_out = game.seeds(1024, derive_seed(config.triggers_seed, 2), held_out=True)
    return seeds, held_out, function_judge(game.judge)


def _named(config: Config) -> tuple[list[Seed], list[Seed], Policy]:
    judge = load_judge(
        config.judge, device=distributed.local_device(config.device), timeout=config.judge_timeout
    )
    return read_seeds(config.seeds), read_seeds(config.held_out_seeds), judge


def _prompts(config: Config) -> AttackPrompts:
    if config.seeds == TRIGGERS:
        return trigger_game.PROMPTS
    prompts = AttackPrompts() if config.thinks else DIRECT_PROMPTS
    return replace(prompts, judge=None) if config.judge.startswith("classifier:") else prompts


def _rows(config: Config, seeds: Sequence[Seed]) -> list[Mapping[str, Any]]:
    if not config.sft_rows:
        return []
    if config.demonstrations == TRIGGERS:
        return list(trigger_game.helpful_rows(seeds))
    return read_rows(config.demonstrations, "demonstrations")


def load_policy(config: Config, run: Run) -> LanguageModel:
    """The model that is named; nano is made for the language of triggers, and warmed up on its players."""
    game = trigger_game.TriggerGame.hidden(config.triggers_seed)
    prompts, replies = game.demonstrations(4096, seed=0)
    policy = load_model(
        config,
        (),
        run.status,
        build=lambda: build_nano_of(prompts, replies, config.seed, whole_words=True),
    )
    if config.warmup_steps:

        def batch_of(step: int) -> TokenBatch:
            seed = derive_seed(config.seed, 0, step)
            return demonstration_batch(policy, *game.demonstrations(config.warmup_rows, seed))

        imitate(
            policy,
            batch_of,
            steps=config.warmup_steps,
            learning_rate=config.warmup_learning_rate,
            layer_rate=0.3,
            progress=run.status,
        )
    return policy


def _cast(config: Config, run: Run, learners: Sequence[Weights], judge: Policy) -> Cast:
    """Who plays: a defender that does not learn is that of step 0."""
    playing = {role: learner.policy for learner in learners for role in learner.roles}
    if config.roles == "attacker":
        first = run.checkpoints / "step-000000"
        playing[DEFENDER] = checkpoint.load_policy(first, **placement(config))
    return {ATTACKER: learners[-1].policy, **playing, JUDGE: judge}


def _play(cast: Cast, seeds: Sequence[Seed], seed: int, rules: Rules) -> list[Episode]:
    """A game from every seed, over all ranks."""
    return distributed.play_dealt(
        lambda share: play(cast, [attack_table(seeds, seed=seed, rules=rules, share=share)])
    )


def _pack(episodes: Sequence[Episode], roles: Sequence[str]) -> TokenBatch | None:
    """A sample of every reply of these roles, with its reward as advantage; None where there is none."""
    own = only_roles(episodes, roles)
    if not any(episode.turns for episode in own):
        return None
    rewards = [[turn.reward for turn in episode.turns] for episode in own]
    return pack(own, rewards, token_normaliser=1, skip_zero_advantages=False)


def _with_advantages(
    config: Config, batch: TokenBatch, learner: Weights, episodes: Sequence[Episode]
) -> tuple[TokenBatch, dict[str, float]]:
    """REINFORCE++: rewards with the divergence of each token, summed from behind, whitened by role."""
    own = torch.from_numpy(batch.sampler_logprobs)
    if config.old_logprobs == "learner":
        own = batch_logprobs(learner.policy, batch, _update(config))
    kl = torch.zeros_like(own)
    if config.kl:
        kl = k1_kl(own, batch_logprobs(learner.policy, batch, _update(config), reference=learner.reference))
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


def _update(config: Config) -> Update:
    return Update(
        loss=ppo_clip_loss(config.clip),
        minibatch=config.sequences_per_update,
        old="sampler",
        token_mean=True,
        max_grad_norm=config.max_grad_norm,
        max_loss=config.max_loss,
        max_batch_tokens=config.max_batch_tokens,
    )


def _beside(config: Config, setting: Setting, policy: LanguageModel, seed: int) -> Beside | None:
    """Supervised batches for the optimizer steps of one update."""
    if not (config.sft and setting.rows):
        return None
    batches = row_batches(policy, setting.rows, size=config.sft_rows, seed=derive_seed(seed, 1))
    return Beside(batches=batches, weight=config.sft)


def _tell(run: Run, step: int, episodes: Sequence[Episode], dropped: Mapping[str, int]) -> None:
    """A line for what is out of order. ValueError where no judge answers at all."""
    lost = {why: number for why, number in dropped.items() if why != "tie"}
    if lost:
        said = ", ".join(f"{number} {why}" for why, number in sorted(lost.items()))
        run.note(f"step {step}: games dropped: {said}")
    if not episodes and set(dropped) == {"unlabelled"}:
        raise ValueError(
            f"judge: none of {dropped['unlabelled']} games got labels; does {run.config.judge} answer?"
        )
    for role in (ATTACKER, DEFENDER):
        rewards = {e.returns[role] for e in episodes if role in e.returns}
        if len(rewards) == 1:
            run.note(f"step {step}: all rewards of the {role} are {rewards.pop():g}, which teaches nothing")


def _evaluate(config: Config, setting: Setting, cast: Cast, *, full: bool = True) -> dict[str, float]:
    """The defender against held-out seeds as they are, and the attacks of the attacker on training seeds; always in
    ``full``."""
    seed = derive_seed(config.seed, -1)
    half = max(1, config.eval_games // 2)
    metrics: dict[str, float] = {}
    for name, seeds, share in (("held_out", setting.held_out, 0.0), ("attacks", setting.seeds, 1.0)):
        drawn = [seeds[i % len(seeds)] for i in range(half)]
        played = _play(cast, mark_attacked(drawn, share, 0), derive_seed(seed, int(share)), setting.rules)
        episodes, _ = counted_games(played)
        metrics |= attack_metrics(episodes, name) | diversity_metrics(episodes, name)
    return metrics
