"""TRL's conversational prompt and completion: lists of turns, with loss on the completion's."""

from typing import Any

from curate.documents.shapes._turns import content_of, listed_turns, turns_in, with_system
from curate.documents.shapes.contract import Columns, Refused, Shape, present
from curate.fields import Fields


def _fits(row: Columns, fields: Fields) -> bool:
    prompt, completion = row[fields.prompt], row[fields.completion]
    # A text may be of turns as JSON where both are: an answer alone may be asked for in that form.
    return isinstance(prompt, list | dict) or isinstance(completion, list | dict) or _are_written(prompt, completion)


def _are_written(prompt: Any, completion: Any) -> bool:
    return turns_in(prompt) is not prompt and turns_in(completion) is not completion


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    if _are_written(row[fields.prompt], row[fields.completion]):
        row = {**row, **{c: turns_in(row[c]) for c in (fields.prompt, fields.completion)}}
    return read_pair(row, fields.prompt, fields.completion)


def read_pair(row: Columns, prompt: str, completion: str, system: Any = None) -> dict[str, Any] | Refused:
    """Read two columns as turns; a string beside a list is one turn."""
    parts = []
    for column, role in ((prompt, "user"), (completion, "assistant")):
        value = row[column]
        turns = listed_turns([{"role": role, "content": value}] if isinstance(value, str) else value, column)
        if isinstance(turns, Refused):
            return turns
        parts.append(turns)
    return content_of([*map(without_loss, with_system(parts[0], system)), *parts[1]], row.get("tools"))


def without_loss(turn: dict[str, Any]) -> dict[str, Any]:
    """Return a turn that carries no loss."""
    return turn | {"train": False} if turn["role"] == "assistant" else turn


SHAPE = Shape(
    title="TRL's prompt and completion of turns",
    order=30,
    columns=lambda columns, fields: present(columns, [fields.prompt, fields.completion], ["tools"]),
    fits=_fits,
    read=_read,
)
