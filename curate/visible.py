"""Show other people's text (documents, names, paths) on terminals, cards and pages: the one place that escapes it."""

import os
import re

# Control characters have no business in text, and overrides of its direction would reorder what stands around it.
_CONTROLS = {c: chr(0x2400 + c) for c in range(32) if chr(c) not in "\t\n"} | {0x7F: "\u2421"}
_CONTROLS |= {c: f"\\x{c:02x}" for c in range(0x80, 0xA0)}
_CONTROLS |= {c: f"\\u{c:04x}" for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFFFE, 0xFFFF)}
_NOT_SHOWN = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Those of them that may stand in a string of JSON as they are."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """Return text that any screen can show: control characters and overrides of direction written out."""
    return _SURROGATE.sub("\ufffd", text.replace("\r\n", "\n").translate(_CONTROLS))


def escaped(json_text: str) -> str:
    """Return JSON of the same values in which no such character stands for itself."""
    return _NOT_SHOWN.sub(lambda match: f"\\u{ord(match[0]):04x}", json_text)


def visible_path(path: str) -> str:
    """Return a path as text: bytes of its names that are not UTF-8, which no file of results could hold, as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
