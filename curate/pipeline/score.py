"""Scoring a pool, or a store, against a target."""

import time
from pathlib import Path
from typing import Any

from curate import executors, methods
from curate.documents.located import as_recorded
from curate.errors import SettingsError
from curate.executors.contract import Work
from curate.executors.reading import unfinished
from curate.folders.local import refuse_place
from curate.pipeline.arithmetic import check_arithmetic
from curate.pipeline.ending import totals_of
from curate.pipeline.estimate import ScorePlan, estimate
from curate.pipeline.frequencies import record_frequency_loss
from curate.pipeline.origin import remember_shards
from curate.pipeline.request import Request, make_request
from curate.pipeline.work import ScoreWork, Scoring
from curate.pipeline.workspace import Workspace, open_workspace, overlap_with, versions
from curate.progress import Reporter, Silent
from curate.score_settings import ScoreSettings, default_out
from curate.scores.run import Run
from curate.settings import gathered
from curate.stores.scoring import score_stored


def run(
    settings: ScoreSettings | None = None,
    out: Path | str | None = None,
    *,
    workers: int = 1,
    strict: bool = False,
    reporter: Reporter | None = None,
    **values: Any,
) -> Run:
    """Score every document of a pool, or of a store, against a target, or go on with a run that was stopped.

    Settings come as an object, by name (the method's own among them), or both: names win. `workers` processes share the
    pool; how many decides nothing but the time. A damaged shard gives what can be read of it and a row in `skipped`;
    with `strict` it is an error once all others are done, and one of the target at once. Whatever is wrong with
    settings, the pool's columns or the target is said before the model loads. Raises CurateError, also where not one
    row can be used; parts that were finished stay.
    """
    refuse_place(out, "--out")
    reporter, started = reporter or Silent(), time.time()
    settings = gathered(ScoreSettings, settings, values)
    executor = executors.of_workers(workers, settings.device)
    if settings.store and workers > 1:
        raise SettingsError("A store is scored by threads of one process.", hint="Leave --workers out.")
    request = make_request(settings, reporter, strict=strict)
    path = Path(out) if out is not None else default_out(request.settings)
    record = _refuse_early(path, request)
    workspace = open_workspace(request, reporter)
    fingerprints, details = dict(workspace.fingerprints), _details(request, workspace)
    with Run.start(path, settings=record, fingerprints=fingerprints, details=details) as run:
        run.log_start()
        request.split.write(run.path)
        inputs = workspace.inputs(path, reporter, lambda details: run.add_details(**details))
        method = methods.get(request.method)
        if request.store is None:
            remember_shards(run, request.pool)
            record_frequency_loss(run, request.pool, request.settings, workspace.encoder)
            check_arithmetic(
                run, method, request.method_settings, inputs, request.pool, request.settings, request.columns
            )
        loaded = time.time()
        scorer = method.prepare(inputs, request.method_settings)
        prepared = time.time()
        if request.origin is not None:
            request.origin.give_parts(run, request.pool, reporter)
        if request.store is None:
            opened = Scoring.of(request, workspace, scorer) if workers == 1 else None
            del workspace, inputs, scorer  # workers load their own, and a device need not hold one more
            shards = unfinished(run, request.pool, request.settings.fields, request.settings.part_documents)
            work = executor.run(ScoreWork(request=request, path=path, opened=opened), shards, run, reporter)
        else:
            work = score_stored(run, request.store, scorer, overlap_with(request.target), request.columns, reporter)
        log(run, work, load=loaded - started, prepare=prepared - loaded, score=time.time() - prepared)
        run.finish(totals_of(run, strict=strict, reporter=reporter))
    return run


def plan(settings: ScoreSettings | None = None, *, reporter: Reporter | None = None, **values: Any) -> ScorePlan:
    """Say what a scoring will take, from a small part of it that is done; nothing is written."""
    reporter, settings = reporter or Silent(), gathered(ScoreSettings, settings, values)
    if settings.store:
        raise SettingsError("Scoring from a store has no plan: it takes seconds.", hint="Leave --dry-run out.")
    request = make_request(settings, reporter)
    return estimate(request, open_workspace(request, reporter))


def log(run: Run, work: Work, **seconds: float) -> None:
    """Write what a session did and how long its stages took into the run's log."""
    run.log({"seconds": {stage: round(value, 3) for stage, value in seconds.items()}, **vars(work)})


def _details(request: Request, workspace: Workspace) -> dict[str, Any]:
    """Return what run.json tells beside settings and fingerprints."""
    details = {"versions": versions(), "coverage": vars(workspace.proxy.coverage), "columns": request.columns}
    indexed = {} if request.store is None else request.store.record.json["details"]
    if "arithmetic" in indexed:
        details["arithmetic"] = indexed["arithmetic"]  # checked when the sketches were made
    return details | request.split.details()


def _refuse_early(path: Path, request: Request) -> dict[str, Any]:
    """Find before the model loads a place that cannot hold a run, or that holds one of other settings.

    `Run.start` looks again, with the model's fingerprint. Return the settings as a run that is there has them: its
    addresses may have been given elsewhere.
    """
    refuse_place(path, "--out")
    Run.refuse_foreign(path)
    if not (path / Run.RECORD).exists():
        return request.record
    run = Run.open(path)
    record = as_recorded(run, request.record)
    run.refuse_other(record, request.fingerprints)
    return record
