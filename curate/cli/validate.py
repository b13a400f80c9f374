"""`curate validate`: does a score predict what retraining does?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._config import config_option_beside, settings_beside
from curate.cli._recipes import make_recipe, parse_share
from curate.training.recipe import NAMES

if TYPE_CHECKING:
    from curate.proof.validate import ValidatePlan, Validation


@click.command(context_settings={"show_default": True})
@click.argument("runs", nargs=-1, type=click.Path())
@click.option("--documents", type=int, default=1024, help="Documents to train on: a sample of what all runs scored.")
@click.option("--queries", type=int, default=50, help="Rows of the target, each a query of its own.")
@click.option("--subsets", type=int, default=100, help="Retrainings, each without a random share of the documents.")
@click.option("--drop", default="1%", help="That share: 1% or 0.01.")
@click.option("--removals", type=int, default=10, help="Queries whose best documents a retraining leaves out (QLD).")
@click.option("--repeats", type=int, default=1, help="Orders of the documents to average every change over.")
@click.option("--magic", is_flag=True, help="Judge MAGIC in the bank's own training, too: a walk back per query.")
@click.option("--recipe", type=click.Path(exists=True, dir_okay=False), help="YAML file of the training run.")
@click.option("--set", "-s", "given", multiple=True, metavar="NAME=VALUE", help="A setting of the recipe; repeatable.")
@click.option("--model", show_default="the first run's", help="Proxy to retrain: a folder or a hub id.")
@click.option("--pool", multiple=True, show_default="the runs'", help="Where the pool is now, if it has moved.")
@click.option("--banks", type=click.Path(), show_default="banks/ beside the first run", help="Folder of the banks.")
@click.option("--device", "devices", multiple=True, show_default="all GPUs, else the run's", help="One process each.")
@click.option("--batch-tokens", type=int, show_default="by device", help="Tokens of one micro-batch.")
@click.option("--resamples", type=int, default=1000, help="Of the bootstrap behind the intervals.")
@click.option("--seed", type=int, default=0, help="Of the sample, the queries and the subsets; the recipe has its own.")
@click.option("--out", type=click.Path(path_type=Path), show_default="RUN-validation", help="Folder of the figures.")
@click.option("--plot", type=click.Path(path_type=Path), show_default="OUT/predicted.png", help="File of the plot.")
@click.option("--dry-run", is_flag=True, help="Say what it will take, from one step that is measured, and stop.")
@config_option_beside(NAMES)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def command(ctx: click.Context, /, out: Path | None, plot: Path | None, dry_run: bool, as_json: bool, **options: Any):
    """Retrain without parts of the data, and see how well the methods of RUNS (default: the latest) predicted it.

    \b
    curate validate runs/x --dry-run
    curate validate runs/x runs/y runs/bm25 --set learning_rate=1e-3
    curate validate runs/x --subsets 200 --documents 2048 --queries 100 --config examples/magic/finetune.yaml
    curate validate runs/x --drop 50% --repeats 5 --magic

    LDS: per query, the rank correlation between the summed scores of what was left out and the rise of the query's
    loss; the mean over queries, with a 95 % interval over subsets and queries. QLD: the rise after leaving out the
    query's best documents, beside random ones. Every run's method scores the sample once more, by its own settings,
    with every query as a target of its own. Retrainings are kept in a bank by all that decides them: a killed
    command goes on, and further runs are judged by the same bank.
    """
    from curate.cli._output import RichReporter, print_json
    from curate.cli._runs import chosen_run
    from curate.pipeline import verbs as pipeline
    from curate.proof.settings import ValidateSettings

    recipe = make_recipe(options, settings_beside(ctx))
    options["drop"] = parse_share(options["drop"], "--drop")
    runs = options.pop("runs") or (str(chosen_run(None).path),)
    settings = ValidateSettings(runs=runs, recipe=recipe, **options)
    with RichReporter() as reporter:
        if dry_run:
            _print_plan(pipeline.plan_validate(settings, reporter=reporter), as_json)
            return
        found = pipeline.validate(settings, out, plot=plot, reporter=reporter)
    print_json(found.record()) if as_json else _print(found)


def _print_plan(plan: "ValidatePlan", as_json: bool) -> None:
    from dataclasses import asdict

    from curate.cli._output import print_json, print_table

    if as_json:
        print_json(asdict(plan))
        return
    rows: list[tuple[str, Any]] = [
        ("documents", plan.documents),
        ("queries", plan.queries),
        ("steps of each retraining", plan.steps),
        ("retrainings", plan.retrainings),
        ("of these there already", plan.there),
        ("seconds of each, from a measured step", plan.seconds_each),
        ("seconds in all, estimated", plan.seconds),
    ]
    print_table(["validation", ""], rows)


def _print(found: "Validation") -> None:
    from curate.cli._output import print_table, stdout

    rows = []
    for j in found.judged:
        row = [Path(j.run).name, j.method, f"{j.lds.mean:.3f}", f"{j.lds.low:.3f} … {j.lds.high:.3f}"]
        if j.qld is not None:
            row += [f"{j.qld.mean:+.4f}", f"{j.qld.control:+.4f}", f"{j.qld.low:+.4f} … {j.qld.high:+.4f}"]
        rows.append([*row, *[""] * (7 - len(row))])
    print_table(["run", "method", "LDS", "95 %", "QLD", "random", "QLD - random, 95 %"], rows)
    stdout.print(
        f"{found.subsets} retrainings without {found.dropped:,} of {found.documents:,} documents,"
        f" {found.queries} queries; QLD in nats per token. Bank: {found.bank}",
        soft_wrap=True,
        markup=False,
    )
    for j in found.judged:
        if j.lds.undefined:
            said = f"{Path(j.run).name}: {j.lds.undefined} queries ranked nothing and count as 0"
            stdout.print(said, soft_wrap=True, markup=False)
