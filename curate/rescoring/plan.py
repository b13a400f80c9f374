"""Estimate the cost of a rescoring from one measured step."""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from curate.amounts import counted, duration, size
from curate.memory import peak_memory
from curate.rescoring.attribution import Rescoring
from curate.training.optimisers import State
from curate.training.replay import Replay, Training
from curate.training.smoothness import SHARE


@dataclass(frozen=True, kw_only=True)
class RescorePlan:
    """The cost of a rescoring, known before it starts."""

    shortlist: int
    background: int
    steps: int
    """Of one training."""
    tokens: int
    """Of one training, padding aside."""
    repeats: int
    rates: int
    """Learning rates with which the first training is tried."""
    groups: int
    """Ways back per training."""
    check: int
    """Retrainings without some documents."""
    step_seconds: float
    """One step forward, measured."""
    step_back_seconds: float
    """One step back, measured."""
    seconds: float
    """Estimated, of all trainings and ways back, the measurement of smoothness and the check included."""
    disk_bytes: int
    """At most, until it is done."""
    memory_bytes: int
    """Peak memory of the measured step: of the GPU where it ran there, else of this process."""

    @property
    def sentence(self) -> str:
        """Say the totals."""
        return (
            f"Rescoring {counted(self.shortlist, 'document')} by {counted(self.repeats, 'training')} of "
            f"{counted(self.steps, 'step')} takes about {duration(self.seconds)}, at most {size(self.disk_bytes)} on "
            f"disk and {size(self.memory_bytes)} of memory."
        )


def plan(rescoring: Rescoring) -> RescorePlan:
    """Measure one step forward and back, and estimate the whole."""
    training, settings = rescoring.training(), rescoring.settings
    with TemporaryDirectory() as folder:
        replay = Replay(
            training, Path(folder), checkpoints=settings.checkpoints, keep_gradients=settings.keep_gradients
        )
        needs = replay.plan()
    forward, back = _one_step(training)
    groups = len(rescoring.groups)
    more = max(0, len(settings.rates) - 1)  # trainings, to try other learning rates
    once = needs.steps * (forward * (1 + 2 * SHARE) + groups * back)
    return RescorePlan(
        shortlist=len(rescoring.usable),
        background=len(rescoring.trained) - len(rescoring.usable),
        steps=needs.steps,
        tokens=needs.tokens,
        repeats=settings.repeats,
        rates=max(1, len(settings.rates)),
        groups=groups,
        step_seconds=forward,
        step_back_seconds=back,
        check=settings.check,
        seconds=(settings.repeats + more) * once + (1 + more) * settings.check * needs.steps * forward,
        disk_bytes=needs.disk_bytes,
        memory_bytes=peak_memory(rescoring.proxy.device),
    )


def _one_step(training: Training) -> tuple[float, float]:
    """Return the seconds of the first step's forward part and of its way back."""
    state = training.start()
    begun = time.perf_counter()
    _, gradients = training.gradient(state)
    after = training.optimiser.update(state, gradients)
    _wait(state)
    middle = time.perf_counter()
    cotangent = State(step=after.step, parameters=gradients, moments=after.moments)
    _, pulled = training.optimiser.pull_back(state, gradients, cotangent)
    for _ in training.products(0, state.parameters, pulled):
        pass
    _wait(state)
    return middle - begun, time.perf_counter() - middle


def _wait(state: State) -> None:
    if next(iter(state.parameters.values())).is_cuda:
        torch.cuda.synchronize()
