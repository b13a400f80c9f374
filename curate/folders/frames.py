"""Scan parts as one lazy frame: files of equal columns together, all brought to one schema."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.selectors import by_name  # `pl.col` takes `*` and `^…$` for patterns

from curate.folders.unify import File, by_schema, unify
from curate.folders.values import in_known_zone


def scan(files: Sequence[File], *, empty: pa.Schema) -> pl.LazyFrame:
    """Read Parquet files lazily as one frame, in the order given; no files give an empty frame of schema `empty`."""
    groups = by_schema(files)
    unified = unify(schema for schema, _ in groups) if groups else empty
    target = _polars_schema(unified)
    if not groups:
        return pl.LazyFrame(schema=target)
    frames = []
    for schema, paths in groups:
        names = set(schema.names)
        columns = [
            by_name(name).cast(dtype) if name in names else pl.lit(None, dtype=dtype).alias(name)
            for name, dtype in target.items()
        ]
        frames.append(_scan(schema, paths).select(columns))
    return pl.concat(frames, how="vertical") if len(frames) > 1 else frames[0]


def _scan(schema: pa.Schema, paths: list[Path]) -> pl.LazyFrame:
    if _in_known_zones(schema.empty_table()).schema.equals(schema):
        return pl.scan_parquet(paths, glob=False, hive_partitioning=False)
    tables = [_in_known_zones(pq.ParquetFile(path).read()) for path in paths]
    frame = pl.from_arrow(pa.concat_tables(tables))
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()


def _in_known_zones(table: pa.Table) -> pa.Table:
    return pa.table({name: in_known_zone(table[name]) for name in table.column_names})


def _polars_schema(schema: pa.Schema) -> dict[str, pl.DataType]:
    frame = pl.from_arrow(_in_known_zones(schema.empty_table()))
    assert isinstance(frame, pl.DataFrame)
    return dict(frame.schema)
