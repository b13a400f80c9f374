"""The columns of a selection: learned from all of its rows before any is written; what cannot stay is told."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.folders.unify import merge_columns
from curate.folders.values import EXACT, JSON_TEXT, Whole, is_list, types_of
from curate.selection.features import Features

LINE = "\0line"
"""The column of exact lines, in tables of shards that are lines of JSON."""
MARK = "\0score "
"""Before a score's name, until the names of all shards' own columns are known."""


class Columns:
    """Types and features of a selection's columns, as far as they are known, and what is written otherwise."""

    def __init__(self) -> None:
        self.stated: dict[str, pa.DataType] = {}
        """Types of the columns of those shards that state them."""
        self.scores: dict[str, pa.DataType] = {}
        self.features = Features()
        self.ragged = False
        """Whether later lines of JSON have columns or types that earlier ones had not."""
        self.nested: set[str] = set()
        """Columns that hold lists or objects in any shard."""
        self._types: dict[str, pa.DataType] = {}
        self._largest: dict[str, int] = {}
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is written otherwise than the pool has it."""
        return tuple(self._notes)

    def note(self, *sentences: str) -> None:
        """Tell of a change."""
        self._notes |= dict.fromkeys(sentences)

    def learn_lines(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Learn from rows of JSON."""
        types, before = types_of(rows), dict(self._types)
        merge_columns(self._types, pa.schema(list(types.items())))
        self.ragged |= bool(before) and before != self._types
        mixed = [n for n, kind in types.items() if kind == JSON_TEXT and any(_is_nested(r.get(n)) for r in rows)]
        self.nested |= {n for n, kind in types.items() if pa.types.is_nested(kind)} | set(mixed)
        self.features.learn(types, None)

    def learn_table(self, table: pa.Table, metadata: Mapping[bytes, bytes] | None) -> None:
        """Learn from rows of a shard that states types, and has this metadata."""
        for types in (self._types, self.stated):
            merge_columns(types, table.schema)
        self.features.learn(table.column_names, metadata)
        self.nested |= {f.name for f in table.schema if pa.types.is_nested(f.type)}
        for name in table.column_names:
            if table.schema.field(name).type in (pa.int64(), pa.uint64()):
                ends = pc.call_function("min_max", [table[name]]).as_py().values()
                self._largest[name] = max([self._largest.get(name, 0), *(abs(end) for end in ends if end)])

    def learn_scores(self, scores: Iterable[pa.Field]) -> None:
        """Learn the names and types of the scores, and of what else stands beside the pool's columns."""
        self.scores = {f.name: f.type for f in scores}

    @property
    def score_names(self) -> dict[str, str]:
        """The scores' names in the dataset by their own: other ones where the pool has the same."""
        names: dict[str, str] = {}
        for name in self.scores:
            names[name] = name
            while names[name] in self._types:
                names[name] = f"curate_{names[name]}"
        return names

    def types(self) -> dict[str, pa.DataType]:
        """Return the marked types of the pool's columns."""
        # Whole numbers of one shard that the floats of another would round.
        wide = {n for n, k in self._types.items() if pa.types.is_floating(k) and self._largest.get(n, 0) > EXACT}
        return {name: JSON_TEXT if name in wide else kind for name, kind in self._types.items()}

    def note_texts(self, types: Mapping[str, pa.DataType]) -> None:
        """Tell which values are written as text as their types have no other in common."""
        for path, leaf in (pair for name, kind in types.items() for pair in leaves(name, kind)):
            if leaf == JSON_TEXT:
                self.note(
                    f"`{path}` holds values of several types: it is text in every row, and JSON where it was no text."
                )
            elif isinstance(leaf, Whole) and pa.types.is_string(leaf.storage_type):
                self.note(f"`{path}` holds numbers of more than 64 bits: they are text.")


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Yield what lies innermost in a column's type, by its path: `messages[].content`."""
    if pa.types.is_struct(kind) and kind.num_fields:
        for field in kind:
            yield from leaves(f"{path}.{field.name}", field.type)
    elif is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from leaves(f"{path}[]", kind.value_type)
    else:
        yield path, kind
