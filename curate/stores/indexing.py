"""Writing a pool's missing parts into a store: one pass, sketches and nothing else."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from curate.executors.local import work_through
from curate.executors.reading import Chunk, Reader
from curate.executors.tables import arrays_of, metadata_columns, not_finite, row_values, skipped_table, write_chunk
from curate.folders.parts import part_name
from curate.gradients.documents import Batching, document_sketches
from curate.gradients.sketches import SketchEngine
from curate.progress import Reporter
from curate.proxies.tokens import Encoded
from curate.schema import ROW_FIELDS
from curate.stores.storage import Codes, Storage
from curate.stores.store import Store


def index_parts(
    store: Store,
    reader: Reader,
    engine: SketchEngine,
    batching: Batching,
    reporter: Reporter,
    *,
    total: float | None = None,
) -> int:
    """Sketch and write every part that the store lacks, in order; give back how many documents that were."""
    documents = 0

    def index(chunk: Chunk) -> None:
        nonlocal documents
        documents += _index(store, chunk, engine, batching)

    hint = "Repair or remove the shard, then index again."
    work_through(store, reader, index, reporter, stage="indexing", done="indexed", hint=hint, total=total)
    return documents


def _index(store: Store, chunk: Chunk, engine: SketchEngine, batching: Batching) -> int:
    codes, losses, norms = sketched(store.storage, engine, chunk.encoded, batching)
    finite = np.isfinite(losses) & np.isfinite(norms.astype(np.float32))
    kept, gone = np.flatnonzero(finite).tolist(), np.flatnonzero(~finite).tolist()
    store.write_sketches(
        part_name(chunk.shard_index, chunk.index).removesuffix(".parquet"),
        codes if not gone else codes[np.array(kept, np.int64)],
        [chunk.documents[i].plain_text for i in kept],
    )
    columns = arrays_of(ROW_FIELDS, row_values(chunk, kept, losses, norms), len(kept))
    columns |= metadata_columns([chunk.documents[i] for i in kept])
    skipped = [*chunk.skipped, *(not_finite(chunk, i, float(losses[i])) for i in gone)]
    write_chunk(store, chunk, pa.table(columns), skipped_table(skipped))
    return len(kept)


def sketched(
    storage: Storage, engine: SketchEngine, encoded: Sequence[Encoded], batching: Batching
) -> tuple[Codes, np.ndarray, np.ndarray]:
    """Return (codes, losses summed over scored tokens, norms of sketches) of documents in their order.

    Sketches are compressed as they come: what is held is what will lie on disk, not its float32. Those that are not
    finite have codes of zero and a loss or norm that says so.
    """
    codes, losses, norms = storage.empty(len(encoded)), np.zeros(len(encoded)), np.zeros(len(encoded))
    for found in document_sketches(engine, encoded, batching):
        index = np.array(found.documents)
        losses[index], norms[index] = found.losses.cpu().double().numpy(), found.values.norm(dim=1).cpu().numpy()
        finite = found.values.isfinite().all(1, keepdim=True)
        made = storage.encode(torch.where(finite, found.values, torch.zeros_like(found.values)))
        codes.codes[index], codes.scales[index] = made.codes, made.scales
    return codes, losses, norms
