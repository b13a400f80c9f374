"""`curate rescore`: score a run's best documents again, by differentiating through training on them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._settings import RECORD, continue_option, given, place_of, settings_options
from curate.rescoring.settings import RescoreSettings
from curate.settings import build

if TYPE_CHECKING:
    from curate.rescoring.plan import RescorePlan
    from curate.scores.run import Run


@click.command(short_help="Score a run's best documents again, by differentiating through training.")
@click.argument("run", required=False, type=click.Path())
@settings_options(RescoreSettings)
@continue_option
@click.option("--out", type=click.Path(path_type=Path), help="The rescored run's folder.  [default: RUN-magic]")
@click.option("--dry-run", is_flag=True, help="Estimate the cost from one measured step, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the measurements as JSON.")
@click.pass_context
def command(
    ctx: click.Context, /, run: str | None, out: Path | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Rescore the best documents of RUN (default: the latest) by differentiating through training on them.

    \b
    curate rescore runs/x --shortlist 5000 --dry-run           # what will it take?
    curate rescore runs/x --shortlist 5000 --recipe examples/magic/finetune.yaml --out runs/x-magic
    curate rescore runs/x --from runs/y --repeats 3 --set learning_rate=5e-5 --set epochs=3
    curate rescore runs/x --config examples/magic/finetune.yaml
    curate rescore --continue runs/x-magic                     # go on after a stop

    The proxy is trained on the shortlist and as many other documents of the pool; a document's score is how much
    more weight on it during that training would have lowered the target's loss afterwards. The result is a run of
    the shortlist alone: `score` from its own training, `score_adjoint` from a step in its middle, `score_spread`
    over the repeats. --config takes options and the recipe's settings side by side.
    """
    from curate.cli._output import RichReporter, loading, planned, print_json
    from curate.cli._runs import chosen_run

    out = place_of(ctx, out, run)
    values = given(ctx, RescoreSettings, options)
    more = values.get("runs", ())
    first = () if run is None and RECORD in ctx.meta else (chosen_run(run).address,)  # a record names all runs
    values["runs"] = (*first, *([more] if isinstance(more, str) else more))
    settings = build(RescoreSettings, values, owner="A rescoring")
    with loading():
        from curate.pipeline import rescore
    if dry_run:
        _print_plan(planned(rescore.plan, settings), as_json)
        return
    with RichReporter() as reporter:
        rescored = rescore.run(settings, out, reporter=reporter)
    if as_json:
        details = rescored.record.json["details"]
        print_json({"run": rescored.address, **rescored.record.of_method, "moved": details["moved"]})
    else:
        _print(rescored)


def _print_plan(plan: "RescorePlan", as_json: bool) -> None:
    from curate.amounts import duration, size
    from curate.cli._output import print_plan

    rows: list[tuple[str, Any]] = [
        ("documents of the shortlist", plan.shortlist),
        ("documents beside them", plan.background),
        ("trainings", plan.repeats),
        ("steps of each", plan.steps),
        ("tokens of each", plan.tokens),
        ("ways back of each, one per group", plan.groups),
        ("retrainings of the check", plan.check),
        *([("learning rates tried", plan.rates)] if plan.rates > 1 else []),
        ("seconds of a step, measured", plan.step_seconds),
        ("seconds of a step back, measured", plan.step_back_seconds),
        ("time, about", duration(plan.seconds)),
        ("disk at most, until it is done", size(plan.disk_bytes)),
        ("memory, measured", size(plan.memory_bytes)),
    ]
    print_plan(plan, rows, as_json=as_json)


def _print(run: "Run") -> None:
    from curate.amounts import counted
    from curate.cli._output import SHOWN, print_alarm, print_rows, stderr, stdout
    from curate.scores.best import best_rows

    shown = {"score": "score", "score_adjoint": "adjoint"} | SHOWN
    print_rows([*shown.values()], best_rows(run, [*shown], 5))
    smooth = ", ".join(f"{a:.2f}" for a in run.record.smoothness) or "not measured"
    stdout.print(f"smoothness of the training: {smooth} (1 is smooth)", soft_wrap=True)
    if check := run.record.check:
        stdout.print(check.sentence, soft_wrap=True, markup=False)
        if check.advice:
            print_alarm(check.advice)
    for parent, moved in run.record.details.moved.items():
        rank = "none" if moved.spearman is None else f"{moved.spearman:.2f}"
        stdout.print(
            f"against {parent}: rank correlation {rank} over {moved.documents:,} documents;"
            f" {moved.stayed:,} of its top tenth ({moved.top_tenth:,}) stayed there",
            soft_wrap=True,
            markup=False,
        )
    totals = run.totals or {}
    stdout.print(f"{counted(totals['documents'], 'document')} rescored in {run.address}", soft_wrap=True)
    for reason, number in totals["skipped"].items():
        stdout.print(f"{counted(number, 'row')} set aside: {reason}", soft_wrap=True)
    path = shlex.quote(run.address)
    stderr.print(f"next: curate select {path} --top 20%   or   curate sql {path}", soft_wrap=True, style="dim")
