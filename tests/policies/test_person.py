"""A person as a player of games. Oracle: the engine's texts and reader."""

from __future__ import annotations

import pytest

from selfplay_fast import games
from selfplay_fast.play import GameTable, play
from selfplay_fast.policies import RandomPolicy
from selfplay_fast.policies.person import Person
from selfplay_fast.records import Ask, Key


def test_two_people_at_several_games() -> None:
    """Oracle: the engine replayed. Each reads its own plain messages of its own game, whatever the table's style, and
    is asked again until the reply is a move."""
    shown: list[str] = []
    said = iter(["bet", "nonsense", "check", "call", "bet", "fold"])
    person = Person(read=lambda prompt: next(said), show=shown.append)
    table = GameTable("kuhn_poker", episodes=2, seed=4, style="brief")
    episodes = play({"player_0": person, "player_1": person}, [table])
    assert [[turn.reply.text for turn in e.turns] for e in episodes] == [
        ["bet", "call"],
        ["check", "bet", "fold"],
    ]
    batch = games.make("kuhn_poker", 2, seed=4, style="plain")
    expected: list[str] = []
    for k in range(3):
        running = [e for e in episodes if len(e.turns) > k]
        for episode in running:
            expected += batch.messages_since(episode.index, k % 2)
        for episode in running:
            batch.step([episode.turns[k].action], rows=[episode.index])
    told = [text for text in shown if not text.startswith("That is no move")]
    assert told == expected
    assert [text for text in shown if text.startswith("That is no move")] == [
        "That is no move: no action found at the end of the reply; legal: [check], [bet]"
    ]
    assert [dict(e.returns) for e in episodes] == [
        {f"player_{p}": float(batch.returns[e.index, p]) for p in range(2)} for e in episodes
    ]


def test_a_person_needs_a_seat_and_has_no_probabilities() -> None:
    """Oracle: contract. ValueErrors that say so; leaving is the reader's EOFError."""
    person = Person()
    with pytest.raises(ValueError, match="has no seat"):
        person.generate([Ask(role="judge", append="?", key=Key(0, 0, 0))])
    with pytest.raises(ValueError, match="cannot be scored"):
        person.score([])

    def leave(prompt: str) -> str:
        raise EOFError

    leaving = Person(read=leave, show=lambda text: None)
    with pytest.raises(EOFError):
        play({"player_0": leaving, "player_1": RandomPolicy()}, [GameTable("kuhn_poker", episodes=1, seed=0)])
