"""Approximate search: FAISS finds candidates among shortened vectors, the store's own sketches rank them.

Unit vectors are projected onto their leading principal components, indexed by FAISS (whatever its factory makes; an
inverted file by default), and the candidates of a query are ranked by their exact cosines, read from the store. How
many lists are probed and how many candidates ranked is chosen on documents of the store, so that at least RECALL of the
ten nearest are found, at the least measured cost; what was reached is kept and told.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import faiss
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from curate.atomic import atomic_write, write_text
from curate.errors import SettingsError
from curate.progress import Reporter
from curate.scores.record import canonical
from curate.stores.search import Exact, Found, Whitened
from curate.stores.store import Store, read_array, write_array
from curate.stores.streaming import stream

LEAST_DOCUMENTS = 50_000
"""Fewer are searched exactly: one pass over them takes less than a tenth of a second."""
RECALL, K = 0.97, 10  # aimed at on the store's own documents; a little is lost on others
WIDTH = 256
_TRAINING = 8192  # documents that principal components are found on, of wide sketches as many as fill these bytes
_TRAINING_BYTES = 2**31
_CALIBRATION = 256
_DEPTHS = (10, 20, 40, 80, 160, 320, 640, 1280, 2560)
_BREADTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SEED = 0


@runtime_checkable
class Search(Protocol):
    """Finds the nearest documents of unit vectors."""

    @property
    def whitened(self) -> Whitened: ...

    def __call__(self, queries: Float[Tensor, "queries sketch"], k: int) -> Found: ...


@dataclass(frozen=True, kw_only=True)
class Made:
    """What an index was made as, and what it was measured to do."""

    factory: str
    width: int
    """Of the shortened vectors."""
    documents: int
    breadth: int
    """Lists probed (nprobe), or candidates held (efSearch)."""
    depth: int
    """Candidates of ten nearest whose exact cosines are taken."""
    recall: float
    """Share of the ten nearest that are found, over a sample of the store's own documents."""
    milliseconds: float
    """Of one query, asked alone."""
    exact_milliseconds: float
    """Of the exact search for one query, in the same process."""


@dataclass(frozen=True, kw_only=True)
class Approximate:
    """Search through an index on disk, memory-mapped."""

    whitened: Whitened
    index: Any
    components: Float[Tensor, "width sketch"]
    made: Made

    def __call__(self, queries: Float[Tensor, "queries sketch"], k: int) -> Found:
        """Return the `k` nearest of each query among the candidates; cosines are exact."""
        depth = min(self.made.documents, max(self.made.depth, self.made.depth * k // K))
        candidates = self.candidates(queries, depth)
        cosines = self.whitened.cosines(queries, candidates)
        # By position first, so that equal cosines keep the store's order.
        order = candidates.sort(1).indices
        order = order.gather(1, cosines.gather(1, order).sort(dim=1, descending=True, stable=True).indices)[:, :k]
        return Found(cosines=cosines.gather(1, order), positions=candidates.gather(1, order))

    def candidates(self, queries: Tensor, depth: int) -> Tensor:
        """Return the positions of the documents that seem nearest; -1 where the probed lists hold fewer."""
        short = (queries @ self.components.T).contiguous().numpy()
        return torch.from_numpy(self.index.search(short, depth)[1])


def choose_search(whitened: Whitened, *, exact: bool = False) -> Search:
    """Return the store's index where it has one that covers it, else the exact search."""
    found = None if exact else open_approximate(whitened)
    return found or Exact(whitened)


def open_approximate(whitened: Whitened) -> Approximate | None:
    """Open the store's index, memory-mapped; None where there is none, or the store has grown since."""
    folder = _folder(whitened)
    if not (folder / "index.json").exists():
        return None
    made = Made(**json.loads((folder / "index.json").read_text(encoding="utf-8")))
    if made.documents != len(whitened):
        return None
    index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    _set_breadth(index, made.breadth)
    components = torch.from_numpy(np.array(read_array(folder / "components.npy")))
    return Approximate(whitened=whitened, index=index, components=components, made=made)


def ensure_search(store: Store, how: str, reporter: Reporter) -> Made | None:
    """Return the store's index, made now unless it is there as asked for; None where it is searched exactly."""
    if how == "none" or (how == "auto" and len(store) < LEAST_DOCUMENTS):
        return None
    whitened = Whitened(store, reporter)
    factory = automatic_factory(len(whitened)) if how == "auto" else how
    known = open_approximate(whitened)
    if known is None or (how != "auto" and known.made.factory != factory):
        known = make_approximate(whitened, factory)
    if known.made.recall < RECALL:
        reporter.warn(
            f"the index {known.made.factory} finds {known.made.recall:.2f} of the ten nearest; --exact, or another"
            " factory (--search), finds more."
        )
    return known.made


def automatic_factory(documents: int) -> str:
    """Return an index for so many shortened vectors: 256 bytes each up to ten million of them, then 64."""
    lists = 2 ** round(np.log2(4 * documents**0.5))
    return f"IVF{lists},SQ8" if documents < 10_000_000 else f"IVF{lists},PQ64"


def make_approximate(whitened: Whitened, factory: str, width: int = WIDTH) -> Approximate:
    """Make the store's index, choose its parameters, measure it against the exact search, and keep it.

    Raises SettingsError for a factory that FAISS does not know.
    """
    reporter, folder = whitened.reporter, _folder(whitened)
    folder.mkdir(exist_ok=True)
    with reporter.stage("principal components", total=None):
        components = _components(whitened, width)
    try:
        index = faiss.index_factory(len(components), factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise SettingsError(
            f"FAISS makes no index of {factory!r}.", hint="A factory string such as IVF1024,SQ8 or HNSW32 or Flat."
        ) from error
    _fill(whitened, index, components, reporter)
    with atomic_write(folder / "index.faiss") as temporary:
        faiss.write_index(index, str(temporary))
    write_array(folder / "components.npy", components.numpy())
    with reporter.stage("measuring recall", total=None):
        made = _calibrated(whitened, index, components, factory)
    write_text(folder / "index.json", canonical(asdict(made)))
    opened = open_approximate(whitened)
    assert opened is not None
    return opened


def _components(whitened: Whitened, width: int) -> Tensor:
    """Return the leading principal directions (uncentred) of a sample of the store, largest first."""
    fit = max(2 * width, _TRAINING_BYTES // (4 * whitened.store.storage.width))
    count = min(_TRAINING, fit, len(whitened))
    rng = np.random.default_rng(_SEED)
    vectors = _at(whitened, np.sort(rng.choice(len(whitened), count, replace=False)))
    width = min(width, *vectors.shape)
    # Subspace iteration (Halko et al. 2011, algorithm 4.4): two products per round instead of a whole decomposition.
    generator = torch.Generator().manual_seed(_SEED)
    basis = torch.linalg.qr(torch.randn(vectors.shape[1], width, generator=generator)).Q
    for _ in range(4):
        basis = torch.linalg.qr(vectors.T @ (vectors @ basis)).Q
    _, rotation = torch.linalg.eigh(basis.T @ (vectors.T @ (vectors @ basis)))
    return (basis @ rotation.flip(1)).T.contiguous()


def _at(whitened: Whitened, positions: np.ndarray) -> Tensor:
    """Return unit vectors of documents, by position."""
    found = torch.zeros(len(positions), whitened.store.storage.width)
    for number, places in whitened.at(positions.tolist()).items():
        rows = positions[places] - whitened.starts[number]
        codes = whitened.store.codes(whitened.parts[number])[rows]
        found[places] = whitened.units(whitened.store.storage.decode(codes))
    return found


def _fill(whitened: Whitened, index: Any, components: Tensor, reporter: Reporter) -> None:
    """Train the index on as many vectors as its lists ask for, and add all, in one pass."""
    products, short = whitened.products(components), []
    with reporter.stage("approximate index", total=len(whitened)) as stage:
        for part, found in stream(whitened.store, products, whitened.parts):
            short.append((found / whitened.norms[part.path.stem][:, None]).numpy())
            stage.advance(len(found))
        vectors = np.concatenate(short)
        lists = getattr(index, "nlist", 0)
        wanted = min(len(vectors), max(64 * lists, 16384))
        if not index.is_trained:
            rng = np.random.default_rng(_SEED)
            index.train(vectors[np.sort(rng.choice(len(vectors), wanted, replace=False))])
        index.add(vectors)


def _calibrated(whitened: Whitened, index: Any, components: Tensor, factory: str) -> Made:
    """Choose breadth and depth on documents of the store, each searched for its ten nearest others."""
    rng = np.random.default_rng(_SEED + 1)
    positions = np.sort(rng.choice(len(whitened), min(_CALIBRATION, len(whitened)), replace=False))
    queries, own = _at(whitened, positions), torch.from_numpy(positions)[:, None]
    exact = Exact(whitened)
    truth = exact(queries, K + 1).positions
    truth = torch.stack([row[row != mine][:K] for row, mine in zip(truth, own, strict=True)])
    best: Made | None = None
    for breadth in _BREADTHS if _breadth_name(index) else (1,):
        _set_breadth(index, breadth)
        options = _options(whitened, index, components, factory, breadth, queries, own, truth)
        for option in options:
            if best is None or _better(option, best):
                best = option
    assert best is not None
    one = queries[:1]
    best_exact = min(_seconds(lambda: exact(one, K)) for _ in range(3))
    return Made(**{**asdict(best), "exact_milliseconds": 1000 * best_exact})


def _options(
    whitened: Whitened,
    index: Any,
    components: Tensor,
    factory: str,
    breadth: int,
    queries: Tensor,
    own: Tensor,
    truth: Tensor,
) -> list[Made]:
    """Return what one breadth reaches: at the least depth that finds enough, or at the greatest."""
    deepest = min(_DEPTHS[-1], len(whitened))
    short = (queries @ components.T).contiguous().numpy()
    found = torch.from_numpy(index.search(short, deepest)[1])
    others = found != own
    places = (found[:, None, :] == truth[:, :, None]) & others[:, None, :]
    ranks = torch.where(places.any(2), places.int().argmax(2), deepest)
    depths = [d for d in _DEPTHS if d <= deepest]
    recalls = {d: float((ranks < d + 1).float().mean()) for d in depths}
    depth = next((d for d in depths if recalls[d] >= RECALL), depths[-1])
    made = Made(
        factory=factory,
        width=len(components),
        documents=len(whitened),
        breadth=breadth,
        depth=depth,
        recall=recalls[depth],
        milliseconds=0.0,
        exact_milliseconds=0.0,
    )
    search = Approximate(whitened=whitened, index=index, components=components, made=made)
    seconds = [min(_seconds(lambda q=queries[i : i + 1]: search(q, K)) for _ in range(2)) for i in range(8)]
    return [Made(**{**asdict(made), "milliseconds": 1000 * float(np.median(seconds))})]


def _better(one: Made, other: Made) -> bool:
    if (one.recall >= RECALL) != (other.recall >= RECALL):
        return one.recall >= RECALL
    return one.milliseconds < other.milliseconds if one.recall >= RECALL else one.recall > other.recall


def _seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _breadth_name(index: Any) -> str | None:
    if hasattr(index, "nprobe"):
        return "nprobe"
    return "efSearch" if hasattr(index, "hnsw") else None


def _set_breadth(index: Any, breadth: int) -> None:
    if name := _breadth_name(index):
        value = breadth if name == "nprobe" else 8 * breadth
        faiss.ParameterSpace().set_index_parameter(index, name, value)


def _folder(whitened: Whitened) -> Path:
    return whitened.store.path / "search"
