"""Oracle: known numbers. Counts of positions and lines of play, walked level by level."""

from __future__ import annotations

from collections import Counter

import numpy as np

from selfplay_fast import games, solvers


def _levels(game: str, plies: int) -> list[tuple[int, int, int]]:
    """Of every ply: distinct positions, lines of play that lead there, and how many of these end there."""
    root = games.make(game, 1)
    histories = {root.information_state(0, 0): ()}
    ways = Counter(dict.fromkeys(histories, 1))
    counts = [(1, 1, 0)]
    for _ in range(plies):
        played = np.array(list(histories.values()), np.int64)
        batch = games.make(game, len(played))
        for column in played.T:
            batch.step(column)
        rows, actions = np.nonzero(batch.legal_actions)
        wider = games.make(game, len(rows))
        for column in played[rows].T:
            wider.step(column)
        wider.step(actions)
        before, keys = list(histories), []
        next_ways: Counter[str] = Counter()
        for row, parent in enumerate(rows):
            keys.append(wider.information_state(row, 0))
            next_ways[keys[-1]] += ways[before[parent]]
        ended = {key for key, over in zip(keys, wider.terminated, strict=True) if over}
        counts.append((len(next_ways), next_ways.total(), sum(next_ways[key] for key in ended)))
        lines = np.concatenate([played[rows], actions[:, None]], axis=1)
        histories = {
            key: tuple(line) for key, line in zip(keys, lines.tolist(), strict=True) if key not in ended
        }
        ways = next_ways
    return counts


def test_connect_four_counts() -> None:
    """Oracle: known numbers. Positions after n discs are those of OEIS A212693 (J. Tromp), 54,859 after seven.

    Seven discs fall in 7 ** 7 ways but for the seven that overfill a column; 13,032 of them make four.
    """
    assert _levels("connect_four", 7) == [
        (1, 1, 0),
        (7, 7, 0),
        (49, 49, 0),
        (238, 343, 0),
        (1120, 2401, 0),
        (4263, 16807, 0),
        (16422, 117649, 0),
        (54859, 7**7 - 7, 13032),
    ]


def test_perfect_nim() -> None:
    """Oracle: Bouton 1901. Whoever is to move wins unless the binary sum of the piles is 0.

    In the misere game that holds too, except where no pile has more than one object: then an odd number loses.
    """
    for misere in ("no", "yes"):
        seen = set()
        for state, play in solvers.minimax(f"nim(misere={misere})").items():
            piles = [int(n) for n in state.split(": ")[1].split()]
            nim_sum = piles[0] ^ piles[1] ^ piles[2]
            won = nim_sum != 0
            if misere == "yes" and max(piles) <= 1:
                won = nim_sum == 0
            assert play.value == (1.0 if won else -1.0), piles
            seen.add(tuple(piles))
        assert len(seen) == 4 * 5 * 6 - 1
