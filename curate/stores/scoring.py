"""A run's scores from a store: one pass over the stored sketches, no text through any model."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from curate.documents import Overlap
from curate.executors.contract import Work
from curate.gradients.scored import Scored
from curate.methods.contract import Scorer, StoreScorer
from curate.progress import Reporter
from curate.schema import ROW_FIELDS, SCORE_FIELDS
from curate.scores.run import Run
from curate.stores.storage import Products
from curate.stores.store import Store
from curate.stores.streaming import stream
from curate.stores.whitening import folded, norms


def score_stored(
    run: Run, store: Store, scorer: Scorer, overlap: Overlap, columns: Sequence[str], reporter: Reporter
) -> Work:
    """Write every part that a run lacks. A part of the run is a part of the store."""
    work = Work()
    assert isinstance(scorer, StoreScorer)  # as methods with a STORE promise
    queries = scorer.stored()
    written = {p.span for p in run.all_parts()}
    missing = [p for p in store.all_parts() if p.span not in written]
    lengths = norms(store, queries.whitening, reporter) if queries.unit else None
    products = Products(store.storage, folded(store, queries.values, queries.whitening))
    with reporter.stage("scoring", total=len(store)) as stage:
        for part, batch_products in stream(store, products, missing):
            products_of_part = batch_products if lengths is None else batch_products / lengths[part.path.stem][:, None]
            scored = queries.scored(products_of_part)
            rows = pq.read_table(part.path)
            overlaps = [overlap.measure(text) for text in store.texts(part)]
            run.adopt(store, part, part.shard_index, _table(rows, scored, overlaps, columns))
            work.add(Work.of(rows))
            stage.advance(len(rows))
    return work


def _table(
    rows: pa.Table,
    scored: Scored,
    overlaps: Sequence[tuple[bool, float]],
    columns: Sequence[str],
) -> pa.Table:
    """Return a part with the columns that scoring the pool writes: the document's, scores, groups, the pool's."""
    values = scored.scores.float().numpy()
    new_columns = {
        "score": pa.array(values[:, 0]),
        "target_exact": pa.array([exact for exact, _ in overlaps], pa.bool_()),
        "target_overlap": pa.array([share for _, share in overlaps], pa.float32()),
    }
    arrays = {f.name: new_columns[f.name] if f.name in new_columns else rows[f.name] for f in SCORE_FIELDS}
    arrays |= {name: pa.array(values[:, j]) for j, name in enumerate(columns) if j}
    arrays |= {name: pa.array(part.float().numpy()) for name, part in scored.more.items()}
    row_names = {f.name for f in ROW_FIELDS}
    return pa.table(arrays | {name: rows[name] for name in rows.column_names if name not in row_names})
