"""Embedding similarity: the mean of the proxy's last hidden states, compared with the target's by cosine.

A document's embedding is the mean of the last hidden states over all its positions, prompts included, weighted by
position: in a causal model the later states have read more (Ivison et al. 2025, arXiv 2503.01807). It is brought to
norm 1, and the score is its mean cosine with the target's documents. Forward passes alone. RDS+ as published takes the
largest cosine instead: that is the method `rds`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import CurateError
from curate.gradients.aggregation import Queries
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.gradients.scoring import normalised
from curate.methods.contract import EncodedTarget, Inputs
from curate.proxies.devices import products
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded, TokenBatch
from curate.settings import Flag, option, settings

OFFERS = frozenset({"against", "aggregate"})
NEEDS = frozenset({"model", "background"})


@settings
class Settings:
    """How hidden states become one vector."""

    pooling: Literal["weighted", "mean"] = option(
        default="weighted", help="weighted: position t counts t times, from 1; mean: all positions count alike."
    )
    # It reorders documents, but made the best 5 % of a mixed pool no purer, and costs a pass over the background: as
    # published, it is not subtracted.
    centre: Flag = option(default=False, help="Subtract the mean embedding of the background first.")


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """Turn documents into vectors of norm 1."""

    proxy: Proxy
    weighted: bool
    centre: Float[Tensor, "d"] | None = None

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Float[Tensor, "documents d"]:
        """Return every document's embedding, on the CPU; NaN where the model's states are not finite."""
        means = self.means(encoded, batching)
        return normalised(means if self.centre is None else means - self.centre)

    @torch.no_grad()
    def means(self, encoded: Sequence[Encoded], batching: Batching) -> Float[Tensor, "documents d"]:
        """Return every document's mean state before centring; its windows, wherever they are batched, add up."""
        # All positions count, so that windows of nothing but prompt are read, too.
        whole = [replace(e, scored=np.ones(len(e.ids), bool)) for e in encoded]
        sums, totals = torch.zeros(()), torch.zeros(len(encoded), dtype=torch.float64)

        def add_up(batch: TokenBatch) -> tuple[Tensor, Tensor]:
            lengths = [len(whole[i].ids) - start for i, start in zip(batch.documents, batch.starts, strict=True)]
            weights = self._weights(batch.ids.shape[1], lengths, batch.starts)
            with products(self.proxy.settings.precision):
                states = self.proxy.decoder(
                    input_ids=batch.to(self.proxy.device).ids, use_cache=False
                ).last_hidden_state
            states = states.to(torch.promote_types(states.dtype, torch.float32))
            return torch.einsum("st,std->sd", weights.to(states), states).cpu(), weights.sum(1)

        for batch, (weighted_sums, weights) in batching.run("embedding", whole, add_up):
            if sums.ndim == 0:
                sums = weighted_sums.new_zeros(len(encoded), weighted_sums.shape[1])
            sums.index_add_(0, torch.tensor(batch.documents), weighted_sums)
            totals.index_add_(0, torch.tensor(batch.documents), weights)
        return sums / totals.clamp_min(1).to(sums)[:, None]

    def _weights(self, width: int, lengths: Sequence[int], starts: Sequence[int]) -> Float[Tensor, "sequences tokens"]:
        """Return each position's weight: 0 for padding and the token that a window shares with the one before.

        `lengths` are the document's tokens from each sequence's start on."""
        position, start = torch.arange(width, dtype=torch.float64)[None], torch.tensor(starts)[:, None]
        counts = (position < torch.tensor(lengths)[:, None]) & ((position > 0) | (start == 0))
        return counts.double() * (position + start + 1 if self.weighted else 1.0)


@dataclass(frozen=True, kw_only=True)
class EmbeddingScorer:
    """Compare documents with a few queries."""

    embedder: Embedder
    queries: Queries

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's mean or largest cosine with each group's rows."""
        embeddings = self.embedder(encoded, batching) if encoded else self.queries.values[:0]
        return Scored(scores=self.queries.columns(embeddings @ self.queries.values.T))


def prepare(inputs: Inputs, settings: Settings) -> EmbeddingScorer:
    """Embed the target (and a control set), or read the embeddings kept in the run; return the scorer."""
    embedder = Embedder(proxy=inputs.proxy, weighted=settings.pooling == "weighted")
    if settings.centre:
        keys = _depends_on(inputs, settings) | {"background": inputs.background_fingerprint}
        tensors = inputs.kept.get("background/embedding", keys, lambda: {"mean": _background_mean(embedder, inputs)})
        embedder = replace(embedder, centre=tensors["mean"])
    values, groups = _rows(inputs.target, "target", embedder, inputs, settings)
    queries = inputs.aggregation.queries(values, groups, inputs.target.names)
    if inputs.against is not None:
        queries = queries.less(_rows(inputs.against, "control", embedder, inputs, settings)[0].mean(0))
    return EmbeddingScorer(embedder=embedder, queries=queries)


def _rows(
    target: EncodedTarget, name: str, embedder: Embedder, inputs: Inputs, settings: Settings
) -> tuple[Float[Tensor, "targets d"], list[str]]:
    """Return the rows' embeddings and groups; rows that are not finite are set aside."""
    keys = _depends_on(inputs, settings) | {"target": target.fingerprint}
    tensors = inputs.kept.get(
        "target/embeddings", keys, lambda: {"means": _means(embedder, inputs, target.encoded, "target")}
    )
    means = tensors["means"]
    values = normalised(means if embedder.centre is None else means - embedder.centre)
    finite = values.isfinite().all(1)
    if not bool(finite.all()):
        inputs.reporter.warn(f"{int((~finite).sum())} {name} row(s) set aside: their embedding is not finite.")
    groups = [g for g, ok in zip(target.groups, finite.tolist(), strict=True) if ok]
    if empty := sorted(set(target.names) - set(groups)):
        owner = f"the {name}'s group {empty[0]!r}" if len(target.names) > 1 else f"the {name}"
        raise CurateError(f"No row of {owner} has a finite embedding.", hint="Use --dtype float32.")
    return values[finite], groups


def _means(embedder: Embedder, inputs: Inputs, encoded: Sequence[Encoded], role: str) -> Float[Tensor, "documents d"]:
    with inputs.reporter.stage(role, total=len(encoded), grows=role) as stage:
        means = embedder.means(encoded, inputs.batching)
        stage.advance(len(encoded))
    return means


def _background_mean(embedder: Embedder, inputs: Inputs) -> Float[Tensor, "d"]:
    means = _means(embedder, inputs, inputs.background(), "background")
    finite = means.isfinite().all(1)
    if not bool(finite.any()):
        raise CurateError("No document of the background sample has a finite embedding.", hint="Use --dtype float32.")
    return means[finite].mean(0)


def _depends_on(inputs: Inputs, settings: Settings) -> dict[str, object]:
    return inputs.proxy_keys | {"pooling": settings.pooling}
