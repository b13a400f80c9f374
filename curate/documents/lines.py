"""Bytes to lines: plain, gzip and Zstandard streams in bounded memory, split at b"\\n" and nowhere else."""

import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

import zstandard

from curate.documents.files import open_binary
from curate.documents.shards import Shard
from curate.errors import CurateError

_BLOCK = 1 << 20
# Compressed input per step: bounds what one step can inflate to, and what a broken stream loses.
_COMPRESSED_BLOCK = 1 << 15
_BOM = b"\xef\xbb\xbf"
_FILLED = re.compile(rb"[^ \t\r\n]")


class Truncated(Exception):
    """A compressed stream that ends or breaks before its end; what came before was given."""


def numbered_lines(shard: Shard) -> Iterator[tuple[int, int, bytes]]:
    """Stream (row from 0, line number from 1, line) of every line that is not blank.

    Raises CurateError with the row reached, after giving all that could be read, when the stream is broken.
    """
    row = 0
    try:
        with open_binary(shard.url) as stream:
            for number, line in enumerate(split_lines(inflated(stream, shard.compression)), start=1):
                if number == 1:
                    line = line.removeprefix(_BOM)
                if _FILLED.search(line) is None:
                    continue
                yield row, number, line
                row += 1
    except Truncated as broken:
        raise CurateError(
            f"{shard.url}: {broken}; {row} rows could be read before.",
            hint="The file is damaged or was not written to its end: fetch or write it again, or remove it.",
        ) from broken
    except OSError as error:
        raise CurateError(f"{shard.url}: reading failed after {row} rows: {error}") from error


def split_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Split at b"\\n" only: texts hold U+2028, form feeds and \\r, which `splitlines` would cut at."""
    pieces: list[bytes] = []
    for block in blocks:
        first, *rest = block.split(b"\n")
        pieces.append(first)
        if rest:
            yield b"".join(pieces)
            yield from rest[:-1]
            pieces = [rest[-1]]
    if last := b"".join(pieces):
        yield last


def inflated(stream: IO[bytes], compression: str | None) -> Iterator[bytes]:
    """Give a stream's decompressed blocks; several gzip members or Zstandard frames follow one another."""
    if compression is None:
        while block := stream.read(_BLOCK):
            yield block
        return
    decoder, whole = None, 0
    while block := stream.read(_COMPRESSED_BLOCK):
        while block:
            if decoder is None:
                # gzip files may end in zero padding, as tape and block devices leave it.
                if whole and compression == "gz" and not (block := block.lstrip(b"\0")):
                    break
                decoder = _decoder(compression)
            try:
                data = decoder.decompress(block)
            except (zlib.error, zstandard.ZstdError) as error:
                raise Truncated(f"the {compression} stream is damaged ({error})") from error
            if data:
                yield data
            block = b""
            if decoder.eof:
                block, decoder, whole = decoder.unused_data, None, whole + 1
    if decoder is not None or not whole:
        raise Truncated(f"the {compression} stream ends before its end")


def _decoder(compression: str) -> Any:
    if compression == "gz":
        return zlib.decompressobj(wbits=31)
    # The largest window, which `zstd --long=31` writes.
    return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
