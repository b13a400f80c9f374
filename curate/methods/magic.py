"""MAGIC: the adjoint of a training run on background documents, at steps on its way.

Ilyas & Engstrom 2025, arXiv 2504.16430. A proxy is trained on a sample of the pool, and the target's loss after that
training is differentiated back to a few steps. A document's score is what a little weight on it there would have
changed: the mean of ⟨-∂φ/∂g_k, ∇ℓ_z(θ_k)⟩ / D_k, one directional derivative and one pass over the pool per step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from curate.errors import SettingsError, nearest
from curate.methods.contract import REHEARSED, Inputs
from curate.methods.shared.background_runs import BackgroundRuns, RunsScorer, num_runs, training_plan, training_units
from curate.methods.shared.directional import DirectionSettings
from curate.training.checkpoints import POLICIES
from curate.training.recipe import Recipe

OFFERS = frozenset({"against", "per_token"})
NEEDS = frozenset({"model", "background", "training"})
# Measured in examples/magic/STUDY.md by how well scores rank 60 retrainings: one run with two snapshots, where the rate
# is highest and in the middle, gives .866, within noise of eight snapshots (.875); one gives .83 at best, and the mean
# of two runs adds .01 to a single snapshot. The background is dealt out to two runs: one scores, the other scores the
# first one's documents.
BACKGROUND = 1536
STEPS = 36
SNAPSHOTS = (0.25, 0.5)
REHEARSED_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Settings(DirectionSettings):
    """The training run that is differentiated, how many of them, and at which step."""

    recipe: Recipe = field(default_factory=lambda: Recipe(steps=STEPS))
    """What decides the training; its settings are given by their own names, or as `recipe=FILE.yaml`."""
    runs: int = 1
    """Runs on different documents, whose scores are averaged; each takes a pass over the pool.

    The background is dealt out to them (to two at least), and a document in it is scored by those that did not train
    on it; where `runs` is 1, the second one scores nothing but the first one's documents."""
    snapshots: tuple[float, ...] = SNAPSHOTS
    """The steps at which documents are scored, as shares of the run; their scores are averaged."""
    accept_rough: bool = False
    """Go on although the run is too rough for its derivatives to be trusted."""
    checkpoints: str = "sqrt"
    """Which states the run keeps for the way back: 'sqrt', 'all' or 'log'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runs < 1:
            raise SettingsError(f"runs is {self.runs}; expected at least 1.")
        if not self.snapshots or not all(0 <= share < 1 for share in self.snapshots):
            raise SettingsError(
                f"snapshots is {', '.join(map(str, self.snapshots)) or 'empty'};"
                " expected shares of the run, each at least 0 and below 1."
            )
        if self.checkpoints not in POLICIES:
            raise SettingsError(
                f"checkpoints is {self.checkpoints!r}; expected one of {', '.join(POLICIES)}.",
                hint=nearest(str(self.checkpoints), POLICIES),
            )

    @classmethod
    def gathered(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Put the recipe's names and values together; all others stay as they are."""
        own = {f.name for f in fields(cls)} - {"recipe"}
        keys = {name: name.replace("-", "_") for name in given}
        rest = {name: value for name, value in given.items() if keys[name] not in own}
        found = {k: given[name] for name, k in keys.items() if k in own}
        if "snapshots" in found:
            found["snapshots"] = _shares(found["snapshots"])
        return found | {"recipe": Recipe.gathered(rest, steps=STEPS)}


def _shares(given: Any) -> tuple[float, ...]:
    """Read shares as flags and YAML have them: one number, several with commas, or a list."""
    several = given.split(",") if isinstance(given, str) else given if isinstance(given, list | tuple) else [given]
    try:
        return tuple(float(share) for share in several)
    except (TypeError, ValueError):
        raise SettingsError(f"snapshots is {given!r}; expected numbers like 0.25,0.5.") from None


def rehearsal(settings: Settings) -> Settings:
    """Return runs of so few steps that nobody can ask them to be smooth."""
    return replace(settings, recipe=replace(settings.recipe, steps=REHEARSED_STEPS), accept_rough=True)


def rehearsal_background(settings: Settings) -> int:
    """Return whole batches for every run, since a step costs what its batch does."""
    return max(REHEARSED, num_runs(settings) * settings.recipe.batch_size)


units, plan = training_units, training_plan


def prepare(inputs: Inputs, settings: Settings) -> RunsScorer:
    """Train on the background and walk back from the target, or take both from the run; return the scorer.

    Raises CurateError where the training is too rough, unless that is accepted.
    """
    return BackgroundRuns(inputs, settings).scorer()
