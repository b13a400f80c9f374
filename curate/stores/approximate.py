"""Approximate search: FAISS finds candidates among shortened vectors, the store's own sketches rank them.

Whitened sketches point nearly everywhere: 256 principal components hold a fifth of them, and inverted lists miss half
of what is near. One bit of every number, though, keeps their angles (1/16 of a float16 store; Charikar 2002): the usual
index compares bits, and the candidates of a query are ranked by their exact cosines, read from the store. Any other
FAISS factory indexes principal components. The numbers of probed lists and of ranked candidates are
chosen on documents of the store: at least RECALL of the ten nearest are found, at the least measured cost. The index
records the recall that it reaches.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import faiss
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from curate.folders.folder import Folder, read_json
from curate.stores.search import Exact, Nearest, Whitened
from curate.stores.store import read_array

K = 10
"""How many nearest documents recall counts, and depth is chosen for."""
BITS_MOST = 8192
SEED = 0


@runtime_checkable
class Search(Protocol):
    """Find the nearest documents of unit vectors."""

    @property
    def whitened(self) -> Whitened: ...

    def __call__(self, queries: Float[Tensor, "queries sketch"], k: int) -> Nearest: ...


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """How an index was made, and its measured recall and speed."""

    factory: str
    """FAISS's name of the index; B… compares bits."""
    width: int
    """Of the shortened vectors: bits, or components."""
    documents: int
    breadth: int
    """Lists probed (nprobe), or candidates held (efSearch)."""
    depth: int
    """Candidates of ten nearest whose exact cosines are taken."""
    recall: float
    """Share of the ten nearest that are found, over a sample of the store's own documents."""
    milliseconds: float
    """Of one query by itself."""
    exact_milliseconds: float
    """Of the exact search for one query, in the same process."""


@dataclass(frozen=True, kw_only=True)
class Short:
    """How unit vectors are shortened: to the signs of their numbers, or to principal components."""

    components: Float[Tensor, "width sketch"] | None = None

    def __call__(self, units: Float[Tensor, "documents sketch"]) -> np.ndarray:
        """Return vectors for FAISS: uint8 of eight bits each, or float32."""
        if self.components is None:
            return np.packbits(units[:, _numbers(units.shape[1])].numpy() > 0, axis=1)
        return (units @ self.components.T).contiguous().numpy()


@dataclass(frozen=True, kw_only=True)
class Approximate:
    """Search through an index on disk, memory-mapped."""

    whitened: Whitened
    index: Any
    short: Short
    record: IndexRecord

    def __call__(self, queries: Float[Tensor, "queries sketch"], k: int) -> Nearest:
        """Return the `k` nearest of each query among the candidates; cosines are exact."""
        depth = min(self.record.documents, max(self.record.depth, self.record.depth * k // K))
        candidates = self.candidates(queries, depth)
        cosines = self.whitened.cosines(queries, candidates)
        # By position first, so that equal cosines keep the store's order.
        order = candidates.sort(1).indices
        order = order.gather(1, cosines.gather(1, order).sort(dim=1, descending=True, stable=True).indices)[:, :k]
        return Nearest(cosines=cosines.gather(1, order), positions=candidates.gather(1, order))

    def candidates(self, queries: Tensor, depth: int) -> Tensor:
        """Return the positions of the nearest documents by the index; -1 where the probed lists hold fewer."""
        return torch.from_numpy(self.index.search(self.short(queries), depth)[1])


@lru_cache
def _numbers(width: int) -> Tensor | slice:
    """Return which numbers give a bit: all, or a seeded choice of BITS_MOST."""
    if width <= BITS_MOST:
        return slice(None)
    columns = np.random.default_rng(SEED).choice(width, BITS_MOST, replace=False)
    return torch.from_numpy(np.sort(columns))


def choose_search(whitened: Whitened, *, exact: bool = False) -> Search:
    """Return the store's index where one covers the whole store, else the exact search."""
    approximate = None if exact else open_approximate(whitened)
    return approximate or Exact(whitened)


def open_approximate(whitened: Whitened) -> Approximate | None:
    """Open the store's index, memory-mapped; None where there is none, or the store has grown since."""
    folder = folder_of(whitened)
    if not folder.exists("index.json"):
        return None
    record = IndexRecord(**read_json(folder, "index.json"))
    if record.documents != len(whitened):
        return None
    index = _read(folder.local("index.faiss"), record.factory)
    set_breadth(index, record.breadth)
    components = None
    if not compares_bits(record.factory):
        components = torch.from_numpy(np.array(read_array(folder.local("components.npy"))))
    return Approximate(whitened=whitened, index=index, short=Short(components=components), record=record)


def compares_bits(factory: str) -> bool:
    return factory.startswith("B")


def _read(path: Path, factory: str) -> Any:
    # Inverted lists and flat codes are memory-mapped by different code in FAISS.
    flag = faiss.IO_FLAG_MMAP if "IVF" in factory else faiss.IO_FLAG_MMAP_IFC
    read = faiss.read_index_binary if compares_bits(factory) else faiss.read_index
    return read(str(path), flag | faiss.IO_FLAG_READ_ONLY)


def breadth_name(index: Any) -> str | None:
    if hasattr(index, "nprobe"):
        return "nprobe"
    return "efSearch" if hasattr(index, "hnsw") else None


def set_breadth(index: Any, breadth: int) -> None:
    if name := breadth_name(index):
        value = breadth if name == "nprobe" else 8 * breadth
        faiss.ParameterSpace().set_index_parameter(index, name, value)


def folder_of(whitened: Whitened) -> Folder:
    return whitened.store.folder.child("search")
