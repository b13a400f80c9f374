"""Dialogues under further names: turns of any form, or what was said in turn, the first by the user."""

from typing import Any

from curate.documents.shapes._turns import read_turns
from curate.documents.shapes.contract import Columns, Refused, Shape, first_of, present
from curate.fields import Fields

_NAMES = ("dialogue", "dialog", "turns", "rounds", "utterances")


def _fits(row: Columns, _fields: Fields) -> bool:
    (column,) = first_of([n for n, v in row.items() if v is not None], _NAMES)
    return isinstance(row[column], list | dict)


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    (column,) = first_of([n for n, v in row.items() if v is not None], _NAMES)
    return read_turns(row[column], column)


SHAPE = Shape(
    title="dialogues",
    order=90,
    columns=lambda columns, _: present(columns, first_of(columns, _NAMES) or _NAMES),
    fits=_fits,
    read=_read,
)
