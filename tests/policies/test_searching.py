"""Searching players, a model as evaluator, and the pool of opponents."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from selfplay_fast import games, play, search
from selfplay_fast.learn import Update, pack, reinforce_loss, update
from selfplay_fast.learn.warmup import warm_up
from selfplay_fast.policies import ModelEvaluator, OpponentPool, RandomPolicy, ScriptedPolicy, SearchPlayer
from selfplay_fast.policies.language_model import LanguageModel
from selfplay_fast.policies.nano import build_nano
from selfplay_fast.records import Ask, GameSeat, Key, Sampling


def seated(batch: games.Batch, row: int, episode: int = 0) -> Ask:
    player = int(batch.current_player[row])
    return Ask(role=f"player_{player}", append="", key=Key(0, episode, 0), seat=GameSeat(batch, row, player))


@pytest.mark.parametrize(
    ("game", "kind"), [("tic_tac_toe", "mcts"), ("connect_four", "mcts"), ("kuhn_poker", "ismcts")]
)
def test_it_beats_random_play(game: str, kind: str) -> None:
    """Oracle: the returns of 500 games in each seat, as the scheduler plays them, three standard errors above 0. All
    replies are legal."""
    player = SearchPlayer(kind, simulations=100, rollouts=10)  # type: ignore[arg-type]
    returns: list[float] = []
    for seat in range(2):
        cast = {f"player_{seat}": player, f"player_{1 - seat}": RandomPolicy()}
        episodes = play.play_games(cast, games=[game], episodes=500, seed=seat)
        assert all(episode.legal_rate == 1 for episode in episodes)
        returns += [episode.returns[f"player_{seat}"] for episode in episodes]
    assert np.mean(returns) > 3 * np.std(returns) / len(returns) ** 0.5


def test_a_reply_depends_on_its_key_alone() -> None:
    """Oracle: the same ask answered alone, in a batch, and as one of several samples."""
    batch = games.make("connect_four", 8, seed=1)
    player = SearchPlayer(simulations=20)
    asks = [seated(batch, row, episode=row) for row in range(8)]
    together = [reply.text for reply in player.generate(asks)]
    assert together == [player.generate([ask])[0].text for ask in asks]
    assert player.generate([replace(asks[3], n=4)])[0].text == together[3]
    assert len({reply.text for reply in player.generate([replace(asks[3], n=16)])}) > 1


def test_scores_are_shares_of_visits() -> None:
    """Oracle: arithmetic; over all legal replies they sum to one, any other text has none."""
    batch = games.make("connect_four", 1)
    texts = tuple(batch.reply_text(0, a) for a in range(7))
    (scores,) = SearchPlayer(simulations=200).score([replace(seated(batch, 0), choices=(*texts, "?"))])
    assert np.exp(scores).sum() == pytest.approx(1)
    assert scores[-1] == -np.inf


def test_a_language_model_guides_a_search() -> None:
    """Oracle: a policy that always says one move puts all its prior there; an untrained model gives finite priors."""
    batch = games.make("tic_tac_toe", 3, seed=0, style="brief")
    says = ScriptedPolicy(lambda ask, sample: (ask.choices or ("",))[-1])
    found = search.mcts(batch, evaluator=ModelEvaluator(says, rollouts=2), simulations=20)
    assert (found.action == 8).all()
    model = LanguageModel(*build_nano(["tic_tac_toe"], seed=0))
    found = search.mcts(batch, evaluator=ModelEvaluator(model), simulations=12, leaves=4)
    assert (found.visits.sum(axis=1) == 12).all()


def test_one_opponent_per_episode() -> None:
    """Oracle: counting who answered which episode, while the pool grows and its weights change."""
    met: dict[int, set[str]] = {}

    def member(name: str) -> ScriptedPolicy:
        def reply(ask: Ask, sample: int) -> str:
            met.setdefault(ask.key.episode, set()).add(name)
            assert ask.seat is not None
            legal = np.flatnonzero(ask.seat.batch.legal_actions[ask.seat.row])
            if len(met) == 30 and "late" not in pool.members:
                pool.add("late", member("late"))
            return ask.seat.batch.reply_text(ask.seat.row, int(legal[0]))

        return ScriptedPolicy(reply)

    pool = OpponentPool({}, choose="prioritised", seed=4)
    for name in ("a", "b"):
        pool.add(name, member(name))
    cast = {"player_0": RandomPolicy(), "player_1": pool}
    episodes = play.play_games(cast, games=["connect_four"], episodes=60, seed=1)
    assert all(len(names) == 1 for names in met.values())
    assert {"a", "b"} <= {next(iter(names)) for names in met.values()}
    pool.record(episodes, "player_0")
    assert sum(pool.met.values()) == 60


@pytest.mark.parametrize("choose", ["uniform", "latest", "prioritised"])
def test_who_is_chosen(choose: str) -> None:
    """Oracle: the definition of each way to choose, over 3,000 episodes."""
    pool = OpponentPool(dict.fromkeys("abc", RandomPolicy()), choose=choose, seed=2)  # type: ignore[arg-type]
    pool.met = dict.fromkeys("abc", 10)
    pool.won = {"a": 10.0, "b": 5.0, "c": 0.0}
    names = [pool.member_of(Key(7, episode, 0)) for episode in range(3000)]
    shares = [names.count(name) / 3000 for name in "abc"]
    expected = {"uniform": [1 / 3] * 3, "latest": [0, 0, 1], "prioritised": [0, 0.2, 0.8]}[choose]
    np.testing.assert_allclose(shares, expected, atol=0.03)


def test_what_a_position_is_worth() -> None:
    """Oracle: the same position asked alone. Neighbours and places change nothing; other positions and other seeds draw
    anew, so that the mean over seeds nears random play's return, 0.29 for whoever opens."""

    class Even(RandomPolicy):
        def score(self, asks: Sequence[Ask]) -> list[np.ndarray]:
            return [np.full(len(ask.choices or ()), -1.0, np.float32) for ask in asks]

    policy = Even()
    board = games.make("tic_tac_toe", 3)
    board.step([4], rows=[1])
    _, values = ModelEvaluator(policy)(board)
    _, alone = ModelEvaluator(policy)(board.resample([2]))
    assert (values[0] == values[2]).all()
    assert (values[2] == alone[0]).all()
    over = [
        ModelEvaluator(policy, rollouts=50, seed=seed)(board.resample([0]))[1][0, 0] for seed in range(20)
    ]
    assert np.std(over) > 0
    assert abs(np.mean(over) - 0.297) < 4 * 0.9 / 1000**0.5


def test_training_against_past_selves() -> None:
    """Oracle: contract. What a pool holds stays as it was while the learner changes, all past selves are met, and the
    learner is trained on its own turns alone, whichever seat it has."""
    learner = LanguageModel(*build_nano(["kuhn_poker"], seed=0))
    warm_up(learner, ["kuhn_poker"], steps=12, turns=24, learning_rate=1e-2, seed=0)
    optimizer = torch.optim.AdamW(learner.model.parameters(), lr=1e-4)
    pool = OpponentPool({}, seed=3)
    frozen = {}
    met: set[str] = set()
    for step in range(3):
        past = LanguageModel(copy.deepcopy(learner.model), learner.tokenizer)
        pool.add(f"step {step}", past)
        frozen[f"step {step}"] = {name: value.clone() for name, value in past.model.state_dict().items()}
        role, other = (f"player_{(step + i) % 2}" for i in range(2))
        cast = {role: learner, other: pool}
        short = Sampling(max_tokens=24)
        episodes = play.play_games(cast, games=["kuhn_poker"], episodes=24, sampling=short, seed=step)
        met |= {pool.member_of(Key(episode.seed, episode.index, 0)) for episode in episodes}
        pool.record(episodes, role)
        advantages = [
            [episode.returns[role] if turn.ask.role == role else 0.0 for turn in episode.turns]
            for episode in episodes
        ]
        batch = pack(episodes, advantages, token_normaliser=10.0)
        own = sum(
            len(turn.reply.tokens)
            for episode in episodes
            for turn in episode.turns
            if turn.ask.role == role and episode.returns[role] != 0
        )
        assert int(batch.offsets[-1]) == own
        update(learner, optimizer, batch, Update(loss=reinforce_loss))
    assert met == set(pool.members)
    assert sum(pool.met.values()) == 72
    for name, weights in frozen.items():
        now = pool.members[name].model.state_dict()  # type: ignore[attr-defined]
        assert all(torch.equal(now[key], value) for key, value in weights.items())
    first, last = frozen["step 0"], learner.model.state_dict()
    assert not all(torch.equal(last[key], value) for key, value in first.items())


def test_refusals() -> None:
    """Oracle: the words."""
    with pytest.raises(ValueError, match="kind must be"):
        SearchPlayer("minimax")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="simulations must be"):
        SearchPlayer(simulations=-1)
    with pytest.raises(ValueError, match="choose must be"):
        OpponentPool({}, choose="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the pool is empty"):
        OpponentPool({}).member_of(Key(0, 0, 0))
