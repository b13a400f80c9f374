"""Report: judge a run before its scores are trusted.

from curate.reports.report import report

written = report(["runs/x", "runs/y"], out="report.html")
[f.says for f in written.runs[0].findings if f.level != "fine"]
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from curate.errors import CurateError
from curate.folders.local import path_or_url, put_text_file, refuse_other_file, refuse_place
from curate.folders.record import as_json
from curate.progress import Reporter, Silent
from curate.reports.between import compare, sampled_by
from curate.reports.excerpts import excerpts
from curate.reports.figures import Figures, Pair
from curate.reports.finding import Finding
from curate.reports.measure import measure
from curate.reports.page import MADE_HERE, page
from curate.reports.summary import Summary, summary, verifications
from curate.reports.verdicts import findings, judge_pair
from curate.scores.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One run's figures and findings."""

    figures: Figures
    findings: tuple[Finding, ...]
    summary: Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Runs, one by one and in pairs."""

    runs: tuple[Judged, ...]
    pairs: tuple[tuple[Pair, Finding], ...]
    out: Path | str | None

    def record(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return as_json(
            {
                "out": None if self.out is None else str(self.out),
                "runs": [asdict(r) for r in self.runs],
                "between": [{**asdict(pair), "finding": asdict(finding)} for pair, finding in self.pairs],
            }
        )


def judge(run: Run, *, by: str | None = None) -> Judged:
    """Measure and judge one run, without reading the pool."""
    figures = measure(run, by=by)
    judgements = findings(figures)
    return Judged(figures=figures, findings=judgements, summary=summary(figures, judgements, verifications(run)))


def report(
    runs: Run | str | Path | Sequence[Run | str | Path],
    *,
    out: Path | str | None = None,
    by: str | None = None,
    pool: Sequence[str] | None = None,
    texts: bool = True,
    reporter: Reporter | None = None,
) -> Report:
    """Measure and judge runs; write the page to `out`, if given.

    `by`: the column whose values are compared, by default `source`, else the shard. `pool`: where the pool is now, if
    it has moved; its documents at both ends of the ranking are read unless `texts` is false. Raises CurateError for a
    run without scores, and where `out` is a file that no report wrote.
    """
    refuse_place(out, "--out")
    reporter = reporter or Silent()
    given_runs = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    opened = [run if isinstance(run, Run) else Run.open(run) for run in given_runs]
    if not opened:
        raise CurateError("No run was given; expected at least one.")
    path = None
    if out is not None:
        refuse_other_file(out, MADE_HERE, option="--out", example="report.html", problem="no report wrote it")
        path = path_or_url(out)
    judged_runs = []
    with reporter.stage("report", total=len(opened), unit="runs") as stage:
        for run in opened:
            judged_run = judge(run, by=by)
            if path is not None:
                columns, by_column = [s.column for s in judged_run.figures.scores], judged_run.figures.by
                ends, note = excerpts(run, columns, by=by_column, pool=pool, texts=texts, reporter=reporter)
                judged_run = replace(judged_run, figures=replace(judged_run.figures, excerpts=ends, texts_note=note))
            judged_runs.append(judged_run)
            stage.advance(1)
    pairs = tuple((pair, judge_pair(pair)) for pair in compare(opened)) if len(opened) > 1 else ()
    if path is not None:
        html = page(
            [(j.figures, j.findings, j.summary) for j in judged_runs],
            pairs,
            compared_on=sampled_by(opened) if pairs else 1,
        )
        put_text_file(path, html)
    return Report(runs=tuple(judged_runs), pairs=pairs, out=path)
