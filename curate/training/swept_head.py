"""A linear head with its cross-entropy, and their derivatives of first and second order, swept in blocks.

A block of tokens by a block of the vocabulary stays in the cache for all that is done to it. The first sweep over the
vocabulary leaves exponentials (and the logits' tangents); when their sums are known, the second one turns them into
gradients (and their tangents). Tokens that carry no loss are left out.

With p the probabilities and l′ the logits' tangent, a token's slope is ⟨p, l′⟩ - l′_y, its gradient p - 1_y, and the
gradient's tangent p ⊙ (l′ - ⟨p, l′⟩).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from curate.gradients.head import Head, less_labels, padded
from curate.gradients.linear import linear

# Tokens whose logits are held at a time, and rows of the vocabulary that are worked on at a time: in float32 a block of
# 1 MiB, which stays in the cache of a core. Other sizes were not measured.
TOKENS, ROWS = 512, 512
TOKENS_GPU, ROWS_GPU = 1024, 16384


@dataclass(frozen=True, kw_only=True)
class Tangents:
    """Tangents of what goes into a head; None for a weight or bias that is not trained."""

    last: Float[Tensor, "n d"]
    weight: Float[Tensor, "vocabulary d"] | None = None
    bias: Float[Tensor, "vocabulary"] | None = None


@dataclass(frozen=True, kw_only=True)
class HeadDerivatives:
    """A head's losses and derivatives, with tangents where those were given; 0 for tokens that carry no loss."""

    losses: Float[Tensor, "n"]
    slopes: Float[Tensor, "n"]
    """The losses' tangents."""
    by_last: Float[Tensor, "n d"]
    by_last_tangent: Float[Tensor, "n d"]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Where the gradient by weight and bias is added, or its tangent where tangents are given; None: nowhere."""

    weight: Float[Tensor, "vocabulary d"] | None = None
    bias: Float[Tensor, "vocabulary"] | None = None


@torch.no_grad()
def derivatives(
    head: Head,
    last: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    coefficients: Float[Tensor, "n"] | None = None,
    *,
    tangents: Tangents | None = None,
    totals: Totals | None = None,
) -> HeadDerivatives:
    """Return losses and (given coefficients) the derivatives of their weighted sum; labels below 0 carry no loss."""
    losses = torch.zeros(labels.shape, dtype=last.dtype, device=last.device)
    slopes, by_last = torch.zeros_like(losses), torch.zeros_like(last)
    by_last_tangent = by_last if tangents is None else torch.zeros_like(last)
    scored = (labels >= 0).nonzero().squeeze(-1)
    for positions in scored.split(TOKENS if last.device.type == "cpu" else TOKENS_GPU) if len(scored) else ():
        count, rows = len(positions), padded(positions)
        moved = None if tangents is None else tangents.last[rows]
        block = _Block(head, tangents, last[rows], moved, labels[rows])
        losses[positions], slopes[positions] = block.losses()[:count], block.slopes()[:count]
        if coefficients is None:
            continue
        weights = coefficients[rows]
        weights[count:] = 0
        value, tangent = block.pulled(weights, totals or Totals())
        by_last[positions] = value[:count]
        if tangent is not None:
            by_last_tangent[positions] = tangent[:count]
    return HeadDerivatives(losses=losses, slopes=slopes, by_last=by_last, by_last_tangent=by_last_tangent)


class _Block:
    """A block of tokens on its way through both sweeps."""

    def __init__(
        self, head: Head, tangents: Tangents | None, last: Tensor, moved: Tensor | None, labels: Int[Tensor, "n"]
    ) -> None:
        self.head, self.tangents, self.last, self.moved, self.labels = head, tangents, last, moved, labels
        self._pieces: list[tuple[slice, Tensor, Tensor, Tensor | None]] = []
        """By block of the vocabulary: its rows, exponentials above tangents, the reference, tanh where capped."""
        self._normaliser, self._mean = torch.zeros_like(last[:, :1]), torch.zeros_like(last[:, :1])
        self._sweep()

    def losses(self) -> Float[Tensor, "n"]:
        return (self._normaliser.log() + self._reference - self._of_labels()[0]).squeeze(1)

    def slopes(self) -> Float[Tensor, "n"]:
        return (self._mean - self._of_labels()[1]).squeeze(1)

    def pulled(self, weights: Float[Tensor, "n"], totals: Totals) -> tuple[Tensor, Tensor | None]:
        """Return the gradient by the hidden states and its tangent, and add to the totals: the second sweep."""
        count, dual = len(self.last), self.moved is not None
        outer = self.last if self.moved is None else torch.cat([self.moved, self.last])
        by_last = torch.zeros_like(outer)
        for rows, both in self._pulls(weights[:, None]):
            by_last += linear(both, self.head.weight[rows].T)
            if self.tangents is not None and self.tangents.weight is not None:
                by_last[count:] += linear(both[:count], self.tangents.weight[rows].T)
            if totals.weight is not None:
                totals.weight[rows].addmm_(both.T, outer)
            if totals.bias is not None:
                totals.bias[rows] += both[count if dual else 0 :].sum(0)
        return by_last[:count], by_last[count:] if dual else None

    def _sweep(self) -> None:
        """Leave exponentials and tangents, and their sums."""
        count, vocabulary = len(self.last), self.head.weight.shape[0]
        stacked = self.last if self.moved is None else torch.cat([self.last, self.moved])
        reference = torch.full_like(self._normaliser, -torch.inf)
        step = ROWS if self.last.device.type == "cpu" else ROWS_GPU
        for rows in (slice(start, min(vocabulary, start + step)) for start in range(0, vocabulary, step)):
            both = self._logits(stacked, rows)
            values, capped = both[:count], None
            if (cap := self.head.softcap) is not None:
                capped = values.div_(cap).tanh_().clone()
                values *= cap
                both[count:] *= 1 - capped.square() if self.moved is not None else 1
            higher = torch.maximum(reference, values.amax(-1, keepdim=True))
            falling, reference = (reference - higher).exp(), higher
            values.sub_(reference).exp_()
            self._normaliser = self._normaliser * falling + values.sum(-1, keepdim=True)
            if self.moved is not None:
                self._mean = self._mean * falling + torch.linalg.vecdot(values, both[count:])[:, None]
            self._pieces.append((rows, both, reference, capped))
        self._reference = reference
        self._mean = self._mean / self._normaliser

    def _logits(self, stacked: Tensor, rows: slice) -> Tensor:
        """Return logits above their tangents, before a cap."""
        head, tangents, count = self.head, self.tangents, len(self.last)
        both = linear(stacked, head.weight[rows])
        if head.bias is not None:
            both[:count] += head.bias[rows]
        if tangents is not None and tangents.weight is not None:
            both[count:] += linear(self.last, tangents.weight[rows])
        if tangents is not None and tangents.bias is not None:
            both[count:] += tangents.bias[rows]
        return both.mul_(head.scale) if head.scale != 1.0 else both

    def _of_labels(self) -> tuple[Tensor, Tensor]:
        """Return the labels' logits and their tangents, `[n, 1]`."""
        head, tangents, labels = self.head, self.tangents, self.labels
        value = (self.last * head.weight[labels]).sum(-1, keepdim=True)
        tangent = torch.zeros_like(value) if self.moved is None else (self.moved * head.weight[labels]).sum(-1, True)
        if head.bias is not None:
            value = value + head.bias[labels][:, None]
        if tangents is not None and tangents.weight is not None:
            tangent = tangent + (self.last * tangents.weight[labels]).sum(-1, keepdim=True)
        if tangents is not None and tangents.bias is not None:
            tangent = tangent + tangents.bias[labels][:, None]
        value, tangent = value * head.scale, tangent * head.scale
        if head.softcap is None:
            return value, tangent
        capped = torch.tanh(value / head.softcap)
        return capped * head.softcap, tangent * (1 - capped.square())

    def _pulls(self, weights: Float[Tensor, "n 1"]) -> Iterator[tuple[slice, Tensor]]:
        """Yield the gradient by each block of logits above its tangent, in the memory of what the first sweep left."""
        count, cap = len(self.last), self.head.softcap
        for rows, both, reference, capped in self._pieces:
            pull, tangent = both[:count], both[count:]
            pull *= (reference - self._reference).exp() * weights / self._normaliser
            bend = tangent * capped * (-2 / cap) if capped is not None and cap and len(tangent) else None
            if len(tangent):
                tangent.sub_(self._mean).mul_(pull)
            less_labels(pull, self.labels, rows, weights[:, 0])
            if capped is not None:
                slope = 1 - capped.square()
                if bend is not None:
                    tangent.mul_(slope).addcmul_(bend, pull)
                pull *= slope
            yield rows, both.mul_(self.head.scale) if self.head.scale != 1.0 else both
