"""Make documents of rows: find the content, check it, hash it, keep the scalar columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import xxhash

from curate.documents import formats
from curate.documents.rows import rows
from curate.documents.shards import BadRow, Shard
from curate.fields import Fields
from curate.schema import Document, Skipped, message_text

_SHOWN = 60
_MOST_BITS = 8192  # Python writes no more than 4 300 digits of a number


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why a row is no document."""

    reason: str
    detail: str


def documents(
    shard: Shard, fields: Fields, *, start: int = 0, only: Sequence[int] | None = None
) -> Iterator[Document | Skipped]:
    """Stream every row from `start`, in order, as a document or as Skipped with its reason.

    Nested columns that are not content are not read from Parquet and Arrow. `only` (sorted, distinct) gives
    just those rows. Raises CurateError with the row reached where the file is broken, after the rows before it.
    """
    for row, raw in rows(shard, start=start, only=only, columns=useful_columns(shard, fields)):
        yield document_of(shard.name, row, raw, fields)


def document_of(shard: str, row: int, raw: Mapping[str, Any] | BadRow, fields: Fields) -> Document | Skipped:
    """Return one row's document, or Skipped with the reason.

    Reasons: those of BadRow, 'no text', 'not a string', 'empty text', 'invalid messages', 'no assistant
    turn'.
    """
    if isinstance(raw, BadRow) and raw.others is not None and not set(raw.columns) & set(fields.columns):
        raw = raw.others
    if isinstance(raw, BadRow):
        return Skipped(shard=shard, row=row, reason=raw.reason, detail=raw.detail)
    pool_id = _pool_id(raw.get(fields.id))
    content = _content(raw, fields)
    if isinstance(content, _Refused):
        return Skipped(shard=shard, row=row, reason=content.reason, detail=content.detail, doc_id=pool_id)
    content_hash = hash_content(content)
    return Document(
        doc_id=pool_id if pool_id is not None else content_hash,
        shard=shard,
        row=row,
        content_hash=content_hash,
        metadata=_metadata(raw, fields),
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
    return xxhash.xxh3_128_hexdigest(prefix + orjson.dumps(values, default=str, option=orjson.OPT_SORT_KEYS))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def useful_columns(shard: Shard, fields: Fields) -> list[str] | None:
    """List the columns that are content or may be metadata; None where the file does not state its columns."""
    schema = formats.get(shard.format).schema(shard)
    if schema is None:
        return None
    return [f.name for f in schema if f.name in fields.columns or not pa.types.is_nested(f.type)]


def _content(raw: Mapping[str, Any], fields: Fields) -> dict[str, Any] | _Refused:
    if raw.get(fields.text) is not None:
        text = raw[fields.text]
        return _wrong_string(fields.text, text) or {"text": text}
    if raw.get(fields.messages) is not None:
        return _messages(raw[fields.messages], fields.messages)
    prompt, completion = raw.get(fields.prompt), raw.get(fields.completion)
    if prompt is not None and completion is not None:
        if not isinstance(prompt, str):  # an empty prompt is fine: it carries no loss
            return _not_a_string(fields.prompt, prompt)
        return _wrong_string(fields.completion, completion) or {"prompt": prompt, "completion": completion}
    expected = f"{fields.text!r}, {fields.messages!r} or {fields.prompt!r} with {fields.completion!r}"
    null = [c for c in fields.columns[:-1] if c in raw and raw[c] is None]
    nulls = f" (null: {', '.join(null)})" if null else ""
    return _Refused("no text", f"expected {expected}; columns here: {', '.join(map(str, raw)) or 'none'}{nulls}")


def _wrong_string(column: str, value: Any) -> _Refused | None:
    if not isinstance(value, str):
        return _not_a_string(column, value)
    if not value or value.isspace():
        return _Refused("empty text", f"column {column!r} holds {value[:_SHOWN]!r}")
    return None


def _not_a_string(column: str, value: Any) -> _Refused:
    return _Refused("not a string", f"column {column!r} holds {type(value).__name__}: {repr(value)[:_SHOWN]}")


def _messages(value: Any, column: str) -> dict[str, Any] | _Refused:
    if not isinstance(value, list) or not value:
        return _Refused(
            "invalid messages", f"column {column!r}: expected a list of turns, found {repr(value)[:_SHOWN]}"
        )
    turns = []
    for i, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            return _Refused("invalid messages", f"turn {i}: expected an object, found {type(turn).__name__}")
        if problem := _wrong_turn(turn):
            return _Refused("invalid messages", f"turn {i}: {problem}; keys here: {', '.join(map(str, turn))}")
        turns.append({k: _without_nulls(v) for k, v in turn.items() if v is not None or k == "content"})
    if not any(t["role"] == "assistant" and (message_text(t).strip() or t.get("tool_calls")) for t in turns):
        roles = ", ".join(dict.fromkeys(t["role"] for t in turns))
        return _Refused("no assistant turn", f"no turn of the assistant with content; roles here: {roles}")
    return {"messages": turns}


def _without_nulls(value: Any) -> Any:
    """Drop null keys: Arrow gives every object the keys of all objects, null where it had none."""
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def _wrong_turn(turn: Mapping[str, Any]) -> str | None:
    if not isinstance(turn.get("role"), str):
        return f"'role' must be a string, found {type(turn.get('role')).__name__}"
    content = turn.get("content")
    if isinstance(content, str) or (content is None and turn.get("tool_calls")):
        return None
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return None
    return f"'content' must be a string or a list of parts, found {type(content).__name__}"


def _pool_id(value: Any) -> str | None:
    """Return the pool's id of a document; None where it is missing or nested."""
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, str | int | float | Decimal | date) and value == value else None


def _metadata(raw: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    content_columns = fields.columns
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
