"""Every document's nearest others, as a Parquet file of pairs, so that filters on likeness stay SQL."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from curate.folders.parts import put_table
from curate.progress import Reporter
from curate.scores.neighbours import NEIGHBOURS, SCHEMA
from curate.stores.approximate import choose_search
from curate.stores.search import Whitened
from curate.stores.store import Store

NEAREST = 16
LEAST = 0.2
"""Cosine below which two documents are no pair."""
_KEY = "curate.documents"


def find_neighbours(store: Store, reporter: Reporter, *, nearest: int = NEAREST, minimum: float = LEAST) -> Path:
    """Return the file of the store's pairs, made if need be: each document's `nearest` others, in both directions.

    Searches the store's approximate index where it has one, else exactly.
    """
    key = f"{len(store)} {nearest} {minimum}"
    if store.folder.exists(NEIGHBOURS):
        path = store.folder.local(NEIGHBOURS)
        if (pq.read_schema(path).metadata or {}).get(_KEY.encode()) == key.encode():
            return path
    with store.folder.claim() as claim:
        pairs = _nearest_pairs(Whitened(store, reporter), nearest, minimum)
        put_table(claim.guard(store.folder), NEIGHBOURS, pairs, {_KEY: key})
    return store.folder.local(NEIGHBOURS)


def _nearest_pairs(whitened: Whitened, nearest: int, least: float) -> pa.Table:
    search = choose_search(whitened)
    firsts, seconds, cosines = [], [], []
    with whitened.reporter.stage("neighbours", total=len(whitened)) as stage:
        for number, part in enumerate(whitened.parts):
            positions = torch.arange(whitened.starts[number], whitened.starts[number + 1])
            if not len(positions):
                continue
            found = search(whitened.vectors(part), min(nearest + 1, len(whitened)))
            firsts.append(positions[:, None].expand_as(found.positions).flatten().numpy())
            seconds.append(found.positions.flatten().numpy())
            cosines.append(found.cosines.flatten().numpy())
            stage.advance(len(positions))
    empty = np.zeros(0, np.int64)
    first, second, cosine = (np.concatenate([empty, *found]) for found in (firsts, seconds, cosines))
    return _pairs(whitened, first.astype(np.int64), second.astype(np.int64), cosine.astype(np.float32), least)


def _pairs(whitened: Whitened, first: np.ndarray, second: np.ndarray, cosine: np.ndarray, minimum: float) -> pa.Table:
    kept = (second >= 0) & (first != second) & (cosine >= minimum)
    first, second, cosine = first[kept], second[kept], cosine[kept]
    keys = np.concatenate([first * len(whitened) + second, second * len(whitened) + first])
    distinct, at = np.unique(keys, return_index=True)
    first, second = np.divmod(distinct, len(whitened))
    rows = whitened.store.rows().select("shard", "row").collect()
    shards, numbers = rows["shard"].to_numpy(), rows["row"].to_numpy()
    return pa.table(
        [shards[first], numbers[first], shards[second], numbers[second], np.concatenate([cosine, cosine])[at]],
        schema=SCHEMA,
    )
