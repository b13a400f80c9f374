"""What a format is: how documents, raw tables and samples come out of one kind of file.

A format is a module with `FORMAT`, in this folder or named by an entry point of the group `curate.formats`; its name is
the file's or the entry point's. Few write out the protocol below. `curate.documents.streamed.Streamed` makes a format
of two functions, for files whose rows are reached only one after another (lines, records between separators):

    FORMAT = Streamed(endings=(".rec",), records=records, decode=decode)

and `curate.documents.columnar.Columnar` one for files of blocks that are read by themselves (Parquet, Arrow).
"""

import random
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from curate.documents.shards import Row, Shard


class Format(Protocol):
    """How one kind of file is read, in bounded memory. Rows are numbered from 0, bad ones too."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of its files end in, in lower case; none where something else tells them."""
        ...

    @property
    def note(self) -> str:
        """What of such files is read, for people; '' where that goes without saying."""
        ...

    @property
    def named_only(self) -> bool:
        """Whether files are read only where an address names them (x.txt, *.txt), not wherever they lie in a folder."""
        ...

    @property
    def streamed(self) -> bool:
        """Whether a row is reached only through all rows before it, so that a sample costs a pass over the file."""
        ...

    @property
    def rows_per_shard(self) -> int | None:
        """How many rows every file has, where that is known without opening it."""
        ...

    def estimated_rows(self, shard: Shard) -> float:
        """Return the number of rows, or what the first bytes make of it; 0 for a file that cannot be read."""
        ...

    def columns(self, shard: Shard) -> list[str]:
        """Return the columns of the first rows; none for an empty file.

        Raises CurateError when none of those rows can be decoded.
        """
        ...

    def schema(self, shard: Shard) -> pa.Schema | None:
        """Return columns and types where the file states them; None where only its rows do."""
        ...

    def rows(
        self, shard: Shard, *, start: int = 0, only: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Row]]:
        """Stream (row number, row) as `curate.documents.rows` says."""
        ...

    def tables(
        self, shard: Shard, *, start: int = 0, only: Sequence[int] | None = None, batch_rows: int = 1024
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Stream (row numbers, table) as `curate.documents.raw_tables` says."""
        ...

    def draw(
        self,
        shard: Shard,
        count: int,
        rng: random.Random,
        columns: Sequence[str] | None = None,
        most_bytes: int | None = None,
    ) -> tuple[Iterator[tuple[int, Row]], bool]:
        """Draw `count` rows evenly; return them in row order, and whether these are all that there are.

        Of a file whose rows are reached only one after another, the first `most_bytes` stand for all of it.
        A damaged file gives what can be read of it, then a BadRow of the reason DAMAGED.
        """
        ...
