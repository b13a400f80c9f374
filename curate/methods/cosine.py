"""Gradient cosine: the dot product of gradients brought to norm 1, averaged over the target's documents."""

from functools import partial

from curate.gradients.scoring import SketchScorer, SketchTerm, prepare_sketches
from curate.gradients.sketches import SketchEngine
from curate.methods.contract import Inputs
from curate.methods.shared.sketched import OFFERS as OFFERS
from curate.methods.shared.sketched import SketchSettings, queries, target_sketches
from curate.methods.trackstar import STORE as STORE
from curate.settings import settings


@settings
class Settings(SketchSettings):
    """The projection's settings."""


def prepare(inputs: Inputs, settings: Settings) -> SketchScorer:
    """Return a scorer whose queries are means of the target documents' gradient directions."""
    engine = SketchEngine(inputs.proxy, dim=settings.dim, seed=settings.seed)
    target = target_sketches(engine, inputs, settings)
    prepared = partial(prepare_sketches, blocks=engine.blocks, whitening=None, unit=True)
    of_target = queries(engine, inputs, settings, target, prepared)
    return SketchScorer(terms=[SketchTerm(engine=engine, queries=of_target)], unit=True, rank=settings.rank)
