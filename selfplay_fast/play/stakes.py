"""What players of a game have earned and put in before it is over, for protocols that pay turn by turn."""

from __future__ import annotations

import re

from selfplay_fast.games import Batch

_FIREWORKS = re.compile(r" f(\d+) ")
_RAISES = (2, 4)  # chips of a raise in leduc poker, by round


def earned(batch: Batch, row: int) -> float:
    """What everybody has got so far: hanabi pays a point for every card on a firework, other games nothing."""
    if batch.name != "hanabi":
        return 0.0
    found = _FIREWORKS.search(batch.information_state(row, 0))
    assert found is not None
    return float(sum(map(int, found[1])))


def staked(batch: Batch, row: int, player: int) -> float:
    """What ``player`` loses by giving up now: its chips in the pot, its points; elsewhere the game, 1."""
    if batch.name == "hanabi":
        return earned(batch, row)
    actions = batch.information_state(row, player)
    if batch.name == "kuhn_poker":
        hand = re.split(r"[/\d]+", actions)[-1]
        return 1.0 + hand[player::2].count("b")
    if batch.name == "leduc_poker":
        return _leduc_chips(actions[1:])[player]
    return 1.0


def _leduc_chips(actions: str) -> list[float]:
    """Chips of both players in the pot after actions such as ``crc/2r``: call, raise, call, the open card, raise."""
    chips = [1.0, 1.0]
    for size, betting in zip(_RAISES, re.split(r"/\d", actions), strict=False):
        for turn, action in enumerate(betting):
            chips[turn % 2] = max(chips) + (size if action == "r" else 0)
    return chips
