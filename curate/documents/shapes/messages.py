"""OpenAI's chat messages: a list of turns in one column, and the tools that they may call in another."""

from collections.abc import Collection
from typing import Any

from curate.documents.shapes._turns import read_turns
from curate.documents.shapes.contract import Columns, Refused, Shape, present
from curate.fields import Fields


def _optional(fields: Fields) -> list[str]:
    """Return the columns beside the turns; a system prompt of its own goes with ShareGPT's rows under any name."""
    return ["tools"] if fields.messages == "messages" else ["tools", "system"]


def _columns(columns: Collection[str], fields: Fields) -> list[str]:
    return present(columns, [fields.messages], _optional(fields))


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    return read_turns(row[fields.messages], fields.messages, **{name: row.get(name) for name in _optional(fields)})


SHAPE = Shape(title="chat messages", order=20, columns=_columns, read=_read)
