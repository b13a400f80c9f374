"""MAGIC's work: one training run, its smoothness, and the way back from every target."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from curate.errors import CurateError
from curate.progress import Reporter
from curate.training.adjoint import Adjoint, Sampling, differentiate
from curate.training.microbatches import Corpus
from curate.training.replay import Replay
from curate.training.smoothness import LEAST_AGREEMENT, Smoothness, short_smoothness, short_steps


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The outcome of a run and its ways back."""

    smoothness: Smoothness
    adjoints: dict[str, Adjoint]
    """By target."""


def walk(
    replay: Replay,
    targets: Mapping[str, Corpus],
    reporter: Reporter,
    *,
    snapshots: Collection[int],
    until: int = 0,
    sampling: Sampling | None = None,
    accept_rough: bool = True,
) -> Walk:
    """Train, measure the smoothness, and walk back once per target, keeping what the steps in `snapshots` need.

    Work from before a kill is not done again. Raises CurateError before walking back where the run is too rough, unless
    that is accepted; see `differentiate` for `until` and `sampling`.
    """
    steps = replay.training.steps
    with reporter.stage("training", total=steps, unit="steps", grows="training") as task:
        replay.run(task)
    with reporter.stage("smoothness", total=2 * short_steps(steps), unit="steps", grows="smoothness") as task:
        smoothness = short_smoothness(replay)
        task.advance(2 * short_steps(steps))
    if not accept_rough:
        refuse_rough(smoothness.agreement)
    total = len(targets) * (steps - until)
    with reporter.stage("walking back", total=total, unit="steps", grows="walking back") as task:
        adjoints = {
            name: differentiate(replay, corpus, name, snapshots=snapshots, until=until, sampling=sampling, task=task)
            for name, corpus in targets.items()
        }
    return Walk(smoothness=smoothness, adjoints=adjoints)


def step_at(share: float, steps: int) -> int:
    """Return the step, counted from 0, that lies at a share of a run."""
    return min(int(share * steps), steps - 1)


def refuse_rough(agreement: float) -> None:
    """Raise CurateError where a run is too rough in its documents' weights for its derivatives to mean anything."""
    if agreement >= LEAST_AGREEMENT:
        return
    raise CurateError(
        f"The training run is rough: its smoothness in the documents' weights is {agreement:.2f}, where 1 is smooth and"
        f" at least {LEAST_AGREEMENT} is expected. Do not trust scores from its derivatives.",
        hint="What usually helps: a lower learning_rate, a longer warmup, a larger batch_size or epsilon, a proxy that"
        " was trained longer on the pool (`curate warmup`). --accept-rough goes on with these scores.",
    )
