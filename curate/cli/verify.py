"""`curate verify`: measure whether training on a selection helps."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curate.cli._settings import continue_option, executor_options, given, place_of, settings_options
from curate.proof.settings import VerifySettings
from curate.settings import build

if TYPE_CHECKING:
    from curate.proof.cost import VerifyPlan
    from curate.proof.verdict import Verification


@click.command(short_help="Measure by training whether a selection beats random documents.")
@click.argument("selection", required=False, type=click.Path())
@settings_options(VerifySettings)
@continue_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder of figures.  [default: SELECTION-verified]")
@click.option("--plot", type=click.Path(path_type=Path), help="File of the curves.  [default: OUT/curves.png]")
@executor_options
@click.option("--dry-run", is_flag=True, help="Estimate time, disk and memory from one measured step, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    selection: str | None,
    out: Path | None,
    plot: Path | None,
    workers: str,
    executor: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train the proxy on SELECTION, on random documents and on others' choices, and compare the target's loss.

    \b
    curate verify selected/ --dry-run                          # what will it take?
    curate verify selected/                                    # on rows that `score --holdout` kept aside
    curate verify selected/ --target heldout.jsonl --pool pile/
    curate verify selected/ --target heldout.jsonl --set learning_rate=1e-3 --set batch_size=16
    curate verify selected/ --target heldout.jsonl --sweep 1%,5%,20% --tokens 2M
    curate verify selected/ --target heldout.jsonl --other web.jsonl --json
    curate verify selected/ --target heldout.jsonl --workers 4 # four trainings at a time
    curate verify --continue selected-verified                 # go on after a stop

    An arm is one choice of documents to train on. Every arm starts from the same proxy and trains by the same recipe on
    equal tokens, in batches of equal tokens: the selection; random documents; the best by BM25 and by embeddings,
    as many tokens as the selection has; shares of a sweep. The arm `all` is one random pass over the pool, cut at
    four times the others' tokens. Rows of the target that took part in scoring are refused; documents that hold a
    held-out row are left out of every arm. Finished arms are kept: a killed command goes on with the next one, and
    verifications of other selections of the run take those that they have in common. Below 30 steps there is no
    verdict; a selection of fewer tokens than these take is passed over up to four times, unless --tokens is given.
    Beside a selection of tokens (`curate select --unit token`) there are two arms more: as many random tokens of each
    of its documents, and the best documents; equal are the tokens that carry loss, and all that are read stand beside.
    """
    from curate.cli._output import RichReporter, loading, planned, print_json

    out = place_of(ctx, out, selection)
    values = given(ctx, VerifySettings, options)
    if selection is not None:
        values["selection"] = selection
    if "selection" not in values:
        raise click.UsageError("SELECTION is missing: the folder that `curate select` wrote, or --continue FOLDER.")
    settings = build(VerifySettings, values, owner="A verification")
    with loading():
        from curate.pipeline import verify
    if dry_run:
        _print_plan(planned(verify.plan, settings, out), as_json)
        return
    with RichReporter() as reporter:
        verification = verify.run(settings, out, plot=plot, workers=workers, executor=executor, reporter=reporter)
    print_json(verification.record()) if as_json else _print(verification, plot)


def _print_plan(plan: "VerifyPlan", as_json: bool) -> None:
    from curate.amounts import duration, size
    from curate.cli._output import print_plan

    rows: list[tuple[str, Any]] = [
        ("arms", plan.arms),
        ("trainings", plan.trainings),
        ("of these there already", plan.there),
        ("tokens of each, but for `all`", plan.tokens),
        ("steps of each, but for `all`", plan.steps),
        ("steps of the arm `all`", plan.all_steps),
        ("baselines that must score the pool first", ", ".join(plan.to_score) or "none"),
        ("seconds of a step, measured", plan.step_seconds),
        ("seconds of measuring the losses once", plan.loss_seconds),
        ("time, about", duration(plan.seconds)),
        ("disk, about", size(plan.disk_bytes)),
        ("memory, measured", size(plan.memory_bytes)),
    ]
    print_plan(plan, rows, as_json=as_json)


def _print(verification: "Verification", plot: Path | None) -> None:
    from curate.cli._output import print_table, stdout
    from curate.folders.local import open_folder

    def shown(value: float, spread: float | None) -> str:
        return f"{value:.4f}" if spread is None else f"{value:.4f} ± {spread:.4f}"

    of_tokens = verification.is_of_tokens
    rows: list[tuple[Any, ...]] = [
        (
            "untrained",
            0,
            *[0] * of_tokens,
            "",
            f"{verification.untrained['target']:.4f}",
            f"{verification.untrained['other']:.4f}",
        )
    ]
    for r in verification.rows():
        target, other = (shown(r[kind], r[f"{kind}_spread"]) for kind in ("target", "other"))
        read = [r["read_tokens"]] if of_tokens else []
        rows.append((r["arm"], r["tokens"], *read, f"{r['epochs']:.2f}", target, other))
    print_table(
        [
            "arm",
            "tokens",
            *["of all read"] * of_tokens,
            "epochs",
            f"target ({verification.held_out} rows)",
            f"other ({verification.others} rows)",
        ],
        rows,
    )
    stdout.print("Losses in nats per token, ± the standard deviation over seeds.", soft_wrap=True)
    stdout.print(verification.sentence, soft_wrap=True, markup=False, style="bold")
    if (interval := verification.verdict.interval) is not None:
        gained = f"{verification.verdict.difference:+.4f}, 95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}"
        seeds = "and seeds" if len(verification.outcomes[0].curves) > 1 else "alone, of one seed"
        stdout.print(f"Random's loss less the selection's: {gained} over held-out rows {seeds}.", soft_wrap=True)
    if (share := verification.best_share()) is not None:
        alike = f"; no clear difference to {', '.join(share['alike'])}" if share["alike"] else ""
        stdout.print(f"Of the sweep, {share['best']} ends lowest{alike}.", soft_wrap=True, markup=False)
    curves = plot or open_folder(verification.out).child("curves.png").address
    stdout.print(f"Learning curves: {curves}", soft_wrap=True, markup=False)
