"""MARS: one policy plays all seats of games, every turn with its own credit.  Yuan et al. 2025, arXiv 2510.15414.

Every seat of a game is one conversation that only grows and one training sample. A turn is paid what the game pays from
there on, less the mean of its role (`turn_level_advantages`); the loss is clipped twice and pulled towards the model of
step 0. `estimator="released"` is what the released code (MARSHAL) computes. Forced tokens and prompts are not trained.
The preset `nano` adds what a model of a million parameters needs: a warm-up on random play, brief texts, lenient
reading, one temperature. docs/papers.md lists every difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from selfplay_fast.config import Count, Natural, NotNegative, Nucleus, Number, Temperature, above, least
from selfplay_fast.evaluate import (
    episode_metrics,
    evaluate_policy,
    fixed_opponents,
    reply_metrics,
    search_opponents,
)
from selfplay_fast.learn import (
    RoleBaseline,
    TokenBatch,
    Update,
    distributed,
    pack_chats,
    ppo_clip_loss,
    role_conditioned_advantages,
    summed_rewards,
    turn_level_advantages,
    update,
    without_forfeits,
)
from selfplay_fast.learn.advantages import Advantages, Pool
from selfplay_fast.learn.losses import k3_kl
from selfplay_fast.learn.rewards import rewarded_anew, turn_rewards
from selfplay_fast.learn.schedules import iteration_rates
from selfplay_fast.learn.warmup import imitate
from selfplay_fast.play import Cast, InvalidRewards, play_games, self_play
from selfplay_fast.policies import Policy, RandomPolicy
from selfplay_fast.policies.demonstrating import Demonstrator
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.streams import derive_seed
from selfplay_fast.records import Episode
from selfplay_fast.run import Run
from selfplay_fast.settings import GameConfig
from selfplay_fast.throughput import Throughput
from selfplay_fast.training import (
    adam,
    computed_in,
    finish_step,
    load_model,
    load_reference,
    save_step,
    start,
)

MINI_HANABI = "hanabi(colors=2,ranks=2,hand=3,info_tokens=3)"
SIMPLE_HANABI = "hanabi(colors=3,ranks=2,hand=5,info_tokens=8)"


def train(config: Config, run: Run) -> None:
    """Self-play from the first step, or from the newest checkpoint of the run."""
    config = config.resolved()
    distributed.check_enough(config.games_per_step, "games_per_step")
    policy, optimizer, state = start(
        config,
        run,
        build=partial(load_policy, config, run),
        optimizer_of=partial(adam, rate=config.learning_rate, weight_decay=config.weight_decay),
        evaluate=partial(_evaluate, config, full=True),
        keep_thinking=config.keep_thinking,
    )
    reference = None
    if config.uses_reference:
        reference = load_reference(config, run, policy, keep_thinking=config.keep_thinking)
    throughput = Throughput(run, policy, computed_in(config), reference)
    baseline = state.baseline

    for step in run.steps(config.steps, start=state.step):
        seed = derive_seed(config.seed, step)
        with run.phase("rollout"):
            played = _play(config, self_play(policy), config.games_per_step, seed)
            episodes = without_forfeits(played)
        with run.phase("advantages"):
            advantages, baseline = _advantages(config, episodes, baseline)
            batch = pack_chats(episodes, advantages, logprob_temperature=config.logprob_temperature)
            batch = batch.shuffled(seed)  # every optimizer step sees all games and seats
        updates = -(-batch.num_samples // (config.sequences_per_update or batch.num_samples))
        settings = Update(
            **config.limits(),
            loss=ppo_clip_loss(config.clip, dual_clip=config.dual_clip),
            minibatch=config.sequences_per_update,
            old=config.old_logprobs,
            rates=iteration_rates(
                step,
                config.steps,
                updates,
                peak=config.learning_rate,
                warmup=config.learning_rate_warmup,
            ),
            magnet=config.kl,
            kl=partial(k3_kl, limit=10.0),
        )
        with run.phase("update"):
            metrics = update(policy, optimizer, batch, settings, reference=reference)
        metrics |= episode_metrics(episodes) | reply_metrics(played)
        metrics |= throughput.metrics(episodes, batch)
        evaluate = partial(_evaluate, config, policy)
        save = partial(save_step, run, policy, optimizer, baseline=baseline)
        last = step == config.steps
        finish_step(config, run, step, metrics, episodes, advantages, last=last, evaluate=evaluate, save=save)


def _advantages(
    config: Config, episodes: list[Episode], baseline: RoleBaseline
) -> tuple[Advantages, RoleBaseline]:
    """One for every turn; the baseline is SPIRAL's and changes with it only."""
    rewards = turn_rewards(
        episodes,
        format_reward=config.format_reward,
        length_weight=config.length_weight,
        long=config.long_reply,
    )
    if config.advantage == "role_conditioned":
        return role_conditioned_advantages(rewarded_anew(episodes, rewards), baseline)
    if config.advantage == "trajectory":
        rewards = summed_rewards(episodes, rewards)
    return turn_level_advantages(episodes, rewards, pool=config.pool, estimator=config.estimator), baseline


def load_policy(config: Config, run: Run) -> LanguageModel:
    """The model named by the configuration, warmed up on conversations of random legal play if so configured."""
    texts = dict.fromkeys([*config.games, *config.held_out])
    policy = load_model(
        config,
        list(texts),
        run.status,
        nano={"legal_list": config.legal_list, "whole_words": True},
        keep_thinking=config.keep_thinking,
    )
    if config.warmup_steps:
        cast = self_play(Demonstrator(RandomPolicy(), policy))
        seed = derive_seed(config.seed, 0)

        def random_play(step: int) -> TokenBatch:
            games = max(config.warmup_games, len(config.games))
            episodes = _play(config, cast, games, derive_seed(seed, step))
            return pack_chats(episodes, [[1.0] * len(episode.turns) for episode in episodes])

        imitate(
            policy,
            random_play,
            steps=config.warmup_steps,
            learning_rate=config.warmup_learning_rate,
            layer_rate=0.3,
            progress=run.status,
        )
    return policy


def _table(config: Config, temperature: float) -> dict[str, Any]:
    """How games are put before the policy, in training and evaluation."""
    return {
        "style": config.style,
        "parse_mode": config.parse_mode,
        "sampling": config.sampling(temperature=temperature, top_p=config.top_p, top_k=config.top_k),
        "chat": config.chat,
        "forced_prefix": config.forced_prefix,
        "legal_list": config.legal_list,
    }


def _play(config: Config, cast: Cast, games: int, seed: int) -> list[Episode]:
    """``games`` games over all kinds and ranks, with MARS's rewards."""
    return distributed.play_dealt(
        lambda share: play_games(
            cast,
            games=config.games,
            episodes=games,
            seed=seed,
            invalid=InvalidRewards(offender=config.invalid_reward, others=0.0, stake=True),
            max_turns=config.max_turns,
            rewards="mars",
            share=share,
            **_table(config, config.temperature),
        )
    )


def opponents(game: str) -> Mapping[str, Policy]:
    """MARS's: searches at board games, equilibria at poker, nobody else at hanabi."""
    if game == "tic_tac_toe":
        return {"random": RandomPolicy(), **search_opponents(100, 1000)}
    return {} if game.startswith("hanabi") else fixed_opponents(game)


def _evaluate(config: Config, policy: LanguageModel, *, full: bool) -> dict[str, float]:
    """Scores against fixed opponents, in hanabi with itself; a full evaluation has all games, and more of them."""
    seed = derive_seed(config.seed, -1)
    metrics = evaluate_policy(
        policy,
        [*config.games, *config.held_out] if full else config.games,
        episodes=config.eval_episodes if full else config.eval_episodes_between,
        seed=seed,
        exact_states=0,
        fixed=opponents,
        **_table(config, config.eval_temperature),
    )
    if not full:
        return metrics
    episodes = _play(config, self_play(policy), config.eval_episodes, derive_seed(seed, -1))
    return episode_metrics(episodes) | metrics


@dataclass(frozen=True, kw_only=True)
class Config(GameConfig):
    """MARS's settings; the defaults are the `nano` preset."""

    nano_warmup = 160

    max_tokens: Count = 12
    warmup_steps: Natural | None = None
    """supervised steps on uniformly random legal play before self-play: nano's way to learn the reply format; None: 160
    for nano, 0 for other models"""
    eval_every: Count = 10
    eval_episodes: Count = 256
    checkpoint_every: Count = 10
    games: tuple[str, ...] = ("tic_tac_toe", "kuhn_poker", MINI_HANABI)
    """games to play: all three for the generalist, one for a specialist"""
    held_out: tuple[str, ...] = ("connect_four", "leduc_poker", SIMPLE_HANABI)
    """games to play in the first and the last evaluation only"""
    legal_list: bool | None = False
    """show the legal actions; none: as the style does"""
    chat: bool = True
    """one growing conversation per seat; off: a fresh one each turn, each a sample"""
    keep_thinking: bool = True
    """the reasoning of earlier turns stays in the conversation; off: as the model's chat template has it; where that
    drops it, each turn is a sample of its own"""
    forced_prefix: str = ""
    """what every reply begins with; not trained"""
    steps: Natural = 100
    """self-play iterations"""
    games_per_step: Count = 96
    """games per iteration, spread evenly"""
    sequences_per_update: Count | None = 32
    """conversations per optimizer step; none: all of an iteration"""
    learning_rate: NotNegative = 3e-4
    """AdamW's peak, betas 0.9 and 0.95; falls along a cosine to a tenth"""
    learning_rate_warmup: Natural = 10
    """optimizer steps until the peak"""
    weight_decay: NotNegative = 0.0
    """of AdamW"""
    advantage: Literal["turn_level", "trajectory", "role_conditioned"] = "turn_level"
    """`trajectory`: the ablation without turn-level credit; `role_conditioned`: SPIRAL's, on the same rewards"""
    pool: Pool = "role"
    """whose mean a turn's return is compared with: of the `role` (agent-specific), the `role_game`, the `game`, the
    `batch` (the ablation without roles)"""
    estimator: Literal["paper", "released"] = "paper"
    """sum, then subtract the mean; or what the released code does"""
    format_reward: Number = 0.05
    """for every reply that is not refused"""
    length_weight: NotNegative = 0.5
    """times how far a reply is over `long_reply` tokens, in units of it"""
    long_reply: Annotated[int, least(12)] = 2048
    """tokens of a reply without a loss"""
    invalid_reward: Number = -2.0
    """for a reply that is refused, besides what the player had put in"""
    top_p: Nucleus = 1.0
    """nucleus, in training and evaluation"""
    top_k: Natural = 0
    """most tokens to choose from in both, 0 for all"""
    logprob_temperature: Temperature = 1.0
    """of the log-probs in the loss, whatever was sampled at"""
    old_logprobs: Literal["learner", "sampler"] = "sampler"
    """whose log-probs the ratio is taken to: `learner` computes them anew, as it must where the sampler's distribution
    is another (temperature, top-p, top-k)"""
    dual_clip: Annotated[float, above(1)] = 1.4
    """bound of the ratio where the advantage is negative"""
    kl: NotNegative = 0.0
    """weight of the divergence from the model of step 0 (k3, at most 10 a token)"""
    warmup_games: Count = 8
    """games of each of these steps"""
    warmup_learning_rate: NotNegative = 6e-3
    """of embeddings and head in the warm-up; the layers' is three tenths of it"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator == "released" and (self.advantage, self.pool) != ("turn_level", "role"):
            raise ValueError(
                "estimator: the released one has its own pools; leave advantage and pool as they are"
            )
        sampled = (self.temperature, self.top_p, self.top_k)
        if self.old_logprobs == "sampler" and sampled != (self.logprob_temperature, 1.0, 0):
            raise ValueError("old_logprobs: the sampler's are of another distribution; set it to learner")
        if self.games_per_step < len(self.games):
            raise ValueError(f"games_per_step: {self.games_per_step} cannot cover {len(self.games)} games")

    @property
    def uses_reference(self) -> bool:
        return self.kl > 0


PRESETS = {
    "nano": Config(),
    "paper": Config(
        model="Qwen/Qwen3-4B",
        style="mars",
        legal_list=None,
        parse_mode="strict",
        forced_prefix="<think>\n",
        steps=200,
        games_per_step=192,
        sequences_per_update=8,
        learning_rate=1e-6,
        weight_decay=0.05,
        temperature=0.6,
        top_p=0.99,
        top_k=100,
        max_tokens=4096,
        invalid_reward=-10.0,
        kl=0.2,
        old_logprobs="learner",
        warmup_steps=0,
        eval_every=5,
        eval_episodes=1000,
        eval_episodes_between=125,
        checkpoint_every=5,
    ),
}
