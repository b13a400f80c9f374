"""How sketches are stored: numbers of 4, 2 or 1 byte with scales, and products with the stored numbers.

A sketch is `codes · scales`. float32 keeps it as it is. float16 keeps it at a mean square of 1 with its own scale, so
that no document's size overflows. int8 keeps every layer of it in 255 steps of that layer's own size, since layers'
gradients differ by orders of magnitude.

With a rank, a layer's codes are its factors u and v: a sketch is the unpacked codes times the scale in float32 and
float16, and in int8 each factor has steps of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from curate.errors import SettingsError, nearest
from curate.gradients.linear import linear
from curate.gradients.low_rank import Packing, Place
from curate.gradients.sketches import Block

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
_STEPS = 127
# A product with float16 numbers as they lie reads each once from memory; from the third query on it is faster to widen
# them first and multiply by all queries together.
_QUERIES_AS_THEY_LIE = 2
# Up to so many queries, factors are multiplied as they are; from then on it is faster to form a layer's part first.
_QUERIES_OF_FACTORS = 16


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Sketches of some documents as they are stored."""

    codes: np.ndarray
    """`[documents, sketch]`; packed where there is a rank."""
    scales: np.ndarray
    """float32 `[documents, 1]`, or `[documents, layers]`, where a layer of two factors counts twice."""

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | np.ndarray) -> "Codes":
        return Codes(codes=self.codes[rows], scales=self.scales[rows])


@dataclass(frozen=True)
class Storage:
    """Turn sketches into codes and back."""

    dtype: str
    blocks: Sequence[Block]
    rank: int = 0
    """Rank of each layer; 0: whole."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SettingsError(
                f"storage is {self.dtype!r}; expected one of {', '.join(DTYPES)}.", hint=nearest(self.dtype, [*DTYPES])
            )

    @cached_property
    def packing(self) -> Packing:
        return Packing(self.blocks, self.rank)

    @property
    def width(self) -> int:
        """Numbers of a whole sketch."""
        return self.blocks[-1].stop

    @property
    def numbers(self) -> int:
        """Numbers of a stored sketch."""
        return self.packing.width

    @property
    def rows(self) -> int:
        """Documents that are best multiplied together.

        128 rows of 7 000 numbers, widened, are what a core's cache holds; of factors, only one layer's are widened.
        """
        return 128 if self.packing.is_whole else 512

    @cached_property
    def _sections(self) -> list[int]:
        """Numbers of each section with its own scale in int8: a layer, or one of its factors."""
        return [size for place in self.packing.places for size in place.sizes]

    @property
    def scales(self) -> int:
        """Scales of a document."""
        return len(self._sections) if self.dtype == "int8" else 1

    @property
    def bytes_per_document(self) -> int:
        return self.numbers * DTYPES[self.dtype].itemsize + 4 * self.scales

    def encode(self, values: Float[Tensor, "documents sketch"]) -> Codes:
        """Encode finite sketches."""
        values = values.float()
        if self.dtype == "float32":
            return Codes(codes=self.packing.pack(values).cpu().numpy(), scales=np.ones((len(values), 1), np.float32))
        if self.dtype == "float16":
            scales = _or_one(values.norm(dim=1, keepdim=True) / self.width**0.5)
            codes = self.packing.pack(values / scales).half()
            return Codes(codes=codes.cpu().numpy(), scales=scales.cpu().numpy())
        packed = self.packing.pack(values).cpu()
        largest = [section.abs().amax(1) for section in packed.split(self._sections, 1)]
        scales = _or_one(torch.stack(largest, 1) / _STEPS)
        return Codes(codes=(packed / self._by_entry(scales)).round().to(torch.int8).numpy(), scales=scales.numpy())

    def empty(self, documents: int) -> Codes:
        """Return zero codes for the sketches of some documents."""
        codes = torch.zeros(documents, self.numbers, dtype=DTYPES[self.dtype]).numpy()
        return Codes(codes=codes, scales=np.ones((documents, self.scales), np.float32))

    def decode(self, codes: Codes) -> Float[Tensor, "documents sketch"]:
        """Return sketches in float32."""
        x, scales = torch.from_numpy(codes.codes).float(), torch.from_numpy(codes.scales)
        if scales.shape[1] == 1:
            return self.packing.unpack(x) * scales
        return self.packing.unpack(x * self._by_entry(scales))

    def layer(self, codes: Codes, place: Place) -> Float[Tensor, "documents entries"]:
        """Return one layer's part of sketches in float32: all layers of wide sketches at once would fill the memory."""
        x = torch.from_numpy(codes.codes[:, place.start : place.stop]).float()
        place_alone = Place(block=place.block, start=0, rank=place.rank)
        return self.packing.layer(x, place_alone) * self.layer_scales(codes, place)

    def layer_scales(self, codes: Codes, place: Place) -> Float[Tensor, "documents 1"]:
        """Return the factors by which a layer's codes, multiplied out, are scaled."""
        scales = torch.from_numpy(codes.scales)
        if scales.shape[1] == 1:
            return scales
        start = self._scale_starts[place.block.name]
        return scales[:, start : start + len(place.sizes)].prod(1, keepdim=True)

    @cached_property
    def _scale_starts(self) -> dict[str, int]:
        starts, start = {}, 0
        for place in self.packing.places:
            starts[place.block.name] = start
            start += len(place.sizes)
        return starts

    def _by_entry(self, scales: Tensor) -> Tensor:
        return scales.repeat_interleave(torch.tensor(self._sections), 1)


def _or_one(scales: Tensor) -> Tensor:
    return torch.where(scales > 0, scales, torch.ones_like(scales))


class Products:
    """Products of stored sketches with a few queries, in float32."""

    def __init__(self, storage: Storage, queries: Float[Tensor, "queries sketch"]) -> None:
        self.storage = storage
        self.queries = queries.cpu().float().contiguous()
        largest = _or_one(self.queries.abs().amax(1))
        self._sizes, self._halves = largest, (self.queries / largest[:, None]).half()

    @property
    def rows(self) -> int:
        """Documents that are best multiplied together; by one query without widening, no number is read twice."""
        alone = self._as_they_lie and len(self.queries) == 1
        return 1024 if alone else self.storage.rows

    @property
    def _as_they_lie(self) -> bool:
        halves = self.storage.dtype == "float16" and self.storage.packing.is_whole
        return halves and len(self.queries) <= _QUERIES_AS_THEY_LIE

    def __call__(self, codes: Codes) -> Float[Tensor, "documents queries"]:
        """Return the products; pass as many documents at a time as fit into a core's cache."""
        if not self.storage.packing.is_whole:
            return self._of_factors(codes)
        x, scales = torch.from_numpy(codes.codes), torch.from_numpy(codes.scales)
        if scales.shape[1] > 1:
            return self._by_layer(x.float(), scales)
        if self._as_they_lie:
            # Accumulated in float32; the queries are rounded as the stored numbers are.
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

    def _of_factors(self, codes: Codes) -> Tensor:
        """Return Σ over layers of uᵀ Q v: Q v for all documents and queries at once, then the product with u."""
        storage, total = self.storage, torch.zeros(len(codes), len(self.queries))
        by_layer = codes.scales.shape[1] > 1
        for place in storage.packing.places:
            block = place.block
            if place.rank and len(self.queries) <= _QUERIES_OF_FACTORS:
                products = self._through(codes, place)
            else:
                place_alone = Place(block=block, start=0, rank=place.rank)
                x = torch.from_numpy(codes.codes[:, place.start : place.stop]).float()
                products = linear(storage.packing.layer(x, place_alone), self.queries[:, block.start : block.stop])
            total += products * storage.layer_scales(codes, place) if by_layer else products
        return total if by_layer else total * torch.from_numpy(codes.scales)

    def _through(self, codes: Codes, place: Place) -> Tensor:
        rows, columns, rank = place.block.rows, place.block.columns, place.rank
        x = torch.from_numpy(codes.codes[:, place.start : place.stop]).float()
        left, right = x[:, : rank * rows].reshape(-1, rows), x[:, rank * rows :].reshape(-1, columns)
        queries = self.queries[:, place.block.start : place.block.stop].view(-1, rows, columns)
        products = [(right @ q.T).mul_(left).sum(1) for q in queries]
        return torch.stack(products, 1).view(-1, rank, len(queries)).sum(1)


def paired(
    storage: Storage, codes: Codes, queries: Float[Tensor, "queries sketch"], owners: Int[Tensor, "documents"]
) -> Float[Tensor, "documents"]:
    """Return the product of every document with the query that owns it."""
    if storage.packing.is_whole:
        return (storage.decode(codes) * queries[owners]).sum(1)
    total = torch.zeros(len(codes))
    for place in storage.packing.places:
        layer_queries = queries[:, place.block.start : place.block.stop][owners]
        total += (storage.layer(codes, place) * layer_queries).sum(1)
    return total
