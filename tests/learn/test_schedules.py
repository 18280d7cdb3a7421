import math

import pytest
import torch
from transformers import get_scheduler

from selfplay_fast.learn.schedules import (
    constant_rates,
    cosine_rate,
    cosine_rates,
    falling_rates,
    iteration_rates,
    linear_rates,
)


def test_up_in_a_line_and_down_a_cosine() -> None:
    """Oracle: by hand: quarters of the peak, the peak, the middle between both ends, the least."""
    rates = cosine_rates(range(15), 15, peak=4.0, least=1.0, warmup=4)
    assert rates[:5] == [1.0, 2.0, 3.0, 4.0, 4.0]
    assert rates[9] == pytest.approx(2.5)
    assert rates[14] == pytest.approx(1.0)
    assert rates[7] == pytest.approx(1 + 1.5 * (1 + math.cos(0.3 * math.pi)))


def test_runs_of_one_step_and_steps_beyond_the_end() -> None:
    """Oracle: the peak without a warm-up, the least from the end on."""
    assert cosine_rate(0, 1, peak=2.0, least=1.0, warmup=0) == 2.0
    assert cosine_rate(9, 5, peak=2.0, least=1.0, warmup=0) == 1.0


@pytest.mark.parametrize(
    ("name", "rates"), [("linear", linear_rates), ("constant_with_warmup", constant_rates)]
)
@pytest.mark.parametrize("steps", [1, 9, 40])
def test_up_in_a_line_as_transformers_does(name: str, rates, steps: int) -> None:
    """Oracle: transformers' schedulers, stepped."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2e-3)
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=math.ceil(steps * 0.1), num_training_steps=steps
    )
    expected = []
    for _ in range(steps):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(steps, peak=2e-3, warmup=0.1) == pytest.approx(expected)


def test_iterations_are_parts_of_one_cosine() -> None:
    """Oracle: the cosine over all optimizer steps, which ends at a tenth."""
    parts = [iteration_rates(step, 4, 5, peak=2.0, warmup=3) for step in range(1, 5)]
    assert [len(part) for part in parts] == [5] * 4
    whole = cosine_rates(range(20), 20, peak=2.0, least=0.2, warmup=3)
    assert [rate for part in parts for rate in part] == whole
    assert whole[-1] == pytest.approx(0.2)


def test_rates_that_fall_to_nothing() -> None:
    """Oracle: by hand: up in two steps, then a line, or the rest of a cosine that would be 0 one step later."""
    assert falling_rates("linear", 4, peak=1.0, warmup=0.5) == [0.0, 0.5, 1.0, 0.5]
    cosine = falling_rates("cosine", 6, peak=1.0, warmup=0.3)
    assert cosine[:3] == [0.5, 1.0, 1.0]
    assert cosine[4] == pytest.approx(0.5)
