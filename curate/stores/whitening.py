"""Whitened norms: the divisors of products with raw sketches, so that a store is read as it is.

⟨W q, W s⟩ / ‖W s‖ with W = R^(-1/2): the numerator is ⟨W² q, s⟩, one product with the stored sketch; the norm
depends on the document and on R alone, is computed once, and lies beside the sketches.
"""

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from curate.folders.codecs import ARRAY
from curate.folders.kept import Kept
from curate.gradients.roots import Whitening, flat, moved, whiten
from curate.gradients.scoring import prepare_sketches
from curate.progress import Reporter
from curate.stores.storage import Codes
from curate.stores.store import Store, read_array
from curate.stores.streaming import stream


def folded(
    store: Store, queries: Float[Tensor, "queries sketch"], whitening: Whitening | None
) -> Float[Tensor, "queries sketch"]:
    """Return queries that meet raw sketches: W q, since a whitened sketch is W s and W is symmetric."""
    return prepare_sketches(queries.cpu().float(), store.storage.blocks, _on_cpu(whitening), unit=False)


def norms(store: Store, whitening: Whitening | None, reporter: Reporter) -> dict[str, Float[Tensor, "documents"]]:
    """Return the norm of every whitened sketch by part; computed once, for new parts alone when a store grows.

    A sketch of zero has norm 1 here, so that its products stay zero.
    """
    kept = Kept(store.folder.child(f"norms/{fingerprint(whitening)}"), ARRAY)
    written = set(kept.folder.list())
    missing = [p for p in store.all_parts() if f"{p.path.stem}.npy" not in written]
    if missing:
        whitening_on_cpu = _on_cpu(whitening)

        def work(codes: Codes) -> Tensor:
            if not store.storage.packing.is_whole:
                return _by_layer(store, codes, whitening_on_cpu)
            values = store.storage.decode(codes)
            return prepare_sketches(values, store.storage.blocks, whitening_on_cpu, unit=False).norm(dim=1)

        with reporter.stage("norms", total=len(missing), unit="parts") as stage:
            for part, lengths in stream(store, work, missing):
                kept.keep(part.path.stem, torch.where(lengths > 0, lengths, torch.ones_like(lengths)).numpy())
                stage.advance(1)
    return {
        p.path.stem: torch.from_numpy(np.array(read_array(kept.folder.local(f"{p.path.stem}.npy"))))
        for p in store.all_parts()
    }


def fingerprint(whitening: Whitening | None) -> str:
    """Name a whitening by its numbers: equal ones share norms, whatever they were fitted on."""
    if whitening is None:
        return "plain"
    digest = xxhash.xxh3_64()
    tensors = flat(whitening)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _by_layer(store: Store, codes: Codes, whitening: Whitening | None) -> Float[Tensor, "documents"]:
    """Return norms of sketches that are decoded one layer at a time."""
    squares = torch.zeros(len(codes), dtype=torch.float64)
    for place in store.storage.packing.places:
        values = store.storage.layer(codes, place)
        if whitening is not None:
            values = whiten(values, whitening[place.block.name])
        squares += values.norm(dim=1).double().square()
    return squares.sqrt().float()


def _on_cpu(whitening: Whitening | None) -> Whitening | None:
    return None if whitening is None else moved(whitening, torch.device("cpu"), torch.float32)
