"""Make a store's approximate index, and measure its recall and speed against the exact search."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from curate.errors import SettingsError
from curate.folders.folder import put_json
from curate.progress import Reporter
from curate.stores.approximate import (
    BITS_MOST,
    SEED,
    Approximate,
    IndexRecord,
    K,
    Short,
    breadth_name,
    compares_bits,
    folder_of,
    open_approximate,
    set_breadth,
)
from curate.stores.search import Exact, Whitened
from curate.stores.storage import Codes
from curate.stores.store import Store, put_array
from curate.stores.streaming import stream

LEAST_DOCUMENTS = 50_000
"""Smaller stores are searched exactly: a pass over them takes about a tenth of a second."""
RECALL = 0.97  # the aim on the store's own documents; others reach a little less
BITS = "BFlat"
"""The default index."""
COMPONENTS = 256
_TRAINING = 8192  # documents that principal components are fitted on; of wide sketches, as many as fill these bytes
_TRAINING_BYTES = 2**31
_CALIBRATION = 256
_DEPTHS = (10, 20, 40, 80, 160, 320, 640, 1280, 2560)
_BREADTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def ensure_search(store: Store, search: str, reporter: Reporter) -> IndexRecord | None:
    """Return the record of the store's index, making the index if need be; None where the store is searched exactly."""
    if search == "none" or len(store) <= (LEAST_DOCUMENTS - 1 if search == "auto" else K):
        return None
    whitened = Whitened(store, reporter)
    factory = BITS if search == "auto" else search
    index = open_approximate(whitened)
    if index is None or (search != "auto" and index.record.factory != factory):
        with store.folder.claim() as claim:
            claimed = Store.within(claim.guard(store.folder))
            index = make_approximate(Whitened(claimed, reporter), factory)
    if index.record.recall < RECALL:
        reporter.warn(
            f"the index {index.record.factory} finds {index.record.recall:.2f} of the ten nearest; use --exact, or"
            " another factory (--search), to find more."
        )
    return index.record


def make_approximate(whitened: Whitened, factory: str = BITS, width: int = COMPONENTS) -> Approximate:
    """Make the store's index, choose its parameters, measure it against the exact search, and keep it.

    `width`: principal components, where the factory does not compare bits. Raises SettingsError for a factory that
    FAISS does not know.
    """
    reporter, folder = whitened.reporter, folder_of(whitened)
    index = _new(factory, whitened.store.storage.width, width)
    # The old record goes first: a store killed from here on has no index, not one with a false record.
    folder.remove("index.json")
    short = Short()
    if not compares_bits(factory):
        with reporter.stage("principal components", total=None):
            short = Short(components=_components(whitened, width))
        put_array(folder, "components.npy", short.components.numpy())  # type: ignore[union-attr]
        index = _new(factory, whitened.store.storage.width, len(short.components))  # type: ignore[arg-type]
    _fill(whitened, index, short, reporter)
    write = faiss.write_index_binary if compares_bits(factory) else faiss.write_index
    folder.put("index.faiss", lambda path: write(index, str(path)))
    with reporter.stage("measuring recall", total=None):
        record = _calibrated(whitened, index, short, factory)
    put_json(folder, "index.json", asdict(record))
    opened = open_approximate(whitened)
    assert opened is not None
    return opened


def _new(factory: str, numbers: int, width: int) -> Any:
    try:
        if compares_bits(factory):
            return faiss.index_binary_factory(8 * ((min(numbers, BITS_MOST) + 7) // 8), factory)
        return faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise SettingsError(
            f"search is {factory!r}; expected a factory string that FAISS knows.",
            hint="Use BFlat or BHNSW32 (bits), IVF1024,PQ64, HNSW32 or Flat (principal components).",
        ) from error


def _components(whitened: Whitened, width: int) -> Tensor:
    """Return the leading principal directions (uncentred) of a sample of the store, largest first."""
    fit = max(2 * width, _TRAINING_BYTES // (4 * whitened.store.storage.width))
    count = min(_TRAINING, fit, len(whitened))
    rng = np.random.default_rng(SEED)
    vectors = _at(whitened, np.sort(rng.choice(len(whitened), count, replace=False)))
    width = min(width, *vectors.shape)
    # Subspace iteration (Halko et al. 2011, algorithm 4.4): two products per round instead of a whole decomposition.
    generator = torch.Generator().manual_seed(SEED)
    basis = torch.linalg.qr(torch.randn(vectors.shape[1], width, generator=generator)).Q
    for _ in range(4):
        basis = torch.linalg.qr(vectors.T @ (vectors @ basis)).Q
    _, rotation = torch.linalg.eigh(basis.T @ (vectors.T @ (vectors @ basis)))
    return (basis @ rotation.flip(1)).T.contiguous()


def _at(whitened: Whitened, positions: np.ndarray) -> Tensor:
    """Return unit vectors of documents, by position."""
    return whitened.units(whitened.store.storage.decode(whitened.gathered(positions)[0]))


def _fill(whitened: Whitened, index: Any, short: Short, reporter: Reporter) -> None:
    """Train the index on as many vectors as its lists need, and add all, in one pass."""

    work, shortened = _Shortening(whitened, short), []
    with reporter.stage("approximate index", total=len(whitened)) as stage:
        for _, part in stream(whitened.store, work, whitened.parts):
            shortened.append(part.numpy())
            stage.advance(len(part))
        vectors = np.concatenate(shortened)
        if not index.is_trained:
            count = min(len(vectors), max(64 * getattr(index, "nlist", 0), 16384))
            rng = np.random.default_rng(SEED)
            try:
                index.train(vectors[np.sort(rng.choice(len(vectors), count, replace=False))])
            except RuntimeError as error:
                raise SettingsError(
                    f"FAISS cannot train the index on {count:,} documents: {str(error).splitlines()[0]}",
                    hint="Use a factory with fewer lists, or --search BFlat, which needs no training.",
                ) from error
        index.add(vectors)


@dataclass(frozen=True)
class _Shortening:
    """Shorten vectors of codes."""

    whitened: Whitened
    short: Short

    @property
    def rows(self) -> int:
        """Documents that are decoded at a time: wide sketches are megabytes each."""
        return max(1, min(128, (1 << 22) // self.whitened.store.storage.width))

    def __call__(self, codes: Codes) -> Tensor:
        return torch.from_numpy(self.short(self.whitened.units(self.whitened.store.storage.decode(codes))))


def check_factory(search: str) -> None:
    """Raise SettingsError for an unknown index, before any work is done."""
    if search not in ("auto", "none"):
        _new(search, 64, 16)


def _calibrated(whitened: Whitened, index: Any, short: Short, factory: str) -> IndexRecord:
    """Choose breadth and depth on documents of the store, each searched for its ten nearest others."""
    rng = np.random.default_rng(SEED + 1)
    positions = np.sort(rng.choice(len(whitened), min(_CALIBRATION, len(whitened)), replace=False))
    queries, places = _at(whitened, positions), torch.from_numpy(positions)[:, None]
    exact = Exact(whitened)
    truth = exact(queries, K + 1).positions
    truth = torch.stack([nearest[nearest != place][:K] for nearest, place in zip(truth, places, strict=True)])
    best: IndexRecord | None = None
    for breadth in _BREADTHS if breadth_name(index) else (1,):
        set_breadth(index, breadth)
        reached = _reached(whitened, index, short, factory, breadth, queries, places, truth)
        if best is None or _better(reached, best):
            best = reached
    assert best is not None
    query = queries[:1]
    best_exact = min(_seconds(lambda: exact(query, K)) for _ in range(3))
    return replace(best, exact_milliseconds=1000 * best_exact)


def _reached(
    whitened: Whitened,
    index: Any,
    short: Short,
    factory: str,
    breadth: int,
    queries: Tensor,
    places: Tensor,
    truth: Tensor,
) -> IndexRecord:
    """Return the record of one breadth: at the least depth that reaches RECALL, or at the greatest."""
    depths = [d for d in _DEPTHS if d < len(whitened)] or [len(whitened)]
    candidates = torch.from_numpy(index.search(short(queries), min(depths[-1] + 1, len(whitened)))[1])
    pairs = zip(candidates, places, strict=True)
    others = torch.stack(
        [torch.cat([nearest[nearest != place], place])[: candidates.shape[1] - 1] for nearest, place in pairs]
    )
    matches = others[:, None, :] == truth[:, :, None]
    ranks = torch.where(matches.any(2), matches.int().argmax(2), len(whitened))
    recalls = {d: float((ranks < d).float().mean()) for d in depths}
    depth = next((d for d in depths if recalls[d] >= RECALL), depths[-1])
    record = IndexRecord(
        factory=factory,
        width=8 * short(queries[:1]).shape[1] if short.components is None else len(short.components),
        documents=len(whitened),
        breadth=breadth,
        depth=depth,
        recall=recalls[depth],
        milliseconds=0.0,
        exact_milliseconds=0.0,
    )
    search = Approximate(whitened=whitened, index=index, short=short, record=record)
    seconds = [
        min(_seconds(lambda q=queries[i : i + 1]: search(q, K)) for _ in range(2)) for i in range(min(8, len(queries)))
    ]
    return replace(record, milliseconds=1000 * float(np.median(seconds)))


def _better(record: IndexRecord, other: IndexRecord) -> bool:
    if (record.recall >= RECALL) != (other.recall >= RECALL):
        return record.recall >= RECALL
    return record.milliseconds < other.milliseconds if record.recall >= RECALL else record.recall > other.recall


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
