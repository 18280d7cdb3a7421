"""Oracle: values by hand; frequencies of draws against their exact probabilities, by scipy's chi-square test."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from selfplay_fast.play.informativeness import (
    METRICS,
    choose,
    informativeness,
    quantile_bins,
    rarity,
    sampling_weights,
)

REWARDS = [[0.1, 0.9, 0.5, 0.5, 0.3, 0.7], [2.0, 2.0, 2.0, 2.0, 2.0, 2.0], [-1.0, 3.0, 2.5, 0.0, 0.0, 0.0]]
VALUES = {
    "reward_gap": [0.8, 0.0, 4.0],
    "reward_maxmean": [0.4, 0.0, 2.25],
    "reward_dts": [0.2, 0.0, 0.5],
    "reward_var": [0.4 / 6, 0.0, (1 + 9 + 6.25) / 6 - 0.75**2],
    "reward_mean": [0.5, 2.0, 0.75],
    "reward_mean_inv": [1.0, 0.0, 1 - 0.25 / 1.5],
    "uniform": [1.0, 1.0, 1.0],
}


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_those_of_fixed_rewards(metric: str) -> None:
    np.testing.assert_allclose(informativeness(REWARDS, metric), VALUES[metric], atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_a_single_reward_is_the_best_and_the_worst(metric: str) -> None:
    """Differences of what is alone are 0."""
    expected = {"reward_mean": 3.0, "reward_mean_inv": 1.0, "uniform": 1.0}.get(metric, 0.0)
    assert informativeness([[3.0]], metric).tolist() == [expected]


def test_leave_one_out_is_zero_whatever_the_rewards_are_and_refused() -> None:
    """Oracle: its definition, in loops, on many rewards: so it cannot rank prompts."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 6):
        for rewards in rng.normal(scale=10, size=(50, n)):
            others = [np.mean(np.delete(rewards, i)) for i in range(n)]
            assert abs(np.mean(rewards - others)) < 1e-12
    with pytest.raises(ValueError, match=r"reward_loo.* is 0 whatever the rewards are"):
        informativeness(REWARDS, "reward_loo")


def test_weights_are_scaled_values_and_the_least_value_has_none() -> None:
    np.testing.assert_allclose(sampling_weights(np.array([3.0, 1.0, 2.0, 5.0])), [2 / 7, 0, 1 / 7, 4 / 7])
    assert sampling_weights(np.array([1.0, 2.0])).tolist() == [0, 1]


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [7.0], [-1.5, -1.5]])
def test_weights_of_equal_values_are_equal(values: list[float]) -> None:
    """Where the formula divides by zero."""
    assert sampling_weights(np.array(values)).tolist() == [1 / len(values)] * len(values)
    assert sampling_weights(np.zeros(0)).tolist() == []


DRAWS = 4000
FIVE = np.array([0.0, 1.0, 2.0, 3.0, 4.0])


def test_first_draws_are_as_frequent_as_weights() -> None:
    counts = Counter(choose(FIVE, 1, seed=seed)[0] for seed in range(DRAWS))
    assert set(counts) == {1, 2, 3, 4}, "the least informative has weight 0"
    found = [counts[i] for i in range(1, 5)]
    assert chisquare(found, DRAWS * sampling_weights(FIVE)[1:]).pvalue > 0.01


def test_draws_without_replacement_are_as_frequent_as_drawing_one_by_one() -> None:
    """Oracle: the probability of each order, the product of the shares of what is left."""
    weights = sampling_weights(FIVE)
    orders = list(permutations(range(1, 5), 3))
    probabilities = []
    for order in orders:
        left, probability = 1.0, 1.0
        for place in order:
            probability *= weights[place] / left
            left -= weights[place]
        probabilities.append(probability)
    counts = Counter(tuple(choose(FIVE, 3, seed=seed)) for seed in range(DRAWS))
    assert sum(probabilities) == pytest.approx(1)
    assert chisquare([counts[o] for o in orders], DRAWS * np.array(probabilities)).pvalue > 0.01


def test_a_prompt_that_is_there_twice_is_drawn_for_each() -> None:
    """Duplicates are prompts like any other: both places have their weight."""
    values = np.array([0.0, 1.0, 1.0, 2.0])
    counts = Counter(choose(values, 1, seed=seed)[0] for seed in range(DRAWS))
    assert chisquare([counts[1], counts[2], counts[3]], DRAWS * np.array([0.25, 0.25, 0.5])).pvalue > 0.01


def test_equal_values_are_drawn_evenly() -> None:
    counts = Counter(choose(np.zeros(4), 1, seed=seed)[0] for seed in range(DRAWS))
    assert chisquare([counts[i] for i in range(4)]).pvalue > 0.01


def test_there_are_fewer_where_not_enough_have_weight() -> None:
    assert sorted(choose(np.array([0.0, 0, 1, 0, 2]), 4, seed=0)) == [2, 4]


def test_greedy_takes_the_largest_of_equals_the_first() -> None:
    assert choose(np.array([1.0, 3.0, 2.0, 3.0, 0.0]), 4, "greedy", seed=0) == [1, 3, 2, 0]


def test_bins_hold_the_values_between_quantiles() -> None:
    """Oracle: deciles of 0 … 39 by hand, each closed above; ties stay together."""
    bins = quantile_bins(np.arange(40.0))
    assert [len(own) for own in bins] == [4] * 10
    assert [own.tolist() for own in quantile_bins(np.array([1.0, 1, 1, 1, 5]), 2)] == [[0, 1, 2, 3], [4]]
    assert [own.tolist() for own in quantile_bins(np.zeros(3))] == [[0, 1, 2]]


def test_strata_give_their_share_and_draw_by_weight() -> None:
    """Oracle: one of four in every bin; within a bin, by weight, where the least of all has none."""
    values = np.arange(40.0)
    drawn = [choose(values, 10, "stratified", seed=seed) for seed in range(1000)]
    assert all([place // 4 for place in chosen] == list(range(10)) for chosen in drawn)
    second = Counter(chosen[1] for chosen in drawn)
    assert chisquare([second[i] for i in range(4, 8)], 1000 * values[4:8] / values[4:8].sum()).pvalue > 0.01
    first = Counter(chosen[0] for chosen in drawn)
    assert first[0] == 0
    assert chisquare([first[i] for i in range(1, 4)], 1000 * values[1:4] / 6).pvalue > 0.01


def test_a_stratum_without_weight_is_drawn_from_evenly() -> None:
    values = np.array([0.0] * 8 + [1.0, 2.0, 3.0, 4.0])
    drawn = Counter(choose(values, 6, "stratified", seed=seed)[0] for seed in range(1000))
    assert chisquare([drawn[i] for i in range(8)]).pvalue > 0.01


def test_rare_topics_count_for_a_quarter() -> None:
    """Oracle: 0.75 w + 0.25 (1 / frequency, normalised), by hand; the prompt without weight is drawn for its topic."""
    topics = ["a", "a", "a", "b", "c"]
    np.testing.assert_allclose(rarity(topics), [1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3])
    expected = 0.75 * sampling_weights(FIVE) + 0.25 * np.array([1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3])
    counts = Counter(choose(FIVE, 1, "iw_topic", seed=seed, topics=topics)[0] for seed in range(DRAWS))
    assert counts[0] > 0
    assert chisquare([counts[i] for i in range(5)], DRAWS * expected).pvalue > 0.01


@pytest.mark.parametrize("method", ["importance_weighted", "greedy", "stratified", "iw_topic"])
def test_no_place_is_drawn_twice_and_draws_follow_from_the_seed(method: str) -> None:
    values = np.random.default_rng(1).random(100)
    options = {"topics": ["x"] * 100} if method == "iw_topic" else {}
    first, again, other = (choose(values, 25, method, seed=seed, **options) for seed in (3, 3, 4))  # type: ignore[arg-type]
    assert first == again
    assert len(set(first)) == len(first) <= 25
    assert (first == other) == (method == "greedy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FIVE, 6), "count: must be from 0 to the number of prompts, 5, got 6"),
        ((FIVE, -1), "count:"),
        ((FIVE, 2, "best"), "method: must be importance_weighted"),
        ((FIVE, 2, "iw_topic"), "topics: there must be one for each of 5 prompts, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(*arguments, seed=0)  # type: ignore[arg-type]


def test_prompts_without_rewards_and_other_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="a prompt has none"):
        informativeness([[1.0], []])
    with pytest.raises(ValueError, match="metric: must be one of reward_gap"):
        informativeness([[1.0]], "regret")
