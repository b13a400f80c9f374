"""A question and its answer in two columns, under the names in use; a system prompt and a context come first.

Either may be a list of turns.
"""

from collections.abc import Collection, Mapping
from typing import Any

from curate.documents.shapes._turns import answered_after
from curate.documents.shapes.contract import SYSTEM, Columns, Refused, Shape, first_of, present
from curate.documents.shapes.trl import read_pair
from curate.fields import Fields

_PAIRS = (
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("prompt", "response"),
    ("problem", "solution"),
    ("problem", "generated_solution"),
    ("prompt", "answer"),
    ("input", "output"),
    ("input", "target"),
    ("inputs", "targets"),
)
_BEFORE = SYSTEM, ("context",), ("history",)


def _pair(columns: Collection[str]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if all(c in columns for c in pair)), None)


def _columns(columns: Collection[str], _fields: Fields) -> list[str]:
    pair = _pair(columns)
    return present(columns, pair, [c for names in _BEFORE for c in first_of(columns, names)]) if pair else []


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    question, answer, *before = _columns([name for name, value in row.items() if value is not None], fields)
    if any(map(_are_turns, (row[question], row[answer]))):
        return read_pair(row, question, answer, next((row[c] for c in SYSTEM if c in before), None))
    return answered_after(row, [*before, question], answer)


def _are_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


SHAPE = Shape(title="questions and answers", order=80, columns=_columns, read=_read)
