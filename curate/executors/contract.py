"""The contract of work on a pool's spans, and of the executors that run it. Public.

Work on a span gives a part's tables. The parts are the same bytes in any order and on any executor.
An executor is a module of this folder with `make(resources) -> Executor`; adding one touches it and its test. One for
jobs that each take a share of the pool, and write one folder side by side, has `share_of(part) -> Share`, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa

from curate.executors.chunks import Chunk, SpanRows
from curate.executors.reading import Share, UnfinishedShard, Unreadable
from curate.folders.part_folder import PartFolder
from curate.folders.parts import Span
from curate.progress import Reporter

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from curate.jobs import Foreman, JobWork

__all__ = [
    "Chunk",
    "Executor",
    "OpenWork",
    "PartTables",
    "PartWork",
    "Resources",
    "Share",
    "Span",
    "SpanRows",
    "UnfinishedShard",
    "Unreadable",
    "Work",
    "write_part",
]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What an executor may take, and how much there is to do."""

    workers: int | None = 1
    """None: as many as help."""
    device: str = "auto"
    share: Share | None = None
    """Of a pool that several jobs share; None: all of it."""
    parameters: int | None = None
    """Of the proxy; None where there is none yet."""
    rows: float | None = None
    """Of the pool, about."""
    seconds: float | None = None
    """Of all work, by one worker, about; None where it is told in rows."""


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
    skipped: int = 0
    parts: int = 0
    kinds: set[str] = field(default_factory=set)
    """The kinds of the processes that did it."""

    @classmethod
    def of(cls, rows: pa.Table, skipped: int = 0) -> "Work":
        """Count one part's rows, and those that were set aside."""
        tokens = int(rows["n_tokens"].to_numpy().sum())
        return cls(documents=rows.num_rows, tokens=tokens, skipped=skipped, parts=1)

    def add(self, other: "Work") -> None:
        self.documents += other.documents
        self.tokens += other.tokens
        self.skipped += other.skipped
        self.parts += other.parts
        self.kinds |= other.kinds

    def told(self) -> dict[str, Any]:
        """Return what the log tells of it."""
        return {**vars(self), "kinds": sorted(self.kinds)}


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


def write_part(folder: PartFolder, opened: OpenWork, chunk: Chunk) -> Work:
    """Do the work on a chunk, write its part and count it. No row of the chunk may be lost or doubled on the way."""
    tables = opened(chunk)
    work, read = Work.of(tables.rows, tables.skipped.num_rows), len(chunk.documents) + len(chunk.skipped)
    if work.documents + work.skipped != read:
        raise AssertionError(f"{chunk.span}: {read} rows read, {work.documents} written and {work.skipped} set aside")
    folder.write_part(chunk.span, *tables)
    return work


class Executor(Protocol):
    """Runs work on spans, and jobs."""

    @property
    def is_here(self) -> bool:
        """Whether the work is done in this process, with what it has in memory already."""
        ...

    def described(self) -> Mapping[str, int | str]:
        """Return what the log tells of it: its name and number of workers."""
        ...

    def run(self, work: PartWork, shards: Sequence[UnfinishedShard], folder: PartFolder, reporter: Reporter) -> Work:
        """Write the part of every span that the shards lack, and return the work done.

        A shard that cannot be read to its end stops no other. Raises CurateError for it once they are done. Finished
        parts stay in any case.
        """
        ...

    def hired(self, work: "JobWork", count: int, reporter: Reporter) -> "AbstractContextManager[Foreman]":
        """Yield what has jobs done by workers, at most `count` of them, who open the work once and stay for the block.

        Finished jobs stay in any case.
        """
        ...
