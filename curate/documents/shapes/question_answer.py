"""A question and its answer in two columns, under the names in use; a system prompt and a context come first."""

from collections.abc import Collection
from typing import Any

from curate.documents.shapes.contract import Columns, Refused, Shape, answered, first_of, present
from curate.fields import Fields

_PAIRS = (
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("prompt", "response"),
    ("problem", "solution"),
    ("input", "output"),
)
_BEFORE = ("system", "system_prompt"), ("context",)


def _pair(columns: Collection[str]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if all(c in columns for c in pair)), None)


def _columns(columns: Collection[str], _fields: Fields) -> list[str]:
    pair = _pair(columns)
    return present(columns, pair, [c for names in _BEFORE for c in first_of(columns, names)]) if pair else []


def _read(row: Columns, fields: Fields) -> dict[str, Any] | Refused:
    question, answer, *before = _columns([name for name, value in row.items() if value is not None], fields)
    return answered(row, [*before, question], answer)


SHAPE = Shape(title="questions and answers", order=80, columns=_columns, read=_read)
