"""Random projections of a whole gradient, all layers in one vector, that are the same on every device and day.

Both have `E⟨Px, Py⟩ = ⟨x, y⟩` and are drawn piece by piece from Philox, a counter-based generator, keyed by seed and
piece: nothing the size of the whole matrix ever exists.
"""

import hashlib
import math
from functools import cache
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import SettingsError

Kind = Literal["hadamard", "signs"]
_SIDE = 256
PIECE = _SIDE * _SIDE
"""Entries that the Hadamard transform mixes at a time."""
_ROWS = 4096
"""Rows of the matrix of signs that exist at a time."""


@runtime_checkable
class WholeProjection(Protocol):
    """Project vectors of any length to `dim` numbers."""

    dim: int

    def __call__(self, values: Float[Tensor, "documents entries"]) -> Float[Tensor, "documents dim"]: ...


def whole_projection(kind: Kind, dim: int, seed: int) -> WholeProjection:
    """Return a projection to `dim` numbers. Raises SettingsError for a size that the kind does not have."""
    return Hadamard(dim, seed) if kind == "hadamard" else Signs(dim, seed)


class Signs:
    """Multiply by a matrix of independent signs ±1/√dim: the projection of LESS' released code, at its full price.

    It takes entries × dim products a document, and draws as many signs for every group of documents.
    """

    def __init__(self, dim: int, seed: int) -> None:
        self.dim, self.seed = dim, seed

    def __call__(self, values: Float[Tensor, "documents entries"]) -> Float[Tensor, "documents dim"]:
        result = values.new_zeros(len(values), self.dim)
        for piece, rows in enumerate(values.split(_ROWS, dim=1)):
            words = _signs(f"signs\0{self.seed}\0{piece}", rows.shape[1] * self.dim)
            matrix = torch.from_numpy(words).to(device=values.device, dtype=values.dtype)
            result.addmm_(rows, matrix.view(rows.shape[1], self.dim))
        return result / math.sqrt(self.dim)


class Hadamard:
    """Flip signs at random, mix by a Hadamard transform, flip again and add up what falls on the same place.

    As good as independent signs for the products of vectors, at a hundredth of their price: the fast
    Johnson-Lindenstrauss transform (Ailon and Chazelle 2009) with the last step of Charikar et al. 2002 in place of a
    draw of rows, so that no entry is thrown away.
    """

    def __init__(self, dim: int, seed: int) -> None:
        if dim > PIECE or dim & (dim - 1):
            raise SettingsError(
                f"dim is {dim}; expected a power of 2, at most {PIECE}, for the Hadamard projection.",
                hint="Use 8192, or --set projection=signs for any number.",
            )
        self.dim, self.seed = dim, seed
        self._drawn: dict[tuple[str, int, torch.device], Tensor] = {}

    def __call__(self, values: Float[Tensor, "documents entries"]) -> Float[Tensor, "documents dim"]:
        mix = _hadamard(_SIDE).to(values)
        result = values.new_zeros(len(values), self.dim)
        for piece, part in enumerate(values.split(PIECE, dim=1)):
            flipped = values.new_zeros(len(values), PIECE)
            size = part.shape[1]
            flipped[:, :size] = part * self._flips("before", piece, values.device)[:size]
            mixed = mix @ flipped.view(-1, _SIDE, _SIDE) @ mix
            mixed = mixed.flatten(1) * self._flips("after", piece, values.device)
            result += mixed.view(len(values), -1, self.dim).sum(1)
        return result

    def _flips(self, when: str, piece: int, device: torch.device) -> Tensor:
        key = (when, piece, device)
        if key not in self._drawn:
            self._drawn[key] = torch.from_numpy(_signs(f"{when}\0{self.seed}\0{piece}", PIECE)).to(device)
        return self._drawn[key]


@cache
def _hadamard(side: int) -> Float[Tensor, "side side"]:
    """Return the Hadamard matrix of a power of 2, divided by √side: orthonormal and symmetric."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < side:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(side)


def _signs(key: str, count: int) -> np.ndarray:
    """Return signs as int8 `[count]`."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    generator = np.random.Philox(key=int.from_bytes(digest, "little"))
    words = generator.random_raw((count + 63) // 64).astype("<u8")
    return np.unpackbits(words.view(np.uint8), count=count).astype(np.int8) * 2 - 1
