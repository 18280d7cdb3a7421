"""Which samples of a step are learned from: SPELL's dynamic sampling by role.  Yang et al. 2025, arXiv 2509.23863.

Pure functions of arrays. Where some of many are taken, which ones follows from a seed, and they stay in their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]


def drawn(candidates: ArrayLike, count: int, seed: int) -> IntArray:
    """``count`` of the candidates (all, if they are fewer), without replacement, in their order."""
    own = np.asarray(candidates, np.int64)
    return own[np.sort(np.random.default_rng(seed).permutation(len(own))[:count])]


def matched_negatives(
    positives: Sequence[str], negatives: Sequence[str], tasks: Sequence[str], *, ratio: float, seed: int
) -> IntArray:
    """Tasks of positives and of negatives -> which negatives are taken, as indices in order.

    Of every task ``ratio`` times as many as it has positives; what one task cannot fill is carried to the next of
    ``tasks``.
    """
    chosen = []
    carried = 0
    for number, task in enumerate(tasks):
        own = [i for i, other in enumerate(negatives) if other == task]
        wanted = int(ratio * positives.count(task)) + carried
        chosen.append(drawn(own, wanted, seed + number))
        carried = wanted - len(chosen[-1])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def is_consistent(
    votes: ArrayLike, majority: ArrayLike, rule: ArrayLike, *, least: float = 0.51, most: float = 0.99
) -> NDArray[np.bool_]:
    """votes [N, V] of 1, 0 and -1 (none), majority [N], rule [N] -> [N]: groups of votes that are worth learning from.

    Those whose majority is a decision, and the rule's, and shared by ``least`` to ``most`` of the valid votes.
    """
    own, decided = np.asarray(votes, np.int64), np.asarray(majority, np.int64)
    agreed = (own == decided[:, None]).sum(axis=1) / np.maximum((own != -1).sum(axis=1), 1)
    return (decided != -1) & (decided == np.asarray(rule)) & (least <= agreed) & (agreed <= most)
