"""Which prompts are worth evolving: how informative each is, and who is drawn.  Ye et al. 2024, eva, arXiv 2411.00062.

The creator is after regret: prompts at which the solver could do better than it does. What stands for regret is a
number made of the rewards of its responses to a prompt. Names are those of the released code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Method = Literal["importance_weighted", "greedy", "stratified", "iw_topic"]

BINS = 10  # of stratified sampling


def _second_best(rewards: Floats) -> float:
    best = np.sort(rewards)[::-1]
    return float(best[0] - best[min(1, len(best) - 1)])


_OF_A_PROMPT: dict[str, Callable[[Floats], float]] = {
    "reward_gap": lambda rewards: float(rewards.max() - rewards.min()),
    "reward_maxmean": lambda rewards: float(rewards.max() - rewards.mean()),
    "reward_dts": _second_best,
    "reward_var": lambda rewards: float(rewards.var()),
    "reward_mean": lambda rewards: float(rewards.mean()),
    "reward_mean_inv": lambda rewards: float(rewards.mean()),
    "uniform": lambda rewards: 1.0,
}
METRICS = tuple(_OF_A_PROMPT)


def check_metric(metric: str) -> None:
    """ValueError for what is no metric, and for ``reward_loo``, which is a constant."""
    if metric == "reward_loo":
        raise ValueError(
            "metric: reward_loo, the mean of each reward less the mean of the others, is 0 whatever the rewards are, "
            "and cannot tell prompts apart; use reward_gap or reward_maxmean"
        )
    if metric not in _OF_A_PROMPT:
        raise ValueError(f"metric: must be one of {', '.join(METRICS)}, got {metric!r}")


def informativeness(rewards: Sequence[Sequence[float]], metric: str = "reward_gap") -> Floats:
    """The rewards of each of N prompts, one or more -> float64 [N].

        reward_gap       max - min              reward_var        population variance
        reward_maxmean   max - mean             reward_mean       mean
        reward_dts       best - second best     reward_mean_inv   1 - mean, scaled to 0 … 1 over all prompts

    Of a single reward what is a difference is 0. ``uniform`` is 1 for all. ValueError for another metric, and for a
    prompt without rewards.
    """
    check_metric(metric)
    if not all(len(row) for row in rewards):
        raise ValueError("rewards: a prompt has none; leave out those that nobody has scored")
    values = np.array([_OF_A_PROMPT[metric](np.asarray(row, np.float64)) for row in rewards], np.float64)
    return 1 - _scaled(values) if metric == "reward_mean_inv" else values


def sampling_weights(values: Floats) -> Floats:
    """Informativeness [N] -> weights [N] that sum to 1: v = (value - min) / (max - min), w = v / sum(v).

    Whatever has the least value has weight 0. Where all values are equal the formula says nothing, and weights are.
    """
    scaled = _scaled(np.asarray(values, np.float64))
    total = scaled.sum()
    return scaled / total if total > 0 else np.full(len(scaled), 1 / max(1, len(scaled)))


def choose(
    values: Floats,
    count: int,
    method: Method = "importance_weighted",
    *,
    seed: int,
    topics: Sequence[str] = (),
    topic_share: float = 0.25,
) -> list[int]:
    """The places of ``count`` of the N prompts, no place twice, those first that were drawn first.

    ``importance_weighted`` draws by weight without replacement, ``greedy`` takes the largest (of equals the first).
    ``stratified`` draws the share count / N, rounded down, of each of ten quantile bins by weight, or of a bin without
    weight evenly. ``iw_topic`` draws by (1 - ``topic_share``) weight + ``topic_share`` `rarity`. Else weight 0 is never
    drawn, so there are fewer where not enough have weight. Draws follow from ``seed``. ValueError for a count beyond N,
    other methods, and where topics are needed and are not N.
    """
    values = np.asarray(values, np.float64)
    if not 0 <= count <= len(values):
        raise ValueError(f"count: must be from 0 to the number of prompts, {len(values)}, got {count}")
    weights = sampling_weights(values)
    uniform = 1 - np.random.default_rng(seed).random(len(values))  # in (0, 1]
    if method == "greedy":
        return [int(place) for place in np.argsort(-weights, kind="stable")[:count]]
    if method == "stratified":
        drawn = []
        for own in quantile_bins(values):
            part = count * len(own) // len(values)
            mass = weights[own] if weights[own].any() else np.ones(len(own))
            drawn += [int(own[i]) for i in _weighted(mass, uniform[own], part)]
        return drawn
    if method == "iw_topic":
        if len(topics) != len(values):
            raise ValueError(
                f"topics: there must be one for each of {len(values)} prompts, got {len(topics)}"
            )
        weights = (1 - topic_share) * weights + topic_share * rarity(topics)
    elif method != "importance_weighted":
        raise ValueError(
            f"method: must be importance_weighted, greedy, stratified or iw_topic, got {method!r}"
        )
    return _weighted(weights, uniform, count)


def rarity(topics: Sequence[str]) -> Floats:
    """One over how often its topic occurs, normalised to sum to 1, float64 [N]."""
    _, place, counts = np.unique(np.array(topics, object), return_inverse=True, return_counts=True)
    inverse = 1 / counts[place]
    return np.asarray(inverse / inverse.sum(), np.float64)


def quantile_bins(values: Floats, bins: int = BINS) -> list[NDArray[np.int64]]:
    """The places of the values of each quantile, lowest first; equal values are in one bin, so there may be fewer."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    own = np.searchsorted(edges, values, side="left")
    return [np.flatnonzero(own == number) for number in np.unique(own)]


def _weighted(weights: Floats, uniform: Floats, count: int) -> list[int]:
    """Without replacement, each next one by its share of the weight that is left: the largest of log(u) / w.

    Efraimidis and Spirakis 2006, *Weighted random sampling with a reservoir*; Gumbel-top-k with keys transformed.
    """
    keys = np.full(len(weights), -np.inf)
    positive = weights > 0
    keys[positive] = np.log(uniform[positive]) / weights[positive]
    order = np.argsort(-keys, kind="stable")[:count]
    return [int(place) for place in order if positive[place]]


def _scaled(values: Floats) -> Floats:
    """To 0 … 1; zeros where all are equal."""
    if not len(values):
        return values
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.zeros(len(values))
