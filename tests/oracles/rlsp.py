"""RLSP's rewards and advantages, sample by sample and token by token in plain Python: slow, and without our code.

Written from the published description of the reward server and of PPO in OpenRLHF, on lists of floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def boxed(reply: str) -> tuple[str, str] | None:
    r"""(answer, text before it) of the first \boxed{...} whose braces close, by counting them; two levels inside."""
    mark = "\\boxed{"
    start = reply.find(mark)
    while start >= 0:
        depth, deepest = 1, 1
        for place in range(start + len(mark), len(reply)):
            depth += {"{": 1, "}": -1}.get(reply[place], 0)
            deepest = max(deepest, depth)
            if depth == 0:
                if deepest <= 3:
                    return reply[start + len(mark) : place], reply[:start]
                break
        start = reply.find(mark, start + 1)
    return None


def served(
    reply: str,
    gold: str,
    equal: Callable[[str, str], bool],
    *,
    c: float = 0.0,
    judge: Callable[[str], float] | None = None,
    alpha: float = 0.8,
) -> float:
    """The reward server's answer; ``judge`` grades the reasoning and may fail, or say nonsense."""
    try:
        found = boxed(reply)
        r = -0.5 if found is None else 1.0 if equal(gold, found[0]) else 0.0
        reasoning = reply if found is None else found[1]
        if c != 0:
            r -= c / (len(reasoning) / 4)
        if judge is not None:
            try:
                effort = float(judge(reasoning))
                if not 0 <= effort <= 1:
                    effort = 0.5
            except Exception:
                effort = 0.5
            r = alpha * r + (1 - alpha) * effort
        return r
    except Exception:
        return 0.0


def token_rewards(
    logprobs: Sequence[float], reference: Sequence[float], reward: float, kl: float
) -> list[float]:
    """k1 penalty at every token, the clipped reward at the last."""
    rewards = [-kl * (own - other) for own, other in zip(logprobs, reference, strict=True)]
    rewards[-1] += min(max(reward, -10.0), 10.0)
    return rewards


def generalised(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """Advantages as sums of discounted temporal differences, each from its definition; and returns."""
    n = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * following[t] - values[t] for t in range(n)]
    advantages = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def whitened(samples: Sequence[Sequence[float]]) -> list[list[float]]:
    """Over all tokens of all samples: population variance, at least 1e-8."""
    everything = [x for sample in samples for x in sample]
    mean = sum(everything) / len(everything)
    variance = sum((x - mean) ** 2 for x in everything) / len(everything)
    scale = 1 / math.sqrt(max(variance, 1e-8))
    return [[(x - mean) * scale for x in sample] for sample in samples]


def value_loss(value: float, old: float, wanted: float, clip: float) -> float:
    """Of one token."""
    near = min(max(value, old - clip), old + clip)
    return max((value - wanted) ** 2, (near - wanted) ** 2) / 2
