"""Pairs of near documents, which a gradient store keeps and filters on likeness read."""

from pathlib import Path

import pyarrow as pa

NEIGHBOURS = "neighbours/pairs.parquet"
"""Within a store's folder."""

SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("near_shard", pa.string(), nullable=False),
        pa.field("near_row", pa.int64(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),  # cosine of whitened gradients
    ]
)


def pairs_of(store: str | Path | None) -> Path | None:
    """Return the file of a store's pairs; None where it has none."""
    path = Path(store) / NEIGHBOURS if store else None
    return path if path is not None and path.exists() else None
