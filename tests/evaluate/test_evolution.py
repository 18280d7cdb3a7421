"""Oracle: means by hand."""

from collections.abc import Sequence
from statistics import stdev

import pytest

from selfplay_fast.evaluate.evolution import held_out_metrics, prompt_metrics
from selfplay_fast.play.evolving import Answered, Prompt
from selfplay_fast.records import Ask, Reply, Turn


def answered(rewards: Sequence[float], topic: str = "") -> Answered:
    ask = Ask(role="solver", append="p")
    turns = tuple(Turn(ask=ask, reply=Reply(text="r"), reward=reward) for reward in rewards)
    return Answered(prompt=Prompt(text="p", topic=topic), turns=turns)


def test_held_out_prompts_are_told_apart_by_their_topic() -> None:
    groups = [answered([1.0], "2"), answered([0.0], "2"), answered([0.5]), answered([], "3")]
    found = held_out_metrics(groups)
    assert found.pop("held_out/reward_error") == pytest.approx(stdev([1.0, 0.0, 0.5]) / 3**0.5)
    assert found == {"held_out/reward": 0.5, "held_out_topic/2": 0.5}
    assert held_out_metrics(groups[:1]).keys() == {"held_out/reward", "held_out_topic/2"}
    assert held_out_metrics([]) == {}


def test_an_iteration_in_numbers() -> None:
    base = [answered([0.0, 1.0], "1"), answered([0.5, 0.5], "3")]
    found = prompt_metrics(base, [base[1].prompt], [answered([1.0, 0.0, 0.5], "4")])
    assert found == pytest.approx(
        {
            "base/prompts": 2,
            "evolved/prompts": 1,
            "base/reward": 0.5,
            "base/reward_gap": 0.5,
            "evolved/reward": 0.5,
            "evolved/reward_gap": 1.0,
            "difficulty/base": 2,
            "difficulty/drawn": 3,
            "difficulty/evolved": 4,
        }
    )


def test_topics_in_words_are_no_difficulty_and_nothing_evolved_has_no_mean() -> None:
    found = prompt_metrics([answered([1.0], "poems"), answered([1.0], "2")], [], [])
    assert found == {"base/prompts": 2, "evolved/prompts": 0, "base/reward": 1.0, "base/reward_gap": 0.0}
