"""Estimate the cost of a verification from one measured step of training."""

import time
from dataclasses import asdict, dataclass
from itertools import islice

from curate.amounts import counted, duration, rounded, size
from curate.errors import CurateError
from curate.folders.folder import read_json
from curate.folders.record import as_json
from curate.memory import peak_memory
from curate.proof.arms import ALL, selected_documents
from curate.proof.comparison import Comparison
from curate.proof.progress import kept_trainings
from curate.proof.reading import usable
from curate.proof.settings import SETTINGS
from curate.training.losses import mean_losses
from curate.training.microbatches import Corpus
from curate.training.replay import Training
from curate.training.snapshots import trainable

_SPOOLED = 5
"""Bytes of a token that waits on disk."""


@dataclass(frozen=True, kw_only=True)
class VerifyPlan:
    """The cost of a verification, known before it starts."""

    arms: int
    seeds: int
    trainings: int
    there: int
    """Of these, kept already by an earlier start with the same settings."""
    tokens: int
    """Of every arm but `all`."""
    steps: int
    """Of each of these."""
    all_steps: int
    """Of the arm `all`; 0 where there is none."""
    to_score: tuple[str, ...]
    """Baselines that no run beside the selection's has scored; scoring the pool by them is extra."""
    step_seconds: float
    """Measured."""
    loss_seconds: float
    """Of measuring the losses once: of the held-out rows measured, and scaled to the other text."""
    seconds: float
    """Of all trainings and losses."""
    disk_bytes: int
    """Of the baselines' and the sweep's selections, and of the arms' tokens while they train; about."""
    memory_bytes: int
    """Measured on the step."""

    @property
    def sentence(self) -> str:
        """Say the totals."""
        first = f" Before that, {' and '.join(self.to_score)} must score the pool." if self.to_score else ""
        there = f"; {self.there} are there already" if self.there else ""
        return (
            f"Verifying takes {counted(self.trainings, 'training')} ({counted(self.arms, 'arm')}, "
            f"{counted(self.seeds, 'seed')}{there}) on {rounded(self.tokens)} tokens each: about "
            f"{duration(self.seconds)}, "
            f"{size(self.disk_bytes)} on disk and {size(self.memory_bytes)} of memory.{first}"
        )


def plan(comparison: Comparison) -> VerifyPlan:
    """Measure one step on the selection's first documents and one evaluation, and estimate the whole."""
    settings, choices = comparison.settings, comparison.choices
    of_tokens = comparison.selected.is_of_tokens
    alike = 2 + 2 * of_tokens + len(dict.fromkeys(choices.baselines)) + len(choices.sweep)
    passes = comparison.selected.manifest["before"]["tokens"] / comparison.tokens
    all_steps = comparison.steps(min(settings.all_times, passes)) if settings.all_times else 0
    step, per_row = _measured(comparison)
    losses = per_row * (len(comparison.held_out) + settings.other_documents)
    trainings = settings.seeds * (alike + bool(all_steps))
    there, all_there = _there(comparison)
    steps = (settings.seeds * alike - there) * comparison.steps(1) + (settings.seeds - all_there) * all_steps
    missing = trainings - there - all_there
    if of_tokens:  # two arms read all tokens of their documents for those that carry loss
        figures = comparison.selected.manifest["tokens"]
        step *= 1 + 2 / alike * (figures["tokens"] / figures["carrying_loss"] - 1)
    dumps = (alike - 2) * sum(f.size for f in comparison.selected.folder.files() if f.name.count("/") == 1)
    return VerifyPlan(
        arms=alike + bool(all_steps),
        seeds=settings.seeds,
        trainings=trainings,
        there=trainings - missing,
        tokens=comparison.tokens,
        steps=comparison.steps(1),
        all_steps=all_steps,
        to_score=tuple(m for m in dict.fromkeys(choices.baselines) if choices.neighbour(m) is None),
        step_seconds=step,
        loss_seconds=losses,
        seconds=steps * step + (missing * settings.points + 1) * losses,
        disk_bytes=dumps + _SPOOLED * comparison.tokens * (alike - 1),
        memory_bytes=peak_memory(comparison.proxy.device),
    )


def _there(comparison: Comparison) -> tuple[int, int]:
    """Return how many trainings of the arms are kept, and how many of the arm `all`; of other settings none are."""
    folder = comparison.out
    if not folder.exists(SETTINGS) or read_json(folder, SETTINGS)["settings"] != as_json(asdict(comparison.settings)):
        return 0, 0
    kept = kept_trainings(comparison.out)
    of_all = {name for name in kept if name.startswith(f"{ALL}-")}
    return len(kept - of_all), len(of_all)


def _measured(comparison: Comparison) -> tuple[float, float]:
    """Return the seconds of a step of training, and of one held-out row's loss."""
    recipe, room, tokens = comparison.recipe, comparison.batching.room, comparison.batching.tokens
    documents = islice(selected_documents(comparison.selected.folder, comparison.fields), 2 * recipe.batch_size)
    _, sample = usable(list(documents), comparison.encoder)
    _, rows = usable(list(comparison.held_out), comparison.encoder)
    if not sample or not rows:
        lacking = "selection" if not sample else "target"
        raise CurateError(f"The {lacking} holds nothing to train on or to measure; expected at least one document.")
    batch = tuple(i % len(sample) for i in range(recipe.batch_size))
    model = trainable(comparison.proxy, recipe)
    training = Training(model, Corpus(sample, tokens, room=room), recipe, batches=[batch] * 2)
    state = training.run(training.start(), until=1)  # libraries set themselves up on first use
    begun = time.perf_counter()
    state = training.run(state, until=2)
    middle = time.perf_counter()
    mean_losses(model, state.parameters, Corpus(rows, tokens, room=room))
    return middle - begun, (time.perf_counter() - middle) / len(rows)
