"""Arrow files and streams, mapped into memory where they are local."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa

from curate.documents.columnar import Columnar
from curate.documents.files import local_path, open_binary
from curate.documents.shards import Shard
from curate.errors import CurateError

_FILE_MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"


class _File:
    def __init__(self, shard: Shard, stack: ExitStack) -> None:
        path = local_path(shard.url)
        if path is not None and path.stat().st_size:
            source: Any = stack.enter_context(pa.memory_map(str(path)))
        else:
            source = stack.enter_context(pa.PythonFile(open_binary(shard.url), mode="r"))
        magic = source.read(len(_FILE_MAGIC))
        source.seek(0)
        if magic.startswith(_FEATHER_1):
            raise CurateError(
                f"{shard.url}: Feather of version 1, which is no Arrow file.",
                hint="Write it again: pyarrow.feather.write_feather(pyarrow.feather.read_table(FILE), FILE).",
            )
        opener = pa.ipc.open_file if magic == _FILE_MAGIC else pa.ipc.open_stream  # `datasets` writes streams
        self._reader: Any = stack.enter_context(opener(source))

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def blocks(self) -> list[int]:
        return [batch.num_rows for batch in self._batches()]

    def stream(
        self, wants: Callable[[int, int], bool], columns: Sequence[str] | None, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        first_row = 0
        for batch in self._batches():
            if columns is not None:
                batch = batch.select(list(columns))
            for offset in range(0, batch.num_rows, batch_rows):
                piece = batch.slice(offset, batch_rows)
                if wants(first_row + offset, piece.num_rows):
                    yield first_row + offset, piece
            first_row += batch.num_rows

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if isinstance(self._reader, pa.RecordBatchFileReader):
            return (self._reader.get_batch(i) for i in range(self._reader.num_record_batches))
        return iter(self._reader)


FORMAT = Columnar(suffixes=(".arrow", ".feather"), kind="Arrow", open=_File)
