"""The SQL behind the views: scores over the parts of a run, shards, tokens, skipped."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.folders.record import canonical
from curate.folders.unify import File, by_schema, unify
from curate.schema import MANY_COLUMNS, TOKEN_SCORES, TOKEN_TEXTS, is_token_column
from curate.scores.run import Run

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def files_sql(files: Sequence[File], *, empty: pa.Schema) -> tuple[str, pa.Schema]:
    """Return a query over Parquet files whose columns may differ, and its schema.

    Files of equal columns are read together; columns are cast only where types differ, to those of `unify`. Of very
    many columns only those are there that a tenth of the files have.
    """
    groups = by_schema(files)
    unified = _common(unify(schema for schema, _ in groups), groups) if groups else empty
    if not groups:
        columns = ", ".join(f"NULL::{sql_type(f.type)} AS {quoted(f.name)}" for f in unified)
        return f"SELECT {columns} WHERE false", unified
    return "\nUNION ALL\n".join(_group_sql(schema, paths, unified) for schema, paths in _merged(groups)), unified


def _common(unified: pa.Schema, groups: Sequence[tuple[pa.Schema, list[Path]]]) -> pa.Schema:
    if len(unified) <= MANY_COLUMNS:
        return unified
    counts = Counter(name for schema, files in groups for _ in files for name in schema.names)
    few = sum(len(files) for _, files in groups) / 10
    return pa.schema([field for field in unified if counts[field.name] >= few])


def _merged(groups: list[tuple[pa.Schema, list[Path]]]) -> list[tuple[pa.Schema, list[Path]]]:
    """Merge groups of equal columns that are not neighbours: a query has no order."""
    merged: list[tuple[pa.Schema, list[Path]]] = []
    for schema, files in groups:
        kept_files = next((paths for kept_schema, paths in merged if kept_schema.equals(schema)), None)
        if kept_files is None:
            merged.append((schema, list(files)))
        else:
            kept_files.extend(files)
    return merged


def _group_sql(schema: pa.Schema, files: Sequence[Path], unified: pa.Schema) -> str:
    types = {f.name: f.type for f in schema}
    columns = []
    for field in unified:
        name = quoted(field.name)
        if field.name not in types:
            columns.append(f"NULL::{sql_type(field.type)} AS {name}")
        elif sql_type(types[field.name]) != sql_type(field.type):
            columns.append(f"{name}::{sql_type(field.type)} AS {name}")
        else:
            columns.append(name)
    return f"SELECT {', '.join(columns)} FROM {parquet_sql(files)}"


def parquet_sql(files: Sequence[Path]) -> str:
    """Return the table function that reads just these files, whatever their paths hold: `*`, `[` or `source=web`."""
    paths = ", ".join(literal(as_pattern(os.path.abspath(f))) for f in files)
    return f"read_parquet([{paths}], hive_partitioning = false)"


def as_pattern(path: str) -> str:
    """Return the pattern that a path alone matches."""
    return re.sub(r"[*?\[]", r"[\g<0>]", path)


def sql_type(kind: pa.DataType) -> str:
    """Return DuckDB's name of an Arrow type, scalar or list of scalars."""
    simple = {
        pa.bool_(): "BOOLEAN", pa.int8(): "TINYINT", pa.int16(): "SMALLINT", pa.int32(): "INTEGER",
        pa.int64(): "BIGINT", pa.uint8(): "UTINYINT", pa.uint16(): "USMALLINT", pa.uint32(): "UINTEGER",
        pa.uint64(): "UBIGINT", pa.float16(): "FLOAT", pa.float32(): "FLOAT", pa.float64(): "DOUBLE",
        pa.date32(): "DATE", pa.date64(): "DATE", pa.null(): "INTEGER", pa.binary(): "BLOB",
    }  # fmt: skip
    if kind in simple:
        return simple[kind]
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    if pa.types.is_time(kind):
        return "TIME"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    return "VARCHAR"


def score_columns(schema: pa.Schema) -> list[str]:
    """Return `score` and the groups' score columns, in the order of the table."""
    return [f.name for f in schema if f.name == "score" or f.name.startswith("score_")]


def shards_sql(schema: pa.Schema, *, source: str = "scores", by: Sequence[str] = ("shard",)) -> str:
    """Return the SQL of a row per shard: documents, tokens, mean … q95 of the score; as `mean_<group>` … per group."""
    columns = [*by, "count(*) AS documents", "sum(n_tokens)::BIGINT AS tokens"]
    for name in score_columns(schema):
        suffix, column = name.removeprefix("score"), quoted(name)
        for function in ("mean", "sum", "min", "max"):
            value = f"{column}::DOUBLE" if function in ("mean", "sum") else column
            columns.append(f"{function}({value}) AS {quoted(function + suffix)}")
        for short, q in QUANTILES.items():
            columns.append(f"quantile_cont({column}, {q}) AS {quoted(short + suffix)}")
    keys = ", ".join(by)
    return f"SELECT {', '.join(columns)} FROM {source} GROUP BY {keys}"


def token_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of lists per token, in the order of the table; none where the run was not scored by token."""
    return [f.name for f in schema if is_token_column(f.name) and pa.types.is_list(f.type)]


def tokens_sql(columns: Sequence[str], *, source: str, by: Sequence[str]) -> str:
    """Return the SQL of a row per token: `by`, its position from 0, its text as `token`, `score`, `score_<group>` …

    `columns`: the lists of `source`, from `token_columns`; lists of one document are as long as each other.
    """
    scores = [c for c in columns if c != TOKEN_TEXTS]
    score_parts = [f"unnest({quoted(c)}) AS {quoted('score' + c.removeprefix(TOKEN_SCORES))}" for c in scores]
    texts = quoted(TOKEN_TEXTS)
    token_parts = [f"unnest(range(len({texts})))::INTEGER AS position", f"unnest({texts}) AS token", *score_parts]
    return f"SELECT {', '.join([*by, *token_parts])} FROM {source}"


RUN_COLUMNS = {
    "run": "VARCHAR",
    "path": "VARCHAR",
    "method": "VARCHAR",
    "model": "VARCHAR",
    "finished": "BOOLEAN",
    "settings": "VARCHAR",
    "fingerprints": "VARCHAR",
    "details": "VARCHAR",
    "totals": "VARCHAR",
}


def run_row(name: str, run: Run) -> list[Any]:
    """Return a run in the order of RUN_COLUMNS; nested values as JSON."""
    record = run.record
    return [
        name,
        os.path.abspath(run.path) if run.folder.is_here else run.address,
        record.method,
        record.model,
        run.is_finished,
        *(canonical(record.json[part]) for part in ("settings", "fingerprints", "details")),
        canonical(run.totals) if run.totals is not None else None,
    ]
