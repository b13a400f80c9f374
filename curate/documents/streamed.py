"""Formats of files whose rows are read one after another: all but splitting into records and decoding one."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice
from typing import IO, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from curate.documents.choices import chosen
from curate.documents.drawing import draw_from_stream, until_broken, with_damage
from curate.documents.elements import HEAD, with_head
from curate.documents.files import COMPRESSIONS, compression_of, foreign, open_binary
from curate.documents.lines import (
    CONVERT,
    Beginning,
    Rest,
    Truncated,
    as_utf8,
    encoding_of,
    filled_line,
    head_compression,
    inflated,
    split_lines,
)
from curate.documents.shards import BadRow, Choice, DamagedShard, Row, Shard
from curate.documents.stretches import Course, Mark
from curate.errors import CurateError
from curate.folders.values import array_of, storage_type, types_of

R = TypeVar("R")

_FIRST_ROWS = 1000
_PROBED_BYTES = 1 << 18


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make a table of every key any row has, in the order first seen.

    Types are inferred per batch. Where values share no Arrow type, in a column or in its lists and objects, there are
    strings: strings as they are, other values as JSON.
    """
    types = types_of(rows)
    return pa.table({k: array_of([row.get(k) for row in rows], storage_type(kind)) for k, kind in types.items()})


def count_lines(blocks: Iterator[bytes], _shard: Shard) -> int:
    """Count lines, blank ones too."""
    return sum(1 for _ in split_lines(blocks))


@dataclass(frozen=True, kw_only=True)
class Streamed(Generic[R]):
    """A `Format`, plain or compressed, made of a function that splits records and one that decodes them.

    Rows before `start`, rows outside `only` and rows that a sample leaves out are counted, never decoded.
    """

    endings: tuple[str, ...]
    """Of plain files; compressed ones have another suffix behind."""
    records: Callable[[Iterator[bytes], Shard], Iterator[tuple[int, R]]]
    """Cut blocks of bytes into records, one per row, each with the number of its first line (from 1)."""
    decode: Callable[[R, int], Row]
    """Make a row of a record and its line number."""
    table: Callable[[Sequence[Mapping[str, Any]]], pa.Table] = table_of
    """Make a table of rows."""
    count: Callable[[Iterator[bytes], Shard], int] = count_lines
    """Count the rows in the first blocks of a file, which end anywhere."""
    row: str = "a row"
    """What a line should be, for the error where none of the first lines is one."""
    hint: str | None = None
    """The hint of that error."""
    note: str = ""
    named_only: bool = False
    rows_per_shard: int | None = None
    json_lines: bool = False
    """Whether records are JSON objects, as bytes; a selection as lines of JSON copies them."""
    lines_alone: bool = False
    """Whether every line that is not blank is a record, as bytes, so that reading goes on behind any of them."""
    spans_lines: Callable[[bytes], bool] | None = None
    """Of a file's first bytes, tell whether its records are no lines after all, so that it is read from its start."""
    preamble: Callable[[Iterator[bytes], Shard], list[bytes]] | None = None
    """Of a file's lines, return those that stand before the rest where reading goes on behind a record, which ends with
    a line. None: where lines are no records, a file is read from its start only."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        return tuple(ending + suffix for ending in self.endings for suffix in ("", *COMPRESSIONS))

    @property
    def streamed(self) -> bool:
        return self.rows_per_shard is None

    def _beginning(self, shard: Shard, size: int) -> Iterator[tuple[int, int, R]]:
        """Stream what `numbered` does of a shard's first bytes; the last record may be cut and is left out."""
        with open_binary(shard.url) as stream:
            beginning = Beginning(stream, size)
            previous = None
            try:
                for row, (number, record) in enumerate(self.records(_texts(beginning, shard), shard)):
                    if previous is not None:
                        yield previous
                    previous = row, number, record
            except Truncated as broken:
                if beginning.left:
                    row = 0 if previous is None else previous[0] + 1
                    raise DamagedShard.at(row, shard, str(broken), broken.hint) from broken

    def numbered(self, shard: Shard) -> Iterator[tuple[int, int, R]]:
        """Stream (row from 0, line number from 1, record).

        Raises DamagedShard with the row reached, after giving all that could be read, when the stream is broken.
        """
        row = 0
        try:
            with open_binary(shard.url) as stream:
                for number, record in self.records(_texts(stream, shard), shard):
                    yield row, number, record
                    row += 1
        except Truncated as broken:
            raise DamagedShard.at(row, shard, str(broken), broken.hint) from broken
        except OSError as error:
            raise CurateError(f"{shard.url}: reading failed after {row} rows: {error}") from error

    def rows(
        self, shard: Shard, *, start: int = 0, only: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Row]]:
        """Stream whole rows; `columns` has no effect."""
        if only is not None:
            return self._chosen(shard, [r for r in only if r >= start])
        return ((row, self.decode(record, number)) for row, number, record in self.numbered(shard) if row >= start)

    def rows_along(
        self, shard: Shard, course: Course, columns: Sequence[str] | None = None, choice: Choice | None = None
    ) -> Iterator[tuple[int, Row]]:
        """Stream whole rows on a course; of a plain file nothing before its mark is read.

        Of a choice of rows, nothing behind the last of them is read.
        """
        has_marks = self.lines_alone or self.preamble is not None
        if has_marks and compression_of(shard.url) is None:
            records = self._from_mark(shard, course)
        else:
            records = self.numbered(shard)
        if choice is not None:
            records = chosen(records, choice, course.start)
        return ((row, self.decode(record, number)) for row, number, record in records if row >= course.start)

    def _from_mark(self, shard: Shard, course: Course) -> Iterator[tuple[int, int, Any]]:
        """Stream what `numbered` does of a plain file, from its mark on."""
        try:
            with open_binary(shard.url) as stream:
                if not course.mark.offset and self._is_read_whole(stream.read(HEAD)):
                    yield from self.numbered(shard)
                elif self.lines_alone:
                    yield from _lines_along(stream, course)
                else:
                    yield from self._records_along(stream, shard, course)
        except OSError as error:
            raise CurateError(f"{shard.url}: reading failed after {course.mark.row} rows: {error}") from error

    def _is_read_whole(self, head: bytes) -> bool:
        """Return whether a plain file with these first bytes has no marks."""
        by_head = head_compression(head, None) is not None or encoding_of(head[:4]) is not None
        by_head = by_head or foreign(head) is not None
        return by_head or (self.spans_lines is not None and self.spans_lines(head))

    def _records_along(self, stream: IO[bytes], shard: Shard, course: Course) -> Iterator[tuple[int, int, R]]:
        offset, row, line = course.mark
        stream.seek(0)
        ahead = self.preamble(split_lines(inflated(stream, None)), shard) if offset and self.preamble else []
        stream.seek(offset)

        def lines() -> Iterator[bytes]:
            nonlocal offset, line
            for text in split_lines(inflated(stream, None)):
                offset, line = offset + len(text) + 1, line + 1
                yield text + b"\n"

        before = line - len(ahead)
        for number, record in self.records(chain((text + b"\n" for text in ahead), lines()), shard):
            row += 1
            course.mark = Mark(offset, row, line)
            yield row - 1, before + number, record

    def lines(self, shard: Shard, only: Sequence[int]) -> Iterator[tuple[int, R, Row]]:
        """Stream (row number, record, decoded row) of chosen rows."""
        return ((row, record, self.decode(record, number)) for row, number, record in self._records(shard, only))

    def _chosen(self, shard: Shard, only: Sequence[int]) -> Iterator[tuple[int, Row]]:
        return ((row, self.decode(record, number)) for row, number, record in self._records(shard, only))

    def _records(self, shard: Shard, only: Sequence[int]) -> Iterator[tuple[int, int, R]]:
        row_numbers = iter(only)
        next_row = next(row_numbers, None)
        if next_row is None:
            return
        for row, number, record in self.numbered(shard):
            if row == next_row:
                yield row, number, record
                next_row = next(row_numbers, None)
                if next_row is None:
                    return

    def tables(
        self, shard: Shard, *, start: int = 0, only: Sequence[int] | None = None, batch_rows: int = 1024
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Gather decoded rows into tables, each typed by itself; rows that could not be decoded are left out.

        Of rows that were chosen, those are there whose columns a table can keep as bytes.
        """
        rows = ((n, _for_table(row, chosen=only is not None)) for n, row in self.rows(shard, start=start, only=only))
        decoded = ((n, row) for n, row in rows if row is not None)
        damage: list[DamagedShard] = []
        whole = _until_damaged(decoded, damage)
        while batch := list(islice(whole, batch_rows)):
            yield np.array([n for n, _ in batch], dtype=np.int64), self.table([row for _, row in batch])
        if damage:
            raise damage[0]

    def schema(self, shard: Shard) -> None:
        """Return None: only the rows tell the columns."""

    def columns(self, shard: Shard) -> list[str]:
        """List the columns of the first thousand rows, or of those before the damage."""
        columns: dict[str, None] = {}
        first_bad: BadRow | None = None
        damage: list[DamagedShard] = []
        for _, row in islice(_until_damaged(self.rows(shard), damage), _FIRST_ROWS):
            if isinstance(row, BadRow):
                first_bad = first_bad or row
            else:
                columns.update(dict.fromkeys(row))
        if damage and not columns:
            raise damage[0]
        if first_bad and not columns:
            raise CurateError(
                f"{shard.url}: none of the first lines is {self.row}; {first_bad.reason}, {first_bad.detail}",
                hint=first_bad.hint or (CONVERT if "UTF-8" in first_bad.detail else self.hint),
            )
        return list(columns)

    def estimated_rows(self, shard: Shard) -> float:
        """Estimate the number of rows from the first 256 KiB, where not every file has the same."""
        if self.rows_per_shard is not None:
            return float(self.rows_per_shard)
        with open_binary(shard.url) as stream:
            head = stream.read(_PROBED_BYTES)
        if not head:
            return 0.0
        try:
            count = self.count(_readable(head, shard), shard)
        except CurateError:
            return 0.0
        return max(count, 1) * max(shard.size or 0, len(head)) / len(head)

    def draw(
        self,
        shard: Shard,
        count: int,
        rng: random.Random,
        columns: Sequence[str] | None = None,
        most_bytes: int | None = None,
    ) -> tuple[Iterator[tuple[int, Row]], bool]:
        """Draw rows evenly along the file in one pass, or along its first bytes, decoding only those drawn."""
        damage: list[CurateError] = []
        is_cut = most_bytes is not None and (shard.size is None or shard.size > most_bytes)
        records = self._beginning(shard, most_bytes) if is_cut and most_bytes is not None else self.numbered(shard)
        kept, seen = draw_from_stream(until_broken(records, damage), count, rng)
        decoded = ((row, self.decode(record, number)) for _, (row, number, record) in kept)
        return with_damage(decoded, damage), seen <= count


def _for_table(row: Row, *, chosen: bool) -> Mapping[str, Any] | None:
    if isinstance(row, BadRow):
        return row.whole if chosen else None
    return row


def _until_damaged(items: Iterator[R], damage: list[DamagedShard]) -> Iterator[R]:
    """Yield the items before a shard's damage, and keep its error until they have been used."""
    try:
        yield from items
    except DamagedShard as error:
        damage.append(error)


def _lines_along(stream: IO[bytes], course: Course) -> Iterator[tuple[int, int, bytes]]:
    """Stream the lines that are not blank, each by itself a record."""
    offset, row, line = course.mark
    stream.seek(offset)
    for text in split_lines(inflated(stream, None)):
        offset, line = offset + len(text) + 1, line + 1
        filled = filled_line(text)
        if filled is not None:
            row += 1
            course.mark = Mark(offset, row, line)
            yield row - 1, line, filled


def _texts(stream: IO[bytes] | Beginning, shard: Shard) -> Iterator[bytes]:
    """Yield a file's text; what its first bytes say of its compression wins over what its name says."""
    head = stream.read(HEAD)
    blocks = inflated(Rest(head, stream), head_compression(head, compression_of(shard.url)))
    within, blocks = with_head(blocks)
    if (told := foreign(head) or foreign(within)) is not None:
        raise Truncated(*told)
    if within != head[: len(within)] and head_compression(within, None) is not None:
        raise Truncated("compressed twice", "Unpack it once.")
    return as_utf8(blocks)


def _readable(head: bytes, shard: Shard) -> Iterator[bytes]:
    try:
        yield from _texts(BytesIO(head), shard)
    except Truncated:  # the head is cut on purpose
        return
