"""Plain text, a document per file.

Notes and licences lie in many a dataset's folder, so text files are read only where an address names them: `x.txt`,
`texts/*.txt`. A file is one document, its text as it is but for a byte order mark; `txt_lines.py` is the format of
those that hold a document per line.
"""

from collections.abc import Iterator

from curate.documents.lines import BOM, CONVERT
from curate.documents.shards import BadRow, Row, Shard
from curate.documents.streamed import Streamed

_LARGEST = 64 << 20


def records(blocks: Iterator[bytes], _shard: Shard) -> Iterator[tuple[int, bytes]]:
    """Yield the whole file, or the beginning of one that is too large to be a document."""
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > _LARGEST:
            break
    yield 1, bytes(content)


def decode(content: bytes, number: int) -> Row:
    """Make the row of a whole file."""
    if len(content) > _LARGEST:
        detail = f"more than {_LARGEST >> 20} MiB in one document; --txt-lines makes every line one"
        return BadRow(reason="too large", detail=detail)
    return text_row(content.removeprefix(BOM), number)


def text_row(content: bytes, number: int) -> Row:
    """Make the row of a document's bytes, which begin on a line of this number; its column is `text`."""
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError as error:
        line = number + content.count(b"\n", 0, error.start)
        return BadRow(reason="undecodable line", detail=f"line {line}: not UTF-8 ({error.reason})")


FORMAT = Streamed(
    endings=(".txt",),
    records=records,
    decode=decode,
    rows_per_shard=1,
    named_only=True,
    row="text",
    hint=CONVERT,
    note="where the address names them, as x.txt or *.txt",
)
