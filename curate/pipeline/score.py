"""Scoring a pool, or a store, against a target."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from curate import executors, methods
from curate.documents.located import as_recorded
from curate.errors import SettingsError
from curate.executors.contract import Executor
from curate.executors.reading import UnfinishedShard, unfinished
from curate.folders.local import open_folder, refuse_place
from curate.folders.record import LABELS
from curate.methods.contract import Scorer
from curate.pipeline.arithmetic import check_arithmetic
from curate.pipeline.checking import check_scores
from curate.pipeline.ending import is_to_finish, log, totals_of, warn_of_mixed
from curate.pipeline.estimate import ScorePlan, estimate
from curate.pipeline.fitting import fitting
from curate.pipeline.frequencies import record_frequency_loss
from curate.pipeline.narrowing import narrowed
from curate.pipeline.origin import remember_shards
from curate.pipeline.request import Request, make_request
from curate.pipeline.taking import decide
from curate.pipeline.work import ScoreWork, Scoring
from curate.pipeline.workspace import Workspace, open_workspace, overlap_with, versions
from curate.progress import Reporter, Silent
from curate.score_settings import ScoreSettings, default_out
from curate.scores.narrowing import narrowed_note
from curate.scores.run import Run
from curate.settings import gathered
from curate.stores.scoring import score_stored


def run(
    settings: ScoreSettings | None = None,
    out: Path | str | None = None,
    *,
    workers: int | str = 1,
    executor: str | None = None,
    part: str | None = None,
    strict: bool = False,
    reporter: Reporter | None = None,
    **values: Any,
) -> Run:
    """Score every document of a pool, or of a store, against a target, or go on with a run that was stopped.

    Settings come as an object, by name (the method's own among them), or both: names win. `workers` processes share
    the pool; how many decides nothing but the time, and `auto` takes as many as help (see `executors.helpful`).
    `executor` names what else shares it; `part` (3/64) leaves all but one share to other jobs, of which the last to end
    finishes the run. A damaged shard gives what can be read of it and a row in `skipped`; with `strict` it is an error
    once all others are done, and one of the target at once. Whatever is wrong with settings, the pool's columns or the
    target is said before the model loads. Raises CurateError, also where not one row can be used; parts that were
    finished stay.
    """
    refuse_place(out, "--out")
    reporter, started = reporter or Silent(), time.time()
    settings = gathered(ScoreSettings, settings, values)
    choice = executors.choose(executor, workers=workers, device=settings.device, part=part)
    if settings.store and (workers not in (1, executors.AUTO) or executor or part):
        raise SettingsError(
            "A store is scored by threads of one process.", hint="Leave --workers, --executor and --part out."
        )
    request = make_request(settings, reporter, strict=strict)
    place = open_folder(out if out is not None else default_out(request.settings)).address
    record = _refuse_early(place, request)
    workspace = open_workspace(request, reporter)
    fingerprints, details = dict(workspace.fingerprints), _details(request, workspace)
    with Run.start(place, settings=record, fingerprints=fingerprints, details=details, job=choice.job) as run:
        run.log.begin(**choice.told())
        loaded = time.time()
        is_stored = request.store is not None
        worker = choice.make(
            parameters=workspace.proxy.coverage.total, rows=None if is_stored else workspace.sizes().pool
        )
        with run.preparing(lambda: reporter.note(f"another job prepares {place}; this one waits for it.")):
            scorer = _prepare(run, request, workspace, worker, reporter)
            if request.settings.check:
                check_scores(run, workspace, request.settings.check, scorer, choice, reporter)
        prepared = time.time()
        if request.store is None:
            described = worker.described()
            opened = Scoring.of(request, workspace, scorer, run) if worker.is_here else None
            del workspace, scorer  # workers load their own, and a device need not hold one more
            work = worker.run(
                ScoreWork(request=request, folder=run.folder, opened=opened), _unfinished(run, request), run, reporter
            )
        else:
            described = {}
            work = score_stored(run, request.store, scorer, overlap_with(request.target), request.columns, reporter)
        seconds = {"load": loaded - started, "prepare": prepared - loaded, "score": time.time() - prepared}
        log(run, work, described, **seconds)
        if is_to_finish(run, choice.job, lambda: _unfinished(run, request), "score", reporter):
            warn_of_mixed(run, reporter)
            run.finish(totals_of(run, narrowed(run, request.pool), strict=strict, reporter=reporter))
    return run


def _prepare(run: Run, request: Request, workspace: Workspace, executor: Executor, reporter: Reporter) -> Scorer:
    """Do what is done once for a run, and return its scorer; an executor's workers share the fits."""
    request.split.write(run.folder)
    inputs = workspace.inputs(run.folder, reporter, lambda details: run.add_details(**details))
    method = methods.get(request.method)
    if request.narrowing is not None:
        request.narrowing.begin(run, request.pool)
        reporter.note(f"scored: {narrowed_note(run.record)}.")
        if (other := decide(run, request.narrowing)) is not None:
            reporter.note(f"documents that {other.address} has are taken as it has scored them.")
    if request.store is None:
        remember_shards(run, request.pool)
        record_frequency_loss(run, request.pool, request.settings, workspace.encoder)
        check_arithmetic(run, method, request.method_settings, inputs, request.pool, request.settings, request.columns)
    with fitting(executor, workspace, run.folder, reporter) as runner:
        scorer = method.prepare(replace(inputs, runner=runner), request.method_settings)
    if request.origin is not None:
        request.origin.give_parts(run, request.pool, reporter)
    return scorer


def _unfinished(run: Run, request: Request) -> list[UnfinishedShard]:
    return unfinished(run, narrowed(run, request.pool), request.settings.fields, request.settings.part_documents)


def plan(settings: ScoreSettings | None = None, *, reporter: Reporter | None = None, **values: Any) -> ScorePlan:
    """Say what a scoring will take, from a small part of it that is done; nothing is written."""
    reporter, settings = reporter or Silent(), gathered(ScoreSettings, settings, values)
    if settings.store:
        raise SettingsError("Scoring from a store has no plan: it takes seconds.", hint="Leave --dry-run out.")
    request = make_request(settings, reporter)
    return estimate(request, open_workspace(request, reporter))


def _details(request: Request, workspace: Workspace) -> dict[str, Any]:
    """Return what run.json tells beside settings and fingerprints."""
    details = {"versions": versions(), "coverage": vars(workspace.proxy.coverage), "columns": request.columns}
    indexed = {} if request.store is None else request.store.record.json["details"]
    if "arithmetic" in indexed:
        details["arithmetic"] = indexed["arithmetic"]  # checked when the sketches were made
    if request.settings.per_token:
        details["token_scores"] = LABELS
    return details | request.split.details()


def _refuse_early(place: str, request: Request) -> dict[str, Any]:
    """Find before the model loads a place that cannot hold a run, or that holds one of other settings.

    `Run.start` looks again, with the model's fingerprint. Return the settings as a run that is there has them: its
    addresses may have been given elsewhere.
    """
    refuse_place(place, "--out")
    Run.refuse_foreign(place)
    if not open_folder(place).exists(Run.RECORD):
        return request.record
    run = Run.open(place)
    record = as_recorded(run, request.record)
    run.refuse_other(record, request.fingerprints)
    if not run.is_finished:
        run.refuse_positions()
    return record
