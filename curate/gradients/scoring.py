"""Scores from sketches: the scorer that all sketch methods share, and the queries that they hand it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.aggregation import Queries
from curate.gradients.documents import Batching, DocumentSketches, document_sketches
from curate.gradients.low_rank import truncated
from curate.gradients.roots import Whitening, whiten
from curate.gradients.scored import Scored, StoredQueries
from curate.gradients.sketches import Block, SketchEngine
from curate.proxies.devices import fetched
from curate.proxies.tokens import Encoded


@dataclass(frozen=True, kw_only=True)
class SketchTerm:
    """One engine's part of a score: the proxy's, or one checkpoint's."""

    engine: SketchEngine
    queries: Queries
    """Target sketches, treated as documents are."""
    whitening: Whitening | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SketchScorer:
    """Score documents by the products of their (whitened, normalised) sketches with a few queries."""

    terms: Sequence[SketchTerm]
    """Their weighted products add up. Loss and norm are those of the last."""
    unit: bool
    """Whether a document's sketch is brought to norm 1 after whitening."""
    rank: int = 0
    """Rank of each layer of a document's sketch; 0: whole, as queries always are."""

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's scores; no document's result depends on the others."""
        queries = self.terms[0].queries
        scores = torch.zeros(len(encoded), len(queries.values), dtype=queries.values.dtype)
        losses, norms = torch.zeros(len(encoded)), torch.zeros(len(encoded))
        for term in self.terms:
            for sketches in document_sketches(term.engine, encoded, batching):
                index = torch.tensor(sketches.documents)
                products, (of_term, their_norms) = fetched(*self._diagnosed(term, sketches))
                scores[index] += products.to(scores)
                losses[index], norms[index] = of_term.to(losses), their_norms.to(norms)
        return Scored(scores=queries.columns(scores), losses=losses, norms=norms)

    def stored(self) -> StoredQueries:
        """Return what gives these scores from stored sketches, for a scorer of one term."""
        (term,) = self.terms
        return StoredQueries(
            values=term.queries.values,
            scored=lambda products: Scored(scores=term.queries.columns(products)),
            whitening=term.whitening,
            unit=self.unit,
        )

    def _diagnosed(self, term: SketchTerm, sketches: DocumentSketches) -> tuple[Tensor, Tensor, Tensor]:
        products, norms = self.products(term, sketches.values)
        return products, sketches.losses, norms

    def products(
        self, term: SketchTerm, values: Float[Tensor, "documents sketch"]
    ) -> tuple[Float[Tensor, "documents queries"], Float[Tensor, "documents"]]:
        """Return one term of the scores of sketches, and their norms; NaN where a norm is not finite."""
        norms = values.norm(dim=1).float()  # norms are kept in float32: one that overflows there is not finite
        prepared = prepare_sketches(
            truncated(values, term.engine.blocks, self.rank), term.engine.blocks, term.whitening, unit=self.unit
        )
        products = term.weight * (prepared @ term.queries.values.T)
        products.masked_fill_(~norms.isfinite()[:, None], torch.nan)  # dividing by the norm would hide an overflow
        return products, norms


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
    return normalised(values) if unit else values


def normalised(values: Float[Tensor, "documents d"]) -> Float[Tensor, "documents d"]:
    """Bring vectors to norm 1. One of exactly zero has no direction: it stays zero, and so does its score."""
    norms = values.norm(dim=1, keepdim=True)
    return values / norms.where(norms != 0, torch.ones_like(norms))
