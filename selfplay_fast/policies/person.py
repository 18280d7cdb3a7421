"""A person at a keyboard, as one more player of games."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from selfplay_fast import games
from selfplay_fast.records import Ask, FloatArray, GameSeat, Reply


class Person:
    """Shows what is new to the player and reads a reply until it is a move.

    The words are those of style "plain", whatever style the other players read.

        play.play_games({"player_0": Person(), "player_1": policy}, games=["kuhn_poker"], episodes=1, seed=0)
    """

    def __init__(
        self,
        *,
        read: Callable[[str], str] = input,
        show: Callable[[str], None] = print,
    ) -> None:
        """read: asks for a line with the given prompt; it may raise EOFError. show: prints a paragraph."""
        self.read = read
        self.show = show

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply that the game takes, per sample."""
        return [self._reply(ask) for ask in asks for _ in range(ask.n)]

    def score(self, asks: Sequence[Ask]) -> list[FloatArray]:
        """ValueError: nobody knows a person's probabilities."""
        raise ValueError("a person cannot be scored; only policies with known probabilities can")

    def news(self, seat: GameSeat) -> list[str]:
        """What is new for the player since its last turn, in plain words."""
        batch = seat.batch
        options: dict[str, Any] = dict(batch.options)
        view = games.make(batch.name, len(batch), style="plain", **options)
        view.set_state(batch.state())
        return view.messages_since(seat.row, seat.player)

    def _reply(self, ask: Ask) -> Reply:
        if ask.seat is None:
            raise ValueError(f"a person plays games only; the ask for role {ask.role!r} has no seat")
        for message in self.news(ask.seat):
            self.show(message)
        while True:
            text = self.read("> ")
            _, refusals = ask.seat.batch.parse([text], np.array([ask.seat.row]), player=ask.seat.player)
            if refusals[0] is None:
                return Reply(text=text)
            self.show(f"That is no move: {refusals[0]}")
