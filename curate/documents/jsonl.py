"""Lines of JSON to rows, and to Arrow tables of the shard's own columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from curate.documents.lines import numbered_lines
from curate.documents.shards import BadRow, Shard

_SHOWN = 80


def json_rows(shard: Shard, *, start: int = 0) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    """Stream the rows from `start`; lines before it are counted, not decoded."""
    for row, number, line in numbered_lines(shard):
        if row >= start:
            yield row, decode(line, number)


def chosen_json_rows(
    shard: Shard, *, start: int = 0, rows: Sequence[int]
) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    """Stream only the given rows (sorted, distinct); the others are not decoded."""
    wanted = iter([r for r in rows if r >= start])
    following = next(wanted, None)
    if following is None:
        return
    for row, number, line in numbered_lines(shard):
        if row == following:
            yield row, decode(line, number)
            following = next(wanted, None)
            if following is None:
                return


def decode(line: bytes, number: int) -> Mapping[str, Any] | BadRow:
    """Decode one line strictly; `number` is its line number from 1."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        value = _with_nan(line)
        if value is None:
            return BadRow(reason="undecodable line", detail=f"line {number}: {error}: {_shown(line)}")
    if not isinstance(value, dict):
        detail = f"line {number}: expected an object, found {type(value).__name__}: {_shown(line)}"
        return BadRow(reason="not an object", detail=detail)
    return value


def _with_nan(line: bytes) -> Any:
    """Decode NaN and Infinity, which Python's json writes and strict JSON refuses; None if that is not it."""
    if b"NaN" not in line and b"Infinity" not in line:
        return None
    try:
        value = json.loads(line)
        orjson.dumps(value)  # refuses the lone surrogates that json lets through
    except (ValueError, TypeError, RecursionError):
        return None
    return value


def _shown(line: bytes) -> str:
    return line[:_SHOWN].decode("utf-8", "replace").strip()


def json_tables(
    found: Iterator[tuple[int, Mapping[str, Any] | BadRow]], batch_rows: int
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Gather decoded rows into tables; rows that could not be decoded are left out."""
    numbers: list[int] = []
    gathered: list[Mapping[str, Any]] = []
    for row, value in found:
        if isinstance(value, BadRow):
            continue
        numbers.append(row)
        gathered.append(value)
        if len(gathered) == batch_rows:
            yield np.array(numbers, dtype=np.int64), table_of(gathered)
            numbers, gathered = [], []
    if gathered:
        yield np.array(numbers, dtype=np.int64), table_of(gathered)


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make a table of every key any row has, in the order first seen.

    Types are inferred per batch. A column whose values share no Arrow type becomes strings: strings as they
    are, other values as JSON.
    """
    keys = dict.fromkeys(k for row in rows for k in row)
    return pa.table({k: _column([row.get(k) for row in rows]) for k in keys})


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string())
