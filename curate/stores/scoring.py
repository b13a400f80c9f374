"""A run's scores from a store: one pass over sketches as they lie, no text through any model."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from torch import Tensor

from curate.documents import Overlap
from curate.executors.contract import Work
from curate.gradients.scoring import SketchScorer
from curate.methods.contract import Scorer
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
    """Write every part that a run lacks; its parts are the store's."""
    work = Work()
    assert isinstance(scorer, SketchScorer)  # as methods that offer "store" promise
    (term,) = scorer.terms
    there = {p.span for p in run.all_parts()}
    missing = [p for p in store.all_parts() if p.span not in there]
    lengths = norms(store, term.whitening, reporter) if scorer.unit else None
    products = Products(store.storage, folded(store, term.queries, term.whitening))
    with reporter.stage("scoring", total=len(store)) as stage:
        for part, found in stream(store, products, missing):
            scores = found if lengths is None else found / lengths[part.path.stem][:, None]
            rows = pq.read_table(part.path)
            found_overlaps = [overlap.measure(text) for text in store.texts(part)]
            run.adopt(part, part.shard_index, _table(rows, scores, found_overlaps, columns))
            work.add(Work.of(rows))
            stage.advance(len(rows))
    return work


def _table(
    rows: pa.Table,
    scores: Float[Tensor, "documents columns"],
    overlaps: Sequence[tuple[bool, float]],
    columns: Sequence[str],
) -> pa.Table:
    """Return a part as scoring the pool itself writes it: a document's own columns, scores, groups, the pool's."""
    values = scores.float().numpy()
    made = {
        "score": pa.array(values[:, 0]),
        "target_exact": pa.array([exact for exact, _ in overlaps], pa.bool_()),
        "target_overlap": pa.array([share for _, share in overlaps], pa.float32()),
    }
    arrays = {f.name: made[f.name] if f.name in made else rows[f.name] for f in SCORE_FIELDS}
    arrays |= {name: pa.array(values[:, j]) for j, name in enumerate(columns) if j}
    own = {f.name for f in ROW_FIELDS}
    return pa.table(arrays | {name: rows[name] for name in rows.column_names if name not in own})
