"""Plain text, a document per line that is not blank: what `--txt-lines` reads .txt files as."""

from collections.abc import Iterator

from curate.documents.formats import txt
from curate.documents.lines import CONVERT, filled_lines
from curate.documents.shards import Row, Shard
from curate.documents.streamed import Streamed


def records(blocks: Iterator[bytes], _shard: Shard) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank."""
    return filled_lines(blocks)


def decode(line: bytes, number: int) -> Row:
    """Make the row of a line, without its end."""
    return txt.text_row(line.removesuffix(b"\r"), number)


FORMAT = Streamed(endings=(), records=records, decode=decode, row="text", hint=CONVERT, lines_alone=True)
