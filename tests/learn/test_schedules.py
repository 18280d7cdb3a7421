import math

import pytest

from selfplay_fast.learn.schedules import cosine_rate, cosine_rates


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
