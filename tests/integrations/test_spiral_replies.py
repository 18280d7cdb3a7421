"""SPIRAL's published parser. Oracles: the C++ reader in strict mode, and what the released code makes of replies."""

from __future__ import annotations

import random

import numpy as np
import pytest

from selfplay_fast import games
from selfplay_fast.integrations import _spiral_replies as spiral


def test_spirals_parser_reads_tic_tac_toe_as_the_engine_does() -> None:
    """Oracle: the C++ reader in strict mode. Twenty thousand mutated replies over random boards are read alike."""
    rng = random.Random(7)
    pieces = [
        "\\boxed{", "}", "[", "]", "4", "0", "7", " ", "\\text{", "{", "the ", "cell ", "\n", "boxed", "\\boxed",
    ]  # fmt: skip
    read = spiral.reader_for("TicTacToe-v0")
    batch = games.make("tic_tac_toe", 1)
    accepted = 0
    for k in range(20_000):
        if k % 100 == 0:
            batch.reset()
            for cell in rng.sample(range(9), rng.randrange(5)):
                if not batch.terminated[0]:
                    batch.step([cell])
        legal = np.flatnonzero(batch.legal_actions[0]).tolist()
        cells = ", ".join(f"'[{cell}]'" for cell in legal)
        observation = f"[2] is an example.\n\nAvailable Moves: {cells}\n\nNext Action:"
        if rng.random() < 0.5:
            reply = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 9)))
        else:
            move = rng.choice(
                ["4", "[4]", "\\boxed{4}", "\\boxed{[7]}", "\\boxed{\\text{[0]}}", "\\boxed{ 4 }"]
            )
            reply = (
                f"{rng.choice(['', 'So ', pieces[rng.randrange(15)]])}{move}{rng.choice(['', ' ', '}', '.'])}"
            )
        ours = read(observation, reply)
        (action,), _ = batch.parse([reply], mode="strict")
        assert (ours is None) == (action == games.INVALID), repr(reply)
        if ours is not None:
            assert ours == f"[{action}]"
            accepted += 1
    assert accepted > 1000


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        (r"\boxed{check}", "[check]"),
        (r"\boxed{[bet]}", "[bet]"),
        (r"first \boxed{bet} then \boxed{check}", "[check]"),
        ("check", "[check]"),
        (r"\boxed{Check}", None),
        (r"\boxed{ bet }", None),
        (r"\fbox{bet}", None),
        (r"\boxed{bet", None),
        (r"\boxed{bet} \boxed{}", None),
        (r"\boxed{GAME}", None),
        ("", ""),
        (r"\boxed{call}", None),
    ],
)
def test_spirals_parser_on_kuhn_poker(reply: str, action: str | None) -> None:
    """Oracle: known numbers, what SPIRAL's released parser makes of these replies. The list is the last line's."""
    observation = (
        "\n[GAME] '[call]' is a move.\n[GAME] Your card is: Q\nYour available actions are: [check], [bet]"
    )
    assert spiral.reader_for("KuhnPoker-v1")(observation, reply) == action


def test_spirals_parser_on_negotiation() -> None:
    """Oracle: known numbers. The first version says whatever is boxed, the second wants a move at the start."""
    first, second = (spiral.reader_for(f"SimpleNegotiation-{version}") for version in ("v1", "v2"))
    assert first("", r"\boxed{Let us talk}") == "Let us talk"
    assert first("", "[Accept]") is None
    assert first("", r"\boxed{}") is None
    assert second("", r"\boxed{[Accept]}") == "[Accept]"
    assert second("", r"\boxed{Accept}") == "[Accept]"
    assert second("", r"\boxed{Offer: 3 Wood -> 2 Sheep}") is None  # six words get no brackets
    offer = "[Offer: 3 Wood -> 2 Sheep] Fair?"
    assert second("", rf"\boxed{{{offer}}}") == offer
    assert second("", r"\boxed{I [Deny]}") is None
    with pytest.raises(ValueError, match="no parser for 'Nim-v0'"):
        spiral.reader_for("Nim-v0")
