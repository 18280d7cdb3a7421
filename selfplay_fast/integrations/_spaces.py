"""What PettingZoo and Gymnasium share: observations of our games as spaces."""

from __future__ import annotations

import string
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from selfplay_fast import games

Observations = Literal["tensor", "text"]

LONGEST_TEXT = 100_000


class AnyText(spaces.Text):
    """Strings of any characters: what other players say in a game with speech may be in any script."""

    def __init__(self, max_length: int = LONGEST_TEXT) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"


def choose_observations(batch: games.Batch, wanted: Observations | None) -> Observations:
    """``wanted``, or by default the tensor of a game that has one, else the text."""
    if wanted not in (None, "tensor", "text"):
        raise ValueError(f"observations must be tensor or text, got {wanted!r}")
    if wanted == "text":
        return "text"
    try:
        batch.observation_tensor([0])
    except ValueError:
        if wanted == "tensor":
            raise
        return "text"
    return "tensor"


def observation_space(batch: games.Batch, observations: Observations) -> spaces.Space[Any]:
    """The space of one player's observation."""
    if observations == "text":
        return AnyText()
    shape = batch.observation_tensor([0])[0].shape
    one_per_player = batch.legal_actions.ndim == 3  # where all players move at once
    return spaces.Box(-np.inf, np.inf, shape[1:] if one_per_player else shape, np.float32)
