"""Spans and parts: a part holds one span's rows, and the footer of its file says which.

A file holds one part, or several that follow one another (`curate.folders.merging`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.errors import CurateError
from curate.folders.folder import Folder
from curate.schema import SKIPPED_SCHEMA

ROW_GROUP = 122_880  # DuckDB's own: one group is one unit of parallel work
SPANS = "curate.spans"
"""The key in the footer of a file of several parts: a list of each one's span and place, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Rows `start` to `end` (exclusive; skipped rows count) of one shard; `last` when the shard ends here."""

    shard: str
    shard_index: int
    index: int
    start: int
    end: int
    last: bool

    @property
    def order(self) -> tuple[int, int]:
        """The key that sorts spans into pool order."""
        return self.shard_index, self.index

    @property
    def name(self) -> str:
        """The name of a part's files, without their endings."""
        return f"{self.shard_index:05d}-{self.index:05d}"

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(Span)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a part's rows lie in a file of several."""

    group: int
    """The row group that holds them."""
    offset: int
    """How many rows of that group come before."""
    num_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Span):
    """A span whose rows are in a folder."""

    path: Path
    schema: pa.Schema = field(compare=False, repr=False)
    """Columns of its table, from its footer."""
    place: Place | None = None
    """None: the file is this part's alone."""

    @property
    def span(self) -> Span:
        return Span(**self.as_dict())

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read its table, or some columns of it."""
        names = None if columns is None else list(columns)
        with pq.ParquetFile(self.path) as file:
            if self.place is None:
                return file.read(columns=names, use_threads=False)
            group = file.read_row_group(self.place.group, columns=names, use_threads=False)
        return group.slice(self.place.offset, self.place.num_rows)

    def skipped(self, folder: Folder) -> pa.Table:
        """Read the rows of its span that were set aside from the folder that it lies in."""
        name = f"skipped/{self.path.name}"
        if not folder.exists(name):
            return SKIPPED_SCHEMA.empty_table()
        table = pq.read_table(folder.local(name))
        if self.place is None:
            return table
        row = pc.field("row")
        return table.filter((pc.field("shard") == self.shard) & (row >= self.start) & (row < self.end))


def put_table(folder: Folder, name: str, table: pa.Table, metadata: dict[str, str]) -> None:
    """Put a table as Parquet; equal rows give equal bytes, however the table was chunked."""
    table = table.combine_chunks().replace_schema_metadata(metadata)
    folder.put(name, lambda path: pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP))


def metadata_of(span: Span) -> dict[str, str]:
    return {f"curate.{key}": _encode(value) for key, value in span.as_dict().items()}


def metadata_of_several(spans: Sequence[Span], places: Sequence[Place]) -> dict[str, str]:
    entries = [
        [s.shard, s.shard_index, s.index, s.start, s.end, s.last, p.group, p.offset, p.num_rows]
        for s, p in zip(spans, places, strict=True)
    ]
    return {SPANS: json.dumps(entries)}


def read_parts(path: Path) -> list[Part]:
    """Read the spans of a file's parts, and their columns, from its footer alone."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CurateError(
            f"{path}: not a readable Parquet file ({error}).",
            hint="Delete this file and start the same run again: it writes the part anew.",
        ) from error
    metadata, columns = schema.metadata or {}, schema.remove_metadata()
    if (spans := metadata.get(SPANS.encode())) is not None:
        return [_part_of_several(entry, path, columns) for entry in json.loads(spans)]
    values = {key: metadata.get(f"curate.{key}".encode()) for key in (f.name for f in fields(Span))}
    missing = [key for key, value in values.items() if value is None]
    if missing:
        raise CurateError(
            f"{path}: not a part of a run (its metadata lacks {', '.join(missing)}).",
            hint="Keep other files out of a run's scores/ folder.",
        )
    texts = {key: value.decode() for key, value in values.items() if value is not None}
    return [
        Part(
            shard=texts["shard"],
            shard_index=int(texts["shard_index"]),
            index=int(texts["index"]),
            start=int(texts["start"]),
            end=int(texts["end"]),
            last=texts["last"] == "1",
            path=path,
            schema=columns,
        )
    ]


def _part_of_several(entry: Sequence[Any], path: Path, columns: pa.Schema) -> Part:
    shard, shard_index, index, start, end, last, group, offset, num_rows = entry
    place = Place(group=group, offset=offset, num_rows=num_rows)
    return Part(
        shard=shard,
        shard_index=shard_index,
        index=index,
        start=start,
        end=end,
        last=last,
        path=path,
        schema=columns,
        place=place,
    )


def _encode(value: str | int | bool) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
