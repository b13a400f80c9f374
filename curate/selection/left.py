"""The documents that a selection leaves, read from the pool in its order; after `Funnel.materialise`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curate.documents import Pool, Shard, documents
from curate.errors import CurateError
from curate.fields import Fields
from curate.schema import Document
from curate.selection.funnel import Funnel
from curate.selection.places import with_places

RowsLeft = tuple[Shard, pa.Table]
"""A shard, and the numbers, scores and places of its rows that are left."""
_BLOCK_ROWS, _BLOCK_BYTES = 16_384, 64 << 20


@dataclass(frozen=True, kw_only=True)
class Left:
    """The documents that filters have left of a pool."""

    funnel: Funnel
    pool: Pool
    fields: Fields

    def documents(self) -> Iterator[Document]:
        """Yield the documents, in pool order."""
        for shard, kept in self.rows():
            yield from documents_of(shard, kept, self.fields)

    def rows(self, places: np.ndarray | None = None) -> Iterator[RowsLeft]:
        """Yield each shard of which rows are left, in pool order, with these rows' numbers, scores and places."""
        numbers, start = self.funnel.shard_numbers, 0
        for shard in self.pool.shards:
            if shard.name in numbers:
                kept = self.funnel.selected_of(numbers[shard.name])
                if places is not None:
                    kept, start = with_places(kept, places[start : start + kept.num_rows]), start + kept.num_rows
                if kept.num_rows:
                    yield shard, kept


def documents_of(shard: Shard, kept: pa.Table, fields: Fields) -> Iterator[Document]:
    """Yield the documents of a shard that are left."""
    num_read = 0
    for document in documents(shard, fields, only=kept.column("row").to_pylist()):
        if isinstance(document, Document):
            yield document
            num_read += 1
    refuse_fewer(shard, num_read, kept.num_rows)


def blocks(rows: Iterable[RowsLeft]) -> Iterator[tuple[RowsLeft, ...]]:
    """Put shards together that one worker reads: whole ones, and several where they are small or little is left."""
    together: list[RowsLeft] = []
    num_rows = num_bytes = 0
    for shard, kept in rows:
        together.append((shard, kept))
        num_rows, num_bytes = num_rows + kept.num_rows, num_bytes + (shard.size or 0)
        if num_rows >= _BLOCK_ROWS or num_bytes >= _BLOCK_BYTES:
            yield tuple(together)
            together, num_rows, num_bytes = [], 0, 0
    if together:
        yield tuple(together)


def refuse_fewer(shard: Shard, read: int, chosen: int) -> None:
    """Raise CurateError where a shard no longer has all of its selected rows."""
    if read != chosen:
        raise CurateError(
            f"{shard.url} lacks {chosen - read} of its {chosen} selected rows.",
            hint="The shard has changed since it was scored: score the pool again.",
        )
