"""Dialogues: what was said in turn, as a list of texts that begins with the user's, or as turns of any form."""

from typing import Any

from curate.documents.shapes._turns import read_turns
from curate.documents.shapes.contract import Columns, Refused, Shape, first_of, present
from curate.fields import Fields

_NAMES = ("dialogue", "dialog", "turns")


def _fits(row: Columns, _fields: Fields) -> bool:
    (column,) = first_of([n for n, v in row.items() if v is not None], _NAMES)
    return isinstance(row[column], list | dict)


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    (column,) = first_of([n for n, v in row.items() if v is not None], _NAMES)
    value = row[column]
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        value = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)]
    return read_turns(value, column)


SHAPE = Shape(
    title="dialogues",
    order=90,
    columns=lambda columns, _: present(columns, first_of(columns, _NAMES) or _NAMES),
    fits=_fits,
    read=_read,
)
