"""Lines of JSON, one object or list of turns each; also arrays of them, and objects over several lines."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson

from curate.documents.elements import elements, spans_lines, with_head
from curate.documents.lines import Truncated, filled_lines
from curate.documents.shards import BadRow, Row, Shard
from curate.documents.streamed import Streamed, count_lines

_SHOWN = 80
_TURNS = {"role": "messages", "from": "conversations"}
"""The column of a list of turns, by a key of theirs."""
_SURE = frozenset({str, int, bool, type(None)})
"""Types of values among which no number was too long for orjson, which makes a float of such a one."""
_LONG = (b"0" * 20, b"-" + b"0" * 19)  # 2**64 has 20 digits, -2**63 has 19
_DIGITS = bytes(ord("0") if chr(i).isdecimal() and i < 128 else i for i in range(256))


def records(blocks: Iterator[bytes], _shard: Shard) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, or the elements of an array."""
    head, blocks = with_head(blocks)
    if spans_lines(head):
        return elements(blocks, lambda text: not isinstance(decode(text, 0), BadRow))
    return filled_lines(blocks)


def _count(blocks: Iterator[bytes], shard: Shard) -> int:
    """Count the rows in the first blocks of a file; blank lines, too."""
    head, blocks = with_head(blocks)
    if not spans_lines(head):
        return count_lines(blocks, shard)
    count = 0
    with suppress(Truncated):  # the blocks end anywhere
        for _ in elements(blocks, lambda _: False):
            count += 1
    return count


def decode(line: bytes, number: int) -> Row:
    """Decode one line strictly; `number` is its line number from 1."""
    try:
        value = orjson.loads(line)
        if type(value) is dict and _SURE.issuperset(map(type, value.values())):
            return value
        digits = line.translate(_DIGITS)
        if any(long in digits for long in _LONG):
            value = _exact(line, value)
    except orjson.JSONDecodeError as error:
        value = _with_nan(line, str(error))
        if value is None:
            return BadRow(reason="undecodable line", detail=f"line {number}: {error}: {_shown(line)}")
    if isinstance(value, list) and (column := _column_of_turns(value)) is not None:
        return {column: value}
    if not isinstance(value, dict):
        detail = f"line {number}: expected an object, found {type(value).__name__}: {_shown(line)}"
        return BadRow(reason="not an object", detail=detail)
    return value


def _column_of_turns(values: list[Any]) -> str | None:
    """Return the column that conversations like this list stand in; None where it is none."""
    fitting = (c for key, c in _TURNS.items() if values and all(isinstance(v, dict) and key in v for v in values))
    return next(fitting, None)


def _exact(line: bytes, value: Any) -> Any:
    """Decode numbers of more than 64 bits, of which orjson makes floats."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # thousands of digits, hundreds of levels
        return value


def _with_nan(line: bytes, problem: str) -> Any:
    """Decode NaN and Infinity, which Python's json writes and strict JSON refuses, and numbers beyond any double.

    None if that is not the problem.
    """
    if b"NaN" not in line and b"Infinity" not in line and "infinity" not in problem:
        return None
    try:
        value = json.loads(line)
        json.dumps(value, ensure_ascii=False).encode()  # refuses the lone surrogates that json lets through
    except (ValueError, TypeError, RecursionError):
        return None
    return value


def _shown(line: bytes) -> str:
    return line[:_SHOWN].decode("utf-8", "replace").strip()


FORMAT = Streamed(
    endings=(".jsonl", ".ndjson", ".json"),
    records=records,
    decode=decode,
    count=_count,
    row="an object",
    hint="Each line must hold one JSON object or list of turns, or the file an array of them. "
    "`jq -c . FILE > NEW` writes objects a line each, however they follow one another.",
    note="one object or list of turns per line, or an array of them",
    json_lines=True,
    lines_alone=True,
    spans_lines=spans_lines,
)
