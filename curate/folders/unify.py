"""One schema for parts whose pool columns differ in type."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from curate.folders.values import (
    EITHER_64,
    JSON_TEXT,
    MOST_KEYS,
    Whole,
    array_of,
    as_text,
    is_list,
    plain_type,
    python_values,
    storage_type,
    with_float,
)


def unify(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return the schema that holds the rows of all schemas: columns by name in the order first seen.

    A type that fits both is taken where Arrow knows one (null with anything, int32 with int64, int with
    float, the fields of structs); values without a common one (a number and a date) become strings, in lists and
    structs too.
    """
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        merge_columns(types, schema)
    return pa.schema([(name, storage_type(kind)) for name, kind in types.items()])


def merge_columns(types: dict[str, pa.DataType], columns: Iterable[pa.Field]) -> None:
    """Widen the marked types of columns, in place, so that they hold further columns; add those that are new."""
    for field in columns:
        kind = _small_string(plain_type(field.type))
        before = types.get(field.name)
        types[field.name] = kind if before is None or before == kind else unify_types(before, kind)


File = tuple[Path, pa.Schema]
"""A Parquet file and its columns."""


def by_schema(files: Sequence[File]) -> list[tuple[pa.Schema, list[Path]]]:
    """Group neighbouring files of equal columns and types, keeping the order of the files."""
    groups: list[tuple[pa.Schema, list[Path]]] = []
    for path, schema in files:
        if groups and groups[-1][0].equals(schema):
            groups[-1][1].append(path)
        else:
            groups.append((schema, [path]))
    return groups


def unify_types(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """Return the marked type that holds the values of both."""
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    if JSON_TEXT in (left, right):
        return JSON_TEXT
    if pa.types.is_struct(left) and pa.types.is_struct(right):
        return _unified_struct(left, right)
    if is_list(left) and is_list(right):
        make = pa.large_list if pa.types.is_large_list(left) or pa.types.is_large_list(right) else pa.list_
        return make(unify_types(left.value_type, right.value_type))
    return _unified_scalar(left, right)


def _unified_struct(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    fields = {f.name: f.type for f in left}
    for field in right:
        fields[field.name] = unify_types(fields.get(field.name, field.type), field.type)
    return pa.struct(list(fields.items())) if len(fields) <= MOST_KEYS else JSON_TEXT


def _unified_scalar(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    if isinstance(left, Whole) or isinstance(right, Whole):
        return _unified_whole(left, right)
    if pa.uint64() in (left, right):
        other = right if left == pa.uint64() else left
        if pa.types.is_signed_integer(other):
            return EITHER_64
        if pa.types.is_floating(other):
            return JSON_TEXT  # a float does not keep the digits of 64-bit identifiers
    try:
        merged = pa.unify_schemas([pa.schema([("x", left)]), pa.schema([("x", right)])], promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return JSON_TEXT
    return merged.field("x").type


def _unified_whole(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    whole, other = (left, right) if isinstance(left, Whole) else (right, left)
    assert isinstance(whole, Whole)
    if pa.types.is_integer(other):
        limit = 2**other.bit_width
        other = Whole(0, limit - 1) if pa.types.is_unsigned_integer(other) else Whole(-limit // 2, limit // 2 - 1)
    if isinstance(other, Whole):
        return Whole(min(whole.low, other.low), max(whole.high, other.high))
    return with_float(whole) if pa.types.is_floating(other) else JSON_TEXT


def _small_string(kind: pa.DataType) -> pa.DataType:
    # Between files only the values count.
    return pa.string() if pa.types.is_large_string(kind) else kind


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring a table to a unified schema: missing columns are null, types are widened or become strings."""
    columns = []
    names = set(table.column_names)
    for field in schema:
        if field.name in names:
            columns.append(convert(table.column(field.name), field.type))
        else:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
    return pa.Table.from_arrays(columns, schema=schema)


def convert(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Bring a column to a unified type."""
    if column.type == kind:
        return column
    nested = pa.types.is_nested(column.type)
    if not nested and not isinstance(column.type, pa.BaseExtensionType):
        try:
            return column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            if not pa.types.is_string(kind):
                raise
    # Arrow casts neither between structs of different fields nor bytes or odd zones to text.
    return pa.chunked_array([array_of(python_values(column, as_text), kind)], kind)
