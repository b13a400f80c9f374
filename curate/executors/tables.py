"""Build the Arrow tables of a part: scores and skipped rows."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curate.executors.contract import Chunk, PartTables
from curate.folders.values import array_of, in_known_zone, storage_type, type_of
from curate.schema import (
    SCORE_FIELDS,
    SKIPPED_SCHEMA,
    TOKEN_TEXTS,
    Skipped,
    column_name,
    is_reserved,
    rare_columns,
    token_column,
)

if TYPE_CHECKING:
    from torch import Tensor

    from curate.gradients.scored import Scored
    from curate.proxies.tokens import Encoded

Texts = Callable[[Sequence[int]], Sequence[str]]
"""From a document's ids to each token's text."""


def part_tables(chunk: Chunk, scored: "Scored", columns: Sequence[str], texts: Texts) -> PartTables:
    """Return scores and skipped rows. A document whose scores are not all finite is set aside with its reason.

    `columns` names the score columns, `score` first. `texts` is called only when there are scores per token.
    """
    scores = scored.scores.cpu().double().numpy()
    losses, norms = _diagnostic(scored.losses), _diagnostic(scored.norms)
    tokens = None if scored.tokens is None else [t.cpu().double().numpy() for t in scored.tokens]
    finite = _finite(scores, losses, norms, tokens)
    kept = np.flatnonzero(finite).tolist()
    dropped = np.flatnonzero(~finite).tolist()
    skipped = [*chunk.skipped, *(not_finite(chunk, i, None if losses is None else losses[i]) for i in dropped)]
    values = row_values(chunk, kept, losses, norms) | {
        "score": scores[kept, 0],
        "target_exact": [chunk.overlaps[i][0] for i in kept],
        "target_overlap": [chunk.overlaps[i][1] for i in kept],
    }
    arrays = arrays_of(SCORE_FIELDS, values, len(kept))
    for j, column in enumerate(columns[1:], start=1):
        arrays[column] = pa.array(scores[kept, j].astype(np.float32))
    for name, values_of_part in scored.more.items():
        arrays[name] = pa.array(values_of_part.cpu().double().numpy()[kept].astype(np.float32))
    if tokens is not None:
        arrays |= _token_columns([chunk.encoded[i] for i in kept], [tokens[i] for i in kept], columns, texts)
    arrays |= metadata_columns([chunk.documents[i] for i in kept])
    return PartTables(pa.table(arrays), skipped_table(skipped))


def row_values(
    chunk: Chunk, kept: Sequence[int], losses: np.ndarray | None, norms: np.ndarray | None
) -> dict[str, Any]:
    """Return the columns of documents' rows that do not depend on the target."""
    documents = [chunk.documents[i] for i in kept]
    counts = np.asarray([chunk.encoded[i].num_scored for i in kept], np.int64)
    return {
        "doc_id": [d.doc_id for d in documents],
        "shard": [d.shard for d in documents],
        "row": [d.row for d in documents],
        "content_hash": [d.content_hash for d in documents],
        "n_tokens": counts,
        "truncated": [chunk.encoded[i].truncated for i in kept],
        "loss": None if losses is None else losses[kept] / np.maximum(counts, 1),
        "grad_norm": None if norms is None else norms[kept],
        "preview": [d.preview for d in documents],
    }


def arrays_of(fields: Sequence[pa.Field], values: Mapping[str, Any], rows: int) -> dict[str, pa.Array]:
    """Return columns of these fields in their order."""
    return {f.name: _column(values[f.name], f.type, rows) for f in fields}


def _diagnostic(values: "Tensor | None") -> np.ndarray | None:
    return None if values is None else values.cpu().double().numpy()


def _finite(
    scores: np.ndarray, losses: np.ndarray | None, norms: np.ndarray | None, tokens: list[np.ndarray] | None
) -> np.ndarray:
    """Return which documents have only finite values."""
    computed = [v for v in (scores, losses, norms) if v is not None]
    # What is written is float32: a value that overflows there is no score either.
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.column_stack(computed).astype(np.float32)).all(axis=1)
        by_token = [bool(np.isfinite(t.astype(np.float32)).all()) for t in tokens or ()]
    return np.logical_and(finite, by_token) if tokens is not None else np.asarray(finite)


def _token_columns(
    encoded: "Sequence[Encoded]", tokens: Sequence[np.ndarray], columns: Sequence[str], texts: Texts
) -> dict[str, pa.Array]:
    """Return lists aligned with each document's ids: scores per token for every score column, and the tokens' texts."""
    for document, scores in zip(encoded, tokens, strict=True):
        if scores.shape != (len(document.ids), len(columns)):
            raise AssertionError(f"scores per token of shape {scores.shape} for {len(document.ids)} tokens")
    offsets = pa.array(np.cumsum([0, *(len(e.ids) for e in encoded)]), pa.int32())
    flat = np.concatenate([np.zeros((0, len(columns))), *tokens]).astype(np.float32)
    score_lists = {
        token_column(column): pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(flat[:, j])))
        for j, column in enumerate(columns)
    }
    words = pa.array([t for e in encoded for t in texts(e.ids.tolist())], pa.string())
    return score_lists | {TOKEN_TEXTS: pa.ListArray.from_arrays(offsets, words)}


def _column(values: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(rows, kind)
    if pa.types.is_float32(kind):
        return pa.array(np.asarray(values, np.float64).astype(np.float32))
    return pa.array(values, kind)


def metadata_columns(documents: Sequence[Any]) -> dict[str, pa.Array]:
    """Return a column per scalar column of documents; of very many only those that a tenth of the documents have."""
    counts = Counter(name for d in documents for name in d.metadata)
    names = sorted(counts.keys() - rare_columns(counts, len(documents)))
    columns: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        column = f"pool_{name}" if is_reserved(name) else column_name(name)
        while column.casefold() in used:
            column = f"pool_{column}"
        columns[name] = column
        used.add(column.casefold())
    return {columns[name]: _mixed([d.metadata.get(name) for d in documents]) for name in names}


def _mixed(values: list[Any]) -> pa.Array:
    """Return an array of the values' type; of text where they have several, or no number type keeps their digits."""
    kinds = {type(v) for v in values if v is not None}
    try:
        if kinds and kinds <= {int, float}:
            kind = storage_type(type_of(values))
            return array_of(values, kind)
        if len(kinds) <= 1:
            return in_known_zone(pa.array(values))
    except (ValueError, TypeError, OverflowError):
        pass
    return pa.array([None if v is None else str(v) for v in values], pa.string())


def not_finite(chunk: Chunk, i: int, loss: float | None) -> Skipped:
    document = chunk.documents[i]
    tokens = f"{chunk.encoded[i].num_scored} token(s)"
    if loss is None:
        reason, detail = "non-finite score", f"over {tokens}; the method computes no loss"
    else:
        reason = "non-finite gradient" if math.isfinite(loss) else "non-finite loss"
        detail = f"loss {loss:.6g} over {tokens}"
    return Skipped(shard=document.shard, row=document.row, doc_id=document.doc_id, reason=reason, detail=detail)


def skipped_table(skipped: Sequence[Skipped]) -> pa.Table:
    rows = sorted(skipped, key=lambda s: s.row)
    return pa.Table.from_pylist([{f.name: getattr(s, f.name) for f in SKIPPED_SCHEMA} for s in rows], SKIPPED_SCHEMA)
