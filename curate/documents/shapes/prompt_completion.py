"""A prompt and its completion, as two texts; the completion carries the loss."""

from collections.abc import Collection
from typing import Any

from curate.documents.shapes.contract import Columns, Refused, Shape, present, string
from curate.fields import Fields


def _input(fields: Fields) -> list[str]:
    """Return the column of what an instruction is about, which is part of the prompt."""
    return ["input"] if fields.prompt == "instruction" and "input" not in fields.columns else []


def _columns(columns: Collection[str], fields: Fields) -> list[str]:
    return present(columns, [fields.prompt, fields.completion], _input(fields))


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    prompt = string(row, fields.prompt, empty=True)  # an empty prompt is fine: it carries no loss
    if isinstance(prompt, Refused):
        return prompt
    completion = string(row, fields.completion)
    if isinstance(completion, Refused):
        return completion
    for column in _input(fields):
        text = string(row, column, empty=True) if row.get(column) is not None else ""
        if isinstance(text, Refused):
            return text
        prompt += f"\n{text}" if text else ""
    return {"prompt": prompt, "completion": completion}


SHAPE = Shape(title="prompt and completion", order=40, columns=_columns, read=_read)
