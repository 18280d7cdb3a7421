"""UCT and PUCT: against OpenSpiel, exact solutions, and a slow implementation."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from selfplay_fast import games, search, solvers

FORCED_WINS = json.loads((Path(__file__).parent / "vectors" / "forced_wins.json").read_text())


def at(game: str, *histories: list[int]) -> games.Batch:
    """A batch of positions, each given by its moves."""
    batch = games.make(game, len(histories))
    for row, history in enumerate(histories):
        for action in history:
            batch.step([action], rows=[row])
    return batch


@pytest.mark.parametrize("transpositions", [False, True])
def test_every_forced_win_is_found(transpositions: bool) -> None:
    """Oracle: a full search of OpenSpiel's rules, committed with the script that wrote it."""
    batch = at("connect_four", *(position["history"] for position in FORCED_WINS))
    found = search.mcts(batch, simulations=20_000, solve=True, transpositions=transpositions, seed=1)
    for row, position in enumerate(FORCED_WINS):
        assert found.values[row].max() == 1.0, position
        assert found.values[row, found.action[row]] == 1.0, position


@pytest.mark.parametrize("transpositions", [False, True])
def test_tic_tac_toe_is_solved_everywhere(transpositions: bool) -> None:
    """Oracle: minimax over all positions. Where the search proves a move's value, it is the exact one."""
    table = solvers.minimax("tic_tac_toe")
    batch = games.make("tic_tac_toe", 3000, seed=2)
    for ply in range(4):
        batch.step(batch.sample_actions(ply))
    rows = np.flatnonzero(~batch.terminated)
    found = search.mcts(batch, rows=rows, simulations=5_000, solve=True, transpositions=transpositions)
    for row, action, values in zip(rows, found.action, found.values, strict=True):
        player = int(batch.current_player[row])
        exact = table[batch.information_state(row, player)]
        assert action in exact.actions
        if exact.value != 0:
            assert values[action] == exact.value


@pytest.mark.parametrize("game", ["tic_tac_toe", "connect_four"])
def test_visits_are_distributed_as_openspiels(game: str) -> None:
    """Oracle: OpenSpiel's MCTS at the same settings, mean visits of every action within five standard errors.

    It counts its evaluation of the root as a simulation, so it gets one more.
    """
    pyspiel = pytest.importorskip("pyspiel", reason="comes with the extra 'test'")
    simulations, c, repeats = 200, 1.4, 300
    history = [4, 0] if game == "tic_tac_toe" else [3, 3, 2]
    ours = search.mcts(
        at(game, history), rows=np.zeros(repeats, np.int64), simulations=simulations, c=c, solve=False, seed=5
    ).visits
    peer_game = pyspiel.load_game(game)
    state = peer_game.new_initial_state()
    for action in history:
        state.apply_action(action)
    theirs = np.zeros_like(ours)
    for k in range(repeats):
        evaluator = pyspiel.RandomRolloutEvaluator(1, k)
        bot = pyspiel.MCTSBot(peer_game, evaluator, c, simulations + 1, 100, False, k, False)
        for child in bot.mcts_search(state).children:
            theirs[k, child.action] = child.explore_count
    assert (ours.sum(axis=1) == theirs.sum(axis=1)).all()
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / repeats) + 1e-9
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) / error).max() < 5


def evaluate(batch: games.Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Priors and values that depend on the position alone, and are nowhere equal."""
    priors, values = [], []
    for row in range(len(batch)):
        key = batch.information_state(row, 0)
        random = np.random.default_rng(list(key.encode()))
        priors.append(random.random(batch.description.num_actions) + 0.05)
        values.append(random.uniform(-0.5, 0.5))
    return np.array(priors), np.array(values)


class SlowNode:
    """PUCT in a dozen lines, one node at a time."""

    def __init__(self, batch: games.Batch) -> None:
        self.batch = batch
        self.children: dict[int, SlowNode] = {}
        if batch.terminated[0]:
            self.value = batch.returns[0]
            return
        priors, values = evaluate(batch)
        legal = np.flatnonzero(batch.legal_actions[0])
        shares = priors[0, legal] / priors[0, legal].sum()
        self.priors = dict(zip(legal.tolist(), np.round(shares * 65535) / 65535, strict=True))
        self.player = int(batch.current_player[0])
        self.value = values[0] * (np.array([1, -1]) if self.player == 0 else np.array([-1, 1]))
        self.visits = dict.fromkeys(self.priors, 0)
        self.total = dict.fromkeys(self.priors, 0.0)

    def simulate(self, c: float) -> NDArray[np.float64]:
        if self.batch.terminated[0]:
            return self.value
        root = np.sqrt(1 + sum(self.visits.values()))

        def score(a: int) -> float:
            mean = self.total[a] / max(self.visits[a], 1)
            return float(mean + c * self.priors[a] * root / (1 + self.visits[a]))

        action = max(self.priors, key=score)
        if action in self.children:
            returns = self.children[action].simulate(c)
        else:
            after = self.batch.copy()
            after.step([action])
            self.children[action] = SlowNode(after)
            returns = self.children[action].value
        self.visits[action] += 1
        self.total[action] += float(returns[self.player])
        return np.asarray(returns)


@pytest.mark.parametrize(("game", "history"), [("tic_tac_toe", [4, 1]), ("connect_four", [3, 2, 3])])
def test_puct_is_the_slow_one(game: str, history: list[int]) -> None:
    """Oracle: `SlowNode`; the same visits, and mean returns to rounding."""
    batch = at(game, history)
    found = search.mcts(batch, evaluator=evaluate, simulations=150, c=1.5)
    slow = SlowNode(batch)
    for _ in range(150):
        slow.simulate(1.5)
    assert {a: int(found.visits[0, a]) for a in slow.visits} == slow.visits
    for a, n in slow.visits.items():
        assert found.values[0, a] == pytest.approx(slow.total[a] / max(n, 1), abs=1e-5)


def test_a_cache_changes_nothing() -> None:
    """Oracle: the evaluator without it, which gives every position one answer; and how often it was asked."""
    asked = []

    def count(leaves: games.Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        asked.append(len(leaves))
        return evaluate(leaves)

    batch = at("tic_tac_toe", [4], [4])
    plain = search.mcts(batch, evaluator=count, simulations=100, leaves=4)
    every = sum(asked)
    for limit in (20, 1000):
        asked.clear()
        cached = search.mcts(batch, evaluator=search.Cached(count, limit=limit), simulations=100, leaves=4)
        assert all((a == b).all() for a, b in zip(plain, cached, strict=True))
    assert sum(asked) < every


@pytest.mark.parametrize("leaves", [2, 8])
def test_one_tree_fills_a_batch(leaves: int) -> None:
    """Oracle: arithmetic. Simulations add up, no batch exceeds `leaves`, and the virtual losses are all given back."""
    sizes = []

    def watch(batch: games.Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        sizes.append(len(batch))
        return np.ones((len(batch), 7)), np.full(len(batch), 0.25)

    found = search.mcts(
        games.make("connect_four", 1), evaluator=watch, simulations=120, leaves=leaves, virtual_loss=3.0
    )
    assert found.visits.sum() == 120
    assert max(sizes) == leaves
    assert sum(sizes) <= 121
    assert np.abs(found.values).max() <= 1.0  # a loss left behind would be seen


@pytest.mark.parametrize("options", [{}, {"rule": "gumbel", "considered": 4}])
def test_shared_positions_are_asked_for_once(options: dict[str, object]) -> None:
    """Oracle: the same search without sharing, which asks for many positions again."""
    asked: list[str] = []

    def listen(batch: games.Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        asked.extend(batch.information_state(row, 0) for row in range(len(batch)))
        return np.ones((len(batch), 9)), np.zeros(len(batch))

    counts = {}
    for shared in (False, True):
        asked.clear()
        found = search.mcts(
            games.make("tic_tac_toe", 1),
            evaluator=listen,
            simulations=2000,
            transpositions=shared,
            **options,  # type: ignore[arg-type]
        )
        assert found.visits.sum() == 2000
        counts[shared] = len(asked) - len(set(asked))
    assert counts[False] > 50
    assert counts[True] == 0


def test_games_that_begin_again_are_not_followed() -> None:
    """Oracle: contract, a refusal before anything changes; the search goes on from where it was."""
    for mode in ("same_step", "next_step"):
        batch = games.make("tic_tac_toe", 2, autoreset=mode)  # type: ignore[arg-type]
        trees = search.Search(batch, simulations=50)
        found = trees.run().results
        with pytest.raises(ValueError, match=r"advance: games that begin again .* autoreset=.off"):
            trees.advance(found.action)
        assert (trees.results.visits == found.visits).all()


def test_one_search_and_two_threads() -> None:
    """Oracle: the search run by itself. Calls of several threads wait for each other."""
    batch = games.make("connect_four", 2)
    alone = search.Search(batch, simulations=30_000, seed=1).run().results
    shared = search.Search(batch, simulations=30_000, seed=1)
    thread = threading.Thread(target=shared.run)
    thread.start()
    while thread.is_alive():
        assert shared.results.visits.sum() in (0, 60_000)
        assert shared.policy.shape == (2, 7)
    thread.join()
    assert (shared.results.visits == alone.visits).all()


def test_a_sure_win_is_all_of_the_policy() -> None:
    """Oracle: the rules. Three in a row stand open: 3 wins at once, so it is the policy and every draw of it."""
    batch = at("connect_four", [3, 0, 3, 0, 3, 1])
    trees = search.Search(batch, simulations=1000, solve=True, seed=1).run()
    assert trees.policy[0].tolist() == [0, 0, 0, 1, 0, 0, 0]
    drawn = search.mcts(batch, rows=np.zeros(200, np.int64), simulations=1000, solve=True, temperature=1.0)
    assert (drawn.action == 3).all()


def test_memory_is_shared_among_what_is_searched_at_once() -> None:
    """Oracle: one thread. One row needs no more with 64 threads."""
    batch = games.make("connect_four", 1)
    one, many = (
        search.mcts(batch, simulations=20_000, max_bytes=2**24, threads=threads, seed=1)
        for threads in (1, 64)
    )
    assert (one.visits == many.visits).all()


def test_the_tree_goes_with_the_game() -> None:
    """Oracle: arithmetic. What is left after a move are the visits below it, and new ones come on top."""
    batch = games.make("connect_four", 3, seed=4)
    trees = search.Search(batch, simulations=300, seed=1)
    found = trees.run().results
    trees.advance(found.action)
    below = found.visits[np.arange(3), found.action] - 1
    assert trees.results.visits.sum(axis=1).tolist() == below.tolist()
    assert trees.run().results.visits.sum(axis=1).tolist() == (below + 300).tolist()


def test_chance_is_followed() -> None:
    """Oracle: the batch that is stepped beside the trees; nature does the same in both."""
    batch = games.make("pig", 4, seed=4)
    trees = search.Search(batch, simulations=200, seed=1)
    for _ in range(6):
        action = np.where(batch.terminated, 0, trees.run().results.action)
        batch.step(action)
        trees.advance(action)
        legal = trees.results.visits > 0
        assert (batch.legal_actions | ~legal).all()
    assert (trees.run().results.action >= 0).tolist() == (~batch.terminated).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"solve": True},
        {"evaluator": "uniform"},
        {"rule": "gumbel"},
        {"rollouts": 3},
        {"transpositions": True},
    ],
)
def test_threads_change_nothing(options: dict[str, object]) -> None:
    """Oracle: one thread. Nor do the other rows: a row searched alone, with its seed, gives the same."""
    batch = games.make("connect_four", 64, seed=3)
    batch.step(batch.sample_actions(0))
    seeds = np.arange(64, dtype=np.uint64) + 77
    one, eight = (search.mcts(batch, simulations=500, seed=seeds, threads=n, **options) for n in (1, 8))  # type: ignore[arg-type]
    alone = search.mcts(batch, rows=[9], simulations=500, seed=seeds[9:10], **options)  # type: ignore[arg-type]
    for a, b, c in zip(one, eight, alone, strict=True):
        assert (a == b).all()
        assert (a[9] == c[0]).all()


@pytest.mark.parametrize("opponent", ["random", "perfect"])
def test_perfect_tic_tac_toe_never_loses(opponent: str) -> None:
    """Oracle: the results of 10,000 games, half in each seat."""
    batch = games.make("tic_tac_toe", 5000, seed=8)
    table = solvers.minimax("tic_tac_toe")
    ours = np.arange(5000) % 2
    for ply in range(9):
        going = ~batch.terminated
        actions = batch.sample_actions(ply).copy()
        rows = np.flatnonzero(going & (batch.current_player == ours))
        if len(rows):
            actions[rows] = search.mcts(batch, rows=rows, simulations=4000, solve=True, seed=ply).action
        if opponent == "perfect":
            draws = np.random.default_rng(ply).random(5000)
            for row in np.flatnonzero(going & (batch.current_player != ours)):
                best = table[batch.information_state(row, 1 - int(ours[row]))].actions
                actions[row] = best[int(draws[row] * len(best))]
        batch.step(np.where(going, actions, 0))
    assert (batch.returns[np.arange(5000), ours] >= 0).all()


def test_connect_four_opens_in_the_centre() -> None:
    """Oracle: the solved game (Allis 1988): only the centre wins."""
    found = search.mcts(games.make("connect_four", 4), simulations=100_000, c=1.0, seed=3)
    assert found.action.tolist() == [3] * 4


def test_noise_and_temperature() -> None:
    """Oracle: noise spreads the root's priors and sums to 1 with them; temperature draws by the visits."""
    batch = games.make("connect_four", 1)
    one = np.zeros((1, 7))
    one[0, 3] = 1

    def sure(leaves: games.Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.repeat(one, len(leaves), axis=0), np.zeros(len(leaves))

    assert (search.mcts(batch, evaluator=sure, simulations=50).visits[0] > 0).tolist() == [
        a == 3 for a in range(7)
    ]
    noisy = search.mcts(batch, evaluator=sure, simulations=400, noise=0.5, alpha=1.0)
    assert (noisy.visits[0] > 0).sum() > 3
    rows = np.zeros(4000, np.int64)
    drawn = search.mcts(batch, rows=rows, simulations=30, temperature=1.0, seed=1)
    shares = drawn.visits.sum(axis=0) / drawn.visits.sum()
    counts = np.bincount(drawn.action, minlength=7)
    error = np.sqrt(4000 * shares * (1 - shares))
    assert (np.abs(counts - 4000 * shares) < 5 * error).all()
    assert search.Search(batch, simulations=30, temperature=1.0).run().results.action[0] >= 0


@pytest.mark.parametrize("solve", [None, False])
def test_few_simulations_take_a_sure_win(solve: bool | None) -> None:
    """Oracle: the rules. One action ends the game; the search tries it once and does not come back for exploration."""
    batch = games.make("connect_four", 1)
    for action in (3, 0, 3, 0, 3, 0):
        batch.step([action])
    found = search.mcts(batch, rows=np.zeros(50, np.int64), simulations=12, solve=solve, seed=2)
    assert (found.action == 3).all()


def test_ten_simulations_beat_random_play() -> None:
    """Oracle: OpenSpiel's bot at these settings (c 2, 10 rollouts) won 28 of 30 such games as either side."""
    for seat in (0, 1):
        batch = games.make("connect_four", 200, seed=1)
        ply = 0
        while not batch.terminated.all():
            ply += 1
            actions = batch.sample_actions(ply)
            rows = np.flatnonzero(batch.current_player == seat)
            if len(rows) > 0:
                actions[rows] = search.mcts(batch, rows=rows, simulations=10, rollouts=10, seed=ply).action
            batch.step(actions)
        assert batch.returns[:, seat].mean() > 0.7
