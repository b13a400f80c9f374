"""Indexing a pool: what is asked for, checked before a model loads; what it will take; the pass; the fit."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from curate import methods
from curate.documents import Pool, estimated_rows, sample_rows
from curate.errors import CurateError, SettingsError
from curate.executors.contract import Executor
from curate.executors.reading import unfinished
from curate.folders.part_folder import FINISHED
from curate.gradients.sketches import SketchEngine
from curate.memory import peak_memory
from curate.methods import trackstar
from curate.methods.contract import EncodedTarget, Inputs
from curate.pipeline.arithmetic import check_arithmetic
from curate.pipeline.preparation import (
    make_batching,
    make_encoder,
    make_inputs,
    open_candidates,
    proxy_settings_of,
    report_coverage,
    versions,
)
from curate.pipeline.work import IndexWork, sketching
from curate.progress import Reporter
from curate.proxies.proxy import Proxy, choose_device, keep_freed_memory, load_proxy
from curate.proxies.tokens import Encoder
from curate.scores.counts import count
from curate.settings import background_fingerprint
from curate.stores.indexing import sketched
from curate.stores.settings import IndexSettings, default_store
from curate.stores.storage import Storage
from curate.stores.store import Store
from curate.stores.whitening import norms

PLAN_DOCUMENTS = 64


@dataclass(frozen=True, kw_only=True)
class IndexPlan:
    """The cost of an index, known before it starts."""

    documents: int
    """Rows of the pool that are to be indexed, estimated from the files' sizes where they do not tell."""
    tokens: int
    """Estimated from a sample, cut to the context."""
    numbers_per_document: int
    """Of a sketch: over all layers."""
    bytes_per_document: int
    """Sketch with scales; not its text and its row."""
    text_bytes_per_document: float
    """Before compression, which leaves about a third; of the sample."""
    disk_bytes: int
    """Sketches of all documents."""
    documents_per_second: float
    """Measured."""
    seconds: float
    memory_bytes: int
    """The most that the small part held, and one part's sketches."""


@dataclass(frozen=True, kw_only=True)
class Indexing:
    """An index as it was asked for."""

    settings: IndexSettings
    pool: Pool
    """All of it: shards that are in the store already, too."""
    path: Path
    record: dict[str, Any]
    reporter: Reporter

    @classmethod
    def open(cls, settings: IndexSettings, out: Path | str | None, reporter: Reporter) -> "Indexing":
        """Find the pool and check what can be checked without a model. Raises CurateError.

        Without `out` the store has the pool's name, and grows only by shards at the addresses that it knows.
        """
        path = Path(out) if out is not None else default_store(settings)
        known: tuple[str, ...] = ()
        record = settings.as_dict() | {"device": choose_device(settings.device).type}
        proxy_settings_of(settings)
        if (path / Store.RECORD).exists():
            store = Store.open(path)
            store.refuse_other(record, {})
            known = tuple(store.details["pool"]) if store.has_parts(path) else ()
            new = [address for address in settings.pool if address not in known]
            if out is None and known and new:
                raise SettingsError(
                    f"{path} holds other documents ({', '.join(known)}), not {new[0]}.",
                    hint=f"Say where with --out: {path} to add them, another folder for a store of their own.",
                )
        pool = open_candidates(replace(settings, pool=tuple(dict.fromkeys(known + settings.pool))))
        return cls(settings=settings, pool=pool, path=path, record=record, reporter=reporter)

    def run(self, executor: Executor) -> Store:
        """Write every part that the store lacks, then fit the second moment and keep whitened norms."""
        started, proxy = time.time(), self._proxy()
        engine = SketchEngine(proxy, dim=self.settings.dim, seed=self.settings.seed)
        encoder = make_encoder(self.settings, proxy)
        details = self._details(engine) | {"coverage": vars(proxy.coverage), "context": encoder.settings.context}
        fingerprints = {"model": proxy.fingerprint()}
        with Store.start(self.path, settings=self.record, fingerprints=fingerprints, details=details) as store:
            if not store.has_parts(self.path):
                store.forget()  # of a start that never wrote a part, maybe of another pool
                store.add_details(**details)
            store.add_shards(self.pool)
            if not all(store.holds(s.name) for s in self.pool.shards):
                (self.path / FINISHED).unlink(missing_ok=True)
            store.add_details(pool=list(self.pool.address), pool_fingerprint=self.pool.fingerprint())
            if not store.has_background:
                store.remember_background(self._background_rows())
            self._check_arithmetic(store, proxy, encoder)
            numbers = {name: known["number"] for name, known in store.shards.items()}
            opened = sketching(self.settings, store, proxy, engine, encoder)
            work = IndexWork(settings=self.settings, path=self.path, opened=opened)
            shards = unfinished(store, self.pool, self.settings.fields, self.settings.part_documents, numbers)
            done = executor.run(work, shards, store, self.reporter)
            self._fit(store, proxy, engine, encoder)
            store.log({"documents": done.documents, "seconds": round(time.time() - started, 3)})
            store.finish(count(store))
        return store

    def plan(self) -> IndexPlan:
        """Sketch a few documents and reckon what all will take."""
        proxy = self._proxy()
        engine = SketchEngine(proxy, dim=self.settings.dim, seed=self.settings.seed)
        storage = Storage(self.settings.storage, engine.blocks, self.settings.rank)
        encoder = make_encoder(self.settings, proxy)
        batching = make_batching(self.settings, proxy, encoder)
        sample = sample_rows(self.pool, PLAN_DOCUMENTS, self.settings.seed, self.settings.fields)
        encoded = [e for e in encoder(sample) if e.num_scored > 0]
        if not encoded:
            raise CurateError("A sample of the pool holds nothing to index.", hint="Is --text-column the right one?")
        sketched(storage, engine, encoded[: len(encoded) // 8 + 1], batching)
        begun = time.perf_counter()
        sketched(storage, engine, encoded, batching)
        speed = len(encoded) / (time.perf_counter() - begun)
        store = Store.open(self.path) if (self.path / Store.RECORD).exists() else None
        whole = [s.name for s in self.pool.shards if store is not None and store.holds(s.name)]
        documents = round(sum(estimated_rows(s) for s in self.pool.shards if s.name not in whole))
        part = min(documents, self.settings.part_documents) * storage.bytes_per_document
        return IndexPlan(
            documents=documents,
            tokens=round(documents * sum(len(e.ids) for e in encoded) / len(encoded)),
            numbers_per_document=storage.numbers,
            bytes_per_document=storage.bytes_per_document,
            text_bytes_per_document=sum(len(d.plain_text.encode()) for d in sample) / len(sample),
            disk_bytes=documents * storage.bytes_per_document,
            documents_per_second=speed,
            seconds=documents / speed,
            memory_bytes=peak_memory(proxy.device) + part,
        )

    def _proxy(self) -> Proxy:
        keep_freed_memory()
        proxy = load_proxy(proxy_settings_of(self.settings))
        report_coverage(proxy, self.reporter)
        return proxy

    def _details(self, engine: SketchEngine) -> dict[str, Any]:
        scoring = self.settings.scoring(target=("(none)",), method="trackstar")
        return {
            "versions": versions(),
            "blocks": [asdict(b) for b in engine.blocks],
            "pool": list(self.pool.address),
            "pool_fingerprint": self.pool.fingerprint(),
            "background": background_fingerprint(self.pool.fingerprint(), scoring),
        }

    def _background_rows(self) -> Mapping[str, list[int]]:
        rows: dict[str, list[int]] = {}
        with self.reporter.stage("sampling the pool") as stage:
            for document in sample_rows(self.pool, self.settings.background, self.settings.seed, self.settings.fields):
                rows.setdefault(document.shard, []).append(document.row)
                stage.advance(1)
        return rows

    def _check_arithmetic(self, store: Store, proxy: Proxy, encoder: Encoder) -> None:
        """Score a sample against other documents of the pool in the proxy's type and in float32, and compare."""
        if self.settings.dtype != "bfloat16":
            return
        others = sample_rows(self.pool, PLAN_DOCUMENTS, self.settings.seed + 1, self.settings.fields)
        encoded = [e for e in encoder(others) if e.num_scored > 0]
        target = EncodedTarget(encoded=encoded, groups=[""] * len(encoded), names=[""], fingerprint="pool")
        inputs = replace(self._inputs(store, proxy, encoder, target), stored=None)
        scoring = self.settings.scoring(target=("(none)",), method="trackstar")
        check_arithmetic(store, methods.get("trackstar"), self._usual(), inputs, self.pool, scoring, ["score"])

    def _fit(self, store: Store, proxy: Proxy, engine: SketchEngine, encoder: Encoder) -> None:
        """Keep what every target will ask for: R, its eigendecomposition, and norms with and without it."""
        nothing = EncodedTarget(encoded=[], groups=[], names=[""], fingerprint="")
        inputs = self._inputs(store, proxy, encoder, nothing)
        whitening = trackstar.whitening_of(engine, inputs, self._usual())
        store.keep_whitening(whitening)
        norms(store, whitening, self.reporter)
        norms(store, None, self.reporter)

    def _usual(self) -> trackstar.Settings:
        return trackstar.Settings(dim=self.settings.dim, rank=self.settings.rank, seed=self.settings.seed)

    def _inputs(self, store: Store, proxy: Proxy, encoder: Encoder, target: EncodedTarget) -> Inputs:
        return make_inputs(
            self.settings.scoring(target=("(none)",), method="trackstar"),
            proxy,
            {"pool": self.pool.fingerprint(), "model": store.fingerprints["model"]},
            self.pool,
            encoder,
            target,
            None,
            run=store.path,
            origin=None,
            store=store,
            reporter=self.reporter,
        )
