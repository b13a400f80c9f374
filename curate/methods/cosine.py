"""Gradient cosine: the dot product of gradients brought to norm 1, averaged over the target's documents."""

from dataclasses import dataclass

from curate.gradients.scoring import SketchScorer, group_means, prepare_sketches
from curate.gradients.sketches import SketchEngine
from curate.methods._contract import Inputs
from curate.methods._sketched import SketchSettings, target_sketches


@dataclass(frozen=True, kw_only=True)
class Settings(SketchSettings):
    """Gradient cosine needs nothing but its projection."""


def prepare(inputs: Inputs, settings: Settings) -> SketchScorer:
    """Return a scorer whose queries are means of the target documents' gradient directions."""
    engine = SketchEngine(inputs.proxy, dim=settings.dim, seed=settings.seed)
    target = target_sketches(engine, inputs, settings)
    ready = prepare_sketches(target.values, engine.blocks, None, unit=True)
    queries = group_means(ready, target.groups, inputs.target.names)
    return SketchScorer(engine=engine, queries=queries, whitening=None, unit=True)
