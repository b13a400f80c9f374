"""Gradient dot product: ⟨∇φ, ∇ℓ_z⟩, one step of plain gradient descent (TracIn at one checkpoint).

The document's loss is summed over its tokens, so long documents have large scores of either sign.
"""

from dataclasses import dataclass

from curate.gradients.scoring import SketchScorer, group_means
from curate.gradients.sketches import SketchEngine
from curate.methods._contract import Inputs
from curate.methods._sketched import SketchSettings, target_sketches


@dataclass(frozen=True, kw_only=True)
class Settings(SketchSettings):
    """Gradient dot product needs nothing but its projection."""


def prepare(inputs: Inputs, settings: Settings) -> SketchScorer:
    """Return a scorer whose queries are the target groups' mean gradients."""
    engine = SketchEngine(inputs.proxy, dim=settings.dim, seed=settings.seed)
    target = target_sketches(engine, inputs, settings)
    queries = group_means(target.values, target.groups, inputs.target.names)
    return SketchScorer(engine=engine, queries=queries, whitening=None, unit=False)
