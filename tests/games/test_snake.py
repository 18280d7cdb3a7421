"""Snake: textarena 0.6.4 or 0.7.4 as a peer with the hidden state injected, statistics, and rules by hand."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from selfplay_fast import games

MOVES = {0: (0, 1), 1: (0, -1), 2: (-1, 0), 3: (1, 0)}
WORDS = ["up", "down", "left", "right"]
KEYS = "wsad"


def _cells(batch: games.Batch, row: int = 0) -> tuple[int, list[list[int]], list[bool], set[int]]:
    """Tick, the cells of both snakes from head to tail, which of them live, the apples."""
    tick, *snakes, apples = (batch.information_state(row, 0) + ";;").split(";")[:4]
    bodies = [[int(cell) for cell in snake.rstrip("x").split(",")] for snake in snakes]
    alive = [not snake.endswith("x") for snake in snakes]
    return int(tick), bodies, alive, {int(cell) for cell in apples.split(",") if cell}


def _prudent(rng: random.Random, width: int, height: int, bodies: list[list[int]], player: int) -> int:
    """Mostly a move that stays on the grid and off the bodies, so that games last."""
    head = bodies[player][0]
    fair = []
    for move, (dx, dy) in MOVES.items():
        x, y = head % width + dx, head // width + dy
        if 0 <= x < width and 0 <= y < height and y * width + x not in bodies[0][:-1] + bodies[1][:-1]:
            fair.append(move)
    return rng.choice(fair) if fair and rng.random() < 0.95 else rng.randrange(4)


@pytest.mark.parametrize(
    ("width", "height", "apples", "turns"), [(5, 5, 2, 40), (5, 4, 5, 30), (10, 10, 3, 100)]
)
def test_textarena(
    width: int,
    height: int,
    apples: int,
    turns: int,
    monkeypatch: pytest.MonkeyPatch,
    peer_games: Callable[[int], int],
    textarena_release: tuple[int, ...],
) -> None:
    """Oracle: peer textarena. Whole games with the same deal, moves and new apples, compared after every tick.

    It counts single submissions and looks at the limit before it counts, so one more is needed there; and of equally
    long snakes both win, which is our rules=textarena. Release 0.7.4 calls that a draw, as we do, and lets the longer
    of two win that die at once.
    """
    from textarena.envs.Snake.env import Snake, SnakeEnv

    new_apples: deque[int] = deque()

    def free_cell(*_: object, **__: object) -> tuple[int, int] | None:
        return divmod(new_apples.popleft(), width)[::-1] if new_apples else None

    monkeypatch.setattr(SnakeEnv, "_random_free_cell", free_cell)
    rng = random.Random(width)
    name = f"snake(width={width}, height={height}, apples={apples}, turns={turns})"
    ours, tied = games.make(name, 1, seed=width), games.make(name, 1, seed=width, rules="textarena")
    results: set[tuple[str, float, float]] = set()
    longest = 0
    for game in range(peer_games(250)):
        for batch in (ours, tied):
            batch.reset(seeds=[game])
        new_apples.clear()
        new_apples.extend(range(2 + apples))  # any deal: ours is put in its place
        env = SnakeEnv(width=width, height=height, num_apples=apples, max_turns=turns)
        env.reset(num_players=2)
        env.state.error_allowance = 0
        state = env.state.game_state
        _, bodies, _, food = _cells(ours)
        for p in (0, 1):
            state["snakes"][p] = Snake([divmod(bodies[p][0], width)[::-1]])
        state["apples"] = [divmod(cell, width)[::-1] for cell in food]
        new_apples.clear()  # 0.7.4 puts snakes elsewhere by itself
        how = ""
        while not how:
            moves = [_prudent(rng, width, height, bodies, p) for p in (0, 1)]
            said = [
                rng.choice(["[{}]", "I go [{}]"]).format(rng.choice([WORDS[m], KEYS[m], WORDS[m].upper()]))
                for m in moves
            ]
            garbled = rng.randrange(2) if rng.random() < 0.01 else None
            if garbled is not None:
                said[garbled] = "[forward]"
            read = [ours.parse([said[p]], player=p)[0][0] for p in (0, 1)]
            if garbled is not None:
                assert read[garbled] == games.INVALID
                for p in range(garbled + 1):
                    done, _ = env.step(said[p])
                assert done
                assert env.state.rewards == {garbled: -1, 1 - garbled: int(textarena_release >= (0, 7))}
                how = "garbled"
                break
            assert read == moves
            for batch in (ours, tied):
                batch.step([moves])
            tick, bodies, alive, after = _cells(ours)
            eaten = food & {body[0] for body, lives in zip(bodies, alive, strict=True) if lives}
            new_apples.extend(sorted(after - (food - eaten)))
            food = after
            for p in (0, 1):
                assert env.state.current_player_id == p
                done, _ = env.step(said[p])
            for p in (0, 1):
                snake = state["snakes"][p]
                assert snake.alive == alive[p]
                if alive[p]:
                    assert [y * width + x for x, y in snake.positions] == bodies[p]
                    assert state["scores"][p] == len(bodies[p]) - 1
            if not ours.terminated[0]:
                assert not done
                assert {y * width + x for x, y in state["apples"]} == food
                continue
            how = "death" if not all(alive) else "limit"
            if how == "limit":
                assert not done
                assert tick == turns // 2
                done, _ = env.step("[up]")
            assert done
            theirs = (float(env.state.rewards[0]), float(env.state.rewards[1]))
            tie = how == "limit" and len(bodies[0]) == len(bodies[1])
            if textarena_release < (0, 7):
                assert tuple(tied.returns[0].tolist()) == theirs
                assert theirs == (1.0, 1.0) or not tie
            elif not any(alive):
                lead = float(np.sign(state["scores"][0] - state["scores"][1]))
                assert theirs == (lead, -lead)
                theirs = (0.0, 0.0)
            assert tuple(ours.returns[0].tolist()) == ((0.0, 0.0) if tie else theirs)
            longest = max(longest, *map(len, bodies))
            results.add((how, *theirs))
    assert longest > 4
    ways = {("death", 1.0, -1.0), ("death", -1.0, 1.0), ("death", 0.0, 0.0), ("limit", 1.0, -1.0)}
    assert ways | {("limit", -1.0, 1.0)} <= results


def test_cells_stay_sound() -> None:
    """Oracle: the rules. Snakes and apples never share a cell, apples are as many as fit, snakes are connected."""
    batch = games.make("snake(width=3, height=4, apples=5, turns=60)", 600, seed=1)
    rng = random.Random(2)
    full = 0
    while not batch.terminated.all():
        moves = np.zeros((600, 2), np.int64)
        for row in np.flatnonzero(~batch.terminated).tolist():
            _, bodies, alive, food = _cells(batch, row)
            cells = [cell for body in bodies for cell in body]
            assert alive == [True, True]
            assert len(set(cells)) == len(cells)
            assert not food & set(cells)
            assert len(food) == min(5, 12 - len(cells))
            full += len(food) < 5
            for body in bodies:
                for a, b in pairwise(body):
                    assert abs(a % 3 - b % 3) + abs(a // 3 - b // 3) == 1
            moves[row] = [_prudent(rng, 3, 4, bodies, p) for p in (0, 1)]
        batch.step(moves)
    assert full > 100


def test_deals_are_uniform() -> None:
    """Oracle: statistics. Each cell holds each head and the apples equally often, within five standard errors."""
    n = 30_000
    batch = games.make("snake", n, seed=3)
    heads, apples = np.zeros((2, 25)), np.zeros(25)
    for row in range(n):
        _, bodies, _, food = _cells(batch, row)
        for p in (0, 1):
            heads[p, bodies[p][0]] += 1
        apples[list(food)] += 1
    for counts, share in ((heads[0], n / 25), (heads[1], n / 25), (apples, 2 * n / 25)):
        assert (np.abs(counts - share) < 5 * share**0.5).all()


def test_tensor_shows_what_the_text_shows() -> None:
    """Oracle: the grid in the text, read back. Own planes come first, rows from the top, the body rises to the head."""
    batch = games.make("snake(width=6, height=4, apples=3)", 200, seed=4)
    rng = random.Random(5)
    grown = 0
    for _ in range(12):
        for player in (0, 1):
            tensors = batch.observation_tensor(player=player)
            texts = batch.observation(player=player)
            assert tensors.shape == (200, 6, 4, 6)
            for row in range(200):
                if batch.terminated[row]:
                    assert texts[row] == ""
                    continue
                lines = texts[row].split("Grid:\n")[1].split("\n")
                grid = np.array([line.split() for line in lines[:4]])
                own_head, own, other_head, other, food, share = tensors[row]
                assert (own_head == (grid == str(player))).all()
                assert (other_head == (grid == str(1 - player))).all()
                assert (food == (grid == "A")).all()
                assert (((own > 0) | (other > 0)) == ((grid != ".") & (grid != "A"))).all()
                tick, bodies, _, _ = _cells(batch, row)
                assert (share == np.float32(tick / 20)).all()
                for plane, body in ((own, bodies[player]), (other, bodies[1 - player])):
                    length = len(body)
                    grown += length > 2
                    shown = [plane[3 - cell // 6, cell % 6] for cell in body]
                    assert shown == [np.float32((length - i) / length) for i in range(length)]
        moves = np.zeros((200, 2), np.int64)
        for row in np.flatnonzero(~batch.terminated).tolist():
            moves[row] = [_prudent(rng, 6, 4, _cells(batch, row)[1], p) for p in (0, 1)]
        batch.step(moves)
    assert grown > 100


def test_bodies_in_words() -> None:
    """Oracle: the cells. The words after a head lead along the body; brief says the same in fewer."""
    rng = random.Random(6)
    batch = games.make("snake", 300, seed=6)
    brief = games.make("snake", 300, seed=6, style="brief")
    checked = 0
    for _ in range(10):
        moves = np.zeros((300, 2), np.int64)
        for row in np.flatnonzero(~batch.terminated).tolist():
            _, bodies, _, _ = _cells(batch, row)
            lines = batch.observation([row], 1)[0].split("\n")[-2:]
            short = brief.observation([row], 1)[0].split("\n")[-2:]
            for p, body in enumerate(bodies):
                steps = {v: k for k, v in MOVES.items()}
                way = [WORDS[steps[b % 5 - a % 5, b // 5 - a // 5]] for a, b in pairwise(body)]
                told = f", from its head: {', '.join(way)}." if way else " has no body yet."
                assert lines[p] == f"Snake {p}{told}"
                assert short[p] == f"{p} {' '.join(way) or 'none'}"
                checked += len(way) > 1
            moves[row] = [_prudent(rng, 5, 5, bodies, p) for p in (0, 1)]
        batch.step(moves)
        brief.step(moves)
    assert checked > 50


def test_zero_sum_depends_on_the_rules() -> None:
    """Oracle: contract. A tie in which both win is not of zero sum, and the description says so."""
    assert games.describe("snake").zero_sum
    assert not games.describe("snake(rules=textarena)").zero_sum
    batch = games.make("snake(width=10, height=10, turns=2, rules=textarena)", 500, seed=1)
    batch.random_playouts()
    assert (batch.returns == 1).all(axis=1).any()
    with pytest.raises(ValueError, match="snake: option turns must be 2 or 4"):
        games.make("snake(turns=7)", 1)
