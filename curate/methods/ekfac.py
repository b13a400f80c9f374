"""EK-FAC: exact gradients along the target's, solved once with an eigenvalue-corrected Kronecker curvature.

Grosse et al. 2023, arXiv 2308.03296. With `refine` the direction is improved against the exact damped Gauss-Newton
product, EK-FAC as preconditioner ('cg', or 'astra' after Wang et al. 2025, arXiv 2507.14740); scoring costs the same.
"""

from dataclasses import fields
from functools import partial
from typing import Literal

from curate import methods
from curate.curvature.ekfac import Ekfac, fit
from curate.curvature.refine import RefineSettings, passed_through, refine
from curate.errors import SettingsError
from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.directions import Directions
from curate.methods.contract import Inputs, Sizes
from curate.methods.shared.directional import BACKGROUND as BACKGROUND
from curate.methods.shared.directional import (
    DAMPING,
    CurvatureSettings,
    Damping,
    Solve,
    curvature_keys,
    curved,
    damping_option,
    direction_scorer,
    fitted,
)
from curate.methods.shared.directional import NEEDS as NEEDS
from curate.methods.shared.directional import OFFERS as OFFERS
from curate.settings import Count, Number, option, settings

# Refining inverts what the fit leaves out, too: with the fit's own damping it follows the noise of some hundred
# documents and predicts retraining worse with every round; with a hundred times as much, better
# (examples/magic/STUDY.md).
REFINED_DAMPING = 10.0


@settings
class Settings(CurvatureSettings):
    """Damping, labels, and whether and how far the direction is refined."""

    damping: Damping | None = damping_option("0.1; 10 with --refine")
    refine: Literal["none", "cg", "astra"] = option(default="none", help="Improve the direction against the curvature.")
    rounds: Count = option(default=2, help="Rounds of refinement.")
    refine_documents: Count = option(
        default=200, help="Background documents of cg's subset, and of each of astra's batches."
    )
    evaluation_documents: Count = option(
        default=100, help="Other background documents, on which the objective is measured and must fall."
    )
    step: Number = option(default=0.0, help="astra's step; 0: in each round the best one on the subset.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refinement()
        if self.all_parameters and self.refine != "none":
            raise SettingsError(
                f"refine is {self.refine!r} with all_parameters; the exact curvature is that of linear layers alone.",
                hint="Leave out --refine or --all-parameters.",
            )
        defaults = {f.name: f.default for f in fields(self) if f.name in methods.REFINEMENT}
        if self.refine == "none" and (changed := [n for n, default in defaults.items() if getattr(self, n) != default]):
            raise SettingsError(
                f"{changed[0]} is a setting of refinement, and refine is none.",
                hint="Add --refine cg or --refine astra.",
            )

    def _default_damping(self) -> float:
        return DAMPING if self.refine == "none" else REFINED_DAMPING

    def refinement(self) -> RefineSettings | None:
        """Return the refinement's own settings, checked."""
        if self.refine == "none":
            return None
        return RefineSettings(
            kind=self.refine,
            rounds=self.rounds,
            documents=self.refine_documents,
            evaluation=self.evaluation_documents,
            step=self.step or None,
            seed=self.seed,
        )


def units(inputs: Inputs, settings: Settings, whole: Sizes) -> dict[str, int | float]:
    """Return how many documents refinement passes through the model."""
    refinement = settings.refinement()
    return {} if refinement is None else {"refinement": passed_through(whole.background, refinement)}


def prepare(inputs: Inputs, settings: Settings) -> DirectionScorer:
    """Fit on the background, solve with the target's gradients, refine if set; return the scorer along the result."""
    refinement = settings.refinement()
    if refinement is None:
        return curved(inputs, "ekfac", settings, fit, Ekfac.of)
    keys = curvature_keys(inputs, "ekfac", settings) | {"refinement": refinement}
    solve = partial(_refined, inputs, settings, refinement)

    def open_fit() -> Solve:
        return _fitted(inputs, settings).solve

    return direction_scorer(inputs, settings, depends_on=keys, solve=solve, open_metric=open_fit, symmetric=False)


def _fitted(inputs: Inputs, settings: Settings) -> Ekfac:
    return Ekfac.of(fitted(inputs, "ekfac", settings, fit), damping=settings.decided_damping)


def _refined(inputs: Inputs, settings: Settings, refinement: RefineSettings, gradients: Directions) -> Directions:
    refined = refine(
        gradients,
        _fitted(inputs, settings),
        inputs.proxy,
        inputs.background(),
        inputs.batching,
        refinement,
        reporter=inputs.reporter,
    )
    return refined.directions
