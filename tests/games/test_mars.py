"""Style mars and the reward option mars: turns, replies, texts and returns of MARS's games."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay_fast import games

MARS = re.compile(r"^<think>(.*?)</think>\s*<answer>(.*?)</answer>$", re.DOTALL)
"""The published format of a reply."""

pieces = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "bet",
        "check",
        "Bet",
        "||",
        " ",
        "\n",
        "\\boxed{bet}",
        "[bet]",
        "x",
    ]
)


@given(st.lists(pieces, max_size=12).map("".join))
def test_strict_is_the_published_format(reply: str) -> None:
    """Oracle: the published regular expression, then the first part before ||, which must be a legal action."""
    batch = games.make("kuhn_poker", 1, style="mars", seed=1)
    (action,), (refusal,) = batch.parse([reply], mode="strict")
    match = MARS.match(reply)
    spoken = match[2].split("||")[0].strip() if match else None
    assert action == (
        {"check": 0, "bet": 1}.get(spoken, games.INVALID) if spoken is not None else games.INVALID
    )
    assert (refusal is None) == (action >= 0)


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("<think>[bet]?</think><answer>check</answer>", 0),
        ("<answer>bet</answer> or rather <answer> Check. </answer> done", 0),
        ("\\boxed{bet}", 1),
        ("I bet.\nbet", 1),
        ("<answer>bet", games.INVALID),
        ("<answer>raise</answer>", games.INVALID),
    ],
)
def test_lenient(reply: str, action: int) -> None:
    """Oracle: the rule of the docstring. The last answer is the reply; without one everything is."""
    batch = games.make("kuhn_poker", 1, style="mars", seed=1)
    assert batch.parse([reply])[0].tolist() == [action]


def test_a_chat_numbers_the_turns_of_both() -> None:
    """Oracle: written down by hand."""
    batch = games.make("tic_tac_toe", 1, style="mars")
    batch.step([4])
    first = batch.messages_since(0, 1)
    assert len(first) == 1
    assert first[0].endswith(
        "Turn 2. It is your turn. You are X. Board:\n0 1 2\n3 O 5\n6 7 8\nLegal: 0, 1, 2, 3, 5, 6, 7, 8"
    )
    batch.step([0])
    batch.step([8])
    assert batch.messages_since(0, 1) == [
        "Turn 3. You are X. Board:\nX 1 2\n3 O 5\n6 7 8\nLegal: 1, 2, 3, 5, 6, 7, 8\nPlayer 0: 8",
        "Turn 4. It is your turn. You are X. Board:\nX 1 2\n3 O 5\n6 7 O\nLegal: 1, 2, 3, 5, 6, 7",
    ]


def test_the_other_seat_s_view_is_not_told_in_cards() -> None:
    """Oracle: written down by hand. Nature's moves are no turns; of a hidden hand only the move is told."""
    batch = games.make("kuhn_poker", 1, style="mars", chance="explicit")
    for action in (0, 2, 0, 1):
        batch.step([action])
    assert batch.messages_since(0, 0) == [
        "Turn 2. Player 1: bet",
        "Turn 3. It is your turn. You are player 0. Your card: J. Actions so far: check, bet. Legal: fold, call",
    ]


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four"])
def test_a_draw_pays_a_tenth(name: str) -> None:
    """Oracle: the standard rewards, with 0.1 for both where they are 0."""
    standard, mars = (games.make(name, 3000, seed=3, rewards=rewards) for rewards in ("standard", "mars"))
    standard.random_playouts()
    mars.random_playouts()
    drawn = (standard.returns == 0).all(axis=1)
    assert drawn.any()
    assert not drawn.all()
    assert (mars.returns == np.where(drawn[:, None], np.float32(0.1), standard.returns)).all()
    assert games.describe(name).zero_sum
    assert not games.describe(name, rewards="mars").zero_sum


@pytest.mark.parametrize("legal_list", [True, False])
@pytest.mark.parametrize(
    "name",
    ["tic_tac_toe", "tic_tac_toe(size=5)", "connect_four", "hanabi", "hanabi(colors=2, ranks=2, hand=3)"],
)
def test_nobody_reads_how_a_result_is_paid(name: str, style: games.Style, legal_list: bool) -> None:
    """Oracle: what is read in the same games with the standard rewards, as observations and as chats."""
    standard, mars = (
        games.make(name, 8, seed=3, style=style, legal_list=legal_list, rewards=rewards)
        for rewards in ("standard", "mars")
    )
    while not standard.terminated.all():
        assert mars.observation() == standard.observation()
        for row in np.flatnonzero(~standard.terminated).tolist():
            player = int(standard.current_player[row])
            assert mars.messages_since(row, player) == standard.messages_since(row, player)
        actions = standard.sample_actions(5)
        standard.step(actions)
        mars.step(actions)


def test_hanabi_pays_a_tenth_for_an_idle_end() -> None:
    """Oracle: the rewards step by step. The last step's is 0.1 if nothing changed; the last life takes the points."""
    options = {"colors": 3, "ranks": 3, "life_tokens": 1}
    batch = games.make("hanabi", 2000, seed=4, rewards="mars", **options)
    twin = games.make("hanabi", 2000, seed=4, **options)
    kinds = set()
    for step in range(100):
        keys = [twin.information_state(row, 0) for row in range(2000)]
        before = np.array([_points(key) for key in keys])
        ended = twin.terminated.copy()
        actions = twin.sample_actions(step)
        batch.step(actions)
        twin.step(actions)
        for row in np.flatnonzero(twin.terminated & ~ended):
            after = _points(twin.information_state(row, 0))
            lost = " l0 " in twin.information_state(row, 0)
            reward = -before[row] if lost else after - before[row]
            total = before[row] + (reward if reward != 0 else 0.1)
            assert batch.returns[row, 0] == batch.returns[row, 1] == pytest.approx(total)
            kinds.add((lost, reward != 0))
        if twin.terminated.all():
            break
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}


def _points(key: str) -> int:
    """Cards on the fireworks, which a key shows as f and a digit per color."""
    match = re.search(r" f(\d+) ", key)
    assert match
    return sum(map(int, match[1]))
