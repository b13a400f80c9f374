"""Parquet: a row group is read only where a row of it is wanted, by pages."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq

from curate.documents.columnar import Columnar
from curate.documents.files import open_binary
from curate.documents.shards import Shard

_BUFFER = 1 << 20


class _File:
    def __init__(self, shard: Shard, stack: ExitStack) -> None:
        stream = stack.enter_context(open_binary(shard.url))
        # Buffered pages instead of whole column chunks: a row group may be larger than memory.
        self._file = pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)

    @property
    def schema(self) -> pa.Schema:
        return self._file.schema_arrow

    def blocks(self) -> list[int]:
        metadata = self._file.metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def stream(
        self, wants: Callable[[int, int], bool], columns: Sequence[str] | None, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        first_row = 0
        names = None if columns is None else list(columns)
        for group, count in enumerate(self.blocks()):
            if wants(first_row, count):
                row = first_row
                for batch in self._file.iter_batches(
                    batch_size=batch_rows, row_groups=[group], columns=names, use_threads=False
                ):
                    yield row, batch
                    row += batch.num_rows
            first_row += count


FORMAT = Columnar(suffixes=(".parquet", ".pq"), kind="Parquet", open=_File, rows_per_block=64)
