"""The tool on one page: each verb takes settings and gives back what it made."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from curate import executors
from curate.documents import Pool, Split, hold_out
from curate.errors import CurateError, SettingsError
from curate.executors.contract import Work
from curate.executors.reading import ChunkEncoder, unfinished
from curate.gradients.documents import Batching, default_budget
from curate.methods.contract import EncodedTarget
from curate.pipeline.arithmetic import check_arithmetic
from curate.pipeline.estimate import ScorePlan
from curate.pipeline.estimate import plan_score as estimate
from curate.pipeline.index import Indexing, IndexPlan
from curate.pipeline.origin import Origin, remember_shards
from curate.pipeline.preparation import (
    ask,
    encode_target,
    load,
    make_batching,
    make_encoder,
    make_inputs,
    overlap_with,
    proxy_settings_of,
    read,
    read_against,
    refuse_early,
    score_columns,
    versions,
)
from curate.pipeline.work import ScoreWork, Scoring
from curate.progress import Reporter, Silent
from curate.proof.bank import Laboratory
from curate.proof.places import draw
from curate.proof.predictions import Subject
from curate.proof.reading import drawn, scored_rows, usable
from curate.proof.settings import ValidateSettings, VerifySettings, default_validate_out, default_verify_out
from curate.proof.validate import ValidatePlan, Validating, Validation
from curate.proof.verdict import Verification
from curate.proof.verify import Verifying
from curate.proof.workers import devices_of
from curate.proxies.proxy import keep_freed_memory, load_proxy
from curate.rescoring.attribution import ADJOINT, SPREAD, Rescoring
from curate.rescoring.plan import RescorePlan, plan
from curate.rescoring.settings import RescoreSettings, default_rescore_out, parents_of, runs_of_one_pool, scored_like
from curate.rescoring.shortlist import background as draw_background
from curate.rescoring.shortlist import best_places, fingerprint, movement, read_places
from curate.schema import Document
from curate.scores.counts import count
from curate.scores.run import Run
from curate.scores.session import pool_of
from curate.settings import ScoreSettings, default_out
from curate.stores.approximate import Made
from curate.stores.making import check_factory, ensure_search
from curate.stores.neighbours import find_neighbours
from curate.stores.scoring import score_stored
from curate.stores.settings import IndexSettings
from curate.stores.store import Store


def score(
    settings: ScoreSettings, out: Path | str | None = None, *, workers: int = 1, reporter: Reporter | None = None
) -> Run:
    """Score every document of a pool, or of a store, against a target, or go on with a run that was stopped.

    `workers` processes share the pool; how many decides nothing but the time. Everything that can be wrong with the
    settings, the pool's columns or the target is found before the model loads. Raises CurateError; parts that were
    finished stay.
    """
    reporter, started = reporter or Silent(), time.time()
    executor = executors.of_workers(workers, settings.device)
    if settings.store and workers > 1:
        raise SettingsError("A store is scored by threads of one process.", hint="Leave --workers out.")
    asked = ask(settings, reporter)
    path = Path(out) if out is not None else default_out(settings)
    refuse_early(path, asked.record, asked.fingerprints)
    made = load(asked, reporter)
    with Run.start(path, settings=asked.record, fingerprints=made.fingerprints, details=made.details) as run:
        asked.split.write(run.path)
        inputs = made.inputs(path, reporter, lambda found: run.add_details(**found))
        if asked.store is None:
            remember_shards(run, asked.pool)
            check_arithmetic(
                run, asked.method, asked.method_settings, inputs, asked.pool, asked.settings, asked.columns
            )
        loaded = time.time()
        scorer = asked.method.prepare(inputs, asked.method_settings)
        prepared = time.time()
        if asked.origin is not None:
            asked.origin.give_parts(run, asked.pool, reporter)
        if asked.store is None:
            opened = Scoring.of(made, scorer) if workers == 1 else None
            del made, inputs, scorer  # workers load their own, and a device need not hold one more
            shards = unfinished(run, asked.pool, asked.settings.fields, asked.settings.part_documents)
            work = executor.run(ScoreWork(request=asked, path=path, opened=opened), shards, run, reporter)
        else:
            work = score_stored(run, asked.store, scorer, overlap_with(asked.target), asked.columns, reporter)
        _log(run, work, {"load": loaded - started, "prepare": prepared - loaded, "score": time.time() - prepared})
        run.finish(count(run))
    return run


def plan_score(settings: ScoreSettings, *, reporter: Reporter | None = None) -> ScorePlan:
    """Say what a scoring will take, from a small part of it that is done; nothing is written."""
    reporter = reporter or Silent()
    if settings.store:
        raise SettingsError("Scoring from a store has no plan: it takes seconds.", hint="Leave --dry-run out.")
    return estimate(load(ask(settings, reporter), reporter))


def index(
    settings: IndexSettings, out: Path | str | None = None, *, workers: int = 1, reporter: Reporter | None = None
) -> Store:
    """Write the sketches of a pool into a store, in one pass, or go on with it, or add the shards that are new.

    `workers` processes share the pool. Raises CurateError; parts that were finished stay.
    """
    executor = executors.of_workers(workers, settings.device)
    return Indexing.open(settings, out, reporter or Silent()).run(executor)


def plan_index(
    settings: IndexSettings, out: Path | str | None = None, *, reporter: Reporter | None = None
) -> IndexPlan:
    """Say what an index will take in time and on disk, from a small part that is done; nothing is written."""
    return Indexing.open(settings, out, reporter or Silent()).plan()


def check_search(how: str) -> None:
    """Raise SettingsError for a way of searching that `make_search` does not know."""
    check_factory(how)


def make_search(store: Store, how: str = "auto", *, reporter: Reporter | None = None) -> Made | None:
    """Give a store an approximate index and say what it reaches; None where it is searched exactly.

    `how`: auto (an index from 50 000 documents on, of a kind that suits their number), none, or a FAISS factory string.
    """
    return ensure_search(store, how, reporter or Silent())


def neighbours(store: Store, *, reporter: Reporter | None = None) -> Path:
    """Find every document's nearest others, unless they are known, and return the Parquet file of pairs."""
    return find_neighbours(store, reporter or Silent())


def rescore(settings: RescoreSettings, out: Path | str | None = None, *, reporter: Reporter | None = None) -> Run:
    """Rescore runs' best documents by differentiating through a training run on them, or go on where it was stopped.

    The result is a run of the shortlist. Raises CurateError, also where the training is too rough to be differentiated.
    """
    reporter, started = reporter or Silent(), time.time()
    parents = parents_of(settings)
    path = Path(out) if out is not None else default_rescore_out(parents[0], settings)
    asked, rescoring, fingerprints, split = _rescoring(settings, parents, reporter)
    device = rescoring.proxy.device.type
    record = asked.as_dict() | {"device": device, "parent_run": [str(run.path) for run in parents]}
    details = {
        "versions": versions(),
        "coverage": vars(rescoring.proxy.coverage),
        "columns": [*rescoring.columns, ADJOINT, *([SPREAD] if settings.repeats > 1 else [])],
        **split.details(),
    }
    with Run.start(path, settings=record, fingerprints=fingerprints, details=details) as run:
        split.write(run.path)
        if not run.is_finished:
            loaded = time.time()
            rescoring.attribute(run)
            moved = {str(parent.path): movement(parent, run.scores().collect()) for parent in parents}
            run.add_details(moved=moved)
            _log(
                run, Work(documents=len(rescoring.usable)), {"load": loaded - started, "rescore": time.time() - loaded}
            )
            run.finish(count(run))
    return run


def plan_rescore(settings: RescoreSettings, *, reporter: Reporter | None = None) -> RescorePlan:
    """Say what a rescoring will take, from one step that is measured; nothing is written."""
    return plan(_rescoring(settings, parents_of(settings), reporter or Silent())[1])


def _rescoring(
    settings: RescoreSettings, parents: Sequence[Run], reporter: Reporter
) -> tuple[ScoreSettings, Rescoring, dict[str, str], Split]:
    """Read, load and encode what a rescoring needs."""
    asked = scored_like(parents[0], settings)
    pool, target = pool_of(parents[0], asked.pool), read(asked, reporter)[1]
    seed = parents[0].details.get("holdout", {}).get("seed", asked.seed)  # the rescoring's own is for its background
    split = hold_out(target, asked.holdout, seed, address=asked.target)
    fingerprints = {"pool": pool.fingerprint(), **split.fingerprints()}
    if any(parents[0].fingerprints.get(part) != found for part, found in split.fingerprints().items()):
        raise CurateError(
            f"The target's content has changed since {parents[0].path} was scored.",
            hint="Score the changed target into another run first.",
        )
    keep_freed_memory()
    proxy = load_proxy(proxy_settings_of(asked))
    encoder = make_encoder(asked, proxy)
    places = best_places(parents, settings.shortlist)
    chunks = read_places(pool, asked.fields, ChunkEncoder(encoder=encoder, overlap=overlap_with(target)), places)
    shortlist = [d for chunk in chunks for d in chunk.documents]
    wanted = settings.background or len(shortlist)
    others = draw_background(pool, asked.fields, shortlist, wanted, settings.seed)
    if len(others) < wanted:
        reporter.note(f"{len(others):,} documents of the pool beside the shortlist; {wanted:,} were asked for.")
    rescoring = Rescoring(
        settings=settings,
        proxy=proxy,
        target=encode_target(encoder, split.used, reporter),
        chunks=chunks,
        others=[e for e in encoder(others) if e.num_scored > 0],
        batching=Batching(tokens=encoder.settings, budget=asked.batch_tokens or default_budget(proxy)),
        columns=score_columns(target.group_names),
        reporter=reporter,
    )
    fingerprints |= {"model": proxy.fingerprint(), "shortlist": fingerprint(places)}
    return asked, rescoring, fingerprints, split


def validate(
    settings: ValidateSettings,
    out: Path | str | None = None,
    *,
    plot: Path | None = None,
    reporter: Reporter | None = None,
) -> Validation:
    """Measure by real retraining how well runs' methods predict it: LDS and QLD, on a bank that is kept and goes on."""
    found = _validating(settings, reporter or Silent()).run()
    found.write(Path(out) if out is not None else default_validate_out(settings), plot)
    return found


def plan_validate(settings: ValidateSettings, *, reporter: Reporter | None = None) -> ValidatePlan:
    """Say what a validation will take, from one step that is measured; nothing is retrained."""
    return _validating(settings, reporter or Silent()).plan()


def verify(
    settings: VerifySettings,
    out: Path | str | None = None,
    *,
    plot: Path | None = None,
    reporter: Reporter | None = None,
) -> Verification:
    """Train the proxy on a selection, on random documents and on others' choices, and compare the target's loss."""
    reporter = reporter or Silent()
    found = Verifying.open(settings, Path(out) if out is not None else default_verify_out(settings))
    keep_freed_memory()
    proxy = load_proxy(replace(proxy_settings_of(found.asked), modules=()))
    return found.run(proxy, make_encoder(found.asked, proxy), score=score, reporter=reporter, plot=plot)


def _validating(settings: ValidateSettings, reporter: Reporter) -> Validating:
    """Read, load and encode what a bank of retrainings and the methods that it judges need."""
    runs = runs_of_one_pool(settings.runs)
    asked = [settings.scored_like(run) for run in runs]
    first, pool, target = asked[0], pool_of(runs[0], settings.pool or None), scored_rows(runs[0])
    keep_freed_memory()
    proxy = load_proxy(settings.proxy_like(first))
    encoder = make_encoder(first, proxy)
    batching = make_batching(replace(first, batch_tokens=settings.batch_tokens), proxy, encoder)
    documents, sample = usable(
        draw(runs, settings.seed, documents=settings.documents).read(pool, first.fields), encoder
    )
    queries, rows = usable(drawn(target.documents, settings.queries, settings.seed), encoder)
    subjects = [_subject(run, one, pool, queries, reporter) for run, one in zip(runs, asked, strict=True)]
    return Validating(
        settings=settings,
        laboratory=Laboratory(
            proxy=proxy,
            recipe=settings.recipe,
            documents=sample,
            queries=rows,
            tokens=batching.tokens,
            budget=batching.budget,
        ),
        documents=documents,
        queries=queries,
        subjects=subjects,
        root=Path(settings.banks) if settings.banks else runs[0].path.parent / "banks",
        devices=devices_of(settings.devices, proxy.device),
        reporter=reporter,
    )


def _subject(run: Run, asked: ScoreSettings, pool: Pool, queries: Sequence[Document], reporter: Reporter) -> Subject:
    """Return a run's method as it was prepared, but for its target, which the single queries replace."""
    proxy = load_proxy(proxy_settings_of(asked))
    fingerprints = {"pool": pool.fingerprint(), "model": proxy.fingerprint()}
    if fingerprints["model"] != run.fingerprints["model"]:
        raise CurateError(f"The model {asked.model} has changed since {run.path} was scored.")
    encoder = make_encoder(asked, proxy)
    target = EncodedTarget(encoded=encoder(queries), groups=[""] * len(queries), names=[""], fingerprint="")
    against = read_against(asked, reporter)
    control = None if against is None else encode_target(encoder, against, reporter, what="control set")
    origin = Origin.open(asked.fit_from, run.settings) if asked.fit_from else None
    inputs = make_inputs(
        asked, proxy, fingerprints, pool, encoder, target, control, run=run.path, origin=origin, reporter=reporter
    )
    return Subject(run=run, inputs=inputs)


def _log(run: Run, work: Work, seconds: dict[str, float]) -> None:
    run.log({"seconds": {k: round(v, 3) for k, v in seconds.items()}, **vars(work)})
