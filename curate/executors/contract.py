"""The contract of work on a pool's spans, and of the executors that run it. Public.

Work on a span gives a part's tables. The parts are the same bytes in any order and on any executor.
An executor is a module of this folder with `make(workers, device) -> Executor`; adding one touches it and its test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa

from curate.executors.reading import Chunk, SpanRows, UnfinishedShard, Unreadable
from curate.folders.part_folder import PartFolder
from curate.folders.parts import Span
from curate.progress import Reporter

__all__ = [
    "Chunk",
    "Executor",
    "OpenWork",
    "PartTables",
    "PartWork",
    "Span",
    "SpanRows",
    "UnfinishedShard",
    "Unreadable",
    "Work",
]


class PartTables(NamedTuple):
    """The tables of a part."""

    rows: pa.Table
    """One per document, `n_tokens` among its columns."""
    skipped: pa.Table
    """Rows that were set aside, in SKIPPED_SCHEMA."""


@dataclass(kw_only=True)
class Work:
    """Work done, in numbers."""

    documents: int = 0
    tokens: int = 0
    parts: int = 0

    @classmethod
    def of(cls, rows: pa.Table) -> "Work":
        """Count one part's rows."""
        return cls(documents=rows.num_rows, tokens=int(rows["n_tokens"].to_numpy().sum()), parts=1)

    def add(self, other: "Work") -> None:
        self.documents += other.documents
        self.tokens += other.tokens
        self.parts += other.parts


class OpenWork(Protocol):
    """Work with everything that it needs in memory; it belongs to one process."""

    @property
    def encode(self) -> "Encode":
        """Makes a chunk of a span's rows; it runs ahead of the work, in a thread of its own."""
        ...

    def __call__(self, chunk: Chunk) -> PartTables:
        """Return a chunk's tables, after writing what lies beside them in the folder."""
        ...


class Encode(Protocol):
    def __call__(self, read: SpanRows, /) -> Chunk: ...


class PartWork(Protocol):
    """Work on every span, as a value: it pickles, and loads nothing before it is opened."""

    @property
    def stage(self) -> str:
        """The name of its progress: "scoring"."""
        ...

    @property
    def hint(self) -> str:
        """What to do about a shard that cannot be read to its end."""
        ...

    def open(self) -> OpenWork:
        """Load the model and kept tensors; once per process."""
        ...


class Executor(Protocol):
    """Runs work on spans."""

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the part of every span that the shards lack, and return the work done.

        A shard that cannot be read to its end stops no other. Raises CurateError for it once they are done. Finished
        parts stay in any case.
        """
        ...
