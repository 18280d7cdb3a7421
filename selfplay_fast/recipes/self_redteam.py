"""Self-RedTeam: one policy attacks and defends, its reasoning hidden.  Liu et al. 2025, arXiv 2506.07468.

An attacker rewrites seeds, a defender answers them, a judge labels both; both roles learn by REINFORCE++, whitened by
role, beside supervised batches. The preset `nano` plays a language of trigger words that is judged exactly
(`play/trigger_game.py`). docs/papers.md lists every difference from the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from selfplay_fast.config import RecipeConfig, nearest
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
    pack_dialogues,
    ppo_clip_loss,
    reinforce_pp_advantages,
    shaped_rewards,
    update,
)
from selfplay_fast.learn.chat_rows import read_rows
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
)
from selfplay_fast.play.attack_prompts import DIRECT_PROMPTS, AttackPrompts
from selfplay_fast.play.attack_rules import ATTACKER, DEFENDER, JUDGE, Payoff
from selfplay_fast.policies import Policy
from selfplay_fast.policies.adapters import check_installed, load_adapters, with_own_adapters
from selfplay_fast.policies.judges import load_judge
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano_of
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode, Sampling
from selfplay_fast.run import Run
from selfplay_fast.throughput import Throughput
from selfplay_fast.training import adam, computed_in, load_model, load_reference, placement, start

TRIGGERS = "triggers"

_LEAST = {
    "steps warmup_steps lora_rank sft_rows": 0,
    "prompts_per_step max_tokens threads max_batch_tokens warmup_rows checkpoint_every": 1,
    "eval_every eval_games": 1,
}


@dataclass(frozen=True, kw_only=True)
class Config(RecipeConfig):
    """Self-RedTeam's settings; the defaults are the `nano` preset."""

    model: str = "nano"
    """`nano` (built here), a local transformers folder, or a hub id"""
    seeds: str = TRIGGERS
    """what games begin with: `triggers`, nano's language, or a file of JSON lines with `vanilla` and `data_type`"""
    held_out: str = TRIGGERS
    """seeds of evaluations, as `seeds`"""
    demonstrations: str = TRIGGERS
    """dialogues of the supervised batches: `triggers`, or a file of JSON lines with `messages`; empty: none"""
    judge: str = TRIGGERS
    """who labels: `triggers` (exact), `server:URL#MODEL` with OpenAI's interface, `model:FOLDER`, or
    `classifier:FOLDER` with the labels harmful_request, response_refusal and harmful_response"""
    roles: Literal["both", "attacker", "defender"] = "both"
    """who learns; `attacker`: against the defender of step 0, `defender`: from seeds that nobody attacks"""
    attacked_share: float = 0.5
    """of the seeds of each class that the attacker rewrites, where both learn; the others go to the defender as they
    are"""
    payoff: Payoff = "general_sum"
    """what a game pays; `zero_sum`: to the attacker what the defender loses"""
    form_reward: float = 1.0
    """for a reply in its form, and minus that for another"""
    remove_ties: bool = True
    """learn nothing from games of which a label is missing"""
    thinks: bool = True
    """roles think before they answer, unseen; off: they answer directly"""
    seed: int = 0
    """everything random follows from it"""
    steps: int = 100
    """self-play iterations"""
    prompts_per_step: int = 128
    """games per iteration"""
    sequences_per_update: int | None = 32
    """replies per optimizer step; none: all of an iteration"""
    learning_rate: float = 3e-4
    """AdamW's, betas 0.9 and 0.95, constant"""
    kl: float = 0.01
    """weight of the divergence from the model of step 0 (k1), in the reward of each token"""
    reward_limit: float = 10.0
    """rewards beyond it are clipped"""
    whitened_by: Literal["role", "batch"] = "role"
    """whose tokens are whitened together; `batch`: those of both roles"""
    clip: float = 0.2
    """PPO clip range"""
    sft: float = 1.0
    """weight of the supervised loss in each optimizer step"""
    sft_rows: int = 8
    """dialogues of each supervised batch; 0: none"""
    old_logprobs: Literal["learner", "sampler"] = "sampler"
    """whose log-probs the ratio and the divergence are taken of; `learner` computes them anew"""
    temperature: float = 1.0
    """sampling temperature"""
    max_tokens: int = 12
    """reply length limit, reasoning included"""
    judge_tokens: int = 64
    """reply length limit of a judge on a server"""
    judge_timeout: float = 120.0
    """seconds until an attempt to ask a server has failed; a game that gets no labels is dropped"""
    max_grad_norm: float = 1.0
    """gradient clipping"""
    max_loss: float = 1e6
    """a loss beyond it has exploded, and the run stops"""
    triggers_seed: int = 0
    """which words are nano's triggers follows from it"""
    warmup_steps: int = 40
    """supervised steps on random attacks and answers before self-play: nano's way to learn the form"""
    warmup_rows: int = 128
    """replies of each of these steps"""
    warmup_learning_rate: float = 6e-3
    """of embeddings and head in the warm-up; the layers' is three tenths of it"""
    eval_every: int = 20
    """steps between evaluations"""
    eval_games: int = 512
    """games of an evaluation: half from held-out seeds as they are, half attacked"""
    checkpoint_every: int = 20
    """steps between checkpoints; the first and the two newest stay"""
    device: str = "auto"
    """where the model lives: `cpu`, `cuda`, or `auto` for a GPU where there is one"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """what passes are computed in; weights that are trained are float32 beside it. `auto`: bfloat16 on a GPU, but for
    nano"""
    lora_rank: int = 0
    """train adapters of this rank at all linear layers but the head, and nothing else; 0: the whole model"""
    lora_per_role: bool = False
    """each role has adapters of its own, on one frozen model, instead of weights in common"""
    gradient_checkpointing: bool = False
    """compute layers again in the backward pass: a third more work, a small part of the memory"""
    max_batch_tokens: int = 16384
    """tokens of one forward pass over prompts and of one micro-batch"""
    max_cache_tokens: int | None = None
    """tokens whose keys and values replies in the making hold; None: 16 times as many as in a pass"""
    threads: int = 1
    """CPU threads of the model; more help only where cores are idle"""

    def __post_init__(self) -> None:
        for names, low in _LEAST.items():
            for name in names.split():
                if getattr(self, name) < low:
                    raise ValueError(f"{name}: must be at least {low}, got {getattr(self, name)}")
        if self.sequences_per_update is not None and self.sequences_per_update < 1:
            raise ValueError(f"sequences_per_update: must be at least 1, got {self.sequences_per_update}")
        for name in ("learning_rate", "warmup_learning_rate", "kl", "sft", "form_reward"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: must be a number and not negative, got {getattr(self, name)}")
        for name in ("temperature", "clip", "max_grad_norm", "max_loss", "reward_limit", "judge_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        if not 0 <= self.attacked_share <= 1:
            raise ValueError(f"attacked_share: must be between 0 and 1, got {self.attacked_share}")
        if self.sft_rows and not self.demonstrations:
            raise ValueError("demonstrations: name a file for the supervised batches, or set sft_rows to 0")
        own = {name: getattr(self, name) == TRIGGERS for name in ("seeds", "held_out", "judge")}
        if len(set(own.values())) > 1:
            raise ValueError(
                f"seeds, held_out, judge: triggers are a language of their own, all three are or none is; got "
                f"{', '.join(f'{name} {getattr(self, name)!r}' for name in own)}"
            )
        if self.model != "nano" and self.warmup_steps:
            raise ValueError(
                f"model: {self.model!r} is not nano{nearest(self.model, ['nano'])}, and only nano is warmed up; "
                "for other models set warmup_steps to 0, as --preset paper does"
            )
        if self.lora_rank and self.model == "nano":
            raise ValueError("lora_rank: nano is small, and trained whole; set it to 0, or name a model")
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


PRESETS = {
    "nano": Config(),
    "paper": Config(
        model="meta-llama/Llama-3.1-8B-Instruct",
        seeds="wildjailbreak.jsonl",
        held_out="wildjailbreak_eval.jsonl",
        demonstrations="demonstrations.jsonl",
        judge="server:http://127.0.0.1:8000/v1#allenai/wildguard",
        seed=8888,
        steps=200,
        learning_rate=5e-7,
        old_logprobs="learner",
        sft_rows=32,
        max_tokens=2048,
        warmup_steps=0,
        eval_every=5,
        eval_games=1024,
        checkpoint_every=10,
    ),
}


def train(config: Config, run: Run) -> None:
    """Self-play from the first step, or from the newest checkpoint of the run."""
    torch.set_num_threads(config.threads)
    if config.lora_rank:
        check_installed()
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
    for step in run.steps(config.steps, start=state.step):
        seed = derive_seed(config.seed, step)
        with run.phase("rollout"):
            played = _play(cast, setting.seeds_of(step, config), seed, setting.rules)
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
                    beside=setting.beside(config, learner.policy, seed),
                )
            metrics |= learner.named(about)
            if learner.policy is policy:
                metrics |= throughput.metrics(episodes, batch)
        last = step == config.steps
        if last or step % config.eval_every == 0:
            with run.phase("evaluation"):
                metrics |= _evaluate(config, setting, cast)
        run.log(step, metrics, episodes)
        if last or step % config.checkpoint_every == 0:
            with run.phase("checkpoint"):
                done = checkpoint.TrainState(step=step, baseline=RoleBaseline())
                for learner in learners:  # the run's own last: it says which step all have reached
                    checkpoint.save_checkpoint(learner.folder, learner.policy, learner.optimizer, done)


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """Weights that learn, the roles that they play, what they diverge from and where they are kept."""

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
) -> list[Learner]:
    """One for all roles that learn; or a second one for the attacker, with adapters beside the same frozen weights."""
    own = Learner(
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
    other = Learner(
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
                sampling=Sampling(temperature=config.temperature, max_tokens=config.max_tokens),
                judge_sampling=Sampling(temperature=0, max_tokens=config.judge_tokens),
                prompts=_prompts(config),
            ),
            judge=judge,
        )

    def seeds_of(self, step: int, config: Config) -> list[Seed]:
        """Those of a step: all of them in an order of its own in every pass, then from the beginning."""
        chosen = []
        for place in range((step - 1) * config.prompts_per_step, step * config.prompts_per_step):
            epoch, rest = divmod(place, len(self.seeds))
            if rest == 0 or not chosen:
                order = np.random.default_rng(derive_seed(config.seed, 1, epoch)).permutation(len(self.seeds))
            chosen.append(self.seeds[order[rest]])
        return chosen

    def beside(self, config: Config, policy: LanguageModel, seed: int) -> Beside | None:
        """Supervised batches for the optimizer steps of one update."""
        if not (config.sft and config.sft_rows):
            return None

        def batches() -> Iterator[TokenBatch]:
            for number in count():
                rng = np.random.default_rng(derive_seed(seed, 1, number))
                drawn = rng.integers(len(self.rows), size=config.sft_rows)
                yield pack_dialogues(policy, [self.rows[i] for i in drawn])

        return Beside(batches=batches(), weight=config.sft)


def _triggers(config: Config) -> tuple[list[Seed], list[Seed], Policy]:
    game = trigger_game.TriggerGame.hidden(config.triggers_seed)
    seeds = game.seeds(1024, derive_seed(config.triggers_seed, 1))
    held_out = game.seeds(1024, derive_seed(config.triggers_seed, 2), held_out=True)
    return seeds, held_out, function_judge(game.judge)


def _named(config: Config) -> tuple[list[Seed], list[Seed], Policy]:
    judge = load_judge(
        config.judge, device=distributed.local_device(config.device), timeout=config.judge_timeout
    )
    return read_seeds(config.seeds), read_seeds(config.held_out), judge


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
    """The model named by the configuration; nano is made for the language of triggers, and warmed up on its form."""
    prompts, replies = trigger_game.demonstrations(4096, seed=0)
    policy = load_model(
        config,
        (),
        run.status,
        build=lambda: build_nano_of(prompts, replies, config.seed, whole_words=True),
    )
    if config.warmup_steps:

        def batch_of(step: int) -> TokenBatch:
            seed = derive_seed(config.seed, 0, step)
            return demonstration_batch(policy, *trigger_game.demonstrations(config.warmup_rows, seed))

        imitate(
            policy,
            batch_of,
            steps=config.warmup_steps,
            learning_rate=config.warmup_learning_rate,
            layer_rate=0.3,
            progress=run.status,
        )
    return policy


def _cast(config: Config, run: Run, learners: Sequence[Learner], judge: Policy) -> Cast:
    """Who plays: a defender that does not learn is that of step 0."""
    playing = {role: learner.policy for learner in learners for role in learner.roles}
    (last,) = learners[-1:]
    if config.roles == "attacker":
        first = run.checkpoints / "step-000000"
        playing[DEFENDER] = checkpoint.load_policy(first, **placement(config))
    return {ATTACKER: last.policy, **playing, JUDGE: judge}


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
    config: Config, batch: TokenBatch, learner: Learner, episodes: Sequence[Episode]
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


def _evaluate(config: Config, setting: Setting, cast: Cast) -> dict[str, float]:
    """The defender against held-out seeds as they are, and the attacks of the attacker on training seeds."""
    seed = derive_seed(config.seed, -1)
    half = max(1, config.eval_games // 2)
    metrics: dict[str, float] = {}
    for name, seeds, share in (("held_out", setting.held_out, 0.0), ("attacks", setting.seeds, 1.0)):
        drawn = [seeds[i % len(seeds)] for i in range(half)]
        played = _play(cast, mark_attacked(drawn, share, 0), derive_seed(seed, int(share)), setting.rules)
        episodes, _ = counted_games(played)
        metrics |= attack_metrics(episodes, name) | diversity_metrics(episodes, name)
    return metrics
