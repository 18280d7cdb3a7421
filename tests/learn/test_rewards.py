"""Oracle: MARS's rewards of turns, by hand."""

import numpy as np
import pytest

from selfplay_fast.learn.rewards import rewarded_anew, turn_rewards
from selfplay_fast.records import Ask, Episode, Key, Reply, Turn


def episode(*turns: tuple[int, str | None, float, int]) -> Episode:
    """Turns of (player, refusal, reward, tokens)."""
    said = [
        Turn(
            ask=Ask(role=f"player_{player}", append="", key=Key(0, 0, k)),
            reply=Reply(text="", tokens=np.zeros(tokens, np.int32)),
            refusal=refusal,
            reward=reward,
        )
        for k, (player, refusal, reward, tokens) in enumerate(turns)
    ]
    returns = {"player_0": 0.0, "player_1": 0.0}
    return Episode(game="g", index=0, seed=0, group=0, turns=tuple(said), returns=returns)


def test_format_and_length() -> None:
    """Oracle: 0.05 for a reply that is read; x = 1 - (tokens - 11) / 2037, and 0.5 x where it is below 0."""
    played = episode((0, None, 1.0, 2048), (1, "no", -11.0, 11), (0, None, 0.0, 4096), (1, None, 0.0, 2049))
    (rewards,) = turn_rewards([played])
    want = [1.05, -11.0, 0.05 + 0.5 * (1 - 4085 / 2037), 0.05 + 0.5 * (1 - 2038 / 2037)]
    assert rewards == pytest.approx(want)
    assert rewards[2] == pytest.approx(0.05 - 0.5, abs=0.01)
    with pytest.raises(ValueError, match="long"):
        turn_rewards([played], long=11)


def test_new_rewards_are_summed_by_role() -> None:
    """Oracle: by hand."""
    (anew,) = rewarded_anew(
        [episode((0, None, 9.0, 1), (1, None, 9.0, 1), (0, None, 9.0, 1))], [[1.0, 2.0, 4.0]]
    )
    assert [turn.reward for turn in anew.turns] == [1.0, 2.0, 4.0]
    assert anew.returns == {"player_0": 5.0, "player_1": 2.0}
