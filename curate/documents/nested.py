"""Say how what lies within a column's objects becomes columns, which rows are read by."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from curate.documents import shapes
from curate.documents.files import compression_of
from curate.documents.shapes.contract import Refused
from curate.documents.shards import Shard
from curate.fields import Fields


def column_of_a_row(row: Mapping[str, Any], fields: Fields) -> str | None:
    """Return the column of a row whose object would be a document by itself, if one holds such."""
    objects = ((c, dict(v)) for c, v in row.items() if isinstance(v, Mapping))
    return next((column for column, inner in objects if _is_document(inner, fields)), None)


def _is_document(row: Mapping[str, Any], fields: Fields) -> bool:
    shape = shapes.shape_of(row, fields)
    return shape is not None and not isinstance(shape.read(row, fields), Refused)


def taken_out(shard: Shard, column: str) -> str:
    """Say how the keys of a column's objects become columns."""
    said = f"The column {column!r} holds objects that rows could be read from. Write their keys as columns"
    return said + _command(shard, f". + .{_quoted([column])}", f"{_identifier([column])}.*")


def lifted(shard: Shard, row: Mapping[str, Any], name: str) -> str | None:
    """Say how the value that a name with dots leads to becomes a column; None where it leads to none."""
    keys, value = name.split("."), row
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    if len(keys) == 1:
        return None
    said = f"{keys[-1]!r} lies within the column {keys[0]!r}, and columns alone are read. Write it as one of this name"
    path = f".{_quoted(keys)}"
    return said + _command(
        shard, f". + {{{json.dumps(name)}: {path}}}", f"*, {_identifier(keys)} AS {_identifier([name])}"
    )


def _quoted(keys: list[str]) -> str:
    return "".join(f"[{json.dumps(key, ensure_ascii=False)}]" for key in keys)


def _identifier(keys: list[str]) -> str:
    return ".".join('"' + key.replace('"', '""') + '"' for key in keys)


def _command(shard: Shard, for_lines: str, for_tables: str) -> str:
    """Return the command that does it for a plain file of JSON or a Parquet file; none for other files."""
    name = PurePosixPath(shard.url).name if "://" in shard.url else shard.url
    if "'" in name + for_lines or '"' in name:
        return "."
    if shard.format == "jsonl" and compression_of(name) is None:
        each = 'if type == "array" then .[] else . end | '
        return f": jq -c '{each}{for_lines}' '{name}' > rows.jsonl"
    if shard.format == "parquet":
        query = f'COPY (SELECT {for_tables} FROM "{name}") TO "rows.parquet" (FORMAT parquet)'
        return f': python -c \'import duckdb; duckdb.sql("""{query}""")\''
    return "."
