"""What a policy is: asks in, replies out, in one batch or as a stream that asks join at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from selfplay_fast.records import Ask, FloatArray, Reply

if TYPE_CHECKING:
    from torch import Tensor

    from selfplay_fast.policies.flops import Passes
    from selfplay_fast.policies.prefix_forward import Attention

Answer = tuple[Ask, list[Reply]]  # an ask as it was submitted, and its ``n`` replies

_MOMENT = 0.02  # seconds


class ServersGoneError(ConnectionError):
    """None of the servers that should answer has been there for as long as they were waited for."""


class Policy(Protocol):
    """Anything that answers. ``generate`` returns ``sum(ask.n)`` replies, those of an ask together, in order."""

    def generate(self, asks: Sequence[Ask]) -> Sequence[Reply]:
        """Answer every ask; a reply must not depend on what stands beside it in the batch."""
        ...

    def score(self, asks: Sequence[Ask]) -> Sequence[FloatArray]:
        """Exact log-probability of every text in ``ask.choices`` as the whole reply, one array per ask."""
        ...


class Learner(Protocol):
    """What can be trained on tokens: a local language model, or the critic beside it.

    ``per_token`` maps hidden states [U, H] and the tokens [U] that follow to the number that a loss is of, log-prob or
    value, and an entropy. ``version`` counts updates, ``forward_passes`` and ``backward_passes`` what ran.
    """

    model: Any
    attention: Attention
    version: int
    forward_passes: Passes
    backward_passes: Passes

    def per_token(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """[U, H], [U] -> [U], [U], differentiable."""
        ...

    def forget(self) -> None:
        """Drop what was computed and kept: the weights will change, or memory is needed."""
        ...


class ReplyStream(Protocol):
    """Asks join whenever they come, and each is answered as soon as its own replies are finished."""

    @property
    def pending(self) -> int:
        """How many asks have not been answered."""
        ...

    def submit(self, asks: Sequence[Ask]) -> None:
        """Take more asks. ValueError if one cannot be answered, and then none of them is taken."""
        ...

    def step(self) -> list[Answer]:
        """Go on for a while; what has been finished, often nothing. While asks are pending steps get somewhere."""
        ...


@runtime_checkable
class RemoteReplies(ReplyStream, Protocol):
    """A stream of replies from elsewhere: its steps take no time, and bring what has come."""

    def wait(self, seconds: float) -> None:
        """Until something has come, or so long."""
        ...


@runtime_checkable
class StreamingPolicy(Policy, Protocol):
    """A policy that need not be asked in rounds."""

    def stream(self) -> ReplyStream:
        """A new stream, with nothing pending."""
        ...


class Rounds:
    """The stream of a policy that has none: a step answers all that is pending, in one call of ``generate``."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._asks: list[Ask] = []

    @property
    def pending(self) -> int:
        return len(self._asks)

    def submit(self, asks: Sequence[Ask]) -> None:
        self._asks += asks

    def step(self) -> list[Answer]:
        asks, self._asks = self._asks, []
        replied = self.policy.generate(asks)
        wanted = sum(ask.n for ask in asks)
        if len(replied) != wanted:
            name = type(self.policy).__name__
            raise ValueError(f"policy: {name}.generate gave {len(replied)} replies, {wanted} were asked for")
        replies = iter(replied)
        return [(ask, [next(replies) for _ in range(ask.n)]) for ask in asks]


def answer_all(stream: ReplyStream, asks: Sequence[Ask]) -> list[Reply]:
    """The replies to all asks, in their order, from a stream with nothing pending."""
    stream.submit(asks)
    answers: dict[Ask, list[Reply]] = {}
    while stream.pending:
        rest([stream])
        answers.update(stream.step())
    return [reply for ask in asks for reply in answers[ask]]


def rest(streams: Sequence[ReplyStream]) -> None:
    """Wait a moment where nothing is to be done but that: for replies from elsewhere."""
    remote = [stream for stream in streams if isinstance(stream, RemoteReplies)]
    if remote and len(remote) == len(streams):
        remote[0].wait(_MOMENT / len(remote))
