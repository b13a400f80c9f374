"""How sketches lie on disk: numbers of 4, 2 or 1 byte, with scales, and products with them as they lie.

A sketch is `codes · scales`. float32 keeps it as it is. float16 keeps it at a mean square of 1 with its own scale, so
that no document's size overflows. int8 keeps every layer of it in 255 steps of that layer's own size, since layers'
gradients differ by orders of magnitude.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import SettingsError, nearest
from curate.gradients.linear import linear
from curate.gradients.sketches import Block

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_STEPS = 127
# A product with float16 numbers as they lie reads each once from memory; from the third query on it is faster to widen
# them first and multiply by all queries together.
_QUERIES_AS_THEY_LIE = 2


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Sketches of some documents as they lie on disk."""

    codes: np.ndarray
    """`[documents, sketch]`."""
    scales: np.ndarray
    """float32 `[documents, 1]`, or `[documents, layers]`."""

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | np.ndarray) -> "Codes":
        return Codes(codes=self.codes[rows], scales=self.scales[rows])


@dataclass(frozen=True)
class Storage:
    """Turns sketches into codes and back."""

    dtype: str
    blocks: Sequence[Block]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SettingsError(
                f"storage is {self.dtype!r}; expected one of {', '.join(DTYPES)}.", hint=nearest(self.dtype, [*DTYPES])
            )

    @property
    def width(self) -> int:
        return self.blocks[-1].stop

    @property
    def scales(self) -> int:
        """How many scales a document has."""
        return len(self.blocks) if self.dtype == "int8" else 1

    @property
    def bytes_per_document(self) -> int:
        return self.width * DTYPES[self.dtype].itemsize + 4 * self.scales

    def encode(self, values: Float[Tensor, "documents sketch"]) -> Codes:
        """Return finite sketches as they lie on disk."""
        values = values.cpu().float()
        if self.dtype == "float32":
            return Codes(codes=values.numpy(), scales=np.ones((len(values), 1), np.float32))
        if self.dtype == "float16":
            scales = _or_one(values.norm(dim=1, keepdim=True) / self.width**0.5)
            return Codes(codes=(values / scales).half().numpy(), scales=scales.numpy())
        sizes = [values[:, b.start : b.stop].abs().amax(1) for b in self.blocks]
        scales = _or_one(torch.stack(sizes, 1) / _STEPS)
        return Codes(codes=(values / self._by_entry(scales)).round().to(torch.int8).numpy(), scales=scales.numpy())

    def empty(self, documents: int) -> Codes:
        """Return room for the sketches of some documents."""
        codes = torch.zeros(documents, self.width, dtype=DTYPES[self.dtype]).numpy()
        return Codes(codes=codes, scales=np.ones((documents, self.scales), np.float32))

    def decode(self, codes: Codes) -> Float[Tensor, "documents sketch"]:
        """Return sketches in float32."""
        return torch.from_numpy(codes.codes).float() * self._by_entry(torch.from_numpy(codes.scales))

    def _by_entry(self, scales: Tensor) -> Tensor:
        if scales.shape[1] == 1:
            return scales
        sizes = torch.tensor([b.stop - b.start for b in self.blocks])
        return scales.repeat_interleave(sizes, 1)


def _or_one(scales: Tensor) -> Tensor:
    return torch.where(scales > 0, scales, torch.ones_like(scales))


class Products:
    """Products of sketches as they lie with a few queries, in float32."""

    def __init__(self, storage: Storage, queries: Float[Tensor, "queries sketch"]) -> None:
        self.storage = storage
        self.queries = queries.cpu().float().contiguous()
        largest = _or_one(self.queries.abs().amax(1))
        self._sizes, self._halves = largest, (self.queries / largest[:, None]).half()

    def __call__(self, codes: Codes) -> Float[Tensor, "documents queries"]:
        """Return `[documents, queries]`; hand in as many documents at a time as stay in a core's cache."""
        x, scales = torch.from_numpy(codes.codes), torch.from_numpy(codes.scales)
        if scales.shape[1] > 1:
            return self._by_layer(x.float(), scales)
        if x.dtype == torch.float16 and len(self.queries) <= _QUERIES_AS_THEY_LIE:
            # Accumulated in float32; the queries' own rounding is that of the numbers that they meet.
            products = torch.stack([torch.mv(x, q).float() for q in self._halves], 1) * self._sizes
        else:
            products = linear(x.float(), self.queries)
        return products * scales

    def _by_layer(self, x: Tensor, scales: Tensor) -> Tensor:
        total = torch.zeros(len(x), len(self.queries))
        for i, block in enumerate(self.storage.blocks):
            columns = slice(block.start, block.stop)
            total += linear(x[:, columns], self.queries[:, columns]) * scales[:, i : i + 1]
        return total
