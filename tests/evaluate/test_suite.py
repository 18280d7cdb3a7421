"""All evaluations of a policy as flat metrics."""

import pytest

from selfplay_fast import solvers
from selfplay_fast.evaluate import (
    episode_metrics,
    evaluate_policy,
    reply_metrics,
    score_together,
    search_opponents,
)
from selfplay_fast.policies import RandomPolicy, ScriptedPolicy
from selfplay_fast.records import Ask, Episode, Key, Reply, Sampling, Turn

SEATS = ("first", "second")


def score_names(game: str, *opponents: str) -> set[str]:
    names = set()
    for opponent in opponents:
        ends = ("", "_first", "_second")
        names |= {f"{game}/score_vs_{opponent}{end}{error}" for end in ends for error in ("", "_error")}
        names |= {f"{game}/not_lost_vs_{opponent}_{seat}" for seat in SEATS}
    return names


def test_all_documented_metrics_and_no_others(text_table, uniform) -> None:
    """Oracle: the names in the docstring, per game and opponent; NashConv for Kuhn poker only. Values of uniform play:
    NashConv 11/12, scores that are the mean of both seats, within 5 errors of 0 against an equal."""
    policy = text_table("kuhn_poker", uniform, "brief")
    policy.table |= text_table("tic_tac_toe", uniform, "brief").table
    games = ("kuhn_poker", "tic_tac_toe")
    settings = {"episodes": 40, "seed": 1, "sampling": Sampling(), "style": "brief"}
    metrics = evaluate_policy(policy, games, **settings)
    assert set(metrics) == (
        score_names("kuhn_poker", "random", "equilibrium")
        | score_names("tic_tac_toe", "random", "perfect")
        | {"kuhn_poker/nash_conv", "kuhn_poker/scored_mass", "kuhn_poker/least_scored_mass"}
    )
    assert all(isinstance(value, float) for value in metrics.values())
    assert metrics["kuhn_poker/nash_conv"] == pytest.approx(11 / 12)
    for game in games:
        key = f"{game}/score_vs_random"
        assert metrics[key] == pytest.approx((metrics[f"{key}_first"] + metrics[f"{key}_second"]) / 2)
        seats = [metrics[f"{key}_{seat}_error"] for seat in SEATS]
        assert 2 * metrics[f"{key}_error"] == pytest.approx((seats[0] ** 2 + seats[1] ** 2) ** 0.5)
        assert abs(metrics[key]) < 5 * metrics[f"{key}_error"]
    assert metrics["tic_tac_toe/score_vs_perfect"] < 0
    assert metrics == evaluate_policy(policy, games, **settings)


def test_larger_games_exactly_where_asked_for(text_table, uniform) -> None:
    """Oracle: tic-tac-toe has 4,520 information states; the NashConv of uniform play from the solver."""
    policy = text_table("tic_tac_toe", uniform, "brief")
    settings = {"episodes": 1, "seed": 1, "sampling": Sampling(), "style": "brief"}
    assert "tic_tac_toe/nash_conv" not in evaluate_policy(
        policy, ["tic_tac_toe"], exact_states=4519, **settings
    )
    metrics = evaluate_policy(policy, ["tic_tac_toe"], exact_states=4520, **settings)
    table = solvers.TabularPolicy.uniform("tic_tac_toe")
    assert metrics["tic_tac_toe/nash_conv"] == pytest.approx(
        solvers.nash_conv("tic_tac_toe", table), abs=1e-5
    )
    for seat in SEATS:
        shares = [metrics[f"tic_tac_toe/{name}_rate_vs_perfect_{seat}"] for name in ("win", "draw", "loss")]
        assert sum(shares) == pytest.approx(1)


def test_means_over_episodes_and_turns() -> None:
    """Oracle: means by hand over two episodes of three turns and one, one reply of them refused."""

    def turn(refusal: str | None = None) -> Turn:
        return Turn(
            ask=Ask(role="player_0", append="", key=Key(0, 0, 0)), reply=Reply(text=""), refusal=refusal
        )

    def episode(game: str, turns: int, returns: tuple[float, float], refusal: str | None = None) -> Episode:
        roles = dict(zip(("player_0", "player_1"), returns, strict=True))
        all_turns = (*(turn() for _ in range(turns - 1)), turn(refusal))
        return Episode(game=game, index=0, seed=0, group=0, turns=all_turns, returns=roles)

    played = [episode("g", 3, (2, -2)), episode("h", 2, (0, 0)), episode("g", 1, (-1.5, 0.5), "no action")]
    assert episode_metrics(played) == {
        "g/legal_rate": 3 / 4,
        "g/turns": 2.0,
        "g/return/player_0": 0.25,
        "g/return/player_1": -0.75,
        "h/legal_rate": 1.0,
        "h/turns": 2.0,
        "h/return/player_0": 0.0,
        "h/return/player_1": 0.0,
    }


def test_together_and_against_chosen_opponents() -> None:
    """Oracle: 1.436, the mean of 600,000 random playouts of mini hanabi, within 5 errors; the names of the docstring,
    in hanabi without opponents; refused replies pay 0 there."""
    mini = "hanabi(colors=2,ranks=2,hand=3,info_tokens=3)"
    settings = {"episodes": 150, "seed": 1, "sampling": Sampling(), "style": "brief", "chat": True}
    policies = {"tic_tac_toe": search_opponents(5, 20)}
    metrics = evaluate_policy(
        RandomPolicy(), [mini, "tic_tac_toe"], fixed=lambda game: policies.get(game, {}), **settings
    )
    own = {f"{mini}/score_vs_itself", f"{mini}/score_vs_itself_error"}
    assert set(metrics) == own | score_names("tic_tac_toe", "mcts 5", "mcts 20")
    assert abs(metrics[f"{mini}/score_vs_itself"] - 1.436) < 5 * metrics[f"{mini}/score_vs_itself_error"]
    assert metrics["tic_tac_toe/score_vs_mcts 20"] < metrics["tic_tac_toe/score_vs_mcts 5"] < 0
    silent = score_together(ScriptedPolicy(lambda ask, sample: ""), mini, episodes=3, seed=0)
    assert (silent.mean, silent.legal_rate, silent.episodes) == (0.0, 0.0, 3)


def said(**reply) -> Turn:
    return Turn(ask=Ask(role="player_0", append="?"), reply=Reply(**{"text": "x", **reply}))


def game(*turns: Turn) -> Episode:
    return Episode(game="g", index=0, seed=0, group=0, turns=turns, returns={"player_0": 0.0})


def test_replies_that_never_came_or_never_ended_are_counted() -> None:
    """Oracle: counted by hand. Of four games one is lost; of six replies that came one was cut, one never ended."""
    lost = said(text="", finish_reason="forfeit")
    full = said(text="", finish_reason="forfeit", no_room=True)
    plain = [game(said(), lost), game(said()), game(full), game(said(), said())]
    assert reply_metrics(plain) == {"forfeits": 1, "forfeit_rate": 1 / 4}
    thinking = [game(said(hidden=1), lost), game(said(unclosed=True), said(hidden=1, closed_by_force=True))]
    assert reply_metrics([*thinking, game(said()), game(said(hidden=1), full)]) == {
        "forfeits": 1,
        "forfeit_rate": 1 / 4,
        "unclosed_rate": 2 / 6,
    }
    assert reply_metrics([game(said(hidden=1))])["unclosed_rate"] == 0
    assert reply_metrics([game(lost)]) == {"forfeits": 1, "forfeit_rate": 1}
