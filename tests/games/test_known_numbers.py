"""Oracle: known numbers. Counts and values anyone can look up or derive by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from selfplay_fast import games, solvers


def _expand(batch: games.Batch) -> games.Batch:
    """One row per (row, legal action) of the batch, with that action played."""
    rows, actions = np.nonzero(batch.legal_actions)
    histories = [batch.history(int(row)) for row in rows]
    wider = games.make("tic_tac_toe", len(rows))
    for ply in range(len(histories[0])):
        wider.step(np.array([history[ply] for history in histories], np.int64))
    wider.step(actions)
    return wider


def test_tic_tac_toe_counts() -> None:
    """Oracle: known numbers. 255,168 games, 131,184 won by the first player, 77,904 by the second; 5,478 positions.

    Walks positions level by level and counts the ways to reach each, so that no game is played twice.
    """
    representatives = {games.make("tic_tac_toe", 1).information_state(0, 0): ()}
    ways = Counter({games.make("tic_tac_toe", 1).information_state(0, 0): 1})
    positions, outcomes = 1, Counter()
    for _ in range(9):
        histories = list(representatives.values())
        batch = games.make("tic_tac_toe", len(histories))
        for ply in range(len(histories[0])):
            batch.step(np.array([history[ply] for history in histories], np.int64))
        keys = [batch.information_state(row, 0) for row in range(len(batch))]
        wider = _expand(batch)
        parents = np.nonzero(batch.legal_actions)[0]
        next_ways, next_histories = Counter(), {}
        for row, parent in enumerate(parents):
            key, count = wider.information_state(row, 0), ways[keys[parent]]
            if wider.terminated[row]:
                outcomes[float(wider.returns[row, 0])] += count
                next_histories.setdefault(key, None)
            else:
                next_ways[key] += count
                next_histories[key] = tuple(wider.history(row))
        positions += len(next_histories)
        representatives = {key: history for key, history in next_histories.items() if history is not None}
        ways = next_ways
        if not representatives:
            break
    assert outcomes == {1.0: 131_184, -1.0: 77_904, 0.0: 46_080}
    assert positions == 5_478


@pytest.mark.parametrize("cards", [3, 4, 5])
def test_kuhn_has_four_information_states_per_card_and_five_ends_per_deal(cards: int) -> None:
    """Oracle: known numbers. With three cards 12 states, 30 leaves, and payoffs of one or two chips."""
    batch = games.make("kuhn_poker", 20_000, seed=2, cards=cards)
    keys, texts = set(), set()
    while not batch.terminated.all():
        rows = np.flatnonzero(~batch.terminated)
        for row, text in zip(rows.tolist(), batch.observation(rows), strict=True):
            keys.add(batch.information_state(row, int(batch.current_player[row])))
            texts.add(text)
        batch.step(batch.sample_actions(4))
    assert keys == {str(card) + h for card in range(cards) for h in ("", "p", "b", "pb")}
    assert len(texts) == 4 * cards
    ends = {tuple(batch.history(row)) for row in range(len(batch))}
    assert len(ends) == cards * (cards - 1) * 5
    for row in range(200):
        first, second, *moves = batch.history(row)
        folded = {(0, 1, 0): -1.0, (1, 0): 1.0}.get(tuple(moves))
        stake = 1 if moves == [0, 0] else 2
        expected = folded if folded is not None else float(stake if first > second else -stake)
        assert batch.returns[row].tolist() == [expected, -expected]


def test_textarena_match_under_random_play() -> None:
    """Oracle: known numbers. Only the last round counts, and player 1 begins it.

    Under uniform play the beginner wins a hand by: check-check 1/4 (even), check-bet-fold 1/8 (loses), check-bet-call
    1/8 (even), bet-fold 1/4 (wins), bet-call 1/4 (even): 5/16 + 1/4 = 9/16, so player 0 wins 7/16 of the matches.
    """
    batch = games.make("kuhn_poker(rounds=5, rules=textarena)", 40_000, seed=3)
    batch.random_playouts()
    assert set(np.unique(batch.returns)) == {-1.0, 1.0}, "no draws"
    wins = (batch.returns[:, 0] > 0).mean()
    assert abs(wins - 7 / 16) < 4 * np.sqrt(7 / 16 * 9 / 16 / 40_000)


def _stakes(hand: list[int]) -> int:
    """Chips player 0 wins in a hand that player 1 begins: its two cards and its moves."""
    first, second, *moves = hand
    if moves == [0, 1, 0]:
        return 1
    if moves == [1, 0]:
        return -1
    return (1 if moves == [0, 0] else 2) * (1 if first > second else -1)


def test_correct_match_counts_chips() -> None:
    """Oracle: rules by hand. Three rounds, begun by players 1, 0, 1: the larger sum of chips wins, equal sums draw."""
    batch = games.make("kuhn_poker(rounds=3)", 500, seed=3)
    batch.random_playouts()
    seen = set()
    for row in range(len(batch)):
        left, total = batch.history(row), 0
        for r in range(3):
            moves = 2 + next(n for n in (2, 3) if n == 3 or left[2:4] != [0, 1])
            hand, left = left[:moves], left[moves:]
            total += _stakes(hand) if r != 1 else -_stakes([hand[1], hand[0], *hand[2:]])
        assert not left
        assert batch.returns[row, 0] == np.sign(total)
        seen.add(float(np.sign(total)))
    assert seen == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("rules", ["correct", "textarena"])
def test_matches_begin_with_player_1_in_odd_rounds(rules: str) -> None:
    """Oracle: rules by hand. Player 1 begins rounds 1, 3 and 5, player 0 rounds 2 and 4."""
    batch = games.make("kuhn_poker", 1, rounds=5, rules=rules)
    for starter in (1, 0, 1, 0, 1):
        assert batch.current_player[0] == starter
        batch.step([0])
        assert batch.current_player[0] == 1 - starter
        batch.step([0])
    assert batch.terminated[0]


def test_large_tic_tac_toe_needs_a_full_line() -> None:
    """Oracle: rules by hand. On 5 x 5 cells four in a row do not win, the whole row does."""
    batch = games.make("tic_tac_toe(size=5)", 1)
    for cell in (0, 5, 1, 6, 2, 7, 3, 8):
        batch.step([cell])
    assert not batch.terminated[0]
    batch.step([4])
    assert batch.terminated[0]
    assert batch.returns[0].tolist() == [1.0, -1.0]


def test_leduc_under_uniform_play() -> None:
    """Oracle: known numbers. NashConv of uniform play is 4.7472 (as in OpenSpiel); the game is worth -0.0856."""
    states = solvers.information_states("leduc_poker")
    assert len(states) == 936
    uniform = solvers.TabularPolicy.uniform("leduc_poker")
    assert solvers.nash_conv("leduc_poker", uniform) == pytest.approx(4.747222, abs=1e-6)
    solved = solvers.cfr("leduc_poker", 300)
    assert solvers.nash_conv("leduc_poker", solved) < 0.05
    assert solvers.policy_value("leduc_poker", solved)[0] == pytest.approx(-0.0856, abs=0.01)


@pytest.mark.parametrize(
    ("options", "dice", "faces", "wild"),
    [
        ("", 1, 6, True),
        ("dice=3, faces=4, wild=no", 3, 4, False),
        ("rules=textarena", 5, 6, False),
        ("dice=2, faces=3, wild=yes, rules=textarena", 2, 3, True),
    ],
)
def test_liars_dice_by_hand(options: str, dice: int, faces: int, wild: bool) -> None:
    """Oracle: rules by hand, replayed on a thousand random games."""
    batch = games.make(f"liars_dice({options})" if options else "liars_dice", 1000, seed=6)
    batch.random_playouts()
    for row in range(len(batch)):
        left, mover, moves = [dice, dice], 0, iter(batch.history(row))
        while min(left) > 0:
            rolls = [next(moves) for _ in range(sum(left))]
            last = -1
            while (move := next(moves)) < 2 * dice * faces:
                assert last < move < sum(left) * faces
                last, mover = move, 1 - mover
            count = sum(roll == last % faces or (wild and roll == faces - 1) for roll in rolls)
            mover = 1 - mover if count < last // faces + 1 else mover
            left[mover] -= 1 if "textarena" in options else dice
        assert next(moves, None) is None
        assert batch.returns[row, mover] == -1.0
        assert batch.returns[row, 1 - mover] == 1.0


def test_endless_rolling_ends_pig() -> None:
    """Oracle: rules by hand. Ten rolls per turn of the horizon end a game under textarena's rules, here in a draw."""
    batch = games.make("pig(target=50, horizon=3, rules=textarena)", 1, chance="explicit")
    for roll in range(30):
        assert not batch.terminated[0]
        batch.step([0])
        if roll < 29:
            batch.step([5])
    assert batch.terminated[0]
    assert batch.returns[0].tolist() == [0.0, 0.0]


def test_hanabi_can_be_won_and_lost() -> None:
    """Oracle: rules by hand. All cards in order score 4; three misplays score 0 whatever was built."""
    batch = games.make("hanabi(colors=2, ranks=2, hand=2)", 2, chance="explicit")
    for card in (0, 1, 2, 3):  # R1 R2 for player 0, Y1 Y2 for player 1
        batch.step([card, card])
    for action, draw in ((2, 0), (2, 0), (2, 2)):  # both play their oldest card: R1, Y1, R2
        batch.step([action], [0])
        batch.step([draw], [0])
    batch.step([2], [0])  # Y2
    for action, draw in (
        (3, 0),
        (3, 0),
        (2, 2),
        (3, 2),
    ):  # player 0: R2 fails, player 1: Y2 fails, R1 scores, R1 fails
        batch.step([action], [1])
        if not batch.terminated[1]:
            batch.step([draw], [1])
    assert batch.terminated.all()
    assert batch.returns.tolist() == [[4.0, 4.0], [0.0, 0.0]]


def test_hanabi_players_share_one_score() -> None:
    """Oracle: contract. Returns have a column per player of the configured game."""
    batch = games.make("hanabi(ranks=2, players=5, hand=3)", 50, seed=1)
    batch.random_playouts()
    assert batch.description.num_players == 5
    assert batch.returns.shape == (50, 5)
    assert (batch.returns == batch.returns[:, :1]).all()
    assert batch.returns.max() > 0
    with pytest.raises(ValueError, match="hanabi: hands take 4 cards and the deck has 3"):
        games.make("hanabi(colors=1, ranks=1, hand=2)", 1)
