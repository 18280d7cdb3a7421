"""The values that flow from play to learn: what was asked, what was answered, what came of it.

Everything here is frozen. Token ids are int32 arrays; nothing is decoded and encoded again, so a trained token
is exactly a sampled token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from selfplay_fast.games import Batch

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]
Message = Mapping[str, str]  # {"role": "user", "content": "..."}
FinishReason = Literal["stop", "length", "forfeit"]

_COLDEST = 1e-4  # below it logits divided by the temperature may overflow

NO_TOKENS: IntArray = np.zeros(0, np.int32)
NO_LOGPROBS: FloatArray = np.zeros(0, np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a reply is drawn. ``temperature=0`` is greedy, others are at least 1e-4; ``top_k=0`` and ``top_p=1`` switch
    truncation off.

    ``max_tokens`` bounds the whole reply, reasoning included. Of a thinking model at most ``max_think_tokens`` are
    reasoning: then the closing tag is forced, so that ``max_tokens - max_think_tokens`` are left for tags and answer.
    Strings of ``stop`` end the answer; inside the reasoning they mean nothing unless ``stop_in_thinking``.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 256
    max_think_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_in_thinking: bool = False

    def __post_init__(self) -> None:
        if self.temperature and not _COLDEST <= self.temperature < float("inf"):
            raise ValueError(f"sampling: temperature must be 0 or >= {_COLDEST}, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling: top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"sampling: min_p must be in [0, 1), got {self.min_p}")
        if not 0 <= self.top_k < 2**31:
            raise ValueError(f"sampling: top_k must be in [0, 2**31) (0 = off), got {self.top_k}")
        if self.max_tokens < 1:
            raise ValueError(f"sampling: max_tokens must be >= 1, got {self.max_tokens}")
        if self.max_think_tokens is not None and not 0 <= self.max_think_tokens < self.max_tokens:
            raise ValueError(
                f"sampling: max_think_tokens must be >= 0 and below max_tokens={self.max_tokens}, "
                f"got {self.max_think_tokens}; None sets no limit"
            )


class Key(NamedTuple):
    """The sampling stream of one reply; token t of the reply draws number t of this stream."""

    seed: int
    episode: int
    turn: int


NO_KEY = Key(0, 0, 0)  # tables put (seed, episode, turn) in its place


class GameSeat(NamedTuple):
    """Where a game-playing policy (random, tabular, search) finds the state behind an ask."""

    batch: Batch
    row: int
    player: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ask:
    """One request to a policy.

    ``context`` holds the token ids this role has seen and said so far (None: a fresh conversation); ``append`` is
    what is new: chat messages (rendered by the tokenizer's template), plain text, or token ids.
    ``history`` holds the messages that ``context`` was made of, for chat templates that rewrite earlier turns; it goes
    before ``append`` where there is no context.
    ``forced_prefix`` is put at the start of the reply. ``choices`` restricts the reply to one of these texts.
    ``final``: no later ask will have the reply in its context, so whoever computes it need not keep what it was
    computed with. A table gives its asks their ``key``; whoever asks a policy directly gives each ask one of its own.
    """

    role: str
    append: Sequence[Message] | str | IntArray
    key: Key = NO_KEY
    context: IntArray | None = None
    history: Sequence[Message] = ()
    forced_prefix: str = ""
    choices: tuple[str, ...] | None = None
    n: int = 1
    final: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    seat: GameSeat | None = None

    @property
    def prompt_text(self) -> str:
        """The appended part as a person would read it."""
        if isinstance(self.append, str):
            return self.append
        if isinstance(self.append, np.ndarray):
            return f"<{len(self.append)} token ids>"
        return "\n\n".join(message["content"] for message in self.append)

    def followed_by(self, said: str) -> tuple[Message, ...]:
        """All messages of the conversation once this was said; none where they are not known."""
        if isinstance(self.append, (str, np.ndarray)) or (self.context is not None and not self.history):
            return ()
        return (*self.history, *self.append, {"role": "assistant", "content": said})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reply:
    """One answer. ``context`` [C] int32 is the prompt and the reply together; ``tokens`` [T] int32 its end.

    ``logprobs`` [T] float32 are those of the distribution sampled from (temperature and truncation applied).
    ``train_mask`` [T] bool is False on forced tokens. Policies that are not language models leave all four empty.

    ``text`` is all that was said. Its first ``hidden`` characters are the reasoning with its tags and belong to the
    speaker: others read ``public``. ``unclosed``: the reasoning did not end, so nothing is public.
    ``closed_by_force``: its budget was spent. ``history``: the messages so far, this reply included, for the next ask;
    none where ``append`` was not messages.

    ``finish_reason="forfeit"``: there is none. ``no_room``: because the context is full, which is the speaker's own
    doing; otherwise whoever should have answered did not, and nothing is to be learned from it.
    """

    text: str
    tokens: IntArray = field(default_factory=lambda: NO_TOKENS)
    logprobs: FloatArray = field(default_factory=lambda: NO_LOGPROBS)
    train_mask: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    context: IntArray = field(default_factory=lambda: NO_TOKENS)
    finish_reason: FinishReason = "stop"
    policy_version: int = 0
    hidden: int = 0
    unclosed: bool = False
    closed_by_force: bool = False
    history: Sequence[Message] = ()
    no_room: bool = False

    @property
    def lost(self) -> bool:
        """Did nobody answer?"""
        return self.finish_reason == "forfeit" and not self.no_room

    @property
    def public(self) -> str:
        """What other roles may read."""
        return self.text[self.hidden :]

    @property
    def failure(self) -> str | None:
        """Why there is nothing to read, in a few words; None where there is."""
        if self.finish_reason == "forfeit":
            return "no room for a reply" if self.no_room else "no reply"
        return "the reasoning does not end" if self.unclosed else None

    @property
    def reasoning(self) -> str:
        """What only the speaker knows of, tags included; empty where nothing was thought."""
        return self.text[: self.hidden]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Turn:
    """One prompt and one completion by one role; ``action`` is None where the reply was refused."""

    ask: Ask
    reply: Reply
    action: int | None = None
    action_text: str | None = None
    refusal: str | None = None
    reward: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Episode:
    """One game or dialogue from start to end. ``index`` orders the episodes of one call of ``play``."""

    game: str
    index: int
    seed: int
    group: int
    turns: tuple[Turn, ...]
    returns: Mapping[str, float]
    options: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def legal_rate(self) -> float:
        """Share of this episode's turns whose reply was accepted."""
        return legal_rate(self.turns)

    @property
    def forfeit(self) -> Turn | None:
        """The turn in which somebody did not answer, which says nothing of play; None where all did."""
        return next((turn for turn in self.turns if turn.reply.lost), None)


def legal_rate(turns: Iterable[Turn]) -> float:
    """Share of the replies that were accepted, of those that came; 1 where none did."""
    accepted = [turn.refusal is None for turn in turns if not turn.reply.lost]
    return sum(accepted) / len(accepted) if accepted else 1.0


def rewarded(turns: Sequence[Turn], returns: Mapping[str, float]) -> tuple[Turn, ...]:
    """The turns, each role's return as the reward of its last one."""
    last = {turn.ask.role: k for k, turn in enumerate(turns)}
    return tuple(
        replace(turn, reward=returns[turn.ask.role]) if last[turn.ask.role] == k else turn
        for k, turn in enumerate(turns)
    )


def episode_to_json(episode: Episode, advantages: Sequence[float] | None = None) -> dict[str, Any]:
    """A readable, JSON-ready form of an episode; ``advantages`` holds one number per turn."""
    return {
        "game": episode.game,
        "options": dict(episode.options),
        "seed": episode.seed,
        "group": episode.group,
        "returns": {role: float(value) for role, value in episode.returns.items()},
        "turns": [
            {
                "role": turn.ask.role,
                "prompt": turn.ask.prompt_text,
                "reasoning": turn.reply.reasoning,
                "reply": turn.reply.public,
                "action": turn.action,
                "action_text": turn.action_text,
                "refusal": turn.refusal,
                "reward": float(turn.reward),
                "advantage": None if advantages is None else float(advantages[k]),
            }
            for k, turn in enumerate(episode.turns)
        ],
    }
