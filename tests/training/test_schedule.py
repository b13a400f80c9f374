from itertools import pairwise

import pytest

from curate.training.schedule import FLOOR, Schedule, rate_at


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_rises_to_its_peak_and_falls_to_the_floor():
    rates = [rate_at(i / 1000) for i in range(1001)]
    peak = rates.index(max(rates))
    assert peak == 50
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(FLOOR)
    assert all(a < b for a, b in pairwise(rates[:peak]) if a > 0.02)
    assert all(a > b for a, b in pairwise(rates[peak:]))


@pytest.mark.parametrize("steps", [1, 2, 19, 1000])
def test_no_step_has_a_rate_of_zero(steps: int):
    schedule = Schedule(steps=steps)
    assert all(schedule.rate(i) > 0 for i in range(steps))


def test_progress_follows_steps_or_clock_whichever_is_further():
    clock = Clock()
    schedule = Schedule(steps=100, seconds=10.0, clock=clock)
    assert schedule.progress(50) == 0.5
    clock.now = 8.0
    assert schedule.progress(50) == 0.8
    assert schedule.rate(50) == rate_at(0.8)
    clock.now = 11.0
    assert schedule.progress(50) == 1.0


def test_a_start_takes_its_margin_off_the_limit():
    clock = Clock()
    schedule = Schedule(steps=10**8, seconds=10.0, clock=clock)
    clock.now = 3.0
    schedule.start(margin=6.0)
    assert schedule.progress(1) < 0.01
    clock.now = 7.0
    assert schedule.progress(1) == 1.0


def test_a_limit_that_is_used_up_already_ends_after_one_step():
    schedule = Schedule(steps=100, seconds=1.0, clock=Clock())
    schedule.start(margin=2.0)
    assert schedule.progress(1) == 1.0
