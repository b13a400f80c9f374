import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

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


@pytest.mark.parametrize("steps", [1, 7, 424])
@pytest.mark.parametrize("warm_up", [0.0, 0.03, 0.5])
def test_linear_and_constant_schedules_are_those_of_transformers(steps: int, warm_up: float):
    ramp = math.ceil(warm_up * steps)
    parameter = torch.nn.Parameter(torch.zeros(1))
    for shape, theirs in (
        ("linear", partial(get_linear_schedule_with_warmup, num_training_steps=steps)),
        ("constant", get_constant_schedule_with_warmup),
    ):
        schedule = Schedule(steps=steps, shape=shape, warm_up=warm_up)  # type: ignore[arg-type]
        rate = theirs(torch.optim.SGD([parameter], lr=1.0), num_warmup_steps=ramp).lr_lambdas[0]
        assert [schedule.rate(i) for i in range(steps)] == pytest.approx([rate(i) for i in range(steps)], abs=1e-12)


def test_a_longer_rise_moves_a_cosines_peak():
    rates = [Schedule(steps=100, warm_up=0.3).rate(i) for i in range(100)]
    assert rates.index(max(rates)) == 30
    assert Schedule(steps=100, warm_up=0.0).rate(0) == 1.0


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
