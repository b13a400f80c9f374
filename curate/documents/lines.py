"""Split plain and compressed streams into lines at b"\\n", in bounded memory."""

import bz2
import codecs
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

import zstandard

_BLOCK = 1 << 20
# Compressed input per step: bounds what one step can inflate to, and what a broken stream loses.
_COMPRESSED_BLOCK = {"gz": 1 << 15, "zst": 1 << 15, "bz2": 1 << 11, "xz": 1 << 11}
BOM = b"\xef\xbb\xbf"
_MARKS = {  # the longer first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# Four ASCII characters without a mark: text in UTF-8 holds no zero bytes.
_UNMARKED = {
    "utf-32-le": re.compile(rb"[\t-~]\0\0\0"),
    "utf-32-be": re.compile(rb"\0\0\0[\t-~]"),
    "utf-16-le": re.compile(rb"([\t-~]\0){2}"),
    "utf-16-be": re.compile(rb"(\0[\t-~]){2}"),
}
_COMPRESSED = {
    "gz": re.compile(rb"\x1f\x8b\x08"),
    "zst": re.compile(rb"\x28\xb5\x2f\xfd"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
}
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a frame of zstd's that holds no data
_TEXT = re.compile(rb"[^\x00-\x08\x0e-\x1f\x7f]+")
_FILLED = re.compile(rb"[^ \t\r\n]")


CONVERT = "Text is read as UTF-8. Convert the file, if it is of Windows: iconv -f windows-1252 -t utf-8 FILE > NEW."
"""What to do about text in another encoding."""


_DICTIONARY = "It was compressed with a dictionary. Unpack it with that: zstd -d -D DICTIONARY FILE."


class Truncated(Exception):
    """A stream ends or breaks too early, or is none of text; the data before that point was given."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        """`hint` says what to do where it is not that the file is damaged."""
        super().__init__(problem)
        self.hint = hint


def filled_lines(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of every line that is not blank, without a byte order mark."""
    for number, line in enumerate(split_lines(blocks), start=1):
        filled = filled_line(line)
        if filled is not None:
            yield number, filled


def filled_line(line: bytes) -> bytes | None:
    """Return a line without a byte order mark, of which joined files have several; None for a blank one."""
    line = line.removeprefix(BOM)
    return line if _FILLED.search(line) is not None else None


def split_lines(blocks: Iterator[bytes], end: bytes = b"\n") -> Iterator[bytes]:
    """Split at one byte only: texts hold U+2028, form feeds and \\r, which `splitlines` would cut at."""
    pieces: list[bytes] = []
    for block in blocks:
        head, *lines = block.split(end)
        pieces.append(head)
        if lines:
            yield b"".join(pieces)
            yield from lines[:-1]
            pieces = [lines[-1]]
    if remainder := b"".join(pieces):
        yield remainder


@dataclass
class Beginning:
    """The first bytes of a stream, which may end within a line."""

    stream: IO[bytes]
    left: int
    """Bytes that are yet to be read."""

    def read(self, size: int) -> bytes:
        block = self.stream.read(min(size, self.left))
        self.left -= len(block)
        return block


@dataclass
class Rest:
    """A stream of which the first bytes have been read, from its start."""

    head: bytes
    stream: IO[bytes] | Beginning

    def read(self, size: int) -> bytes:
        if self.head:
            block, self.head = self.head[:size], self.head[size:]
            return block
        return self.stream.read(size)


def head_compression(head: bytes, named: str | None) -> str | None:
    """Return the compression that a file's first bytes show, whatever its name says; None for a plain file.

    Servers and browsers inflate files, and leave them the names of compressed ones. What has the name of a compressed
    file and begins with neither text nor a compression's mark is a damaged one.
    """
    if named == "zst" and _SKIPPABLE.match(head):
        return named
    shown = next((kind for kind, mark in _COMPRESSED.items() if mark.match(head)), None)
    return shown if shown or _TEXT.fullmatch(head) else named


def inflated(stream: IO[bytes] | Beginning | Rest, compression: str | None) -> Iterator[bytes]:
    """Yield a stream's decompressed blocks; several members or frames may follow one another, or none at all."""
    if compression is None:
        while block := stream.read(_BLOCK):
            yield block
        return
    decoder, num_streams = None, 0
    while block := stream.read(_COMPRESSED_BLOCK[compression]):
        while block:
            if decoder is None:
                # gzip and xz files may end in zero padding, as tape and block devices leave it.
                if num_streams and compression in ("gz", "xz") and not (block := block.lstrip(b"\0")):
                    break
                decoder = _decoder(compression)
            try:
                data = decoder.decompress(block)
            except (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, ValueError) as error:
                hint = _DICTIONARY if "ictionary" in str(error) else None
                raise Truncated(f"the {compression} stream is damaged ({error})", hint) from error
            if data:
                yield data
            block = b""
            if decoder.eof:
                block, decoder, num_streams = decoder.unused_data, None, num_streams + 1
    if decoder is not None:
        raise Truncated(f"the {compression} stream ends before its end")


def _decoder(compression: str) -> Any:
    if compression == "gz":
        return zlib.decompressobj(wbits=31)
    if compression == "bz2":
        return bz2.BZ2Decompressor()
    if compression == "xz":
        return lzma.LZMADecompressor()
    # The largest window, which `zstd --long=31` writes.
    return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()


def as_utf8(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the blocks of a text in UTF-8, whether it is in UTF-8, UTF-16 or UTF-32.

    What the encoding does not allow becomes bytes that are no UTF-8, by which its row is known.
    """
    head = next(blocks, b"")
    encoding = encoding_of(head[:4])
    if encoding is None:
        yield head
        del head  # a block may be large
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for block in chain((head,), blocks):
            yield decoder.decode(block).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise Truncated(f"the {encoding.upper()} text is damaged ({error.reason})") from error


def encoding_of(head: bytes) -> str | None:
    """Return the encoding that a text's first bytes show; None for UTF-8."""
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    return marked or next((name for name, pattern in _UNMARKED.items() if pattern.match(head)), None)
