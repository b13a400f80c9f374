"""Cut shards into spans.

Where a span ends is known once it has been read, and the next one begins there: whoever reads a shard's next span, the
same or another process, is told its start.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TypeVar

from curate.documents import DAMAGED, Course, DamagedShard, Fields, Mark, Marks, Pool, Shard, documents, refuse_changed
from curate.documents.stretches import START, may_have_marks
from curate.errors import CurateError
from curate.executors.chunks import SpanRows
from curate.folders.part_folder import MARKS, PartFolder
from curate.folders.parts import Span
from curate.schema import Document, Skipped

# A part ends early when its text reaches this size, so that memory stays bounded whatever the documents are.
PART_CHARACTERS = 16 << 20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A shard that could not be read to its end; its finished parts stay."""

    shard: str
    error: CurateError


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of `count` shares of a pool, by a rule that depends on the pool alone.

    Of a pool with four shards for every share, each takes every count-th shard; of one with fewer, every count-th
    span, and all of them read all shards.
    """

    number: int
    """From 1 on."""
    count: int

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.count}"

    @property
    def part(self) -> str:
        """The share as a user gives it."""
        return f"{self.number}/{self.count}"

    def is_of_shards(self, pool_shards: int) -> bool:
        """Return whether a pool of so many shards is shared by shards."""
        return pool_shards >= 4 * self.count

    def takes(self, number: int) -> bool:
        """Return whether the shard, or span, of this number is among it."""
        return number % self.count == self.number - 1


@dataclass(frozen=True, kw_only=True)
class SpanStart:
    """Where a span begins, and by which rule it ends: what a reader needs."""

    shard: Shard
    number: int
    """The shard's number in the pool."""
    fields: Fields
    part_documents: int
    row: int
    index: int
    mark: Mark
    """A place from which the row is reached."""
    is_taken: bool
    """Whether it is worked on here, or read only to know where the next one begins."""

    @property
    def order(self) -> tuple[int, int]:
        """That of the span."""
        return self.number, self.index


@dataclass(frozen=True, kw_only=True)
class UnfinishedShard:
    """A shard with parts missing from a folder."""

    shard: Shard
    number: int
    """The shard's number in the pool."""
    of: int
    """The number of the pool's shards."""
    fields: Fields
    part_documents: int
    start: int = 0
    """The first row without a part."""
    index: int = 0
    """Index of the part that begins there."""
    written: frozenset[Span] = frozenset()
    """Spans after that row that have a part: several processes finish parts out of order."""
    share: Share | None = None
    """The share of its spans that are worked on here; None: all of them."""
    marks: Marks | None = None
    """Of a large one, kept while it is read, so that another start need not read it from the beginning."""

    @property
    def portion(self) -> float:
        """How much of it is worked on here, about."""
        return 1 if self.share is None else 1 / self.share.count

    def takes(self, span: Span) -> bool:
        """Return whether a span is worked on here."""
        return self._takes(span.index)

    def _takes(self, index: int) -> bool:
        return self.share is None or self.share.takes(self.number + index)

    def read(self) -> Iterator[SpanRows]:
        """Read the shard from its first missing row on, and yield the spans that have no part and are worked on here.

        Where a span ends follows from the shard and `part_documents` alone.
        """
        reader, start = Reader(), self.first()
        while start is not None:
            span_rows = reader.read(start)
            if start.is_taken:
                yield span_rows
            start = self.behind(span_rows.span, span_rows.end)

    def first(self) -> SpanStart:
        """Return where the first missing span begins."""
        return self._start(self.start, self.index, START if self.marks is None else self.marks.before(self.start))

    def behind(self, span: Span, end: Mark) -> SpanStart | None:
        """Return where the next missing span begins after one that was read up to its end; None at the shard's."""
        if self.marks is not None:
            self.marks.reach(end)
        while not span.last and span.index + 1 in self._written:
            span = self._written[span.index + 1]
        return None if span.last else self._start(span.end, span.index + 1, end)

    @cached_property
    def _written(self) -> Mapping[int, Span]:
        return {span.index: span for span in self.written}

    def _start(self, row: int, index: int, mark: Mark) -> SpanStart:
        return SpanStart(
            shard=self.shard,
            number=self.number,
            fields=self.fields,
            part_documents=self.part_documents,
            row=row,
            index=index,
            mark=mark,
            is_taken=self._takes(index),
        )


class Reader:
    """Reads one span after another, and keeps its shard open: what follows there is read on."""

    def __init__(self) -> None:
        self._open: _OpenShard | None = None

    def read(self, start: SpanStart) -> SpanRows:
        """Return a span's rows. Raises CurateError where they cannot be read."""
        shard, self._open = self._open, None  # and closed, where reading fails
        if shard is None or not shard.leads_to(start):
            shard = _OpenShard(start)
        span_rows = shard.cut(start)
        self._open = None if span_rows.span.last else shard
        return span_rows


class _OpenShard:
    """A shard that is read up to a row."""

    def __init__(self, start: SpanStart) -> None:
        refuse_changed(start.shard)
        self._shard, self._fields = start.shard, start.fields
        self._course = Course(start.row, start.mark)
        self._row = start.row
        self._rows = self._read()
        self._ahead: list[tuple[Document | Skipped, Mark]] = []
        """The row behind the last span, by which it was known not to be the last."""

    def leads_to(self, start: SpanStart) -> bool:
        """Return whether a span lies ahead, and no mark nearer to it."""
        return self._shard == start.shard and start.mark.row <= self._row <= start.row

    def cut(self, start: SpanStart) -> SpanRows:
        """Read the rows of a span."""
        self._course.start = start.row
        rows: list[Document | Skipped] = []
        characters, end, is_last = 0, start.mark, True
        for row, mark in chain(self._ahead, self._rows):
            if row.row < start.row:
                continue
            if len(rows) >= start.part_documents or characters >= PART_CHARACTERS:
                self._ahead, is_last = [(row, mark)], False
                break
            rows.append(row)
            characters, end = characters + (len(row.plain_text) if isinstance(row, Document) else 0), mark
        self._row = rows[-1].row + 1 if rows else start.row
        if is_last:
            refuse_changed(self._shard)
        span = Span(
            shard=self._shard.name,
            shard_index=start.number,
            index=start.index,
            start=start.row,
            end=self._row,
            last=is_last,
        )
        return SpanRows(span=span, rows=rows, end=end)

    def _read(self) -> Iterator[tuple[Document | Skipped, Mark]]:
        """Stream the rows; a damaged shard ends with a row set aside that says so."""
        course = self._course
        try:
            for row in documents(self._shard, self._fields, course=course):
                yield row, course.mark
        except DamagedShard as error:
            row = Skipped(
                shard=self._shard.name, row=max(error.row, course.start), reason=DAMAGED, detail=error.message
            )
            yield row, course.mark


def unfinished(
    folder: PartFolder,
    pool: Pool,
    fields: Fields,
    part_documents: int,
    numbers: Mapping[str, int] | None = None,
) -> list[UnfinishedShard]:
    """Return the shards of a pool whose parts are incomplete in a folder, in order, without opening any.

    `numbers` are the shards' numbers by name, where they differ from the pool's order.
    """
    spans: dict[str, list[Span]] = {}
    for part in folder.all_parts():
        spans.setdefault(part.shard, []).append(part.span)
    shards = []
    for place, shard in enumerate(pool.shards):
        if folder.holds(shard.name):
            continue
        leading = folder.parts(shard.name)
        number = place if numbers is None else numbers[shard.name]
        shards.append(
            UnfinishedShard(
                shard=pool.digested(shard),
                number=number,
                of=len(pool.shards),
                fields=fields,
                part_documents=part_documents,
                start=leading[-1].end if leading else 0,
                index=len(leading),
                written=frozenset(spans.get(shard.name, [])[len(leading) :]),
                marks=Marks(folder.folder, f"{MARKS}/{number:05d}.json") if may_have_marks(shard.size) else None,
            )
        )
    return shards


def read_all(shards: Iterable[UnfinishedShard], make: Callable[[SpanRows], T]) -> Iterator[T | Unreadable]:
    """Yield `make`'s result for every span without a part, in order; an unreadable shard stops no other."""
    for shard in shards:
        try:
            yield from map(make, shard.read())
        except CurateError as error:
            yield Unreadable(shard=shard.shard.name, error=error)
