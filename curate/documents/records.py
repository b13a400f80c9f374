"""Make documents of rows: find the content, check it, hash it, keep the scalar columns."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import xxhash

from curate.documents import formats, shapes
from curate.documents.rows import rows
from curate.documents.shapes.contract import Refused
from curate.documents.shards import BadRow, Shard
from curate.documents.stretches import Course
from curate.fields import Fields
from curate.schema import Document, Skipped

_MOST_BITS = 8192  # Python writes no more than 4 300 digits of a number


def documents(
    shard: Shard,
    fields: Fields,
    *,
    start: int = 0,
    only: Sequence[int] | None = None,
    course: Course | None = None,
) -> Iterator[Document | Skipped]:
    """Stream every row from `start`, in order, as a document or as Skipped with its reason.

    Nested columns that are not content are not read from Parquet and Arrow. `only` (sorted, distinct) gives just those
    rows; `course` is as in `rows`. Raises DamagedShard with the row reached where the file is broken, after the rows
    before it.
    """
    for row, raw in rows(shard, start=start, only=only, columns=useful_columns(shard, fields), course=course):
        yield document_of(shard.name, row, raw, fields)


def document_of(shard: str, row: int, raw: Mapping[str, Any] | BadRow, fields: Fields) -> Document | Skipped:
    """Return one row's document, or Skipped with the reason.

    Reasons: those of BadRow, 'no text', those of the shapes ('not a string', 'empty text', 'invalid messages' …), and
    'too deep or too large'.
    """
    if isinstance(raw, BadRow) and raw.others is not None and not set(raw.columns) & set(fields.columns):
        raw = raw.others
    if isinstance(raw, BadRow):
        return Skipped(shard=shard, row=row, reason=raw.reason, detail=raw.detail)
    try:
        return _document(shard, row, raw, fields)
    except (RecursionError, MemoryError, orjson.JSONEncodeError) as error:  # orjson's own limit is 254 levels
        detail = f"its values cannot be worked on: {error or type(error).__name__}"
        return Skipped(shard=shard, row=row, reason="too deep or too large", detail=detail)


def _document(shard: str, row: int, raw: Mapping[str, Any], fields: Fields) -> Document | Skipped:
    pool_id = _pool_id(raw.get(fields.id))
    shape = shapes.shape_of(raw, fields)
    content = _no_text(raw, fields) if shape is None else shape.read(raw, fields)
    if isinstance(content, Refused):
        return Skipped(shard=shard, row=row, reason=content.reason, detail=content.detail, doc_id=pool_id)
    content_hash = hash_content(content)
    return Document(
        doc_id=pool_id if pool_id is not None else content_hash,
        shard=shard,
        row=row,
        content_hash=content_hash,
        metadata=_metadata(raw, {*fields.columns, *(shape.columns(raw, fields) if shape else ())}),
        **content,
    )


def hash_content(content: Mapping[str, Any]) -> str:
    """Hash the content alone: 32 hex digits of XXH3-128 over its kind and a canonical encoding.

    Equal content has the same hash in every format: keys of messages are sorted, null ones dropped.
    """
    if "text" in content:
        return xxhash.xxh3_128_hexdigest(b"text\0" + _utf8(content["text"]))
    prefix = b"messages\0" if "messages" in content else b"completion\0"
    values = content.get("messages") or [content["prompt"], content["completion"]]
    values = [values, content["tools"]] if "tools" in content else values
    return xxhash.xxh3_128_hexdigest(prefix + orjson.dumps(values, default=str, option=orjson.OPT_SORT_KEYS))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def useful_columns(shard: Shard, fields: Fields) -> list[str] | None:
    """List the columns that are content or may be metadata; None where the file does not state its columns."""
    schema = formats.get(shard.format).schema(shard)
    if schema is None:
        return None
    content = {*fields.columns, *shapes.content_columns(schema.names, fields)}
    return [f.name for f in schema if f.name in content or not pa.types.is_nested(f.type)]


def _no_text(raw: Mapping[str, Any], fields: Fields) -> Refused:
    columns = f"columns here: {', '.join(map(str, raw)) or 'none'}"
    null = [c for c in fields.columns[:-1] if c in raw and raw[c] is None]
    nulls = f" (null: {', '.join(null)})" if null else ""
    return Refused("no text", f"expected {shapes.expected(fields)}; {columns}{nulls}")


def _pool_id(value: Any) -> str | None:
    """Return the pool's id of a document; None where it is missing or nested."""
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, str | int | float | Decimal | date) and value == value else None


def _metadata(raw: Mapping[str, Any], content_columns: Collection[str]) -> dict[str, Any]:
    return {
        k: scalar for k, value in raw.items() if k not in content_columns and (scalar := _scalar(value)) is not _NESTED
    }


_NESTED = object()


def _scalar(value: Any) -> Any:
    """Return a value that SQL can group by; _NESTED for lists, objects and bytes."""
    if value is None or isinstance(value, str | bool | float | datetime | date | time):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value) if value.bit_length() <= _MOST_BITS else None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _NESTED
