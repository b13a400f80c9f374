"""Values between commas (.csv) or tabs (.tsv) below a header, as RFC 4180 and Python's `csv` write them.

Where the header has more of others between its names (semicolons, bars), those separate, and so does what a first line
`sep=;` says, which Excel writes. Lines end as in Unix and Windows, or with \\r alone as of old in the Mac's files.
Every column is text: 007 and 1.50 stay what they are, whatever other rows hold, and SQL casts where it needs numbers
(`year::INT`). An empty field is null. A quoted field may hold separators, line ends and doubled quotes. The header must
name every column, each once, but for the first, which pandas leaves out for its index: it is `Unnamed: 0`. A row that
is not whole (a stray quote, more or fewer fields than the header), or the header again, is set aside with the line that
it begins on; of one with text that is not UTF-8 the other columns are read.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from curate.documents.elements import HEAD
from curate.documents.files import A_PAGE, FETCH, is_page, plain_name
from curate.documents.lines import BOM, CONVERT, Truncated, split_lines
from curate.documents.shards import BadRow, Row, Shard
from curate.documents.streamed import Streamed
from curate.errors import CurateError

_LARGEST = 64 << 20
"""Characters of a field; a quote that is never closed takes in what follows up to here."""

_STATED = re.compile(r'"?sep=([^"\r\n])"?\r?[\r\n]', re.IGNORECASE)
"""The line by which a file states what separates its fields."""
_SAID = {
    "unexpected end of data": "a quoted field is never closed",
}
"""What is wrong with a row, by Python's words for it."""
_AFTER = "expected after '\"'"
_DOUBLED = (
    "quotes within a quoted field are doubled; of a file with backslashes before them (Spark's, MySQL's) write"
    " pandas.read_csv(FILE, escapechar='\\\\', dtype=str, keep_default_na=False).to_csv(NEW, index=False)"
)
_INDEX = "Unnamed: 0"

Record = tuple[Sequence[str], list[str] | str]
"""The header, and a row's fields or why it has none."""


def records(blocks: Iterator[bytes], shard: Shard) -> Iterator[tuple[int, Record]]:
    """Yield every row below the header. Raises CurateError for a header that does not name its columns."""
    header: list[str] | None = None
    for number, fields in _numbered(blocks, shard):
        if header is None:
            header = _checked(fields, number, shard)
        else:
            yield number, (header, fields)


def preamble(lines: Iterator[bytes], shard: Shard) -> list[bytes]:
    """Return the lines of the header, and blank ones before it."""
    read: list[bytes] = []

    def noted() -> Iterator[bytes]:
        for line in lines:
            read.append(line)
            yield line + b"\n"

    next(_numbered(noted(), shard), None)
    return read


def ends_in_returns(head: bytes) -> bool:
    """Return whether the lines of a file that begins so end with \\r alone."""
    return b"\n" not in head and b"\r" in head[:-1]


def _separator(header: str, shard: Shard) -> str:
    """Return what stands between a header's names: tabs by the file's name, or else what there is most of."""
    by_name = "\t" if plain_name(shard.url).endswith(".tsv") else ","
    header = re.sub(r'"[^"]*"', "", header)
    if by_name == "\t" and "\t" in header:
        return "\t"
    return max((by_name, ",", "\t", ";", "|"), key=header.count)


def _numbered(blocks: Iterator[bytes], shard: Shard) -> Iterator[tuple[int, list[str] | str]]:
    """Yield (line that it begins on, fields or what is wrong) of every row that is not blank."""
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST))  # one for the process, 128 KiB unless raised
    texts, beginning, stated = _texts(blocks), [], None
    for text in texts:
        is_statement = stated is None and (stated := _STATED.fullmatch(text)) is not None
        beginning.append("\n" if is_statement else text)  # a blank line has a number, too
        if not beginning[-1].isspace():
            break
    separator = stated[1] if stated else _separator("".join(beginning), shard)
    reader = csv.reader(chain(beginning, texts), delimiter=separator, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            said = _SAID.get(str(error), str(error))
            yield number, f"{said}; {_DOUBLED}" if said.endswith(_AFTER) else said
            continue
        if fields is None:
            return
        if fields and (len(fields) > 1 or not fields[0] or fields[0].strip()):  # "" by itself is a field
            yield number, fields


def _texts(blocks: Iterator[bytes]) -> Iterator[str]:
    # What is not UTF-8 becomes lone surrogates, by which `decode` knows its row.
    first = next(blocks, b"")  # no more is read ahead: reading may go on behind any row
    if is_page(first):
        raise Truncated(A_PAGE, FETCH)
    end = b"\r" if ends_in_returns(first[:HEAD]) else b"\n"
    for number, line in enumerate(split_lines(chain((first,), blocks), end)):
        yield ((line.removeprefix(BOM) if number == 0 else line) + end).decode("utf-8", "surrogateescape")


def _checked(header: list[str] | str, number: int, shard: Shard) -> list[str]:
    where = f"{shard.url}, line {number}"
    if isinstance(header, str):
        raise CurateError(f"{where}: the header cannot be read: {header}.", hint="Give the file a header of its own.")
    if not _is_text(header):
        raise CurateError(f"{where}: the header is not UTF-8.", hint=CONVERT)
    header = _named(header)
    if nameless := next((i for i, name in enumerate(header, 1) if not name.strip()), None):
        raise CurateError(
            f"{where}: column {nameless} of the header has no name: {header}.",
            hint="Name every column; pandas leaves out its index with to_csv(…, index=False).",
        )
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise CurateError(
            f"{where}: the header names {twice!r} twice: {header}.", hint="Give each column its own name."
        )
    return header


def _named(header: list[str]) -> list[str]:
    """Return a header's names, with that of pandas' index, and without the byte order mark of a joined file."""
    first = header[0].removeprefix("\ufeff")
    is_index = len(header) > 1 and not first.strip() and _INDEX not in header
    return [_INDEX if is_index else first, *header[1:]]


def decode(record: Record, number: int) -> Row:
    """Make a row of strings and nulls."""
    header, fields = record
    if isinstance(fields, str):
        return BadRow(reason="undecodable line", detail=f"line {number}: {fields}")
    if fields[-1] == header[-1] and _named(fields) == header:
        detail = f"line {number}: the header again, as where files were joined"
        return BadRow(reason="a second header", detail=detail)
    if len(fields) != len(header):
        detail = f"line {number}: {len(fields)} fields; expected {len(header)}: {', '.join(header)}"
        return BadRow(reason="wrong number of fields", detail=detail)
    row = {name: value or None for name, value in zip(header, fields, strict=True)}
    return row if _is_text(fields) else _undecoded(row, number)


def _undecoded(row: Mapping[str, str | None], number: int) -> BadRow:
    bad = tuple(name for name, value in row.items() if value and not _is_text([value]))
    return BadRow(
        reason="undecodable line",
        detail=f"line {number}: not UTF-8 in {', '.join(map(repr, bad))}",
        columns=bad,
        others={name: value for name, value in row.items() if name not in bad},
        whole={n: v.encode("utf-8", "surrogateescape") if v and n in bad else v for n, v in row.items()},
    )


def _is_text(fields: list[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make a table of strings, of columns without a value too; bytes that are not UTF-8 stay what they are."""
    return pa.table({name: _strings([row[name] for row in rows]) for name in rows[0]})


def _strings(values: Sequence[str | bytes | None]) -> pa.Array:
    if any(isinstance(value, bytes) for value in values):
        return pa.array(values, pa.binary()).view(pa.string())
    return pa.array(values, pa.string())


def _count(blocks: Iterator[bytes], shard: Shard) -> int:
    try:
        return sum(1 for _ in records(blocks, shard))
    except Truncated:  # a page in the place of the file
        return 0


FORMAT = Streamed(
    endings=(".csv", ".tsv"),
    records=records,
    decode=decode,
    table=_table,
    count=_count,
    preamble=preamble,
    spans_lines=lambda head: ends_in_returns(head) or is_page(head),
    row="a whole row",
    hint="Rows need as many fields as the header has, between the same separators.",
    note="below a header",
)
