"""Settings that recipes have in common, with what is checked of them; a recipe's `Config` inherits what it uses.

A recipe with other defaults says so by naming the setting again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from selfplay_fast.config import (
    Count,
    Natural,
    NotNegative,
    Number,
    Positive,
    RecipeConfig,
    Temperature,
    WarmedUp,
)
from selfplay_fast.games import Style
from selfplay_fast.records import Sampling


@dataclass(frozen=True, kw_only=True)
class ModelConfig(RecipeConfig):
    """The model that learns, and where."""

    model: str = "nano"
    """`nano` (built here), a local transformers folder, or a hub id"""
    seed: int = 0
    """everything random follows from it"""
    device: str = "auto"
    """where the model lives: `cpu`, `cuda`, or `auto` for a GPU where there is one"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """what passes are computed in; trained weights and optimizer states are float32 beside it. `auto`: bfloat16 on a
    GPU, but for nano"""
    attn_implementation: Literal["auto", "sdpa", "flash_attention_2"] = "auto"
    """`flash_attention_2` shares no prefixes and takes no float32 weights: for adapters on one card, where flash-attn
    is installed; `auto` is `sdpa`, which does both"""
    lora_rank: Natural = 0
    """train adapters of this rank at all linear layers but the head, and nothing else; 0: the whole model"""
    gradient_checkpointing: bool = False
    """compute layers again in the backward pass: a third more work, a small part of the memory"""
    max_batch_tokens: Count = 16384
    """tokens of one forward pass over prompts and of one micro-batch; gradients of micro-batches add up"""
    max_cache_tokens: Count | None = None
    """tokens whose keys and values replies in the making hold, and as many again between turns; None: 16 times as many
    as in a pass"""
    threads: Count = 1
    """CPU threads of the model; more help only where cores are idle"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank and self.model == "nano":
            raise ValueError("lora_rank: nano is small, and trained whole; set it to 0, or name a model")
        if self.attn_implementation == "flash_attention_2" and not self.lora_rank:
            raise ValueError(
                "attn_implementation: flash_attention_2 takes no float32 weights, which learn; set lora_rank, or leave "
                "it 'auto'"
            )

    @property
    def style(self) -> Style:
        """How prompts are written: as chats, for which a model needs a template."""
        return "spiral"


@dataclass(frozen=True, kw_only=True)
class SampleConfig(ModelConfig):
    """Learning from what the model says, by the clipped surrogate, and when that is looked at and kept."""

    temperature: Temperature = 1.0
    """sampling temperature of training"""
    max_tokens: Count = 16
    """reply length limit"""
    max_think_tokens: Natural | None = None
    """most tokens of a reply that a thinking model may reason for; then the closing tag is forced (docs/thinking.md)"""
    clip: Positive = 0.2
    """PPO clip range"""
    max_grad_norm: Positive = 1.0
    """gradient clipping"""
    max_loss: Positive = 1e6
    """a loss beyond it has exploded, and the run stops"""
    checkpoint_every: Count = 25
    """steps between checkpoints; the first and the two newest stay"""
    eval_every: Count = 25
    """steps between evaluations"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_think_tokens is None:
            return
        if self.model == "nano":
            raise ValueError("max_think_tokens: nano does not think; leave it out, or name a model that does")
        if self.max_think_tokens >= self.max_tokens:
            raise ValueError(
                f"max_think_tokens: must be below max_tokens, {self.max_tokens}, got {self.max_think_tokens}"
            )

    def sampling(self, **others: Any) -> Sampling:
        """How replies are drawn in training; ``others`` are further settings, or stand in place of these."""
        names = ("temperature", "max_tokens", "max_think_tokens")
        return Sampling(**{name: getattr(self, name) for name in names} | others)

    def limits(self) -> dict[str, Any]:
        """What an update is bounded by, whatever it learns."""
        names = ("max_grad_norm", "max_loss", "max_batch_tokens")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class GameConfig(WarmedUp, SampleConfig):
    """Self-play of games with one policy, and what is measured of it."""

    games: tuple[str, ...] = ("kuhn_poker", "tic_tac_toe", "negotiation")
    """games to play, options in brackets: `kuhn_poker(rounds=5)`"""
    style: Style = "brief"
    """how states are put into words: `brief` leaves the rules out (for nano), `spiral` asks for boxed reasoning, `mars`
    is MARS's chat"""
    parse_mode: Literal["lenient", "strict"] = "lenient"
    """how replies are read: `strict` as the paper's parser does"""
    max_turns: Count = 50
    """a longer game ends with 0 for all"""
    invalid_reward: Number = -1.5
    """of a player whose reply is refused"""
    warmup_steps: Natural | None = None
    """supervised steps on uniformly random legal play before self-play: nano's way to learn the reply format; None: as
    many as it needs, 0 for other models"""
    warmup_learning_rate: NotNegative = 3e-3
    """of the warm-up"""
    eval_episodes: Count = 512
    """games per seat and opponent at the first and last evaluation; fewer make a short run"""
    eval_episodes_between: Count = 64
    """the same at the evaluations in between"""
    eval_temperature: NotNegative = 0.6
    """sampling temperature of evaluation games"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.games:
            raise ValueError("games: name at least one game")


@dataclass(frozen=True, kw_only=True)
class ServerConfig(RecipeConfig):
    """Games played elsewhere, or by others."""

    max_staleness: Natural = 0
    """updates between the weights that speak in a game and those that learn from it; 0: every step plays all its games
    with its own weights, above: games go on while others are learned from"""
    rollout_servers: tuple[str, ...] = ()
    """addresses of `selfplay-fast serve` that play the training games with the weights of the last update:
    `http://127.0.0.1:8000/v1`"""
    rollout_concurrency: Count = 32
    """requests under way at each of them"""
    rollout_timeout: Positive = 120.0
    """seconds that one of them has for a reply, or to take weights; then others are tried, up to five times as long"""
    server_patience: NotNegative = 600.0
    """seconds to wait where all of them are gone; then the last finished step is saved, and the run stops"""
    eval_opponents: tuple[str, ...] = ()
    """models on servers to play against in evaluations besides the fixed opponents: `server:URL#MODEL`"""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            setting = "eval_opponents"
            for name in self.eval_opponents:
                from selfplay_fast.policies.openai_server import OpenAIServer

                OpenAIServer.from_name(name)
            setting = "rollout_servers"
            if self.rollout_servers:
                from selfplay_fast.policies.token_servers import check_addresses

                check_addresses(self.rollout_servers)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None
