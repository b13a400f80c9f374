"""How far a training has come, by its steps or by the clock, and the learning rate that follows from it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

WARM_UP, FLOOR = 0.05, 0.1  # share of the training that ramps the rate up; share of the rate that a cosine leaves


@dataclass
class Schedule:
    """Progress in [0, 1], by whichever of `steps` and `seconds` is used up sooner.

    With a time limit the rate falls with the clock, so that a training cut short by it still ends at a low
    rate, and no step depends on guessing how fast the machine is.
    """

    steps: int
    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    shape: Literal["cosine", "linear", "constant"] = "cosine"
    warm_up: float = WARM_UP
    """Share of the training that ramps the rate up."""
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self, *, margin: float = 0.0) -> None:
        """Count the seconds from now; take `margin` off the limit, for work before and after."""
        self.started = self.clock()
        if self.seconds is not None:
            self.seconds -= margin

    @property
    def elapsed(self) -> float:
        return self.clock() - self.started

    def progress(self, step: int) -> float:
        done = step / self.steps
        if self.seconds is not None:
            done = max(done, self.elapsed / self.seconds if self.seconds > 0 else 1.0)
        return min(done, 1.0)

    def rate(self, step: int) -> float:
        """Return the share of the peak learning rate for the step after `step` steps."""
        progress = self.progress(step)
        if self.shape == "cosine":
            return rate_at(progress, warm_up=self.warm_up, first_step=1 / self.steps)
        return straight_rate_at(progress * self.steps, self.steps, warm_up=self.warm_up, falls=self.shape == "linear")


def rate_at(progress: float, *, warm_up: float = WARM_UP, first_step: float = 0.0) -> float:
    """Return a rate that ramps up linearly, then falls along a cosine to the floor; it is never zero."""
    if progress < warm_up:
        return max(progress, min(first_step, warm_up), 1e-3) / warm_up
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def straight_rate_at(step: float, steps: int, *, warm_up: float, falls: bool) -> float:
    """Return the rate of transformers' linear schedule (or constant one) with warm-up, whose first step has none."""
    ramp = math.ceil(warm_up * steps)
    if step < ramp:
        return step / ramp
    return (steps - step) / max(1, steps - ramp) if falls else 1.0
