"""Gymnasium environments.

Oracles: Gymnasium's own vectoriser over plain single games, its own checker, the engine's autoreset, and exact values.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from selfplay_fast import games, solvers

pytest.importorskip("gymnasium", reason="comes with the extra 'test'")
import gymnasium
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from selfplay_fast.integrations.gymnasium import GameEnv, GameVectorEnv
from selfplay_fast.policies import RandomPolicy, TabularPlayer

ENVS = 7
CASES = [("tic_tac_toe", 0), ("tic_tac_toe", 1), ("kuhn_poker(rounds=5)", 0), ("kuhn_poker", 1)]
MODES = list(AutoresetMode)


def reply(batch: games.Batch, row: int) -> int:
    """A legal action that depends on all the mover knows."""
    key = batch.information_state(row, int(batch.current_player[row]))
    legal = np.flatnonzero(batch.legal_actions[row])
    return int(legal[int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(legal)])


def in_batch(batch: games.Batch, rows: np.ndarray) -> list[int]:
    """The same for several rows."""
    return [reply(batch, row) for row in rows]


class PlainGame(gymnasium.Env):
    """One row of a batch, played move by move."""

    def __init__(self, game: str, seat: int, row: int, text: bool) -> None:
        self.game, self.seat, self.row, self.text = game, seat, row, text
        like = GameEnv(game, observations="text" if text else "tensor")
        self.observation_space, self.action_space = like.observation_space, like.action_space
        self.metadata: dict[str, Any] = {}

    def reset(self, *, seed=None, options=None):
        if seed is None:
            self.batch.reset([self.row])
        else:  # SyncVectorEnv adds the row
            self.batch = games.make(self.game, ENVS, seed=seed - self.row)
        self.others()
        return self.now()

    def step(self, action):
        self.batch.step([action], rows=[self.row])
        self.others()
        seen, info = self.now()
        return seen, float(self.batch.returns[self.row, self.seat]), self.over(), False, info

    def over(self) -> bool:
        return bool(self.batch.terminated[self.row])

    def others(self) -> None:
        while not self.over() and self.batch.current_player[self.row] != self.seat:
            self.batch.step([reply(self.batch, self.row)], rows=[self.row])

    def now(self):
        info = {"action_mask": self.batch.legal_actions[self.row].astype(np.int8)}
        if self.text and self.over():
            return "\n".join(self.batch.messages_since(self.row, self.seat)), info
        if self.text:
            return self.batch.observation([self.row])[0], info
        return self.batch.observation_tensor([self.row], player=self.seat)[0], info


def pair(game: str, seat: int, mode: AutoresetMode, text: bool) -> tuple[GameVectorEnv, SyncVectorEnv]:
    ours = GameVectorEnv(
        game,
        ENVS,
        opponent=in_batch,
        seat=seat,
        autoreset_mode=mode,
        observations="text" if text else "tensor",
    )
    return ours, SyncVectorEnv(
        [lambda row=row: PlainGame(game, seat, row, text) for row in range(ENVS)], autoreset_mode=mode
    )


def masked_choice(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A uniform legal action per row, 0 where there is none."""
    return np.argmax(rng.random(mask.shape) * mask, axis=1)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("game", "seat"), CASES)
def test_gymnasium_over_single_games_agrees(game: str, seat: int, mode: AutoresetMode, text: bool) -> None:
    """Oracle: SyncVectorEnv over plain single games with the same deals: observations, rewards, ends and infos, those
    of ended games included, are equal to the bit for 60 steps."""
    ours, theirs = pair(game, seat, mode, text)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    seen, infos = ours.reset(seed=5)
    assert data_equivalence((seen, infos), theirs.reset(seed=5), exact=True)
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(60):
        actions = masked_choice(rng, infos["action_mask"])
        got = ours.step(actions)
        assert data_equivalence(got, theirs.step(actions), exact=True)
        seen, _, ended, _, infos = got
        assert seen in ours.observation_space
        ends += ended.sum()
        if mode == AutoresetMode.DISABLED and ended.any():
            seen, infos = ours.reset(options={"reset_mask": ended.copy()})
            other, masks = theirs.reset(options={"reset_mask": ended.copy()})
            assert data_equivalence(seen, other, exact=True)
            np.testing.assert_array_equal(infos["action_mask"][ended], masks["action_mask"][ended])
    assert ends > ENVS


@pytest.mark.parametrize(("mode", "native"), [("SameStep", "same_step"), ("NextStep", "next_step")])
def test_deals_are_those_of_the_engines_autoreset(mode: str, native: str) -> None:
    """Oracle: a batch that resets by itself. The seat's cards in 30 hands of every row are the same ones."""
    envs = GameVectorEnv(
        "kuhn_poker", ENVS, opponent=lambda batch, rows: np.zeros(len(rows), int), autoreset_mode=mode
    )
    seen, _ = envs.reset(seed=3)
    batch = games.make("kuhn_poker", ENVS, seed=3, autoreset=native)
    for _ in range(30):
        np.testing.assert_array_equal(seen, batch.observation_tensor())
        seen, *_ = envs.step(np.zeros(ENVS, int))  # player 0 checks, and so does player 1
        batch.step(np.zeros(ENVS, int))
        batch.step(np.zeros(ENVS, int))
        if mode == "NextStep":
            np.testing.assert_array_equal(seen, batch.observation_tensor(player=0))
            seen, *_ = envs.step(np.zeros(ENVS, int))
            batch.step(np.zeros(ENVS, int))


@pytest.mark.parametrize("opponent", ["random", solvers.TabularPolicy.uniform("kuhn_poker")])
@pytest.mark.parametrize("seat", [0, 1])
def test_draws_do_not_depend_on_the_other_games(seat: int, opponent: Any) -> None:
    """Oracle: contract. The first rows of a large vector are those of a small one; another seed gives others."""

    def play(num_envs: int, seed: int) -> list[Any]:
        envs = GameVectorEnv("kuhn_poker", num_envs, opponent=opponent, seat=seat, autoreset_mode="SameStep")
        seen, _ = envs.reset(seed=seed)
        out = []
        for step in range(40):
            got = envs.step(np.full(num_envs, step % 2))
            out.append((seen[:5].tolist(), got[1][:5].tolist(), got[2][:5].tolist()))
            seen = got[0]
        return out

    assert play(5, 1) == play(200, 1) != play(5, 2)


@pytest.mark.parametrize("kind", ["random", "table"])
def test_scores_are_the_exact_values(kind: str) -> None:
    """Oracle: the exact value of the bold player, who always puts its chip in, against the opponent as given; within
    5 standard errors of 20,000 hands."""
    bold = {state.key: np.array([0.0, 1.0]) for state in solvers.information_states("kuhn_poker")}
    table: Any = solvers.TabularPolicy.uniform("kuhn_poker")
    if kind == "table":
        table = solvers.cfr("kuhn_poker", 200)
    for seat in (0, 1):
        own = {s.key for s in solvers.information_states("kuhn_poker") if s.player == seat}
        value = solvers.policy_value(
            "kuhn_poker", {key: (bold if key in own else table)[key] for key in table}
        )[seat]
        opponent = "random" if kind == "random" else table
        envs = GameVectorEnv("kuhn_poker", 2000, opponent=opponent, seat=seat, autoreset_mode="SameStep")
        envs.reset(seed=2)
        results: list[float] = []
        while len(results) < 20_000:
            _, rewards, ended, _, _ = envs.step(np.ones(2000, int))
            results += rewards[ended].tolist()
        assert abs(np.mean(results) - value) < 5 * np.std(results) / len(results) ** 0.5


def test_policies_may_be_opponents() -> None:
    """Oracle: the game's value. No return above 0 against the perfect player in 300 games per seat, some below; a
    random policy is the word "random"."""
    perfect = TabularPlayer(solvers.optimal_policy("tic_tac_toe"))
    rng = np.random.default_rng(0)
    for seat in (0, 1):
        envs = GameVectorEnv("tic_tac_toe", 100, opponent=perfect, seat=seat, autoreset_mode="SameStep")
        _, infos = envs.reset(seed=0)
        results: list[float] = []
        while len(results) < 300:
            _, rewards, ended, _, infos = envs.step(masked_choice(rng, infos["action_mask"]))
            results += rewards[ended].tolist()
        assert max(results) <= 0
        assert min(results) == -1
    seen = []
    for opponent in ("random", RandomPolicy()):
        envs = GameVectorEnv("kuhn_poker", 50, opponent=opponent, seat=1)
        seen.append(envs.reset(seed=1)[0].tolist())
    assert seen[0] == seen[1]


def test_reset_seeds() -> None:
    """Oracle: contract. Equal seeds give equal games, also the later unseeded ones; without any seed, others."""

    def cards(envs: GameVectorEnv, seed: int | None = None) -> list[Any]:
        return [envs.reset(seed=seed)[0].tolist(), envs.reset()[0].tolist()]

    one, two = (GameVectorEnv("kuhn_poker", 50) for _ in range(2))
    assert cards(one, 4) == cards(two, 4) == cards(one, 4) != cards(one, 5)
    assert cards(one)[0] != cards(one)[0]
    fresh = [cards(GameVectorEnv("kuhn_poker", 50)) for _ in range(2)]
    assert fresh[0] != fresh[1]
    mask = np.arange(50) < 10
    before = one.reset(seed=1)[0]
    after = one.reset(seed=9, options={"reset_mask": mask})[0]
    assert (after[10:] == before[10:]).all()
    two.reset(seed=1)
    assert (two.reset(seed=9, options={"reset_mask": mask})[0] == after).all()


def test_gymnasiums_wrappers_understand_it() -> None:
    """Oracle: contract. RecordEpisodeStatistics counts every game once, with its length and its return."""
    envs = RecordEpisodeStatistics(
        GameVectorEnv("tic_tac_toe", 20, opponent=in_batch, autoreset_mode="SameStep")
    )
    _, infos = envs.reset(seed=0)
    rng = np.random.default_rng(1)
    counted, length = 0, np.zeros(20, int)
    for _ in range(30):
        _, rewards, ended, _, infos = envs.step(masked_choice(rng, infos["action_mask"]))
        length += 1
        counted += ended.sum()
        for row in np.flatnonzero(ended):
            assert infos["episode"]["r"][row] == rewards[row]
            assert infos["episode"]["l"][row] == length[row]
        length[ended] = 0
    assert counted > 20


def in_order(batch: games.Batch, rows: np.ndarray) -> list[int]:
    return [int(np.argmax(batch.legal_actions[row])) for row in rows]


@pytest.mark.filterwarnings(
    "ignore:.*A Box observation space .* value is", "ignore:.*Not able to test alternative render modes"
)
@pytest.mark.parametrize("observations", ["tensor", "text"])
@pytest.mark.parametrize("game", ["kuhn_poker", "tic_tac_toe"])
def test_gymnasiums_checker_is_content(game: str, observations: Any) -> None:
    """Oracle: gymnasium's check_env, for the single game. It draws actions without looking at the mask, of which an
    opponent that takes the first free cell leaves all legal."""
    check_env(GameEnv(game, opponent=in_order, observations=observations, render_mode="ansi"))
    env = GameEnv(game, opponent=in_batch, observations=observations, render_mode="ansi")
    seen, info = env.reset(seed=1)
    over = False
    while not over:
        if observations == "text":
            assert env.render() == seen
        seen, reward, over, truncated, info = env.step(np.argmax(info["action_mask"]))
        assert (reward != 0) <= over
        assert not truncated
    with pytest.raises(ValueError, match="game 0 is over"):
        env.step(0)


@pytest.mark.parametrize("mode", MODES)
def test_an_opponent_that_fails_leaves_no_turn_behind(mode: AutoresetMode) -> None:
    """Oracle: contract. After an exception of the opponent the seat's action is not played as the opponent's: every
    step is refused and changes nothing until the games are reset, which then go on as if nothing had been."""
    calls: list[int] = []

    def failing(batch: games.Batch, rows: np.ndarray) -> list[int]:
        calls.append(len(rows))
        if len(calls) in (2, 5):
            raise KeyError("no such state")
        return in_batch(batch, rows)

    envs, calm = (
        GameVectorEnv("tic_tac_toe", 3, opponent=o, autoreset_mode=mode) for o in (failing, in_batch)
    )
    envs.reset(seed=1)
    *_, infos = envs.step([0, 1, 2])
    free = np.argmax(infos["action_mask"], axis=1)
    with pytest.raises(KeyError):
        envs.step(free)
    before = envs.render()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^game 0: seat 0 is not to move, .*; call reset$"):
            envs.step(free)
    assert envs.render() == before
    for seed in (4, 4):
        assert data_equivalence(envs.reset(seed=seed), calm.reset(seed=seed), exact=True)
    assert data_equivalence(envs.step([4, 4, 4]), calm.step([4, 4, 4]), exact=True)
    second = GameVectorEnv("tic_tac_toe", 3, opponent=failing, seat=1, autoreset_mode=mode)
    second.reset(seed=1)
    with pytest.raises(KeyError):
        second.reset(seed=1)
    with pytest.raises(RuntimeError, match="seat 1 is not to move"):
        second.step([1, 1, 1])


@pytest.mark.parametrize("row", [[np.nan, 1], [0, 0], [3, -1], [np.inf, 1], [], [[1, 1]]])
def test_tables_hold_probabilities(row: Any) -> None:
    """Oracle: contract. A row that is no distribution is refused by its key, before a game begins, and when it turns
    bad later; rows need not add up to 1."""
    table = {state.key: np.array([2.0, 3.0]) for state in solvers.information_states("kuhn_poker")}
    envs = GameVectorEnv("kuhn_poker", 20, opponent=table)
    envs.reset(seed=1)
    envs.step(np.zeros(20, int))
    for wrong in ({"1b": row}, {"0": [1.0, 1.0], "1b": row}):
        with pytest.raises(
            ValueError, match=r"^opponent: the table needs numbers .* for '1b', got \["
        ) as caught:
            GameVectorEnv("kuhn_poker", 2, opponent=wrong)
        assert "\n" not in str(caught.value)
    table["1b"] = row
    envs.reset(seed=1)
    with pytest.raises(ValueError, match="for '1b'"):
        envs.step(np.ones(20, int))
    with pytest.raises(RuntimeError, match="call reset"):
        envs.step(np.ones(20, int))


def test_numbers_are_whole() -> None:
    """Oracle: operator.index. A float is a TypeError of one line that changes nothing, numpy's integers are numbers."""
    env = GameEnv("tic_tac_toe", opponent=in_batch)
    env.reset(seed=np.int64(1))  # type: ignore[arg-type]
    for wrong in (3.9, np.float64(3), "3"):
        with pytest.raises(TypeError, match=r"^action must be a whole number, got "):
            env.step(wrong)
    assert env.step(np.int8(3))[4]["action_mask"][3] == 0
    with pytest.raises(TypeError, match=r"^seed must be a whole number, got 1.7$"):
        env.reset(seed=1.7)  # type: ignore[arg-type]
    envs = GameVectorEnv("tic_tac_toe", 2, opponent=in_batch)
    with pytest.raises(TypeError, match=r"^seed must be a whole number, got 1.7$"):
        envs.reset(seed=1.7)  # type: ignore[arg-type]
    envs.reset(seed=1)
    with pytest.raises(TypeError, match="actions must be whole numbers, int64 or int32, got float64"):
        envs.step([3.9, 3.9])
    with pytest.raises(TypeError, match=r"^seat must be a whole number, got '0'$"):
        GameVectorEnv("tic_tac_toe", 2, seat="0")  # type: ignore[arg-type]


def test_wrong_arguments() -> None:
    """Oracle: one line that names what is wrong; a refused step changes nothing."""
    with pytest.raises(ValueError, match="seats 0 to 1, got 2"):
        GameVectorEnv("kuhn_poker", 2, seat=2)
    with pytest.raises(ValueError, match="autoreset: the environment decides"):
        GameVectorEnv("kuhn_poker", 2, autoreset="same_step")
    with pytest.raises(ValueError, match="opponent must be"):
        GameVectorEnv("kuhn_poker", 2, opponent="perfect")
    with pytest.raises(ValueError, match="all players move at once"):
        GameVectorEnv("snake", 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        GameVectorEnv("kuhn_poker", 0)
    envs = GameVectorEnv("tic_tac_toe", 3, opponent=in_batch, autoreset_mode="Disabled")
    with pytest.raises(ValueError, match="never begun; call reset"):
        envs.step([0, 0, 0])
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        envs.step([0, 0])
    *_, infos = envs.step([4, 4, 4])
    before = envs.render()
    free = np.argmax(infos["action_mask"], axis=1)
    with pytest.raises(ValueError, match="action 4 is illegal in row 1"):
        envs.step([free[0], 4, free[2]])
    assert envs.render() == before
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.zeros(3, bool)})
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": [True, False, False]})
    table = GameVectorEnv("kuhn_poker", 2, opponent={"0": np.ones(2)})
    table.reset(seed=0)
    with pytest.raises(ValueError, match=r"no information state '[012]b' of player 1"):
        table.step([1, 1])
