"""One part's scores and skipped rows as Arrow tables."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curate.executors.reading import Chunk
from curate.gradients.scored import Scored
from curate.schema import SCORE_FIELDS, SKIPPED_SCHEMA, Skipped, is_reserved


def part_tables(chunk: Chunk, scored: Scored, columns: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Return (scores, skipped). A document whose scores are not all finite is set aside with its reason.

    `columns` names the score columns, `score` first.
    """
    scores = scored.scores.cpu().double().numpy()
    losses, norms = scored.losses.cpu().double().numpy(), scored.norms.cpu().double().numpy()
    # What is written is float32: a value that overflows there is no score either.
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.column_stack([scores, losses, norms]).astype(np.float32)).all(axis=1)
    kept = np.flatnonzero(finite).tolist()
    skipped = [*chunk.skipped, *(_not_finite(chunk, i, losses[i]) for i in np.flatnonzero(~finite).tolist())]
    documents = [chunk.documents[i] for i in kept]
    counts = np.asarray([chunk.encoded[i].num_scored for i in kept], np.int64)
    values: dict[str, Any] = {
        "doc_id": [d.doc_id for d in documents],
        "shard": [d.shard for d in documents],
        "row": [d.row for d in documents],
        "content_hash": [d.content_hash for d in documents],
        "n_tokens": counts,
        "truncated": [chunk.encoded[i].truncated for i in kept],
        "loss": losses[kept] / np.maximum(counts, 1),
        "grad_norm": norms[kept],
        "score": scores[kept, 0],
        "target_exact": [chunk.overlaps[i][0] for i in kept],
        "target_overlap": [chunk.overlaps[i][1] for i in kept],
        "preview": [d.preview for d in documents],
    }
    arrays = {f.name: _column(values[f.name], f.type) for f in SCORE_FIELDS}
    for j, column in enumerate(columns[1:], start=1):
        arrays[column] = pa.array(scores[kept, j].astype(np.float32))
    arrays |= _metadata(documents)
    return pa.table(arrays), _skipped_table(skipped)


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_float32(kind):
        return pa.array(np.asarray(values, np.float64).astype(np.float32))
    return pa.array(values, kind)


def _metadata(documents: Sequence[Any]) -> dict[str, pa.Array]:
    names = sorted({name for d in documents for name in d.metadata})
    columns: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        column = f"pool_{name}" if is_reserved(name) else name
        while column.casefold() in taken:
            column = f"pool_{column}"
        columns[name] = column
        taken.add(column.casefold())
    return {columns[name]: _mixed([d.metadata.get(name) for d in documents]) for name in names}


def _mixed(values: list[Any]) -> pa.Array:
    """An array of whatever type the values have; of text where they have several."""
    kinds = {type(v) for v in values if v is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    try:
        return pa.array([float(v) if v is not None else None for v in values] if len(kinds) > 1 else values)
    except (pa.ArrowInvalid, OverflowError):
        return pa.array([None if v is None else str(v) for v in values], pa.string())


def _not_finite(chunk: Chunk, i: int, loss: float) -> Skipped:
    document = chunk.documents[i]
    what = "non-finite gradient" if math.isfinite(loss) else "non-finite loss"
    return Skipped(
        shard=document.shard,
        row=document.row,
        doc_id=document.doc_id,
        reason=what,
        detail=f"loss {loss:.6g} over {chunk.encoded[i].num_scored} token(s)",
    )


def _skipped_table(skipped: Sequence[Skipped]) -> pa.Table:
    rows = sorted(skipped, key=lambda s: s.row)
    return pa.Table.from_pylist([{f.name: getattr(s, f.name) for f in SKIPPED_SCHEMA} for s in rows], SKIPPED_SCHEMA)
