"""`curate score`: the influence of every document of a pool on a target."""

from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate import methods
from curate.cli._config import config_option_beside, settings_beside
from curate.cli._fields import fields_options, make_fields
from curate.errors import SettingsError
from curate.training.recipe import NAMES

if TYPE_CHECKING:
    from curate.pipeline.estimate import ScorePlan
    from curate.reports.report import Judged
    from curate.scores.run import Run


@click.command(context_settings={"show_default": True})
@click.option("--target", multiple=True, help="Validation set: file, folder or address; repeatable.")
@click.option("--pool", multiple=True, help="Candidates: folder, glob, file or address; repeatable.")
@click.option("--store", metavar="STORE", help="Score from a folder of `curate index`, instead of from a pool.")
@click.option("--out", type=click.Path(path_type=Path), show_default="runs/TARGET-METHOD", help="The run's folder.")
@click.option(
    "--fit-from",
    metavar="RUN",
    help="Fit nothing: take a run's settings, curvature, directions, and its scores of unchanged shards.",
)
@click.option("--method", default="trackstar", help=f"{', '.join(methods.names())}.")
@click.option("--model", default="HuggingFaceTB/SmolLM2-135M", help="Proxy: a folder or a hub id.")
@click.option("--revision", help="Revision of a model on the hub.")
@click.option(
    "--modules", multiple=True, show_default="all linear layers", help="Glob over layers to track; repeatable."
)
@click.option("--dtype", default="float32", help="float32, bfloat16 or float64.")
@click.option("--device", default="auto", help="auto, cpu, cuda or mps.")
@click.option("--group-by", help="Column of the target: each of its values gets a score column of its own.")
@click.option("--holdout", default="0", metavar="SHARE", help="Rows of every group that scoring never sees: 30%, 0.3.")
@click.option("--against", multiple=True, help="Control set, whose mean gradient is subtracted; repeatable.")
@click.option("--per-token", is_flag=True, help="Write every token's part of the score, too (SQL view `tokens`).")
@click.option("--normalize", show_default="the method's", help="Divide scores by: none, length (tokens), unit (norm).")
@click.option("--damping", type=float, show_default="the method's", help="Share of the curvature's mean eigenvalue.")
@click.option("--fisher", show_default="sampled", help="Curvature's labels: 'sampled' from the model, or 'empirical'.")
@click.option("--refine", show_default="none", help="Improve the direction of ekfac: none, cg or astra.")
@click.option("--recipe", type=click.Path(exists=True, dir_okay=False), help="Of magic: YAML file of its training run.")
@click.option(
    "--runs", type=int, show_default="the method's", help="Of magic: training runs whose scores are averaged."
)
@click.option("--accept-rough", is_flag=True, help="Of magic: go on though its training run is not smooth.")
@click.option("--dim", type=int, show_default="the method's", help="Projection dimensions per side and layer.")
@click.option(
    "--rank", type=int, show_default="the method's", help="Of each layer of a document's projection; 0: all of it."
)
@click.option(
    "--set", "-s", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the method; repeatable."
)
@click.option("--background", type=int, show_default="the method's", help="Documents of the pool to fit curvature on.")
@click.option("--context", type=int, show_default="the model's, at most 2048", help="Tokens of a sequence.")
@click.option("--long", default="truncate", help="Longer documents: 'truncate', or 'windows' whose scores add up.")
@click.option("--batch-tokens", type=int, show_default="by device", help="Tokens of one batch.")
@click.option("--part-documents", type=int, default=1024, help="Documents of one part, the most that a kill can lose.")
@click.option("--seed", type=int, default=0, help="Of the background sample and the projections.")
@click.option("--workers", type=int, default=1, help="Processes that share the pool; scores are the same.")
@click.option("--dry-run", is_flag=True, help="Measure a small part, say what all will take, and write nothing.")
@fields_options
@click.option("--target-text-column", help="Column of the target's text, where it differs from the pool's.")
@config_option_beside(NAMES)
@click.option("--json", "as_json", is_flag=True, help="Print the run and its totals as JSON.")
@click.pass_context
def command(
    ctx: click.Context, /, out: Path | None, workers: int, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Score every document of a pool by its influence on a target.

    \b
    curate score --target val.jsonl --pool pile/
    curate score --target val.jsonl --pool 'shards/*.jsonl.zst' --model proxy/ --out runs/x
    curate score --target val.jsonl --pool pile/ --method ekfac --refine cg --background 1000
    curate score --target tasks.jsonl --group-by task --pool pile/ --method ekfac --normalize unit
    curate score --target val.jsonl --holdout 30% --pool pile/
    curate score --target val.jsonl --against web.jsonl --pool pile/ --method ekfac --per-token
    curate score --target val.jsonl --pool pile/ --method magic --background 4096 --recipe finetune.yaml
    curate score --target val.jsonl --pool pile/ --method magic --dry-run
    curate score --target val.jsonl --pool pile/ --method bm25 --workers 8
    curate score --target val.jsonl --store stores/pile
    curate score --config score.yaml
    curate score --fit-from runs/x --pool grown-pile/ --out runs/x-grown

    score > 0: more weight on the document lowers the target's loss. The run's folder holds one Parquet row per
    document (`curate sql`), goes into `curate select`, and continues where it stopped when the same command is
    given again. What its figures say of the ranking is printed at the end, and at length by `curate report`.
    """
    from curate.cli._output import RichReporter, print_alarm
    from curate.cli._trust import judged, short
    from curate.pipeline import verbs as pipeline
    from curate.scores.arithmetic import arithmetic_warning

    settings = _settings(ctx, options)
    with RichReporter() as reporter:
        if dry_run:
            _print_plan(pipeline.plan_score(settings, reporter=reporter), as_json)
            return
        run = pipeline.score(settings, out, workers=workers, reporter=reporter)
        trust = judged(run, reporter)
    if as_json:
        from curate.cli._output import print_json

        arithmetic = run.details.get("arithmetic")
        found = {"run": str(run.path), "columns": run.details["columns"], "arithmetic": arithmetic}
        print_json({**found, **(run.totals or {}), "trust": short(trust)})
    else:
        _print(run, trust)
    if warning := arithmetic_warning(run.details):
        print_alarm(warning)


def _settings(ctx: click.Context, options: dict[str, Any]) -> Any:
    from curate.scores.run import Run
    from curate.settings import ScoreSettings

    given = {n for n in options if ctx.get_parameter_source(n) is not click.core.ParameterSource.DEFAULT}
    method_settings = settings_beside(ctx) | _method_settings(options)
    fields = make_fields(options)
    column = options.pop("target_text_column")
    target_fields = replace(fields, text=column) if column else None
    if not options["fit_from"]:
        has_seed = "seed" in {f.name for f in fields_of(methods.get(options["method"]).Settings)}
        if has_seed and ("seed" in given or not options["store"]):  # else the store's own
            method_settings.setdefault("seed", options["seed"])
        return ScoreSettings(fields=fields, target_fields=target_fields, method_settings=method_settings, **options)
    theirs = replace(ScoreSettings.from_record(Run.open(options["fit_from"]).settings), store=None)
    changed = {n: options[n] for n in given & options.keys()}
    if any(n.endswith("_column") for n in given):
        changed |= {"fields": fields, "target_fields": target_fields or theirs.target_fields or theirs.fields}
    return replace(theirs, **changed, method_settings={**theirs.method_settings, **method_settings})


def _method_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Take the method's own settings out of the options: those set by name, and those with a flag."""
    found: dict[str, Any] = dict(_pair(s) for s in options.pop("settings"))
    for name in ("dim", "rank", "normalize", "damping", "fisher", "refine", "recipe", "runs", "accept_rough"):
        value = options.pop(name)
        if value is not None and value is not False:  # 0 was given
            found[name] = value
    return found


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--set {text}: expected NAME=VALUE.")
    return name.strip(), value.strip()


def _print_plan(plan: "ScorePlan", as_json: bool) -> None:
    from dataclasses import asdict

    from curate.cli._output import print_json, print_table

    if as_json:
        print_json(asdict(plan))
        return
    rows: list[tuple[str, Any]] = [
        ("documents to score", plan.documents),
        ("their tokens, about", plan.tokens),
        ("documents a second, measured", plan.documents_per_second),
        ("seconds to prepare, about", plan.prepare_seconds),
        ("seconds to score, about", plan.scoring_seconds),
        ("GB kept for later runs", plan.kept_bytes / 1e9),
        ("GB of memory, measured on the small part", plan.memory_bytes / 1e9),
    ]
    if (training := plan.training) is not None:
        rows += [
            ("training runs", training.runs),
            ("steps of each", training.steps),
            ("tokens of each, about", training.tokens),
            ("seconds of a step, measured", training.step_seconds),
            ("seconds of a step back, measured", training.step_back_seconds),
            ("GB on disk at most, until then", training.disk_bytes / 1e9),
        ]
    print_table(["scoring", ""], rows)


def _print(run: "Run", trust: "Judged | None") -> None:
    import polars as pl

    from curate.cli._output import print_table, stderr, stdout
    from curate.cli._trust import print_trust

    totals = run.totals or {}
    shown = run.scores().select("score", "n_tokens", "shard", "row", "preview")
    ends = [shown.top_k(5, by="score").collect(), shown.bottom_k(2, by="score").collect()]
    rows = pl.concat(ends).unique(["shard", "row"]).sort("score", descending=True)  # a small pool's ends overlap
    print_table(["score", "tokens", "shard", "row", "text"], [(*r[:4], r[4][:70]) for r in rows.rows()])
    stdout.print(f"{totals['documents']:,} documents, {totals['tokens']:,} tokens scored in {run.path}", soft_wrap=True)
    for reason, count in totals["skipped"].items():
        stdout.print(f"{count:,} rows set aside: {reason}", soft_wrap=True)
    if trust:
        print_trust(trust)
    next_ = f"next: curate report {run.path}   or   curate select {run.path} --top 5%   or   curate sql {run.path}"
    stderr.print(next_, soft_wrap=True, style="dim")
