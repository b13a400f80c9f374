"""Nearest documents by gradient: the largest cosines of whitened sketches, exactly, in one pass over the store."""

import resource
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from curate.folders.parts import Part
from curate.gradients.roots import Whitening
from curate.gradients.scoring import prepare_sketches
from curate.progress import Reporter, Silent
from curate.stores.storage import Codes, Products, paired
from curate.stores.store import Store
from curate.stores.streaming import stream
from curate.stores.whitening import folded, norms

QUERIES = 1024  # multiplied together
GATHERED = 1 << 24  # numbers of sketches in memory at a time, for exact cosines


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The nearest documents of each query, the nearest first; ties in the store's order."""

    cosines: Float[Tensor, "queries k"]
    positions: Int[Tensor, "queries k"]
    """Documents' positions in the store, counted over all parts; -1 in the last places where there are fewer than k."""


class Whitened:
    """A store's sketches as unit vectors: whitened by the second moment that it keeps, then brought to norm 1."""

    def __init__(self, store: Store, reporter: Reporter | None = None) -> None:
        store.require_finished()
        self.store, self.reporter = store, reporter or Silent()
        self.whitening: Whitening = store.whitening()
        self.norms = norms(store, self.whitening, self.reporter)
        self.parts = store.all_parts()
        self.starts = [0, *accumulate(len(self.norms[p.path.stem]) for p in self.parts)]
        # Candidates of one query lie in nearly every part: opening each anew would take longer than reading them.
        self._codes = lru_cache(maxsize=_open_parts())(store.codes)

    def __len__(self) -> int:
        return self.starts[-1]

    def units(self, values: Float[Tensor, "documents sketch"]) -> Float[Tensor, "documents sketch"]:
        """Return raw sketches as unit vectors."""
        return prepare_sketches(values.float(), self.store.storage.blocks, self.whitening, unit=True)

    def vectors(self, part: Part) -> Float[Tensor, "documents sketch"]:
        """Return a part's unit vectors."""
        return self.units(self.store.storage.decode(self.store.codes(part)))

    def products(self, queries: Float[Tensor, "queries sketch"]) -> Products:
        """Return the products of raw sketches with unit vectors; divide them by the norms."""
        return Products(self.store.storage, folded(self.store, queries, self.whitening))

    def at(self, positions: Sequence[int]) -> dict[int, list[int]]:
        """Return, by a part's number, the indices of the positions that lie in it."""
        places: dict[int, list[int]] = {}
        for i, position in enumerate(positions):
            places.setdefault(bisect_right(self.starts, position) - 1, []).append(i)
        return places

    def cosines(
        self, queries: Float[Tensor, "queries sketch"], candidates: Int[Tensor, "queries depth"]
    ) -> Float[Tensor, "queries depth"]:
        """Return the exact cosine of every query with its own candidates; -1 where there is none (position -1)."""
        raw = folded(self.store, queries, self.whitening)
        flat, cosines = candidates.flatten(), torch.full((candidates.numel(),), -1.0)
        present = (flat >= 0).nonzero()[:, 0]
        # Many at once, since small products would spend their time waking threads; never all at once.
        step = max(16, GATHERED // self.store.storage.width)
        for i in range(0, len(present), step):
            block = present[i : i + step]
            codes, lengths = self.gathered(flat[block].numpy())
            cosines[block] = paired(self.store.storage, codes, raw, block // candidates.shape[1]) / lengths
        return cosines.view(candidates.shape)

    def gathered(self, positions: np.ndarray) -> tuple[Codes, Tensor]:
        """Return the sketches and whitened norms of documents by position in the store."""
        gathered, lengths = self.store.storage.empty(len(positions)), np.ones(len(positions), np.float32)
        numbers = np.searchsorted(self.starts, positions, side="right") - 1
        for number in np.unique(numbers):
            part, members = self.parts[number], np.flatnonzero(numbers == number)
            rows, codes = positions[members] - self.starts[number], self._codes(part)
            gathered.codes[members], gathered.scales[members] = codes.codes[rows], codes.scales[rows]
            lengths[members] = self.norms[part.path.stem].numpy()[rows]
        return gathered, torch.from_numpy(lengths)


def _open_parts() -> int:
    """Return how many parts may stay memory-mapped: each holds two of the process's open files."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if most == resource.RLIM_INFINITY else max(4, min(4096, (most - 128) // 2))


@dataclass(frozen=True)
class Exact:
    """Search by every document's cosine."""

    whitened: Whitened

    def __call__(self, queries: Float[Tensor, "queries sketch"], k: int) -> Nearest:
        """Return the `k` nearest of each query, which are unit vectors."""
        parts = [self._block(queries[i : i + QUERIES], k) for i in range(0, max(1, len(queries)), QUERIES)]
        return Nearest(
            cosines=torch.cat([part.cosines for part in parts]), positions=torch.cat([part.positions for part in parts])
        )

    def _block(self, queries: Tensor, k: int) -> Nearest:
        whitened, products = self.whitened, self.whitened.products(queries)
        best = torch.full((len(queries), k), -torch.inf)
        best_positions = torch.full((len(queries), k), -1)

        for number, (part, batch_products) in enumerate(stream(whitened.store, products, whitened.parts)):
            cosines = (batch_products / whitened.norms[part.path.stem][:, None]).T
            # By position, then stably by cosine, so that equal ones keep the store's order.
            nearest = cosines.topk(min(k, cosines.shape[1]), dim=1).indices.sort(dim=1).values
            cosines_so_far = torch.cat([best, cosines.gather(1, nearest)], 1)
            positions = torch.cat([best_positions, nearest + whitened.starts[number]], 1)
            order = cosines_so_far.sort(dim=1, descending=True, stable=True).indices[:, :k]
            best, best_positions = cosines_so_far.gather(1, order), positions.gather(1, order)
        return Nearest(cosines=best, positions=best_positions)
