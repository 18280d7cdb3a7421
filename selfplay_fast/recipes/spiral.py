"""SPIRAL: one policy plays both seats of zero-sum games.  Liu et al. 2025, arXiv 2506.24119.

`baseline_order="pre"` is the released code's order of update and subtraction, "post" (default) the paper's
Algorithm 1; the paper states REINFORCE, its code the clipped surrogate over `inner_epochs` passes, which is used here
(with one pass the two coincide). Every sample is trained; the released code drops 27-43 % of them. The preset `nano`
adds what a model of a million parameters needs: a warm-up on random play, brief texts, lenient reading, a falling
learning rate. `magnet` adds entropy-regularised self-play (magnetic mirror descent, Sokota et al. 2023, arXiv
2206.05825): a KL penalty towards the initial policy that fades out. docs/papers.md lists every difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from selfplay_fast.config import Count, Natural, NotNegative, Nucleus, Number, Positive, Share
from selfplay_fast.evaluate import episode_metrics, evaluate_policy, reply_metrics
from selfplay_fast.learn import (
    RoleBaseline,
    Update,
    distributed,
    pack,
    ppo_clip_loss,
    role_conditioned_advantages,
    update,
    without_forfeits,
)
from selfplay_fast.learn.advantages import undiscounted_returns
from selfplay_fast.learn.warmup import warm_up
from selfplay_fast.play import GameTable, InvalidRewards, Rollouts, game_tables, mean_turns, play, self_play
from selfplay_fast.policies import Policy
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.run import Run
from selfplay_fast.settings import GameConfig, ServerConfig
from selfplay_fast.solvers import is_enumerable
from selfplay_fast.throughput import Throughput
from selfplay_fast.training import (
    adam,
    computed_in,
    connect_opponents,
    connect_servers,
    finish_step,
    load_model,
    load_reference,
    look_for_servers,
    save_step,
    saved_if_servers_go,
    start,
)


def train(config: Config, run: Run) -> None:
    """Self-play from the first step, or from the newest checkpoint of the run."""
    config = config.resolved()
    look_for_servers(config)
    opponents = connect_opponents(config)
    share = config.samples_per_step / len(config.games)
    counts = [max(1, round(share / mean_turns(game))) for game in config.games]
    distributed.check_enough(sum(counts), "samples_per_step")
    if distributed.share()[1] > 1 and (config.max_staleness or config.rollout_servers):
        raise ValueError(
            "max_staleness, rollout_servers: several ranks play their own games; leave both at their default"
        )
    policy, optimizer, state = start(
        config,
        run,
        build=lambda: load_policy(config, run.status),
        optimizer_of=partial(_optimizer, config),
        evaluate=lambda policy: _evaluate(config, policy, opponents, full=True),
        baseline=RoleBaseline(decay=config.baseline_decay),
    )
    reference = load_reference(config, run, policy) if config.uses_reference else None
    throughput = Throughput(run, policy, computed_in(config), reference)
    baseline = state.baseline
    servers = connect_servers(config, policy)
    own = distributed.share()
    rollouts = run.enter(
        Rollouts(
            self_play(servers or policy),
            lambda step: _tables(config, counts, derive_seed(config.seed, step), own),
            episodes=len(range(sum(counts))[own[0] :: own[1]]),
            first=state.step + 1,
            last=config.total_steps,
            max_staleness=config.max_staleness,
            version=policy.version,
            beside=servers is not None,
            state=state.rollouts,
        )
    )

    def save(step: int) -> None:
        save_step(run, policy, optimizer, step, baseline=baseline, rollouts=rollouts.state())

    for step in run.steps(config.total_steps, start=state.step):
        left = 1 - (step - 1) / config.total_steps
        with saved_if_servers_go(run, step - 1, save), run.phase("rollout"):
            played = distributed.play_dealt(lambda share: rollouts.collect())
            episodes = without_forfeits(played)
        with run.phase("advantages"):
            if config.advantage == "role_conditioned":
                advantages, baseline = role_conditioned_advantages(
                    episodes, baseline, order=config.baseline_order, discount=config.discount
                )
            else:
                advantages = undiscounted_returns(episodes)
            batch = pack(
                episodes,
                advantages,
                token_normaliser=config.loss_length,
                skip_zero_advantages=not config.magnet,  # the magnet pulls on every sample
            )
        settings = Update(
            **config.limits(),
            loss=ppo_clip_loss(config.clip),
            epochs=config.inner_epochs,
            magnet=config.magnet_weight * (1 + 2 * left) / 3 if config.magnet else 0.0,
            max_importance=config.max_importance,
        )
        for group in optimizer.param_groups:
            group["lr"] = config.initial_learning_rate * (
                0.1 + 0.9 * left if config.learning_rate_decay == "linear" else 1
            )
        with run.phase("update"):
            metrics = update(policy, optimizer, batch, settings, reference=reference)
        if servers is not None and step < config.total_steps:
            with run.phase("hand_over"):
                servers.hand_over()
        rollouts.updated(policy.version)
        metrics |= episode_metrics(episodes) | reply_metrics(played) | rollouts.metrics()
        metrics |= throughput.metrics(episodes, batch, epochs=config.inner_epochs)
        evaluate = partial(_evaluate, config, policy, opponents)
        last = step == config.total_steps
        finish_step(config, run, step, metrics, episodes, advantages, last=last, evaluate=evaluate, save=save)


def load_policy(config: Config, status: Callable[[str], None] = lambda text: None) -> LanguageModel:
    """The model named by the configuration, warmed up on random legal play if so configured."""
    policy = load_model(config, config.games, status)
    if config.warmup_steps:
        warm_up(
            policy,
            config.games,
            steps=config.warmup_steps,
            learning_rate=config.warmup_learning_rate,
            style=config.style,
            seed=derive_seed(config.seed, 0),
            progress=status,
        )
    return policy


def _optimizer(config: Config, policy: LanguageModel) -> torch.optim.Optimizer:
    return adam(policy, rate=config.initial_learning_rate)


def _tables(config: Config, counts: Sequence[int], seed: int, share: tuple[int, int]) -> list[GameTable]:
    """Tables for self-play: of ``counts`` games of each kind, this share."""
    return game_tables(
        games=config.games,
        episodes=counts,
        seed=seed,
        sampling=config.sampling(),
        invalid=InvalidRewards(offender=config.invalid_reward, others=config.invalid_other),
        max_turns=config.max_turns,
        style=config.style,
        parse_mode=config.parse_mode,
        share=share,
    )


def _evaluate(
    config: Config, policy: LanguageModel, opponents: Mapping[str, Policy], *, full: bool
) -> dict[str, float]:
    """Scores and NashConv; a full evaluation also plays the training games anew, in larger number."""
    seed = derive_seed(config.seed, -1)
    metrics = evaluate_policy(
        policy,
        config.games,
        episodes=config.eval_episodes if full else config.eval_episodes_between,
        seed=seed,
        style=config.style,
        parse_mode=config.parse_mode,
        sampling=config.sampling(temperature=config.eval_temperature, top_p=config.eval_top_p),
        opponents=opponents,
    )
    if not full:
        return metrics
    counts = [config.eval_episodes] * len(config.games)
    played = distributed.play_dealt(
        lambda share: play(self_play(policy), _tables(config, counts, derive_seed(seed, -1), share))
    )
    return episode_metrics(played) | metrics


@dataclass(frozen=True, kw_only=True)
class Config(ServerConfig, GameConfig):
    """SPIRAL's settings; the defaults are the `nano` preset."""

    nano_warmup = 150

    warmup_steps: Natural | None = None
    """supervised steps on uniformly random legal play before self-play: nano's way to learn the reply format; None: 150
    for nano, 0 for other models"""
    steps: Natural | None = None
    """self-play iterations; None: 600 for small games (see learning_rate), for others 450 divided by their number"""
    samples_per_step: Count = 576
    """turns per iteration, about: whole games are played, as many of each as give an equal share under random play"""
    learning_rate: NotNegative | None = None
    """AdamW, betas 0.9 and 0.95, no weight decay; None: for nano 6e-6 on small games (up to 1,000 information states),
    5e-5 on others, 3e-4 with the magnet; for other models 1e-6, for their adapters 1e-5"""
    learning_rate_decay: Literal["constant", "linear"] = "linear"
    """`linear` falls to a tenth of the rate"""
    advantage: Literal["role_conditioned", "return"] = "role_conditioned"
    """`return` is the ablation without a baseline"""
    baseline_decay: Share = 0.95
    """decay of the role-conditioned baseline"""
    baseline_order: Literal["post", "pre", "batch"] = "post"
    """paper, released code, or one update per batch"""
    discount: Share = 1.0
    """per own turn"""
    loss_length: Count = 16
    """the constant that the token sum of a sample is divided by (the paper: the reply length limit)"""
    inner_epochs: Count = 1
    """optimizer steps per iteration over the same batch"""
    max_importance: Positive | None = None
    """weigh each token by min(p of the learner / p of the sampler, this); None: not, as in the paper, but 2 where
    `max_staleness` is above 0"""
    invalid_other: Number = 0.5
    """return of the opponent of a player whose reply is refused"""
    magnet: bool = False
    """beyond the paper: KL penalty towards the initial policy, annealed"""
    magnet_weight: NotNegative = 0.3
    """its weight at the start, in units of return per nat; falls linearly to a third"""
    eval_top_p: Nucleus = 0.95
    """nucleus of evaluation games"""

    @property
    def total_steps(self) -> int:
        """`steps`, or the default for these games."""
        return (600 if self._small else max(1, 450 // len(self.games))) if self.steps is None else self.steps

    @property
    def initial_learning_rate(self) -> float:
        """`learning_rate`, or the default for this model and these games."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.model != "nano":
            return 1e-5 if self.lora_rank else 1e-6
        return 6e-6 if self._small else 3e-4 if self.magnet else 5e-5

    @property
    def uses_reference(self) -> bool:
        return self.magnet

    @property
    def _small(self) -> bool:
        """Are the games so small that a policy moves in all states with every step, and circles if steps are large?"""
        return all(is_enumerable(game) for game in self.games)

    def resolved(self) -> Config:
        late = self.max_importance is None and self.max_staleness > 0
        return replace(
            super().resolved(),
            steps=self.total_steps,
            learning_rate=self.initial_learning_rate,
            max_importance=2.0 if late else self.max_importance,
        )


_PAPER = Config(
    model="Qwen/Qwen3-4B-Base",
    games=("kuhn_poker(rounds=5)", "tic_tac_toe", "negotiation(resources=5)"),
    steps=400,
    samples_per_step=128,
    learning_rate=1e-6,
    learning_rate_decay="constant",
    style="spiral",
    parse_mode="strict",
    max_tokens=8192,
    rollout_timeout=1800.0,
    loss_length=8192,
    inner_epochs=2,
    warmup_steps=0,
    eval_every=16,
    eval_episodes=512,
    eval_episodes_between=16,
    checkpoint_every=16,
)

# The same on one card of 141 GB: docs/scale.md counts what fits.
_ONE_CARD = replace(
    _PAPER, gradient_checkpointing=True, max_batch_tokens=16384, max_cache_tokens=131072, dtype="bfloat16"
)

PRESETS = {
    "nano": Config(),
    "paper": _PAPER,
    "qwen3-4b": _ONE_CARD,
    "qwen3-4b-lora": replace(_ONE_CARD, lora_rank=32),
}
