"""Parquet and Arrow files as record batches with the row they start at, in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.documents.files import local_path, open_binary
from curate.documents.shards import BadRow, Shard
from curate.errors import CurateError

_BATCH = 1024
_BUFFER = 1 << 20
_ARROW_FILE_MAGIC = b"ARROW1"
_KIND = {"parquet": "Parquet", "arrow": "Arrow", "saved": "Arrow"}


@contextmanager
def _named(shard: Shard, reached: list[int]) -> Iterator[None]:
    """Turn Arrow's complaints into an error that names the file and the row reached."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        raise CurateError(
            f"{shard.url}: not a whole {_KIND[shard.format]} file ({error}); {reached[0]} rows could be read before.",
            hint="The file is damaged or was not written to its end: fetch or write it again, or remove it.",
        ) from error


def schema_of(shard: Shard) -> pa.Schema:
    """Read the columns and types of a Parquet or Arrow shard."""
    with _named(shard, [0]), ExitStack() as stack:
        if shard.format == "parquet":
            return _parquet(shard, stack).schema_arrow
        return _ipc(shard, stack).schema


def row_blocks(shard: Shard) -> list[int]:
    """Rows per row group (Parquet) or record batch (Arrow), without decoding them."""
    with _named(shard, [0]), ExitStack() as stack:
        if shard.format == "parquet":
            metadata = _parquet(shard, stack).metadata
            return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return [batch.num_rows for batch in _ipc_batches(_ipc(shard, stack))]


def batches(
    shard: Shard,
    *,
    start: int = 0,
    rows: Sequence[int] | None = None,
    columns: Sequence[str] | None = None,
    batch_rows: int = _BATCH,
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Stream (row numbers, record batch); row groups and batches without a wanted row are not read.

    `rows` (sorted, distinct) gives only those rows; `columns` only those columns.
    """
    wanted = None if rows is None else np.asarray(rows, dtype=np.int64)
    reached = [start]
    with _named(shard, reached), ExitStack() as stack:
        stream = _parquet_stream if shard.format == "parquet" else _ipc_stream
        for first, batch in stream(shard, stack, start, wanted, columns, batch_rows):
            after = first + batch.num_rows
            if wanted is None:
                numbers = np.arange(max(first, start), after, dtype=np.int64)
                batch = batch.slice(batch.num_rows - len(numbers))
            else:
                low, high = np.searchsorted(wanted, [max(first, start), after])
                numbers = wanted[low:high]
                batch = batch.take(pa.array(numbers - first))
            if len(numbers):
                yield numbers, batch
            reached[0] = after


def _overlaps(first: int, count: int, start: int, wanted: np.ndarray | None) -> bool:
    if count == 0 or first + count <= start:
        return False
    if wanted is None:
        return True
    low, high = np.searchsorted(wanted, [max(first, start), first + count])
    return bool(high > low)


def _parquet(shard: Shard, stack: ExitStack) -> pq.ParquetFile:
    stream = stack.enter_context(open_binary(shard.url))
    # Buffered pages instead of whole column chunks: a row group may be larger than memory.
    return pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)


def _parquet_stream(
    shard: Shard,
    stack: ExitStack,
    start: int,
    wanted: np.ndarray | None,
    columns: Sequence[str] | None,
    batch_rows: int,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    file = _parquet(shard, stack)
    first = 0
    for group in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if _overlaps(first, count, start, wanted):
            here = first
            for batch in file.iter_batches(
                batch_size=batch_rows, row_groups=[group], columns=_kept(columns), use_threads=False
            ):
                yield here, batch
                here += batch.num_rows
        first += count


def _kept(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


def _ipc(shard: Shard, stack: ExitStack) -> Any:
    """Open an Arrow file or stream; `datasets` writes streams."""
    path = local_path(shard.url)
    if path is not None and path.stat().st_size:
        source: Any = stack.enter_context(pa.memory_map(str(path)))
    else:
        source = stack.enter_context(pa.PythonFile(open_binary(shard.url), mode="r"))
    magic = source.read(len(_ARROW_FILE_MAGIC))
    source.seek(0)
    opener = pa.ipc.open_file if magic == _ARROW_FILE_MAGIC else pa.ipc.open_stream
    return stack.enter_context(opener(source))


def _ipc_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        return (reader.get_batch(i) for i in range(reader.num_record_batches))
    return iter(reader)


def _ipc_stream(
    shard: Shard,
    stack: ExitStack,
    start: int,
    wanted: np.ndarray | None,
    columns: Sequence[str] | None,
    batch_rows: int,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    first = 0
    for batch in _ipc_batches(_ipc(shard, stack)):
        if columns is not None:
            batch = batch.select(list(columns))
        for offset in range(0, batch.num_rows, batch_rows):
            piece = batch.slice(offset, batch_rows)
            if _overlaps(first + offset, piece.num_rows, start, wanted):
                yield first + offset, piece
        first += batch.num_rows


def columnar_rows(
    shard: Shard, *, start: int = 0, rows: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    """Stream rows as Python values; one that cannot be (a string that is not UTF-8) is a BadRow."""
    for numbers, batch in batches(shard, start=start, rows=rows, columns=columns):
        batch = _whole_microseconds(batch)
        try:
            values: Sequence[Any] = batch.to_pylist()
        except (UnicodeDecodeError, ValueError, OverflowError):
            values = [_one_row(batch, i) for i in range(batch.num_rows)]
        yield from zip(numbers.tolist(), values, strict=True)


def _one_row(batch: pa.RecordBatch, index: int) -> Mapping[str, Any] | BadRow:
    try:
        return batch.slice(index, 1).to_pylist()[0]
    except (UnicodeDecodeError, ValueError, OverflowError) as error:
        return BadRow(reason="undecodable row", detail=str(error))


def _whole_microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Cut nanoseconds, which Python's datetime cannot hold."""
    for i, field in enumerate(batch.schema):
        finer = getattr(field.type, "unit", None) == "ns"
        if finer and pa.types.is_timestamp(field.type):
            kind: pa.DataType = pa.timestamp("us", field.type.tz)
        elif finer and pa.types.is_time64(field.type):
            kind = pa.time64("us")
        elif finer and pa.types.is_duration(field.type):
            kind = pa.duration("us")
        else:
            continue
        batch = batch.set_column(i, field.name, batch.column(i).cast(kind, safe=False))
    return batch
