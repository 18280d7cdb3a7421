"""Players that are not language models: uniform random, tabular, scripted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from selfplay_fast.policies.streams import sample_streams, stream_ids, uniforms
from selfplay_fast.records import Ask, FloatArray, GameSeat, Reply

_NO_REASONING, _ANSWER = "<think></think>", "<answer>"


def seat_of(ask: Ask) -> GameSeat:
    """Where an ask stands; ValueError if it is no game's."""
    if ask.seat is None:
        raise ValueError(
            f"this policy only plays at game tables; it cannot answer or score the text of role {ask.role!r}"
        )
    return ask.seat


def acted(seat: GameSeat, action: int) -> Reply:
    """An action in canonical words; style mars has reasoning before them, which is empty here."""
    words = seat.batch.reply_text(seat.row, action, seat.player)
    reasoning = _NO_REASONING if words.startswith(_ANSWER) else ""
    return Reply(text=reasoning + words, hidden=len(reasoning))


class _ActionPolicy:
    """Draws an action from ``distribution(seat)`` [A] and says its canonical reply text."""

    def distribution(self, seat: GameSeat) -> NDArray[np.float64]:
        raise NotImplementedError

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        streams = stream_ids([ask.key for ask in asks])
        replies: list[Reply] = []
        for ask, stream in zip(asks, streams, strict=True):
            seat = seat_of(ask)
            cumulative = np.cumsum(self.distribution(seat))
            samples = sample_streams(np.full(ask.n, stream), np.arange(ask.n))
            for u in uniforms(samples, 0):
                action = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
                replies.append(acted(seat, action))
        return replies

    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        scores = []
        for ask in asks:
            seat = seat_of(ask)
            probabilities = self.distribution(seat)
            legal = np.flatnonzero(probabilities)
            texts = [seat.batch.reply_text(seat.row, int(a), seat.player) for a in legal]
            log = dict(zip(texts, np.log(probabilities[probabilities > 0]), strict=True))
            scores.append(np.array([log.get(text, -np.inf) for text in ask.choices or ()], np.float32))
        return scores


class RandomPolicy(_ActionPolicy):
    """Uniform over the legal actions."""

    def distribution(self, seat: GameSeat) -> NDArray[np.float64]:
        legal = seat.batch.legal_actions[seat.row].astype(np.float64)
        if seat.batch.description.simultaneous:
            legal = legal[seat.player]
        return legal / legal.sum()


class TabularPlayer(_ActionPolicy):
    """Plays a table: information state -> probabilities [A]. A state the table lacks is a ValueError."""

    def __init__(self, table: Mapping[str, NDArray[np.float64]]) -> None:
        self.table = table

    def distribution(self, seat: GameSeat) -> NDArray[np.float64]:
        key = seat.batch.information_state(seat.row, seat.player)
        try:
            return np.asarray(self.table[key], np.float64)
        except KeyError:
            raise ValueError(f"tabular policy: no entry for information state {key!r}") from None


class ScriptedPolicy:
    """Answers with ``reply(ask, sample) -> text``: for tests, demonstrations and parity proofs."""

    def __init__(self, reply: Callable[[Ask, int], str]) -> None:
        self.reply = reply

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        return [Reply(text=self.reply(ask, sample)) for ask in asks for sample in range(ask.n)]

    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        """0 for the choice that the script says, -inf for the others."""
        return [
            np.array(
                [0.0 if text == self.reply(ask, 0) else -np.inf for text in ask.choices or ()], np.float32
            )
            for ask in asks
        ]
