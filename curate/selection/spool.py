"""Tables of changing columns, kept on disk until all columns are known, and what processes tell of them."""

import pickle
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

_ROWS, _BYTES = 16_384, 64 << 20  # of one table
_CALLS = 20_000  # within one another, a score of them for each level of a type


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One table of a spool. A value: it pickles."""

    path: Path
    number: int
    """Of the table in its file."""
    num_bytes: int
    """In memory."""


class Spool:
    """Write tables one by one; `pieces` are read in any order, by any process.

    Lines of JSON have the types of their values and shards may differ, so the columns are known only at the end;
    this costs one more writing of the selected rows, not a second reading of the pool.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that died
        folder.mkdir(parents=True)
        self.pieces: list[Piece] = []
        self._folder = folder
        self._num_files = self._num_tables = 0
        self._schema: pa.Schema | None = None
        self._writer: pa.RecordBatchFileWriter | None = None
        self._waiting = _Waiting()

    def write(self, table: pa.Table) -> None:
        schema = table.schema.remove_metadata()
        if self._writer is None or not schema.equals(self._schema):
            self.close()
            self._num_files, self._num_tables, self._schema = self._num_files + 1, 0, schema
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(str(self._path), schema, options=options)
        if self._waiting.add(table.replace_schema_metadata(None)):
            self._write_waiting()

    def close(self) -> None:
        if self._writer is not None:
            if self._waiting.tables:
                self._write_waiting()
            self._writer.close()
            self._writer = None

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._num_files:06d}.arrow"

    def _write_waiting(self) -> None:
        assert self._writer is not None
        for batch in self._waiting.take().to_batches():
            self._writer.write_batch(batch)
            self.pieces.append(Piece(path=self._path, number=self._num_tables, num_bytes=batch.nbytes))
            self._num_tables += 1


def read(pieces: Iterable[Piece]) -> Iterator[pa.Table]:
    """Yield the tables of pieces; a file is opened once where they follow one another in it."""
    path, reader = None, None
    for piece in pieces:
        if reader is None or piece.path != path:
            path, reader = piece.path, pa.ipc.open_file(pa.memory_map(str(piece.path)))
        yield pa.Table.from_batches([reader.get_batch(piece.number)])


def put_value(path: Path, value: object) -> None:
    """Write a value for another process of this selection."""
    path.write_bytes(_pickled(value))


def _pickled(value: object) -> bytes:
    """Pickle a value, the types of lists and objects many levels deep among them: each level takes several calls."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _CALLS))
    try:
        return pickle.dumps(value)
    finally:
        sys.setrecursionlimit(limit)


def get_value(path: Path) -> Any:
    """Return a value that was put."""
    return pickle.loads(path.read_bytes())


def remove(path: Path) -> None:
    """Remove a spool, or one file of it."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


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
