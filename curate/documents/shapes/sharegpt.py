"""ShareGPT: `conversations` of turns with `from` and `value`, and LLaMA-Factory's columns `system` and `tools`."""

from typing import Any

from curate.documents.shapes._turns import read_turns
from curate.documents.shapes.contract import Columns, Refused, Shape, first_of, present
from curate.fields import Fields

_NAMES = ("conversations", "conversation")


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    (column,) = first_of([n for n, v in row.items() if v is not None], _NAMES)
    return read_turns(row[column], column, system=row.get("system"), tools=row.get("tools"))


SHAPE = Shape(
    title="ShareGPT conversations",
    order=50,
    columns=lambda columns, _: present(columns, first_of(columns, _NAMES) or _NAMES, ("system", "tools")),
    read=_read,
)
