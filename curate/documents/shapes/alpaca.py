"""Alpaca: `instruction`, `input`, `output`, LLaMA-Factory's `system` and `history`, and Dolly's names for them."""

from collections.abc import Collection
from typing import Any

from curate.documents.shapes._turns import answered_after
from curate.documents.shapes.contract import Columns, Refused, Shape, first_of, present
from curate.fields import Fields

_INPUTS, _OUTPUTS = ("input", "context"), ("output", "response")


def _columns(columns: Collection[str], _fields: Fields) -> list[str]:
    inputs, outputs = first_of(columns, _INPUTS), first_of(columns, _OUTPUTS)
    return present(columns, ["instruction", *(outputs or _OUTPUTS)], ["system", "history", *inputs])


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    filled = [name for name, value in row.items() if value is not None]
    blocks = ["system", "history", "instruction", *first_of(filled, _INPUTS)]
    return answered_after(row, blocks, *first_of(filled, _OUTPUTS))


SHAPE = Shape(title="Alpaca instructions", order=60, columns=_columns, read=_read)
