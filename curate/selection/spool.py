"""Tables of changing columns, kept on disk until all columns are known."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

_ROWS, _BYTES = 16_384, 64 << 20  # of one table


class Spool:
    """Write tables one by one, then read them in the same order.

    Lines of JSON have the types of their values and shards may differ, so the columns are known only at the end;
    this costs one more writing of the selected rows, not a second reading of the pool.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._files: list[Path] = []
        self._schemas: list[pa.Schema] = []
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._waiting = _Waiting()

    def write(self, table: pa.Table) -> None:
        schema = table.schema.remove_metadata()
        if self._writer is None or not self._schemas[-1].equals(schema):
            self.close()
            self._files.append(self._folder / f"{len(self._files):06d}.arrow")
            self._schemas.append(schema)
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_stream(str(self._files[-1]), schema, options=options)
        if self._waiting.add(table.replace_schema_metadata(None)):
            self._writer.write_table(self._waiting.take())

    def close(self) -> None:
        if self._writer is not None:
            if self._waiting.tables:
                self._writer.write_table(self._waiting.take())
            self._writer.close()
            self._writer = None

    def tables(self) -> Iterator[pa.Table]:
        """Yield everything that was written; delete each file once it is read."""
        for file in self._files:
            with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])
            file.unlink()


def gathered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join tables of one schema to such of a good size."""
    waiting = _Waiting()
    for table in tables:
        if waiting.add(table):
            yield waiting.take()
    if waiting.tables:
        yield waiting.take()


class _Waiting:
    """Tables of one schema that are to be one."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []
        self._rows = self._bytes = 0

    def add(self, table: pa.Table) -> bool:
        """Return whether they have a good size."""
        self.tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        return self._rows >= _ROWS or self._bytes >= _BYTES

    def take(self) -> pa.Table:
        """Return them as one table, and begin anew."""
        table = pa.concat_tables(self.tables).combine_chunks()
        self.tables, self._rows, self._bytes = [], 0, 0
        return table
