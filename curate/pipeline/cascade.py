"""A cascade: a sample is scored, a student learns from it and predicts all, and the predicted best are scored exactly.

OUT                 the run of the predicted best, exact: what is selected from
OUT/teacher         the run of the sample
OUT/predicted       the run of all documents, predicted
OUT/cascade.json    the settings, and what was expected once the student had learned
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curate import students
from curate.amounts import duration, portion_of, portion_text, rounded
from curate.documents import rows_of_all
from curate.documents.located import ADDRESSES, same_places
from curate.errors import CurateError, SettingsError
from curate.folders.folder import Folder, put_json, read_json
from curate.folders.local import is_in_store, open_folder, refuse_place
from curate.folders.record import as_json, decisive, differences
from curate.pipeline import predict, score, select
from curate.pipeline.continuing import CASCADE, begun_with, recorded_values
from curate.pipeline.predicting import Learned, open_reading
from curate.pipeline.request import first_documents, open_candidates
from curate.pipeline.settings import KEEP, CascadeSettings
from curate.pipeline.token_view import view_by
from curate.pipeline.workspace import overlap_with
from curate.progress import Reporter, Silent
from curate.score_settings import default_out
from curate.scores.narrowing import ranking_columns
from curate.scores.run import Run
from curate.secrets import addresses_without_secrets
from curate.selection.dump import MANIFEST, check_form, refuse_taken
from curate.selection.formats import MEGATRON
from curate.selection.selection import Selection
from curate.selection.values import parse_top
from curate.settings import gathered
from curate.students.judging import LeftOut

LEARNED_FROM = 20_000
"""Documents at most; of a larger sample some are drawn."""
_TIMED = 64  # documents of each of a few shards that a plan reads


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is expected to be kept of the true best by one score column, by cross-validation."""

    recall: float
    at_least: float
    """With a confidence of 95 %, by how many documents that is of."""
    within: float | None
    """Among the documents of one source; None where no two sources have enough."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the exact stage takes, and what it is expected to keep."""

    keep: float
    """The predicted best of every column: a share of the pool, or a number."""
    columns: tuple[str, ...]
    """By any of them a document has to be among the best."""
    documents: int
    of: int
    seconds: float
    """At the pace at which the sample was scored."""
    kept: Mapping[str, Kept]
    """By score column."""


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """The runs of a cascade."""

    teacher: Run
    predicted: Run
    exact: Run
    expected: Expected
    selection: Selection | None


@dataclass(frozen=True, kw_only=True)
class CascadePlan:
    """What a cascade will take, known before it starts; what it keeps is known once a student has learned."""

    rows: int
    """Of the pool, estimated."""
    sample: int
    student: str
    keep: float | None
    """None: chosen by recall, once the student has learned."""
    exact: int | None
    prepare_seconds: float
    sample_seconds: float
    predict_seconds: float
    exact_seconds: float | None
    seconds: float
    """All stages, but for one whose size is not known yet; without learning."""
    full_seconds: float
    """Of scoring every document."""

    @property
    def sentence(self) -> str:
        """Say the totals."""
        rest = "" if self.exact_seconds is not None else ", and what the exact stage takes, whose size is learned"
        return (
            f"The cascade over about {rounded(self.rows)} documents takes about {duration(self.seconds)}{rest};"
            f" scoring all of them about {duration(self.full_seconds)}."
        )


def run(
    settings: CascadeSettings | None = None,
    out: Path | str | None = None,
    *,
    workers: int | str = 1,
    executor: str | None = None,
    strict: bool = False,
    select_into: Path | str | None = None,
    format: str = "arrow",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **values: Any,
) -> Cascade:
    """Score a sample, learn to predict the rest of the pool, and score its predicted best exactly; or go on with that.

    Every stage is an ordinary run, and `out` is the last one's. With `select_into` the best `top` are written there; a
    cascade that goes on without it writes them where it was begun to.
    `workers`, `executor` and `strict` are as for scoring. Raises CurateError.
    """
    refuse_place(out, "--out")
    reporter, settings = reporter or Silent(), gathered(CascadeSettings, settings, values)
    if select_into is not None:  # before hours of scoring
        refuse_place(select_into, "--select")
        view = view_by(settings) if format == MEGATRON else None
        check_form(format, view)
        refuse_taken(select_into, overwrite=overwrite, option="--select")
    place = open_folder(out if out is not None else f"{default_out(settings.scoring())}-cascade")
    Run.refuse_foreign(place.address)
    selecting = None if select_into is None else {"into": _lasting(select_into), "format": format}
    begun = _begin(place, settings, selecting)
    where = place.address.rstrip("/")
    how: dict[str, Any] = {"workers": workers, "executor": executor, "strict": strict, "reporter": reporter}
    teacher, predicted = _narrow(settings, where, reporter, how)
    expected = expect(settings, teacher, predicted)
    put_json(place, CASCADE, begun | {"expected": as_json(asdict(expected))})
    _tell(settings, expected, where, reporter)
    exact = score.run(settings.scoring(only=predicted.address, top=expected.keep, group=settings.group), where, **how)
    selection = None
    if (chosen := begun.get("selecting")) is not None and (selecting is not None or not _is_selected(chosen, reporter)):
        wanted = _wanted(settings, expected) | {"out": select_into or chosen["into"], "format": chosen["format"]}
        selection = select.run(exact, overwrite=overwrite, reporter=reporter, **wanted)
    return Cascade(teacher=teacher, predicted=predicted, exact=exact, expected=expected, selection=selection)


def _narrow(settings: CascadeSettings, where: str, reporter: Reporter, how: Mapping[str, Any]) -> tuple[Run, Run]:
    """Score the sample and predict the pool, or what is left of both."""
    sample, student = portion_text(settings.sample), settings.student
    counted = "" if isinstance(settings.sample, float) else " documents"
    scores = f"{settings.method} scores a sample, {sample}{counted} of the pool"
    reporter.note(f"stage 1 of 3: {scores}, into {where}/teacher.")
    teacher = score.run(settings.scoring(sample=settings.sample), f"{where}/teacher", **how)
    learned = f"{student} learns from {(teacher.totals or {})['documents']:,} documents"
    reporter.note(f"stage 2 of 3: {learned}, and predicts the pool's scores, into {where}/predicted.")
    predicted = predict.run(
        teacher=teacher.address,
        student=student,
        by_source=settings.by_source,
        seed=settings.seed,
        documents=LEARNED_FROM,
        out=f"{where}/predicted",
        **how,
    )
    return teacher, predicted


def plan(settings: CascadeSettings | None = None, *, reporter: Reporter | None = None, **values: Any) -> CascadePlan:
    """Say what a cascade will take, from a small part that is done; nothing is written."""
    reporter, settings = reporter or Silent(), gathered(CascadeSettings, settings, values)
    of_sample = score.plan(settings.scoring(sample=settings.sample), reporter=reporter)
    pool = open_candidates(settings, Silent())
    rows = round(rows_of_all(pool.shards))
    reading = rows * max(_seconds_of_reading(name, settings) for name in students.chosen(settings.student))
    each = of_sample.scoring_seconds / max(1, of_sample.documents)
    keep = None if settings.recall is not None else settings.keep or KEEP
    exact = None if keep is None else min(rows, portion_of(keep, rows) * max(1, len(settings.group)))
    seconds = None if exact is None else exact * each
    return CascadePlan(
        rows=rows,
        sample=of_sample.documents,
        student=settings.student,
        keep=keep,
        exact=exact,
        prepare_seconds=of_sample.prepare_seconds,
        sample_seconds=of_sample.scoring_seconds,
        predict_seconds=reading,
        exact_seconds=seconds,
        seconds=of_sample.seconds + reading + (seconds or 0),
        full_seconds=of_sample.prepare_seconds + rows * each,
    )


def expect(settings: CascadeSettings, teacher: Run, predicted: Run) -> Expected:
    """Choose how many documents are scored exactly, and say what cross-validation expects of that."""
    learned = Learned.find(predicted.folder, predicted.record.of_method["kept"])
    if learned is None:
        raise CurateError(f"{predicted.address} does not keep its student.", hint="Predict again into another folder.")
    left_out, of = learned.fitted.left_out, (predicted.totals or {})["documents"]
    columns = ranking_columns(predicted, settings.group)
    judged = tuple(dict.fromkeys(("score", *columns))) if not settings.group else columns
    top = portion_of(settings.top, of) / of
    keep = settings.keep or KEEP
    if settings.recall is not None:
        needed = left_out.share_needed(judged, columns, top, settings.recall)
        keep = max(top, math.ceil(needed * of - 1e-6) / of)  # whole documents, so that rounding takes none
    share = portion_of(keep, of) / of
    documents = min(of, round(left_out.share_kept(columns, share) * of))
    paced = sum(line.get("seconds", {}).get("score", 0.0) for line in teacher.log.lines())
    return Expected(
        keep=keep,
        columns=columns,
        documents=documents,
        of=of,
        seconds=paced / (teacher.totals or {})["documents"] * documents,
        kept={column: _kept(left_out, column, columns, top, share) for column in judged},
    )


def _kept(left_out: LeftOut, column: str, columns: Sequence[str], top: float, share: float) -> Kept:
    within = left_out.recall_within(column, columns, top, share)
    return Kept(
        recall=round(left_out.recall(column, columns, top, share), 4),
        at_least=round(left_out.recall_at_least(column, columns, top, share), 4),
        within=None if within is None else round(within, 4),
    )


def _tell(settings: CascadeSettings, expected: Expected, where: str, reporter: Reporter) -> None:
    """Say what the exact stage takes and keeps, before it begins."""
    of_each = f", of each of {', '.join(expected.columns)}" if len(expected.columns) > 1 else ""
    reporter.note(
        f"stage 3 of 3: {settings.method} scores the predicted best {portion_text(expected.keep)}{of_each}, about"
        f" {expected.documents:,} of {expected.of:,} documents, into {where}: about {duration(expected.seconds)} at the"
        " pace of the sample."
    )
    for column, kept in expected.kept.items():
        within = "" if kept.within is None else f"; within sources {kept.within:.0%}"
        reporter.note(
            f"expected to be among them, of the true best {portion_text(settings.top)} by {column}: {kept.recall:.0%}"
            f" (at least {kept.at_least:.0%}){within}."
        )
    if expected.documents > expected.of / 2:
        reporter.warn(
            f"{expected.documents / expected.of:.0%} of the pool are to be scored exactly: the student finds too little"
            " to spare much. --student auto, a larger --sample or a lower --recall may."
        )


def _wanted(settings: CascadeSettings, expected: Expected) -> dict[str, Any]:
    """Return how `select` chooses the best that are wanted."""
    if len(settings.group) > 1:
        groups = {"groups": ",".join(expected.columns)}
        return {"filters": [("round_robin", {**parse_top(settings.top), **groups})]}
    group = expected.columns[0] if settings.group and expected.columns != ("score",) else None
    return {"top": settings.top, "group": group and group.removeprefix("score_")}


def _lasting(place: Path | str) -> str:
    """Return an address that means the same from every working folder."""
    return str(place) if is_in_store(place) else os.path.abspath(place)


def _is_selected(selecting: Mapping[str, str], reporter: Reporter) -> bool:
    """Return, and say, whether an earlier start has written the selection."""
    if not open_folder(selecting["into"]).exists(MANIFEST):
        return False
    reporter.note(f"{selecting['into']} holds the selection already.")
    return True


def _begin(place: Folder, settings: CascadeSettings, selecting: Mapping[str, str] | None) -> dict[str, Any]:
    """Write down what a cascade is begun with. Raises SettingsError where its folder was begun with other settings."""
    chosen = {} if selecting is None else {"selecting": dict(selecting)}
    if not place.exists(CASCADE):
        if place.exists(Run.RECORD):
            raise SettingsError(f"{place.address} holds a run that is no cascade's.", hint="Give another --out.")
        content = begun_with("cascade", addresses_without_secrets(as_json(asdict(settings)))) | chosen
        put_json(place, CASCADE, content)
        return content
    _, had = recorded_values(place.address)
    now = asdict(settings)
    now |= {n: had.get(n) for n in ADDRESSES if now.get(n) and same_places(now[n], had.get(n))}
    if lines := differences(decisive(as_json(had)), decisive(now), had="the cascade has"):
        raise SettingsError(
            f"{place.address} was started with other settings:\n  " + "\n  ".join(lines),
            hint="Give another folder with --out, or the same settings to continue this cascade.",
        )
    content = read_json(place, CASCADE) | chosen
    put_json(place, CASCADE, content)
    return content


def _seconds_of_reading(name: str, settings: CascadeSettings) -> float:
    """Return the seconds in which a student reads a document, measured on some of the pool's first."""
    reading, pool = open_reading(name, settings.scoring()), open_candidates(settings, Silent())
    overlap, begun = overlap_with(None), time.perf_counter()
    documents = first_documents(pool, settings.fields, _TIMED)
    texts = [d.plain_text for d in documents]
    overlap.measure_all(texts)
    reading.read(texts if reading.encoder is None else reading.encoder(documents))
    return (time.perf_counter() - begun) / max(1, len(documents))
