"""Oracle: statistics of uniform numbers (scipy) and the definition of a counter-based stream."""

import numpy as np
from scipy import stats

from selfplay_fast.policies.streams import derive_seed, stream_ids, uniforms
from selfplay_fast.records import Key


def test_draws_are_uniform_across_keys_and_counters():
    """Kolmogorov-Smirnov against U(0, 1) over neighbouring keys and over counters; correlation near 0."""
    keys = [Key(3, episode, turn) for episode in range(100) for turn in range(20)]
    streams = stream_ids(keys)
    first, second = uniforms(streams, 0), uniforms(streams, 1)
    along = np.array([uniforms(streams[:1], t)[0] for t in range(2000)])
    for sample in (first, second, along):
        assert stats.kstest(sample, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_a_draw_depends_on_its_key_alone():
    """The same key gives the same number in any batch; every part of the key matters."""
    keys = [Key(0, 0, 0), Key(1, 0, 0), Key(0, 1, 0), Key(0, 0, 1)]
    together = uniforms(stream_ids(keys), 5)
    assert len(set(together.tolist())) == 4
    for key, value in zip(keys, together, strict=True):
        assert uniforms(stream_ids([key]), 5)[0] == value


def test_parts_of_a_key_count_modulo_two_to_the_64():
    """Oracle: arithmetic; a seed of 2**63 and more is a stream like any other."""
    wide, same = stream_ids([Key(2**64 - 5, 2**63, 1), Key(-5, -(2**63), 1)])
    assert wide == same != stream_ids([Key(5, 2**63, 1)])[0]
    assert stream_ids([Key(2**64 + 3, 0, 0)])[0] == stream_ids([Key(3, 0, 0)])[0]


def test_seeds_differ_by_every_part():
    """A thousand pairs of small numbers give a thousand seeds, all non-negative."""
    seeds = {derive_seed(a, b) for a in range(-1, 39) for b in range(25)}
    assert len(seeds) == 1000
    assert min(seeds) >= 0
