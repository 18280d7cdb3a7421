"""Oracle: golden numbers of role-conditioned and turn-level advantages, derived independently in float64."""

from dataclasses import replace

import numpy as np
import pytest

from selfplay_fast.learn import (
    RoleBaseline,
    leave_one_out_advantages,
    role_conditioned_advantages,
    summed_rewards,
    turn_level_advantages,
    without_forfeits,
)
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


def test_a_forfeited_game_is_not_learned_from():
    """Oracle: the docstring. Whoever did not answer is no player's doing; a context that is full is."""

    def ended(reply):
        game = episode((1, -1))
        return replace(
            game, turns=(game.turns[0], replace(game.turns[1], reply=reply, refusal=reply.failure))
        )

    played = episode((1, -1))
    lost, full = (ended(Reply(text="", finish_reason="forfeit", no_room=full)) for full in (False, True))
    assert (played.forfeit, full.forfeit) == (None, None)
    assert lost.forfeit is lost.turns[1]
    assert [game.turns[1].refusal for game in (lost, full)] == ["no reply", "no room for a reply"]
    assert [game.legal_rate for game in (played, lost, full)] == [1, 1, 0.5]
    assert without_forfeits([lost, played, full]) == [played, full]
    assert without_forfeits([]) == []
    with pytest.raises(ValueError, match="all 2 were forfeited"):
        without_forfeits([lost, lost])


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


MARS_TURNS = [
    ("ttt", 0, [0.05, 1.05]),
    ("ttt", 1, [0.05, -0.95]),
    ("ttt", 0, [0.05, -10.95]),
    ("ttt", 1, [0.05]),
    ("kuhn", 0, [0.05, -0.95]),
    ("kuhn", 1, [1.05]),
    ("kuhn", 0, [2.05]),
    ("kuhn", 1, [-1.95]),
]
MARS_GOLDEN = {
    "role": [
        [3.885714, 3.835714],
        [-0.36, -0.41],
        [-8.114286, -8.164286],
        [0.59],
        [1.885714, 1.835714],
        [1.59],
        [4.835714],
        [-1.41],
    ],
    "role_game": [
        [6.025, 5.975],
        [-0.3, -0.35],
        [-5.975, -6.025],
        [0.65],
        [-0.966667, -1.016667],
        [1.5],
        [1.983333],
        [-1.5],
    ],
}
# of the released code in float32, whose reply lengths are not known
MARS_RELEASED = [1.8181, 1.1344, -0.0772, -0.1683, -1.4634, -2.1471, 0.1052, -0.2785, -0.1873, 0.4242, 0.6331]
MARS_RELEASED += [-0.3962]


def seats(turns, tokens=3):
    """One episode for every (game, seat, rewards), in which only that seat has turns; and the rewards."""
    episodes = []
    for index, (game, seat, rewards) in enumerate(turns):
        said = [
            Turn(
                ask=Ask(role=f"player_{seat}", append="", key=Key(0, index, k)),
                reply=Reply(text="", tokens=np.zeros(tokens + index + k, np.int32)),
            )
            for k in range(len(rewards))
        ]
        episodes.append(Episode(game=game, index=index, seed=0, group=index, turns=tuple(said), returns={}))
    return episodes, [rewards for *_, rewards in turns]


@pytest.mark.parametrize("pool", ["role", "role_game"])
def test_turn_level_golden_numbers(pool):
    """Oracle: the golden numbers of MARS's estimator in both pools."""
    advantages = turn_level_advantages(*seats(MARS_TURNS), pool=pool)
    for got, want in zip(advantages, MARS_GOLDEN[pool], strict=True):
        assert got == pytest.approx(want, abs=1e-6)


def test_the_released_estimator_is_the_published_one_up_to_its_noise():
    """Oracle: golden numbers of the released code. Within a seat they are ours times a number and plus one: the number
    follows from the lengths of replies, which are not known, the other also from rounding noise."""
    flat = np.concatenate(turn_level_advantages(*seats(MARS_TURNS), estimator="released"))
    seat = np.concatenate([[seat] * len(rewards) for _, seat, rewards in MARS_TURNS])
    scales = []
    for role in (0, 1):
        scale, shift = np.polyfit(flat[seat == role], np.array(MARS_RELEASED)[seat == role], 1)
        assert scale * flat[seat == role] + shift == pytest.approx(
            np.array(MARS_RELEASED)[seat == role], abs=2e-4
        )
        scales.append(scale)
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)


def test_the_released_estimator_token_by_token():
    """Oracle: the five steps of the released code as plain loops over tokens, float64, distinct sums to six digits."""
    episodes, rewards = seats(MARS_TURNS)
    rows = [(e.game, e.turns[0].ask.role, [len(t.reply.tokens) for t in e.turns]) for e in episodes]
    slots = {(game, role) for game, role, _ in rows}
    mean = {
        slot: np.mean([x for row, r in zip(rows, rewards, strict=True) if row[:2] == slot for x in r])
        for slot in slots
    }
    tokens = []  # of each row: the reward of a turn on its last token
    for (game, role, lengths), row in zip(rows, rewards, strict=True):
        parts = [[0.0] * (n - 1) + [x - mean[game, role]] for n, x in zip(lengths, row, strict=True)]
        tokens.append(np.concatenate(parts))
    whole = np.concatenate(tokens)
    tokens = [(row - whole.mean()) / np.sqrt(whole.var(ddof=1) + 1e-8) for row in tokens]
    sums = [row[::-1].cumsum()[::-1] for row in tokens]
    for role in ("player_0", "player_1"):
        own = [i for i, row in enumerate(rows) if row[1] == role]
        distinct = np.unique(np.append(np.concatenate([sums[i] for i in own]).round(6), 0.0))
        for i in own:
            sums[i] = sums[i] - distinct.mean()
    whole = np.concatenate(sums)
    final = [(row - whole.mean()) / np.sqrt(whole.var(ddof=1) + 1e-8) for row in sums]
    want = [
        row[np.cumsum([0, *lengths[:-1]])].tolist() for row, (*_, lengths) in zip(final, rows, strict=True)
    ]
    got = turn_level_advantages(episodes, rewards, estimator="released")
    for ours, theirs in zip(got, want, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_turns_of_two_roles_are_put_back_in_their_places():
    """Oracle: by hand, roles 0, 1, 0: returns 3, 5, 2 less the means 2.5 and 5; in one pool less 10 / 3; and with the
    sum at the last turn 3, 5, 3 less the mean of role 0."""
    both = [episode((0, 0), ("player_0", "player_1", "player_0"))]
    rewards = [[1.0, 5.0, 2.0]]
    assert turn_level_advantages(both, rewards) == [[0.5, 0.0, -0.5]]
    assert turn_level_advantages(both, rewards, pool="batch") == [pytest.approx([-1 / 3, 5 / 3, -4 / 3])]
    summed = summed_rewards(both, rewards)
    assert summed == [[0.0, 5.0, 3.0]]
    assert turn_level_advantages(both, summed) == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"pool": "seat"}, "pool: must be"),
        ({"estimator": "mine"}, "estimator: must be"),
        ({"estimator": "released", "pool": "game"}, "pool: the released"),
    ],
)
def test_wrong_turn_level_options(options, problem):
    """Oracle: the documented ValueError, which names the argument."""
    with pytest.raises(ValueError, match=problem):
        turn_level_advantages(*seats(MARS_TURNS), **options)


def test_leave_one_out_is_the_reward_less_the_mean_of_the_others() -> None:
    """Oracle: loops; a response alone, an empty group; the advantages of a group sum to 0."""
    rewards = [[1.0, 0.0, 0.0, 0.25], [2.0], [], [3.0, 3.0], [-1.0, 5.0, 2.0]]
    found = leave_one_out_advantages(rewards)
    for row, own in zip(rewards, found, strict=True):
        for i, reward in enumerate(row):
            others = row[:i] + row[i + 1 :]
            assert own[i] == pytest.approx(reward - sum(others) / len(others) if others else 0.0, abs=1e-12)
        assert sum(own) == pytest.approx(0, abs=1e-12)
    assert [len(own) for own in found] == [4, 1, 0, 2, 3]
    assert leave_one_out_advantages([[], []]) == [[], []]
