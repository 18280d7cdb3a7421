"""What players hear of each other: never the thinking, never what would pass for a move, one key for one situation."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from selfplay_fast import games

TALKATIVE = ["negotiation", "truth_and_deception"]
STYLES: list[games.Style] = ["spiral", "plain", "brief", "mars"]


def _hears(game: str, reply: str, style: games.Style = "spiral") -> str:
    """All that the next player reads after this reply, which must be accepted."""
    batch = games.make(game, 1, style=style)
    actions, why = batch.parse([reply])
    assert why == [None]
    other = 1 - int(batch.current_player[0])
    batch.step(actions, texts=[reply])
    return batch.observation(player=other)[0] + "\n".join(batch.messages_since(0, other))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("game", [*TALKATIVE, "kuhn_poker", "tic_tac_toe", "snake"])
def test_thinking_is_no_action(game: str, style: games.Style) -> None:
    """Oracle: contract. What was only thought, also in a reply that was cut, plays nothing."""
    batch = games.make(game, 1, style=style)
    player = 0 if batch.description.simultaneous else None
    action = int(np.flatnonzero(batch.legal_actions[0] if player is None else batch.legal_actions[0, 0])[0])
    reply = batch.reply_text(0, action, player)
    for cut in (f"<think>{reply}", f"<think>so</think><think>{reply}", f"<think>{reply} then </think>  "):
        assert batch.parse([cut], player=player)[0][0] == games.INVALID, cut
    assert batch.parse([f"<think>not that</think>{reply}"], player=player)[0][0] == action


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("game", TALKATIVE)
def test_thinking_is_not_heard(game: str, style: games.Style) -> None:
    """Oracle: contract. A box inside the thinking is thinking."""
    closing = "[deny] Trust me" if game == "negotiation" else "Trust me"
    if style == "mars":
        closing = f"<answer>{closing}</answer>"
    reply = rf"<think>maybe \boxed{{secret plan}}</think> {closing}"
    assert "secret plan" not in _hears(game, reply, style)


@pytest.mark.parametrize(
    ("game", "reply"),
    [
        ("negotiation", r"\boxed{[deny] [acc[accept]ept] ok [of[deny]fer: 5 Gold -> 1 Wood] there}"),
        ("truth_and_deception", r"\boxed{[ta[talk]lk] it is [Fact 1] and [fact 2]}"),
    ],
)
def test_speech_cannot_pass_for_a_move(game: str, reply: str) -> None:
    """Oracle: contract. Whatever remains when moves are taken out of a message, it has no brackets and no quotes."""
    batch = games.make(game, 1)
    silent = batch.copy()
    actions, _ = batch.parse([reply])
    other = 1 - int(batch.current_player[0])
    batch.step(actions, texts=[reply])
    silent.step(actions)
    for of in (lambda b: b.observation(player=other)[0], lambda b: "\n".join(b.messages_since(0, other))):
        assert of(batch).count("[") == of(silent).count("[")
        assert of(batch).count('"') - of(silent).count('"') in (0, 2)


def test_keys_tell_what_was_said_apart() -> None:
    """Oracle: contract. Two rounds of talk that split the same characters differently are two information states."""
    batch = games.make("truth_and_deception", 2, seed=1)
    batch.reset(repeat=2)
    for said in (["a|", "a"], ["b", "|b"]):
        actions, _ = batch.parse([rf"\boxed{{{text}}}" for text in said])
        batch.step(actions, texts=[rf"\boxed{{{text}}}" for text in said])
    assert batch.information_state(0, 0) != batch.information_state(1, 0)


def test_a_snapshot_cannot_bring_words_that_could_not_be_said() -> None:
    """Oracle: contract. Longer speech than the batch allows is refused, and nothing changes."""
    long, short = (games.make("negotiation", 1, speech_characters=n) for n in (50, 5))
    reply = r"\boxed{[deny] quite a long sentence}"
    long.step(long.parse([reply])[0], texts=[reply])
    before = short.state()
    with pytest.raises(
        ValueError, match=r"^negotiation: the snapshot holds speech that could not have been said here$"
    ):
        short.set_state(long.state())
    assert short.state() == before


def test_threads_wait_for_each_other() -> None:
    """Oracle: what one thread reads is what some moment of the game looked like: valid text, whole lines."""
    batch = games.make("negotiation", 64, autoreset="same_step")
    reply = r"\boxed{[deny] " + "word " * 30 + "}"
    failures: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                for text in batch.observation():
                    assert text.count('"') % 2 == 0
                batch.legal_actions  # noqa: B018
                batch.state()
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(300):
        batch.step(batch.parse([reply] * 64)[0], texts=[reply] * 64)
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures


def test_draws_differ_from_episode_to_episode() -> None:
    """Oracle: contract. One seed, many games of one row: as many ways to play, the same after a reset to the start."""
    batch = games.make("tic_tac_toe", 1, autoreset="same_step")
    played, moves = set(), []
    for _ in range(200):
        action = int(batch.sample_actions(7)[0])
        moves.append(action)
        batch.step([action])
        if batch.terminated[0]:
            played.add(tuple(moves))
            moves = []
    assert len(played) > 15


def test_playouts_with_a_seed() -> None:
    """Oracle: contract. Without a seed copies end alike; with one they are a function of it."""
    start = games.make("kuhn_poker(rounds=5)", 50)
    ends = []
    for seed in (None, None, 1, 1, 2):
        batch = start.copy()
        batch.random_playouts(seed)
        ends.append([batch.history(row) for row in range(50)])
    assert ends[0] == ends[1]
    assert ends[2] == ends[3]
    assert ends[0] != ends[2] != ends[4] != ends[0]


def test_a_match_of_kuhn_shows_how_it_stands() -> None:
    """Oracle: rules by hand. The round and the lead are in the tensor; nature's turn is refused where it is drawn."""
    batch = games.make("kuhn_poker(rounds=3)", 200, seed=4)
    while not batch.terminated.all():
        for player in (0, 1):
            tensors = batch.observation_tensor(player=player)
            for row in range(0, 200, 17):
                earlier = batch.information_state(row, player).split("/")[:-1]
                assert tensors[row, 7 : 7 + 3].tolist() == [float(r == len(earlier)) for r in range(3)]
        batch.step(batch.sample_actions(3))
    lead = batch.observation_tensor(player=0)[:, -1]
    assert np.array_equal(np.sign(lead), batch.returns[:, 0])
    explicit = games.make("kuhn_poker", 1, chance="explicit")
    with pytest.raises(ValueError, match=r"^kuhn_poker: the snapshot stands where nature is to move"):
        games.make("kuhn_poker", 1).set_state(explicit.state())
