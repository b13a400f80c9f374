"""Gradient dot product: ⟨∇φ, ∇ℓ_z⟩, one step of plain gradient descent (TracIn at one checkpoint).

Exact: nothing is projected. The document's loss is summed over its tokens, so long documents have large scores of
either sign unless `normalize` says otherwise.
"""

from curate.gradients.direction_scoring import DirectionScorer
from curate.methods.contract import Inputs
from curate.methods.shared.directional import OFFERS as OFFERS
from curate.methods.shared.directional import LinearSettings, counting, direction_scorer
from curate.settings import settings


@settings
class Settings(LinearSettings):
    """There is no curvature to set."""


def prepare(inputs: Inputs, settings: Settings) -> DirectionScorer:
    """Return a scorer along the target groups' mean gradients."""
    return direction_scorer(counting(inputs, settings), settings, depends_on={})
