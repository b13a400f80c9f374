"""K-FAC: gradients solved with a Kronecker product of the covariances of each layer's two sides.

Cheaper to fit than EK-FAC by one pass, and coarser: its eigenvalues assume that inputs and output gradients are
independent (Martens & Grosse 2015, arXiv 1503.05671).
"""

from curate.curvature.kfac import Kfac, fit
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
    return curved(inputs, "kfac", settings, fit, Kfac.of)
