"""One way in to a shard's rows, whatever its format: as Python values, or as Arrow tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curate.documents.columnar import batches, columnar_rows
from curate.documents.jsonl import chosen_json_rows, json_rows, json_tables
from curate.documents.shards import BadRow, Shard


def rows(
    shard: Shard,
    *,
    start: int = 0,
    only: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    """Stream (row number, row) from `start`, in order; a row that cannot be decoded is a BadRow.

    Row groups and record batches before `start` are not read; lines are counted without decoding them. `only`
    (sorted, distinct) gives just those rows. `columns` saves reading the others where the format allows it;
    rows of JSON come whole. Raises CurateError with the row reached when the file is broken, after all rows
    before.
    """
    if shard.format != "jsonl":
        return columnar_rows(shard, start=start, rows=only, columns=columns)
    if only is not None:
        return chosen_json_rows(shard, start=start, rows=only)
    return json_rows(shard, start=start)


def raw_tables(
    shard: Shard, *, batch_rows: int = 1024, start: int = 0, rows: Sequence[int] | None = None
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Stream (row numbers, table of the shard's own columns) in row order, at most `batch_rows` rows each.

    Parquet and Arrow keep their types. Lines of JSON are typed per batch, so the types of two tables may
    differ; lines that cannot be decoded are left out. `rows` (sorted, distinct) gives only those rows.
    """
    if shard.format == "jsonl":
        chosen = json_rows(shard, start=start) if rows is None else chosen_json_rows(shard, start=start, rows=rows)
        yield from json_tables(chosen, batch_rows)
        return
    for numbers, batch in batches(shard, start=start, rows=rows, batch_rows=batch_rows):
        yield numbers, pa.Table.from_batches([batch])
