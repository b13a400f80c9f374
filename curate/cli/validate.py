"""`curate validate`: compare scores with what retraining does."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._settings import continue_option, executor_options, given, place_of, settings_options
from curate.proof.settings import ValidateSettings
from curate.settings import build

if TYPE_CHECKING:
    from curate.proof.validate import ValidatePlan, Validation


@click.command(short_help="Measure by retraining how well scores predict what training does.")
@click.argument("runs", nargs=-1, type=click.Path())
@settings_options(ValidateSettings)
@continue_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the figures.  [default: RUN-validation]")
@click.option("--plot", type=click.Path(path_type=Path), help="File of the plot.  [default: OUT/predicted.png]")
@executor_options
@click.option("--dry-run", is_flag=True, help="Estimate the cost from measured steps, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    runs: tuple[str, ...],
    out: Path | None,
    plot: Path | None,
    workers: str,
    executor: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Retrain without parts of the data, and see how well the methods of RUNS (default: the latest) predicted it.

    \b
    curate validate runs/x --dry-run                           # what will it take?
    curate validate runs/x runs/y runs/bm25 --set learning_rate=1e-3
    curate validate runs/x --subsets 200 --documents 2048 --queries 100 --config examples/magic/finetune.yaml
    curate validate runs/x --drop 50% --repeats 5 --magic
    curate validate runs/x --unit token --magic                # leave out tokens, beside documents
    curate validate runs/x --workers 8                         # eight retrainings at a time
    curate validate --continue runs/x-validation               # go on after a stop

    The proxy is trained on a sample of the documents again and again, each time without some of them; a good method's
    scores say beforehand by how much that raises the target's loss.

    LDS: per query, the rank correlation between the summed scores of what was left out and the rise of the query's
    loss; the mean over queries, with a 95 % interval over subsets and queries. QLD: the rise after leaving out the
    query's best documents, beside random ones. With --unit token the loss of tokens is left out, which are still read,
    and the rise without as large a share of the best documents stands beside. Every run's method scores the sample
    once more, by its own settings, with every query as a target of its own. Retrainings are kept in a bank by all that
    decides them: a killed command goes on, and further runs are judged by the same bank.
    """
    from curate.cli._output import RichReporter, loading, planned, print_json
    from curate.cli._runs import chosen_run

    out = place_of(ctx, out, *runs)
    values = given(ctx, ValidateSettings, options) | ({"runs": runs} if runs else {})
    if not values.get("runs"):
        values["runs"] = chosen_run(None).address
    settings = build(ValidateSettings, values, owner="A validation")
    with loading():
        from curate.pipeline import validate
    if dry_run:
        _print_plan(planned(validate.plan, settings, workers=workers, executor=executor), as_json)
        return
    with RichReporter() as reporter:
        validation = validate.run(settings, out, plot=plot, workers=workers, executor=executor, reporter=reporter)
    print_json(validation.record()) if as_json else _print(validation)


def _print_plan(plan: "ValidatePlan", as_json: bool) -> None:
    from curate.amounts import duration, size
    from curate.cli._output import print_plan

    rows: list[tuple[str, Any]] = [
        ("documents", plan.documents),
        ("queries", plan.queries),
        ("steps of each retraining", plan.steps),
        ("retrainings", plan.retrainings),
        ("of these there already", plan.there),
        ("seconds of each, from measured steps", plan.seconds_each),
        ("workers", plan.workers),
        ("time, about", duration(plan.elapsed_seconds)),
        ("time of one worker, about", duration(plan.seconds)),
        ("disk", size(plan.disk_bytes)),
        ("memory, measured", size(plan.memory_bytes)),
    ]
    print_plan(plan, rows, as_json=as_json)


def _print(validation: "Validation") -> None:
    from curate.cli._output import print_table, stdout

    rows = []
    for j in validation.judged:
        row = [Path(j.run).name, j.method, f"{j.lds.mean:.3f}", f"{j.lds.low:.3f} … {j.lds.high:.3f}"]
        if j.qld is not None:
            row += [f"{j.qld.mean:+.4f}", f"{j.qld.control:+.4f}", f"{j.qld.low:+.4f} … {j.qld.high:+.4f}"]
        row += [""] * (7 - len(row))
        rows.append(row if j.best_documents is None else [*row, f"{j.best_documents:+.4f}"])
    columns = ["run", "method", "LDS", "95 %", "QLD", "random", "QLD - random, 95 %"]
    print_table(columns + ["QLD, documents"] * any(j.best_documents is not None for j in validation.judged), rows)
    stdout.print(
        f"{validation.subsets} retrainings without {validation.dropped:,} of {validation.units:,} {validation.unit}s,"
        f" {validation.queries} queries; QLD in nats per token. Bank: {validation.bank}",
        soft_wrap=True,
        markup=False,
    )
    for j in validation.judged:
        if j.lds.undefined:
            text = f"{Path(j.run).name}: {j.lds.undefined} queries ranked nothing and count as 0"
            stdout.print(text, soft_wrap=True, markup=False)
