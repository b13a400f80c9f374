"""Predicting the scores of a pool from those of a sample that were computed."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import xxhash

from curate import __version__, executors, students
from curate.amounts import counted, duration, rounded
from curate.documents import check_fields, documents, hold_out, open_pool, read_target, rows_of_all
from curate.documents.located import as_recorded
from curate.errors import CurateError, SettingsError, nearest
from curate.executors import Choice
from curate.executors.chunks import SpanRows
from curate.executors.helpful import at_once
from curate.executors.reading import unfinished
from curate.folders.local import open_folder, refuse_place
from curate.folders.parts import Span
from curate.folders.record import as_json
from curate.pipeline.ending import is_to_finish, log, totals_of, warn_of_mixed
from curate.pipeline.lesson import Lesson, lesson_of
from curate.pipeline.predicting import (
    SOURCES,
    Learned,
    Predicting,
    Prediction,
    PredictWork,
    Reading,
    make_predicting,
    open_reading,
    predicting_by,
)
from curate.progress import Reporter, Silent
from curate.schema import group_column
from curate.score_settings import ScoreSettings
from curate.scores.run import Run
from curate.settings import changed, gathered
from curate.students.fitting import Fitted, fit
from curate.students.settings import PredictSettings

METHOD = "predicted"
_MEASURED = 512  # documents that a plan learns from
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
    record. A predicted score has the order, and the sign, that the document's score is expected to have. `workers`,
    `executor`, `part` and `strict` are as for scoring. Raises CurateError.
    """
    refuse_place(out, "--out")
    reporter, started = reporter or Silent(), time.time()
    settings = gathered(PredictSettings, settings, values)
    teacher = _teacher(settings)
    prediction = make_prediction(settings, teacher, reporter)
    choice = _choice(prediction, workers, executor, part)
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
        rows = sum(shard.size or 0 for shard in prediction.pool.shards) / 1000
        worker = choice.make(rows=_worth(prediction, rows))
        opened = make_predicting(prediction, run.folder, reading) if worker.is_here else None
        work = worker.run(
            PredictWork(prediction=prediction, folder=run.folder, opened=opened), _left(run, prediction), run, reporter
        )
        log(run, work, worker.described(), learn=learned - started, predict=time.time() - learned)
        if is_to_finish(run, choice.job, lambda: _left(run, prediction), "predict", reporter):
            warn_of_mixed(run, reporter)
            run.finish(totals_of(run, prediction.pool, strict=strict, reporter=reporter))
    return run


@dataclass(frozen=True, kw_only=True)
class PredictPlan:
    """The cost of a prediction, known before it starts."""

    documents: int
    """Rows of the pool, estimated from the files' sizes where they do not tell."""
    student: str
    learned_from: int
    """Documents of the teacher."""
    learn_seconds: float
    """Measured on some of these documents and scaled, for all students that are tried."""
    documents_per_second: float
    """Of one worker, reading included, measured."""
    predict_seconds: float
    """Of one worker."""
    workers: int | str
    at_once: int
    """How many of the workers make headway at a time."""
    seconds: float
    """Learning, then predicting with so many workers at a time."""

    @property
    def sentence(self) -> str:
        """Say the totals."""
        workers = "" if self.at_once == 1 else f" with {self.at_once} workers at a time"
        return (
            f"Learning from {counted(self.learned_from, 'document')} and predicting about {rounded(self.documents)}"
            f" takes about {duration(self.seconds)}{workers}."
        )


def plan(
    settings: PredictSettings | None = None,
    *,
    workers: int | str = 1,
    executor: str | None = None,
    reporter: Reporter | None = None,
    **values: Any,
) -> PredictPlan:
    """Say what a prediction will take, from a small part of it that is done; nothing is written."""
    settings = gathered(PredictSettings, settings, values)
    teacher = _teacher(settings)
    prediction = make_prediction(settings, teacher, reporter or Silent())
    small = replace(prediction, settings=changed(settings, documents=min(_MEASURED, settings.documents)))
    begun = time.perf_counter()
    lesson = lesson_of(teacher, small, Silent())
    drawn = time.perf_counter()
    learned, readings = _taught(lesson, small, Silent())
    taught = time.perf_counter()
    learned_from = min(settings.documents, teacher.scores().select(pl.len()).collect().item())
    rows = round(rows_of_all(prediction.pool.shards))
    predicting = predicting_by(learned, prediction, readings[learned.fitted.student])
    each = _seconds_each(predicting, prediction, lesson)
    choice = _choice(prediction, workers, executor)
    described = choice.make(rows=_worth(prediction, rows)).described()["workers"]
    together = at_once(described, choice.resources.device) if isinstance(described, int) else 1
    learn = drawn - begun + (taught - drawn) * learned_from / len(lesson.documents)
    return PredictPlan(
        documents=rows,
        student=settings.student,
        learned_from=learned_from,
        learn_seconds=learn,
        documents_per_second=1 / each,
        predict_seconds=rows * each,
        workers=described,
        at_once=together,
        seconds=learn + rows * each / together,
    )


def _seconds_each(predicting: Predicting, prediction: Prediction, lesson: Lesson) -> float:
    """Return the seconds in which a document is read and predicted, measured."""
    begun = time.perf_counter()
    (*_,) = islice(documents(prediction.pool.shards[0], prediction.scoring.fields), len(lesson.documents))
    span = Span(shard="", shard_index=0, index=0, start=0, end=len(lesson.documents), last=True)
    predicting(predicting.encode(SpanRows(span=span, rows=lesson.documents)))
    return (time.perf_counter() - begun) / len(lesson.documents)


def _reads_text(prediction: Prediction) -> bool:
    return not any(students.get(name).needs_model for name in students.chosen(prediction.settings.student))


def _choice(prediction: Prediction, workers: int | str, executor: str | None, part: str | None = None) -> Choice:
    device = "cpu" if _reads_text(prediction) else prediction.scoring.device
    return executors.choose(executor, workers=workers, device=device, part=part)


def _worth(prediction: Prediction, rows: float) -> float:
    """Return how many rows' worth of scoring the prediction of some rows is."""
    return rows / (_READS_FASTER if _reads_text(prediction) else 1)


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
    sums = frame.select(pl.len(), *(pl.col(c).hash().sum() for c in ("content_hash", *columns)))
    sums = sums.collect(engine="streaming").row(0)
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
    if teacher.record.method == METHOD:
        first = teacher.located_settings["teacher"]
        raise SettingsError(
            f"{teacher.address} is itself predicted, from {first}: it would teach a student another's errors.",
            hint=f"Name the run that was scored: curate predict {first}",
        )
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
    learned, reading = Learned.find(run.folder, prediction.kept), None
    if learned is None:
        lesson = lesson_of(teacher, prediction, reporter)
        learned, readings = _taught(lesson, prediction, reporter)
        reading = readings[learned.fitted.student]
        learned.keep(run.folder, prediction.kept)
    run.add_details(predicted=learned.told() | {"kept": prediction.kept})
    for column, figures in learned.fitted.figures.items():
        if figures.verdict:
            reporter.warn(f"{column}: {figures.verdict}")
    return reading


def _taught(lesson: Lesson, prediction: Prediction, reporter: Reporter) -> tuple[Learned, dict[str, Reading]]:
    """Return the best of the students that learned the lesson, and how each reads."""
    settings, readings, tried = prediction.settings, dict[str, Reading](), list[Fitted]()
    lengths = lesson.lengths(prediction.scoring)
    for name in students.chosen(settings.student):
        with reporter.stage(f"learning {name}", total=len(lesson.documents)) as stage:
            readings[name] = open_reading(name, prediction.scoring, settings.layers)
            sample = lesson.sample(readings[name], lengths, prediction)
            how = {"folds": settings.folds, "seed": settings.seed, "by_source": settings.by_source}
            tried.append(fit(name, sample, learn=settings.learn, **how))
            stage.advance(len(lesson.documents))
    best = max(tried, key=lambda fitted: fitted.merit(settings.learn))
    told = {fitted.student: fitted.as_dict() for fitted in tried}
    return Learned(fitted=best, lengths=lengths, documents=len(lesson.documents), tried=told), readings
