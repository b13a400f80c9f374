"""Measuring by real retraining how well runs' methods predict it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from curate import executors, methods
from curate.documents import Pool
from curate.errors import CurateError, SettingsError
from curate.folders.local import open_folder, refuse_place
from curate.methods.contract import EncodedTarget
from curate.methods.shared.states import fingerprints_of, needed_checkpoints
from curate.pipeline.origin import Origin
from curate.pipeline.request import read_against
from curate.pipeline.workspace import Workspace, encode_target, load
from curate.progress import Reporter, Silent
from curate.proof.bank import Laboratory
from curate.proof.places import draw
from curate.proof.predictions import Subject
from curate.proof.reading import drawn, scored_rows, usable
from curate.proof.settings import ValidateSettings, banks_beside, default_validate_out, remember
from curate.proof.validate import ValidatePlan, Validating, Validation
from curate.proxies.tokens import Encoded
from curate.rescoring.parents import latest_where_none, runs_of_one_pool
from curate.schema import Document
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.scores.session import pool_of
from curate.settings import changed, gathered


def run(
    settings: ValidateSettings | None = None,
    out: Path | str | None = None,
    *,
    plot: Path | str | None = None,
    workers: int | str = 1,
    executor: str | None = None,
    reporter: Reporter | None = None,
    **values: Any,
) -> Validation:
    """Measure by real retraining how well runs' methods predict it: LDS and QLD, on a bank that is kept and goes on.

    `workers` and `executor` are those of `score`: they retrain side by side.
    """
    refuse_place(out, "--out")
    refuse_place(plot, "--plot")
    settings = gathered(ValidateSettings, settings, values)
    refuse_place(settings.banks, "--banks")
    settings = changed(settings, runs=latest_where_none(settings.runs))
    place = open_folder(out if out is not None else default_validate_out(settings))
    choice = executors.choose(executor, workers=workers, is_shared=False)
    validating = _validating(settings, reporter or Silent())
    remember(place, "validate", settings)
    validation = validating.run(choice)
    validation.write(place.address, plot)
    return validation


def plan(
    settings: ValidateSettings | None = None,
    *,
    workers: int | str = 1,
    executor: str | None = None,
    reporter: Reporter | None = None,
    **values: Any,
) -> ValidatePlan:
    """Say what a validation will take, from steps that are measured; nothing is retrained."""
    settings = gathered(ValidateSettings, settings, values)
    settings = changed(settings, runs=latest_where_none(settings.runs))
    choice = executors.choose(executor, workers=workers, is_shared=False)
    return _validating(settings, reporter or Silent()).plan(choice)


def _validating(settings: ValidateSettings, reporter: Reporter) -> Validating:
    """Read, load and encode what a bank of retrainings and the methods that it judges need."""
    runs = runs_of_one_pool(settings.runs)
    if settings.by_token:
        _refuse_whole(runs)
    scorings = [settings.scored_like(run) for run in runs]
    first, pool, target = scorings[0], pool_of(runs[0], settings.pool or None), scored_rows(runs[0])
    proxy, encoder = load(settings.retrained_like(first))
    workspace = Workspace(
        settings=settings.retrained_like(first),
        proxy=proxy,
        encoder=encoder,
        pool=pool,
        fingerprints={},
        note=reporter.note,
    )
    documents, sample = usable(
        draw(runs, settings.seed, documents=settings.documents).read(pool, first.fields), encoder
    )
    queries, query_rows = usable(drawn(target.documents, settings.queries, settings.seed), encoder)
    subjects = [_subject(run, scoring, pool, queries, reporter) for run, scoring in zip(runs, scorings, strict=True)]
    if settings.by_token:
        for subject in subjects:
            _refuse_other_tokens(subject, documents, sample)
    return Validating(
        settings=settings,
        laboratory=Laboratory(
            proxy=proxy,
            recipe=settings.recipe,
            documents=sample,
            queries=query_rows,
            tokens=workspace.batching.tokens,
            room=workspace.batching.room,
        ),
        documents=documents,
        queries=queries,
        subjects=subjects,
        root=settings.banks or banks_beside(runs[0]),
        reporter=reporter,
    )


def _refuse_whole(runs: Sequence[Run]) -> None:
    """Raise SettingsError for a run whose method has no scores per token."""
    for run in runs:
        method = run.record.method or ""
        if "per_token" not in methods.get(method).OFFERS:
            raise SettingsError(
                f"{run.address}: method {method!r} scores whole documents, not their tokens.",
                hint="Leave this run out, or --unit token.",
            )


def _refuse_other_tokens(subject: Subject, documents: Sequence[Document], sample: Sequence[Encoded]) -> None:
    """Raise SettingsError where a method sees other tokens than the proxy that is retrained."""
    for theirs, ours in zip(subject.encoder(documents), sample, strict=True):
        if not (np.array_equal(theirs.ids, ours.ids) and np.array_equal(theirs.scored, ours.scored)):
            raise SettingsError(
                f"{subject.run.address} scores other tokens than the proxy that is retrained reads.",
                hint="Leave --model out, or validate --unit document.",
            )


def _subject(run: Run, scoring: ScoreSettings, pool: Pool, queries: Sequence[Document], reporter: Reporter) -> Subject:
    """Return a run's method as it was prepared, but for its target, which the single queries replace."""
    proxy, encoder = load(scoring)
    checkpoints = needed_checkpoints(scoring.method, proxy)
    fingerprints = {"pool": pool.fingerprint(), **fingerprints_of(proxy, checkpoints)}
    if not run.record.fingerprints.same_model(fingerprints):
        raise CurateError(f"The model {scoring.model} has changed since {run.address} was scored.")
    against = read_against(scoring, reporter)
    origin = Origin.open(scoring.fit_from, run.record.settings) if scoring.fit_from else None
    workspace = Workspace(
        settings=scoring,
        proxy=proxy,
        encoder=encoder,
        pool=pool,
        fingerprints=fingerprints,
        target=EncodedTarget(encoded=encoder(queries), groups=[""] * len(queries), names=[""], fingerprint=""),
        against=None if against is None else encode_target(encoder, against, reporter, what="control set"),
        per_token=scoring.per_token,
        checkpoints=checkpoints,
        origin=origin,
        note=reporter.note,
    )
    inputs = workspace.inputs(run.folder, reporter)
    if origin is not None:  # single queries need fits that the run's own target did not
        inputs = replace(inputs, background=partial(origin.drawn_background, pool, encoder))
    return Subject(run=run, inputs=inputs)
