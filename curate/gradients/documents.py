"""From token batches back to documents: one sketch per document, whatever batches and windows it is spread over."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.frozen import FrozenPass
from curate.gradients.sketches import SketchEngine
from curate.proxies.proxy import Proxy
from curate.proxies.room import Room
from curate.proxies.tokens import Encoded, TokenBatch, TokenSettings, batches

R = TypeVar("R")

CPU_TOKENS = 2048
# On a CPU a larger model's products are as fast with few tokens, in a third of the memory; a small one's are not.
LARGE, LARGE_CPU_TOKENS = 50_000_000, 512
# More make no GPU faster.
MOST_GPU_TOKENS = {"mps": 8192, "cuda": 32768}


def make_room(proxy: Proxy, batch_tokens: int | None, note: Callable[[str], None] | None = None) -> Room:
    """Return a room of that many tokens a batch; None: by size of the model on a CPU, by what fits on a GPU."""
    device = proxy.device
    if batch_tokens is not None:
        return Room(batch_tokens, device=device, note=note)
    if device.type == "cpu":
        return Room(LARGE_CPU_TOKENS if proxy.coverage.total > LARGE else CPU_TOKENS, device=device, note=note)
    return Room(MOST_GPU_TOKENS[device.type], device=device, learns=True, note=note)


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How documents are cut and grouped on their way through the proxy."""

    tokens: TokenSettings
    room: Room
    """How many tokens a batch has."""

    def batches(self, work: str, encoded: Mapping[int, Encoded] | Sequence[Encoded]) -> Iterator[TokenBatch]:
        """Yield batches as large as the room has it for this kind of work, shortest sequences first."""
        return batches(encoded, self.tokens, budget=lambda: self.room.tokens(work))

    def run(
        self, work: str, encoded: Mapping[int, Encoded] | Sequence[Encoded], step: Callable[[TokenBatch], R]
    ) -> Iterator[tuple[TokenBatch, R]]:
        """Yield each batch with what `step` returns for it; see `Room.run`."""
        return self.room.run(work, self.batches(work, encoded), step)


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
    for batch, sketches in batching.run("sketches", short, engine):
        yield DocumentSketches(documents=batch.documents, values=sketches.values, losses=sketches.losses)
    for i, document in enumerate(encoded):
        if i in short:
            continue
        values, losses = torch.zeros(()), torch.zeros(())
        # Added up at once: a whole book's windows side by side would be gigabytes.
        for _, part in batching.run("sketches", {i: document}, engine):
            values, losses = part.values.sum(0) + values.to(part.values), part.losses.sum() + losses.to(part.losses)
        yield DocumentSketches(documents=(i,), values=values[None], losses=losses[None])


def document_losses(frozen: FrozenPass, encoded: Sequence[Encoded], batching: Batching) -> Float[Tensor, "documents"]:
    """Return every document's loss summed over scored tokens and windows, in nats and float64, without a gradient."""
    losses = torch.zeros(len(encoded), dtype=torch.float64)
    for batch, token_losses in batching.run("losses", encoded, frozen.losses):
        losses.index_add_(0, torch.tensor(batch.documents), token_losses.sum(-1).cpu().double())
    return losses
