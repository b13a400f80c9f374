"""`curate cascade`: score a sample, learn from it, predict a whole pool, and score its predicted best exactly."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._methods import MethodCommand
from curate.cli._settings import continue_option, executor_options, format_option, given, place_of, settings_options
from curate.pipeline.settings import CascadeSettings

if TYPE_CHECKING:
    from curate.pipeline.cascade import Cascade, CascadePlan


@click.command(cls=MethodCommand, short_help="Score a sample, predict the pool from it, score the predicted best.")
@settings_options(CascadeSettings)
@continue_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="The last run's folder.  [default: runs/TARGET-METHOD-cascade]"
)
@click.option("--select", "select_into", type=click.Path(), metavar="FOLDER", help="Write the best --top as a dataset.")
@format_option
@click.option("--overwrite", is_flag=True, help="Replace an earlier selection in --select.")
@executor_options
@click.option("--strict", is_flag=True, help="A damaged shard is an error, once all others are done.")
@click.option("--dry-run", is_flag=True, help="Measure a small part, tell what the stages take, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the runs and what was expected as JSON.")
@click.pass_context
def command(ctx: click.Context, /, out: Path | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Find a pool's best documents without scoring all of them.

    A sample is scored by --method; a student learns these scores and predicts all others by reading the pool; the
    predicted best are scored by --method, too. OUT is their run, so that `curate select OUT --top 5%` means 5 % of the
    pool; OUT/teacher and OUT/predicted are those of the sample and of all predictions.

    \b
    curate cascade --target val.jsonl --pool pile/ --method magic --top 5% --dry-run       # what will it take?
    curate cascade --target val.jsonl --pool pile/ --method magic --top 5% --out runs/x
    curate cascade --target val.jsonl --pool pile/ --method ekfac --recall 95% --student auto --out runs/x
    curate cascade --target tasks.jsonl --group-by task --pool pile/ --out runs/x --select selected
    curate cascade --continue runs/x                                                       # go on after a stop

    Before the last stage it says which share of the true best it expects to keep, by cross-validation within the
    sample: over all documents, and within sources. With --recall it takes as many documents as that needs.
    """
    from curate.cli._output import RichReporter, planned
    from curate.pipeline import cascade

    out = place_of(ctx, out)
    names = ("workers", "executor", "strict", "select_into", "format", "overwrite")
    how = {name: options.pop(name) for name in names}
    settings = CascadeSettings.of(given(ctx, CascadeSettings, options))
    if dry_run:
        _print_plan(planned(cascade.plan, settings), as_json)
        return
    with RichReporter() as reporter:
        _print(cascade.run(settings, out, **how, reporter=reporter), settings, as_json)


def _print_plan(plan: "CascadePlan", as_json: bool) -> None:
    from curate.amounts import duration, portion_text
    from curate.cli._output import print_plan

    exact = "chosen by --recall once the student has learned"
    rows: list[tuple[str, Any]] = [
        ("documents of the pool, about", plan.rows),
        ("time to prepare the method, about", duration(plan.prepare_seconds)),
        ("1. documents of the sample, about", plan.sample),
        ("   time to score them, about", duration(plan.sample_seconds)),
        ("2. student", plan.student),
        ("   time to read the pool, about", duration(plan.predict_seconds)),
        ("3. predicted best that are scored", exact if plan.keep is None else portion_text(plan.keep)),
    ]
    if plan.exact is not None and plan.exact_seconds is not None:
        rows += [
            ("   documents, about", plan.exact),
            ("   time to score them, about", duration(plan.exact_seconds)),
        ]
    print_plan(plan, [*rows, ("time to score every document, about", duration(plan.full_seconds))], as_json=as_json)


def _print(cascade: "Cascade", settings: CascadeSettings, as_json: bool) -> None:
    from dataclasses import asdict

    from curate.amounts import counted, portion_text
    from curate.cli._output import SHOWN, print_json, print_rows, print_table, stderr, stdout
    from curate.reports.writing import percent
    from curate.scores.best import best_rows

    exact, expected, selection = cascade.exact, cascade.expected, cascade.selection
    if as_json:
        runs = {"run": exact.address, "teacher": cascade.teacher.address, "predicted": cascade.predicted.address}
        chosen = None if selection is None else selection.record() | {"out": str(selection.out)}
        print_json({**runs, **(exact.totals or {}), "expected": asdict(expected), "selection": chosen})
        return
    print_rows([*SHOWN.values()], best_rows(exact, [*SHOWN], 5))
    print_table(
        ("column", f"of its best {portion_text(settings.top)} kept", "at least", "within sources"),
        [(column, *map(percent, (k.recall, k.at_least, k.within))) for column, k in expected.kept.items()],
        title="expected by cross-validation",
    )
    documents = (exact.totals or {})["documents"]
    stdout.print(
        f"{documents:,} of {expected.of:,} documents scored in {exact.address}: the best of its folder predicted",
        soft_wrap=True,
    )
    path = shlex.quote(exact.address)
    if selection is not None:
        stdout.print(f"{counted(selection.documents, 'document')} written to {selection.out}", soft_wrap=True)
    else:
        top = portion_text(settings.top).replace(",", "")
        stderr.print(f"next: curate select {path} --top {top}   or   curate report {path}", soft_wrap=True, style="dim")
