"""What a policy is: asks in, replies out, in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from selfplay_fast.records import Ask, FloatArray, Reply


class Policy(Protocol):
    """Anything that answers. ``generate`` returns ``sum(ask.n)`` replies, those of an ask together, in order."""

    def generate(self, asks: Sequence[Ask]) -> Sequence[Reply]:
        """Answer every ask; a reply must not depend on what stands beside it in the batch."""
        ...

    def score(self, asks: Sequence[Ask]) -> Sequence[FloatArray]:
        """Exact log-probability of every text in ``ask.choices`` as the whole reply, one array per ask."""
        ...
