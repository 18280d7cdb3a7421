"""Scores against fixed opponents; oracles are exact values of the policies that play."""

import numpy as np
import pytest

from selfplay_fast import solvers
from selfplay_fast.evaluate import fixed_opponents, score_against
from selfplay_fast.policies import RandomPolicy, ScriptedPolicy, TabularPlayer

GAME = "kuhn_poker"


def test_random_play_scores_its_exact_value() -> None:
    """Oracle: the exact value of uniform play, +-1/8, within 5 standard errors; and that error from the exact variance
    of a hand under uniform play, 17/8 - 1/64 (stakes 1 or 2)."""
    value = solvers.policy_value(GAME, solvers.TabularPolicy.uniform(GAME))
    assert value == pytest.approx([1 / 8, -1 / 8])
    scores = score_against(RandomPolicy(), RandomPolicy(), GAME, episodes=2000, seed=1)
    for seat, score in enumerate(scores):
        assert abs(score.mean - value[seat]) < 5 * score.error
        assert score.error == pytest.approx(((17 / 8 - 1 / 64) / 2000) ** 0.5, rel=0.05)
        assert (score.legal_rate, score.episodes) == (1.0, 2000)
    assert scores[0].mean != -scores[1].mean  # games of their own, not one set seen from both sides


def test_each_seat_is_the_policys_own() -> None:
    """Oracle: exact values of the mixed tables: the policy's rows for its seat, the opponent's for the other."""
    bold = {state.key: np.array([0.0, 1.0]) for state in solvers.information_states(GAME)}
    timid = {state.key: np.array([1.0, 0.0]) for state in solvers.information_states(GAME)}
    scores = score_against(TabularPlayer(bold), TabularPlayer(timid), GAME, episodes=200, seed=2)
    for seat, score in enumerate(scores):
        mixed = {
            s.key: (bold if s.player == seat else timid)[s.key] for s in solvers.information_states(GAME)
        }
        assert solvers.policy_value(GAME, mixed)[seat] == pytest.approx(1)  # the timid one always folds
        assert score.mean == 1
        assert (score.error, score.not_lost) == (0, 1)


def test_the_equilibrium_holds_the_games_value() -> None:
    """Oracle: -1/18 and +1/18, the value of Kuhn poker, against the best response to it; NashConv below 0.005."""
    player = fixed_opponents(GAME)["equilibrium"]
    assert isinstance(player, TabularPlayer)
    assert solvers.nash_conv(GAME, player.table) < 0.005
    best = {}
    for seat in range(2):
        best |= solvers.best_response(GAME, player.table, seat)[0]
    scores = score_against(player, TabularPlayer(best), GAME, episodes=2000, seed=3)
    for score, value in zip(scores, (-1 / 18, 1 / 18), strict=True):
        assert abs(score.mean - value) < 5 * score.error + 0.005


def test_perfect_tic_tac_toe_never_loses() -> None:
    """Oracle: the game is a draw: no loss in 200 games per seat against random play, all draws against itself."""
    perfect = fixed_opponents("tic_tac_toe")["perfect"]
    for score in score_against(perfect, RandomPolicy(), "tic_tac_toe", episodes=200, seed=4):
        assert score.not_lost == 1
        assert score.mean > 0.5
    for score in score_against(perfect, perfect, "tic_tac_toe", episodes=50, seed=5):
        assert (score.mean, score.error) == (0, 0)


def test_a_refused_reply_loses() -> None:
    """Oracle: -1 a game and no legal reply in either seat for one who talks nonsense; +1 for its opponent."""
    nonsense = ScriptedPolicy(lambda ask, sample: "nonsense")
    for score in score_against(nonsense, RandomPolicy(), GAME, episodes=20, seed=6):
        assert (score.mean, score.not_lost, score.legal_rate) == (-1, 0, 0)
    for score in score_against(RandomPolicy(), nonsense, "tic_tac_toe", episodes=20, seed=6):
        assert (score.mean, score.legal_rate) == (1, 1)


def test_scores_follow_the_seed() -> None:
    """Oracle: equal scores for equal seeds, others for others; one game has no standard error."""
    runs = [score_against(RandomPolicy(), RandomPolicy(), GAME, episodes=50, seed=seed) for seed in (7, 7, 8)]
    assert runs[0] == runs[1] != runs[2]
    assert np.isnan(score_against(RandomPolicy(), RandomPolicy(), GAME, episodes=1, seed=7)[0].error)


@pytest.mark.parametrize(
    ("game", "names"),
    [
        ("kuhn_poker", {"random", "equilibrium"}),
        ("tic_tac_toe", {"random", "perfect"}),
        ("tic_tac_toe(size=5)", {"random", "mcts 10", "mcts 100"}),
        ("connect_four", {"random", "mcts 10", "mcts 100"}),
        ("snake", {"random"}),
        ("pig", {"random"}),
        ("negotiation", {"random"}),
    ],
)
def test_opponents_of_each_game(game: str, names: set[str]) -> None:
    """Oracle: which games the solvers afford, and which of the others a search can play."""
    assert set(fixed_opponents(game)) == names
