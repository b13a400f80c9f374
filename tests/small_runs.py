"""Small runs with known rows."""

from hashlib import md5
from typing import Any

import pyarrow as pa

from curate.folders.parts import Span
from curate.schema import SCORE_FIELDS, SKIPPED_SCHEMA
from curate.scores.run import Run

SETTINGS = {
    "method": "dot",
    "model": "tiny",
    "pool": ["pool/"],
    "target": "val.jsonl",
    "dim": 16,
    "fields": {},
}
FINGERPRINTS = {"pool": "aa", "target": "bb", "model": "cc"}


def rows(shard: str, first: int, scores: list[float], **columns: list[Any] | pa.Array) -> pa.Table:
    """A scores table with one row per score and any further columns."""
    n = len(scores)
    values = {
        "doc_id": [f"{shard}/{first + i}" for i in range(n)],
        "shard": [shard] * n,
        "row": list(range(first, first + n)),
        "content_hash": [md5(f"{shard}/{first + i}".encode()).hexdigest() for i in range(n)],
        "n_tokens": [10 * (i + 1) for i in range(n)],
        "truncated": [False] * n,
        "loss": [2.0] * n,
        "grad_norm": [1.0] * n,
        "score": scores,
        "target_exact": [False] * n,
        "target_overlap": [0.0] * n,
        "preview": ["…"] * n,
    }
    fields = [f for f in SCORE_FIELDS if f.name not in columns]
    arrays = [pa.array(values[f.name], f.type) for f in fields]
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    for name, column in columns.items():
        table = table.append_column(name, column if isinstance(column, pa.Array) else pa.array(column))
    return table


def skipped(*entries: tuple[str, int, str]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"shard": s, "row": r, "reason": why, "doc_id": None, "detail": ""} for s, r, why in entries],
        schema=SKIPPED_SCHEMA,
    )


def write(run: Run, shard: str, shard_index: int, table: pa.Table, aside: pa.Table | None = None, **part: Any) -> Any:
    """Write a whole shard as one part unless told otherwise."""
    cover = {"index": 0, "start": 0, "end": table.num_rows, "last": True, **part}
    span = Span(shard=shard, shard_index=shard_index, **cover)
    return run.write_part(span, table, aside if aside is not None else skipped())
