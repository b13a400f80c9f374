"""Read a shard's rows in any format, as Python values or as Arrow tables."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from curate.documents import formats
from curate.documents.choices import chosen
from curate.documents.columnar import Columnar
from curate.documents.shards import BadRow, Choice, Row, Shard
from curate.documents.streamed import Streamed
from curate.documents.stretches import Course


def rows(
    shard: Shard,
    *,
    start: int = 0,
    only: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
    course: Course | None = None,
) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    """Stream (row number, row) from `start`, in order; a row that cannot be decoded is a BadRow.

    Row groups and record batches before `start` are not read; lines are counted without decoding them. `only` (sorted,
    distinct) gives just those rows. `course` stands for `start`, may raise it meanwhile, and begins plain files at its
    mark. `columns` saves reading the others where the format allows it; rows of lines come whole. A shard's own choice
    of rows decides where `only` does not. Raises CurateError with the row reached where the file is broken, after the
    rows before it.
    """
    file_format = formats.get(shard.format)
    if only is None and shard.choice is not None:
        stream = _chosen(shard, shard.choice, course or Course(start), columns)
    elif course is not None and isinstance(file_format, Streamed | Columnar):
        stream = file_format.rows_along(shard, course, columns)
    else:
        start = start if course is None else course.start
        stream = file_format.rows(shard, start=start, only=only, columns=columns)
    return with_partitions(shard, stream) if shard.partitions else stream


def _chosen(shard: Shard, choice: Choice, course: Course, columns: Sequence[str] | None) -> Iterator[tuple[int, Row]]:
    """Stream a shard's chosen rows: other lines are not decoded, and row groups without one are not read."""
    file_format = formats.get(shard.format)
    if isinstance(file_format, Streamed | Columnar):
        return file_format.rows_along(shard, course, columns, choice)
    return chosen(file_format.rows(shard, start=course.start, columns=columns), choice, course.start)


def with_partitions(shard: Shard, stream: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """Add to rows the columns that the names of their shard's folders give; a column of the file wins."""
    partitions = shard.partitions
    return ((number, row if isinstance(row, BadRow) else {**partitions, **row}) for number, row in stream)


def raw_tables(
    shard: Shard, *, batch_rows: int = 1024, start: int = 0, only: Sequence[int] | None = None
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Stream (row numbers, table of the shard's own columns) in row order, at most `batch_rows` rows each.

    Parquet and Arrow keep their types, but for dictionaries, views and extensions; every column of csv is a string.
    Lines of JSON are typed per batch, so the types of two tables may differ. Columns that folders' names give
    (`lang=en/`) come last, as strings. Rows that cannot be decoded are left out. `only` (sorted, distinct) gives just
    those rows.
    """
    for numbers, table in formats.get(shard.format).tables(shard, start=start, only=only, batch_rows=batch_rows):
        for name, value in shard.partitions.items():
            if name not in table.column_names:
                table = table.append_column(name, pa.array([value] * len(numbers), pa.string()))
        yield numbers, table


def json_lines(
    shard: Shard, *, only: Sequence[int], batch_rows: int = 1024
) -> Iterator[tuple[np.ndarray, list[bytes], list[Mapping[str, Any]]]] | None:
    """Stream (row numbers, exact lines, their rows) of chosen rows; None for a shard that is no lines of JSON.

    `only` is sorted and distinct. Rows that cannot be decoded are left out. A line that is a list of turns becomes an
    object. A column that the folders' names give comes last in a line that has none of this name.
    """
    file_format = formats.get(shard.format)
    if not isinstance(file_format, Streamed) or not file_format.json_lines:
        return None
    lines, partitions = file_format.lines(shard, only), shard.partitions
    decoded = (
        (number, *_with_partitions(_as_object(line, row), row, partitions))
        for number, line, row in lines
        if not isinstance(row, BadRow)
    )
    return (
        (np.array([n for n, _, _ in batch], np.int64), [line for _, line, _ in batch], [row for _, _, row in batch])
        for batch in iter(lambda: list(islice(decoded, batch_rows)), [])
    )


def _as_object(line: bytes, row: Mapping[str, Any]) -> bytes:
    if not (turns := line.strip()).startswith(b"["):
        return line
    (column,) = row
    return orjson.dumps(column).join((b"{", b": ")) + turns + b"}"


def _with_partitions(
    line: bytes, row: Mapping[str, Any], partitions: Mapping[str, str | None]
) -> tuple[bytes, Mapping[str, Any]]:
    if not (missing := {n: v for n, v in partitions.items() if n not in row}):
        return line, row
    begun = line.rstrip()[:-1].rstrip()
    comma = b"" if begun.endswith(b"{") else b", "
    return begun + comma + orjson.dumps(missing)[1:], {**row, **missing}


def columns_metadata(shard: Shard) -> Mapping[bytes, bytes] | None:
    """Return what a shard states of its columns beside their types, such as the features of `datasets`."""
    schema = formats.get(shard.format).schema(shard)
    return None if schema is None else schema.metadata


def estimated_rows(shard: Shard) -> float:
    """Return how many rows a shard has: exact for Parquet and Arrow, estimated from the first bytes of lines.

    A shard that cannot be opened counts as empty.
    """
    return formats.get(shard.format).estimated_rows(shard)
