"""Plain text in one column, as strings or as bytes of UTF-8."""

from typing import Any

from curate.documents.shapes.contract import Columns, Refused, Shape, present, string
from curate.fields import Fields


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    text = string(row, fields.text)
    return text if isinstance(text, Refused) else {"text": text}


SHAPE = Shape(
    title="plain text",
    order=10,
    columns=lambda columns, fields: present(columns, [fields.text]),
    read=_read,
)
