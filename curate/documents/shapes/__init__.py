"""One shape of training rows per file; the folder and the entry points of the group `curate.shapes` are the registry.

`contract.py` says what a shape is. Adding one touches one file and its test.
"""

import sys
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

from curate.documents.shapes._turns import listed_turns
from curate.documents.shapes.contract import EMPTY, Columns, Refused, Shape
from curate.fields import SHAPES, Fields


def names() -> tuple[str, ...]:
    """Return the shapes that there are. Imports none of them."""
    return SHAPES.names()


@lru_cache
def get(name: str) -> Shape:
    """Return a shape by name. Raises SettingsError with the nearest name that there is."""
    return SHAPES.get(name).SHAPE


def candidates(fields: Fields) -> tuple[Shape, ...]:
    """Return the shapes that rows may have, in the order in which they are tried: all, or the one that was named."""
    return (get(fields.format_as),) if fields.format_as else _all(tuple(sys.path))


def shape_of(row: Columns, fields: Fields) -> Shape | None:
    """Return the shape that a row is read as; None where it has none."""
    filled = {name for name, value in row.items() if value is not None}
    return first_fitting(row, fields, of_columns(filled, fields))


def first_fitting(row: Columns, fields: Fields, shapes: Iterable[Shape]) -> Shape | None:
    """Return the first of some shapes that a row has; one whose text is empty gives way to one that has content."""
    fitting = [shape for shape in shapes if shape.fits(row, fields)]
    others = (s for s in fitting if not _is_empty(s, row, fields))
    return next(others, fitting[0]) if len(fitting) > 1 else next(iter(fitting), None)


def _is_empty(shape: Shape, row: Columns, fields: Fields) -> bool:
    values = (row[column] for column in shape.columns([n for n, v in row.items() if v is not None], fields))
    if not any(isinstance(value, str) and not value.strip() for value in values):
        return False
    content = shape.read(row, fields)
    return isinstance(content, Refused) and content.reason == EMPTY


def of_columns(filled: Collection[str], fields: Fields) -> list[Shape]:
    """Return the shapes, in the order in which they are tried, that rows may have of which these are not null."""
    return [shape for shape in candidates(fields) if shape.columns(filled, fields)]


def content_columns(columns: Collection[str], fields: Fields) -> set[str]:
    """Return the columns that some shape would read a row with these columns from."""
    return {c for shape in candidates(fields) for c in shape.columns(columns, fields)}


def are_turns(value: Any) -> bool:
    """Return whether a value is a conversation of two or more, as a list of turns or JSON of one."""
    turns = listed_turns(value, "") if isinstance(value, list | dict | str) else Refused("", "")
    return not isinstance(turns, Refused) and len({turn["role"] for turn in turns}) > 1


def is_turn(row: Columns) -> bool:
    """Return whether a row is one turn of a conversation."""
    turns = listed_turns(row, "")
    return not isinstance(turns, Refused) and len(turns) == 1 and turns[0]["role"] in ("system", "user", "assistant")


def expected(fields: Fields, prefix: str = "--") -> str:
    """Return the columns that rows are read from, for people; `prefix` begins the option that names a shape."""
    if fields.format_as:
        return f"{get(fields.format_as).title} ({prefix}format-as {fields.format_as})"
    return f"{fields.text!r}, {fields.messages!r} or {fields.prompt!r} with {fields.completion!r}"


@lru_cache
def _all(_path: tuple[str, ...]) -> tuple[Shape, ...]:
    return tuple(sorted(map(get, names()), key=lambda shape: shape.order))
