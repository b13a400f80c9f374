"""Sketches of low rank: a layer's part of a document's sketch as the two factors of its best rank-r approximation.

A document's gradient is a sum over few tokens, and most of a layer's part of it lies in its first singular vectors. A
matrix `[rows, columns]` of rank r is r·(rows + columns) numbers, so that a wide projection held at rank 2 takes no more
room than a narrow one held whole, and keeps far more of the gradient (Eckart and Young 1936 for the optimum).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from curate.gradients.sketches import Block

# Rounds of subspace iteration, and columns beyond the rank that it carries: the energy kept is within a per cent of the
# optimum for flat spectra, too (Halko et al. 2011, §4.5 and §9.3).
_ROUNDS, _SPARE = 4, 10
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a layer's part lies in a packed sketch: `rank` left vectors, then as many right ones, or all of it."""

    block: Block
    start: int
    rank: int
    """0: the part is whole."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of each of its sections: left and right vectors, or all."""
        rows, columns = self.block.rows, self.block.columns
        return (self.rank * rows, self.rank * columns) if self.rank else (rows * columns,)

    @property
    def middle(self) -> int:
        """The column where its right vectors begin."""
        return self.start + self.sizes[0]

    @property
    def stop(self) -> int:
        return self.start + sum(self.sizes)


class Packing:
    """Pack sketches, in which every layer that gains by it becomes two factors, and unpack them.

    A layer gains when r·(rows + columns) < rows·columns; any other stays whole, as all do at rank 0.
    """

    def __init__(self, blocks: Sequence[Block], rank: int) -> None:
        self.places: list[Place] = []
        start = 0
        for block in blocks:
            gains = rank * (block.rows + block.columns) < block.rows * block.columns
            self.places.append(Place(block=block, start=start, rank=rank if gains else 0))
            start = self.places[-1].stop
        self.width = start
        self.is_whole = not any(p.rank for p in self.places)

    def pack(self, values: Float[Tensor, "documents sketch"]) -> Float[Tensor, "documents packed"]:
        """Return packed sketches; a layer's part that is not finite has factors of zero."""
        if self.is_whole:
            return values
        packed = values.new_empty(len(values), self.width)
        by_shape: dict[tuple[int, int], list[Place]] = {}
        for place in self.places:
            if place.rank:
                by_shape.setdefault((place.block.rows, place.block.columns), []).append(place)
            else:
                packed[:, place.start : place.stop] = values[:, place.block.start : place.block.stop]
        for (rows, columns), places in by_shape.items():
            # Layers of one shape together: so few numbers each would be all overhead.
            parts = torch.stack([values[:, p.block.start : p.block.stop] for p in places], 1)
            left, right = factors(parts.view(-1, rows, columns), places[0].rank)
            vectors = torch.cat([left.flatten(1), right.flatten(1)], 1)
            vectors = vectors.view(len(values), len(places), sum(places[0].sizes))
            for i, place in enumerate(places):
                packed[:, place.start : place.stop] = vectors[:, i]
        return packed

    def layer(self, packed: Float[Tensor, "documents packed"], place: Place) -> Float[Tensor, "documents entries"]:
        """Return one layer's part of sketches."""
        if not place.rank:
            return packed[:, place.start : place.stop]
        left, right = self.sides(packed, place)
        return (left.transpose(1, 2) @ right).flatten(1)

    def sides(
        self, packed: Float[Tensor, "documents packed"], place: Place
    ) -> tuple[Float[Tensor, "documents rank rows"], Float[Tensor, "documents rank columns"]]:
        """Return the factors of a layer that has them."""
        left, right = packed[:, place.start : place.middle], packed[:, place.middle : place.stop]
        return left.unflatten(1, (place.rank, -1)), right.unflatten(1, (place.rank, -1))

    def unpack(self, packed: Float[Tensor, "documents packed"]) -> Float[Tensor, "documents sketch"]:
        """Return whole sketches."""
        return packed if self.is_whole else torch.cat([self.layer(packed, p) for p in self.places], 1)


def truncated(
    values: Float[Tensor, "documents sketch"], blocks: Sequence[Block], rank: int
) -> Float[Tensor, "documents sketch"]:
    """Return sketches whose layers are replaced by their best rank-r approximations where that is smaller.

    Documents that are not finite come back as they are.
    """
    packing = Packing(blocks, rank)
    if packing.is_whole:
        return values
    return torch.where(values.isfinite().all(1, keepdim=True), packing.unpack(packing.pack(values)), values)


def factors(
    matrices: Float[Tensor, "n rows columns"], rank: int
) -> tuple[Float[Tensor, "n rank rows"], Float[Tensor, "n rank columns"]]:
    """Return u and v: Σ_k u_k v_kᵀ is the best approximation of each matrix of this rank, ‖u_k‖ = ‖v_k‖, largest first.

    By subspace iteration from a fixed start, each matrix for itself. What is not finite counts as zero.
    """
    if matrices.shape[1] > matrices.shape[2]:
        right, left = factors(matrices.transpose(1, 2), rank)
        return left, right
    sizes = matrices.abs().amax((1, 2), keepdim=True)
    usable = sizes.isfinite() & (sizes > 0)
    sizes = torch.where(usable, sizes, torch.ones_like(sizes))
    # At a largest entry of 1, no square on the way overflows or vanishes.
    matrices = torch.where(usable, matrices / sizes, torch.zeros_like(matrices))
    basis = _leading(matrices, rank)
    images = matrices.transpose(1, 2) @ basis
    strengths = images.norm(dim=1, keepdim=True)
    balance = torch.where(strengths > 0, strengths, torch.ones_like(strengths)).sqrt()
    roots = sizes.sqrt()
    return (basis * (strengths / balance) * roots).transpose(1, 2), (images / balance * roots).transpose(1, 2)


def _leading(matrices: Float[Tensor, "n rows columns"], rank: int) -> Float[Tensor, "n rows rank"]:
    """Return the first left singular vectors, nearly: subspace iteration, then Rayleigh-Ritz."""
    width = min(rank + _SPARE, matrices.shape[1])
    generator = torch.Generator().manual_seed(_SEED)
    start = torch.randn(matrices.shape[2], width, generator=generator, dtype=torch.float64).to(matrices)
    basis = torch.linalg.qr(matrices @ start).Q
    for _ in range(_ROUNDS if width < matrices.shape[1] else 0):
        basis = torch.linalg.qr(matrices @ (matrices.transpose(1, 2) @ basis)).Q
    # Squares of singular values need twice their digits; on the CPU, which alone has float64 everywhere.
    small = (basis.transpose(1, 2) @ matrices).cpu().double()
    turn = torch.linalg.eigh(small @ small.transpose(1, 2)).eigenvectors[:, :, -rank:].flip(2)
    return basis @ turn.to(basis)
