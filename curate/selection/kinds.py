"""Which kinds of training rows a selection holds, by the shapes that its rows are read as."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from curate.documents import shapes
from curate.fields import Fields
from curate.folders.values import as_text, python_values

_MOST = 4096
"""Patterns of filled columns that are remembered: keys of objects may be ids."""


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """Rows that a trainer reads alike."""

    name: Literal["text", "completion", "chat", "turns", "tokens", "other"]
    columns: tuple[str, ...]
    """The column of the text or the turns, or those of prompt and completion, or of `input_ids` and `labels`."""
    keys: tuple[str, str] = ("role", "content")
    """What a turn calls its speaker and its words."""
    tools: bool = False
    """Whether a column `tools` says what the assistant may call."""
    title: str = ""
    """The shape of rows that trainers do not read as they lie."""


class Kinds:
    """Learn from all rows of a selection which kinds there are."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._by_pattern: dict[tuple[Any, ...], Kind | None] = {}
        self.kinds: set[Kind] = set()

    def learn(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Learn from rows of which each counts."""
        for row in rows:
            pattern = tuple((name, type(value)) for name, value in row.items() if value is not None)
            if pattern not in self._by_pattern and len(self._by_pattern) < _MOST:
                self._by_pattern[pattern] = self._kind(row)
            if (kind := self._by_pattern.get(pattern)) is not None:
                self.kinds.add(kind)

    def learn_table(self, table: pa.Table) -> None:
        """Learn from a table: of rows that fill the same columns the first stands for all."""
        names = sorted(shapes.content_columns(table.column_names, self._fields))
        if not names or not table.num_rows:
            return
        filled = np.stack([table[name].is_valid().to_numpy() for name in names])
        _, firsts = np.unique(filled, axis=1, return_index=True)
        some = table.select(names).take(np.sort(firsts))
        columns = [python_values(column, as_text) for column in some.columns]
        self.learn(dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))

    def _kind(self, row: Mapping[str, Any]) -> Kind | None:
        fields, shape = self._fields, shapes.shape_of(row, self._fields)
        if shape is None:
            return None
        columns = shape.columns({n for n, v in row.items() if v is not None}, fields)
        values = [row[c] for c in columns]
        name = next(n for n in shapes.names() if shapes.get(n) is shape)
        if name == "text":
            return Kind("text", (fields.text,))
        if name == "prompt_completion" and len(columns) == 2:
            return Kind("completion", (fields.prompt, fields.completion))
        if name == "trl" and all(isinstance(v, list) for v in values[:2]):
            return Kind("turns", (fields.prompt, fields.completion))
        if name in ("messages", "sharegpt") and set(columns[1:]) <= {"tools"} and (keys := _turn_keys(values[0])):
            return Kind("chat", (columns[0],), keys, tools=len(columns) > 1)
        return Kind("other", (), title=shape.title)


def sorted_kinds(kinds: Set[Kind]) -> list[Kind]:
    """Return kinds in order; conversations with tools stand for those without, too."""
    return sorted(k for k in kinds if k.tools or replace(k, tools=True) not in kinds)


def _turn_keys(turns: Any) -> tuple[str, str] | None:
    """Return what turns call speaker and words, where trainers know these names."""
    turn = turns[0] if isinstance(turns, list) and turns else None
    if not isinstance(turn, Mapping):
        return None
    pairs = (("role", "content"), ("from", "value"))
    return next((pair for pair in pairs if all(turn.get(key) is not None for key in pair)), None)
