"""ShareGPT: `conversations` of turns with `from` and `value`, and LLaMA-Factory's columns `system` and `tools`."""

from typing import Any

from curate.documents.shapes._turns import (
    CONVERSATIONS,
    MARKS,
    SYSTEM_OF_TURNS,
    asks_for_a_choice,
    read_turns,
    system_of,
)
from curate.documents.shapes.contract import Columns, Refused, Shape, first_of, present
from curate.fields import Fields


def _column(row: Columns) -> str:
    return first_of([name for name, value in row.items() if value is not None], CONVERSATIONS)[0]


def _fits(row: Columns, _fields: Fields) -> bool:
    return not asks_for_a_choice(row, _column(row))


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    column = _column(row)
    return read_turns(row[column], column, system=system_of(row), tools=row.get("tools"), marks=row.get(MARKS))


SHAPE = Shape(
    title="ShareGPT conversations",
    order=50,
    columns=lambda columns, _: present(
        columns, first_of(columns, CONVERSATIONS) or CONVERSATIONS, (*SYSTEM_OF_TURNS, "tools", MARKS)
    ),
    fits=_fits,
    read=_read,
)
