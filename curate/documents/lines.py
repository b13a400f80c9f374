"""Split plain, gzip and Zstandard streams into lines at b"\\n", in bounded memory."""

import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

import zstandard

_BLOCK = 1 << 20
# Compressed input per step: bounds what one step can inflate to, and what a broken stream loses.
_COMPRESSED_BLOCK = 1 << 15
BOM = b"\xef\xbb\xbf"
_FILLED = re.compile(rb"[^ \t\r\n]")


class Truncated(Exception):
    """A compressed stream ends or breaks too early; the data before that point was given."""


def filled_lines(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of every line that is not blank, without a byte order mark."""
    for number, line in enumerate(split_lines(blocks), start=1):
        line = line.removeprefix(BOM) if number == 1 else line
        if _FILLED.search(line) is not None:
            yield number, line


def split_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Split at b"\\n" only: texts hold U+2028, form feeds and \\r, which `splitlines` would cut at."""
    pieces: list[bytes] = []
    for block in blocks:
        head, *lines = block.split(b"\n")
        pieces.append(head)
        if lines:
            yield b"".join(pieces)
            yield from lines[:-1]
            pieces = [lines[-1]]
    if remainder := b"".join(pieces):
        yield remainder


def inflated(stream: IO[bytes], compression: str | None) -> Iterator[bytes]:
    """Yield a stream's decompressed blocks; several gzip members or Zstandard frames follow one another."""
    if compression is None:
        while block := stream.read(_BLOCK):
            yield block
        return
    decoder, num_streams = None, 0
    while block := stream.read(_COMPRESSED_BLOCK):
        while block:
            if decoder is None:
                # gzip files may end in zero padding, as tape and block devices leave it.
                if num_streams and compression == "gz" and not (block := block.lstrip(b"\0")):
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
                block, decoder, num_streams = decoder.unused_data, None, num_streams + 1
    if decoder is not None or not num_streams:
        raise Truncated(f"the {compression} stream ends before its end")


def _decoder(compression: str) -> Any:
    if compression == "gz":
        return zlib.decompressobj(wbits=31)
    # The largest window, which `zstd --long=31` writes.
    return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
