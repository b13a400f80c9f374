"""Formats of files made of blocks (Parquet, Arrow): all but opening a file and streaming its blocks."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from curate.documents.drawing import draw_from_blocks, until_broken, with_damage
from curate.documents.files import A_PAGE, FETCH, first_bytes, foreign, is_page
from curate.documents.shards import BadRow, Choice, DamagedShard, Row, Shard
from curate.documents.stretches import Course
from curate.errors import CurateError
from curate.folders.values import plain_batch, python_values


class OpenFile(Protocol):
    """An open file; it closes with its stack."""

    @property
    def schema(self) -> pa.Schema: ...

    def blocks(self) -> list[int]:
        """Return the number of rows per block (row group, record batch), without decoding them."""
        ...

    def stream(
        self, wants: Callable[[int, int], bool], columns: Sequence[str] | None, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Stream (first row, batch) of all blocks of which `wants(first row, number of rows)`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Columnar:
    """A `Format` made of a way to open files."""

    suffixes: tuple[str, ...]
    kind: str
    """The word for such a file in errors."""
    open: Callable[[Shard, ExitStack], OpenFile]
    rows_per_block: int | None = None
    """Rows that a sample takes from one block before it reads another; None: it may read every block."""
    note: str = ""
    named_only: bool = False
    rows_per_shard: int | None = None
    streamed: bool = False

    def schema(self, shard: Shard) -> pa.Schema:
        """Read the columns and types."""
        with self._opened(shard, [0]) as file:
            return file.schema

    def columns(self, shard: Shard) -> list[str]:
        """List the columns; none for a file without rows."""
        return list(self.schema(shard).names) if next(iter(self.rows(shard, columns=[])), None) else []

    def blocks(self, shard: Shard) -> list[int]:
        """Return the number of rows per block, without decoding them."""
        with self._opened(shard, [0]) as file:
            return file.blocks()

    def estimated_rows(self, shard: Shard) -> float:
        """Return the number of rows; 0 for a file that cannot be opened."""
        try:
            return float(sum(self.blocks(shard)))
        except CurateError:
            return 0.0

    def batches(
        self,
        shard: Shard,
        *,
        start: int = 0,
        only: Sequence[int] | np.ndarray | None = None,
        columns: Sequence[str] | None = None,
        batch_rows: int = 1024,
        course: Course | None = None,
    ) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Stream (row numbers, record batch); skip blocks without a chosen row. `course` has the start where given."""
        chosen = None if only is None else np.asarray(only, dtype=np.int64)
        course = course or Course(start)

        def wants(first_row: int, count: int) -> bool:
            return _overlaps(first_row, count, course.start, chosen)

        reached = [course.start]
        with self._opened(shard, reached) as file:
            for first_row, batch in file.stream(wants, columns, batch_rows):
                after = first_row + batch.num_rows
                if chosen is None:
                    numbers = np.arange(max(first_row, course.start), after, dtype=np.int64)
                    batch = plain_batch(batch.slice(batch.num_rows - len(numbers)))
                else:
                    low, high = np.searchsorted(chosen, [max(first_row, course.start), after])
                    numbers = chosen[low:high]
                    batch = plain_batch(batch).take(pa.array(numbers - first_row)) if len(numbers) else batch
                if len(numbers):
                    yield numbers, batch
                reached[0] = after
                if chosen is not None and not (len(chosen) and chosen[-1] >= after):
                    return  # what follows may be damaged

    def rows(
        self, shard: Shard, *, start: int = 0, only: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Row]]:
        """Stream rows as Python values; a row with a string that is not UTF-8 is a BadRow with the other values.

        Moments that Python cannot hold (after the year 9999) are null.
        """
        return _rows_of(self.batches(shard, start=start, only=only, columns=columns))

    def rows_along(
        self, shard: Shard, course: Course, columns: Sequence[str] | None = None, choice: Choice | None = None
    ) -> Iterator[tuple[int, Row]]:
        """Stream rows on a course, whose mark does not matter; blocks before its start, or unchosen, are not read."""
        only = None
        if choice is not None:
            end = choice.end if choice.end is not None else sum(self.blocks(shard))
            only = choice.rows(course.start, end)
        return _rows_of(self.batches(shard, only=only, columns=columns, course=course))

    def tables(
        self, shard: Shard, *, start: int = 0, only: Sequence[int] | None = None, batch_rows: int = 1024
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Stream tables of the file's own types."""
        for numbers, batch in self.batches(shard, start=start, only=only, batch_rows=batch_rows):
            yield numbers, pa.Table.from_batches([batch])

    def draw(
        self,
        shard: Shard,
        count: int,
        rng: random.Random,
        columns: Sequence[str] | None = None,
        most_bytes: int | None = None,
    ) -> tuple[Iterator[tuple[int, Row]], bool]:
        """Draw rows evenly from blocks drawn at random; `most_bytes` has no effect."""
        try:
            blocks = self.blocks(shard)
        except CurateError as error:
            return with_damage((), [error]), True
        damage: list[CurateError] = []
        drawn = draw_from_blocks(blocks, count, rng, self.rows_per_block)
        undamaged = until_broken(self.rows(shard, only=drawn, columns=columns), damage)
        return with_damage(undamaged, damage), count >= sum(blocks)

    @contextmanager
    def _opened(self, shard: Shard, reached: list[int]) -> Iterator[OpenFile]:
        """Open a file; turn errors into one that names the file and the row reached."""
        try:
            with ExitStack() as stack:
                file = self.open(shard, stack) if shard.size != 0 else _NoBytes()
                _check_names(shard, file.schema.names)
                yield file
        except (pa.ArrowException, OSError, EOFError) as error:
            if getattr(error, "errno", None) is not None:  # of the device or the network, not of the content
                raise CurateError(f"{shard.url}: reading failed after {reached[0]} rows: {error}") from error
            problem, hint = f"not a whole {self.kind} file ({error})", None
            head = first_bytes(shard.url)
            if is_page(head):
                problem, hint = A_PAGE, FETCH
            elif head.lstrip().startswith((b"{", b"[")):
                problem, hint = f"text, and no {self.kind} file", "If it holds JSON, give it the ending .jsonl."
            elif (told := foreign(head)) is not None and not told[0].startswith((f"a {self.kind}", f"an {self.kind}")):
                problem, hint = told[0].replace("and no text", f"and no {self.kind} file"), told[1]
            raise DamagedShard.at(reached[0], shard, problem, hint) from error


class _NoBytes:
    """A file without a byte, which some writers leave: it has no columns and no rows."""

    schema = pa.schema([])

    def blocks(self) -> list[int]:
        return []

    def stream(
        self, wants: Callable[[int, int], bool], columns: Sequence[str] | None, batch_rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        return iter(())


def _overlaps(first_row: int, count: int, start: int, chosen: np.ndarray | None) -> bool:
    if count == 0 or first_row + count <= start:
        return False
    if chosen is None:
        return True
    low, high = np.searchsorted(chosen, [max(first_row, start), first_row + count])
    return bool(high > low)


def _check_names(shard: Shard, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CurateError(
            f"{shard.url}: two columns are called {twice!r}.", hint="Write the file again with a name for each column."
        )


def _rows_of(batches: Iterable[tuple[np.ndarray, pa.RecordBatch]]) -> Iterator[tuple[int, Row]]:
    for numbers, batch in batches:
        batch = _whole_microseconds(batch)
        try:
            values: Sequence[Any] = batch.to_pylist()
        except (ValueError, OverflowError):
            values = _rows_with_unheld(batch)
        yield from zip(numbers.tolist(), values, strict=True)


def _rows_with_unheld(batch: pa.RecordBatch) -> list[Row]:
    """Return rows of which some hold values that Python has no object for."""
    columns = [_values(column) for column in batch.columns]
    return [_row(batch.schema.names, values) for values in zip(*columns, strict=True)]


def _row(names: Sequence[str], values: Sequence[Any]) -> Row:
    row = dict(zip(names, values, strict=True))
    undecoded = {name: value for name, value in row.items() if isinstance(value, UnicodeDecodeError)}
    if not undecoded:
        return row
    others = {name: value for name, value in row.items() if name not in undecoded}
    detail = "; ".join(f"column {name!r}: {error}" for name, error in undecoded.items())
    return BadRow(reason="undecodable row", detail=detail, columns=tuple(undecoded), others=others)


def _values(column: pa.Array) -> list[Any]:
    """Return a column's values; in the place of one with a string that is not UTF-8, the error."""
    try:
        return python_values(column, _null_unless_string)
    except UnicodeDecodeError as error:
        if len(column) == 1:
            return [error]
        return [value for i in range(len(column)) for value in _values(column.slice(i, 1))]


def _null_unless_string(scalar: pa.Scalar) -> None:
    if pa.types.is_string(scalar.type) or pa.types.is_large_string(scalar.type):
        scalar.as_py()  # raises again


def _whole_microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Cut nanoseconds, which Python's datetime cannot hold."""
    for i, field in enumerate(batch.schema):
        finer = getattr(field.type, "unit", None) == "ns"
        if finer and pa.types.is_timestamp(field.type):
            microseconds: pa.DataType = pa.timestamp("us", field.type.tz)
        elif finer and pa.types.is_time64(field.type):
            microseconds = pa.time64("us")
        elif finer and pa.types.is_duration(field.type):
            microseconds = pa.duration("us")
        else:
            continue
        batch = batch.set_column(i, field.name, batch.column(i).cast(microseconds, safe=False))
    return batch
