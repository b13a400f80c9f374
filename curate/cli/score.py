"""`curate score`: measure the influence of every document of a pool on a target."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._methods import MethodCommand
from curate.cli._settings import continue_option, executor_options, given, part_option, place_of, settings_options
from curate.score_settings import ScoreSettings

if TYPE_CHECKING:
    from curate.pipeline.estimate import ScorePlan
    from curate.reports.report import Judged
    from curate.scores.run import Run


@click.command(cls=MethodCommand)
@settings_options(ScoreSettings)
@continue_option
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/TARGET-METHOD]")
@executor_options
@part_option
@click.option(
    "--strict",
    is_flag=True,
    help="A damaged shard is an error, once all others are done; a damaged file of the target at once.",
)
@click.option("--dry-run", is_flag=True, help="Measure a small part, estimate the whole, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the run and its totals as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    out: Path | None,
    workers: str,
    executor: str | None,
    part: str | None,
    strict: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score every document of a pool by its influence on a target.

    A score above 0 means: more weight on this document lowers the target's loss. The run's folder holds a Parquet row
    per document, for `curate sql`, `curate report` and `curate select`.

    \b
    curate score --target val.jsonl --pool pile/                          # into runs/val-relatif
    curate score --target val.jsonl --pool pile/ --dry-run                # what will it take?
    curate score --continue runs/val-relatif                              # go on after a stop
    curate score --target val.jsonl --pool 'shards/*.jsonl.zst' --model proxy/ --out runs/x
    curate score --target val.jsonl --pool pile/ --holdout 30%            # keep rows for `curate verify`
    curate score --target tasks.jsonl --group-by task --pool pile/        # a score per task
    curate score --target val.jsonl --pool pile/ --method bm25 --workers 8
    curate score --target val.jsonl --pool pile/ --method ekfac --refine cg --background 1000
    curate score --target val.jsonl --pool pile/ --method ekfac --against web.jsonl --per-token
    curate score --target val.jsonl --pool pile/ --method magic --background 4096 --recipe finetune.yaml
    curate score --target val.jsonl --store stores/pile                   # from `curate index`, in seconds
    curate score --fit-from runs/x --pool grown-pile/ --out runs/x-grown  # only the new shards
    curate score --target val.jsonl --pool pile/ --method magic --sample 20000   # a seeded sample of the pool
    curate score --target val.jsonl --pool pile/ --only runs/val-bm25 --top 20%  # the best of a cheap run
    curate score --target val.jsonl --pool pile/ --out runs/x --part 3/64 # an array job; Slurm: --executor array
    curate score --config score.yaml

    A run that was stopped loses at most one part: the same command, or --continue, goes on. A short judgement of the
    ranking is printed at the end; `curate report` gives the long one.
    """
    from curate.cli._output import RichReporter, planned, print_alarm
    from curate.cli._trust import judged, short
    from curate.pipeline import score
    from curate.scores.arithmetic import arithmetic_warning
    from curate.scores.counts import lost_rows

    out = place_of(ctx, out)
    settings = ScoreSettings.of(given(ctx, ScoreSettings, options))
    if dry_run:
        _print_plan(planned(score.plan, settings), as_json)
        return
    with RichReporter() as reporter:
        how = {"workers": workers, "executor": executor, "part": part, "strict": strict}
        run = score.run(settings, out, **how, reporter=reporter)
        trust = judged(run, reporter)
    if as_json:
        from curate.cli._output import print_json

        arithmetic = run.record.json["details"].get("arithmetic")
        summary = {"run": run.address, "finished": run.is_finished, "columns": run.record.details.columns}
        print_json({**summary, "arithmetic": arithmetic, **(run.totals or {}), "trust": short(trust)})
    elif run.is_finished:
        _print(run, trust)
    lost = lost_rows(run.totals) if run.totals else None  # one of several jobs may leave the end to others
    for warning in (arithmetic_warning(run.record.details), lost):
        if warning:
            print_alarm(warning)


def _print_plan(plan: "ScorePlan", as_json: bool) -> None:
    from curate.amounts import duration, size
    from curate.cli._output import print_plan

    rows: list[tuple[str, Any]] = [
        ("documents to score, about", plan.documents),
        ("their tokens, about", plan.tokens),
        ("documents a second, measured", round(plan.documents_per_second)),
        ("time to prepare, about", duration(plan.prepare_seconds)),
        *([("time to check, about", duration(plan.check_seconds))] if plan.check_seconds else []),
        ("time to score, about", duration(plan.scoring_seconds)),
        ("disk that is kept for later runs", size(plan.kept_bytes)),
        ("disk in all", size(plan.disk_bytes)),
        ("memory, measured on the small part", size(plan.memory_bytes)),
    ]
    if plan.training is not None:
        rows += plan.training.rows().items()
    print_plan(plan, rows, as_json=as_json)


def _print(run: "Run", trust: "Judged | None") -> None:
    from curate.amounts import counted
    from curate.cli._output import SHOWN, print_rows, stderr, stdout
    from curate.cli._trust import print_trust
    from curate.scores.best import best_rows
    from curate.scores.narrowing import narrowed_note

    totals = run.totals or {}
    best, worst = best_rows(run, [*SHOWN], 5), best_rows(run, [*SHOWN], 2, order="worst")[::-1]
    rows = [*best, *(row for row in worst if row not in best)]  # a small pool's ends overlap
    print_rows([*SHOWN.values()], rows)
    stdout.print(
        f"{counted(totals['documents'], 'document')}, {counted(totals['tokens'], 'token')} scored in {run.address}",
        soft_wrap=True,
    )
    if note := narrowed_note(run.record):
        stdout.print(f"of {note}; {counted(totals['passed_over'], 'row')} passed over", soft_wrap=True)
    for reason, count in totals["skipped"].items():
        stdout.print(f"{counted(count, 'row')} set aside: {reason}", soft_wrap=True)
    if trust:
        print_trust(trust)
    path = shlex.quote(run.address)
    next_ = f"next: curate report {path}   or   curate select {path} --top 5%   or   curate sql {path}"
    stderr.print(next_, soft_wrap=True, style="dim")
