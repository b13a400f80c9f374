"""MAGIC: the adjoint of a training run on background documents, at steps on its way.

Ilyas & Engstrom 2025, arXiv 2504.16430. A proxy is trained on a sample of the pool, and the target's loss after that
training is differentiated back to a few steps. A document's score is what a little weight on it there would have
changed: the mean of ⟨-∂φ/∂g_k, ∇ℓ_z(θ_k)⟩ / D_k over these steps k. Their directions are added up for one pass over the
pool, with the parameters of the earliest.
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from curate.errors import SettingsError
from curate.methods.contract import REHEARSED, Inputs
from curate.methods.shared.background_plan import training_plan, training_units
from curate.methods.shared.background_runs import BackgroundRuns
from curate.methods.shared.directional import DirectionSettings, counting
from curate.methods.shared.runs_scorer import RunsScorer
from curate.settings import Count, Flag, Listed, Number, least, option, settings
from curate.training.recipe import Rates, Recipe, rates_option, refuse_unchecked

OFFERS = frozenset({"against", "per_token"})
NEEDS = frozenset({"model", "background", "training"})
# Measured in examples/magic/STUDY.md by how well scores rank 60 retrainings: one run with two snapshots, where the rate
# is highest and in the middle, gives .866, within noise of eight snapshots (.875); one gives .83 at best, and the mean
# of two runs adds .01 to a single snapshot.
BACKGROUND = 768
STEPS = 36
SNAPSHOTS = (0.25, 0.5)
# Scores along directions from a quarter of each step's documents rank as those along exact ones do (STUDY.md there).
CURVATURE_SHARE = 4
REHEARSED_STEPS = 2
CHECK = 3


@settings
class Settings(DirectionSettings):
    """The training runs that are differentiated, and at which steps."""

    recipe: Recipe = option(
        factory=lambda: Recipe(steps=STEPS),
        help="YAML file of the training run; --set gives its settings by name.",
        metavar="FILE",
    )
    # A single run scores its own documents, too: a second one agrees with it on these as well as on any others (rank
    # correlation .86 and .88), they lose two hundredths of the ranks, and it would be half of the preparation
    # (examples/magic/STUDY.md).
    runs: Annotated[Count, least(1)] = option(
        default=1,
        help="Training runs that the background is dealt out to; their scores are averaged, of a background document"
        " those by the runs that did not train on it. Each takes a pass over the pool.",
    )
    snapshots: Annotated[tuple[Annotated[Number, Field(ge=0, lt=1)], ...], Listed] = option(
        default=SNAPSHOTS,
        help="Steps at which documents are scored, as shares of the run; their scores are averaged: 0.25,0.5.",
    )
    passes: Literal["one", "each"] | None = option(
        default=None,
        help="'one' pass over the pool for all snapshots of a run, with the parameters of the earliest, or one for"
        " 'each', with its own.",
        shown="one; each with adapters",
    )
    curvature_share: Annotated[Count, least(1)] = option(
        default=CURVATURE_SHARE,
        help="Documents of a step, of which one gives the way back its curvature; 1: every one, which is exact.",
    )
    accept_rough: Flag = option(
        default=False, help="Go on even where the training run is too rough to trust its derivatives."
    )
    checkpoints: Literal["sqrt", "all", "log"] = option(
        default="sqrt", help="States that the run keeps for the way back."
    )
    check: Annotated[Count, least(0)] = option(
        default=CHECK,
        help="Retrainings of the first run without 5 % of its documents, against what their scores predict; 0: none.",
    )
    rates: Rates = rates_option()

    def __post_init__(self) -> None:
        if not self.snapshots:
            raise SettingsError("snapshots is empty; expected shares of the run, each at least 0 and below 1.")
        refuse_unchecked(self.rates, self.check)


def rehearsal(settings: Settings) -> Settings:
    """Return settings with few steps, whose roughness is accepted, of one rate and with at most one retraining."""
    recipe = replace(settings.recipe, steps=REHEARSED_STEPS)
    return replace(settings, recipe=recipe, accept_rough=True, check=min(1, settings.check), rates=())


def rehearsal_background(settings: Settings) -> int:
    """Return whole batches for every run, since a step costs what its batch does."""
    return max(REHEARSED, settings.runs * settings.recipe.batch_size)


units, plan = training_units, training_plan


def prepare(inputs: Inputs, settings: Settings) -> RunsScorer:
    """Train on the background and walk back from the target, or read what the run keeps of both; return the scorer.

    Raises CurateError where the training is too rough, unless that is accepted.
    """
    if settings.all_parameters and settings.recipe.lora_rank:
        raise SettingsError(
            "all_parameters is set, but with lora_rank only adapters are trained.",
            hint="Leave out --all-parameters, or --set lora_rank=0.",
        )
    return BackgroundRuns(counting(inputs, settings), settings).scorer()
