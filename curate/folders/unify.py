"""One schema for parts whose pool columns differ in type."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa


def unify(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return the schema that holds the rows of all schemas: columns by name in the order first seen.

    A type that fits both is taken where Arrow knows one (null with anything, int32 with int64, int with
    float, the fields of structs); types without a common one (a number and a date) become strings.
    """
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            kind = _plain(field.type)
            types[field.name] = unify_types(types.get(field.name, kind), kind)
    return pa.schema(list(types.items()))


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
    """Return the type that holds the values of both."""
    if left == right:
        return left
    if _mixes_unsigned(left, right):
        return pa.string()  # 64-bit identifiers have no common number type that keeps them exact
    try:
        merged = pa.unify_schemas([pa.schema([("x", left)]), pa.schema([("x", right)])], promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.string()
    return merged.field("x").type


def _mixes_unsigned(left: pa.DataType, right: pa.DataType) -> bool:
    signed = pa.types.is_signed_integer(left) or pa.types.is_signed_integer(right)
    return signed and pa.uint64() in (left, right)


def _plain(kind: pa.DataType) -> pa.DataType:
    # Dictionaries and large strings are ways of storing; between files only the values count.
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring a table to a unified schema: missing columns are null, types are widened or become strings."""
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(_convert(table.column(field.name), field.type))
        else:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
    return pa.Table.from_arrays(columns, schema=schema)


def _convert(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_nested(column.type):
        # Arrow cannot cast between structs of different fields; through Python objects missing fields
        # become null.
        values = column.to_pylist()
        if pa.types.is_string(kind):
            values = [v if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values]
        return pa.chunked_array([pa.array(values, type=kind)])
    return column.cast(kind)
