"""Nearest documents by gradient: the largest cosines of whitened sketches, exactly, in one pass over the store."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from curate.gradients.roots import Whitening
from curate.gradients.scoring import prepare_sketches
from curate.progress import Reporter, Silent
from curate.scores.parts import Part
from curate.stores.storage import Products, paired
from curate.stores.store import Store
from curate.stores.streaming import stream
from curate.stores.whitening import folded, norms

QUERIES = 1024  # that are multiplied together


@dataclass(frozen=True, kw_only=True)
class Found:
    """The nearest documents of each query, the nearest first; ties in the store's order."""

    cosines: Float[Tensor, "queries k"]
    positions: Int[Tensor, "queries k"]
    """Places of documents in the store, counted over all parts; -1 behind the last where there are fewer than k."""


class Whitened:
    """A store's sketches as unit vectors: whitened by the second moment that it keeps, then brought to norm 1."""

    def __init__(self, store: Store, reporter: Reporter | None = None) -> None:
        store.require_finished()
        self.store, self.reporter = store, reporter or Silent()
        self.whitening: Whitening = store.whitening()
        self.norms = norms(store, self.whitening, self.reporter)
        self.parts = store.all_parts()
        self.starts = [0, *accumulate(len(self.norms[p.path.stem]) for p in self.parts)]

    def __len__(self) -> int:
        return self.starts[-1]

    def units(self, values: Float[Tensor, "documents sketch"]) -> Float[Tensor, "documents sketch"]:
        """Return raw sketches as unit vectors."""
        return prepare_sketches(values.float(), self.store.storage.blocks, self.whitening, unit=True)

    def vectors(self, part: Part) -> Float[Tensor, "documents sketch"]:
        """Return a part's unit vectors."""
        return self.units(self.store.storage.decode(self.store.codes(part)))

    def products(self, queries: Float[Tensor, "queries sketch"]) -> Products:
        """Return what multiplies raw sketches by unit vectors; it is divided by the norms afterwards."""
        return Products(self.store.storage, folded(self.store, queries, self.whitening))

    def at(self, positions: Sequence[int]) -> dict[int, list[int]]:
        """Return by a part's number which of these positions lie in it, as places in the sequence given."""
        found: dict[int, list[int]] = {}
        for i, position in enumerate(positions):
            found.setdefault(bisect_right(self.starts, position) - 1, []).append(i)
        return found

    def cosines(
        self, queries: Float[Tensor, "queries sketch"], candidates: Int[Tensor, "queries depth"]
    ) -> Float[Tensor, "queries depth"]:
        """Return the exact cosine of every query with its own candidates; -1 where there is none (position -1)."""
        raw = folded(self.store, queries, self.whitening)
        flat = candidates.flatten()
        cosines = torch.full(flat.shape, -1.0)
        known = (flat >= 0).nonzero()[:, 0]
        for number, places in self.at(flat[known].tolist()).items():
            part = self.parts[number]
            where = known[places]
            rows = flat[where] - self.starts[number]
            found = paired(self.store.storage, self.store.codes(part)[rows.numpy()], raw, where // candidates.shape[1])
            cosines[where] = found / self.norms[part.path.stem][rows]
        return cosines.view(candidates.shape)


@dataclass(frozen=True)
class Exact:
    """Search by every document's cosine."""

    whitened: Whitened

    def __call__(self, queries: Float[Tensor, "queries sketch"], k: int) -> Found:
        """Return the `k` nearest of each query, which are unit vectors."""
        blocks = [self._block(queries[i : i + QUERIES], k) for i in range(0, len(queries), QUERIES)]
        return Found(cosines=torch.cat([b.cosines for b in blocks]), positions=torch.cat([b.positions for b in blocks]))

    def _block(self, queries: Tensor, k: int) -> Found:
        whitened, products = self.whitened, self.whitened.products(queries)
        best = torch.full((len(queries), k), -torch.inf)
        where = torch.full((len(queries), k), -1)

        for number, (part, found) in enumerate(stream(whitened.store, products, whitened.parts)):
            cosines = (found / whitened.norms[part.path.stem][:, None]).T
            # By position, then stably by cosine, so that equal ones keep the store's order.
            nearest = cosines.topk(min(k, cosines.shape[1]), dim=1).indices.sort(dim=1).values
            both = torch.cat([best, cosines.gather(1, nearest)], 1)
            positions = torch.cat([where, nearest + whitened.starts[number]], 1)
            order = both.sort(dim=1, descending=True, stable=True).indices[:, :k]
            best, where = both.gather(1, order), positions.gather(1, order)
        return Found(cosines=best, positions=where)
