"""Lines of JSON, one object or list of turns each; also arrays of them, and objects over several lines."""

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson

from curate.documents.elements import elements, spans_lines, with_head
from curate.documents.files import A_PAGE, FETCH, is_page
from curate.documents.lines import Truncated, filled_lines
from curate.documents.shards import BadRow, Row, Shard
from curate.documents.streamed import Streamed, count_lines

_SHOWN = 80
_NEW = "FILE > NEW"
_MOST_PYTHON = 1 << 16  # bytes: Python's parser takes a hundred times as much memory
_SEPARATOR = b"\x1e"  # of RFC 7464
_TURNS = {"role": "messages", "from": "conversations"}
"""The column of a list of turns, by a key of theirs."""
_SURE = frozenset({str, int, bool, type(None)})
"""Types of values among which no number was too long for orjson, which makes a float of such a one."""
_LONG = (b"0" * 20, b"-" + b"0" * 19)  # 2**64 has 20 digits, -2**63 has 19
_DIGITS = bytes(ord("0") if chr(i).isdecimal() and i < 128 else i for i in range(256))


def records(blocks: Iterator[bytes], _shard: Shard) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, or the elements of an array."""
    head, blocks = with_head(blocks)
    if is_page(head):
        raise Truncated(A_PAGE, FETCH)
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
            detail = f"line {number}: {error}: {_shown(line)}"
            return BadRow(reason="undecodable line", detail=detail, hint=_mended(line))
    if isinstance(value, list) and (column := _column_of_turns(value)) is not None:
        return {column: value}
    if not isinstance(value, dict):
        detail = f"line {number}: expected an object, found {type(value).__name__}: {_shown(line)}"
        return BadRow(reason="not an object", detail=detail, hint=_named(value))
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


def _mended(line: bytes) -> str | None:
    """Return what makes a line JSON that is JSON but for how others write it; None for any other."""
    if line.startswith(_SEPARATOR):
        return f"Each line begins with a separator of records. Take it out: tr -d '\\036' < {_NEW}"
    if line.startswith(b"{") and line.rstrip().endswith(b"},"):
        return f"Lines end in commas. Take them out: sed 's/,[[:space:]]*$//' {_NEW}"
    if not line.startswith(b"{'") or len(line) > _MOST_PYTHON:
        return None
    try:
        ast.literal_eval(line.decode().strip())
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    command = "import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]"
    return f'The lines are written as Python has dicts. Write them as JSON: python -c "{command}" < {_NEW}'


def _named(value: Any) -> str | None:
    """Return what makes an object of a value that is none; None where nothing is known."""
    if not isinstance(value, str):
        return None
    with suppress(ValueError):
        if isinstance(orjson.loads(value), dict):
            return f"The lines hold JSON in strings. Write what they hold: jq -r . {_NEW}"
    return f"The values are texts without a name. Name them: jq -c '{{text: (.[]? // .)}}' {_NEW}"


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
    spans_lines=lambda head: spans_lines(head) or is_page(head),
)
