"""Perfect play of tic-tac-toe, against a few lines of Python that know the rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from selfplay_fast import _native, solvers

GAME = "tic_tac_toe"
LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
START = "." * 9


def board_of(key: str) -> str:
    return key.replace("\n", "")


def key_of(board: str) -> str:
    return "\n".join((board[:3], board[3:6], board[6:]))


def outcome(board: str) -> int | None:
    """Return of player 0, None while the game goes on."""
    for a, b, c in LINES:
        if board[a] == board[b] == board[c] != ".":
            return 1 if board[a] == "o" else -1
    return None if "." in board else 0


def moves(board: str) -> dict[int, str]:
    mark = "o" if board.count("o") == board.count("x") else "x"
    return {cell: board[:cell] + mark + board[cell + 1 :] for cell in range(9) if board[cell] == "."}


def mover(board: str) -> int:
    return 0 if board.count("o") == board.count("x") else 1


@cache
def best(board: str) -> int:
    """Minimax value for player 0."""
    result = outcome(board)
    if result is not None:
        return result
    return (max, min)[mover(board)](best(after) for after in moves(board).values())


def worst_case(choose: Callable[[str], list[int]], seat: int) -> int:
    """Least result of a player that may choose any of ``choose(board)``, against every reply there is."""

    @cache
    def least(board: str) -> int:
        result = outcome(board)
        if result is not None:
            return result if seat == 0 else -result
        after = moves(board)
        cells = choose(board) if mover(board) == seat else list(after)
        return min(least(after[cell]) for cell in cells)

    return least(START)


def test_positions() -> None:
    """Oracle: 5,478 positions, the known number; 4,520 of them are not over (counted in Python)."""
    positions = _native.solver_form(GAME, {}, 10_000)
    assert positions.num_positions == 5478
    seen, frontier = {START}, [START]
    while frontier:
        board = frontier.pop()
        after = [] if outcome(board) is not None else [b for b in moves(board).values() if b not in seen]
        seen.update(after)
        frontier.extend(after)
    undecided = {board for board in seen if outcome(board) is None}
    assert (len(seen), len(undecided)) == (5478, 4520)
    assert {board_of(state.key) for state in positions.information_states} == undecided


def test_minimax_everywhere() -> None:
    """Oracle: minimax over strings in Python, value and optimal set at all 4,520 positions."""
    for key, play in solvers.minimax(GAME).items():
        board = board_of(key)
        sign = 1 if mover(board) == 0 else -1
        assert play.player == mover(board)
        assert play.value == sign * best(board)
        assert play.actions == tuple(
            cell for cell, after in moves(board).items() if best(after) == best(board)
        )
    assert solvers.minimax(GAME)[key_of(START)].value == 0


def test_perfect_play_never_loses() -> None:
    """Oracle: every optimal choice against every opponent, walked in Python; value 0 and nothing to gain."""
    policy = solvers.optimal_policy(GAME)

    def choose(board: str) -> list[int]:
        return np.flatnonzero(policy[key_of(board)]).tolist()

    assert worst_case(choose, 0) == 0
    assert worst_case(choose, 1) == 0
    assert worst_case(lambda board: list(moves(board)), 0) == -1  # the walk does find losses
    assert solvers.nash_conv(GAME, policy) == pytest.approx(0, abs=1e-12)
    assert solvers.policy_value(GAME, policy) == pytest.approx([0, 0], abs=1e-12)


def test_uniform_play() -> None:
    """Oracle: of random games the first player wins 737/1260, the second 121/420."""
    uniform = solvers.TabularPolicy.uniform(GAME)
    edge = 737 / 1260 - 121 / 420
    assert solvers.policy_value(GAME, uniform) == pytest.approx([edge, -edge], abs=1e-12)
    first, draw, second = 737 / 1260, 8 / 63, 121 / 420
    assert solvers.outcomes(GAME, uniform) == pytest.approx(
        np.array([[first, draw, second], [second, draw, first]]), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_best_response(seed: int) -> None:
    """Oracle: expectation and maximum over boards in Python, for a random policy."""
    rng = np.random.default_rng(seed)
    policy = {}
    for key, row in solvers.TabularPolicy.uniform(GAME).items():
        weights = np.where(row > 0, rng.random(9), 0)
        policy[key] = weights / weights.sum()
    total = 0.0
    for seat in range(2):

        @cache
        def value(board: str, seat: int = seat, responds: bool = True) -> float:
            result = outcome(board)
            if result is not None:
                return result if seat == 0 else -result
            after = {cell: value(b, seat, responds) for cell, b in moves(board).items()}
            if responds and mover(board) == seat:
                return max(after.values())
            return sum(policy[key_of(board)][cell] * worth for cell, worth in after.items())

        response, best_value = solvers.best_response(GAME, policy, seat)
        assert best_value == pytest.approx(value(START, seat, True), abs=1e-12)
        assert {mover(board_of(key)) for key in response} == {seat}
        assert solvers.policy_value(GAME, policy | dict(response))[seat] == pytest.approx(
            best_value, abs=1e-12
        )
        total += value(START, seat, True) - value(START, seat, False)
    assert solvers.nash_conv(GAME, policy) == pytest.approx(total, abs=1e-12)


def test_information_states() -> None:
    """Oracle: the board in the key; texts tell positions apart for whoever moves."""
    states = solvers.information_states(GAME)
    assert len(states) == len({state.observation for state in states}) == 4520
    for state in states[::97]:
        assert state.legal_actions == tuple(moves(board_of(state.key)))
        assert len(state.reply_texts) == len(set(state.reply_texts)) == len(state.legal_actions)


def test_refusals() -> None:
    """Oracle: the documented refusals."""
    with pytest.raises(ValueError, match="perfect information; use optimal_policy"):
        solvers.cfr(GAME, 10)
    with pytest.raises(ValueError, match="more than max_nodes = 2000 nodes"):
        solvers.minimax(f"{GAME}(size=5)", max_nodes=2000)
    board = "o........"
    policy = dict(solvers.TabularPolicy.uniform(GAME)) | {key_of(board): np.eye(9)[0]}
    with pytest.raises(ValueError, match="must be 0 for the illegal action 0"):
        solvers.nash_conv(GAME, policy)
    assert not solvers.is_enumerable(GAME)
    assert not solvers.is_enumerable(f"{GAME}(size=5)")
    assert solvers.is_enumerable(GAME, max_information_states=4520)
