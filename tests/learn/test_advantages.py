"""Oracle: golden numbers of role-conditioned advantages, derived independently in float64 (SPIRAL, Eq. 2)."""

import pytest

from selfplay_fast.learn import RoleBaseline, role_conditioned_advantages
from selfplay_fast.records import Ask, Episode, Key, Reply, Turn

REWARDS = [(1, -1), (-1, 1), (0.5, -1.5), (0, 0), (1, -1)]
GOLDEN = {
    "pre": [(1, -1), (-1.05, 1.05), (0.5025, -1.5025), (-0.022625, 0.072625), (0.978506, -0.931006)],
    "post": [
        (0.95, -0.95),
        (-0.9975, 0.9975),
        (0.477375, -1.427375),
        (-0.021494, 0.068994),
        (0.929581, -0.884456),
    ],
    "batch": REWARDS,
}
FINAL = {"pre": (0.07041906, -0.11554406), "post": (0.07041906, -0.11554406), "batch": (0.015, -0.025)}


def episode(returns, roles=("player_0", "player_1"), game="g", index=0):
    turns = [
        Turn(ask=Ask(role=role, append="", key=Key(0, index, k)), reply=Reply(text=""))
        for k, role in enumerate(roles)
    ]
    return Episode(
        game=game,
        index=index,
        seed=0,
        group=index,
        turns=tuple(turns),
        returns=dict(zip(("player_0", "player_1"), returns, strict=True)),
    )


@pytest.mark.parametrize("order", ["pre", "post", "batch"])
def test_golden_numbers(order):
    """Advantages to 1e-6 and the final baseline to 1e-8 in the three published orders."""
    advantages, baseline = role_conditioned_advantages(
        [episode(r) for r in REWARDS], RoleBaseline(), order=order
    )
    for got, want in zip(advantages, GOLDEN[order], strict=True):
        assert got == pytest.approx(want, abs=1e-6)
    final = (baseline["g", "player_0"], baseline["g", "player_1"])
    assert final == pytest.approx(FINAL[order], abs=1e-8)


def test_baselines_are_kept_apart_by_game_and_role():
    """A second game starts from 0 whatever the first one's baseline is; the given baseline is not changed."""
    start = RoleBaseline(values={("g", "player_0"): 0.5})
    advantages, after = role_conditioned_advantages([episode((1, -1), game="h")], start, order="pre")
    assert advantages == [[1, -1]]
    assert after["g", "player_0"] == 0.5
    assert dict(start.values) == {("g", "player_0"): 0.5}


def test_discount_counts_own_turns_from_the_end():
    """A = R discount^(own turns still to come): by hand, for players 0, 0, 1, 0."""
    roles = ("player_0", "player_0", "player_1", "player_0")
    advantages, _ = role_conditioned_advantages(
        [episode((1, -1), roles)], RoleBaseline(), order="pre", discount=0.5
    )
    assert advantages == [[0.25, 0.5, -1, 1]]


def test_unknown_order_is_an_error():
    """Oracle: the documented ValueError."""
    with pytest.raises(ValueError, match="order"):
        role_conditioned_advantages([], RoleBaseline(), order="later")
