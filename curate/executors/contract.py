"""What is done to the spans of a pool, and where: the contract of executors. Public.

Work on a span gives a part's tables, and the parts are the same bytes whoever works on which span in whatever order.
An executor is a module of this folder with `make(workers, device) -> Executor`; adding one touches that and its test.
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
    """What a part consists of."""

    rows: pa.Table
    """One per document, `n_tokens` among its columns."""
    skipped: pa.Table
    """Rows that were set aside, in SKIPPED_SCHEMA."""


@dataclass(kw_only=True)
class Work:
    """What was done in one go."""

    documents: int = 0
    tokens: int = 0
    parts: int = 0

    @classmethod
    def of(cls, rows: pa.Table) -> "Work":
        """Return what one part's rows say."""
        return cls(documents=rows.num_rows, tokens=int(rows["n_tokens"].to_numpy().sum()), parts=1)

    def add(self, other: "Work") -> None:
        self.documents += other.documents
        self.tokens += other.tokens
        self.parts += other.parts


class OpenWork(Protocol):
    """Work with all that it needs in memory; it belongs to one process."""

    @property
    def encode(self) -> "Encode":
        """Makes a chunk of a span's rows; runs ahead of the work on chunks, in a thread of its own."""
        ...

    def __call__(self, chunk: Chunk) -> PartTables:
        """Return a chunk's tables; what lies beside them in the folder has been written then."""
        ...


class Encode(Protocol):
    def __call__(self, read: SpanRows, /) -> Chunk: ...


class PartWork(Protocol):
    """What is done to every span, as a value: it pickles, and loads nothing before it is opened."""

    @property
    def stage(self) -> str:
        """What its progress is called: "scoring"."""
        ...

    @property
    def hint(self) -> str:
        """What to do about a shard that cannot be read to its end."""
        ...

    def open(self) -> OpenWork:
        """Load the model and what was fitted and kept before; once per process."""
        ...


class Executor(Protocol):
    """Where spans are worked on."""

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the part of every span that the shards lack, and return how much that was.

        A shard that cannot be read to its end stops no other; CurateError once they are done. Parts that were finished
        stay whatever happens.
        """
        ...
