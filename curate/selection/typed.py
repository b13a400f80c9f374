"""A selection in Arrow's types: one schema for the rows of all shards."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.documents.formats import jsonl
from curate.folders.unify import conform
from curate.folders.values import (
    array_of,
    as_text,
    is_list,
    map_pairs,
    mapped_array,
    mapped_type,
    python_values,
    storage_type,
)
from curate.selection.columns import LINE, MARK, Columns, leaves


class Typed:
    """How tables of the spool become tables of a dataset."""

    def __init__(self, columns: Columns, *, parquet: bool) -> None:
        self._columns = columns
        types = columns.types()
        columns.note_texts(types)
        plain = pa.schema([(name, storage_type(kind)) for name, kind in types.items()])
        self._plain = _without_empty_objects(plain, columns) if parquet else plain
        self.schema, notes = columns.features.applied(self._plain)
        columns.note(*notes)
        self.schema = _without_null_characters(self.schema, columns)
        for name, kind in columns.scores.items():
            self.schema = self.schema.append(pa.field(columns.score_names[name], kind))
        if parquet:
            _note_parquet(self.schema, columns)

    def table(self, table: pa.Table) -> pa.Table:
        """Return a table of the spool in the dataset's schema."""
        if LINE in table.column_names:
            rows: list[Any] = [jsonl.decode(line, 0) for line in table[LINE].to_pylist()]
            arrays = [array_of([row.get(f.name) for row in rows], f.type) for f in self._plain]
            self._note_gaps(rows)
            pool = pa.Table.from_arrays(arrays, schema=self._plain)
        else:
            pool = conform(table, self._plain)
        scores = [table[MARK + name] for name in self._columns.scores]
        types = self.schema.types
        return pa.Table.from_arrays(
            [_stored(c, kind) for c, kind in zip([*pool.columns, *scores], types, strict=True)], schema=self.schema
        )

    def _note_gaps(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for field in self._plain:
            for path in _gaps(field.name, [row.get(field.name) for row in rows], field.type):
                self._columns.note(f"`{path}` is null where an object has no such key: Arrow gives it to all.")


def _stored(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if not isinstance(kind, pa.BaseExtensionType):
        return column
    chunks = [pa.ExtensionArray.from_storage(kind, chunk) for chunk in column.chunks]
    return pa.chunked_array(chunks, kind)


def _gaps(path: str, values: Iterable[Any], kind: pa.DataType) -> Iterator[str]:
    """Yield the keys of a type that some of the objects lack; a key whose value is null is there."""
    present = [value for value in values if value is not None]
    if is_list(kind):
        yield from _gaps(f"{path}[]", chain.from_iterable(present), kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            held = [value[field.name] for value in present if field.name in value]
            if len(held) < len(present):
                yield f"{path}.{field.name}"
            else:
                yield from _gaps(f"{path}.{field.name}", held, field.type)


def _without_empty_objects(schema: pa.Schema, columns: Columns) -> pa.Schema:
    """Return the schema with text for objects that never have a key, which Parquet does not know."""
    for path, leaf in (pair for field in schema for pair in leaves(field.name, field.type)):
        if leaf == pa.struct([]):
            columns.note(f"`{path}` holds objects without keys, which Parquet does not know: they are text, {{}}.")

    def text(leaf: pa.DataType) -> pa.DataType:
        return pa.string() if leaf == pa.struct([]) else leaf

    return pa.schema([f.with_type(mapped_type(f.type, text)) for f in schema])


def _without_null_characters(schema: pa.Schema, columns: Columns) -> pa.Schema:
    """Return the schema with other names for columns whose own are cut where `datasets` reads them."""
    for number, field in enumerate(schema):
        name = field.name.replace("\0", "\u2400")
        while name != field.name and name in schema.names:
            name += "_"
        if name != field.name:
            columns.note(f"`{name}` has a null character in its name in the pool, which `datasets` cannot load.")
            schema = schema.set(number, field.with_name(name))
    return schema


def _note_parquet(schema: pa.Schema, columns: Columns) -> None:
    """Tell which types Parquet keeps as others, such as seconds as milliseconds."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()
    for field, kept in zip(schema, pq.read_schema(pa.BufferReader(sink.getvalue())), strict=True):
        if kept.type != field.type:
            columns.note(f"`{field.name}` is {kept.type}: Parquet has no {field.type}.")


def loadable(table: pa.Table, note: Callable[[str], object]) -> pa.Table:
    """Return a shard's table in types that `datasets` knows; `note` is told what they replace."""
    for number, field in enumerate(table.schema):
        chunks = [mapped_array(chunk, _loadable) for chunk in table.column(number).chunks]
        kind = chunks[0].type
        if kind == field.type:
            continue
        note(f"`{field.name}` is written as {kind}; the pool has {field.type}, which `datasets` cannot load.")
        table = table.set_column(number, field.with_type(kind), pa.chunked_array(chunks))
    return table


def _loadable(array: pa.Array) -> pa.Array:
    kind = array.type
    if isinstance(array, pa.MapArray):
        return mapped_array(map_pairs(array), _loadable)
    if pa.types.is_timestamp(kind) and kind.tz and not _is_known(kind):
        return array.cast(pa.timestamp(kind.unit, "UTC"))
    if pa.types.is_union(kind) or pa.types.is_interval(kind):
        return array_of(python_values(array, as_text), pa.string())
    return array


def _is_known(kind: pa.DataType) -> bool:
    try:
        pa.scalar(0, kind).as_py()
    except (ValueError, pa.ArrowException):
        return False
    return True
