"""Make documents of rows: find the content, check it, hash it, keep the scalar columns."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import starmap
from typing import Any

import orjson
import pyarrow as pa
import xxhash

from curate.documents import formats, shapes
from curate.documents.rows import rows
from curate.documents.shapes.contract import Refused, Shape
from curate.documents.shards import BadRow, Row, Shard
from curate.documents.stretches import Course
from curate.fields import Fields
from curate.schema import Document, Skipped

_MOST_KINDS = 1024  # of rows: those that are maps in disguise have columns of their own each
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
    numbered = rows(shard, start=start, only=only, columns=useful_columns(shard, fields), course=course)
    yield from starmap(DocumentMaker(shard.name, fields), numbered)


class DocumentMaker:
    """Makes documents of a shard's rows. What follows from a row's columns is found once for all rows with the same."""

    def __init__(self, shard: str, fields: Fields) -> None:
        self._shard, self._fields = shard, fields
        self._shapes: dict[tuple[Sequence[str], Sequence[str]], Sequence[tuple[Shape, Sequence[str]]]] = {}
        """By a row's columns, and those of them that are not null: the shapes that it may have, as they are tried, each
        with the columns that are no content then."""

    def __call__(self, row: int, raw: Row) -> Document | Skipped:
        """Return one row's document, or Skipped with the reason.

        Reasons: those of BadRow, 'no text', those of the shapes ('not a string', 'empty text', 'invalid messages' …),
        and 'too deep or too large'.
        """
        if isinstance(raw, BadRow):
            if raw.others is None or set(raw.columns) & set(self._fields.columns):
                return Skipped(shard=self._shard, row=row, reason=raw.reason, detail=raw.detail)
            raw = raw.others
        try:
            return self._document(row, raw)
        except (RecursionError, MemoryError, orjson.JSONEncodeError) as error:  # orjson's own limit is 254 levels
            detail = f"its values cannot be worked on: {error or type(error).__name__}"
            return Skipped(shard=self._shard, row=row, reason="too deep or too large", detail=detail)

    def _document(self, row: int, raw: Mapping[str, Any]) -> Document | Skipped:
        fields = self._fields
        pool_id = _pool_id(raw.get(fields.id))
        candidates = self._shapes_of(raw)
        shape, others = candidates[0] if len(candidates) == 1 else (None, ())  # as almost always
        if shape is None or not shape.fits(raw, fields):
            shape = shapes.first_fitting(raw, fields, (candidate for candidate, _ in candidates))
            others = next((columns for candidate, columns in candidates if candidate is shape), ())
        content = _no_text(raw, fields) if shape is None else shape.read(raw, fields)
        if isinstance(content, Refused):
            return Skipped(shard=self._shard, row=row, reason=content.reason, detail=content.detail, doc_id=pool_id)
        content_hash = hash_content(content)
        return Document(
            doc_id=pool_id if pool_id is not None else content_hash,
            shard=self._shard,
            row=row,
            content_hash=content_hash,
            metadata=_scalars(raw, others),
            **content,
        )

    def _shapes_of(self, raw: Mapping[str, Any]) -> Sequence[tuple[Shape, Sequence[str]]]:
        columns = tuple(raw)
        filled = tuple([c for c, v in raw.items() if v is not None]) if None in raw.values() else columns
        candidates = self._shapes.get((columns, filled))
        if candidates is None:
            if len(self._shapes) == _MOST_KINDS:
                self._shapes.clear()
            candidates = self._shapes[columns, filled] = [
                (shape, [c for c in columns if c not in {*self._fields.columns, *shape.columns(columns, self._fields)}])
                for shape in shapes.of_columns(filled, self._fields)
            ]
        return candidates


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
    return None if schema is None else useful_of(schema, fields)


def useful_of(schema: pa.Schema, fields: Fields) -> list[str]:
    """List the columns of a schema that are content or may be metadata."""
    content = {*fields.columns, *shapes.content_columns(schema.names, fields)}
    return [f.name for f in schema if f.name in content or not pa.types.is_nested(f.type)]


def _no_text(raw: Mapping[str, Any], fields: Fields) -> Refused:
    columns = f"columns here: {', '.join(map(str, raw)) or 'none'}"
    null = [c for c in fields.columns[:-1] if c in raw and raw[c] is None]
    nulls = f" (null: {', '.join(null)})" if null else ""
    return Refused("no text", f"expected {shapes.expected(fields)}; {columns}{nulls}")


def _pool_id(value: Any) -> str | None:
    """Return the pool's id of a document; None where it is missing or nested."""
    if type(value) is str:
        return value
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, str | int | float | Decimal | date) and value == value else None


def _scalars(raw: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    return {c: scalar for c in columns if (scalar := _scalar(raw[c])) is not _NESTED}


_NESTED = object()
_PLAIN = frozenset({str, bool, float, type(None), datetime, date, time})


def _scalar(value: Any) -> Any:
    """Return a value that SQL can group by; _NESTED for lists, objects and bytes."""
    if type(value) in _PLAIN or isinstance(value, str | float | date | time):
        return value
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:  # such as databases write for whole numbers
        value = int(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value) if value.bit_length() <= _MOST_BITS else None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _NESTED
