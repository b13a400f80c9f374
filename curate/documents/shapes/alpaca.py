"""Alpaca: `instruction`, `input`, `output`, LLaMA-Factory's `system` and `history`, and Dolly's names for them."""

from collections.abc import Collection
from typing import Any

from curate.documents.shapes.contract import BETWEEN, Columns, Refused, Shape, answered, first_of, present
from curate.fields import Fields

_INPUTS, _OUTPUTS = ("input", "context"), ("output", "response")


def _columns(columns: Collection[str], _fields: Fields) -> list[str]:
    inputs, outputs = first_of(columns, _INPUTS), first_of(columns, _OUTPUTS)
    return present(columns, ["instruction", *(outputs or _OUTPUTS)], ["system", "history", *inputs])


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    filled = [name for name, value in row.items() if value is not None]
    blocks = ["system", "history", "instruction", *first_of(filled, _INPUTS)]
    return answered({**row, "history": _history(row.get("history"))}, blocks, *first_of(filled, _OUTPUTS))


def _history(value: Any) -> Any:
    """Return pairs of earlier instructions and answers as one text; None where there are none."""
    if not isinstance(value, list):
        return value
    pairs = [pair for pair in value if isinstance(pair, list)]
    return BETWEEN.join(text for pair in pairs for text in pair if isinstance(text, str)) or None


SHAPE = Shape(title="Alpaca instructions", order=60, columns=_columns, read=_read)
