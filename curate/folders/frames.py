"""Scan parts as one lazy frame: files of equal columns together, all brought to one schema."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from curate.folders.unify import File, by_schema, unify


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
            pl.col(name).cast(dtype) if name in names else pl.lit(None, dtype=dtype).alias(name)
            for name, dtype in target.items()
        ]
        frames.append(pl.scan_parquet(paths, glob=False).select(columns))
    return pl.concat(frames, how="vertical") if len(frames) > 1 else frames[0]


def _polars_schema(schema: pa.Schema) -> dict[str, pl.DataType]:
    frame = pl.from_arrow(schema.empty_table())
    assert isinstance(frame, pl.DataFrame)
    return dict(frame.schema)
