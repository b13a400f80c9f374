"""OpenAI's preference pairs: the preferred output of a conversation, which `input` holds with its tools."""

from collections.abc import Mapping
from typing import Any

from curate.documents.shapes._turns import content_of, listed_turns
from curate.documents.shapes.contract import Columns, Refused, Shape, present, shown
from curate.documents.shapes.trl import without_loss
from curate.fields import Fields


def _read(row: Columns, _fields: Fields) -> dict[str, Any] | Refused:
    asked = row["input"]
    if not isinstance(asked, Mapping):
        return Refused("invalid messages", f"column 'input': expected an object with 'messages', found {shown(asked)}")
    parts = []
    for column, value in (("input.messages", asked.get("messages")), ("preferred_output", row["preferred_output"])):
        turns = listed_turns(value, column)
        if isinstance(turns, Refused):
            return turns
        parts.append(turns)
    return content_of([*map(without_loss, parts[0]), *parts[1]], asked.get("tools"))


SHAPE = Shape(
    title="OpenAI's preference pairs, the preferred output of each",
    order=65,
    columns=lambda columns, _: present(columns, ["input", "preferred_output", "non_preferred_output"]),
    read=_read,
)
