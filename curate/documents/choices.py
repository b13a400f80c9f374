"""Which rows of a shard take part, where not all do: a seeded share of them, or those of a list in a folder.

What is chosen follows from the shard and the row's number alone, so that neither workers nor kills change it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from curate.documents.shards import Choice
from curate.folders.folder import Folder

R = TypeVar("R", bound=tuple[Any, ...])
LISTED_SCHEMA = pa.schema([("shard", pa.string()), ("row", pa.int64())])
"""Of the file behind `Listed`, which is sorted by both."""
_ROW_GROUP = 1 << 17  # of the list: a shard's rows are read without most of the others'
_BLOCK = 1 << 16  # rows of a stream that are decided on together


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Every row with the same chance, independently of all others."""

    seed: int
    shard: str
    share: float
    end: int | None = None

    def rows(self, start: int, end: int) -> np.ndarray:
        """Return the rows whose hash (splitmix64 of seed, shard and row) lies below the share."""
        numbers = np.arange(start, end, dtype=np.int64)
        if self.share >= 1:
            return numbers
        key = np.uint64(xxhash.xxh3_64_intdigest(f"{self.seed}:sample:{self.shard}".encode("utf-8", "surrogatepass")))
        mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key  # modulo 2^64
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return numbers[(mixed ^ (mixed >> np.uint64(31))) < np.uint64(self.share * 2.0**64)]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The rows of a shard that a file of a folder lists, beside those of all other shards."""

    folder: Folder
    name: str
    shard: str

    @property
    def end(self) -> int:
        listed = self._listed()
        return int(listed[-1]) + 1 if len(listed) else 0

    def rows(self, start: int, end: int) -> np.ndarray:
        """Return the rows that the list has."""
        listed = self._listed()
        low, high = np.searchsorted(listed, [start, end])
        return listed[low:high]

    def _listed(self) -> np.ndarray:
        return _rows_of(self.folder.local(self.name), self.shard)


@lru_cache(maxsize=4)
def _rows_of(path: Path, shard: str) -> np.ndarray:
    """Read one shard's rows: row groups of others are passed over by the file's statistics."""
    return pq.read_table(path, columns=["row"], filters=[("shard", "=", shard)])["row"].to_numpy()


def write_listed(folder: Folder, name: str, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a list of rows in LISTED_SCHEMA, sorted by shard and row, a batch at a time."""

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, LISTED_SCHEMA, compression="zstd") as writer:
            for batch in batches:
                table = pa.Table.from_batches([batch]).cast(LISTED_SCHEMA)
                writer.write_table(table, row_group_size=_ROW_GROUP)

    folder.put(name, write)


def chosen(records: Iterator[R], choice: Choice, start: int) -> Iterator[R]:
    """Yield those of a shard's records, which begin with their row numbers, whose rows are chosen, from `start` on.

    Reading ends behind the last of them, where it is known.
    """
    last, decided, wanted = choice.end, start, frozenset[int]()
    if last is not None and last <= start:
        return
    for record in records:
        row = record[0]
        if row >= decided:
            decided = row + _BLOCK
            wanted = frozenset(choice.rows(row, decided).tolist())
        if row in wanted and row >= start:
            yield record
            if last is not None and row + 1 >= last:
                return
