"""A selection written as the pool's own rows with their scores, in jobs that workers share.

First every block of shards is read into a spool; that tells all columns. Then the files are written from the spools.
Blocks and files follow from the selection alone, so that its bytes are the same whoever does the jobs.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.documents import Shard, columns_metadata, json_lines, raw_tables
from curate.fields import Fields
from curate.jobs import Advance
from curate.progress import Reporter
from curate.selection.columns import LINE, MARK, Columns, Seen
from curate.selection.formats import FILE_BYTES, SPLIT, describe_arrow, file_name, write_file
from curate.selection.kinds import Kind, Kinds
from curate.selection.left import Left, RowsLeft, blocks, refuse_fewer
from curate.selection.lines import Lines
from curate.selection.spool import Piece, Spool, gathered, get_value, put_value, read, remove
from curate.selection.typed import Typed, loadable
from curate.selection.workers import Doing, Workers, in_this_process

ByToken = tuple[pa.Schema, Iterator[dict[str, Any]]]
"""The columns of chosen tokens, and each document's, with its row's number as `row`."""
_FACTS, _COLUMNS = "facts", "columns"


@dataclass(frozen=True, kw_only=True)
class RowFiles:
    """What the files hold."""

    columns: Columns
    kinds: set[Kind]
    features: list[Any] | None
    """Features that the card must state, as lines of JSON cannot."""


def write_row_files(
    left: Left,
    folder: Path,
    format: str,
    fingerprint: str,
    reporter: Reporter,
    *,
    places: np.ndarray | None = None,
    by_token: ByToken | None = None,
    workers: Workers | None = None,
) -> RowFiles:
    """Write the rows that are left into `folder`/train. With `by_token` this process does it alone."""
    spools = folder / "spools"
    spools.mkdir()
    with (workers if workers is not None and by_token is None else in_this_process)(Doing()) as have_done:
        jobs = (
            Block(rows=rows, fields=left.fields, folder=spools / f"{number:08d}", by_token=by_token)
            for number, rows in enumerate(blocks(left.rows(places)))
        )
        with reporter.stage("write", total=left.funnel.stages[-1].documents) as task:
            have_done(jobs, task)
        columns, kinds, pieces = _learned(spools)
        put_value(spools / _COLUMNS, columns)
        writer = writer_for(columns, format)
        files = _files(pieces, spools, folder / SPLIT, format)
        (folder / SPLIT).mkdir()
        with reporter.stage("write files", total=len(files), unit="files") as task:
            have_done(files, task, _Removing(files))
    for file in files:
        columns.note(*get_value(file.notes))
    remove(spools)
    if format == "arrow":
        describe_arrow(folder, writer.schema, [file.path.name for file in files], fingerprint)
    features = writer.front_matter() if isinstance(writer, Lines) else None
    return RowFiles(columns=columns, kinds=kinds, features=features)


def writer_for(columns: Columns, format: str) -> Lines | Typed:
    """Return what makes tables of a spool those of a format; columns are told what is written otherwise."""
    return Lines(columns) if format == "jsonl.zst" else Typed(columns, parquet=format == "parquet")


@dataclass(kw_only=True)
class Facts:
    """What the rows of a block tell, and where they are."""

    seen: list[Seen] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    scores: pa.Schema | None = None
    kinds: set[Kind] = field(default_factory=set)
    pieces: list[Piece] = field(default_factory=list)

    def see(self, seen: Seen) -> None:
        if not self.seen or seen != self.seen[-1]:
            self.seen.append(seen)

    def note(self, sentence: str) -> None:
        self.notes[sentence] = None

    def teach(self, columns: Columns) -> None:
        """Tell columns what the rows tell."""
        for seen in self.seen:
            columns.learn(seen)
        columns.note(*self.notes)
        columns.learn_scores(self.scores or ())


@dataclass(frozen=True, kw_only=True)
class Block:
    """The job to read the rows of some shards that are left into a spool."""

    rows: tuple[RowsLeft, ...]
    fields: Fields
    folder: Path
    by_token: ByToken | None = None

    @property
    def name(self) -> str:
        return f"the shards from {self.rows[0][0].name} to {self.rows[-1][0].name}"

    def do(self, advance: Advance) -> None:
        spool, facts, kinds = Spool(self.folder), Facts(), Kinds(self.fields)
        for shard, kept in self.rows:
            for table in self._tables(shard, kept, facts, kinds):
                spool.write(table)
                advance(table.num_rows)
        spool.close()
        facts.kinds, facts.pieces = kinds.kinds, spool.pieces
        put_value(self.folder / _FACTS, facts)

    def _tables(self, shard: Shard, kept: pa.Table, facts: Facts, kinds: Kinds) -> Iterator[pa.Table]:
        """Yield a shard's rows that are left, with their scores."""
        row_numbers, scores = kept.column("row").to_numpy(), kept.drop_columns(["row"])
        facts.scores = pa.schema([*scores.schema, *(self.by_token[0] if self.by_token else ())])
        num_read = 0
        for numbers, table in _pool_tables(shard, row_numbers.tolist(), facts, kinds):
            places = np.searchsorted(row_numbers, numbers)
            num_read += len(numbers)
            for name in scores.column_names:
                table = table.append_column(MARK + name, scores.column(name).take(places))
            yield table if self.by_token is None else _with_tokens(table, numbers, *self.by_token)
        refuse_fewer(shard, num_read, len(row_numbers))


@dataclass(frozen=True, kw_only=True)
class RowFile:
    """The job to write one file from spools."""

    path: Path
    pieces: Sequence[Piece]
    columns: Path
    format: str

    @property
    def name(self) -> str:
        return f"the file {self.path.name}"

    @property
    def notes(self) -> Path:
        """Where the sentences lie on what this file has otherwise than the pool."""
        return self.columns.with_name(f"{self.path.name}.notes")

    def do(self, advance: Advance) -> None:
        columns: Columns = get_value(self.columns)
        writer = writer_for(columns, self.format)
        write_file(gathered(map(writer.table, read(self.pieces))), writer.schema, self.path, self.format)
        put_value(self.notes, columns.notes)
        advance(1)


def _learned(spools: Path) -> tuple[Columns, set[Kind], list[Piece]]:
    """Return what all blocks tell, in the pool's order, and their tables."""
    columns, kinds, pieces = Columns(), set[Kind](), list[Piece]()
    for folder in sorted(spools.iterdir()):
        facts: Facts = get_value(folder / _FACTS)
        facts.teach(columns)
        kinds |= facts.kinds
        pieces += facts.pieces
    return columns, kinds, pieces


def _files(pieces: Sequence[Piece], spools: Path, folder: Path, format: str) -> list[RowFile]:
    """Cut a selection into files of half a gigabyte in memory."""
    cuts: list[list[Piece]] = [[]]
    num_bytes = 0
    for piece in pieces:
        if num_bytes >= FILE_BYTES:
            cuts.append([])
            num_bytes = 0
        cuts[-1].append(piece)
        num_bytes += piece.num_bytes
    return [
        RowFile(path=folder / file_name(number, format), pieces=cut, columns=spools / _COLUMNS, format=format)
        for number, cut in enumerate(cuts)
    ]


class _Removing:
    """Remove spools once all files are written that hold their rows."""

    def __init__(self, files: Sequence[RowFile]) -> None:
        self._waiting = Counter(path for file in files for path in {piece.path for piece in file.pieces})

    def __call__(self, file: RowFile) -> None:
        for path in {piece.path for piece in file.pieces}:
            self._waiting[path] -= 1
            if not self._waiting[path]:
                remove(path)


def _with_tokens(table: pa.Table, numbers: np.ndarray, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> pa.Table:
    """Append the columns of the next documents' tokens."""
    next_rows = list(islice(rows, table.num_rows))
    if [row.pop("row") for row in next_rows] != numbers.tolist():
        raise AssertionError("chosen tokens and rows of the pool come in different orders")
    for token_field in schema:
        values = pa.array([row[token_field.name] for row in next_rows], token_field.type)
        table = table.append_column(MARK + token_field.name, values)
    return table


def _pool_tables(shard: Shard, only: list[int], facts: Facts, kinds: Kinds) -> Iterator[tuple[np.ndarray, pa.Table]]:
    if lines := json_lines(shard, only=only):
        for numbers, texts, rows in lines:
            facts.see(Seen.in_lines(rows))
            kinds.learn(rows)
            yield numbers, pa.table({LINE: pa.array(texts, pa.large_binary())})
        return
    metadata = columns_metadata(shard)
    for numbers, table in raw_tables(shard, only=only):
        table = loadable(table, facts.note)
        facts.see(Seen.in_table(table, metadata))
        kinds.learn_table(table)
        yield numbers, table
