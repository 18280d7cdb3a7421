"""Writes forced_wins.json: Connect Four positions with a forced win and the first moves that force it.

    python tests/search/vectors/write_forced_wins.py  # needs pyspiel

Positions come from random play; the win is found by full search of OpenSpiel's rules to a fixed depth.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyspiel

WANTED = {1: 4, 3: 12, 5: 8}  # plies to the win: positions


def wins(state: Any, plies: int) -> bool:
    """Can the player to move win within so many plies, whatever the other does?"""
    return any(forces(state, action, plies) for action in state.legal_actions())


def forces(state: Any, action: int, plies: int) -> bool:
    """Does this move win within so many plies?"""
    mover = state.current_player()
    after = state.child(action)
    if after.is_terminal():
        return bool(after.returns()[mover] > 0)
    return plies >= 3 and all(
        not (reply := after.child(answer)).is_terminal() and wins(reply, plies - 2)
        for answer in after.legal_actions()
    )


def positions() -> list[dict[str, Any]]:
    game, dice = pyspiel.load_game("connect_four"), random.Random(0)
    found: dict[int, list[dict[str, Any]]] = {plies: [] for plies in WANTED}
    while any(len(found[plies]) < count for plies, count in WANTED.items()):
        state = game.new_initial_state()
        for _ in range(dice.randrange(10, 26)):
            if state.is_terminal():
                break
            state.apply_action(dice.choice(state.legal_actions()))
        if state.is_terminal():
            continue
        plies = next((p for p in sorted(WANTED) if wins(state, p)), None)
        if plies is None or len(found[plies]) == WANTED[plies]:
            continue
        actions = [a for a in state.legal_actions() if forces(state, a, plies)]
        found[plies].append({"history": state.history(), "plies": plies, "actions": actions})
    return [position for plies in sorted(found) for position in found[plies]]


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(position) for position in positions())
    Path(__file__).with_name("forced_wins.json").write_text(f"[\n{lines}\n]\n")
