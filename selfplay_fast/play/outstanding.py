"""What a table has asked and has not been answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from selfplay_fast.records import Ask, Key, Reply


class Outstanding:
    """Asks in the order they were made, told apart by their keys."""

    def __init__(self) -> None:
        self._asks: dict[Key, Ask] = {}

    def add(self, asks: Sequence[Ask]) -> Sequence[Ask]:
        """Remember these, which are now handed out."""
        self._asks.update((ask.key, ask) for ask in asks)
        return asks

    def take(
        self, replies: Sequence[Reply], asks: Sequence[Ask] | None = None
    ) -> list[tuple[Ask, list[Reply]]]:
        """Match replies with ``asks``, or with all there are; the asks as the table made them.

        ValueError, before anything changes, for a reply too many or too few, or an ask that is not waiting or named
        twice.
        """
        keys = list(self._asks) if asks is None else [ask.key for ask in asks]
        for key, times in Counter(keys).items():
            if key not in self._asks:
                raise ValueError(f"asks: {key} is not waiting for a reply; give each ask's replies once")
            if times > 1:
                raise ValueError(f"asks: {key} is named {times} times; give each ask's replies once")
        own = [self._asks[key] for key in keys]
        wanted = sum(ask.n for ask in own)
        if len(replies) != wanted:
            raise ValueError(f"replies: {wanted} are pending, got {len(replies)}")
        for key in keys:
            del self._asks[key]
        rest = iter(replies)
        return [(ask, [next(rest) for _ in range(ask.n)]) for ask in own]
