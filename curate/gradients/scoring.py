"""Scores from sketches: the scorer that all sketch methods share, and the queries that they hand it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.documents import Batching, document_sketches
from curate.gradients.low_rank import truncated
from curate.gradients.roots import Whitening, whiten
from curate.gradients.scored import Scored
from curate.gradients.sketches import Block, SketchEngine
from curate.proxies.tokens import Encoded


@dataclass(frozen=True, kw_only=True)
class SketchScorer:
    """Score documents by the product of their (whitened, normalised) sketches with a few queries."""

    engine: SketchEngine
    queries: Float[Tensor, "columns sketch"]
    """Target sketches, treated as documents are and averaged."""
    whitening: Whitening | None
    unit: bool
    """Whether a document's sketch is brought to norm 1 after whitening."""
    rank: int = 0
    """Of the approximation that stands for each layer of a document's sketch; 0: it is whole, as queries always are."""

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's scores; no document's result depends on the others."""
        scores = torch.zeros(len(encoded), len(self.queries), dtype=self.queries.dtype)
        losses, norms = torch.zeros(len(encoded)), torch.zeros(len(encoded))
        for found in document_sketches(self.engine, encoded, batching):
            index = torch.tensor(found.documents)
            losses[index] = found.losses.to(losses)
            norms[index] = found.values.norm(dim=1).to(norms)
            values = truncated(found.values, self.engine.blocks, self.rank)
            ready = prepare_sketches(values, self.engine.blocks, self.whitening, unit=self.unit)
            scores[index] = (ready @ self.queries.T).to(scores)
            scores[index[~norms[index].isfinite()]] = torch.nan  # an overflow on the way to norm 1 would hide it
        return Scored(scores=scores, losses=losses, norms=norms)


def prepare_sketches(
    values: Float[Tensor, "documents sketch"],
    blocks: Sequence[Block],
    whitening: Whitening | None,
    *,
    unit: bool,
) -> Float[Tensor, "documents sketch"]:
    """Whiten sketches layer by layer, then bring them to norm 1 over all layers (TrackStar's order, §3)."""
    if whitening is not None:
        values = torch.cat([whiten(values[:, b.start : b.stop], whitening[b.name]) for b in blocks], 1)
    if not unit:
        return values
    # A gradient of exactly zero has no direction: it stays zero, and so does its score.
    norms = values.norm(dim=1, keepdim=True)
    return values / norms.where(norms != 0, torch.ones_like(norms))


def group_means(
    values: Float[Tensor, "targets sketch"], groups: Sequence[str], names: Sequence[str]
) -> Float[Tensor, "columns sketch"]:
    """Return the mean over all target documents, then the mean of each group when there are several."""
    rows = [values.mean(0)]
    if len(names) > 1:
        rows += [values[[i for i, g in enumerate(groups) if g == name]].mean(0) for name in names]
    return torch.stack(rows)
