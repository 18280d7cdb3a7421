"""A policy whose every probability is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from selfplay_fast import solvers
from selfplay_fast.policies.streams import sample_streams, stream_ids, uniforms
from selfplay_fast.records import Ask, FloatArray, Reply


class TextTable:
    """Says reply text t with probability ``table[observation][t]``, and nonsense with what is left of 1."""

    def __init__(self, table: Mapping[str, Mapping[str, float]]) -> None:
        self.table = table
        self.asked: list[Ask] = []

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        self.asked += asks
        replies = []
        for ask, stream in zip(asks, stream_ids([ask.key for ask in asks]), strict=True):
            draws = uniforms(sample_streams(np.full(ask.n, stream), np.arange(ask.n)), 0)
            replies += [Reply(text=self._draw(self.table[ask.prompt_text], u)) for u in draws]
        return replies

    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        self.asked += asks
        rows = [(self.table[ask.prompt_text], ask.choices or ()) for ask in asks]
        with np.errstate(divide="ignore"):
            return [np.log([row.get(text, 0.0) for text in texts]).astype(np.float32) for row, texts in rows]

    @staticmethod
    def _draw(row: Mapping[str, float], u: float) -> str:
        for text, p in row.items():
            if (u := u - p) < 0:
                return text
        return "nonsense"


Weights = Callable[[solvers.InformationState], Sequence[float]]


@pytest.fixture
def text_table() -> Callable[..., TextTable]:
    """``text_table(game, weights, style=...)``: ``weights(state)`` gives one probability per legal action."""

    def build(game: str, weights: Weights, style: str = "spiral") -> TextTable:
        states = solvers.information_states(game, style=style)
        return TextTable(
            {s.observation: dict(zip(s.reply_texts, map(float, weights(s)), strict=True)) for s in states}
        )

    return build


@pytest.fixture
def uniform() -> Weights:
    return lambda state: [1 / len(state.legal_actions)] * len(state.legal_actions)
