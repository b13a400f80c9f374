"""Say what to do about files that are not read, by their names and first bytes."""

import re
from collections.abc import Mapping
from contextlib import suppress

from curate.documents.files import COMPRESSIONS, file_name, first_bytes, foreign, local_path, plain_name
from curate.documents.formats import format_of, get
from curate.errors import CurateError

_PACKED = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar", ".lz4", ".snappy", ".br", ".z")
_TABLES = (".psv", ".tab", ".ssv")
_OF_OTHERS = re.compile(
    r"\.(mds|tfrecords?|array_record|bin|idx|npy|npz|pkl|pickle|pt|pth|h5|hdf5|orc|avro|msgpack|mdb|xlsx?|ods)"
    r"(-\d+-of-\d+)?$"
)
"""Endings of files whose rows are read by what wrote them alone."""
_JSON = re.compile(rb"(\xef\xbb\xbf)?\s*(\{\s*\"|\[\s*[\[{\"])")
_LOOKED_INTO = 8


def advice(address: str, files: Mapping[str, str]) -> str:
    """Return what to do about files that are not read as they are, where there is something.

    `files`: their urls by name; of local ones the first bytes count, too.
    """
    names = list(files)
    if packed := next(filter(_is_packed, names), None):
        return f"Unpack {packed}, and give the folder of what was in it. "
    if not any(c in address for c in "*?[") and any(map(_is_read_by_name, names)):
        return f"Text files are read where a pattern names them: '{address}/**/*.txt'. "
    for name in names:
        if file_name(name).endswith(_TABLES):
            return f"A table of text has the ending .csv, whatever stands between its values: name {name} so. "
        if _OF_OTHERS.search(file_name(name)):
            return f"Of {name}, write the rows as Parquet or lines of JSON by what reads it. "
    filled = {name: head for name, url in [*files.items()][:_LOOKED_INTO] if (head := _head(url))}
    for name, head in filled.items():
        if told := foreign(head):
            return f"{name} is {told[0]}. {told[1]} " if told[1] else f"{name} is {told[0]}. "
        if _JSON.match(head):
            return f"Files are known by their endings: {name} begins as JSON does; name it {_named_so(name)}. "
    if bare := next((n for n in filled or names if "." not in plain_name(n).lstrip(".")), None):
        return f"Files are known by their endings: if {bare} holds lines of JSON, say, name it {_named_so(bare)}. "
    return ""


def _head(url: str) -> bytes:
    path = local_path(url)
    with suppress(CurateError, OSError):
        return first_bytes(url) if path is not None and path.is_file() else b""
    return b""


def _is_read_by_name(name: str) -> bool:
    return (format_name := format_of(name)) is not None and get(format_name).named_only


def _is_packed(name: str) -> bool:
    """Return whether a file is an archive, or in a compression in which its kind is not read."""
    plain = plain_name(name)
    return plain.endswith(_PACKED) or (
        plain != file_name(name) and format_of(name) is None and format_of(plain) is not None
    )


def _named_so(name: str) -> str:
    """Return a name with the ending of lines of JSON before that of its compression."""
    compression = next((suffix for suffix in COMPRESSIONS if name.lower().endswith(suffix)), "")
    return f"{name[: len(name) - len(compression)]}.jsonl{compression}"
