"""Open files: local paths directly, all others through fsspec."""

import os
import re
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from curate.errors import CurateError

_QUERY = re.compile(r"\?([\w.%-]+=.*|[^./]*)$", re.DOTALL)
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""What Git LFS leaves in the place of a file that it has not fetched begins with this."""
NOT_FETCHED = "a pointer of Git LFS in the place of the file, which `git lfs pull` fetches"
_UNPACK = "Unpack it, and give the folder of what was in it."
_NAME = "Give the file the ending of what it is, {}, by which it is read."
_AGAIN = "Write its rows as Parquet or lines of JSON, by what reads it."
_FOREIGN = (
    (LFS_POINTER, NOT_FETCHED, None),
    (b"PK\3\4", "a zip archive, and no text", f"{_UNPACK} Of a workbook (.xlsx) save the table as csv, in UTF-8."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, and no text", _UNPACK),
    (b"Rar!\x1a\7", "a rar archive, and no text", _UNPACK),
    (b"\4\x22\x4d\x18", "compressed by lz4, which is not read", "Unpack it: lz4 -d FILE."),
    (b"\xff\6\0\0sNaPpY", "compressed by snappy, which is not read", "Unpack it, or compress it by gzip or zstd."),
    (b"PAR1\x15", "a Parquet file, and no text", _NAME.format(".parquet")),
    (b"ARROW1\0\0", "an Arrow file, and no text", _NAME.format(".arrow")),
    (b"\xff\xff\xff\xff", "an Arrow stream, and no text", _NAME.format(".arrow")),
    (b"PARE", "an encrypted Parquet file, and no text", "Write its rows without encryption, by what has the key."),
    (b"ORC", "an ORC file, and no text", _AGAIN),
    (b"Obj\1", "an Avro file, and no text", _AGAIN),
    (b"\x89HDF\r\n", "an HDF5 file, and no text", _AGAIN),
    (b"\x93NUMPY", "an array of NumPy's, and no text", _AGAIN),
    (b"MMIDIDX\0", "an index of Megatron-LM's, and no text", _AGAIN),
    (b"%PDF-", "a PDF document, and no text", _AGAIN),
    (b"SQLite format 3\0", "a database, and no text", "Write its table as Parquet, csv or lines of JSON."),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document, and no text", "Save its table as csv, in UTF-8."),
)
"""First bytes of files that are no text, whatever their names say; what they are, and what to do."""
_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|\?xml)[\s>]", re.IGNORECASE)
A_PAGE = "a web page, or a server's message, in the place of the file"
FETCH = "Fetch the file itself: of a hub by its command (hf download), by a link to the raw file, or with your login."
_TAR, _TAR_AT = b"ustar", 257
COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".zstd": "zst", ".bz2": "bz2", ".xz": "xz"}


def local_path(address: str) -> Path | None:
    """Return the local path of an address; None for an address of another protocol."""
    if address.startswith("file://"):
        return Path(address.removeprefix("file://"))
    if "://" in address or ("::" in address and not os.path.exists(address)):
        return None
    return Path(os.path.expanduser(address))


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a url, and the path in it.

    Raises CurateError naming the package to install when the protocol's backend is missing.
    """
    protocol = url.split("://", 1)[0]
    try:
        return url_to_fs(url)
    except ImportError as error:
        backend = known_implementations.get(protocol, {}).get("class", protocol).split(".")[0]
        raise CurateError(
            f"{url}: reading {protocol}:// addresses needs the package {backend!r}, which is not installed.",
            hint=f"Install it: pip install {backend}",
        ) from error
    except ValueError as error:
        raise CurateError(
            f"{url}: {error}",
            hint="Use a local path, a hub dataset id (org/name), or a url (s3://, gs://, hf://, https://).",
        ) from error


def open_binary(url: str) -> IO[bytes]:
    """Open a local path or fsspec url for reading. Raises CurateError where it is missing."""
    path = local_path(url)
    try:
        if path is not None:
            return open(path, "rb")
        fs, inner = filesystem(url)
        stream: Any = fs.open(inner, "rb")
        return stream
    except FileNotFoundError as error:
        raise CurateError(f"{url}: the file is gone.", hint="Was the pool changed while it was read?") from error
    except PermissionError as error:
        raise CurateError(f"{url}: no permission to read it.") from error


def compression_of(name: str) -> str | None:
    """Return a file's compression ('gz', 'zst', 'bz2' or 'xz') by its last suffix; None for a plain file."""
    return next((c for suffix, c in COMPRESSIONS.items() if file_name(name).endswith(suffix)), None)


def plain_name(name: str) -> str:
    """Return a file's name in lower case without the suffix of its compression."""
    plain = file_name(name)
    return next((plain.removesuffix(suffix) for suffix in COMPRESSIONS if plain.endswith(suffix)), plain)


def file_name(url: str) -> str:
    """Return the last part of an address in lower case, without a query (`?download=true`); a name may hold a `?`."""
    return _QUERY.sub("", url).rsplit("/", 1)[-1].lower()


def foreign(head: bytes) -> tuple[str, str | None] | None:
    """Return what a file with these first bytes is, and what to do, where it is certainly no text; else None."""
    if head.startswith(_TAR, _TAR_AT):
        return "a tar archive, and no text", _UNPACK
    return next(((problem, hint) for mark, problem, hint in _FOREIGN if head.startswith(mark)), None)


def is_page(head: bytes) -> bool:
    """Return whether a file with these first bytes is a page of HTML or a message in XML."""
    return _PAGE.match(head) is not None


def is_pointer(url: str) -> bool:
    """Return whether a file is a pointer of Git LFS."""
    return first_bytes(url).startswith(LFS_POINTER)


def first_bytes(url: str) -> bytes:
    """Return the first bytes of a file, by which its kind is told."""
    with open_binary(url) as stream:
        return stream.read(1 << 10)
