"""`curate predict`: learn a run's scores, and predict those of a whole pool by reading it."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._settings import continue_option, executor_options, given, part_option, place_of, settings_options
from curate.settings import build
from curate.students.settings import PredictSettings

if TYPE_CHECKING:
    from curate.pipeline.predict import PredictPlan
    from curate.scores.run import Run


@click.command(short_help="Learn a run's scores, and predict those of a whole pool by reading it.")
@click.argument("teacher", required=False, type=click.Path())
@settings_options(PredictSettings)
@continue_option
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.  [default: TEACHER-predicted]")
@executor_options
@part_option
@click.option("--strict", is_flag=True, help="A damaged shard is an error, once all others are done.")
@click.option("--dry-run", is_flag=True, help="Measure a small part, estimate the whole, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the run, its totals and the student's figures as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    teacher: str | None,
    out: Path | None,
    workers: str,
    executor: str | None,
    part: str | None,
    strict: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn the scores of TEACHER (default: the latest run), and predict those of a pool by reading it.

    \b
    curate predict runs/teacher --pool pile/ --out runs/predicted
    curate predict runs/teacher --pool pile/ --dry-run         # what will it take?
    curate predict runs/teacher --pool pile/ --student auto    # try all, take the best
    curate predict --continue runs/predicted                   # go on after a stop
    curate predict runs/teacher --pool pile/ --part 3/64       # an array job

    The teacher is a finished run of a few thousand documents or more. `words` reads text alone, at tens of megabytes
    a second; `embeddings` and `hidden` need the proxy. What is learned are the ranks of the better half, or all of them
    with `--learn ranks`, and the sign. The table says what cross-validation within the teacher's documents expects:
    rank correlation, and the share of the true best 5 % among the predicted best 5, 10 and 20 %, over all documents and
    within sources. `words` estimates n_tokens from each text's length, by what it has learned of tokens per character.
    """
    from curate.cli._output import RichReporter, loading, planned
    from curate.cli._runs import chosen_run
    from curate.cli._settings import RECORD

    out = place_of(ctx, out, teacher)
    values = given(ctx, PredictSettings, options)
    if RECORD not in ctx.meta or teacher:
        values["teacher"] = chosen_run(teacher).address
    settings = build(PredictSettings, values, owner="A prediction")
    with loading():
        from curate.pipeline import predict
    if dry_run:
        _print_plan(planned(predict.plan, settings, workers=workers, executor=executor), as_json)
        return
    with RichReporter() as reporter:
        how = {"workers": workers, "executor": executor, "part": part, "strict": strict}
        run = predict.run(settings, out, **how, reporter=reporter)
    _print(run, as_json)


def _print_plan(plan: "PredictPlan", as_json: bool) -> None:
    from curate.amounts import duration
    from curate.cli._output import print_plan

    rows: list[tuple[str, Any]] = [
        ("documents of the pool, about", plan.documents),
        ("student", plan.student),
        ("documents to learn from", plan.learned_from),
        ("time to learn, about", duration(plan.learn_seconds)),
        ("documents a second and worker, measured", round(plan.documents_per_second)),
        ("workers", plan.workers),
        ("time to predict, of one worker, about", duration(plan.predict_seconds)),
        ("time, about", duration(plan.seconds)),
    ]
    print_plan(plan, rows, as_json=as_json)


def _print(run: "Run", as_json: bool) -> None:
    from curate.amounts import counted
    from curate.cli._output import SHOWN, print_json, print_rows, print_table, stderr, stdout
    from curate.reports.writing import percent
    from curate.scores.best import best_rows

    told, totals = run.record.of_method, run.totals or {}
    if as_json:
        summary = {"run": run.address, "finished": run.is_finished, "columns": run.record.details.columns}
        print_json({**summary, **totals, "predicted": told})
        return
    names = ("student", "column", "documents", "spearman", "best 5 % in 5 %", "in 10 %", "in 20 %")
    lines = [
        (name, column, documents, f[spearman], *map(percent, f[recall]))
        for name, fitted in told["tried"].items()
        for column, f in fitted["figures"].items()
        for documents, spearman, recall in (
            ("all", "spearman", "recall"),
            ("within sources", "within_spearman", "within_recall"),
        )
        if f[recall]
    ]
    print_table(names, lines, title=f"cross-validated on {told['documents']:,} documents")
    if not totals:  # one of several jobs, of which another is the last
        return
    print_rows([*SHOWN.values()], best_rows(run, [*SHOWN], 5))
    stdout.print(
        f"{counted(totals['documents'], 'document')} predicted by {told['student']!r} in {run.address}", soft_wrap=True
    )
    for reason, count in totals["skipped"].items():
        stdout.print(f"{counted(count, 'row')} set aside: {reason}", soft_wrap=True)
    path = shlex.quote(run.address)
    stderr.print(f"next: curate report {path}   or   curate select {path} --top 5%", soft_wrap=True, style="dim")
