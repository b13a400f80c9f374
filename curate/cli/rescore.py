"""`curate rescore`: a run's best documents once more, by differentiating through training on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._config import config_option_beside, settings_beside
from curate.errors import SettingsError
from curate.training.recipe import NAMES

if TYPE_CHECKING:
    from curate.rescoring.plan import RescorePlan
    from curate.rescoring.settings import RescoreSettings
    from curate.scores.run import Run


@click.command(context_settings={"show_default": True})
@click.argument("run", required=False, type=click.Path())
@click.option("--from", "more", multiple=True, type=click.Path(), help="A further run whose best count; repeatable.")
@click.option("--method", default="magic", help="magic.")
@click.option("--shortlist", type=int, default=5000, help="The best documents of each run that are rescored.")
@click.option("--background", type=int, show_default="as many as the shortlist", help="Other documents to train on.")
@click.option("--repeats", type=int, default=1, help="Trainings in different orders to average over.")
@click.option("--recipe", type=click.Path(exists=True, dir_okay=False), help="YAML file of the training run.")
@click.option("--set", "-s", "given", multiple=True, metavar="NAME=VALUE", help="A setting of the recipe; repeatable.")
@click.option("--snapshot", type=float, default=0.5, help="Where in the run the adjoint is taken, as a share of it.")
@click.option("--model", show_default="the run's", help="Proxy to train: a folder or a hub id.")
@click.option("--pool", multiple=True, show_default="the run's", help="Where the pool is now, if it has moved.")
@click.option("--device", show_default="the run's", help="auto, cpu, cuda or mps.")
@click.option("--batch-tokens", type=int, show_default="by device", help="Tokens of one micro-batch.")
@click.option("--per-token", is_flag=True, help="Write every token's part of the score, too (SQL view `tokens`).")
@click.option("--checkpoints", default="sqrt", help="States kept for the way back: sqrt, all or log.")
@click.option("--recompute", is_flag=True, help="Keep no gradients on disk: less room, a quarter more time.")
@click.option("--seed", type=int, default=0, help="Of the background sample; the recipe has its own.")
@click.option("--accept-rough", is_flag=True, help="Go on though the training run is not smooth.")
@click.option("--out", type=click.Path(path_type=Path), show_default="RUN-magic", help="The rescored run's folder.")
@click.option("--dry-run", is_flag=True, help="Say what it will take, from one step that is measured, and stop.")
@config_option_beside(NAMES)
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON.")
@click.pass_context
def command(ctx: click.Context, /, out: Path | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Rescore the best documents of RUN (default: the latest) by differentiating through training on them.

    \b
    curate rescore runs/x --shortlist 5000 --dry-run
    curate rescore runs/x --shortlist 5000 --recipe examples/magic/finetune.yaml --out runs/x-magic
    curate rescore runs/x --from runs/y --repeats 3 --set learning_rate=5e-5 --set epochs=3
    curate rescore runs/x --config examples/magic/finetune.yaml

    The proxy is trained on the shortlist and as many other documents of the pool; a document's score is how much
    more weight on it during that training would have lowered the target's loss afterwards. The result is a run of
    the shortlist alone: `score` from its own training, `score_adjoint` from a step in its middle, `score_spread`
    over the repeats. --config takes options and the recipe's settings side by side.
    """
    from curate.cli._output import RichReporter, print_json
    from curate.pipeline import verbs as pipeline

    settings = _settings(options, settings_beside(ctx))
    with RichReporter() as reporter:
        if dry_run:
            plan = pipeline.plan_rescore(settings, reporter=reporter)
            _print_plan(plan, as_json)
            return
        made = pipeline.rescore(settings, out, reporter=reporter)
    if as_json:
        print_json({"run": str(made.path), **made.details[settings.method], "moved": made.details["moved"]})
    else:
        _print(made)


def _settings(options: dict[str, Any], given: dict[str, Any]) -> "RescoreSettings":
    from curate.cli._runs import chosen_run
    from curate.rescoring.settings import RescoreSettings
    from curate.training.recipe import Recipe

    for text in options.pop("given"):
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set {text}: expected NAME=VALUE.")
        given[name.strip()] = value.strip()
    if (file := options.pop("recipe")) is not None:
        given["recipe"] = file
    first = str(chosen_run(options.pop("run")).path)
    runs = (first, *options.pop("more"))
    kept = not options.pop("recompute")
    return RescoreSettings(runs=runs, recipe=Recipe.gathered(given), keep_gradients=kept, **options)


def _print_plan(plan: "RescorePlan", as_json: bool) -> None:
    from dataclasses import asdict

    from curate.cli._output import print_json, print_table

    if as_json:
        print_json(asdict(plan))
        return
    rows: list[tuple[str, Any]] = [
        ("documents of the shortlist", plan.shortlist),
        ("documents beside them", plan.background),
        ("trainings", plan.repeats),
        ("steps of each", plan.steps),
        ("tokens of each", plan.tokens),
        ("ways back of each", plan.groups),
        ("seconds of a step, measured", plan.step_seconds),
        ("seconds of a step back, measured", plan.step_back_seconds),
        ("seconds in all, estimated", plan.seconds),
        ("GB on disk at most", plan.disk_bytes / 1e9),
        ("GB of memory, measured", plan.memory_bytes / 1e9),
    ]
    print_table(["rescoring", ""], rows)


def _print(run: "Run") -> None:
    from curate.cli._output import print_table, stderr, stdout

    shown = run.scores().select("score", "score_adjoint", "n_tokens", "shard", "row", "preview").top_k(5, by="score")
    rows = [(*r[:5], r[5][:70]) for r in shown.collect().sort("score", descending=True).rows()]
    print_table(["score", "adjoint", "tokens", "shard", "row", "text"], rows)
    smooth = ", ".join(f"{a:.2f}" for a in run.details[run.settings["method"]]["smoothness"])
    stdout.print(f"smoothness of the training: {smooth} (1 is smooth)", soft_wrap=True)
    for parent, moved in run.details["moved"].items():
        rank = "none" if moved["spearman"] is None else f"{moved['spearman']:.2f}"
        stdout.print(
            f"against {parent}: rank correlation {rank} over {moved['documents']:,} documents;"
            f" {moved['stayed']:,} of its top tenth ({moved['top_tenth']:,}) stayed there",
            soft_wrap=True,
            markup=False,
        )
    totals = run.totals or {}
    stdout.print(f"{totals['documents']:,} documents rescored in {run.path}", soft_wrap=True)
    for reason, number in totals["skipped"].items():
        stdout.print(f"{number:,} rows set aside: {reason}", soft_wrap=True)
    stderr.print(f"next: curate select {run.path} --top 20%   or   curate sql {run.path}", soft_wrap=True, style="dim")
