"""The documents that a selection leaves, read from the pool in its order; after `Funnel.materialise`."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from curate.documents import Pool, Shard, documents
from curate.errors import CurateError
from curate.fields import Fields
from curate.schema import Document
from curate.selection.funnel import Funnel
from curate.selection.places import with_places


def documents_left(funnel: Funnel, pool: Pool, fields: Fields) -> Iterator[Document]:
    """Yield the documents that are left, in pool order."""
    for shard, kept in rows_left(funnel, pool):
        num_read = 0
        for document in documents(shard, fields, only=kept.column("row").to_pylist()):
            if isinstance(document, Document):
                yield document
                num_read += 1
        refuse_fewer(shard, num_read, kept.num_rows)


def rows_left(funnel: Funnel, pool: Pool, places: np.ndarray | None = None) -> Iterator[tuple[Shard, pa.Table]]:
    """Yield each shard of which rows are left, in pool order, with these rows' numbers, scores and places."""
    numbers, start = funnel.shard_numbers, 0
    for shard in pool.shards:
        if shard.name in numbers:
            kept = funnel.selected_of(numbers[shard.name])
            if places is not None:
                kept, start = with_places(kept, places[start : start + kept.num_rows]), start + kept.num_rows
            if kept.num_rows:
                yield shard, kept


def refuse_fewer(shard: Shard, read: int, chosen: int) -> None:
    """Raise CurateError where a shard no longer has all of its selected rows."""
    if read != chosen:
        raise CurateError(
            f"{shard.url} lacks {chosen - read} of its {chosen} selected rows.",
            hint="The shard has changed since it was scored: score the pool again.",
        )
