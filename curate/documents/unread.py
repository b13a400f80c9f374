"""Say what to do about files that are not read, by their names."""

from curate.documents.files import COMPRESSIONS, file_name, plain_name
from curate.documents.formats import format_of

_PACKED = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar", ".lz4", ".snappy", ".br", ".z")


def advice(address: str, names: list[str]) -> str:
    """Return what to do about files that are not read as they are, where there is something."""
    if packed := next(filter(_is_packed, names), None):
        return f"Unpack {packed}, and give the folder of what was in it. "
    if not any(c in address for c in "*?[") and any(format_of(name) for name in names):
        return f"Text files are read where a pattern names them: '{address}/**/*.txt'. "
    if bare := next((n for n in names if "." not in plain_name(n).lstrip(".")), None):
        return f"Files are known by their endings: if {bare} holds lines of JSON, say, name it {_named_so(bare)}. "
    return ""


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
