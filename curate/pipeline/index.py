"""Indexing a pool: the checks before a model loads, what it will take, the pass, the fit, the search."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from curate import executors, methods
from curate.amounts import duration, rounded, size
from curate.documents import FirstRows, Pool, rows_of_all, sample_rows
from curate.documents.located import as_recorded, located, same_places
from curate.errors import CurateError, SettingsError
from curate.executors.contract import Executor
from curate.executors.reading import UnfinishedShard, unfinished
from curate.folders.local import open_folder, refuse_place
from curate.folders.part_folder import FINISHED
from curate.memory import peak_memory
from curate.methods.contract import EncodedTarget, Plan, Sizes, Sketcher
from curate.methods.shared.states import fingerprints_of, needed_checkpoints
from curate.pipeline.arithmetic import check_arithmetic
from curate.pipeline.ending import is_to_finish, totals_of, warn_of_mixed
from curate.pipeline.fitting import fitting
from curate.pipeline.request import note_shapes, open_candidates
from curate.pipeline.work import IndexWork, sketching
from curate.pipeline.workspace import NO_TARGET, Workspace, load, refuse_unwritable, versions
from curate.progress import Reporter, Silent
from curate.proxies.devices import choose_device
from curate.score_settings import background_fingerprint
from curate.settings import changed, gathered
from curate.stores.approximate import IndexRecord
from curate.stores.indexing import projection_of, sketched, sketcher_of
from curate.stores.making import check_factory, ensure_search
from curate.stores.neighbours import find_neighbours
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
    method: Plan | None = None
    """What the method tells of its own work."""

    @property
    def sentence(self) -> str:
        """Say the totals."""
        texts = self.documents * self.text_bytes_per_document / 3
        return (
            f"Indexing about {rounded(self.documents)} documents ({rounded(self.tokens)} tokens) takes about "
            f"{duration(self.seconds)}, {size(self.disk_bytes + texts)} on disk and {size(self.memory_bytes)} of "
            "memory."
        )


def run(
    settings: IndexSettings | None = None,
    out: Path | str | None = None,
    *,
    search: str = "auto",
    workers: int | str = 1,
    executor: str | None = None,
    part: str | None = None,
    strict: bool = False,
    reporter: Reporter | None = None,
    **values: Any,
) -> Store:
    """Write the sketches of a pool into a store, in one pass, or go on with it, or add the shards that are new.

    `search` says how its nearest documents are found; see `make_search`. `workers`, `executor` and `part` are those of
    `score`: the last of several jobs to end finishes the store. A damaged shard gives what can be read of it; with
    `strict` it is an error at the end. Raises CurateError; parts that were finished stay.
    """
    refuse_place(out, "--out")
    check_factory(search)
    reporter, settings = reporter or Silent(), gathered(IndexSettings, settings, values)
    choice = executors.choose(executor, workers=workers, device=settings.device, part=part)
    store = Indexing.open(settings, out, reporter).run(choice, strict=strict)
    if store.is_finished:
        ensure_search(store, search, reporter)
    return store


def plan(
    settings: IndexSettings | None = None,
    out: Path | str | None = None,
    *,
    reporter: Reporter | None = None,
    **values: Any,
) -> IndexPlan:
    """Say what an index will take in time and on disk, from a small part that is done; nothing is written."""
    return Indexing.open(gathered(IndexSettings, settings, values), out, reporter or Silent()).plan()


def make_search(store: Store, how: str = "auto", *, reporter: Reporter | None = None) -> IndexRecord | None:
    """Give a store an approximate index unless it has it, and say what it reaches; None where it is searched exactly.

    `how`: auto (an index from 50 000 documents on, of a kind that suits their number), none, or a FAISS factory string.
    """
    return ensure_search(store, how, reporter or Silent())


def neighbours(store: Store, *, reporter: Reporter | None = None) -> Path:
    """Find every document's nearest others, unless they are kept already, and return the Parquet file of pairs."""
    return find_neighbours(store, reporter or Silent())


@dataclass(frozen=True, kw_only=True)
class Indexing:
    """An index, resolved and checked."""

    settings: IndexSettings
    pool: Pool
    """All of it: shards that are in the store already, too."""
    read_as: FirstRows | None
    """The shapes of its first rows."""
    place: str
    """The store's address."""
    record: dict[str, Any]
    reporter: Reporter

    @classmethod
    def open(cls, settings: IndexSettings, out: Path | str | None, reporter: Reporter) -> "Indexing":
        """Find the pool and check what can be checked without a model. Raises CurateError.

        Without `out` the store has the pool's name, and grows only by shards at the addresses that it knows.
        """
        settings = settings.resolved()
        refuse_place(out, "--out")
        place = open_folder(out if out is not None else default_store(settings)).address
        Store.refuse_foreign(place)
        record = settings.as_dict() | {"device": choose_device(settings.device).type}
        addresses: tuple[str, ...] = ()
        new = list(settings.pool)
        if open_folder(place).exists(Store.RECORD):
            store = Store.open(place)
            record = as_recorded(store, record)
            store.refuse_other_method(settings.method)
            store.refuse_other(record, {})
            addresses = tuple(located(store, a) for a in store.record.details.pool) if store.has_parts(place) else ()
            new = [a for a in settings.pool if not any(same_places(a, known) for known in addresses)]
            if out is None and addresses and new:
                raise SettingsError(
                    f"{place} holds other documents ({', '.join(addresses)}), not {new[0]}.",
                    hint=f"Say where with --out: {place} to add them, another folder for a store of their own.",
                )
        pool = open_candidates(changed(settings, pool=tuple(dict.fromkeys((*addresses, *new)))), reporter)
        read_as = note_shapes(pool, settings.fields, reporter)
        return cls(settings=settings, pool=pool, read_as=read_as, place=place, record=record, reporter=reporter)

    def run(self, choice: executors.Choice, *, strict: bool = False) -> Store:
        """Write the parts that the store lacks; then, once all are there, fit its whitening and keep whitened norms."""
        started, workspace = time.time(), self._workspace()
        proxy = workspace.proxy
        sketcher = sketcher_of(self.settings, proxy, workspace.checkpoints)
        context = workspace.encoder.settings.context
        details = self._details(sketcher) | {"coverage": vars(proxy.coverage), "context": context}
        fingerprints = {name: value for name, value in workspace.fingerprints.items() if name != "pool"}
        how = {"settings": self.record, "fingerprints": fingerprints, "details": details, "job": choice.job}
        with Store.start(self.place, **how) as store:
            store.log.begin(**choice.told())
            with store.preparing(
                lambda: self.reporter.note(f"another job prepares {self.place}; this one waits for it.")
            ):
                self._prepare(store, workspace, details)
            opened = sketching(store, sketcher, workspace.encoder, workspace.batching)
            work = IndexWork(settings=self.settings, folder=store.folder, opened=opened)
            executor = choice.make(parameters=proxy.coverage.total, rows=workspace.sizes().pool)
            done = executor.run(work, self._unfinished(store), store, self.reporter)
            store.log.end({**executor.described(), **done.told(), "seconds": round(time.time() - started, 3)})
            if is_to_finish(store, choice.job, lambda: self._unfinished(store), "index", self.reporter):
                warn_of_mixed(store, self.reporter)
                totals = totals_of(store, self.pool, strict=strict, reporter=self.reporter)
                self._fit(store, workspace, executor)
                store.finish(totals)
        return store

    def _prepare(self, store: Store, workspace: Workspace, details: Mapping[str, Any]) -> None:
        """Do what is done once for a store, and for shards that are new."""
        fingerprint = self.pool.fingerprint()
        is_ours = store.log.is_prepared and store.record.details.pool_fingerprint == fingerprint
        if not store.has_parts(self.place) and not is_ours:
            store.forget()  # of a start that never wrote a part, maybe of another pool
            store.add_details(**details)
        store.add_shards(self.pool)
        if not all(store.holds(s.name) for s in self.pool.shards):
            store.folder.remove(FINISHED)
        store.add_details(pool=list(self.pool.address), pool_fingerprint=fingerprint)
        if self._needs_background and not store.has_background:
            store.remember_background(self._background_rows())
        self._check_arithmetic(store, workspace)

    def _unfinished(self, store: Store) -> list[UnfinishedShard]:
        numbers = {name: shard["number"] for name, shard in store.shards.items()}
        return unfinished(store, self.pool, self.settings.fields, self.settings.part_documents, numbers)

    def plan(self) -> IndexPlan:
        """Sketch a few documents and reckon what all will take."""
        workspace = self._workspace()
        sketcher = sketcher_of(self.settings, workspace.proxy, workspace.checkpoints)
        storage = Storage(self.settings.storage, sketcher.blocks, self.settings.rank or 0)
        sample = sample_rows(self.pool, PLAN_DOCUMENTS, self.settings.seed, self.settings.fields)
        encoded = [e for e in workspace.encoder(sample) if e.num_scored > 0]
        if not encoded:
            raise CurateError("A sample of the pool holds nothing to index.", hint="Is --text-column the right one?")
        sketched(storage, sketcher, encoded[: len(encoded) // 8 + 1], workspace.batching)
        begun = time.perf_counter()
        sketched(storage, sketcher, encoded, workspace.batching)
        speed = len(encoded) / (time.perf_counter() - begun)
        store = Store.open(self.place) if open_folder(self.place).exists(Store.RECORD) else None
        missing = [s for s in self.pool.shards if store is None or not store.holds(s.name)]
        documents = round(rows_of_all(missing))
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
            memory_bytes=peak_memory(workspace.proxy.device) + part,
            method=self._plan_of_method(workspace, documents),
        )

    def _plan_of_method(self, workspace: Workspace, documents: int) -> Plan | None:
        sizes = Sizes.of(documents, self.settings.background or 0, NO_TARGET, None)
        inputs = workspace.inputs(open_folder(self.place), self.reporter)
        return methods.get(self.settings.method).plan(inputs, self._method_settings, sizes, {})

    def _workspace(self) -> Workspace:
        proxy, encoder = load(self.settings, self.reporter)
        refuse_unwritable(encoder, self.read_as, self.reporter)
        checkpoints = needed_checkpoints(self.settings.method, proxy)
        fingerprints = {"pool": self.pool.fingerprint(), **fingerprints_of(proxy, checkpoints)}
        return Workspace(
            settings=self.settings,
            proxy=proxy,
            encoder=encoder,
            pool=self.pool,
            fingerprints=fingerprints,
            checkpoints=checkpoints,
            note=self.reporter.note,
        )

    def _details(self, sketcher: Sketcher) -> dict[str, Any]:
        fingerprint = self.pool.fingerprint()
        details = {
            "versions": versions(),
            "blocks": [asdict(b) for b in sketcher.blocks],
            "pool": list(self.pool.address),
            "pool_fingerprint": fingerprint,
        }
        background = {"background": background_fingerprint(fingerprint, self.settings)}
        return details | (background if self._needs_background else {})

    @property
    def _needs_background(self) -> bool:
        return "background" in methods.get(self.settings.method).NEEDS

    def _background_rows(self) -> Mapping[str, list[int]]:
        rows: dict[str, list[int]] = {}
        sample = sample_rows(self.pool, self.settings.background or 0, self.settings.seed, self.settings.fields)
        with self.reporter.stage("sampling the pool") as stage:
            for document in sample:
                rows.setdefault(document.shard, []).append(document.row)
                stage.advance(1)
        return rows

    def _check_arithmetic(self, store: Store, workspace: Workspace) -> None:
        """Score a sample against other documents of the pool in the proxy's type and in float32, and compare."""
        if self.settings.dtype in ("float32", "float64"):
            return
        others = sample_rows(self.pool, PLAN_DOCUMENTS, self.settings.seed + 1, self.settings.fields)
        encoded = [e for e in workspace.encoder(others) if e.num_scored > 0]
        target = EncodedTarget(encoded=encoded, groups=[""] * len(encoded), names=[""], fingerprint="pool")
        inputs = replace(workspace, target=target).inputs(store.folder, self.reporter)
        method = methods.get(self.settings.method)
        check_arithmetic(store, method, self._method_settings, inputs, self.pool, self.settings, ["score"])

    def _fit(self, store: Store, workspace: Workspace, executor: Executor) -> None:
        """Keep what every target will ask for: how sketches are whitened (of R, its eigendecomposition), and norms."""
        kind = methods.store_of(self.settings.method)
        inputs = replace(workspace, target=NO_TARGET, store=store).inputs(store.folder, self.reporter)
        with fitting(executor, workspace, store.folder, self.reporter) as runner:
            whitening = kind.whitening(replace(inputs, runner=runner), projection_of(self.settings))
        store.keep_whitening(whitening)
        norms(store, whitening, self.reporter)
        if kind.plain_norms:
            norms(store, None, self.reporter)

    @property
    def _method_settings(self) -> Any:
        """The method's settings of a scoring from the store, where nothing else is given."""
        return methods.get(self.settings.method).Settings(**self.settings.projection)
