"""The columns of a selection: learned from all of its rows before any is written; what cannot stay is told."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What some rows tell of their columns. A value: it pickles."""

    schema: pa.Schema
    """Marked types of values of JSON, or the types that a shard states."""
    is_stated: bool
    nested: frozenset[str]
    """Columns that hold lists or objects."""
    metadata: Mapping[bytes, bytes] | None = None
    """Of the shard, where it states types."""
    largest: Mapping[str, int] = field(default_factory=dict)
    """By column of 64-bit numbers."""

    @classmethod
    def in_lines(cls, rows: Sequence[Mapping[str, Any]]) -> "Seen":
        """Return what rows of JSON tell."""
        types = types_of(rows)
        mixed = {n for n, kind in types.items() if kind == JSON_TEXT and any(_is_nested(r.get(n)) for r in rows)}
        nested = {n for n, kind in types.items() if pa.types.is_nested(kind)} | mixed
        return cls(schema=pa.schema(list(types.items())), is_stated=False, nested=frozenset(nested))

    @classmethod
    def in_table(cls, table: pa.Table, metadata: Mapping[bytes, bytes] | None) -> "Seen":
        """Return what rows of a shard tell that states types, and has this metadata."""
        largest = {}
        for name in table.column_names:
            if table.schema.field(name).type in (pa.int64(), pa.uint64()):
                ends = pc.call_function("min_max", [table[name]]).as_py().values()
                largest[name] = max([0, *(abs(end) for end in ends if end)])
        return cls(
            schema=table.schema.remove_metadata(),
            is_stated=True,
            nested=frozenset(f.name for f in table.schema if pa.types.is_nested(f.type)),
            metadata=metadata,
            largest=largest,
        )


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

    def learn(self, seen: Seen) -> None:
        """Learn what further rows tell, in the pool's order."""
        before = dict(self._types)
        merge_columns(self._types, seen.schema)
        if seen.is_stated:
            merge_columns(self.stated, seen.schema)
        else:
            self.ragged |= bool(before) and before != self._types
        self.nested |= seen.nested
        self.features.learn(seen.schema.names, seen.metadata)
        for name, largest in seen.largest.items():
            self._largest[name] = max(self._largest.get(name, 0), largest)

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
