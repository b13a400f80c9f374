"""Diagonal curvature: every weight's gradient divided by its own damped second moment over documents.

The crudest curvature, and the yardstick for what Kronecker factors add.
"""

from curate.curvature.diagonal import Diagonal, fit
from curate.gradients.direction_scoring import DirectionScorer
from curate.methods.contract import Inputs
from curate.methods.shared.directional import BACKGROUND as BACKGROUND
from curate.methods.shared.directional import NEEDS as NEEDS
from curate.methods.shared.directional import OFFERS as OFFERS
from curate.methods.shared.directional import CurvatureSettings, curved
from curate.settings import settings


@settings
class Settings(CurvatureSettings):
    """Damping and labels."""


def prepare(inputs: Inputs, settings: Settings) -> DirectionScorer:
    """Fit on the background, solve with the target's gradients, return the scorer along them."""
    return curved(inputs, "diagonal", settings, fit, Diagonal.of)
