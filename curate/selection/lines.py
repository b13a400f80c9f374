"""A selection as lines of JSON: the pool's own lines as they are, and rows of other formats as JSON has them."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from curate.documents.formats import jsonl
from curate.folders.unify import convert
from curate.folders.values import as_json, as_text, is_list, json_text, python_values, storage_type
from curate.selection.columns import LINE, MARK, Columns, leaves
from curate.selection.features import in_front_matter

_WORDS = {
    pa.types.is_binary: "is base64",
    pa.types.is_large_binary: "is base64",
    pa.types.is_fixed_size_binary: "is base64",
    pa.types.is_temporal: "is text, moments as ISO 8601 has them",
    pa.types.is_decimal: "is text",
}


class Lines:
    """How tables of the spool become lines."""

    schema = pa.schema([("line", pa.large_binary())])

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._types = columns.types()
        # What shards that state types have as text is text in lines, too, so that a column has one type; but lists and
        # objects beside text (messages beside a plain prompt) stay what they are in each row.
        texts = [n for n in columns.stated if pa.types.is_string(storage_type(self._types[n]))]
        self._mixed = [n for n in texts if n in columns.nested]
        self._texts = [n for n in texts if n not in columns.nested]
        if columns.stated:
            columns.note_texts({name: self._types[name] for name in columns.stated if name not in self._mixed})
            self._note_types()

    def front_matter(self) -> list[Any] | None:
        """Return features for the card; None where `datasets` loads the lines without."""
        if not self._columns.ragged and not self._mixed and not self._columns.features.kept():
            self._columns.note(*self._columns.features.notes)
            return None
        scores = {self._columns.score_names[name]: kind for name, kind in self._columns.scores.items()}
        features, notes = in_front_matter(
            {**self._types, **dict.fromkeys(self._texts, pa.string())}, scores, self._columns.features
        )
        self._columns.note(*notes)
        return features

    def table(self, table: pa.Table) -> pa.Table:
        """Return a table of the spool as lines."""
        if LINE in table.column_names:
            pool = (self._own(line) for line in table[LINE].to_pylist())
        else:
            pool = self._of_types(table)
        lines = [_joined(line, scores) for line, scores in zip(pool, self._score_lines(table), strict=True)]
        return pa.table([pa.array(lines, pa.large_binary())], schema=self.schema)

    def _own(self, line: bytes) -> bytes:
        if self._texts:
            row: Any = jsonl.decode(line, 0)
            if any(not isinstance(row.get(name), str | None) for name in self._texts):
                text = {n: json_text(row[n]) for n in self._texts if not isinstance(row.get(n), str | None)}
                line = json.dumps({**row, **text}, ensure_ascii=False).encode()
        return line.replace(b"\n", b" ").strip()

    def _of_types(self, table: pa.Table) -> Iterator[bytes]:
        columns = []
        for name, kind in self._columns.stated.items():
            if name not in table.column_names:
                columns.append([None] * table.num_rows)
                continue
            column = table[name]
            if name not in self._mixed:
                column = convert(column, pa.string() if name in self._texts else storage_type(kind))
            self._note_nan(name, column)
            columns.append(python_values(column, as_text))
        for values in zip(*columns, strict=True):
            yield _dumped(dict(zip(self._columns.stated, values, strict=True)))

    def _score_lines(self, table: pa.Table) -> Iterator[bytes]:
        names = self._columns.score_names
        for values in zip(*(table[MARK + name].to_pylist() for name in names), strict=True):
            yield _dumped(dict(zip(names.values(), values, strict=True)))

    def _note_types(self) -> None:
        for name, kind in self._columns.stated.items():
            for path, leaf in leaves(name, storage_type(kind)):
                for check, words in _WORDS.items():
                    if check(leaf):
                        self._columns.note(f"`{path}` {words}: JSON has no {leaf}.")

    def _note_nan(self, name: str, column: pa.ChunkedArray) -> None:
        if any(_has_nan(chunk) for chunk in column.chunks):
            self._columns.note(f"`{name}` is null where the pool has NaN or an infinity, which JSON lacks.")


def _has_nan(array: pa.Array) -> bool:
    if is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        return _has_nan(array.flatten())
    if isinstance(array, pa.StructArray):
        return any(map(_has_nan, array.flatten()))
    return pa.types.is_floating(array.type) and not np.isfinite(array.drop_null().to_numpy(zero_copy_only=False)).all()


def _dumped(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, default=_as_json)


def _as_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else as_json(value)


def _joined(line: bytes, scores: bytes) -> bytes:
    """Put the scores behind the keys of an object."""
    head = line[:-1].rstrip()
    return head + (b"" if head.endswith(b"{") else b",") + scores[1:]
