import math

import pytest
import torch
from transformers import get_scheduler

from selfplay_fast.learn.schedules import constant_rates, cosine_rate, cosine_rates, linear_rates


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
