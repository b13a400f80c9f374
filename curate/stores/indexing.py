"""Sketch one part of a pool into a store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from curate import methods
from curate.executors.chunks import ChunkEncoder
from curate.executors.contract import Chunk, PartTables
from curate.executors.tables import arrays_of, metadata_columns, not_finite, row_values, skipped_table
from curate.gradients.documents import Batching
from curate.methods.contract import Sketcher
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from curate.schema import ROW_FIELDS
from curate.stores.settings import IndexSettings
from curate.stores.storage import Codes, Storage
from curate.stores.store import Store
from curate.training.states import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Sketching:
    """Sketch chunks, with a model in memory."""

    store: Store
    encode: ChunkEncoder
    sketcher: Sketcher
    batching: Batching

    def __call__(self, chunk: Chunk) -> PartTables:
        """Write a chunk's sketches and texts; return its rows and those set aside."""
        codes, losses, norms = sketched(self.store.storage, self.sketcher, chunk.encoded, self.batching)
        finite = np.isfinite(losses) & np.isfinite(norms.astype(np.float32))
        kept, dropped = np.flatnonzero(finite).tolist(), np.flatnonzero(~finite).tolist()
        self.store.write_sketches(
            chunk.span.name,
            codes if not dropped else codes[np.array(kept, np.int64)],
            [chunk.documents[i].plain_text for i in kept],
        )
        columns = arrays_of(ROW_FIELDS, row_values(chunk, kept, losses, norms), len(kept))
        columns |= metadata_columns([chunk.documents[i] for i in kept])
        skipped = [*chunk.skipped, *(not_finite(chunk, i, float(losses[i])) for i in dropped)]
        return PartTables(pa.table(columns), skipped_table(skipped))


def sketcher_of(settings: IndexSettings, proxy: Proxy, checkpoints: Sequence[Checkpoint]) -> Sketcher:
    """Return what computes the sketches that resolved settings ask for."""
    return methods.store_of(settings.method).sketcher(proxy, checkpoints, projection_of(settings))


def projection_of(settings: IndexSettings) -> Any:
    """Return the settings of resolved sketches, in the class of their kind."""
    return methods.store_of(settings.method).Settings(**settings.projection)


def sketched(
    storage: Storage, sketcher: Sketcher, encoded: Sequence[Encoded], batching: Batching
) -> tuple[Codes, np.ndarray, np.ndarray]:
    """Return (codes, losses summed over scored tokens, gradient norms) of documents in their order.

    Sketches are compressed batch by batch, so that memory holds their codes, not float32. A sketch that is not
    finite has codes of zero, and a loss or norm that is not finite.
    """
    codes, losses, norms = storage.empty(len(encoded)), np.zeros(len(encoded)), np.zeros(len(encoded))
    for batch in sketcher(encoded, batching):
        index = np.array(batch.documents)
        losses[index], norms[index] = batch.losses.cpu().double().numpy(), batch.norms.cpu().numpy()
        finite = batch.values.isfinite().all(1, keepdim=True)
        batch_codes = storage.encode(torch.where(finite, batch.values, torch.zeros_like(batch.values)))
        codes.codes[index], codes.scales[index] = batch_codes.codes, batch_codes.scales
    return codes, losses, norms
