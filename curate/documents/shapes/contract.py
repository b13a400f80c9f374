"""What a shape is: how rows of one kind of training data become content.

A shape is a module with `SHAPE`, in this folder or named by an entry point of the group `curate.shapes`; its name is
the file's or the entry point's, and what `--format-as` takes.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.fields import Fields

Columns = Mapping[str, Any]
SHOWN = 60
EMPTY = "empty text"
"""The reason of a row whose text, or answer, is blank."""
BETWEEN = "\n\n"
"""Stands between the blocks of a prompt, and before what answers it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a row is no document."""

    reason: str
    """A few words to group by."""
    detail: str


def _always(_row: Columns, _fields: Fields) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How rows of one kind are told and read."""

    title: str
    """Its name for people: "ShareGPT conversations"."""
    order: int
    """A row of several shapes is read as the one with the lowest."""
    columns: Callable[[Collection[str], Fields], Sequence[str]]
    """Return the columns that a row with these columns is read from; none where it is not of this shape."""
    read: Callable[[Columns, Fields], Mapping[str, Any] | Refused]
    """Return a row's `text`, `prompt` and `completion`, or `messages` (and `tools`); or why it has none."""
    fits: Callable[[Columns, Fields], bool] = _always
    """Whether a row with those columns has values of this shape, too."""


def present(columns: Collection[str], needed: Sequence[str], optional: Sequence[str] = ()) -> list[str]:
    """Return the columns of a shape that are there; none where a needed one is missing."""
    if not all(c in columns for c in needed):
        return []
    return [*needed, *(c for c in optional if c in columns)]


def first_of(columns: Collection[str], names: Sequence[str]) -> list[str]:
    """Return the first of some names that is a column, as a list of one, or none."""
    return [n for n in names if n in columns][:1]


def shown(value: Any) -> str:
    """Return the beginning of a value, for people."""
    try:
        return repr(value)[:SHOWN]
    except RecursionError:
        return f"{type(value).__name__}, nested too deep to show"


def string(row: Columns, column: str, *, empty: bool = False) -> str | Refused:
    """Return a column's text, from bytes too; or why it is none."""
    value = row.get(column)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            return Refused("not a string", f"column {column!r} holds bytes that are not UTF-8: {error}")
    if not isinstance(value, str):
        return Refused("not a string", f"column {column!r} holds {type(value).__name__}: {shown(value)}")
    if not empty and (not value or value.isspace()):
        return Refused(EMPTY, f"column {column!r} holds {value[:SHOWN]!r}")
    return value


def answered(row: Columns, blocks: Sequence[str], answer: str) -> dict[str, Any] | Refused:
    """Return a prompt made of the blocks' texts that are not empty, and the answer as its completion."""
    texts = []
    for column in blocks:
        text = string(row, column, empty=True) if row.get(column) is not None else ""
        if isinstance(text, Refused):
            return text
        texts += [text] if text.strip() else []
    completion = string(row, answer)
    if isinstance(completion, Refused):
        return completion
    return {"prompt": "".join(text + BETWEEN for text in texts), "completion": completion}


SYSTEM = ("system", "system_prompt")
"""Names of a column of system prompts."""
