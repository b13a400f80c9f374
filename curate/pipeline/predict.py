"""Predicting the scores of a pool from those of a sample that were computed."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xxhash

from curate import __version__, executors, students
from curate.documents import Pool, check_fields, documents, hold_out, open_pool, read_target
from curate.documents.located import as_recorded
from curate.errors import CurateError, SettingsError, nearest
from curate.executors.reading import unfinished
from curate.fields import Fields
from curate.folders.local import open_folder, refuse_place
from curate.folders.record import as_json
from curate.pipeline.ending import is_to_finish, log, totals_of, warn_of_mixed
from curate.pipeline.predicting import (
    SOURCES,
    Learned,
    Prediction,
    PredictWork,
    Reading,
    lengths_of,
    make_predicting,
    open_reading,
)
from curate.progress import Reporter, Silent
from curate.proxies.settings import MAX_DEFAULT_CONTEXT
from curate.schema import Document, group_column
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.scores.session import pool_of
from curate.settings import changed, gathered
from curate.students.fitting import TOKENS, Fitted, Sample, fit
from curate.students.lengths import Lengths
from curate.students.settings import PredictSettings

METHOD = "predicted"
LEAST = 50
"""Documents that can be learned from."""
_READS_FASTER = 20  # a student that reads text, than a proxy scores: so many more rows are worth a worker


def run(
    settings: PredictSettings | None = None,
    out: Path | str | None = None,
    *,
    workers: int | str = 1,
    executor: str | None = None,
    part: str | None = None,
    strict: bool = False,
    reporter: Reporter | None = None,
    **values: Any,
) -> Run:
    """Learn a finished run's scores, the teacher's, and predict those of a pool by reading it, or go on with that.

    The result is a run like any other, of the method `predicted`; what cross-validation says of the student is in its
    record. A predicted score is the normal score of a rank, moved so that 0 stays 0. `workers`, `executor`, `part` and
    `strict` are as for scoring. Raises CurateError.
    """
    refuse_place(out, "--out", stores=True)
    reporter, started = reporter or Silent(), time.time()
    settings = gathered(PredictSettings, settings, values)
    teacher = _teacher(settings)
    prediction = make_prediction(settings, teacher, reporter)
    reads_text = not any(students.get(name).needs_model for name in students.chosen(settings.student))
    device = "cpu" if reads_text else prediction.scoring.device
    choice = executors.choose(executor, workers=workers, device=device, part=part)
    place = open_folder(out if out is not None else f"{teacher.address.rstrip('/')}-{METHOD}").address
    Run.refuse_foreign(place)
    if open_folder(place).exists(Run.RECORD):
        prediction = replace(prediction, record=as_recorded(Run.open(place), prediction.record))
    details = {"versions": _versions(), "columns": prediction.columns, **prediction.split.details()}
    with Run.start(
        place, settings=prediction.record, fingerprints=prediction.fingerprints, details=details, job=choice.job
    ) as run:
        run.log.begin(**choice.told())
        with run.preparing(lambda: reporter.note(f"another job prepares {place}; this one waits for it.")):
            prediction.split.write(run.folder)
            reading = _learn(run, teacher, prediction, reporter)
        learned = time.time()
        rows = sum(shard.size or 0 for shard in prediction.pool.shards) / 1000 / (_READS_FASTER if reads_text else 1)
        worker = choice.make(rows=rows)
        opened = make_predicting(prediction, run.folder, reading) if worker.is_here else None
        work = worker.run(
            PredictWork(prediction=prediction, folder=run.folder, opened=opened), _left(run, prediction), run, reporter
        )
        log(run, work, worker.described(), learn=learned - started, predict=time.time() - learned)
        if is_to_finish(run, choice.job, lambda: _left(run, prediction), "predict", reporter):
            warn_of_mixed(run, reporter)
            run.finish(totals_of(run, prediction.pool, strict=strict, reporter=reporter))
    return run


def make_prediction(settings: PredictSettings, teacher: Run, reporter: Reporter) -> Prediction:
    """Resolve and check settings, open the pool, read the teacher's target. Raises CurateError."""
    students.chosen(settings.student)
    scored = ScoreSettings.from_record(teacher.located_settings)
    address = settings.pool or scored.pool
    if not address:
        raise SettingsError(f"{teacher.address} does not name a pool.", hint="Give --pool.")
    device = settings.device or scored.device
    scoring = changed(scored, pool=tuple(address), store=None, fit_from=None, check=None, device=device)
    pool = open_pool(list(address), txt_lines=scoring.fields.txt_lines)
    check_fields(pool, scoring.fields)
    if not pool.is_one_file:
        reporter.note(f"pool: {pool.listing}.")
    target = read_target(scoring.target, scoring.target_fields, group_by=scoring.group_by, pool_fields=scoring.fields)
    split = hold_out(target, scoring.holdout, scoring.seed, address=scoring.target)
    if split.fingerprints().get("target") != teacher.record.fingerprints.target:
        raise CurateError(
            f"The target's content has changed since {teacher.address} was scored.",
            hint="Score a sample by the changed target into another run first.",
        )
    columns = _columns(settings, target.group_names)
    frame = teacher.scores()
    schema = frame.collect_schema()
    if lacking := [c for c in columns if c not in schema]:
        raise CurateError(f"{teacher.address} has no column {lacking[0]}.", hint="Is it the run of that target?")
    sums = frame.select(pl.len(), *(pl.col(c).hash().sum() for c in ("content_hash", *columns))).collect().row(0)
    fingerprints = {
        "pool": pool.fingerprint(),
        **split.fingerprints(),
        "model": teacher.record.fingerprints.model,
        "fit": xxhash.xxh3_128_hexdigest(repr((teacher.record.fingerprints.pool, columns, sums)).encode()),
    }
    record = scoring.as_dict() | {
        "method": METHOD,
        "method_settings": settings.method_settings() | {"columns": list(columns)},
        "teacher": settings.teacher,
    }
    decides = as_json([record["method_settings"], asdict(scoring.fields), fingerprints])
    return Prediction(
        settings=settings,
        scoring=scoring,
        pool=pool,
        target=target,
        split=split,
        columns=columns,
        source=next((c for c in SOURCES if schema.get(c) == pl.String), None),
        record=record,
        fingerprints=fingerprints,
        kept=f"student/{xxhash.xxh3_64_hexdigest(repr(decides).encode())}",
    )


def _teacher(settings: PredictSettings) -> Run:
    teacher = Run.open(settings.teacher)
    if not teacher.is_finished:
        raise CurateError(f"{teacher.address} is not finished.", hint=f"curate score --continue {teacher.address}")
    return teacher


def _columns(settings: PredictSettings, groups: Sequence[str]) -> tuple[str, ...]:
    """Return the score columns to learn, `score` first. Raises SettingsError for one that the target does not give."""
    columns = ("score", *(group_column(group) for group in groups)) if len(groups) > 1 else ("score",)
    if unknown := [c for c in settings.columns if c not in columns]:
        raise SettingsError(
            f"columns names {unknown[0]!r}; the teacher has {', '.join(columns)}.", hint=nearest(unknown[0], columns)
        )
    return tuple(c for c in columns if c == "score" or not settings.columns or c in settings.columns)


def _versions() -> dict[str, str]:
    packages = ("numpy", "polars", "pyarrow")
    return {"curate": __version__} | {p: version(p) for p in packages}


def _left(run: Run, prediction: Prediction) -> Any:
    return unfinished(run, prediction.pool, prediction.scoring.fields, prediction.scoring.part_documents)


def _learn(run: Run, teacher: Run, prediction: Prediction, reporter: Reporter) -> Reading | None:
    """Keep the best student in a run's folder, and its figures in the run's record; return how it reads.

    None where the folder keeps one already."""
    settings = prediction.settings
    learned, reading = Learned.find(run.folder, prediction.kept), None
    tried: list[Fitted] = []
    if learned is None:
        lesson = _lesson(teacher, prediction, reporter)
        readings: dict[str, Reading] = {}
        lengths = Lengths.of(
            [d.plain_text for d in lesson.documents],
            lesson.frame["n_tokens"].to_numpy(),
            lesson.frame["truncated"].to_numpy(),
            None if prediction.scoring.long == "windows" else prediction.scoring.context or MAX_DEFAULT_CONTEXT,
        )
        for name in students.chosen(settings.student):
            with reporter.stage(f"learning {name}", total=len(lesson.documents)) as stage:
                readings[name] = open_reading(name, prediction.scoring, settings.layers)
                sample = lesson.sample(readings[name], lengths, prediction)
                tried.append(fit(name, sample, folds=settings.folds, seed=settings.seed, by_source=settings.by_source))
                stage.advance(len(lesson.documents))
        best = max(tried, key=lambda fitted: fitted.mean_spearman)
        learned, reading = Learned(fitted=best, lengths=lengths), readings[best.student]
        learned.keep(run.folder, prediction.kept)
        run.add_details(
            predicted={
                "student": best.student,
                "kept": prediction.kept,
                "documents": len(lesson.documents),
                "tried": {fitted.student: fitted.as_dict() for fitted in tried},
                "lengths": asdict(lengths),
            }
        )
    for column, figures in learned.fitted.figures.items():
        if figures.verdict:
            reporter.warn(f"{column}: {figures.verdict}")
    return reading


class _Lesson:
    """Documents of the teacher, with their rows of its scores."""

    def __init__(self, frame: pl.DataFrame, documents: list[Document]) -> None:
        self.frame, self.documents = frame, documents

    def sample(self, reading: Reading, lengths: Lengths, prediction: Prediction) -> Sample:
        """Return what a student learns from."""
        columns = {c: self.frame[c].cast(pl.Float64).to_numpy() for c in prediction.columns}
        if reading.encoder is None:
            texts = [lengths.read(d.plain_text) for d in self.documents]
            features, sizes = reading.read(texts), lengths_of(texts)
            columns[TOKENS] = np.log(self.frame["n_tokens"].to_numpy() / np.maximum(sizes, 1))
        else:
            encoded = reading.encoder(self.documents)
            features, sizes = reading.read(encoded), lengths_of([e.ids for e in encoded])
        return Sample(
            features=features,
            sizes=sizes,
            sources=[prediction.source_of(d) for d in self.documents],
            contents=[d.content_hash for d in self.documents],
            columns=columns,
        )


def _lesson(teacher: Run, prediction: Prediction, reporter: Reporter) -> _Lesson:
    """Draw documents of the teacher and read them again from its pool. Raises CurateError where they are gone."""
    settings, columns = prediction.settings, prediction.columns
    frame = teacher.scores().select("shard", "row", "content_hash", "n_tokens", "truncated", *columns).collect()
    frame = frame.filter(pl.all_horizontal(pl.col(c).is_finite() for c in columns)).sort("shard", "row")
    if len(frame) < LEAST:
        raise CurateError(
            f"{teacher.address} has {len(frame)} documents; expected at least {LEAST} to learn from.",
            hint="Score a larger sample.",
        )
    if len(frame) > settings.documents:
        drawn = np.random.default_rng([settings.seed, 4]).permutation(len(frame))[: settings.documents]
        frame = frame[np.sort(drawn)]
        reporter.note(f"{len(frame):,} documents of {teacher.address} are learned from, drawn by the seed.")
    is_same = prediction.fingerprints["pool"] == teacher.record.fingerprints.pool
    read = _read_again(prediction.pool if is_same else pool_of(teacher), prediction.scoring.fields, frame)
    if [d.content_hash for d in read] != frame["content_hash"].to_list():
        raise CurateError(
            f"The pool of {teacher.address} does not hold the documents that were scored.",
            hint="Their contents have changed: score a sample of the pool as it is now.",
        )
    return _Lesson(frame, read)


def _read_again(pool: Pool, fields: Fields, frame: pl.DataFrame) -> list[Document]:
    """Read rows of a pool, in the order of shards and rows that they have in a frame."""
    shards = {shard.name: shard for shard in pool.shards}
    rows = {name: part["row"].to_list() for (name,), part in frame.group_by("shard", maintain_order=True)}
    return [
        d
        for name, numbers in rows.items()
        if name in shards
        for d in documents(shards[str(name)], fields, only=numbers)
        if isinstance(d, Document)
    ]
