"""What training runs on parts of the background take: their settings, their steps, and the plan of a dry run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from curate.amounts import size
from curate.methods.contract import Inputs, Sizes
from curate.training.leaving_out import num_documents
from curate.training.microbatches import Corpus
from curate.training.recipe import Recipe
from curate.training.replay import Replay, Training
from curate.training.smoothness import short_steps
from curate.training.snapshots import in_proxys_precision, trainable
from curate.training.walk import step_at


@runtime_checkable
class RunSettings(Protocol):
    """Settings of background runs; see methods/magic.py."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def runs(self) -> int: ...
    @property
    def snapshots(self) -> tuple[float, ...]: ...
    @property
    def passes(self) -> str | None: ...
    @property
    def curvature_share(self) -> int: ...
    @property
    def accept_rough(self) -> bool: ...
    @property
    def checkpoints(self) -> str: ...
    @property
    def check(self) -> int: ...
    @property
    def rates(self) -> tuple[float, ...]: ...
    @property
    def normalize(self) -> str: ...
    @property
    def all_parameters(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The training runs of a method that differentiates through training."""

    runs: int
    steps: int
    """Of each run."""
    step_back: int
    """Steps that each way back takes, one way per target group."""
    tokens: int
    """Of each run, estimated."""
    step_seconds: float
    """Measured."""
    step_back_seconds: float
    """Measured."""
    check: int
    """Retrainings of the first run, from where its ways back end."""
    rates: int
    """Learning rates with which the first run is tried."""
    disk_bytes: int
    """At most, until the run's directions are there."""

    def rows(self) -> dict[str, int | float | str]:
        """Return its figures by description."""
        return {
            "training runs": self.runs,
            "steps of each": self.steps,
            "tokens of each, about": self.tokens,
            "seconds of a step, measured": self.step_seconds,
            "seconds of a step back, measured": self.step_back_seconds,
            "retrainings of the check": self.check,
            **({"learning rates tried": self.rates} if self.rates > 1 else {}),
            "disk at most, until then": size(self.disk_bytes),
        }


def training_units(_: Inputs, settings: RunSettings, whole: Sizes) -> dict[str, int | float]:
    """Return how many steps all runs take, forward, for their smoothness, and back from every group.

    And how many documents the check of the first one takes.
    """
    runs, steps, back = _steps(settings, whole)
    batch = min(settings.recipe.batch_size, max(1, whole.background // runs))
    more = max(0, len(settings.rates) - 1)  # runs, to try other learning rates
    check = num_documents(settings.check, back, batch, whole.target)
    runs += more
    return {
        "training": runs * steps,
        "smoothness": runs * 2 * short_steps(steps),
        "walking back": runs * whole.groups * back,
        "check": (1 + more) * check,
    }


def training_plan(inputs: Inputs, settings: RunSettings, whole: Sizes, seconds: Mapping[str, float]) -> TrainingPlan:
    """Return what the runs take, from the measured seconds of a step of each kind and the size of a state."""
    runs, steps, back = _steps(settings, whole)
    recipe = replace(in_proxys_precision(settings.recipe, inputs.proxy), steps=steps)
    corpus = Corpus(inputs.background(), inputs.batching.tokens, room=inputs.batching.room)
    training = Training(trainable(inputs.proxy, recipe), corpus, recipe)
    needs = Replay(training, inputs.kept.folder.scratch("plan"), checkpoints=settings.checkpoints).plan()
    return TrainingPlan(
        runs=runs,
        steps=steps,
        step_back=back,
        tokens=needs.tokens,
        step_seconds=seconds["training"],
        step_back_seconds=seconds["walking back"],
        check=settings.check,
        rates=max(1, len(settings.rates)),
        disk_bytes=needs.disk_bytes,
    )


def _steps(settings: RunSettings, whole: Sizes) -> tuple[int, int, int]:
    """Return how many runs there are, the steps of each, and those of one way back."""
    runs = settings.runs
    documents = whole.background // runs
    batch = min(settings.recipe.batch_size, max(1, documents))
    steps = max(1, replace(settings.recipe, batch_size=batch).num_steps(documents))
    return runs, steps, steps - step_at(min(settings.snapshots), steps)
