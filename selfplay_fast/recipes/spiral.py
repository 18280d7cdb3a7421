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
from typing import TYPE_CHECKING, Literal

import torch

from selfplay_fast.config import RecipeConfig, check_warmed_up
from selfplay_fast.evaluate import episode_metrics, evaluate_policy, reply_metrics
from selfplay_fast.games import Style
from selfplay_fast.learn import (
    RoleBaseline,
    Update,
    checkpoint,
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
from selfplay_fast.policies.adapters import check_installed
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Sampling
from selfplay_fast.run import Run
from selfplay_fast.solvers import is_enumerable
from selfplay_fast.throughput import Throughput
from selfplay_fast.training import (
    adam,
    computed_in,
    load_model,
    load_reference,
    saved_if_servers_go,
    start,
)

if TYPE_CHECKING:
    from selfplay_fast.policies.token_servers import TokenServers


@dataclass(frozen=True, kw_only=True)
class Config(RecipeConfig):
    """SPIRAL's settings; the defaults are the `nano` preset."""

    model: str = "nano"
    """`nano` (built here), a local transformers folder, or a hub id"""
    games: tuple[str, ...] = ("kuhn_poker", "tic_tac_toe", "negotiation")
    """games to play, options in brackets: `kuhn_poker(rounds=5)`"""
    style: Style = "brief"
    """how states are put into words: `brief` leaves the rules out (for nano), `spiral` asks for boxed reasoning"""
    parse_mode: Literal["lenient", "strict"] = "lenient"
    """how replies are read: `strict` as SPIRAL's parser does"""
    seed: int = 0
    """everything random follows from it"""
    steps: int | None = None
    """self-play iterations; None: 600 for small games (see learning_rate), for others 450 divided by their number"""
    samples_per_step: int = 576
    """turns per iteration, about: whole games are played, as many of each as give an equal share under random play"""
    learning_rate: float | None = None
    """AdamW, betas 0.9 and 0.95, no weight decay; None: for nano 6e-6 on small games (up to 1,000 information states),
    5e-5 on others, 3e-4 with the magnet; for other models 1e-6, for their adapters 1e-5"""
    learning_rate_decay: Literal["constant", "linear"] = "linear"
    """`linear` falls to a tenth of the rate"""
    advantage: Literal["role_conditioned", "return"] = "role_conditioned"
    """`return` is the ablation without a baseline"""
    baseline_decay: float = 0.95
    """decay of the role-conditioned baseline"""
    baseline_order: Literal["post", "pre", "batch"] = "post"
    """paper, released code, or one update per batch"""
    discount: float = 1.0
    """per own turn"""
    temperature: float = 1.0
    """sampling temperature; log-probs are taken at the same"""
    max_tokens: int = 16
    """reply length limit"""
    loss_length: int = 16
    """the constant that the token sum of a sample is divided by (the paper: the reply length limit)"""
    clip: float = 0.2
    """PPO clip range"""
    inner_epochs: int = 1
    """optimizer steps per iteration over the same batch"""
    max_grad_norm: float = 1.0
    """gradient clipping"""
    max_importance: float | None = None
    """weigh each token by min(p of the learner / p of the sampler, this); None: not, as in the paper, but 2 where
    `max_staleness` is above 0"""
    max_loss: float = 1e6
    """a loss beyond it has exploded, and the run stops"""
    invalid_reward: float = -1.5
    """return of a player whose reply is refused"""
    invalid_other: float = 0.5
    """return of its opponent"""
    max_turns: int = 50
    """a longer game ends with 0 for both"""
    magnet: bool = False
    """beyond the paper: KL penalty towards the initial policy, annealed"""
    magnet_weight: float = 0.3
    """its weight at the start, in units of return per nat; falls linearly to a third"""
    warmup_steps: int | None = None
    """supervised steps on uniformly random legal play before self-play: nano's way to learn the reply format; None: 150
    for nano, 0 for other models"""
    warmup_learning_rate: float = 3e-3
    """of the warm-up"""
    eval_every: int = 25
    """steps between evaluations"""
    eval_episodes: int = 512
    """games per seat and opponent at the first and last evaluation; fewer make a short run"""
    eval_episodes_between: int = 64
    """the same at the evaluations in between"""
    eval_temperature: float = 0.6
    """sampling temperature of evaluation games"""
    eval_top_p: float = 0.95
    """nucleus of evaluation games"""
    eval_opponents: tuple[str, ...] = ()
    """models on servers to play against in evaluations besides the fixed opponents: `server:URL#MODEL`"""
    checkpoint_every: int = 25
    """steps between checkpoints; the first and the two newest stay"""
    max_staleness: int = 0
    """updates between the weights that speak in a game and those that learn from it; 0: every step plays all its games
    with its own weights, above: games go on while others are learned from"""
    rollout_servers: tuple[str, ...] = ()
    """addresses of `selfplay-fast serve` that play the training games with the weights of the last update:
    `http://127.0.0.1:8000/v1`"""
    rollout_concurrency: int = 32
    """requests under way at each of them"""
    rollout_timeout: float = 120.0
    """seconds that one of them has for a reply, or to take weights; then others are tried, up to five times as long"""
    server_patience: float = 600.0
    """seconds to wait where all of them are gone; then the last finished step is saved, and the run stops"""
    device: str = "auto"
    """where the model lives: `cpu`, `cuda`, or `auto` for a GPU where there is one"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """what passes are computed in; trained weights and optimizer states are float32 beside it. `auto`: bfloat16 on a
    GPU, but for nano"""
    lora_rank: int = 0
    """train adapters of this rank at all linear layers but the head, and nothing else; 0: the whole model"""
    gradient_checkpointing: bool = False
    """compute layers again in the backward pass: a third more work, a small part of the memory"""
    max_batch_tokens: int = 16384
    """tokens of one forward pass over prompts and of one micro-batch; gradients of micro-batches add up"""
    max_cache_tokens: int | None = None
    """tokens whose keys and values replies in the making hold, and as many again between turns; None: 16 times as many
    as in a pass"""
    threads: int = 1
    """CPU threads of the model; more help only where cores are idle"""

    def __post_init__(self) -> None:
        positive = "samples_per_step max_tokens loss_length inner_epochs max_turns eval_every eval_episodes"
        positive += " eval_episodes_between checkpoint_every threads max_batch_tokens rollout_concurrency"
        at_least = dict.fromkeys(positive.split(), 1) | dict.fromkeys(
            ("warmup_steps", "lora_rank", "max_staleness"), 0
        )
        for name, least in at_least.items():
            if (getattr(self, name) or 0) < least:
                raise ValueError(f"{name}: must be at least {least}, got {getattr(self, name)}")
        for name in (
            "learning_rate",
            "warmup_learning_rate",
            "magnet_weight",
            "temperature",
            "eval_temperature",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name}: must be a number and not negative, got {value}")
        for name in ("clip", "max_grad_norm", "eval_top_p", "max_importance", "max_loss", "rollout_timeout"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        for name in ("baseline_decay", "discount", "eval_top_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.server_patience < float("inf"):
            raise ValueError(
                f"server_patience: must be a number of seconds and not negative, got {self.server_patience}"
            )
        for name in ("invalid_reward", "invalid_other"):
            if not abs(getattr(self, name)) < float("inf"):
                raise ValueError(f"{name}: must be a number, got {getattr(self, name)}")
        if self.eval_opponents:
            from selfplay_fast.policies.openai_server import OpenAIServer

            for name in self.eval_opponents:
                try:
                    OpenAIServer.from_name(name)
                except ValueError as error:
                    raise ValueError(f"eval_opponents: {error}") from None
        if self.rollout_servers:
            from selfplay_fast.policies.token_servers import check_addresses

            try:
                check_addresses(self.rollout_servers)
            except ValueError as error:
                raise ValueError(f"rollout_servers: {error}") from None
        check_warmed_up(self.model, self.warmup_steps)
        if self.lora_rank and self.model == "nano":
            raise ValueError("lora_rank: nano is small, and trained whole; set it to 0, or name a model")
        if self.temperature == 0:
            raise ValueError("temperature: 0 always says the same and learns nothing; use a positive number")
        if self.steps is not None and self.steps < 0:
            raise ValueError(f"steps: must not be negative, got {self.steps}")
        if not self.games:
            raise ValueError("games: name at least one game")

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
        warm = 150 if self.model == "nano" else 0
        return replace(
            self,
            warmup_steps=warm if self.warmup_steps is None else self.warmup_steps,
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


def train(config: Config, run: Run) -> None:
    """Self-play from the first step, or from the newest checkpoint of the run."""
    config = config.resolved()
    torch.set_num_threads(config.threads)
    if config.lora_rank:
        check_installed()
    _look_for_servers(config)
    opponents = _opponents(config)
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
    servers = _servers(config, policy)
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
        done = checkpoint.TrainState(step=step, baseline=baseline, rollouts=rollouts.state())
        with run.phase("checkpoint"):
            checkpoint.save_checkpoint(run.checkpoints, policy, optimizer, done)

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
            loss=ppo_clip_loss(config.clip),
            epochs=config.inner_epochs,
            max_grad_norm=config.max_grad_norm,
            magnet=config.magnet_weight * (1 + 2 * left) / 3 if config.magnet else 0.0,
            max_importance=config.max_importance,
            max_loss=config.max_loss,
            max_batch_tokens=config.max_batch_tokens,
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
        last = step == config.total_steps
        if last or step % config.eval_every == 0:
            with run.phase("evaluation"):
                metrics |= _evaluate(config, policy, opponents, full=last)
        run.log(step, metrics, episodes, advantages)
        if last or step % config.checkpoint_every == 0:
            save(step)


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
        sampling=Sampling(temperature=config.temperature, max_tokens=config.max_tokens),
        invalid=InvalidRewards(offender=config.invalid_reward, others=config.invalid_other),
        max_turns=config.max_turns,
        style=config.style,
        parse_mode=config.parse_mode,
        share=share,
    )


def _opponents(config: Config) -> Mapping[str, Policy]:
    """Those on servers, each of which has said a word."""
    if not config.eval_opponents:
        return {}
    from selfplay_fast.policies.openai_server import OpenAIServer

    return OpenAIServer.opponents(config.eval_opponents)


def _look_for_servers(config: Config) -> None:
    """ConnectionError, before a model is loaded, where nobody is there to play the training games."""
    if config.rollout_servers:
        from selfplay_fast.policies.token_servers import check_somebody

        check_somebody(config.rollout_servers)


def _servers(config: Config, policy: LanguageModel) -> TokenServers | None:
    """Those that play the training games, with the weights of the policy."""
    if not config.rollout_servers:
        return None
    from selfplay_fast.policies.endpoint import Limits
    from selfplay_fast.policies.token_servers import TokenServers

    limits = Limits(
        concurrency=config.rollout_concurrency,
        timeout=config.rollout_timeout,
        deadline=5 * config.rollout_timeout,
    )
    servers = TokenServers(policy, config.rollout_servers, limits=limits, patience=config.server_patience)
    servers.hand_over()
    return servers


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
        sampling=Sampling(
            temperature=config.eval_temperature, top_p=config.eval_top_p, max_tokens=config.max_tokens
        ),
        opponents=opponents,
    )
    if not full:
        return metrics
    counts = [config.eval_episodes] * len(config.games)
    played = distributed.play_dealt(
        lambda share: play(self_play(policy), _tables(config, counts, derive_seed(seed, -1), share))
    )
    return episode_metrics(played) | metrics
