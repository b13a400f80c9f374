"""Spans and parts: a part holds one span's rows, and its footer says which."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import CurateError
from curate.folders.folder import Folder

ROW_GROUP = 122_880  # DuckDB's own: one group is one unit of parallel work


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
class Part(Span):
    """A span whose files are in a folder."""

    path: Path
    schema: pa.Schema = field(compare=False, repr=False)
    """Columns of its table, from its footer."""

    @property
    def span(self) -> Span:
        return Span(**self.as_dict())


def put_table(folder: Folder, name: str, table: pa.Table, metadata: dict[str, str]) -> None:
    """Put a table as Parquet; equal rows give equal bytes, however the table was chunked."""
    table = table.combine_chunks().replace_schema_metadata(metadata)
    folder.put(name, lambda path: pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP))


def metadata_of(span: Span) -> dict[str, str]:
    return {f"curate.{key}": _encode(value) for key, value in span.as_dict().items()}


def read_part(path: Path) -> Part:
    """Read a part's span and columns from its footer alone."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CurateError(
            f"{path}: not a readable Parquet file ({error}).",
            hint="Delete this file and start the same run again: it writes the part anew.",
        ) from error
    metadata = schema.metadata or {}
    values = {key: metadata.get(f"curate.{key}".encode()) for key in (f.name for f in fields(Span))}
    missing = [key for key, value in values.items() if value is None]
    if missing:
        raise CurateError(
            f"{path}: not a part of a run (its metadata lacks {', '.join(missing)}).",
            hint="Keep other files out of a run's scores/ folder.",
        )
    texts = {key: value.decode() for key, value in values.items() if value is not None}
    return Part(
        shard=texts["shard"],
        shard_index=int(texts["shard_index"]),
        index=int(texts["index"]),
        start=int(texts["start"]),
        end=int(texts["end"]),
        last=texts["last"] == "1",
        path=path,
        schema=schema.remove_metadata(),
    )


def _encode(value: str | int | bool) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
