"""From token batches back to documents: one sketch per document, whatever batches and windows it is spread over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.frozen import FrozenPass
from curate.gradients.sketches import SketchEngine
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded, TokenSettings, batches

DEFAULT_BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}
# On a CPU a larger model's products are as fast with few tokens, in a third of the memory; a small one's are not.
LARGE, LARGE_BATCH_TOKENS = 50_000_000, 512


def default_budget(proxy: Proxy) -> int:
    """Return the default number of tokens of a batch, by device and size of the model."""
    if proxy.device.type == "cpu" and proxy.coverage.total > LARGE:
        return LARGE_BATCH_TOKENS
    return DEFAULT_BATCH_TOKENS[proxy.device.type]


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How documents are cut and grouped on their way through the proxy."""

    tokens: TokenSettings
    budget: int
    """Tokens of one batch, padding included."""


@dataclass(frozen=True, kw_only=True)
class DocumentSketches:
    """Sketches of some of the documents that were handed in."""

    documents: tuple[int, ...]
    """Their positions in the sequence that was handed in."""
    values: Float[Tensor, "documents sketch"]
    """Gradients of the loss summed over scored tokens, projected."""
    losses: Float[Tensor, "documents"]
    """Loss summed over scored tokens, in nats."""


def document_sketches(
    engine: SketchEngine, encoded: Sequence[Encoded], batching: Batching
) -> Iterator[DocumentSketches]:
    """Yield the sketches of every document, a batch at a time, shortest first.

    A document of several windows comes alone. Its sketch is the sum of its windows' sketches, as its gradient is.
    """
    short = {i: e for i, e in enumerate(encoded) if len(e.ids) <= batching.tokens.context}
    for batch in batches(short, batching.tokens, budget=batching.budget):
        sketches = engine(batch)
        yield DocumentSketches(documents=batch.documents, values=sketches.values, losses=sketches.losses)
    for i, document in enumerate(encoded):
        if i in short:
            continue
        values, losses = torch.zeros(()), torch.zeros(())
        for batch in batches({i: document}, batching.tokens, budget=batching.budget):
            part = engine(batch)  # added up at once: a whole book's windows side by side would be gigabytes
            values, losses = part.values.sum(0) + values.to(part.values), part.losses.sum() + losses.to(part.losses)
        yield DocumentSketches(documents=(i,), values=values[None], losses=losses[None])


def document_losses(frozen: FrozenPass, encoded: Sequence[Encoded], batching: Batching) -> Float[Tensor, "documents"]:
    """Return every document's loss summed over scored tokens and windows, in nats and float64, without a gradient."""
    losses = torch.zeros(len(encoded), dtype=torch.float64)
    for batch in batches(encoded, batching.tokens, budget=batching.budget):
        losses.index_add_(0, torch.tensor(batch.documents), frozen.losses(batch).sum(-1).cpu().double())
    return losses
