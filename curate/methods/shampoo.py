"""Eigenvalue-corrected Shampoo: bases from whole documents' gradients, then eigenvalues as in EK-FAC.

L = E[D Dᵀ] and R = E[Dᵀ D] over per-document gradients D, so that batching cannot change them (Gupta et al. 2018, arXiv
1802.09568; corrected as by George et al. 2018, arXiv 1806.03884).
"""

from curate.curvature.shampoo import Shampoo, fit
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
    return curved(inputs, "shampoo", settings, fit, Shampoo.of)
