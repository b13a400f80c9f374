"""Features: every document's whole gradient as one vector, corrected entry by entry, then projected.

A correction that is not linear, as Adam's is, needs each document's gradient itself. So the gradients of a group of
documents are there at a time (of LoRA's factors they are small), and forgotten once they are projected.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.documents import Batching
from curate.gradients.frozen import FrozenPass
from curate.gradients.linear import by_sequence, tapped, with_ones
from curate.gradients.whole_projections import WholeProjection
from curate.proxies.devices import sent
from curate.proxies.experts import Rows
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded, TokenBatch

GROUP_BYTES = 1 << 28
"""Of the whole gradients that exist at a time, or one document's where that is more; a batch's come on top."""

Correction = Callable[[Float[Tensor, "documents entries"]], Float[Tensor, "documents entries"]]
"""Changes whole gradients entry by entry; it may write over what it gets."""


@dataclass(frozen=True, kw_only=True)
class DocumentFeatures:
    """Features of some of the documents that were handed in."""

    documents: tuple[int, ...]
    """Their positions in the sequence that was handed in."""
    values: Float[Tensor, "documents dim"]
    """Corrected gradients of the mean loss per scored token, projected; not brought to norm 1."""
    losses: Float[Tensor, "documents"]
    """Loss summed over scored tokens, in nats."""
    norms: Float[Tensor, "documents"]
    """Of the gradients of the summed loss, before the correction."""


class FeatureEngine:
    """Compute features of documents for one proxy.

    A gradient's entries are those of the tracked layers in the model's order, each `[d_out, d_in]` (and the bias as
    one column more) row by row.
    """

    def __init__(self, proxy: Proxy, projection: WholeProjection) -> None:
        self.proxy, self.projection, self.frozen = proxy, projection, FrozenPass(proxy)
        self.places, self.width = _places(proxy)

    @property
    def dtype(self) -> torch.dtype:
        """The type of gradients and features."""
        return torch.promote_types(self.proxy.dtype, torch.float32)

    @property
    def gradient_bytes(self) -> int:
        """Of one document's whole gradient."""
        return self.width * self.dtype.itemsize

    @property
    def group(self) -> int:
        """How many documents' whole gradients exist at a time."""
        return max(1, GROUP_BYTES // self.gradient_bytes)

    def __call__(
        self, encoded: Sequence[Encoded], batching: Batching, correction: Correction | None = None
    ) -> Iterator[DocumentFeatures]:
        """Yield the features of every document, a group at a time, shortest first; each has a scored token."""
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i].ids), i))
        for start in range(0, len(order), self.group):
            documents = order[start : start + self.group]
            yield self._features({i: encoded[i] for i in documents}, batching, correction)

    def _features(
        self, encoded: Mapping[int, Encoded], batching: Batching, correction: Correction | None
    ) -> DocumentFeatures:
        device = self.proxy.device
        places = {document: place for place, document in enumerate(encoded)}
        gradients = torch.zeros(len(encoded), self.width, dtype=self.dtype, device=device)
        losses = torch.zeros(len(encoded), dtype=self.dtype, device=device)
        for batch, (values, batch_losses) in batching.run("features", encoded, self._gradients):
            index = sent(torch.tensor([places[i] for i in batch.documents]), device)
            gradients.index_add_(0, index, values)  # a document may have several windows
            losses.index_add_(0, index, batch_losses.to(losses))
            del values
        norms = gradients.norm(dim=1)
        counts = sent(torch.tensor([e.num_scored for e in encoded.values()]), device)
        gradients /= counts[:, None]
        corrected = gradients if correction is None else correction(gradients)
        return DocumentFeatures(documents=tuple(encoded), values=self.projection(corrected), losses=losses, norms=norms)

    def _gradients(self, batch: TokenBatch) -> tuple[Float[Tensor, "sequences entries"], Float[Tensor, "sequences"]]:
        """Return each sequence's whole gradient of the summed loss, and that loss."""
        values = torch.zeros(len(batch), self.width, dtype=self.dtype, device=self.proxy.device)

        def make_tap(name: str) -> "_WholeTap | None":
            if name not in self.places:
                return None
            return _WholeTap(values[:, self.places[name]], self.proxy.shape(name)[2], batch.ids.shape)

        with tapped(self.proxy.linears, make_tap):
            losses = self.frozen.backward(batch)
        return values, losses


def flattened(proxy: Proxy, matrices: Mapping[str, Float[Tensor, "_ _"]]) -> Float[Tensor, "entries"]:
    """Return matrices `[d_out, d_in]`, biases as a last column, of all tracked layers as one vector."""
    return torch.cat([matrices[name].flatten() for name in proxy.tracked])


def _places(proxy: Proxy) -> tuple[dict[str, slice], int]:
    places, start = dict[str, slice](), 0
    for name in proxy.tracked:
        d_out, d_in, has_bias = proxy.shape(name)
        stop = start + d_out * (d_in + has_bias)
        places[name], start = slice(start, stop), stop
    return places, start


class _WholeTap:
    """Keep the inputs in the forward pass; add GᵀA to the layer's entries in the backward pass."""

    def __init__(self, values: Float[Tensor, "sequences entries"], biased: bool, shape: torch.Size) -> None:
        self.values, self.biased, self.shape = values, biased, shape

    def forward(self, inputs: Tensor, rows: Rows | None = None) -> tuple[Tensor, int]:
        return inputs, inputs._version

    def backward(self, kept: tuple[Tensor, int], output_gradients: Tensor, rows: Rows | None = None) -> None:
        inputs, version = kept
        if inputs._version != version:
            raise AssertionError("the model writes over the inputs of a layer")
        a, g = (by_sequence(x, self.shape, rows).to(self.values.dtype) for x in (inputs, output_gradients))
        if self.biased:
            a = with_ones(a)
        self.values += (g.transpose(1, 2) @ a).flatten(1)
