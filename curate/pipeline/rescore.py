"""Rescoring runs' best documents by differentiating through a training run on them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curate.documents import Split, hold_out
from curate.documents.located import as_recorded
from curate.errors import CurateError
from curate.executors.chunks import ChunkEncoder
from curate.executors.contract import Work
from curate.folders.local import open_folder, refuse_place
from curate.pipeline.ending import log
from curate.pipeline.request import open_candidates, read_rows, score_columns
from curate.pipeline.workspace import Workspace, encode_target, load, overlap_with, versions
from curate.progress import Reporter, Silent
from curate.rescoring import plan as planning
from curate.rescoring.attribution import ADJOINT, SPREAD, Rescoring
from curate.rescoring.parents import default_rescore_out, latest_where_none, parents_of, scored_like
from curate.rescoring.plan import RescorePlan
from curate.rescoring.settings import RescoreSettings
from curate.rescoring.shortlist import background, best_places, fingerprint, movement, read_places
from curate.score_settings import ScoreSettings
from curate.scores.counts import count
from curate.scores.run import Run
from curate.scores.session import pool_of
from curate.settings import changed, gathered


def run(
    settings: RescoreSettings | None = None,
    out: Path | str | None = None,
    *,
    reporter: Reporter | None = None,
    **values: Any,
) -> Run:
    """Rescore runs' best documents by differentiating through a training run on them, or go on where it was stopped.

    The result is a run of the shortlist. Raises CurateError, also where the training is too rough to be differentiated.
    """
    refuse_place(out, "--out")
    reporter, started = reporter or Silent(), time.time()
    settings = gathered(RescoreSettings, settings, values)
    settings = changed(settings, runs=latest_where_none(settings.runs))
    parents = parents_of(settings)
    place = open_folder(out if out is not None else default_rescore_out(parents[0], settings)).address
    scoring, rescoring, fingerprints, split = _rescoring(settings, parents, reporter)
    device = rescoring.proxy.device.type
    record = scoring.as_dict() | {"device": device, "parent_run": [parent.address for parent in parents]}
    details = {
        "versions": versions(),
        "coverage": vars(rescoring.proxy.coverage),
        "columns": [*rescoring.columns, ADJOINT, *([SPREAD] if settings.repeats > 1 else [])],
        **split.details(),
    }
    if open_folder(place).exists(Run.RECORD):
        record = as_recorded(Run.open(place), record)
    with Run.start(place, settings=record, fingerprints=fingerprints, details=details) as run:
        split.write(run.folder)
        if not run.is_finished:
            run.log.begin()
            loaded = time.time()
            rescoring.attribute(run)
            moved = {parent.address: movement(parent, run.scores().collect()) for parent in parents}
            run.add_details(moved=moved)
            work = Work(documents=len(rescoring.usable))
            log(run, work, {}, load=loaded - started, rescore=time.time() - loaded)
            run.finish(count(run))
    return run


def plan(settings: RescoreSettings | None = None, *, reporter: Reporter | None = None, **values: Any) -> RescorePlan:
    """Say what a rescoring will take, from one step that is measured; nothing is written."""
    settings = gathered(RescoreSettings, settings, values)
    settings = changed(settings, runs=latest_where_none(settings.runs))
    return planning.plan(_rescoring(settings, parents_of(settings), reporter or Silent())[1])


def _rescoring(
    settings: RescoreSettings, parents: Sequence[Run], reporter: Reporter
) -> tuple[ScoreSettings, Rescoring, dict[str, str], Split]:
    """Read, load and encode what a rescoring needs."""
    scoring = scored_like(parents[0], settings)
    open_candidates(scoring, reporter)
    pool, target = pool_of(parents[0], scoring.pool), read_rows(scoring, reporter)
    aside, scored = parents[0].record.details.holdout, parents[0].record.json["fingerprints"]
    seed = aside.seed if aside else scoring.seed  # the rescoring's own is for its background
    split = hold_out(target, scoring.holdout, seed, address=scoring.target)
    fingerprints = {"pool": pool.fingerprint(), **split.fingerprints()}
    if any(scored.get(name) != value for name, value in split.fingerprints().items()):
        raise CurateError(
            f"The target's content has changed since {parents[0].address} was scored.",
            hint="Score the changed target into another run first.",
        )
    proxy, encoder = load(scoring)
    fingerprints |= {"model": proxy.fingerprint()}
    workspace = Workspace(
        settings=scoring, proxy=proxy, encoder=encoder, pool=pool, fingerprints=fingerprints, note=reporter.note
    )
    places = best_places(parents, settings.shortlist)
    encode = ChunkEncoder(encoder=encoder, overlap=overlap_with(target))
    chunks = read_places(pool, scoring.fields, encode, places)
    shortlist = [d for chunk in chunks for d in chunk.documents]
    wanted = settings.background or len(shortlist)
    others = background(pool, scoring.fields, shortlist, wanted, settings.seed)
    if len(others) < wanted:
        reporter.note(f"{len(others):,} documents of the pool beside the shortlist; {wanted:,} were asked for.")
    rescoring = Rescoring(
        settings=settings,
        proxy=proxy,
        target=encode_target(encoder, split.used, reporter),
        chunks=chunks,
        others=[e for e in encoder(others) if e.num_scored > 0],
        batching=workspace.batching,
        columns=score_columns(target.group_names),
        reporter=reporter,
    )
    return scoring, rescoring, fingerprints | {"shortlist": fingerprint(places)}, split
